"""The folder of a run: `run.json` says what run it is, and one process at a time works in it."""

import contextlib
import os
import platform
import secrets
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import torch

from aalp_lib import checkpoints
from aalp_lib._checks import InputError
from aalp_lib.checkpoints import BEST, LAST, Checkpoint
from aalp_lib.engine import distributed

RUN, LOCK = "run.json", ".lock"
PATIENCE = 1.0  # seconds: a process that is about to end may still hold its folder
_held: set[tuple[Path, int]] = set()  # by threads of this process


class _Begun(msgspec.Struct):
    """What is read of `run.json` here; files of earlier versions do not say how many threads the run began with."""

    threads: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None


# --- one process at a time -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """Work in a folder, which is made if need be, alone; None holds nothing, nor does it inside itself.

    The lock is the system's, which takes it back from a process that ends, however it ends. Of torchrun's processes
    rank 0 holds it for all.

    Raises
    ------
    InputError
        If another process or thread works there.
    OSError
        If the folder cannot be written.

    Warns
    -----
    UserWarning
        If nobody can know whether another process works there: the disk cannot lock files, or a process on another
        machine did not say that it ended.
    """
    key = (folder.resolve(), threading.get_ident()) if folder is not None else None
    if folder is None or key is None or key in _held:
        yield
        return
    with contextlib.ExitStack() as stack:
        distributed.once(lambda: stack.enter_context(_locked(folder)))
        stack.callback(_held.discard, key)
        _held.add(key)
        yield


def free(folder: Path) -> None:
    """InputError if a process works in the folder."""
    if (folder / LOCK).exists():
        with held(folder):
            pass


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / LOCK).open("a+", encoding="utf-8"))
        except OSError as error:
            raise _unwritable(folder, error) from error
        stack.enter_context(_lock(file, folder))
        file.seek(0)
        here, there = platform.node(), file.read(200)
        if there not in ("", here):
            warnings.warn(
                f"a process on {there} worked in {folder} and did not say that it ended; make sure that it has",
                stacklevel=2,
            )
        file.truncate(0)
        file.write(here)
        file.flush()
        stack.callback(file.truncate, 0)
        yield


@contextlib.contextmanager
def _lock(file: IO[str], folder: Path) -> Iterator[None]:
    """Hold the lock of a file; where a disk or a system has none, say so and go on."""
    try:
        import fcntl  # not on Windows

        until = time.monotonic() + PATIENCE
        while not _taken(fcntl, file):
            if time.monotonic() > until:
                raise InputError(
                    f"another process is at work in {folder}; wait until it has ended, or name another folder"
                )
            time.sleep(0.05)
    except (OSError, ImportError) as error:
        warnings.warn(
            f"{folder} cannot be locked ({error}), as on some network disks: make sure that nobody else works there",
            stacklevel=2,
        )
        yield
        return
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # closing it is not enough while a child of this process has it open


def _taken(fcntl: Any, file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the systems differ
        return False
    return True


def _unwritable(folder: Path, error: OSError) -> OSError:
    return OSError(f"the output folder {folder} cannot be written ({error.strerror or error})")


# --- what run it is --------------------------------------------------------------------------------------------------


def begun(folder: Path, settings: dict[str, Any], resume: bool) -> Checkpoint | None:
    """Make the folder, which is `held`, that of the run with these settings; return what this run has saved there.

    Raises
    ------
    FileExistsError
        If it holds a run, and `resume` is False.
    InputError
        If it holds another run, or nobody can tell which.
    """
    found = [name for name in (RUN, LAST, BEST) if (folder / name).exists()]
    if found and not resume:
        raise FileExistsError(f"{folder} already holds a run; resume it, or name another folder")
    if found and RUN not in found:
        raise InputError(f"{folder} holds {found[0]} but no {RUN}: what run that was cannot be told")
    if found:
        for key, was, now in differences(checkpoints.read_json(folder / RUN), settings):
            raise InputError(
                f"the run in {folder} was started with another {key}: {was}, now {now}; "
                "resume with the same settings, or name another folder"
            )
    _describe(folder, settings | {"threads": threads(folder)}, new=not found)
    return checkpoints.read(folder / LAST) if LAST in found else None


def _describe(folder: Path, content: dict[str, Any], new: bool) -> None:
    """Write `run.json`; a new one only where there is none, for disks that cannot lock."""
    draft = folder / f".{RUN}.{secrets.token_hex(4)}.partial"  # whose name says that it may be cleaned up
    try:
        checkpoints.write_json(draft, content)
        (_put if new else os.replace)(draft, folder / RUN)
    except FileExistsError as error:
        raise InputError(f"another process has begun a run in {folder} just now; name another folder") from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        draft.unlink(missing_ok=True)


def _put(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a disk without links
        os.replace(draft, path)


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield each setting that differs: its name, what is found and what wanted; of two dicts, only what differs."""
    for key, now in wanted.items():
        was = found.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            keys = [name for name in was | now if was.get(name) != now.get(name)]
            was, now = ({name: of.get(name) for name in keys} for of in (was, now))
        if was != now:
            yield key, was, now


# --- its threads -----------------------------------------------------------------------------------------------------


def threads(folder: Path | None) -> int:
    """Processor threads of the run in a folder; those of this process where there is none, or it does not say."""
    file = folder / RUN if folder is not None else None
    own = checkpoints.read_json(file, _Begun).threads if file and file.exists() else None
    return own or torch.get_num_threads()


@contextlib.contextmanager
def own_threads(folder: Path | None) -> Iterator[None]:
    """Compute with the threads of the run in a folder: sums over other numbers of threads have other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(distributed.once(lambda: threads(folder)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
