"""The paper's settings and ours, and grids of runs as independent jobs."""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aalp_lib import _checks, checkpoints, models, results, seeds
from aalp_lib._checks import InputError
from aalp_lib.attacks import PGD, Attack
from aalp_lib.data import Dataset, load
from aalp_lib.evaluate import Report, evaluate, gradients, suite_in_ball, table2_suite
from aalp_lib.methods import METHODS
from aalp_lib.models import Classifier
from aalp_lib.progress import Tell
from aalp_lib.results import Record
from aalp_lib.train import Interrupted, Recipe, fit


@dataclass(frozen=True)
class Setting:
    """Network, training attack and recipe for a data set."""

    model: dict[str, Any]
    attack: Attack
    recipe: Recipe


_LENET = {"name": "lenet"}
_SVHN_NET = {"name": "resnet9", "mean": (0.4377, 0.4438, 0.4728), "std": (0.1980, 0.2010, 0.1970)}
_CIFAR_NET = {"name": "resnet32"}
_MNIST, _SVHN, _CIFAR = (0.3, 0.01), (12 / 255, 3 / 255), (8 / 255, 2 / 255)

# "paper": what section 4.1 gives; batch size, epochs and ramp, which it leaves out, are ours.
# "fast": ours; fewer and longer attack steps, one-cycle learning rate.
SETTINGS: dict[str, dict[str, Setting]] = {
    "mnist-sample": {
        "paper": Setting(_LENET, PGD(*_MNIST, 40), Recipe(100, 50, 1e-4, "constant")),
        "fast": Setting(_LENET, PGD(0.3, 0.1, 5), Recipe(16, 64, 2e-3, "one-cycle")),
    },
    "mnist": {
        "paper": Setting(_LENET, PGD(*_MNIST, 40), Recipe(20, 50, 1e-4, "constant")),
        "fast": Setting(_LENET, PGD(0.3, 0.1, 5), Recipe(16, 128, 2e-3, "one-cycle", precision="bfloat16")),
    },
    "svhn": {
        "paper": Setting(_SVHN_NET, PGD(*_SVHN, 10), Recipe(30, 128, 1e-4, "constant")),
        "fast": Setting(_SVHN_NET, PGD(12 / 255, 5 / 255, 5), Recipe(20, 256, 2e-3, "one-cycle", crop=4)),
    },
    "cifar10": {
        "paper": Setting(_CIFAR_NET, PGD(*_CIFAR, 7), Recipe(100, 128, 1e-5, "constant", crop=4, flip=True)),
        "fast": Setting(_CIFAR_NET, PGD(8 / 255, 4 / 255, 4), Recipe(30, 128, 2e-3, "one-cycle", crop=4, flip=True)),
    },
}


def setting_for(dataset: Dataset, recipe: str = "fast", model: str | None = None) -> Setting:
    """The setting for a data set; for a folder of images, CIFAR-10's with ResNet9, or LeNet where images are grey.

    Parameters
    ----------
    dataset : Dataset
    recipe : "paper" or "fast"
    model : str, optional
        Name of another network; it is fitted to the images' shape and the number of classes.

    Raises
    ------
    InputError
        If the recipe or the network is unknown.
    """
    source = SETTINGS.get(dataset.name, SETTINGS["cifar10"])
    setting = source[_checks.known("recipe", recipe, source)]
    if dataset.name in SETTINGS and model in (None, setting.model["name"]):
        return setting
    channels, height, width = dataset.train.images.shape[1:]
    name = _checks.known("model", model or ("lenet" if channels == 1 else "resnet9"), models.MODELS)
    config: dict[str, Any] = {"name": name, "in_channels": channels, "classes": len(dataset.classes)}
    if name == "lenet":
        if height != width:
            raise InputError(f"lenet takes square images, got {height}×{width}; pass an image size or another model")
        config["image_size"] = height
    pixels = dataset.train.images[:1000].double() / 255
    config["mean"] = tuple(round(v, 4) for v in pixels.mean((0, 2, 3)).tolist())
    config["std"] = tuple(round(max(v, 0.01), 4) for v in pixels.std((0, 2, 3)).tolist())
    return dataclasses.replace(setting, model=config)


def suite_for(dataset: str, attack: Attack | None) -> dict[str, Attack]:
    """Table 2's attacks for a data set of the paper; for any other, in the ball of the training attack."""
    if dataset in SETTINGS:
        return table2_suite(dataset)
    eps = attack.eps if attack else 8 / 255
    return suite_in_ball(eps, eps / 4)


# --- jobs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One run, from data to record; everything a process of its own needs to do it.

    Attributes
    ----------
    data : str
        Name or folder, as `load` takes it.
    method : str
    setting : Setting
    out : Path
        Folder for `NAME.json`, the record, and `runs/NAME/`, the checkpoints.
    seed : int
    root : Path, optional
        Where the data lies.
    best_columns : tuple of str, optional
        Columns in which the best-on-validation model is evaluated too; by default all.
    test_images : int, optional
        Evaluate on that many images from the front of the test split; by default all.
    """

    data: str
    method: str
    setting: Setting
    out: Path
    seed: int = 0
    root: Path | None = None
    best_columns: tuple[str, ...] | None = None
    test_images: int | None = None

    @property
    def name(self) -> str:
        """Data set, method and seed."""
        return f"{Path(self.data).name}-{self.method}-seed{self.seed}"

    @property
    def record(self) -> Path:
        """Where the record goes."""
        return self.out / f"{self.name}.json"

    @property
    def run(self) -> Path:
        """Where the checkpoints go."""
        return self.out / "runs" / self.name

    def config(self) -> dict[str, Any]:
        """What a record says of the settings; a record found with another config belongs to another experiment."""
        setting = self.setting
        return {
            "model": setting.model,
            "attack": dataclasses.asdict(setting.attack),
            "recipe": dataclasses.asdict(setting.recipe),
            "method": dataclasses.asdict(METHODS[self.method]),
            "reading": "any",
            "test_images": self.test_images,
        }


def run_job(job: Job, progress: Tell | None = None) -> Record:
    """Train, evaluate the last and the best model, write the record; or read it, if it is there already.

    Goes on with checkpoints that an interrupted run left. Raises InputError if a record or checkpoint there belongs to
    other settings, and whatever `fit` raises.
    """
    found = finished(job)
    if found is not None:
        return found
    dataset = load(job.data, root=job.root)
    with torch.random.fork_rng():
        torch.manual_seed(job.seed)
        model = models.build(job.setting.model)
    recipe, attack = job.setting.recipe, job.setting.attack
    suite = suite_for(dataset.name, attack)
    best_suite = {name: suite[name] for name in (job.best_columns or suite)}
    test = dataset.test[: job.test_images or len(dataset.test)]
    stages = _stages(
        progress,
        training=len(dataset.train) * recipe.epochs * (attack.steps + 3 if METHODS[job.method].adversarial else 3),
        last=len(test) * gradients(suite),
        best=len(test) * gradients(best_suite),
    )
    Origin(job.data, job.root).save(job.run)
    history = fit(
        model, dataset, job.method, attack, seed=job.seed, recipe=recipe, out=job.run, resume=True,
        progress=stages["training"],
    )  # fmt: skip
    began = time.perf_counter()
    last = evaluate(model, test, suite, seed=job.seed, progress=stages["last"])
    if history.best == len(history):
        best = Report({name: last[name] for name in ("clean", *best_suite)})
    else:
        best_model = checkpoints.load_model(job.run, "best")
        best = evaluate(best_model, test, best_suite, seed=job.seed, progress=stages["best"])
    reports = {"last": last, "best": best}
    seconds = {"training": history.seconds, "evaluation": time.perf_counter() - began}
    record = Record(
        data=dataset.name,
        method=job.method,
        seed=job.seed,
        tier=tier(dataset.name),
        config=job.config(),
        environment=results.environment(torch.device("cpu")),
        accuracy={which: results.accuracies(report) for which, report in reports.items()},
        outcomes={which: results.outcomes(report) for which, report in reports.items()},
        history={"epochs": [dataclasses.asdict(e) for e in history.epochs], "best": history.best},
        seconds=seconds,
    )
    record.save(job.record)
    return record


def new_model(setting: Setting, seed: int) -> Classifier:
    """The setting's network with weights drawn from `seed`; torch's global generators are left as they were."""
    with seeds.kept():
        torch.manual_seed(seeds.derive(seed, "weights"))
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

    def save(self, run: Path) -> None:
        """Write `data.json` into the folder of a run, unless it is there."""
        if (run / "data.json").exists():
            return
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


def _stages(progress: Tell | None, **costs: float) -> dict[str, Tell | None]:
    """A progress function for each stage of a job, which moves one common count of gradient evaluations."""
    if progress is None:
        return dict.fromkeys(costs)
    total = round(sum(costs.values()))

    def stage(before: float, cost: float) -> Tell:
        return lambda done, of, text: progress(round(before + cost * done / of), total, text)

    before = itertools.accumulate(costs.values(), initial=0.0)
    return {name: stage(start, cost) for start, (name, cost) in zip(before, costs.items(), strict=False)}


def finished(job: Job) -> Record | None:
    """The record of a job that is done; InputError if the one there was made with other settings."""
    if not job.record.exists():
        return None
    record = Record.load(job.record)
    wanted = _as_json(job.config())
    if record.config != wanted:
        raise InputError(f"{job.record} was made with other settings; name another folder, or move it away")
    return record


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(v) for key, v in value.items()}
    return [_as_json(v) for v in value] if isinstance(value, (list, tuple)) else value


# --- several jobs at once --------------------------------------------------------------------------------------------

Watch = Callable[[Job, int, int, str], None]  # a job, what of it is done, out of how much, and a word on it


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(jobs: Sequence[Job], workers: int, watch: Watch | None = None) -> Iterator[Record]:
    """Run jobs in processes of their own, `workers` at a time, the cores shared out; yield records as they come.

    Parameters
    ----------
    jobs : sequence of Job
    workers : int
    watch : callable, optional
        Called in this process as jobs move on.

    Raises
    ------
    Interrupted
        After Ctrl-C, once the running jobs have saved their state.
    """
    _checks.count("the number of jobs at once", workers)
    context = multiprocessing.get_context("spawn")
    news, stop = context.Queue(), context.Event()
    workers = min(workers, len(jobs))
    threads = max(1, cores() // workers)
    with ProcessPoolExecutor(workers, context, _enter_worker, (news, stop, threads)) as pool:
        with _ctrl_c_ignored():  # workers inherit it: Ctrl-C reaches the whole group, but this process decides
            waiting = {pool.submit(_work, index, job): job for index, job in enumerate(jobs)}
        try:
            while waiting:
                _tell(news, jobs, watch)
                for future in [future for future in waiting if future.done()]:
                    del waiting[future]
                    yield _result(future)
        except BaseException as error:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted("stopped; what is done and what was under way is saved") from None
            raise


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


def _tell(news: Any, jobs: Sequence[Job], watch: Watch | None) -> None:
    try:
        index, done, total, text = news.get(timeout=0.2)
    except queue.Empty:
        return
    if watch:
        watch(jobs[index], done, total, text)


def _result(future: Future[Record]) -> Record:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise OSError("a run's process was killed; the same command goes on from its last checkpoint") from error


_news: Any = None
_stop: Any = None


def _enter_worker(news: Any, stop: Any, threads: int) -> None:
    global _news, _stop
    _news, _stop = news, stop
    torch.set_num_threads(threads)


def _work(index: int, job: Job) -> Record:
    told = 0.0
    if _stop.is_set():
        raise KeyboardInterrupt

    def progress(done: int, total: int, text: str) -> None:
        nonlocal told
        if _stop.is_set():
            raise KeyboardInterrupt
        if done == total or time.monotonic() - told > 0.3:
            told = time.monotonic()
            _news.put((index, done, total, text))

    return run_job(job, progress)
