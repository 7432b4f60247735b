"""Long measurements that go on where they were cut off: what is done is kept in files until all of it is."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from torch import Tensor

from aalp_lib import checkpoints
from aalp_lib._checks import InputError
from aalp_lib.checkpoints import Checkpoint


@dataclass
class Work:
    """Where parts are kept, the seconds that earlier attempts spent on those that were read, and the names so far."""

    folder: Path
    seconds: float = 0.0
    names: set[str] = field(default_factory=set)


class _Part(msgspec.Struct):
    """What the description of a part's file says."""

    seconds: Annotated[float, msgspec.Meta(ge=0)]


# not an argument: between `resumable` and `part` lie evaluate, diagnose and auto_attack, which know nothing of files
_current: ContextVar[Work | None] = ContextVar("work that can be resumed", default=None)


@contextlib.contextmanager
def resumable(folder: Path | None, settings: Any, *tensors: Tensor) -> Iterator[Work]:
    """Inside, what goes through `part` is kept under `folder`, for the caller to delete once the result is safe.

    `settings`, anything that JSON can hold, and `tensors` are all that the work depends on; what an attempt with others
    has left is not read. With None for a folder nothing is kept.
    """
    if folder is None:
        yield Work(Path())
        return
    contents = json.dumps(settings).encode(), *(tensor.cpu().numpy().tobytes() for tensor in tensors)
    digests = b"".join(hashlib.sha256(one).digest() for one in contents)
    work = Work(folder / hashlib.sha256(digests).hexdigest()[:16])
    work.folder.mkdir(parents=True, exist_ok=True)
    token = _current.set(work)
    try:
        yield work
    finally:
        _current.reset(token)


def part(name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` gives; inside `resumable` on the CPU, and from the file of that name if an attempt left a whole one.

    Inside one `resumable` a name stands for one part: a second one raises RuntimeError instead of returning the first.
    """
    work = _current.get()
    if work is None:
        return make()
    if name in work.names:
        raise RuntimeError(f"'{name}' is done already in this work; what is resumable has one part of each name")
    work.names.add(name)
    file = work.folder / f"{name}.safetensors"
    with contextlib.suppress(FileNotFoundError, InputError):  # not there, damaged, or of another version: made anew
        found = checkpoints.read(file)
        work.seconds += found.described_as(_Part).seconds
        return found.tensors
    began = time.perf_counter()
    made = {key: tensor.cpu() for key, tensor in make().items()}
    checkpoints.write(file, Checkpoint(made, {"seconds": time.perf_counter() - began}))
    return made
