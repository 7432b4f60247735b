"""One run as a job: from data to record."""

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch

from aalp_lib import _checks, checkpoints, folders, resume
from aalp_lib._checks import InputError
from aalp_lib.attacks import Attack
from aalp_lib.data import SOURCES, Dataset, Split, load, name_of
from aalp_lib.evaluation import Report, evaluate, gradient_count
from aalp_lib.folders import RUN
from aalp_lib.methods import Method, method
from aalp_lib.models import Classifier
from aalp_lib.progress import Tell, stages
from aalp_lib.reproduction import analyses, machine, per_epoch, schema
from aalp_lib.reproduction.attack_measurements import tensors_of
from aalp_lib.reproduction.packing import fingerprint
from aalp_lib.reproduction.schema import Record
from aalp_lib.reproduction.settings import Setting, new_model, suite_for, tier
from aalp_lib.train import History, fit

PARTS = "evaluation"  # beside the checkpoints: what is done of an evaluation that is not


@dataclass(frozen=True)
class Job:
    """One run, from data to record; everything that a process on any machine with the same folders needs to do it.

    Attributes
    ----------
    data : str
        Name or folder, as `load` takes it.
    method : str or Method
    setting : Setting
    out : Path
        Folder for `NAME.json`, the record, and `runs/NAME/`, the checkpoints.
    seed : int
    root : Path, optional
        Where the data lies.
    best_columns : tuple of str, optional
        Columns in which the best-on-validation model is evaluated too; by default all.
    columns : tuple of str, optional
        Columns in which the last model is evaluated; by default all of Table 2.
    test_images : int, optional
        Evaluate on that many images from the front of the test split; by default all.
    reduced : str, optional
        In words, how this run falls short of the full protocol; goes into the record and beside every number of it.
    quick : bool
        Shows that it runs, no more: its numbers enter no table of the paper.
    variant : str
        Goes into the name, to keep runs apart that differ in settings alone.
    observe : bool
        Look at the network after every epoch too, into `over_training/NAME.json` (see `per_epoch`).
    device : str
        "cpu", "cuda", "cuda:1" and so on; "auto" takes CUDA where the job runs, if there is one.
    """

    data: str
    method: str | Method
    setting: Setting
    out: Path
    seed: int = 0
    root: Path | None = None
    best_columns: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    test_images: int | None = None
    reduced: str | None = None
    quick: bool = False
    variant: str = ""
    observe: bool = False
    device: str = "cpu"

    @property
    def row(self) -> Method:
        """The method."""
        return method(self.method)

    @property
    def label(self) -> str:
        """Method and variant: what tells the rows of a grid apart."""
        return "-".join(filter(None, (self.row.name, self.variant)))

    @property
    def name(self) -> str:
        """Data set, method, variant and seed."""
        return f"{name_of(self.data)}-{self.label}-seed{self.seed}"

    @property
    def record(self) -> Path:
        """Where the record goes."""
        return self.out / f"{self.name}.json"

    @property
    def run(self) -> Path:
        """Where the checkpoints go."""
        return self.out / "runs" / self.name

    @property
    def observed(self) -> Path:
        """Where goes what was seen after every epoch."""
        return self.out / "over_training" / f"{self.name}.json"

    @property
    def tier(self) -> str:
        """Which tier its numbers belong to."""
        return "quick" if self.quick else tier(name_of(self.data))

    def config(self) -> dict[str, Any]:
        """What a record says of the settings; a record found with another config belongs to another experiment."""
        setting = self.setting
        return {
            "model": setting.model,
            "attack": setting.attack.described(),
            "recipe": dataclasses.asdict(setting.recipe),
            "method": self.row.described(),
            "reading": "any",
            "test_images": self.test_images,
            **({"columns": list(self.columns)} if self.columns else {}),
            **({"reduced": self.reduced} if self.reduced else {}),
        }

    def cost(self, train_images: int, test_images: int) -> dict[str, float]:
        """Gradient evaluations of training, evaluating the last and the best model: at most so many, see `progress`."""
        recipe, attack = self.setting.recipe, self.setting.attack
        training = train_images * recipe.epochs * self.row.gradient_count(attack.steps * attack.restarts)
        suites = {which: float(test_images * gradient_count(suite)) for which, suite in self.suites().items()}
        return {"training": training} | suites

    def suites(self) -> dict[str, dict[str, Attack]]:
        """The attacks on the last and on the best model."""
        suite = suite_for(name_of(self.data), self.setting.attack)
        suite = {name: suite[name] for name in (self.columns or suite)}
        return {"last": suite, "best": {name: suite[name] for name in (self.best_columns or suite)}}


def run_job(job: Job, progress: Tell | None = None) -> Record:
    """Train, evaluate the last and the best model, write the record; or read it, if it is there already.

    Goes on with checkpoints that an interrupted run left. Raises InputError if a record or checkpoint there belongs to
    other settings, and whatever `fit` raises.
    """
    if (found := finished(job)) is not None:
        return found
    with folders.held(job.run), folders.own_threads(job.run):
        return finished(job) or _made(job, progress)


def _made(job: Job, progress: Tell | None) -> Record:
    device = _checks.device(job.device)
    environment = machine.environment(device)
    if "tf32" in environment:  # that is training's; `evaluate` switches it off
        environment["evaluation_tf32"] = False
    dataset = Origin(job.data, job.root).load(device)
    test = dataset.test[: job.test_images or len(dataset.test)]
    tells = stages(progress, **job.cost(len(dataset.train), len(test)))
    model, history = _train(job, dataset, device, tells["training"])
    reports, seconds = _evaluate(job, model, history, test, tells, environment)
    record = Record(
        data=dataset.name,
        method=job.row.name,
        seed=job.seed,
        tier=job.tier,
        config=job.config(),
        environment=environment,
        accuracy={which: schema.accuracies(report) for which, report in reports.items()},
        outcomes={which: schema.outcomes(report) for which, report in reports.items()},
        history={"epochs": [dataclasses.asdict(e) for e in history.epochs], "best": history.best},
        seconds={"training": history.seconds, "evaluation": seconds},
        network=fingerprint(model),  # not of the file: another process may have written there
    )
    record.save(job.record)
    shutil.rmtree(job.run / PARTS, ignore_errors=True)
    return record


def _train(job: Job, dataset: Dataset, device: torch.device, tell: Tell | None) -> tuple[Classifier, History]:
    Origin(job.data, job.root).save(job.run)
    if job.observe:
        observed(job, dataset, progress=tell)
    model = new_model(job.setting, job.seed).to(device)
    history = fit(
        model, dataset, job.row, job.setting.attack, seed=job.seed, recipe=job.setting.recipe, out=job.run,
        resume=True, progress=tell,
    )  # fmt: skip
    return model, history


def observed(job: Job, dataset: Dataset, *, images: int = 2000, progress: Tell | None = None) -> Path:
    """Train a job, write its `over_training` to `job.observed`, unless it is there, and return where that is.

    The pictures are of the first four classes of `analyses.storable`.
    """
    setting, shown = job.setting, analyses.storable(dataset)
    attack = analyses.attack_for(dataset, setting.attack)
    words = {"recipe": job.variant, "reduced": job.reduced}
    subject = {"data": dataset.name, "method": job.row.name, "seed": job.seed} | {k: w for k, w in words.items() if w}
    config = {
        "model": setting.model,
        "training_attack": setting.attack.described(),
        "recipe": dataclasses.asdict(setting.recipe),
        "method": job.row.described(),
        "attack": attack.described(),
        "images": min(images, len(dataset.test)),
        "reading": "last",
    }
    few, device = analyses.first_of_each_class(shown)[:4] if shown else None, dataset.test.labels.device
    make = functools.partial(
        per_epoch.over_training, dataset, job.row, setting, job.run, seed=job.seed, images=images, attack=attack,
        shown=few, progress=progress,
    )  # fmt: skip
    return analyses.kept(job.observed, "over_training", subject, config, job.tier, device, make)


def _evaluate(
    job: Job,
    model: Classifier,
    history: History,
    test: Split,
    tells: Mapping[str, Tell | None],
    environment: dict[str, Any],
) -> tuple[dict[str, Report], float]:
    """The last model's report and the best one's, and the seconds that they took; an interrupted attempt is gone on
    with."""
    spent = 0.0

    def report(model: Classifier, which: str) -> Report:
        nonlocal spent
        began, depends_on = time.perf_counter(), [job.config(), job.seed, which, machine.alike(environment)]
        with resume.resumable(job.run / PARTS, depends_on, *tensors_of(test, model)) as work:
            found = evaluate(model, test, job.suites()[which], seed=job.seed, progress=tells[which])
        spent += time.perf_counter() - began + work.seconds
        return found

    last = report(model, "last")
    if history.best == len(history):
        return {"last": last, "best": Report({name: last[name] for name in ("clean", *job.suites()["best"])})}, spent
    best = checkpoints.load_model(job.run, "best").to(next(model.parameters()).device)
    return {"last": last, "best": report(best, "best")}, spent


def finished(job: Job) -> Record | None:
    """The record of a job that is done.

    InputError if the one there was made with other settings or of other data, was not observed, or lacks columns.
    """
    if not job.record.exists():
        return None
    if job.observe and not job.observed.exists():
        raise InputError(f"{job.record} is of a run that was not observed; name another folder, or move it away")
    Origin(job.data, job.root).check(job.run)
    record = Record.load(job.record)
    if record.config != json.loads(json.dumps(job.config())):
        raise InputError(f"{job.record} was made with other settings; name another folder, or move it away")
    for which, suite in job.suites().items():
        if missing := suite.keys() - record.accuracy.get(which, {}).keys():
            raise InputError(f"{job.record} lacks the columns {', '.join(sorted(missing))}; name another folder")
    return record


@dataclass(frozen=True)
class Origin:
    """Where a run's data came from: the arguments of `load`, kept beside its checkpoints."""

    data: str
    root: Path | None = None
    image_size: int | None = None

    def load(self, device: torch.device) -> Dataset:
        """The data."""
        return load(self.data, root=self.root, device=device, image_size=self.image_size)

    def check(self, run: Path) -> None:
        """InputError if the run in a folder is of other data."""
        if not (run / RUN).exists() or not (run / "data.json").exists():
            return
        there = Origin.read(run)
        if there.image_size != self.image_size or not (there._is_at(self) or there._was_moved_to(self)):
            raise InputError(
                f"the run in {run} is of the images of {there.data}, not of {self.data}; name another folder"
            )

    def _is_at(self, other: "Origin") -> bool:
        here, there = (one.data if one.data in SOURCES else _checks.path(one.data).resolve() for one in (self, other))
        return here == there

    def _was_moved_to(self, other: "Origin") -> bool:
        """Whether the folder is not there any more, as on another machine; checkpoints know their images by sums."""
        return (
            self.data not in SOURCES
            and name_of(self.data) == name_of(other.data)
            and not _checks.path(self.data).exists()
        )

    def save(self, run: Path) -> None:
        """Write `data.json` into the folder of a run; InputError if the run there is of other data."""
        self.check(run)
        try:
            run.mkdir(parents=True, exist_ok=True)
            values = {"data": self.data, "root": self.root and str(self.root), "image_size": self.image_size}
            checkpoints.write_json(run / "data.json", values)
        except OSError as error:
            raise OSError(f"the output folder {run} cannot be written ({error.strerror or error})") from error

    @classmethod
    def read(cls, run: Path) -> "Origin":
        """Read it back; InputError if it is missing or damaged."""
        found: _Origin = checkpoints.read_json(run / "data.json", _Origin)
        return cls(found.data, Path(found.root) if found.root else None, found.image_size)


class _Origin(msgspec.Struct, forbid_unknown_fields=True):
    """What `data.json` holds."""

    data: Annotated[str, msgspec.Meta(min_length=1)]
    root: str | None
    image_size: Annotated[int, msgspec.Meta(ge=1)] | None
