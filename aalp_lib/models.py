"""Classifiers split at the layer the paper looks at: features (N, F), its `A_fc`, and a linear head on top."""

import difflib
import functools
import inspect
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from aalp_lib import _checks, engine
from aalp_lib._checks import InputError


class Classifier(nn.Module):
    """A network that maps images in [0, 1] to logits through features and a linear head.

    Parameters
    ----------
    body : nn.Module
        Maps normalised images (N, C, H, W) to features (N, F).
    head : nn.Module
        Maps features (N, F) to logits (N, K).
    mean, std : sequences of float, one for each channel
        Normalisation, part of the model: attacks work in [0, 1].
    config : dict, optional
        What `build` needs to make the network again; stored with checkpoints.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        head: nn.Module,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.head = head
        mean, std = _normalisation(mean, std)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.config = config or {}

    def features(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to features (N, F), the paper's `A_fc`."""
        features: Tensor = self.body(self.normalised(x))
        return features

    def normalised(self, x: Tensor) -> Tensor:
        """What the body is given; InputError for images that are not floating point, or of other channels."""
        if not x.is_floating_point():
            raise InputError(f"images must be floating point in [0, 1], got {x.dtype}; divide uint8 images by 255")
        channels = max(self.mean.shape[1], self.std.shape[1])
        if channels > 1 and x.shape[1] != channels:
            raise InputError(f"the model needs images of {channels} channels, got shape {tuple(x.shape)}")
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to logits (N, K)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def _normalisation(mean: Any, std: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Both in Python's numbers; InputError unless they are finite, those of `std` above 0, and as many or one."""
    found = []
    for name, values in (("mean", mean), ("std", std)):
        plain = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
        if not isinstance(plain, Sequence) or isinstance(plain, str | bytes) or not plain:
            raise InputError(f"{name} must be a sequence of numbers, one for each channel, got {values!r}")
        for value in plain:
            (_checks.positive if name == "std" else _checks.number)(name, value)
            if not math.isfinite(value):
                raise InputError(f"{name} must be finite, got {value}")
        found.append(tuple(map(float, plain)))
    lengths = [len(values) for values in found]
    if 1 not in lengths and lengths[0] != lengths[1]:
        raise InputError(f"mean and std must be of as many channels, got {lengths[0]} and {lengths[1]} values")
    return found[0], found[1]


def require_classifier(model: nn.Module) -> None:
    """Raise InputError unless `model` is split into features and head."""
    if not isinstance(model, Classifier):
        raise InputError(f"the model must be a Classifier, got {type(model).__name__}; use models.wrap(model)")


# --- the paper's networks --------------------------------------------------------------------------------------------


def lenet(
    width: tuple[int, int, int] = (16, 32, 256),
    *,
    in_channels: int = 1,
    image_size: int = 28,
    classes: int = 10,
    mean: tuple[float, ...] = (0.1307,),
    std: tuple[float, ...] = (0.3081,),
) -> Classifier:
    """LeNet with two 5×5 convolutions, each with 2×2 max-pooling, and one hidden layer; 417,482 weights by default.

    Parameters
    ----------
    width : (int, int, int)
        Channels of the two convolutions and number of features. Madry et al. (2018) use (32, 64, 1024).
    in_channels, image_size, classes : int
        Images are (N, in_channels, image_size, image_size), `image_size` a multiple of 4; logits are (N, classes).
    mean, std : sequences of float
        Normalisation; by default MNIST's.

    Raises
    ------
    InputError
        If `image_size` is not a multiple of 4.

    Examples
    --------
    >>> model = lenet()
    >>> model.features(torch.rand(2, 1, 28, 28)).shape, model(torch.rand(2, 1, 28, 28)).shape
    (torch.Size([2, 256]), torch.Size([2, 10]))
    """
    config = _config(
        "lenet", width=width, in_channels=in_channels, image_size=image_size, classes=classes, mean=mean, std=std
    )
    if image_size % 4:
        raise InputError(f"lenet halves the image twice: image_size must be a multiple of 4, got {image_size}")
    first, second, hidden = width
    body = nn.Sequential(
        nn.Conv2d(in_channels, first, 5, padding=2),
        nn.MaxPool2d(2),  # (N, first, H/2, W/2); before the ReLU, which then has a quarter of the work
        nn.ReLU(),
        nn.Conv2d(first, second, 5, padding=2),
        nn.MaxPool2d(2),  # (N, second, H/4, W/4)
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * (image_size // 4) ** 2, hidden),
        nn.ReLU(),
    )
    return Classifier(body, nn.Linear(hidden, classes), mean, std, config)


CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def resnet9(
    width: int = 64,
    *,
    in_channels: int = 3,
    classes: int = 10,
    mean: tuple[float, ...] = CIFAR10_MEAN,
    std: tuple[float, ...] = CIFAR10_STD,
) -> Classifier:
    """ResNet9, the fast nine-layer network with two residual blocks; 8 × `width` features (512 by default).

    Parameters
    ----------
    width : int
        Channels of the first convolution; later ones have 2, 4 and 8 times as many.
    in_channels, classes, mean, std
        As in `lenet`, by default CIFAR-10's; images are at least 8 pixels high and wide.
    """
    config = _config("resnet9", width=width, in_channels=in_channels, classes=classes, mean=mean, std=std)
    body = nn.Sequential(
        _conv_norm_relu(in_channels, width),
        _conv_norm_relu(width, 2 * width),
        nn.MaxPool2d(2),  # (N, 2w, H/2, W/2)
        _Residual(nn.Sequential(_conv_norm_relu(2 * width, 2 * width), _conv_norm_relu(2 * width, 2 * width))),
        _conv_norm_relu(2 * width, 4 * width),
        nn.MaxPool2d(2),  # (N, 4w, H/4, W/4)
        _conv_norm_relu(4 * width, 8 * width),
        nn.MaxPool2d(2),  # (N, 8w, H/8, W/8)
        _Residual(nn.Sequential(_conv_norm_relu(8 * width, 8 * width), _conv_norm_relu(8 * width, 8 * width))),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
    )
    return Classifier(body, nn.Linear(8 * width, classes), mean, std, config)


def resnet32(
    width: int = 16,
    *,
    in_channels: int = 3,
    classes: int = 10,
    mean: tuple[float, ...] = CIFAR10_MEAN,
    std: tuple[float, ...] = CIFAR10_STD,
) -> Classifier:
    """ResNet-32 for small images (He et al. 2016, section 4.2): 16, 32, 64 channels, 64 features, 0.46 M weights.

    Shortcuts that change the shape subsample and fill with zeros (their option A).

    Parameters
    ----------
    width : int
        Channels of the first of the three stages; the others have 2 and 4 times as many, and so many features there are
        (Zagoruyko and Komodakis 2016 widen residual networks so).
    in_channels, classes, mean, std
        As in `lenet`, by default CIFAR-10's; images are at least 4 pixels high and wide.
    """
    config = _config("resnet32", width=width, in_channels=in_channels, classes=classes, mean=mean, std=std)
    widths = [width] * 6 + [2 * width] * 5 + [4 * width] * 5  # of the first convolution and of 15 blocks
    body = nn.Sequential(
        _conv_norm_relu(in_channels, width),
        *(_BasicBlock(fan_in, fan_out) for fan_in, fan_out in itertools.pairwise(widths)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return Classifier(body, nn.Linear(4 * width, classes), mean, std, config)


def from_library(
    name: str,
    *,
    in_channels: int = 3,
    classes: int = 10,
    mean: tuple[float, ...] = CIFAR10_MEAN,
    std: tuple[float, ...] = CIFAR10_STD,
) -> Classifier:
    """Any classifier of torchvision or timm, with new weights: "torchvision:resnet18", "timm:convnext_atto".

    Parameters
    ----------
    name : str
        The library, a colon, and what it calls the network.
    in_channels, classes, mean, std
        As in `lenet`, by default CIFAR-10's. torchvision's networks see grey images as colour ones.

    Raises
    ------
    InputError
        If the library is neither or not installed, has no such network, or the network ends in no Linear.
    """
    library, _, kind = name.partition(":")
    make = LIBRARIES[_checks.known("library of networks", library, LIBRARIES)]
    config = _config(name, in_channels=in_channels, classes=classes, mean=mean, std=std)
    model = wrap(make(kind, in_channels, classes), mean, std)
    model.config = config
    return model


def _of_torchvision(kind: str, in_channels: int, classes: int) -> nn.Module:
    from torchvision import models  # half of the time that importing this package would take

    _check_in_library("torchvision", kind, models.list_models(module=models))
    more = {"init_weights": True, "aux_logits": False} if kind in ("googlenet", "inception_v3") else {}
    network: nn.Module = models.get_model(kind, weights=None, num_classes=classes, **more)
    return network if in_channels == 3 else nn.Sequential(_Colour(), network)


def _of_timm(kind: str, in_channels: int, classes: int) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise InputError("timm is not installed: pip install timm") from error
    _check_in_library("timm", kind, timm.list_models())  # its other names would download
    network: nn.Module = timm.create_model(kind, in_chans=in_channels, num_classes=classes)
    return network


LIBRARIES: dict[str, Callable[[str, int, int], nn.Module]] = {"torchvision": _of_torchvision, "timm": _of_timm}


def _check_in_library(library: str, kind: str, names: list[str]) -> None:
    """InputError, with the nearest names, unless `kind` is among all that there are."""
    if kind not in names:
        near = difflib.get_close_matches(kind, names, cutoff=0.4)
        hint = f"; near are {', '.join(near)}" if near else ""
        raise InputError(f"{library} has no classifier '{kind}'{hint}")


class _Colour(nn.Module):
    """Grey images (N, 1, H, W) as colour ones (N, 3, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, 3, -1, -1)


LARGEST = 2**16  # number of channels, features, classes, or pixels of a side
MODELS: dict[str, Callable[..., Classifier]] = {"lenet": lenet, "resnet9": resnet9, "resnet32": resnet32}


def build(config: dict[str, Any]) -> Classifier:
    """Make the network that `config` describes: its "name" and the arguments of that function, or of `from_library`.

    Examples
    --------
    >>> build({"name": "lenet", "width": (8, 16, 64)}).head
    Linear(in_features=64, out_features=10, bias=True)
    """
    if not isinstance(config, dict):
        raise InputError(f"a network is described by a dict, got {type(config).__name__}")
    arguments: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in config.items() if key != "name"
    }
    name = str(config.get("name", ""))
    in_library = ":" in name
    make = functools.partial(from_library, name) if in_library else MODELS[_checks.known("model", name, MODELS)]
    try:
        inspect.signature(make).bind(**arguments)
    except TypeError as error:
        raise InputError(f"{name} cannot be made of these arguments: {error}") from error
    return make(**arguments)


def _config(name: str, **arguments: Any) -> dict[str, Any]:
    """The arguments that make this network again, in Python's numbers; bad ones end here.

    A normalisation must fit the channels.
    """
    of_mean, of_std, width = (arguments.pop(key, None) for key in ("mean", "std", "width"))
    sizes = {key: _size(key, value) for key, value in arguments.items()}
    for key, values in (("mean", of_mean), ("std", of_std)):
        if not isinstance(values, Sequence | np.ndarray):
            raise InputError(f"{key} must be a sequence of numbers, got {values}")
        if len(values) not in (1, sizes["in_channels"]):
            raise InputError(f"{key} has {len(values)} values for {sizes['in_channels']} channels")
        for value in values:
            (_checks.positive if key == "std" else _checks.number)(key, value)
    described: dict[str, Any] = {"name": name}
    if name == "lenet":
        if not isinstance(width, Sequence | np.ndarray) or len(width) != 3:
            raise InputError(f"the width of a lenet is three numbers, got {width}")
        described["width"] = tuple(_size("width", one) for one in width)
    elif width is not None:
        described["width"] = _size("width", width)
    return described | sizes | {"mean": tuple(map(float, of_mean)), "std": tuple(map(float, of_std))}


def _size(name: str, value: int) -> int:
    return _checks.count(name, value, most=LARGEST)


def _conv_norm_relu(fan_in: int, fan_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(fan_out), nn.ReLU()
    )


class _Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class _BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut without weights: (N, fan_in, H, W) -> (N, fan_out, H, W).

    Where the channels change, height and width are halved.
    """

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.stride, self.extra = 1 if fan_in == fan_out else 2, fan_out - fan_in
        self.first = _conv_norm_relu(fan_in, fan_out, self.stride)
        self.second = nn.Sequential(nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False), nn.BatchNorm2d(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.extra:
            shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return torch.relu(self.second(self.first(x)) + shortcut)


# --- any other network -----------------------------------------------------------------------------------------------


class _Wrapped(Classifier):
    """Any network that ends in a Linear; its features are what flows into that Linear."""

    def __init__(self, module: nn.Module, last: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(module, nn.Identity(), mean, std)
        del self.head  # found inside the body: registered once, trained once
        self._last = last

    def __getattr__(self, name: str) -> Any:
        return self.body.get_submodule(self._last) if name == "head" else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """A new head takes the place of the Linear inside the network, which is what computes."""
        if name != "head" or "_last" not in vars(self):
            super().__setattr__(name, value)
            return
        if not isinstance(value, nn.Module):
            raise InputError(f"a head must be an nn.Module, nn.Linear(features, classes) say, got {value!r}")
        path, _, last = self._last.rpartition(".")
        setattr(self.body.get_submodule(path) if last else self, last or "body", value)

    def features(self, x: Tensor) -> Tensor:
        seen: list[tuple[Tensor, Tensor, int]] = []
        thread = threading.get_ident()

        def see(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            if threading.get_ident() == thread:  # another thread may use the network meanwhile
                seen.append((inputs[0], output, _writes(output)))

        hook = self.head.register_forward_hook(see)
        try:
            logits = self.forward(x)
        finally:
            hook.remove()
        features, output, writes = seen[0] if len(seen) == 1 else (logits, None, 0)
        if output is None or output is not logits or writes != _writes(logits) or features.ndim != 2:
            raise InputError(
                f"cannot split {type(self.body).__name__}: its output is not that of its last Linear, '{self._last}', "
                "on features (N, F), called once"
            )
        return features

    def forward(self, x: Tensor) -> Tensor:
        logits = self.body(self.normalised(x))
        if not isinstance(logits, Tensor):
            raise InputError(
                f"{type(self.body).__name__} returns a {type(logits).__name__}: say where in it the logits are, "
                "wrap(module, logits=lambda out: out.logits)"
            )
        return logits


class _WithLogits(nn.Module):
    """A network whose output is more than its logits, and a function that takes them from it."""

    def __init__(self, module: nn.Module, logits: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.module, self.logits = module, logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.module(x))


def _writes(tensor: Tensor) -> int:
    """How often a tensor was written into; tensors of inference mode do not count."""
    return 0 if tensor.is_inference() else tensor._version


def wrap(
    module: nn.Module,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    *,
    logits: Callable[[Any], Tensor] | None = None,
) -> Classifier:
    """Split any classifier that ends in a Linear into features and head. The weights are shared, nothing is copied.

    Parameters
    ----------
    module : nn.Module
        Maps images (N, C, H, W) to logits (N, K); the last thing it does is an `nn.Linear` on features (N, F);
        `nn.Identity` and `nn.Flatten` may follow. A compiled one is taken as it was before.
    mean, std : sequences of float, one for each channel
        Normalisation that `module` expects; by default none.
    logits : callable, optional
        Takes the logits from what `module` returns, a tuple or an object: `lambda out: out.logits` for Hugging Face's.

    Returns
    -------
    Classifier

    Raises
    ------
    InputError
        If the module is none or does not end in a Linear, or the normalisation is not of finite numbers, std above 0.
        Where its code cannot be traced, `features` finds out at the first call.

    Examples
    --------
    >>> model = wrap(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    >>> model.features(torch.rand(5, 1, 2, 2)).shape
    torch.Size([5, 3])
    """
    mean, std = _normalisation(mean, std)
    if isinstance(module, type):
        raise InputError(f"the model must be an nn.Module, got the class {module.__name__}: call it to make one")
    _checks.network(module)
    if logits is not None and not callable(logits):
        raise InputError(f"logits must be a function of what the module returns, got {logits!r}")
    if isinstance(module, Classifier):
        if (mean, std, logits) != ((0.0,), (1.0,), None):
            raise InputError("this is a Classifier already, with a normalisation and logits of its own")
        return module
    module = getattr(module, "_orig_mod", module)  # a compiled one
    module = module if logits is None else _WithLogits(module, logits)
    linears = [name for name, child in module.named_modules() if isinstance(child, nn.Linear)]
    last = _last_linear(module, linears)
    if last is None:
        raise InputError(
            f"cannot split {type(module).__name__}: it does not end in an nn.Linear; wrap needs "
            "logits = Linear(features), or where the logits are in what it returns, logits=lambda out: out.logits say"
        )
    return _Wrapped(module, last, mean, std)


def _last_linear(module: nn.Module, linears: list[str]) -> str | None:
    """Name of the Linear that the module ends in, by its code as far as this can be traced; None where it does not.

    Conditions on the images are taken to be all false, then all true. Where that fails, or leads to several Linears,
    the last of `linears` is likelier. Whether the name is right, `features` finds out.
    """
    found = []
    for guess in (False, True):
        try:
            found.append(_last_layer(module, guess))
        except Exception:  # tracing runs the module's own code, which may raise anything
            found += linears[-1:]
    likely = [name for name in linears[-1:] + linears if name in found]
    return likely[0] if likely else None


class _Tracer(torch.fx.Tracer):
    """Takes the conditions on the images to be `guess`, as long as they are not too many: a loop may wait for one."""

    def __init__(self, guess: bool) -> None:
        super().__init__()
        self.guesses = itertools.repeat(guess, 100)

    def to_bool(self, obj: torch.fx.Proxy) -> bool:
        return next(self.guesses)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Linear) or super().is_leaf_module(m, module_qualified_name)


def _last_layer(module: nn.Module, guess: bool) -> str | None:
    """Name of the layer whose output is that of the module; None where something else makes it.

    A private copy is run on a stand-in for images, its layers put there what they would be called on: unlike
    `torch.fx.symbolic_trace`, this leaves alone what other threads run meanwhile.
    """
    tracer = _Tracer(guess)
    tracer.root = traced = engine.private(module)
    tracer.graph, tracer.tensor_attrs = torch.fx.Graph(), {}
    for name, layer in traced.named_modules():
        if tracer.is_leaf_module(layer, name):
            layer.forward = functools.partial(_call, tracer, name)
    node = getattr(traced(tracer.create_proxy("placeholder", "x", (), {})), "node", None)
    users = 0
    while node is not None and len(node.users) == users and _returns_its_input(node, traced):
        node, users = node.args[0], 1
    return str(node.target) if node is not None and node.op == "call_module" and len(node.users) == users else None


def _returns_its_input(node: torch.fx.Node, traced: nn.Module) -> bool:
    """Whether the node does nothing to logits (N, K)."""
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), nn.Identity | nn.Flatten)
    return node.target in ("flatten", "contiguous", torch.flatten)


def _call(tracer: torch.fx.Tracer, name: str, *args: Any, **kwargs: Any) -> torch.fx.Proxy:
    return tracer.create_proxy("call_module", name, args, kwargs)
