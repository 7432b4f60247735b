"""One network in a folder of its own: trained there, then evaluated and diagnosed; its records lie beside it."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from aalp_lib import checkpoints, data, methods
from aalp_lib._checks import InputError
from aalp_lib.attacks import Attack, Reading
from aalp_lib.data import Dataset
from aalp_lib.engine import distributed
from aalp_lib.engine.precision import Precision, without_tf32
from aalp_lib.evaluation import Suite, chosen_precision, evaluate as evaluated
from aalp_lib.methods import Method
from aalp_lib.models import Classifier
from aalp_lib.progress import Tell
from aalp_lib.reproduction import machine, schema
from aalp_lib.reproduction.attack_measurements import measure_attacks
from aalp_lib.reproduction.jobs import Origin
from aalp_lib.reproduction.schema import Measurement, Record
from aalp_lib.reproduction.settings import Setting, new_model, setting_for, suite_for, tier
from aalp_lib.train import RUN, History, fit

# --- training --------------------------------------------------------------------------------------------------------


def train(
    out: Path,
    origin: Origin,
    method: str,
    *,
    recipe: str = "fast",
    model: str | None = None,
    changes: Mapping[str, dict[str, Any]] | None = None,
    seed: int = 0,
    resume: bool = False,
    device: torch.device,
    begun: Callable[[Method, Dataset, Setting], None] | None = None,
    progress: bool | Tell | None = None,
) -> History:
    """Train one network into a folder, which also keeps where its data came from.

    Parameters
    ----------
    out : path
    origin : Origin
    method, recipe, model : str
        Names, as in `methods.method` and `settings.setting_for`.
    changes : mapping, optional
        As `settings.Setting.changed` takes them: {"attack": {"steps": 10}} say.
    seed : int
        Of the network's weights, of the order of samples and of all that `fit` draws.
    resume : bool
        Go on with the run that the folder holds; without it, the folder must not hold one.
    device : torch.device
        As `distributed.device` gives it; several processes load the data in turn, and one of them writes.
    begun : callable, optional
        Told what is about to be trained, once all of it is found good.
    progress
        As in `fit`.

    Raises
    ------
    InputError, OSError, Interrupted
        If a name is unknown, the folder holds a run, or one of other data, or cannot be written; and what `fit` raises.
    """
    if not resume and (out / RUN).exists():
        raise InputError(f"{out} already holds a run; --resume goes on with it")
    dataset = distributed.in_turn(lambda: loaded(origin, device))
    setting = setting_for(dataset, recipe, model).changed(**changes or {})
    row, network = methods.method(method), new_model(setting, seed).to(device)
    distributed.once(lambda: origin.save(out))
    if begun:
        begun(row, dataset, setting)
    return fit(
        network, dataset, row, setting.attack, seed=seed, recipe=setting.recipe, out=out, resume=resume,
        progress=progress,
    )  # fmt: skip


def loaded(origin: Origin, device: torch.device) -> Dataset:
    """The data from where it came from."""
    return data.load(origin.data, root=origin.root, device=device, image_size=origin.image_size)


# --- a trained network -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Run:
    """A network that a training left in a folder.

    Attributes
    ----------
    folder : Path
    which : "last" or "best"
    model : Classifier
    config : dict
        What `fit` noted of the training.
    """

    folder: Path
    which: Literal["last", "best"]
    model: Classifier
    config: dict[str, Any]

    @classmethod
    def load(cls, folder: Path, which: Literal["last", "best"], device: torch.device) -> "Run":
        """Read it back; FileNotFoundError or InputError if something is missing or damaged."""
        model = checkpoints.load_model(folder, which).to(device)
        return cls(folder, which, model, checkpoints.read_json(folder / RUN))

    @property
    def label(self) -> str:
        """The method as tables call it."""
        return str(self.config["method"]["label"])

    @property
    def subject(self) -> dict[str, Any]:
        """What a measurement says it was made on, but for the data."""
        return {"method": self.config["method"]["name"], "seed": self.config["seed"], "model": self.which}

    def origin(self, given: Mapping[str, Any]) -> Origin:
        """Where its data came from, but for what is given of "data", "root" and "image_size"."""
        return Origin(**given) if "data" in given else dataclasses.replace(Origin.read(self.folder), **given)

    def suite(self, dataset: Dataset) -> Suite:
        """Table 2's attacks; on other data than the paper's, in the ball in which the training was watched."""
        watched = self.config["watched"]
        return suite_for(dataset.name, Attack(**watched) if watched else None)

    def keep(self, made: Record | Measurement) -> Path:
        """Save what was made of this network beside it, under a name that tells it from others; returns the path."""
        name = _evaluation(made, self.which) if isinstance(made, Record) else _measurement(made, self.which)
        return made.save(self.folder / name)


def _evaluation(record: Record, which: str) -> str:
    config, images = record.config, record.config["test_images"]
    precision = _unless_float32(config["evaluation_precision"])
    first = f"-first{images}" if images else ""
    seed = config["evaluation_seed"]
    return f"evaluations/{record.data}-{which}-{config['reading']}-seed{seed}{precision}{first}.json"


def _measurement(made: Measurement, which: str) -> str:
    config, precision = made.config, _unless_float32(made.config["precision"])
    name = f"{made.subject['data']}-{which}-{made.kind}-seed{config['seed']}{precision}-first{config['images']}"
    return f"measurements/{name}.json"


def _unless_float32(precision: str) -> str:
    return f"-{precision}" if precision != "float32" else ""


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
    progress: bool | Tell | None = None,
) -> Record:
    """Attack a network's test images with Table 2's attacks.

    Parameters
    ----------
    run : Run
    dataset : Dataset
    images : int, optional
        That many from the front of the test split; by default all.
    reading, precision, batch_size, seed, progress
        As in `aalp_lib.evaluate`; the record says what the precision "auto" came to.
    """
    test, device = dataset.test[:images], dataset.test.images.device
    began, environment = time.perf_counter(), machine.environment(device)
    precision = chosen_precision(run.model, test, precision, batch_size)
    report = evaluated(
        run.model, test, run.suite(dataset), seed=seed, reading=reading, precision=precision, batch_size=batch_size,
        progress=progress,
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


def diagnose(
    run: Run,
    dataset: Dataset,
    kind: Literal["diagnosis", "strong"],
    *,
    images: int,
    source: Run | None = None,
    **how: Any,
) -> Measurement:
    """Diagnose a network, or attack it strongly, on that many test images.

    Parameters
    ----------
    run : Run
    dataset : Dataset
    kind : "diagnosis" or "strong"
    images : int
    source : Run, optional
        Another network, whose adversarial images are tried on this one.
    **how
        seed, queries, batch_size, precision and progress of `attack_measurements.measure_attacks`.
    """
    other: dict[str, Any] = {"source": source.model, "source_subject": source.subject} if source else {}
    return measure_attacks(
        run.model, dataset.test[:images], run.suite(dataset)["pgd100"], kind=kind,
        subject=run.subject | {"data": dataset.name}, tier=tier(dataset.name), **other, **how,
    )  # fmt: skip
