"""Many jobs at once: on this machine's cores, or on any executor, a Dask cluster's say."""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Annotated, Any

import msgspec
import torch

from aalp_lib import _checks, checkpoints, folders
from aalp_lib._checks import InputError
from aalp_lib.reproduction.jobs import Job, finished, run_job
from aalp_lib.reproduction.schema import Record
from aalp_lib.train import Interrupted, asked_to_stop

NOTE = "progress.json"
NOTE_EVERY = 0.5  # seconds
# a job, what of it is done, out of how much (the same once its record is there), and a word on it
Watch = Callable[[Job, int, int, str], None]


class _Note(msgspec.Struct):
    """What `progress.json` holds."""

    done: Annotated[int, msgspec.Meta(ge=0)]
    total: Annotated[int, msgspec.Meta(ge=1)]
    text: str


class Killed(OSError):
    """A run's process was killed; what it saved is there to go on from."""


class OutOfTime(Interrupted):
    """The minutes are over and runs are left; the message names them."""


class Clock:
    """Says, asked after every step, when one more as long as the longest so far would end too late.

    `until` is a time as of `time.time`: jobs may run on other machines. The first step, which sets up much, is no
    measure.
    """

    def __init__(self, until: float) -> None:
        self.until, self.over = until, False
        self.asked: float | None = None
        self.longest = 0.0

    def is_up(self) -> bool:
        """Whether to stop now; `over` tells later that it was so."""
        now = time.time()
        self.longest = max(self.longest, now - (self.asked or now))
        self.asked = now
        self.over = now + self.longest >= self.until
        return self.over


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    jobs: Sequence[Job],
    workers: int = 1,
    watch: Watch | None = None,
    executor: Executor | None = None,
    minutes: float | None = None,
) -> Iterator[Record]:
    """Run jobs in processes of their own and yield their records as they come.

    Safe to kill at any moment and to start again: finished jobs are read, interrupted ones go on from their last
    checkpoint. A job that fails does not stop the others; when all are done the first one's error is raised, and its
    notes name the job and those that failed too. When a job's process is killed, those beside it on this machine end
    with it, and those that have not begun go on in new processes.

    Parameters
    ----------
    jobs : sequence of Job
    workers : int
        Processes on this machine, which share out its cores.
    watch : callable, optional
        Called in this process as jobs move on; what it is told comes from the jobs' folders.
    executor : concurrent.futures.Executor, optional
        Runs the jobs instead, on any machines that see the same folders. In threads of one process they take turns.
    minutes : float, optional
        After so many, every run has saved its state and ended; none is begun any more.

    Raises
    ------
    InputError
        Before anything is run, if two of the jobs have one name, a record there was made with other settings, or
        another process is at work on one of them.
    OutOfTime
        After `minutes`, if a run is left.
    Interrupted
        After Ctrl-C, once the running jobs have saved their state; an `executor` of the caller's is told to begin
        nothing more, and what it is running there runs to its end.
    """
    names = [job.name for job in jobs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two of the runs are {twice}; each method and seed can be there once")
    for job in jobs:
        if finished(job) is None:
            folders.free(job.run)
    if minutes is not None:
        _checks.positive("the number of minutes", minutes)
    until = float("inf") if minutes is None else time.time() + 60 * minutes
    failed: dict[str, BaseException] = {}
    if executor is None:
        yield from _run_here(jobs, workers, watch, failed, until)
    else:
        try:
            yield from _collect(executor, jobs, watch, failed, until)
        except Interrupted:
            raise Interrupted("stopped; what is done is saved") from None
    if failed:
        (_, first), *others = failed.items()
        for name, error in others:
            first.add_note(f"{name} failed too: {error}")
        raise first
    if minutes is not None and (left := [job for job in jobs if finished(job) is None]):
        raise OutOfTime(
            f"time is up after {minutes:g} minutes: {len(jobs) - len(left)} of {len(jobs)} runs are done, "
            f"left are {', '.join(f'{job.name} ({_reached(job)})' for job in left)}"
        )


def _reached(job: Job) -> str:
    """How far a job has come, which it has noted in its folder if it was under way."""
    with contextlib.suppress(OSError, ValueError):
        note: _Note = checkpoints.read_json(job.run / NOTE, _Note)
        return f"{100 * note.done // note.total} %"
    return "saved" if (job.run / checkpoints.LAST).exists() else "not begun"


# --- the process that asks -------------------------------------------------------------------------------------------


def _run_here(
    jobs: Sequence[Job], workers: int, watch: Watch | None, failed: dict[str, BaseException], until: float
) -> Iterator[Record]:
    """In processes of this machine; what only waited when one of them was killed has another go, with as many threads:
    of another number the bits would be others."""
    _checks.count("the number of jobs at once", workers)
    context = multiprocessing.get_context("spawn")
    threads = max(1, cores() // max(1, min(workers, len(jobs))))
    while jobs:
        count, stop = min(workers, len(jobs)), context.Event()
        with ProcessPoolExecutor(count, context, _enter_worker, (stop, threads)) as pool:
            try:
                yield from _collect(pool, jobs, watch, failed, until)
            except BaseException:
                stop.set()
                raise
        killed = [job for job in jobs if isinstance(failed.get(job.name), Killed)]
        waiting = [job for job in killed if not (job.run / NOTE).exists()]
        jobs = waiting if len(waiting) < len(killed) else []  # else nothing would ever begin
        for job in jobs:
            del failed[job.name]


def _collect(
    executor: Executor, jobs: Sequence[Job], watch: Watch | None, failed: dict[str, BaseException], until: float
) -> Iterator[Record]:
    for job in jobs:
        (job.run / NOTE).unlink(missing_ok=True)
    with _ctrl_c_ignored():  # processes inherit it: Ctrl-C reaches the whole group, but this process decides
        waiting = {executor.submit(_work, job, until): job for job in jobs}
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
            if watch:
                _tell(waiting.values(), watch)
    except BaseException as error:
        for future in waiting:
            future.cancel()
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted("stopped; what is done and what was under way is saved") from None
        raise


def _result(future: Future[Record | None], job: Job, failed: dict[str, BaseException]) -> Record | None:
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


def _tell(jobs: Iterable[Job], watch: Watch) -> None:
    """Pass on what running jobs have noted in their folders."""
    for job in jobs:
        with contextlib.suppress(OSError, ValueError):  # not begun, or read in the middle of a write
            note: _Note = checkpoints.read_json(job.run / NOTE, _Note)
            watch(job, note.done, note.total, note.text)


@contextlib.contextmanager
def cluster(scheduler: str | None) -> Iterator[Executor | None]:
    """An executor of the Dask cluster whose scheduler has this address; None for None.

    InputError without the extra [cluster]; OSError if no scheduler answers there.
    """
    if scheduler is None:
        yield None
        return
    try:
        from distributed import Client
        from distributed.comm import resolve_address
    except ImportError:
        raise InputError("--scheduler needs Dask: pip install 'aalp_lib[cluster]'") from None
    try:
        resolve_address(scheduler)  # of an address that can be none, a client hangs when it is given up
        client = Client(scheduler, timeout="20s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise OSError(f"no Dask scheduler answers at {scheduler} ({error})") from error
    with client:
        yield client.get_executor(pure=False)


# --- the processes that work -----------------------------------------------------------------------------------------

_stop: Any = None
_turn = threading.Lock()  # training seeds torch's global generators, of which a process has one set


def _enter_worker(stop: Any, threads: int) -> None:
    global _stop
    _stop = stop
    torch.set_num_threads(threads)


def _work(job: Job, until: float) -> Record | None:
    """The job's record, or nothing where the time is up."""
    noted, clock = 0.0, Clock(until)
    if _stop is not None and _stop.is_set():
        raise KeyboardInterrupt
    if time.time() >= until:
        return None

    def progress(done: int, total: int, text: str) -> None:
        nonlocal noted
        if clock.is_up() or (_stop is not None and _stop.is_set()):
            raise KeyboardInterrupt
        if done == total or time.monotonic() - noted > NOTE_EVERY:
            noted = time.monotonic()
            if _orphaned():
                raise KeyboardInterrupt
            with contextlib.suppress(OSError):  # a full disk: the next checkpoint says so
                (job.run / NOTE).write_text(json.dumps({"done": done, "total": total, "text": text}))

    try:
        with _turn:
            return run_job(job, progress)
    except KeyboardInterrupt:
        if not clock.over:
            raise
        return None
    finally:
        if _orphaned():
            os._exit(1)  # what is under way is saved; there is nobody to tell, and to wait for more would be for ever


def _orphaned() -> bool:
    """Whether the process that began this one is gone: the same call may be on its way to begin this run again."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
