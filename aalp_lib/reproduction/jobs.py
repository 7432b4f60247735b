"""One run as a job, from data to record, and many of them at once: on this machine's cores or on any executor."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aalp_lib import _checks, checkpoints, models, seeds
from aalp_lib._checks import InputError
from aalp_lib.attacks import Attack
from aalp_lib.data import SOURCES, Dataset, load, name_of, subset
from aalp_lib.evaluation import Report, evaluate, gradient_count, suite_for
from aalp_lib.methods import Method, method
from aalp_lib.models import Classifier
from aalp_lib.progress import Tell, stages
from aalp_lib.reproduction import machine, schema
from aalp_lib.reproduction.schema import Record
from aalp_lib.train import RUN, Interrupted, Recipe, asked_to_stop, fit
from aalp_lib.zoo import fingerprint

NOTE = "progress.json"
NOTE_EVERY = 0.5  # seconds


@dataclass(frozen=True)
class Setting:
    """Network, training attack and recipe for a data set."""

    model: dict[str, Any]
    attack: Attack
    recipe: Recipe


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
    train_images : int, optional
        Train on that many images, the same share of every class; by default all. `reduced` must say so.
    reduced : str, optional
        In words, how this run falls short of the full protocol; goes into the record and beside every number of it.
    quick : bool
        Shows that it runs, no more: its numbers enter no table of the paper.
    variant : str
        Goes into the name, to keep runs apart that differ in settings alone.
    device : str
        "cpu", "cuda", "cuda:1" and so on; "auto" takes CUDA where the job runs, if there is one.
    observer : callable, optional
        Trains in place of `fit` and measures the training as a whole into `observed`: `observe.job`, which looks at the
        network after every epoch. The checkpoints must be those of `fit`.
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
    train_images: int | None = None
    reduced: str | None = None
    quick: bool = False
    variant: str = ""
    device: str = "cpu"
    observer: "Callable[[Job, Dataset, Tell | None], object] | None" = None

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
    def about(self) -> dict[str, str]:
        """What a measurement's subject says of the run beyond data, method and seed."""
        said = {"recipe": self.variant, "reduced": self.reduced}
        return {key: words for key, words in said.items() if words}

    @property
    def tier(self) -> str:
        """Which tier its numbers belong to."""
        return "quick" if self.quick else tier(name_of(self.data))

    @property
    def observed(self) -> Path:
        """Where the measurement of the whole training goes, with an `observer`."""
        return self.out / "over_training" / f"{self.name}.json"

    def config(self) -> dict[str, Any]:
        """What a record says of the settings; a record found with another config belongs to another experiment."""
        setting = self.setting
        return {
            "model": setting.model,
            "attack": dataclasses.asdict(setting.attack),
            "recipe": dataclasses.asdict(setting.recipe),
            "method": self.row.described(),
            "reading": "any",
            "test_images": self.test_images,
            **({"columns": list(self.columns)} if self.columns else {}),
            **({"reduced": self.reduced, "train_images": self.train_images} if self.reduced else {}),
        }

    def cost(self, train_images: int, test_images: int) -> dict[str, float]:
        """Gradient evaluations of each stage: training (validation left out), evaluating the last and the best model.

        Upper bounds where an attack lets go of images that it has fooled; a training step counts as one for each
        sample that goes through the network.
        """
        suites = self.suites()
        recipe, attack, row = self.setting.recipe, self.setting.attack, self.row
        return {
            "training": train_images * recipe.epochs * row.gradient_count(attack.steps * attack.restarts),
            "last": test_images * gradient_count(suites["last"]),
            "best": test_images * gradient_count(suites["best"]),
        }

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
    found = finished(job)
    if found is not None:
        return found
    device = _checks.device(job.device)
    environment = machine.environment(device)
    if "tf32" in environment:  # that is training's; `evaluate` switches it off
        environment["evaluation_tf32"] = False
    dataset = _part(load(job.data, root=job.root, device=device), job.train_images)
    model = new_model(job.setting, job.seed).to(device)
    suites = job.suites()
    test = dataset.test[: job.test_images or len(dataset.test)]
    tells = stages(progress, **job.cost(len(dataset.train), len(test)))
    Origin(job.data, job.root).save(job.run)
    if job.observer:
        job.observer(job, dataset, tells["training"])
    history = fit(
        model, dataset, job.row, job.setting.attack, seed=job.seed, recipe=job.setting.recipe, out=job.run,
        resume=True, progress=tells["training"],
    )  # fmt: skip
    began = time.perf_counter()
    last = evaluate(model, test, suites["last"], seed=job.seed, progress=tells["last"])
    if history.best == len(history):
        best = Report({name: last[name] for name in ("clean", *suites["best"])})
    else:
        best_model = checkpoints.load_model(job.run, "best").to(device)
        best = evaluate(best_model, test, suites["best"], seed=job.seed, progress=tells["best"])
    reports = {"last": last, "best": best}
    seconds = {"training": history.seconds, "evaluation": time.perf_counter() - began}
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
        seconds=seconds,
        network=fingerprint(model),  # not of the file: another process may have written there
    )
    record.save(job.record)
    return record


def _part(dataset: Dataset, train_images: int | None) -> Dataset:
    """The data set with that many training images, each class in its share."""
    if train_images is None:
        return dataset
    _checks.count("the number of training images", train_images)
    if train_images >= len(dataset.train):
        raise InputError(f"{dataset.name} has {len(dataset.train)} training images; {train_images} is no part of them")
    rows = subset(dataset.train.labels.cpu(), train_images)
    return dataclasses.replace(dataset, train=dataset.train[rows.to(dataset.train.labels.device)])


def new_model(setting: Setting, seed: int) -> Classifier:
    """The setting's network with weights drawn from `seed`; torch's global generators are left as they were."""
    with seeds.restored():
        torch.manual_seed(seed)
        return models.build(setting.model)


def tier(data: str) -> str:
    """Which tier a number measured on a data set belongs to."""
    return "quick" if data == "mnist-sample" else "full"


@dataclass(frozen=True)
class Origin:
    """Where a run's data came from: the arguments of `load`, kept beside its checkpoints."""

    data: str
    root: Path | None = None
    image_size: int | None = None

    def check(self, run: Path) -> None:
        """InputError if the run in a folder is of other data."""
        if not (run / RUN).exists() or not (run / "data.json").exists():
            return
        there = Origin.read(run)
        if (there._whereabouts, there.image_size) != (self._whereabouts, self.image_size):
            raise InputError(
                f"the run in {run} is of the images of {there.data}, not of {self.data}; name another folder"
            )

    @property
    def _whereabouts(self) -> str:
        """The data's name, or the whole path of its folder."""
        return self.data if self.data in SOURCES else str(Path(self.data).resolve())

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
        try:
            return cls(**checkpoints.read_json(run / "data.json"))
        except TypeError as error:
            raise InputError(f"{run / 'data.json'} does not say where the data came from ({error})") from error


def finished(job: Job) -> Record | None:
    """The record of a job that is done.

    InputError if the one there was made with other settings or of other data, was not observed, or lacks columns.
    """
    if not job.record.exists():
        return None
    if job.observer and not job.observed.exists():
        raise InputError(f"{job.record} is of a run that was not observed; name another folder, or move it away")
    Origin(job.data, job.root).check(job.run)
    record = Record.load(job.record)
    if record.config != json.loads(json.dumps(job.config())):
        raise InputError(f"{job.record} was made with other settings; name another folder, or move it away")
    for which, suite in job.suites().items():
        if missing := suite.keys() - record.accuracy.get(which, {}).keys():
            raise InputError(f"{job.record} lacks the columns {', '.join(sorted(missing))}; name another folder")
    return record


# --- several jobs at once --------------------------------------------------------------------------------------------

# a job, what of it is done, out of how much (the same once its record is there), and a word on it
Watch = Callable[[Job, int, int, str], None]


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    jobs: Sequence[Job], workers: int = 1, watch: Watch | None = None, executor: Executor | None = None
) -> Iterator[Record]:
    """Run jobs in processes of their own and yield their records as they come.

    A job that fails does not stop the others. When all are done the first one's error is raised; its notes name the
    job, and those that failed too. A job whose process is killed
    leaves its checkpoint: the same call goes on from there. On this machine those that run beside it end with it, and
    those that have not begun go on in new processes.

    Parameters
    ----------
    jobs : sequence of Job
    workers : int
        Processes on this machine, which share out its cores.
    watch : callable, optional
        Called in this process as jobs move on; what it is told comes from the jobs' folders.
    executor : concurrent.futures.Executor, optional
        Runs the jobs instead, on any machines that see the same folders. In threads of one process they take turns.

    Raises
    ------
    InputError
        If two of the jobs have one name.
    Interrupted
        After Ctrl-C, once the running jobs have saved their state; an `executor` of the caller's is told to begin
        nothing more, and what it is running there runs to its end.
    """
    names = [job.name for job in jobs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two of the runs are {twice}; each method and seed can be there once")
    failed: dict[str, BaseException] = {}
    if executor is not None:
        try:
            yield from _collect(executor, jobs, watch, failed)
        except Interrupted:
            raise Interrupted("stopped; what is done is saved") from None
    else:
        _checks.count("the number of jobs at once", workers)
        left = list(jobs)
        while left:
            yield from _collect_here(left, workers, watch, failed)
            left = _not_begun(left, failed)
    if failed:
        (_, first), *others = failed.items()
        for name, error in others:
            first.add_note(f"{name} failed too: {error}")
        raise first


def _collect_here(
    jobs: Sequence[Job], workers: int, watch: Watch | None, failed: dict[str, BaseException]
) -> Iterator[Record]:
    context = multiprocessing.get_context("spawn")
    workers = max(1, min(workers, len(jobs)))
    stop, threads = context.Event(), max(1, cores() // workers)
    with ProcessPoolExecutor(workers, context, _enter_worker, (stop, threads)) as pool:
        try:
            yield from _collect(pool, jobs, watch, failed)
        except BaseException:
            stop.set()
            raise


def _not_begun(jobs: Sequence[Job], failed: dict[str, BaseException]) -> list[Job]:
    """Take out of `failed`, and return, what was only waiting when a process was killed; nothing if all of it was."""
    killed = [job for job in jobs if isinstance(failed.get(job.name), Killed)]
    waiting = [job for job in killed if not (job.run / NOTE).exists()]
    if len(waiting) == len(killed):
        return []
    for job in waiting:
        del failed[job.name]
    return waiting


class Killed(OSError):
    """A run's process was killed; what it saved is there to go on from."""


def _collect(
    executor: Executor, jobs: Sequence[Job], watch: Watch | None, failed: dict[str, BaseException]
) -> Iterator[Record]:
    for job in jobs:
        (job.run / NOTE).unlink(missing_ok=True)
    with _ctrl_c_ignored():  # processes inherit it: Ctrl-C reaches the whole group, but this process decides
        waiting = {executor.submit(_work, job): job for job in jobs}
    try:
        while waiting:
            with asked_to_stop() as asked:  # a KeyboardInterrupt inside `wait` may leave the futures locked for good
                done, _ = wait(waiting, timeout=NOTE_EVERY, return_when=FIRST_COMPLETED)
            if asked.is_set():
                raise KeyboardInterrupt
            for future in done:
                job = waiting.pop(future)
                record = _result(future, job, failed)
                if record is not None:
                    if watch:
                        watch(job, 1, 1, "done")
                    yield record
            _tell(waiting.values(), watch)
    except BaseException as error:
        for future in waiting:
            future.cancel()
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted("stopped; what is done and what was under way is saved") from None
        raise


def _result(future: Future[Record], job: Job, failed: dict[str, BaseException]) -> Record | None:
    try:
        return future.result()
    except BrokenProcessPool:
        failed[job.name] = Killed("a run's process was killed; the same command goes on from its last checkpoint")
    except Exception as error:
        failed[job.name] = error
    failed[job.name].add_note(f"in {job.name}")
    return None


@contextlib.contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _tell(jobs: Iterable[Job], watch: Watch | None) -> None:
    """Pass on what running jobs have noted in their folders."""
    for job in jobs:
        with contextlib.suppress(OSError, ValueError):  # not begun, or read in the middle of a write
            note = json.loads((job.run / NOTE).read_text())
            if watch:
                watch(job, note["done"], note["total"], note["text"])


_stop: Any = None
_turn = threading.Lock()  # training seeds torch's global generators, of which a process has one set


def _enter_worker(stop: Any, threads: int) -> None:
    global _stop
    _stop = stop
    torch.set_num_threads(threads)


def _work(job: Job) -> Record:
    noted = 0.0
    if _stop is not None and _stop.is_set():
        raise KeyboardInterrupt
    job.run.mkdir(parents=True, exist_ok=True)

    def progress(done: int, total: int, text: str) -> None:
        nonlocal noted
        if _stop is not None and _stop.is_set():
            raise KeyboardInterrupt
        if done == total or time.monotonic() - noted > NOTE_EVERY:
            noted = time.monotonic()
            if _orphaned():
                raise KeyboardInterrupt
            (job.run / NOTE).write_text(json.dumps({"done": done, "total": total, "text": text}))

    try:
        with _turn:
            return run_job(job, progress)
    finally:
        if _orphaned():
            os._exit(1)  # what is under way is saved; there is nobody to tell, and to wait for more would be for ever


def _orphaned() -> bool:
    """Whether the process that began this one is gone: the same call may be on its way to begin this run again."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
