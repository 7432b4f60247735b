"""The door of the engine: a network as an attack sees it, in evaluation mode and as fast as it computes the same."""

import contextlib
import enum
import functools
import itertools
import logging
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aalp_lib import _checks
from aalp_lib._checks import InputError
from aalp_lib.engine import copies, folding, graphs

Forward = Callable[[Tensor], Tensor]
PART = 128  # images; the fastest for LeNet and ResNet-32, and ResNet-9 does not mind
CANNOT = (RuntimeError, IndexError, ValueError, TypeError, AssertionError, AttributeError)


@dataclass(frozen=True)
class _Seen:
    """What a first look at a network has found.

    How it is fastest, `layout` and `pairs`, holds as long as the network's structure and flags, `key`, do. The rest may
    change with what no key can hold, a global say, and is taken again where it matters, by `Prepared.look`.
    """

    key: tuple[Any, ...]
    classes: int
    layout: torch.memory_format
    pairs: folding.Pairs
    together: bool  # what it says of an image depends on the others in the batch, or on chance


_seen: "weakref.WeakKeyDictionary[nn.Module, _Seen]" = weakref.WeakKeyDictionary()


class Prepared:
    """Maps images (N, C, H, W) to logits (N, K), by a private copy of a network.

    Attributes
    ----------
    network : nn.Module
        The copy, in evaluation mode; its weights ask for no gradient.
    classes : int
        K.
    layout : torch.memory_format
        In which images are fastest.
    together : bool
        Whether the logits of an image alone are others than beside another image.
    """

    def __init__(self, network: nn.Module, copy: nn.Module, seen: _Seen, lean: bool) -> None:
        self.original = weakref.ref(network)  # weak, for recorded steps hold this and are found by the network
        self.network, self.key = copy, seen.key
        self.classes, self.layout, self.together = seen.classes, seen.layout, seen.together
        _lay_out(copy, seen.layout)
        self._fold = folding.Fold(copy, seen.pairs) if lean else None

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        if self._fold is None:
            return self._logits(x)
        self._fold.begin()
        logits = self._logits(x)
        return self._logits(x) if self._fold.failed() else logits

    def look(self, images: Tensor, company: bool = True) -> Tensor:
        """Logits of some images, checked; `classes` and, with `company`, `together` become what they are now."""
        with torch.no_grad():
            logits = _logits(self, usual(images))
            self.classes = logits.shape[1]
            if company:
                self.together = _together(self, usual(images), logits)
        return logits

    def _logits(self, x: Tensor) -> Tensor:
        own = self.laid_out(x)
        logits: Tensor = self.network(x.clone() if own is x else own)  # it may write into its images
        return logits

    def laid_out(self, x: Tensor) -> Tensor:
        """Images in the memory format that is fastest."""
        return x.to(memory_format=self.layout) if x.ndim == 4 else x


@contextlib.contextmanager
def prepared(
    network: nn.Module, images: Tensor, layout: torch.memory_format = torch.channels_last, *, look: bool = True
) -> Iterator[Prepared]:
    """Inside, a function from images to logits that computes what `network` does in evaluation mode, up to rounding.

    It sees the network as it is at the start. Of the network nothing is changed, at no time. Gradients can be taken
    inside, even within `torch.inference_mode()`.

    Parameters
    ----------
    network : nn.Module
        Of any kind; what computes other numbers in a faster way is computed as it stands.
    images : (N, C, H, W), floating point, N at least 1
        Some like those to come.
    layout : memory format
        To be used where the network can take it.
    look : bool
        Whether to look at the network anew, two small passes, also where it looks like the one seen before.

    Raises
    ------
    InputError
        If the network cannot take such images, or does not give logits (N, K) of at least two classes.
    """
    _checks.network(network)
    with torch.inference_mode(False):
        copy = copies.private(network, frozen=True)
        lean = images.device.type == "cpu" and not graphs.usable(images.device)
        key = _key(copy, images, layout)
        seen = _seen.get(network)
        if seen is None or seen.key != key:
            _seen[network] = seen = _looked_at(network, usual(images[:2]), layout, lean, key)
            look = False
        forward = Prepared(network, copy, seen, lean)
        if look:
            forward.look(images[:2])
        yield forward


def parts(forward: Forward, rows: Tensor) -> Sequence[Tensor]:
    """Split row numbers (N,) of a batch into parts to attack one after the other; one part where that cannot help.

    A large batch makes tensors that leave the processor's cache, and for which the system maps memory anew in every
    layer. Only a prepared network is known to treat every image on its own. No rows are no part.
    """
    apart = isinstance(forward, Prepared) and not forward.together and rows.device.type == "cpu"
    return [part for part in (rows.split(PART) if apart else (rows,)) if len(part)]


def warn_of_company(forward: Prepared) -> None:
    """Warn of a network that does not treat every image on its own: what an attack finds is then the batch's, too."""
    if forward.together:
        _checks.warn(
            "what the model says of an image depends on the other images in the batch, or on chance: batch norm "
            "without running statistics, say; other batches then give other results"
        )


def device_of(network: nn.Module) -> torch.device:
    """Where a network's first weight is, or its first buffer; the CPU for one without any."""
    _checks.network(network)
    first = next(itertools.chain(network.parameters(), network.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def laid_out(forward: Forward, x: Tensor) -> Tensor:
    """Images, detached, in the memory that is fastest for a prepared network."""
    x = usual(x)
    return forward.laid_out(x) if isinstance(forward, Prepared) else x


def usual(x: Tensor) -> Tensor:
    """A tensor, detached, which gradients can go through even if it was made in inference mode."""
    return x.clone() if x.is_inference() else x.detach()


# --- a first look ----------------------------------------------------------------------------------------------------


def _looked_at(
    network: nn.Module, images: Tensor, layout: torch.memory_format, lean: bool, key: tuple[Any, ...]
) -> _Seen:
    """Run copies on two images: first one as it stands, then the fastest that computes the same."""
    plain = torch.contiguous_format
    with torch.no_grad():
        copy = copies.private(network, frozen=True)
        with _untouched(network, copy):
            logits = _logits(copy, images.clone(memory_format=plain))
        together = _together(copies.private(network, frozen=True), images.clone(memory_format=plain), logits)
        pairs = _tried(lambda: folding.pairs(copies.private(network, frozen=True), images.clone())) if lean else None
        for tried in dict.fromkeys([(layout, pairs or ()), (layout, ()), (plain, pairs or ())]):
            seen = _Seen(key, logits.shape[1], *tried, together)
            found = _tried(functools.partial(_first_logits, network, images, seen, lean))
            if found is not None and _close(found, logits):
                return seen
    return _Seen(key, logits.shape[1], plain, (), together)


@contextlib.contextmanager
def _untouched(network: nn.Module, copy: nn.Module) -> Iterator[None]:
    """Refuse a network some original layer of which runs inside: its copy refers to that in a way that we cannot see.

    What changed of its buffers is set back.
    """
    shared = {id(buffer) for buffer in copy.buffers()}
    named = {name: b for name, b in network.named_buffers() if id(b) not in shared and not b.is_inference()}
    before = {name: buffer.detach().clone() for name, buffer in named.items()}
    changed: list[str] = []
    try:
        yield
    finally:
        for name, values in before.items():
            now = named[name].detach()  # its version does not tell: batch norm writes past it
            if bool(((now != values) & ~((now != now) & (values != values))).any()):
                now.copy_(values)
                changed.append(name)
    if changed:
        raise InputError(
            f"the model's {changed[0]} changes when a copy of the model in evaluation mode runs: the model reaches "
            "that layer in a way that cannot be copied; keep it as an attribute or in an nn.ModuleList"
        )


def _together(forward: Forward, images: Tensor, logits: Tensor) -> bool:
    """Whether the logits of the first of these images alone are others than beside the rest."""
    if len(images) < 2:
        return False
    alone = _tried(lambda: forward(images[:1]))
    return alone is None or not _close(alone, logits[:1])


def _logits(network: Forward, x: Tensor) -> Tensor:
    shape = tuple(x.shape[1:])
    try:
        logits = network(x)
    except CANNOT as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"the model cannot take images of shape {shape}: {reason}") from error
    if not isinstance(logits, Tensor):
        raise InputError(
            f"the model must return logits (N, K), but returned a {type(logits).__name__}; models.wrap says how"
        )
    if not logits.is_floating_point():
        raise InputError(f"the model must return floating-point logits, but returned {logits.dtype}")
    if logits.ndim != 2 or len(logits) != len(x):
        raise InputError(f"the model must return logits (N, K), but returned {tuple(logits.shape)} for {len(x)} images")
    if logits.shape[1] < 2:
        raise InputError("the model must return a logit for each of two or more classes, but returned one logit")
    return logits


def _first_logits(network: nn.Module, images: Tensor, seen: _Seen, lean: bool) -> Tensor:
    return Prepared(network, copies.private(network, frozen=True), seen, lean)(images.clone())


def _tried(compute: Callable[[], Any]) -> Any:
    """What is computed, or None: it runs the network's own code, which may raise anything."""
    try:
        return compute()
    except Exception:
        return None


def _close(found: Tensor, right: Tensor) -> bool:
    """Whether logits are the same up to rounding, NaN being NaN."""
    tolerance = torch.finfo(right.dtype).eps ** 0.5 * float(right.nan_to_num().abs().max())
    return found.shape == right.shape and torch.allclose(found, right, rtol=0, atol=tolerance, equal_nan=True)


def _lay_out(copy: nn.Module, layout: torch.memory_format) -> None:
    """Give the convolutions of a private copy weights in another memory format; tied ones stay tied."""
    new: dict[int, nn.Parameter] = {}
    for module in copy.modules():
        for name, weight in module._parameters.items():
            if weight is not None and weight.ndim == 4:
                values = weight.to(memory_format=layout)  # unlike contiguous(), also where one channel goes in
                if values is not weight:
                    weight = new.setdefault(id(weight), nn.Parameter(values, requires_grad=False))
                    module._parameters[name] = weight


INTERNAL = frozenset(vars(nn.Module()))
NOT_FLAGS = (nn.Module, Tensor, type, types.ModuleType, types.FunctionType, logging.Logger)


def _key(copy: nn.Module, images: Tensor, layout: torch.memory_format) -> tuple[Any, ...]:
    """What a look depends on: modules, their flags, hooks and shapes; the kind of images; not the weights' values."""
    kind = images.device.type
    cast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    found: list[Any] = [images.shape[1:], images.dtype, images.device, min(len(images), 2), layout, cast]
    for module in copy.modules():
        found += [type(module), *(name for name, _ in module.named_children())]
        found += [len(hooks) for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)]
        found += [(name, _flag(value)) for name, value in vars(module).items() if name not in INTERNAL]
        found += [(t.shape, t.dtype, t.stride()) for t in module.parameters(recurse=False)]
    return tuple(found)


def _flag(value: Any, inside: int = 0) -> Any:
    """What can be compared of an attribute; `inside` counts the plain objects around it, such as configurations."""
    kind = type(value)
    if kind in copies.PLAIN or isinstance(value, enum.Enum):
        return value
    if kind in (list, tuple):
        return tuple([_flag(item, inside) for item in value])
    if kind is dict:
        return tuple([(key, _flag(item, inside)) for key, item in value.items()])
    if inside < 2 and hasattr(value, "__dict__") and not isinstance(value, NOT_FLAGS):
        return kind, tuple([(name, _flag(item, inside + 1)) for name, item in vars(value).items()])
    return kind
