"""A network as an attack needs it on a CPU: the same function of the image, with less work for its gradient.

Three things are left out. A large batch makes tensors that leave the processor's cache, and for which the system maps
memory anew in every layer; in parts, one after the other, the same images take less time and memory. A batch norm in
evaluation mode is a scale and a shift for each channel, which the convolution before it can do along the way. And the
backward pass of a first convolution leaves most of a processor idle: an image has one or three channels, while the
vector units compute some sixteen at once. The same sums, gathered for a block of b × b pixels as b² output channels,
are an ordinary convolution with stride b.
"""

import collections
import contextlib
import copy
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]
BLOCKS = {1: 4, 2: 2, 3: 2, 4: 2}  # input channels: side of a block, so that both together fill the units
PART = 128  # images; the fastest for LeNet and ResNet-32, and ResNet-9 does not mind
_enabled = True


@contextlib.contextmanager
def switched(on: bool) -> Iterator[None]:
    """Inside, attacks see networks lean or as they are; on from the start."""
    global _enabled
    before, _enabled = _enabled, on
    try:
        yield
    finally:
        _enabled = before


@contextlib.contextmanager
def network(model: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, `model` computes the same, but for rounding, with less work; its weights get no gradient there.

    Batch norms in evaluation mode that follow a convolution are folded into it. Convolutions with one to four input
    channels, stride and dilation 1 and a square kernel pass the gradient on in blocks of pixels. Layers with hooks, on
    another device than the CPU or of a kind of their own are left as they are, and so is a function that is no module.
    Weights must not change inside. Afterwards everything is as it was.
    """
    changed: list[nn.Module] = []
    if _enabled and isinstance(model, nn.Module):
        changed = _changed(model)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def parts(model: Callable[[Tensor], Tensor], rows: Tensor) -> Sequence[Tensor]:
    """Split row numbers (N,) of a batch into parts to attack one after the other; one part where that cannot help.

    Only a module in evaluation mode on the CPU is known to treat every image on its own and to gain by it.
    """
    apart = _enabled and isinstance(model, nn.Module) and not model.training and rows.device.type == "cpu"
    return rows.split(PART) if apart and len(rows) > PART else (rows,)


def block_weights(weight: Tensor, block: int) -> Tensor:
    """Weights of the convolution that gathers gradients of blocks of pixels.

    Parameters
    ----------
    weight : (O, C, K, K)
        Of the convolution whose input gradient is wanted, stride 1.
    block : int
        Side b of a block.

    Returns
    -------
    Tensor (C b b, O, K + b - 1, K + b - 1)
        For stride b; `pixel_shuffle` puts its output channels in their places.
    """
    outputs, channels, size, _ = weight.shape
    turned = weight.flip(2, 3).transpose(0, 1)  # (C, O, K, K)
    gathered = weight.new_zeros(channels, block, block, outputs, size + block - 1, size + block - 1)
    for down, right in itertools.product(range(block), repeat=2):
        gathered[:, down, right, :, down : down + size, right : right + size] = turned
    return gathered.flatten(0, 2).to(memory_format=torch.channels_last)


def _changed(model: nn.Module) -> list[nn.Module]:
    """Give layers of `model` a leaner `forward`; returns them."""
    pairs = [(conv, norm) for conv, norm in _pairs(model) if _plain(conv) and _plain(norm) and not norm.training]
    norms = dict(pairs)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and (m in norms or _first(m)) and _plain(m)]
    for layer in convolutions:
        layer.forward = _forward(layer, norms.get(layer))  # type: ignore[assignment, method-assign]
    for norm in norms.values():
        norm.forward = _unchanged  # type: ignore[assignment, method-assign]
    return [*convolutions, *norms.values()]


def _plain(layer: nn.Conv2d | nn.BatchNorm2d) -> bool:
    """Whether a layer is torch's own, on the CPU, and nobody watches or changes what goes through it."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return "forward" not in vars(layer) and not hooked and all(p.device.type == "cpu" for p in layer.parameters())


def _first(layer: nn.Conv2d) -> bool:
    """Whether the gradient of its input can be gathered in blocks."""
    return (
        type(layer) is nn.Conv2d
        and layer.in_channels in BLOCKS
        and layer.groups == 1
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and layer.kernel_size[0] == layer.kernel_size[1]
        and not isinstance(layer.padding, str)
        and layer.padding[0] == layer.padding[1] < layer.kernel_size[0]
    )


def _unchanged(x: Tensor) -> Tensor:
    return x


def _forward(layer: nn.Conv2d, norm: nn.BatchNorm2d | None) -> Callable[[Tensor], Tensor]:
    """What a convolution does, and the batch norm after it."""
    weight, bias = _folded(layer, norm)
    block = BLOCKS[layer.in_channels] if _first(layer) else 0
    blocks = block_weights(weight, block) if block else weight

    def forward(x: Tensor) -> Tensor:
        if block and x.requires_grad and x.ndim == 4 and x.shape[2] % block == x.shape[3] % block == 0:
            out: Tensor = _Convolution.apply(x, weight, bias, int(layer.padding[0]), blocks, block)
            return out
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    return forward


def _folded(layer: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    """Weights and bias, detached, of a convolution and a batch norm in evaluation mode in one."""
    weight, bias = layer.weight.detach(), layer.bias.detach() if layer.bias is not None else None
    if norm is None:
        return weight, bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.detach()
    shift = -norm.running_mean * scale if bias is None else (bias - norm.running_mean) * scale
    shift = shift if norm.bias is None else shift + norm.bias.detach()
    return weight * scale.view(-1, 1, 1, 1), shift


class _Convolution(torch.autograd.Function):
    """`conv2d` with stride 1 whose gradient goes to the images alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, blocks: Tensor, block: int
    ) -> Tensor:
        ctx.blocks, ctx.block, ctx.padding = blocks, block, weight.shape[2] - 1 - padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        blocks = ctx.blocks.to(gradient.dtype)
        found = F.conv2d(gradient, blocks, stride=ctx.block, padding=ctx.padding)  # (N, C b b, H/b, W/b)
        return F.pixel_shuffle(found, ctx.block), None, None, None, None, None


# --- which batch norm follows which convolution ----------------------------------------------------------------------

_known: "weakref.WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], list[Pair]]]" = weakref.WeakKeyDictionary()


def _pairs(model: nn.Module) -> list[Pair]:
    """Convolutions whose output goes to a batch norm and nowhere else, found once for a network by tracing a copy."""
    parts = tuple(id(module) for module in model.modules())
    if _known.get(model, ((), []))[0] != parts:
        _known[model] = parts, _traced(model) if any(type(m) is nn.BatchNorm2d for m in model.modules()) else []
    return _known[model][1]


def _traced(model: nn.Module) -> list[Pair]:
    try:
        graph = torch.fx.Tracer().trace(copy.deepcopy(model))
    except Exception:  # runs the network's own code, which may raise anything
        return []
    modules, found = dict(model.named_modules()), []
    calls = collections.Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, torch.fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        conv, norm = modules[str(before.target)], modules[str(node.target)]
        once = calls[str(before.target)] == calls[str(node.target)] == 1
        if once and _foldable(conv, norm):
            found.append((conv, norm))
    return found


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    return (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and type(norm) is nn.BatchNorm2d
        and norm.running_mean is not None
    )
