"""Bad input ends at the door: the checks that public functions share, each with one clear sentence."""

import difflib
import functools
import inspect
import numbers
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Made = TypeVar("Made")
_PACKAGE = __name__.partition(".")[0]
ROUNDING = 1e-6  # that images may leave [0, 1] by
HANDFUL = 8  # images
MANY = 0.05  # share of images whose gradients of 0 are worth a warning

_CALLED = {  # what other libraries call our arguments
    "eps": ("epsilon", "epsilons", "radius", "max_norm"),
    "step": ("alpha", "step_size", "stepsize", "abs_stepsize", "eps_iter", "eps_step"),
    "steps": ("iters", "iterations", "n_iter", "nb_iter", "num_iter", "num_steps", "n_steps", "max_iter", "niter"),
    "restarts": ("n_restarts", "num_restarts", "nb_restarts", "num_random_init"),
    "norm": ("ord", "p", "lp", "distance"),
    "loss": ("loss_fn", "criterion"),
    "Attack(..., start='uniform' or 'clean')": ("random_start", "rand_init", "random_init", "rs"),
    "target=labels where the attack is called": ("targeted", "target", "targets", "y_target", "target_labels"),
    "Recipe(lr=...)": ("lr", "learning_rate", "base_lr"),
    "Recipe(batch_size=...)": ("batch_size", "batchsize", "bs"),
}
SYNONYMS = {other: ours for ours, others in _CALLED.items() for other in others}


class InputError(ValueError):
    """An argument that cannot be used; the message names the value and what is allowed."""


class UnknownName(InputError, KeyError):
    """A name that is not among the known ones; also a KeyError, so that mappings keep their manners."""

    __str__ = ValueError.__str__  # KeyError would put quotes around the sentence


class UnknownArgument(InputError, TypeError):
    """An argument that a function does not have; also a TypeError, as Python has it."""


def hinted(made: Made) -> Made:
    """Let a function, or a class, name our argument where it is called with another library's name for it."""
    if isinstance(made, type):
        setattr(made, "__init__", hinted(made.__init__))  # type: ignore[misc] # noqa: B010
        return made
    function: Any = made
    takes = list(inspect.signature(function).parameters)
    title = function.__qualname__.removesuffix(".__init__").removesuffix(".__call__")

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        for name in SYNONYMS.keys() & named.keys() - set(takes):
            ours = SYNONYMS[name]
            said = f"say {ours}" if ours in takes or "=" in ours else f"it takes {', '.join(takes)}"
            raise UnknownArgument(f"{title} has no argument '{name}': {said}")
        return function(*args, **named)

    return call  # type: ignore[return-value]


def known(kind: str, name: str, names: Iterable[str], besides: str = "") -> str:
    """Return `name` if it is among `names`; else UnknownName lists them, the nearest, and what would do `besides`."""
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UnknownName(f"unknown {kind} '{name}'; known are {', '.join(names)}.{hint} {besides}".rstrip())


def known_or_function(kind: str, value: object, names: Iterable[str]) -> None:
    """Raise unless `value` is among `names`, or a function with another name, by which records tell it from others."""
    if not callable(value):
        known(kind, str(value), names)
    elif not (name := getattr(value, "__name__", "")).isidentifier() or name in names:
        raise InputError(f"a {kind} of one's own must be a function with a name that is not taken, got '{name}'")


def tensor(name: str, value: object) -> None:
    """Raise unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} must be a torch tensor, got {type(value).__name__}; torch.as_tensor makes one")


def network(model: object) -> None:
    """Raise unless `model` is a module."""
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be an nn.Module, got {type(model).__name__}; let a module's forward call it")


def images(x: Tensor) -> Tensor:
    """Return `x`, a floating-point batch (N, C, H, W), or any (N, ...), with values in [0, 1]; else InputError.

    What leaves [0, 1] by rounding, as after a normalisation that was undone, is clamped in a copy.
    """
    tensor("images", x)
    if x.is_meta or x.layout != torch.strided:
        raise InputError("images must be a dense tensor with values, got one on 'meta' or sparse")
    if not torch.is_floating_point(x):
        raise InputError(f"images must be floating point in [0, 1], got {x.dtype}; divide uint8 images by 255")
    if x.ndim < 2:
        raise InputError(f"images must be a batch (N, C, H, W), got shape {tuple(x.shape)}")
    if not x.numel() or (x.min() >= 0 and x.max() <= 1):
        return x
    if not (x.min() >= -ROUNDING and x.max() <= 1 + ROUNDING):  # also for NaN
        raise InputError(f"images must lie in [0, 1], got values in [{x.min():.7g}, {x.max():.7g}]")
    return x.clamp(0, 1)


def start(start: Tensor, x: Tensor) -> Tensor:
    """Return where an attack on `x` begins, as `x` is stored; InputError unless it is of its shape and of numbers."""
    tensor("the start", start)
    if start.shape != x.shape:
        raise InputError(f"the start must have the images' shape {tuple(x.shape)}, got {tuple(start.shape)}")
    if not torch.is_floating_point(start) or not bool(start.isfinite().all()):
        raise InputError(f"the start must be finite and floating point, as images are, got {start.dtype}")
    return start.to(x)


def generator(value: object) -> None:
    """Raise unless `value` is a generator of torch, or None."""
    if value is not None and not isinstance(value, torch.Generator):
        raise InputError(f"the generator must be a torch.Generator, got {type(value).__name__}")


def no_nan(logits: Tensor) -> None:
    """Raise if a logit is not a number."""
    if bool(logits.isnan().any()):
        raise InputError("the model gives NaN: such an image is of no class")


def warn(text: str) -> None:
    """Warn as of the line outside this package that led here."""
    frame: FrameType | None = sys._getframe()
    level = 0
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in (_PACKAGE, "contextlib"):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level + 1)


def warn_of_probabilities(logits: Tensor) -> None:
    """Warn if all rows of what an attack takes for logits (N, K) are at least 0 and sum to 1, up to rounding."""
    rounding = max(1e-3, torch.finfo(logits.dtype).eps)
    sums = logits.float().sum(1)
    if len(logits) and bool((logits >= 0).all() and ((sums - 1).abs() <= rounding).all()):
        warn(
            f"the model's outputs look like probabilities: all {len(logits)} rows are at least 0 and sum to 1; attacks "
            "need logits, without the softmax at the end, and are weaker than they seem on these"
        )


def warn_of_blind(who: str, blind: Tensor, also: str = "") -> None:
    """Warn if an attack's first gradient was NaN at an image, 2 in int8 (N,), or 0 at many, which are 1."""
    zero, nan = (int((blind == kind).sum()) for kind in (1, 2))
    few = len(blind) < HANDFUL and zero < len(blind)  # of a handful one may well be so
    found = [f"0 at {zero}"] * (zero > MANY * len(blind) and not few) + [f"NaN at {nan}"] * (nan > 0)
    if found:
        warn(
            f"{who}: the loss has a gradient of {' and '.join(found)} of {len(blind)} images, and no step moves a "
            f"pixel without one{also}"
        )


def labels(y: Tensor, count: int, classes: int, name: str = "labels") -> None:
    """Raise unless `y` holds `count` integer labels in [0, classes)."""
    tensor(name, y)
    if y.dtype != torch.int64 or y.shape != (count,):
        raise InputError(f"{name} must be int64 of shape ({count},), got {y.dtype} of shape {tuple(y.shape)}")
    if count and not (y.min() >= 0 and y.max() < classes):
        raise InputError(f"{name} must lie in [0, {classes - 1}], got values in [{int(y.min())}, {int(y.max())}]")


def target(target: Tensor | None, y: Tensor, classes: int) -> Tensor:
    """Return what an attack compares with: targets, which must be classes other than the labels (N,), or the labels."""
    if target is None:
        return y
    tensor("targets", target)
    target = target.to(y.device)
    labels(target, len(y), classes, "targets")
    if bool(same := (target == y).sum()):
        raise InputError(f"a target must be another class than the label, but {int(same)} of {len(y)} are the label")
    return target


def number(name: str, value: object) -> None:
    """Raise unless `value` is a real number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"{name} must be a number, got {value!r}")


def positive(name: str, value: float) -> None:
    """Raise unless `value` is a number above 0 that float32 can compute with."""
    number(name, value)
    if not 0 < value < float("inf"):
        raise InputError(f"{name} must be above 0, got {value}")
    if not 1e-30 < value < 1e30:
        raise InputError(f"{name} must lie between 1e-30 and 1e30, got {value}")


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; a name that no file can have is that of none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def radius(eps: float) -> None:
    """Raise unless `eps` is the radius of a ball that images in [0, 1] may be in: above 0 and at most 1."""
    positive("eps", eps)
    if eps > 1:
        raise InputError(f"eps must be at most 1, since images lie in [0, 1], got {eps}; write 8/255, not 8")


def count(name: str, value: int, least: int = 1, most: int = 2**31 - 1) -> int:
    """Return `value` as Python's int; raise unless it is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value}")
    if value > most:
        raise InputError(f"{name} must be at most {most}, got {value}")
    return int(value)


def seed(name: str, value: int) -> int:
    """Return `value` as Python's int; raise unless torch's generators can take it as their seed."""
    return count(name, value, least=0, most=2**63 - 1)


def plain_numbers(settings: object) -> None:
    """Make Python's numbers of those fields of a frozen dataclass that are numpy's, or tensors of one number."""
    for name, value in vars(settings).items():
        if isinstance(value, np.generic) or (isinstance(value, Tensor) and not value.ndim):
            object.__setattr__(settings, name, value.item())


def path(value: str | os.PathLike[str]) -> Path:
    """Return `value` as a path, `~` being the user's home; the empty string is none."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise InputError(f"a path must be a string or a Path, and not empty, got {value!r}")
    return Path(os.path.expanduser(value))


def device(name: str | torch.device) -> torch.device:
    """Return the torch device called `name` ("auto" takes CUDA where there is one), or say what is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
        if found.type == "meta":
            raise RuntimeError("it holds no values")
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device '{name}' cannot be used here ({reason}); 'cpu' and 'auto' always can") from error
    return found
