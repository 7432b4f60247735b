"""The attack loop as a CUDA graph: a step recorded once and replayed, without Python between its kernels.

The networks of the paper are so small that a GPU waits for the launches of their kernels. A recorded step reads and
writes tensors that stay where they are, so a batch is copied into them first; from the same start it makes the same
images as the plain loop. Where recording fails there is one warning, and the plain loop goes on.
"""

import collections
import contextlib
import itertools
import os
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aalp_lib.engine.precision import tf32

# images and what the loss compares with -> logits and gradient; images and logits -> the logits that decide
Gradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Decide = Callable[[Tensor, Tensor], Tensor]
WARM_UP = 3
WORTH = 20  # steps from which a batch of a shape that was not seen before is recorded at once

_enabled = os.environ.get("AALP_GRAPHS", "1") != "0"
_failed = False
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
    with torch.cuda.graph(graph, pool=other.pool() if other else None):
        step()
    others.add(graph)
    return graph.replay


class Loop:
    """Where a recorded step of an attack reads and writes, for batches of one shape.

    Attributes
    ----------
    x_adv, low, high : (N, C, H, W)
        Iterate and ball.
    y, target : (N,), and (N,) or (N, K)
        Labels, and what the loss compares with.
    step, k : scalars
        Length of a step; number of the iterate in `x_adv`.
    fooled : (N,) int64
        Number of the first iterate that was classified wrongly; what it was set to before, if none was.
    advance : callable
        Does a step in place.
    """

    def __init__(self, gradient: Gradient, decide: Decide | None, x: Tensor, y: Tensor, target: Tensor) -> None:
        self.x_adv, self.low, self.high = torch.zeros_like(x), torch.zeros_like(x), torch.ones_like(x)
        self.y, self.target = torch.zeros_like(y), torch.zeros_like(target)
        self.step, self.k = x.new_zeros(()), y.new_zeros(())
        self.fooled = torch.zeros_like(y)
        self.advance = record(lambda: self._step(gradient, decide))

    def begin(self, x_adv: Tensor, low: Tensor, high: Tensor, y: Tensor, target: Tensor, step: float) -> None:
        """Put a batch in place; the iterates count from 0."""
        self.x_adv.copy_(x_adv)
        self.low.copy_(low)
        self.high.copy_(high)
        self.y.copy_(y)
        self.target.copy_(target)
        self.step.fill_(step)
        self.k.zero_()

    def _step(self, gradient: Gradient, decide: Decide | None) -> None:
        # without its cache, autocast casts the weights anew in every replay: training changes them in between
        kind = self.x_adv.device.type
        dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
            logits, slope = gradient(self.x_adv, self.target)
            if decide is not None:
                wrong = decide(self.x_adv, logits).argmax(1) != self.y
                self.fooled.copy_(torch.where(wrong, torch.minimum(self.fooled, self.k), self.fooled))
        self.x_adv.copy_(self.x_adv.add(slope.sign() * self.step).clamp_(self.low, self.high))
        self.k.add_(1)


@dataclass
class _Entry:
    """What is known of a model and a shape of batches: how often it came, and its loop, if there is one by now."""

    addresses: tuple[int, ...]
    seen: int = 0
    loop: Loop | None = None


_known: "weakref.WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], _Entry]]" = weakref.WeakKeyDictionary()


def wanted(forward: Callable[[Tensor], Tensor], device: torch.device) -> bool:
    """Whether to record; not for a function that is no module, since nothing tells when its tensors move."""
    return _enabled and not _failed and usable(device) and isinstance(forward, nn.Module)


def loop_for(
    forward: nn.Module,
    kind: str,
    gradient: Gradient,
    decide: Decide | None,
    batch: tuple[Tensor, Tensor, Tensor],
    steps: int,
) -> Loop | None:
    """A recorded loop for a batch, or None where the plain one has to run; only where it is `wanted`.

    Parameters
    ----------
    forward : nn.Module
        The model.
    kind : str
        The loss.
    gradient, decide : callables
        What a step does.
    batch : x (N, C, H, W), y (N,), target (N,) or (N, K)
    steps : int
        A batch of a new shape with few steps is recorded only when it comes again: the last of an epoch never does.
    """
    x, y, target = batch
    layout = (x.shape, x.stride(), x.dtype, target.shape)
    cast = (torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type), tf32())
    stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
    key = (kind, decide is not None, forward.training, stream, *layout, *cast)
    addresses = tuple(t.data_ptr() for t in itertools.chain(forward.parameters(), forward.buffers()))
    entries = _known.setdefault(forward, {})
    entry = entries.get(key)
    if entry is None or entry.addresses != addresses:
        entry = entries[key] = _Entry(addresses)
    entry.seen += 1
    if entry.loop is None and (steps >= WORTH or entry.seen > 1):
        entry.loop = _recorded(gradient, decide, x, y, target)
    return entry.loop


def _recorded(gradient: Gradient, decide: Decide | None, x: Tensor, y: Tensor, target: Tensor) -> Loop | None:
    global _failed
    try:
        with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
            return Loop(gradient, decide, x, y, target)
    except RuntimeError as error:
        _failed = True
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        warnings.warn(
            f"the attack loop could not be recorded as a CUDA graph, it runs step by step ({first})", stacklevel=2
        )
        return None
