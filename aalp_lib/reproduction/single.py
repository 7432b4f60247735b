"""One trained network, evaluated, diagnosed or attacked: a folder that a training left, or a bundled one."""

import importlib
import math
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib.pyplot as plt
import msgspec
import torch
from PIL import Image
from torch import Tensor, nn

from aalp_lib import _checks, checkpoints, models, plots, zoo
from aalp_lib._checks import InputError
from aalp_lib.attacks import Attack, Reading
from aalp_lib.checkpoints import Description
from aalp_lib.data import Dataset, Split
from aalp_lib.engine.precision import Precision, without_tf32
from aalp_lib.evaluation import Suite, chosen_precision, evaluate as evaluated
from aalp_lib.folders import RUN
from aalp_lib.models import Classifier
from aalp_lib.reproduction import archive, escaping, machine, schema
from aalp_lib.reproduction.attack_measurements import measure_attacks
from aalp_lib.reproduction.jobs import Origin
from aalp_lib.reproduction.schema import Measurement, Record
from aalp_lib.reproduction.settings import suite_for, tier

SHEET = 10  # images on it
BUNDLED = [str(digit) for digit in range(10)]  # classes of the bundled networks


class _Method(msgspec.Struct):
    """What is said of the method."""

    name: str
    label: str


class _Noted(msgspec.Struct, forbid_unknown_fields=True):
    """What `run.json` holds; what of it goes into records is `schema.Config`."""

    method: _Method
    seed: Annotated[int, msgspec.Meta(ge=0)]
    watched: dict[str, Any] | None
    attack: dict[str, Any] | None
    recipe: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any] = {}
    steps: Annotated[int, msgspec.Meta(ge=1)] | None = None
    threads: Annotated[int, msgspec.Meta(ge=1)] | None = None


def _of_bundled(name: str) -> dict[str, Any]:
    """How a bundled network was trained, as the record of its run says."""
    data, _, row = name.partition("/")
    config = archive.records().runs[f"{data}/{data}-{row}-seed0"].config
    return {key: config[key] for key in ("method", "attack", "recipe")}


def _noted(path: Path) -> dict[str, Any]:
    """What `fit` noted; InputError names the file and the field that does not fit."""
    for kind in (schema.Config, _Noted):
        checkpoints.read_json(path, kind)
    found: dict[str, Any] = checkpoints.read_json(path)
    return found


@dataclass(frozen=True, eq=False)
class Run:
    """A trained network after the "last" or the "best" epoch, and what `fit` noted of it.

    `folder` is that of the training, none of a bundled network; `origin` is its data, which may be unknown.
    """

    folder: Path | None
    which: Literal["last", "best"]
    model: Classifier
    config: dict[str, Any]
    origin: Origin | None

    @classmethod
    def load(cls, name: str, which: Literal["last", "best"], device: torch.device, own: str | None = None) -> "Run":
        """The network in a folder, or the bundled one of that name; `own` is `module:function` that makes it.

        FileNotFoundError or InputError if something is missing or damaged.
        """
        folder = _checks.path(name)
        if not folder.is_dir():
            known = zoo.index()
            _checks.known("run", name, known, "Or name a folder that aalp train wrote.")
            if own is not None:
                raise InputError(f"{name} is a bundled network, which takes no --model")
            model = zoo.pretrained(name, which).to(device)
            config = _of_bundled(name) | {"seed": 0, "watched": None, "model": model.config}
            return cls(None, which, model, config, Origin("mnist-sample"))
        config = _noted(folder / RUN) if (folder / RUN).exists() else {}
        if config and not config.get("model") and own is None:
            raise InputError(f"{folder} holds a network of your own: say what makes it, --model module:function")
        made = own_network(own) if own else None
        model = checkpoints.load_model(folder, which, model=made).to(device)
        origin = Origin.read(folder) if (folder / "data.json").exists() else None
        return cls(folder, which, model, config or _noted(folder / RUN), origin)

    @property
    def subject(self) -> dict[str, Any]:
        """What a measurement says it was made on, but for the data."""
        return {"method": self.config["method"]["name"], "seed": self.config["seed"], "model": self.which}

    def look_at_classes(self, dataset: Dataset) -> None:
        """Warn if the classes of the images are called otherwise than those of the training, renamed folders say."""
        kept = checkpoints.read(self.folder / checkpoints.FILES[self.which]) if self.folder else None
        trained = kept.described_as(Description).classes if kept else BUNDLED
        if trained and trained != list(dataset.classes):
            here, there = (escaping.plain(", ".join(names)) for names in (dataset.classes, trained))
            warnings.warn(
                f"the network was trained on the classes {there}, and these images are of {here}, in this order: a "
                "label may mean something else",
                stacklevel=2,
            )

    def suite(self, dataset: Dataset) -> Suite:
        """Table 2's attacks; on other data than the paper's, in the ball in which the training was watched."""
        watched = self.config["watched"]
        return suite_for(dataset.name, schema.attack_of(watched, str(self.folder)) if watched else None)

    def keep(self, made: Record | Measurement, out: Path) -> Path:
        """Save what was made of this network below `out`, under a name that tells it from others; returns the path."""
        config = made.config
        if isinstance(made, Record):
            folder, data, kind = "evaluations", made.data, config["reading"]
            keys = ("evaluation_seed", "evaluation_precision", "test_images")
        else:
            folder, data, kind, keys = "measurements", made.subject["data"], made.kind, ("seed", "precision", "images")
        seed, precision, images = (config[key] for key in keys)
        said = (data, self.which, kind, f"seed{seed}", "" if precision == "float32" else precision)
        name = "-".join(filter(None, (*said, f"first{images}" if images else "")))
        return made.save(out / folder / f"{name}.json")


@without_tf32()
def evaluate(
    run: Run,
    dataset: Dataset,
    *,
    images: int | None = None,
    reading: Reading = "any",
    precision: Precision = "float32",
    batch_size: int = 500,
    seed: int = 0,
) -> Record:
    """Attack a network's first test images, or all, with Table 2's attacks; the rest is as in `aalp_lib.evaluate`.

    The record says what the precision "auto" came to.
    """
    test, began = dataset.test[:images], time.perf_counter()
    environment = machine.environment(test.images.device)
    precision = chosen_precision(run.model, test, precision, batch_size)
    report = evaluated(
        run.model, test, run.suite(dataset), seed=seed, reading=reading, precision=precision, batch_size=batch_size,
        progress=True,
    )  # fmt: skip
    settings = {
        "reading": reading,
        "evaluation_precision": precision,
        "evaluation_seed": seed,
        "test_images": images,
    }
    return Record(
        data=dataset.name,
        method=run.config["method"]["name"],
        seed=run.config["seed"],
        tier=tier(dataset.name),
        config=run.config | settings,
        environment=environment,
        accuracy={run.which: schema.accuracies(report)},
        outcomes={run.which: schema.outcomes(report)},
        history={},
        seconds={"evaluation": time.perf_counter() - began},
    )


def diagnose(run: Run, dataset: Dataset, *, images: int, source: Run | None = None, **how: Any) -> Measurement:
    """Diagnose a network, or attack it strongly, on its first test images; the rest is as in `measure_attacks`.

    `source` is another network, whose adversarial images are tried on this one.
    """
    other: dict[str, Any] = {"source": source.model, "source_subject": source.subject} if source else {}
    return measure_attacks(
        run.model, dataset.test[:images], run.suite(dataset)["pgd100"], subject=run.subject | {"data": dataset.name},
        tier=tier(dataset.name), progress=True, **other, **how,
    )  # fmt: skip


# --- a network of one's own ------------------------------------------------------------------------------------------


def is_own(model: str | None) -> bool:
    """Whether a network is named as `module:function`."""
    return model is not None and ":" in model and model.partition(":")[0] not in models.LIBRARIES


def own_network(place: str) -> Classifier:
    """What `module:function` returns, wrapped; the module lies in the working folder or is installed.

    InputError if there is no such module or function, or what it returns is no network that `wrap` can take.
    """
    module, _, name = place.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        make = getattr(importlib.import_module(module.removesuffix(".py")), name, None)
    except (ModuleNotFoundError, ValueError) as error:
        raise InputError(f"--model {place}: {error or 'no module is named'}; write module:function") from error
    except Exception as error:  # the module's own code may raise anything
        raise InputError(f"--model {place}: {module} cannot be imported: {_raised(error)}") from error
    finally:
        sys.path.remove(os.getcwd())
    if isinstance(make, nn.Module):
        raise InputError(f"--model {place} is a network itself; name a function that returns one")
    if not callable(make):
        raise InputError(f"--model {place}: {module} has no function '{name}'")
    try:
        network = make()
    except InputError:
        raise
    except Exception as error:  # nor is there a limit to what its function may raise
        raise InputError(f"--model {place}: called without arguments, {_raised(error)}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"--model {place} returns {type(network).__name__}, no nn.Module")
    return models.wrap(network)


def _raised(error: Exception) -> str:
    return f"it raised {type(error).__name__}: {error}".partition("\n")[0]


# --- adversarial images ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Adversarial:
    """Images before and after an attack, in 8 bits as files keep them.

    Attributes
    ----------
    clean : Split
    pixels : uint8 tensor (N, C, H, W)
        Rounded, but never out of the attack's ball.
    right, fooled, kept : int
        Images that the network takes for what they are; those of them that the attack turned; and still after rounding.
    logits : pair of tensors (N, K)
        Of the clean images, and of the rounded ones.
    """

    clean: Split
    pixels: Tensor
    right: int
    fooled: int
    kept: int
    logits: tuple[Tensor, Tensor]


@torch.no_grad()
def attacked(model: Classifier, split: Split, attack: Attack, *, batch_size: int = 500, seed: int = 0) -> Adversarial:
    """Attack all images of a split."""
    generator, parts = torch.Generator().manual_seed(seed), []
    levels = math.floor(attack.eps * 255 + 1e-6)
    for x, y in split.batches(batch_size):
        x_adv = attack(model, x, y, generator=generator)
        change = (x_adv - x) * 255
        change = change.round().clamp(-levels, levels) if attack.norm == "linf" else change.trunc()
        rounded = (x * 255).round() + change
        parts.append((model(x), model(x_adv), model(rounded / 255), rounded.to(torch.uint8)))
    clean, exact, rounded, pixels = (torch.cat(part) for part in zip(*parts, strict=True))
    right, turned, kept = clean.argmax(1) == split.labels, *(of.argmax(1) != split.labels for of in (exact, rounded))
    count = int(right.sum()), int((right & turned).sum()), int((right & kept).sum())
    return Adversarial(split, pixels, *count, (clean, rounded))


def save_images(made: Adversarial, classes: Sequence[str], out: Path) -> list[Path]:
    """Write each image to `out/CLASS/NUMBER.png`, by its true class, and the first few to `out/sheet.png`."""
    for number, (pixels, label) in enumerate(zip(made.pixels.cpu(), made.clean.labels.tolist(), strict=True)):
        path = out / classes[label] / f"{number:05}.png"
        path.parent.mkdir(exist_ok=True)
        try:
            Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy()).save(path)
        except OSError as error:
            raise OSError(f"{path} cannot be written ({error.strerror or error})") from error
    (clean, adversarial), first = made.logits, slice(SHEET)
    x, x_adv = made.clean.images[first] / 255, made.pixels[first] / 255
    largest = max(float((x_adv - x).abs().max()), 1 / 255)
    rows = [
        ("clean", x, clean[first]),
        (f"change × {0.5 / largest:.2g}", (0.5 + (x_adv - x) / (2 * largest)).clamp(0, 1), None),
        ("adversarial", x_adv, adversarial[first]),
    ]
    figure = plots.predictions(rows, made.clean.labels[first], [escaping.figure(name) for name in classes])
    plots.save(figure, out / "sheet.png")
    plt.close(figure)
    return [out / "sheet.png"]
