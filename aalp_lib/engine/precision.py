"""Precision: float32 without TF32, what float32 decides, and which precision is faster, measured once for a network."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from aalp_lib import losses

if TYPE_CHECKING:
    from aalp_lib.engine.network import Prepared

Precision = Literal["float32", "bfloat16", "auto"]
PRECISIONS = ("float32", "bfloat16", "auto")
ROUNDS = 5
WORTH = 1.1  # bfloat16 has to be that much faster to be taken

_known: dict[tuple[object, ...], Precision] = {}


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Inside, float32 on a GPU is float32: torch's default rounds what convolutions multiply to 10 bits (TF32)."""
    switches = _switches()
    before = [getattr(place, name) for place, name, _ in switches]
    try:
        for place, name, off in switches:
            setattr(place, name, off)
        yield
    finally:
        for (place, name, _), value in zip(switches, before, strict=True):
            setattr(place, name, value)


def tf32() -> bool:
    """Whether float32 convolutions on a GPU use TF32 now."""
    place, name, _ = _switches()[0]
    return getattr(place, name) in (True, "tf32")


def _switches() -> list[tuple[Any, str, Any]]:
    """What allows TF32, convolutions first: an object, its attribute, and the value for "no"."""
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    try:
        _ = cudnn.allow_tf32, matmul.allow_tf32
    except RuntimeError:  # somebody has used torch 2.9's switches, after which the old ones cannot be read
        return [(part, "fp32_precision", "ieee") for part in (cudnn.conv, cudnn.rnn, matmul)]
    return [(part, "allow_tf32", False) for part in (cudnn, matmul)]


def misread(logits: Tensor, y: Tensor) -> Tensor:
    """Where the largest of the logits (N, K) is not that of the label (N,), or there is a NaN: bool (N,)."""
    return (logits.argmax(1) != y) | logits.isnan().any(1)


def wrong(
    forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, logits: Tensor | None = None, *, sure: bool = True,
    fooled: Callable[[Tensor, Tensor], Tensor] = misread,
) -> Tensor:  # fmt: skip
    """Which images (N, C, H, W) are classified otherwise than their labels (N,) say, bool (N,); NaN is no class.

    Parameters
    ----------
    logits : (N, K), optional
        Of `x`, where they are known. Those of bfloat16 autocast do not decide.
    sure : bool
        Whether float32 is asked about all images then, or about those alone that bfloat16 calls wrong.
    fooled : callable
        What else is to count as wrong: maps logits and labels to bool (N,).
    """
    if logits is not None and logits.dtype == x.dtype:
        return fooled(logits, y)
    if sure or logits is None:
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return fooled(forward(x), y)
    asked = fooled(logits, y).nonzero()[:, 0]
    found = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    if len(asked):
        found[asked] = wrong(forward, x[asked], y[asked], fooled=fooled)
    return found


def faster(model: "Prepared", x: Tensor, y: Tensor) -> Precision:
    """Say "float32" or "bfloat16", whichever gives the input gradient of this batch sooner, measured in turns.

    Parameters
    ----------
    model : Prepared
    x, y : (N, C, H, W) and (N,)
        A batch like those to come.
    """
    weights = tuple(tuple(weight.shape) for weight in model.network.parameters())
    key = (weights, tuple(x.shape), x.device.type, torch.get_num_threads())
    if key not in _known:
        seconds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
        for _ in range(ROUNDS + 1):
            for precision, times in seconds.items():
                times.append(_gradient_seconds(model, x, y, precision))
        plain, half = (statistics.median(times[1:]) for times in seconds.values())  # the first is the warm-up
        _known[key] = "bfloat16" if half * WORTH < plain else "float32"
    return _known[key]


def _gradient_seconds(model: "Prepared", x: Tensor, y: Tensor, precision: str) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    began = time.perf_counter()
    with torch.enable_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        image = x.detach().requires_grad_()
        torch.autograd.grad(losses.cross_entropy(model(image), y).sum(), image)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - began
