"""The attack loop as a CUDA graph: a step recorded once and replayed, without Python between its kernels.

The networks of the paper are so small that a GPU waits for the launches of their kernels. A recorded step reads and
writes tensors that stay where they are, so a batch is copied into them first; from the same start it makes the same
images as the plain loop. Where recording fails there is one warning, and the plain loop goes on.
"""

import collections
import contextlib
import itertools
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aalp_lib.engine.precision import tf32

Tensors = tuple[Tensor, ...]
Step = Callable[..., Tensors]
WARM_UP = 3
WORTH = 20  # steps from which a batch of a shape that was not seen before is recorded at once

_enabled = os.environ.get("AALP_GRAPHS", "1") != "0"
_failed = False
_one_at_a_time = threading.RLock()
# by device and stream; weak, since a model that goes takes its graphs with it, if not the memory that others share
_graphs: dict[tuple[int, int], "weakref.WeakSet[torch.cuda.CUDAGraph]"] = collections.defaultdict(weakref.WeakSet)


@contextlib.contextmanager
def switched(on: bool) -> Iterator[None]:
    """Inside, attacks on CUDA record their loop or do not. `AALP_GRAPHS=0` in the environment: off from the start."""
    global _enabled
    before, _enabled = _enabled, on
    try:
        yield
    finally:
        _enabled = before


def usable(device: torch.device) -> bool:
    """Whether steps can be recorded on this device."""
    return device.type == "cuda"


def record(step: Callable[[], None]) -> Callable[[], None]:
    """Record what `step` does on the GPU, and return what does it again; `step` runs a few times here.

    What `step` allocates shares its memory with the other recordings for this device and stream: there they run one
    after the other, and they leave nothing in it. Each shape of a batch with memory of its own would take gigabytes.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    others = _graphs[torch.cuda.current_device(), torch.cuda.current_stream().cuda_stream]
    other = next(iter(others), None)  # held until the end, or its memory might go before this recording has begun
    with torch.cuda.graph(graph, pool=other.pool() if other else None, capture_error_mode="thread_local"):
        step()
    others.add(graph)
    return graph.replay


class Recording:
    """A recorded step, and where it reads and writes.

    Attributes
    ----------
    state, fixed : tuples of tensors
        What a step goes on from, and what stays the same from step to step; scalars, or a row for each image.
    replay : callable
        Does a step in place: what `step` makes of both becomes the state.
    """

    def __init__(self, step: Step, state: Tensors, fixed: Tensors) -> None:
        self.state, self.fixed = (tuple(torch.zeros_like(t) for t in tensors) for tensors in (state, fixed))
        self.replay = record(lambda: self._advance(step))

    def begin(self, state: Tensors, fixed: Tensors) -> Tensors:
        """Put a batch in place, repeating rows up to what there is place for; return where its state will be."""
        for place, given in zip(self.state + self.fixed, state + fixed, strict=True):
            same = not place.ndim or len(place) == len(given)
            place.copy_(given if same else given[torch.arange(len(place), device=place.device) % len(given)])
        return tuple(place[: len(state[0])] if place.ndim else place for place in self.state)

    def _advance(self, step: Step) -> None:
        # without its cache, autocast casts the weights anew in every replay: training changes them in between
        kind = self.state[0].device.type
        dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
            found = step(*self.state, *self.fixed)
        for place, new in zip(self.state, found, strict=True):
            place.copy_(new)


@dataclass
class _Entry:
    """What is known of a network and a shape of batches: how often it came, and its recording, once there is one."""

    valid: tuple[Any, ...]
    seen: int = 0
    recording: Recording | None = None


class _Known(threading.local):
    """A thread has recordings of its own: two that replay one would write into each other's batches."""

    def __init__(self) -> None:
        self.entries: weakref.WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], _Entry]] = weakref.WeakKeyDictionary()


_known = _Known()


def wanted(forward: object, device: torch.device) -> bool:
    """Whether steps are to be recorded; not for a plain function, since nothing tells when its tensors move."""
    return _enabled and not _failed and usable(device) and hasattr(forward, "original")


def stepper(
    forward: Any, kind: str, step: Step, state: Tensors, fixed: Tensors, steps: int, few: bool = False
) -> Callable[..., Tensors]:
    """What makes the next state of the one before: recorded where that pays, else `step` itself.

    Parameters
    ----------
    forward : Prepared, or any function
        What `step` calls.
    kind : str
        What else `step` depends on.
    step : callable
        Maps state and what is fixed to the next state.
    state, fixed : tuples of tensors
        To begin with; images come first.
    steps : int
        A batch of a new shape with few steps is recorded only when it comes again: the last of an epoch never does.
    few : bool
        Whether to make do with few sizes of batches, since this one may have any.

    Returns
    -------
    callable
        To be called with what it returned last, at first with `state`. What it returns may be overwritten by the next.
    """
    if wanted(forward, state[0].device) and len(state[0]):
        recording = _recording(forward, kind, step, state, fixed, steps, few)
        if recording is not None:
            places = recording.begin(state, fixed)

            def advance(*_: Tensor) -> Tensors:
                recording.replay()
                return places

            return advance
    return lambda *now: step(*now, *fixed)


def few_sizes(needed: int) -> int:
    """`needed`, rounded up to one of at most eight sizes an octave: each size is recorded once."""
    unit = max(32, (1 << (needed - 1).bit_length()) >> 4)
    return -(-needed // unit) * unit


def _recording(
    forward: Any, kind: str, step: Step, state: Tensors, fixed: Tensors, steps: int, few: bool
) -> Recording | None:
    x, network = state[0], forward.network
    size = few_sizes(len(x)) if few else len(x)
    shapes = tuple((t.shape[1:], t.stride(), t.dtype) for t in state + fixed)
    cast = (torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type), tf32())
    stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
    addresses = tuple(t.data_ptr() for t in itertools.chain(network.parameters(), network.buffers()))
    entries, valid = _known.entries.setdefault(forward.original(), {}), (forward.key, addresses)
    key = (kind, size, stream, *shapes, *cast)
    entry = entries.get(key)
    if entry is None or entry.valid != valid:
        entry = entries[key] = _Entry(valid)
    entry.seen += 1
    if entry.recording is None and (steps >= WORTH or entry.seen > 1):
        entry.recording = _recorded(step, _sized(state, size), _sized(fixed, size), x.device)
    return entry.recording


def _sized(tensors: Tensors, rows: int) -> Tensors:
    """Tensors like these, of so many rows and in the same memory format."""
    return tuple(t[:1].expand(rows, *t.shape[1:]).clone(memory_format=_format(t)) if t.ndim else t for t in tensors)


def _format(t: Tensor) -> torch.memory_format:
    last = t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _recorded(step: Step, state: Tensors, fixed: Tensors, device: torch.device) -> Recording | None:
    global _failed
    try:
        with _one_at_a_time, torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            return Recording(step, state, fixed)
    except RuntimeError as error:
        _failed = True
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        warnings.warn(
            f"the attack loop could not be recorded as a CUDA graph, it runs step by step ({first})", stacklevel=2
        )
        return None
