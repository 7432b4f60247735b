"""One network that a training left in a folder, evaluated and diagnosed; the records lie beside it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch

from aalp_lib import checkpoints
from aalp_lib.attacks import Reading
from aalp_lib.data import Dataset
from aalp_lib.engine.precision import Precision, without_tf32
from aalp_lib.evaluation import Suite, chosen_precision, evaluate as evaluated
from aalp_lib.models import Classifier
from aalp_lib.reproduction import machine, schema
from aalp_lib.reproduction.attack_measurements import measure_attacks
from aalp_lib.reproduction.schema import Measurement, Record
from aalp_lib.reproduction.settings import suite_for, tier
from aalp_lib.train import RUN


class _Method(msgspec.Struct):
    """What is said of the method."""

    name: str
    label: str


class _Noted(msgspec.Struct):
    """What is used here of `run.json`, beside what a record needs."""

    method: _Method
    seed: Annotated[int, msgspec.Meta(ge=0)]
    watched: dict[str, Any] | None


@dataclass(frozen=True, eq=False)
class Run:
    """A network that a training left in a folder, after the "last" or the "best" epoch, and what `fit` noted of it."""

    folder: Path
    which: Literal["last", "best"]
    model: Classifier
    config: dict[str, Any]

    @classmethod
    def load(cls, folder: Path, which: Literal["last", "best"], device: torch.device) -> "Run":
        """Read it back; FileNotFoundError or InputError if something is missing or damaged."""
        model = checkpoints.load_model(folder, which).to(device)
        for kind in (schema.Config, _Noted):
            checkpoints.read_json(folder / RUN, kind)
        return cls(folder, which, model, checkpoints.read_json(folder / RUN))

    @property
    def subject(self) -> dict[str, Any]:
        """What a measurement says it was made on, but for the data."""
        return {"method": self.config["method"]["name"], "seed": self.config["seed"], "model": self.which}

    def suite(self, dataset: Dataset) -> Suite:
        """Table 2's attacks; on other data than the paper's, in the ball in which the training was watched."""
        watched = self.config["watched"]
        return suite_for(dataset.name, schema.attack_of(watched, self.folder / RUN) if watched else None)

    def keep(self, made: Record | Measurement) -> Path:
        """Save what was made of this network beside it, under a name that tells it from others; returns the path."""
        config = made.config
        if isinstance(made, Record):
            folder, data, kind = "evaluations", made.data, config["reading"]
            keys = ("evaluation_seed", "evaluation_precision", "test_images")
        else:
            folder, data, kind, keys = "measurements", made.subject["data"], made.kind, ("seed", "precision", "images")
        seed, precision, images = (config[key] for key in keys)
        said = (data, self.which, kind, f"seed{seed}", "" if precision == "float32" else precision)
        name = "-".join(filter(None, (*said, f"first{images}" if images else "")))
        return made.save(self.folder / folder / f"{name}.json")


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
