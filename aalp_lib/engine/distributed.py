"""One training on several processes, as torchrun starts them: which rows are whose, and what all of them agree on.

On one process nothing here costs anything, and every function gives back what it was given.
"""

import contextlib
import functools
import gc
import importlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from aalp_lib import _checks
from aalp_lib._checks import InputError

T = TypeVar("T")


# --- who is there ----------------------------------------------------------------------------------------------------


def world_size() -> int:
    """Number of processes in torch.distributed's group; 1 where there is none."""
    return dist.get_world_size() if _in_group() else 1


def rank() -> int:
    """Number of this process, from 0; 0 writes files and shows progress."""
    return dist.get_rank() if _in_group() else 0


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def launched() -> int:
    """Number of processes that torchrun started along with this one, itself included; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_available() and dist.is_torchelastic_launched() else 1


def device(name: str) -> torch.device:
    """The device called `name`, as everywhere; under torchrun, "auto" and "cuda" are the GPU of the LOCAL_RANK."""
    if launched() > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        local, gpus = _local_rank(), torch.cuda.device_count()
        if local >= gpus:
            raise InputError(f"torchrun started more processes here than there are GPUs ({gpus}); or use device 'cpu'")
        name = f"cuda:{local}"
    return _checks.device(name)


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", rank()))


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Under torchrun, be in a group of all its processes: NCCL on `device` "cuda:N", gloo elsewhere.

    Nothing happens without torchrun, or in a group that is there already. `fit` does this by itself; a script that asks
    for its `rank`, or loads `in_turn`, does it around everything.
    """
    if launched() == 1 or _in_group():
        yield
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    importlib.import_module("torch._dynamo")  # imported by DistributedDataParallel, inside it would hold the group
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=_store(f"aalp_lib {next(_joins)}"),
        rank=int(os.environ["RANK"]),
        world_size=launched(),
        device_id=device if on_gpu else None,
    )
    try:
        yield
    except BaseException:
        if not on_gpu:  # the others' next exchange then fails; NCCL would wait for them, but torchrun ends them
            _leave()
        raise
    _leave()


_joins = itertools.count()  # the same on every rank


def _store(name: str) -> Any:
    """What torchrun's processes find each other by; under a name of its own, a group never reads a former one's."""
    return dist.PrefixStore(name, _torchruns_store())  # type: ignore[attr-defined]


@functools.cache
def _torchruns_store() -> Any:
    from torch.distributed.rendezvous import rendezvous  # not in every build of torch

    return next(rendezvous("env://"))[0]


def _leave() -> None:
    gc.collect()  # DistributedDataParallel is a cycle that holds the group; gloo may abort when Python ends with one
    dist.destroy_process_group()


# --- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """A rank's rows of a batch.

    Attributes
    ----------
    rows : slice
    of : int
        Number of rows of the whole batch.
    weight : float
        What this rank's mean over its rows is multiplied by, so that the mean over ranks, which
        DistributedDataParallel takes of gradients, is the mean over the batch.
    """

    rows: slice
    of: int
    weight: float


def shard(of: int) -> Shard:
    """This rank's rows of a batch of `of`: every world_size()-th, from rank() on.

    A batch with fewer rows than there are ranks goes to each of them whole: a rank without any rows would have no
    gradient to bring, and the mean over ranks is the same.

    Examples
    --------
    >>> shard(5)
    Shard(rows=slice(0, None, 1), of=5, weight=1.0)
    """
    if of < world_size():
        return Shard(slice(None), of, 1.0)
    rows = slice(rank(), None, world_size())
    return Shard(rows, of, len(range(of)[rows]) * world_size() / of)


def mean(values: Tensor, rows: int) -> Tensor:
    """Mean over ranks of `values`, same shape on each, a rank counting as often as it has rows; same bits everywhere.

    Every rank must call it.
    """
    if world_size() == 1:
        return values
    summed = torch.cat([values.flatten() * rows, values.new_tensor([rows])])
    dist.all_reduce(summed)
    return (summed[:-1] / summed[-1]).view_as(values)


# --- agreement: every rank must call these ---------------------------------------------------------------------------


def on_any(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is true on any rank."""
    if world_size() == 1:
        return flag
    found = torch.tensor(int(flag), device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def gathered(value: T) -> list[T]:
    """The `value` of each rank, in their order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def once(action: Callable[[], T]) -> T:
    """Do `action` on rank 0 alone; every rank returns its result, or raises its error."""
    if world_size() == 1:
        return action()
    outcome: list[Any] = list(_tried(action)) if rank() == 0 else [None, None]
    dist.broadcast_object_list(outcome)
    return _result(*outcome)


def in_turn(action: Callable[[], T]) -> T:
    """Do `action`, a download say, on one rank of each machine first, then on the others; an error there is all's."""
    if world_size() == 1:
        return action()
    first = _local_rank() == 0
    found, error = _tried(action) if first else (None, None)
    for other in gathered(error):
        _result(None, other)
    return found if first else action()  # type: ignore[return-value]


def _tried(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return action(), None
    except Exception as error:
        return None, error


def _result(found: Any, error: Exception | None) -> Any:
    if error is not None:
        raise error
    return found


# --- networks --------------------------------------------------------------------------------------------------------


def parallel(module: nn.Module) -> nn.Module:
    """`module` in DistributedDataParallel, with rank 0's weights everywhere; on one process, `module` itself."""
    if world_size() == 1:
        return module
    return DistributedDataParallel(module, static_graph=True)  # a static graph may leave weights unused


@contextlib.contextmanager
def synced_norms(model: nn.Module) -> Iterator[None]:
    """On several GPUs, let batch norm see the whole batch; afterwards `model` has its own layers back.

    Raises
    ------
    InputError
        On several processes without CUDA, if a batch norm is to be trained: torch synchronises it on CUDA alone.
    """
    norms = _norms(model) if world_size() > 1 else {}
    if norms and next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    elif any(norm.training or not model.training for norm in norms.values()):  # in eval mode, all of it will be trained
        raise InputError(
            "a network with batch norm cannot be trained on several CPU processes: torch synchronises its statistics "
            "on CUDA alone, and those of a part of the batch would make another network; use one process with more "
            "threads, or GPUs"
        )
    try:
        yield
    finally:
        for name, norm in norms.items():  # weights and statistics are shared with what stood in for it
            norm.training = model.get_submodule(name).training
            model.set_submodule(name, norm)


def _norms(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, _BatchNorm)}
