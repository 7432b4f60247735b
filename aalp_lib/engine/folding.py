"""Layers as an attack needs them on a CPU: the same function of the image, with less work for its gradient.

Two things are left out. A batch norm in evaluation mode is a scale and a shift for each channel, which the convolution
before it can do along the way. And the backward pass of a first convolution leaves most of a processor idle: an image
has one or three channels, while the vector units compute some sixteen at once. The same sums, gathered for a block of
b × b pixels as b² output channels, are an ordinary convolution with stride b.

Only layers of a private copy of a network (`copies.private`) are changed.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

Pairs = tuple[tuple[str, str], ...]  # names of a convolution and of the batch norm that alone takes what it gives
BLOCKS = {1: 4, 2: 2, 3: 2, 4: 2}  # input channels: side of a block, so that both together fill the units


class Fold:
    """Makes the layers of a private copy lean, and tells whether what it computed can be taken.

    A network may go another way than the one on which `pairs` were found. What a convolution gave then does not come to
    its batch norm next, or comes to nothing.

    Parameters
    ----------
    network : nn.Module
        The copy, in evaluation mode on the CPU; its weights must not change afterwards.
    pairs : as `pairs` finds them
    """

    def __init__(self, network: nn.Module, pairs: Pairs) -> None:
        self.on = bool(pairs)
        self.waiting: dict[str, Tensor] = {}  # by convolution, what its batch norm has not taken yet
        for conv, norm in pairs:
            self._join(conv, network.get_submodule(conv), network.get_submodule(norm))
        for layer in network.modules():
            if _first(layer):
                layer.forward = _forward(layer)  # type: ignore[arg-type]

    def begin(self) -> None:
        """Before the network is called."""
        self.waiting.clear()

    def failed(self) -> bool:
        """After that: whether its logits are wrong. From then on its layers compute what they stand for."""
        failed = bool(self.waiting)
        self.on = self.on and not failed
        return failed

    def _join(self, name: str, conv: Any, norm: Any) -> None:
        both, first, second = _forward(conv, norm), _forward(conv), norm.forward

        def convolve(x: Tensor) -> Tensor:
            if not self.on:
                out: Tensor = first(x)
            else:
                out = both(x)
                self.waiting["" if name in self.waiting else name] = out
            return out

        def normalise(x: Tensor) -> Tensor:
            if not self.on:
                out: Tensor = second(x)
                return out
            if self.waiting.get(name) is x:
                return self.waiting.pop(name)
            self.waiting[""] = x
            return x

        conv.forward, norm.forward = convolve, normalise


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


def _plain(layer: nn.Module) -> bool:
    """Whether nobody watches or changes what goes through a layer."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return "forward" not in vars(layer) and not hooked


def _first(layer: nn.Module) -> bool:
    """Whether a layer is a convolution whose input's gradient can be gathered in blocks."""
    return (
        type(layer) is nn.Conv2d
        and _plain(layer)
        and layer.in_channels in BLOCKS
        and layer.groups == 1
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and layer.kernel_size[0] == layer.kernel_size[1]
        and not isinstance(layer.padding, str)
        and layer.padding[0] == layer.padding[1] < layer.kernel_size[0]
    )


def _forward(layer: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> Callable[[Tensor], Tensor]:
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


def pairs(network: nn.Module, x: Tensor) -> Pairs:
    """Convolutions whose output goes to a batch norm and nowhere else, seen on images (N, C, H, W).

    `network` is a private copy to be thrown away: its layers are watched.
    """
    if not any(type(module) is nn.BatchNorm2d for module in network.modules()):
        return ()
    watch = _Watch(network)
    with watch:
        network(x)
    return tuple((conv, norm) for norm, conv in watch.taken.items() if watch.once(conv, norm))


class _Watch(TorchFunctionMode):
    """Follows what convolutions give, in this thread alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.given: dict[int, tuple[str, Tensor]] = {}  # by id, which stays the tensor's own as long as it is held
        self.calls: Counter[str] = Counter()
        self.used: set[str] = set()  # convolutions whose output something else takes, too
        self.taken: dict[str, str] = {}
        self.inside = False  # a batch norm
        for name, layer in network.named_modules():
            if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and _plain(layer):
                layer.forward = self._convolution(name, layer.forward)  # type: ignore[assignment, method-assign]
            if type(layer) is nn.BatchNorm2d and layer.running_mean is not None and _plain(layer):
                layer.forward = self._norm(name, layer.forward)  # type: ignore[assignment, method-assign]

    def once(self, conv: str, norm: str) -> bool:
        return conv not in self.used and self.calls[conv] == self.calls[norm] == 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.inside:
            self.used |= {self.given[id(t)][0] for t in _pytree.tree_leaves((args, kwargs)) if id(t) in self.given}
        return func(*args, **(kwargs or {}))

    def _convolution(self, name: str, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def watched(x: Tensor) -> Tensor:
            out = forward(x)
            self.given[id(out)] = name, out
            self.calls[name] += 1
            return out

        return watched

    def _norm(self, name: str, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def watched(x: Tensor) -> Tensor:
            self.calls[name] += 1
            if id(x) in self.given:
                conv, _ = self.given[id(x)]
                self.used |= {conv} & set(self.taken.values())
                self.taken[name] = conv
            self.inside = True
            try:
                return forward(x)
            finally:
                self.inside = False

        return watched
