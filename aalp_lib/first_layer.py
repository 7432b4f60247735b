"""The gradient of a first convolution with respect to the image, several times faster on a CPU.

An image has one or three channels, but the vector units of a processor compute some sixteen at once. The usual backward
pass of a first convolution leaves most of them idle and takes a large part of an attack's time on a small network. The
same sums, gathered for a block of b × b pixels as b² output channels, are an ordinary convolution with stride b.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = {1: 4, 2: 2, 3: 2, 4: 2}  # input channels: side of a block, so that both together fill the units
_enabled = True


@contextlib.contextmanager
def switched(on: bool) -> Iterator[None]:
    """Inside, attacks take the gradient in blocks of pixels or do not; on from the start."""
    global _enabled
    before, _enabled = _enabled, on
    try:
        yield
    finally:
        _enabled = before


@contextlib.contextmanager
def in_blocks(model: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, the first convolutions of `model` pass gradients on to images alone, in blocks of pixels.

    No number changes beyond rounding. Meant are convolutions on the CPU with one to four input channels, stride and
    dilation 1 and a square kernel; any other layer, and a function that is no module, is left as it is. Weights get no
    gradient and must not change inside; afterwards everything is as it was.
    """
    modules = model.modules() if _enabled and isinstance(model, nn.Module) else ()
    layers = [module for module in modules if isinstance(module, nn.Conv2d) and _fits(module)]
    for layer in layers:
        layer.forward = _forward(layer)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


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
    for down in range(block):
        for right in range(block):
            gathered[:, down, right, :, down : down + size, right : right + size] = turned
    return gathered.flatten(0, 2).to(memory_format=torch.channels_last)


class _Convolution(torch.autograd.Function):
    """`conv2d` with stride 1 whose gradient goes to the images alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Conv2d, blocks: Tensor, block: int) -> Tensor:
        ctx.blocks, ctx.block, ctx.padding = blocks, block, layer.kernel_size[0] - 1 - int(layer.padding[0])
        return F.conv2d(x, layer.weight, layer.bias, padding=layer.padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        blocks = ctx.blocks.to(gradient.dtype)
        found = F.conv2d(gradient, blocks, stride=ctx.block, padding=ctx.padding)  # (N, C b b, H/b, W/b)
        return F.pixel_shuffle(found, ctx.block), None, None, None


def _fits(module: nn.Conv2d) -> bool:
    return (
        type(module) is nn.Conv2d
        and "forward" not in vars(module)
        and module.weight.device.type == "cpu"
        and module.in_channels in BLOCKS
        and module.groups == 1
        and module.stride == module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and module.kernel_size[0] == module.kernel_size[1]
        and not isinstance(module.padding, str)
        and module.padding[0] == module.padding[1] < module.kernel_size[0]
    )


def _forward(layer: nn.Conv2d) -> Callable[[Tensor], Tensor]:
    block = BLOCKS[layer.in_channels]
    blocks = block_weights(layer.weight.detach(), block)
    plain = layer.forward

    def forward(x: Tensor) -> Tensor:
        if not x.requires_grad or x.ndim != 4 or x.shape[2] % block or x.shape[3] % block:
            return plain(x)
        out: Tensor = _Convolution.apply(x, layer, blocks, block)
        return out

    return forward
