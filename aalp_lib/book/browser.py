"""The live page's networks: one step of an attack as an ONNX graph that a browser runs, and what goes with it.

A graph takes an image, its label, the clean image's logits and the choice of a loss. It gives logits, features, the
loss's gradient in the image, which is all that a step needs, and the gradient of Eq. 5. Autograd's own operators are
traced; those of the backward
passes of convolution and max pooling, which ONNX lacks, are written here in terms of others.
"""

import gzip
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from aalp_lib import contributions, data, engine, losses, zoo
from aalp_lib._checks import InputError
from aalp_lib.methods import METHODS, TABLE_2
from aalp_lib.models import Classifier, require_classifier
from aalp_lib.plots import COLOURS

if TYPE_CHECKING:
    from onnx import ModelProto

# What is ascended, in the order of the graph's input `choice`.
LOSSES = ("cross_entropy", "margin", "trades_kl")
INPUTS = ("image", "label", "clean", "choice")
OUTPUTS = ("logits", "features", "gradient", "feature_gradient")
# Of onnxruntime-web: the module, its loader, and the WebAssembly, which travels compressed.
RUNTIME = {"ort.wasm.min.mjs": "ort.js", "ort-wasm-simd-threaded.mjs": "ort-wasm.js"}
WASM = ("ort-wasm-simd-threaded.wasm", "ort-wasm.bin")


def step(model: Classifier, image: Tensor, label: Tensor, clean: Tensor, choice: Tensor) -> tuple[Tensor, ...]:
    """What one step of an attack needs and the page shows, by autograd.

    Parameters
    ----------
    model : Classifier
        In evaluation mode.
    image : (N, C, H, W) in [0, 1]
    label : (N,) int64
    clean : (N, K)
        Logits of the clean images, which TRADES' loss compares with.
    choice : (3,)
        Weights of `LOSSES`: 1 for the loss that is ascended, 0 for the others.

    Returns
    -------
    logits (N, K), features (N, F), gradient of the chosen loss in the image (N, C, H, W), and of the cross-entropy in
    the features (N, F), whose absolute values are Eq. 5 and, times the features, Eq. 7.
    """
    with torch.enable_grad():
        x = image.detach().requires_grad_()
        features = model.features(x)
        logits = model.head(features)
        of = (losses.cross_entropy(logits, label), losses.margin(logits, label), losses.trades_kl(clean, logits))
        (gradient,) = torch.autograd.grad((choice[:, None] * torch.stack(of)).sum(), x)
    slope = contributions.feature_gradient(model.head, features, label)
    return logits.detach(), features.detach(), gradient, slope


def exported(model: Classifier, size: tuple[int, int, int] = (1, 28, 28)) -> "ModelProto":
    """`step` of a network on one image, as an ONNX graph without weights: they are inputs, named as in `state_dict`.

    Parameters
    ----------
    model : Classifier
        Of convolutions of stride 1, max pooling without overlap, ReLUs and linear layers, as `models.lenet` is.
    size : (C, H, W)
        Of an image.

    Raises
    ------
    InputError
        If `model` is no Classifier.
    """
    require_classifier(model)
    model = engine.private(model)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def run(*arguments: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(weights, arguments[len(INPUTS) :], strict=True))
        return torch.func.functional_call(_Step(model), {f"model.{k}": v for k, v in given.items()}, arguments[:4])

    with torch.no_grad():
        image = torch.rand(1, *size)
        example = (image, torch.tensor([0]), model(image), torch.tensor([1.0, 0.0, 0.0]), *weights.values())
    traced = make_fx(run, decomposition_table=_decompositions())(*example)
    program: Any = torch.onnx.export(
        traced.eval(), example, dynamo=True, input_names=[*INPUTS, *weights], output_names=OUTPUTS, verbose=False
    )
    return program.model_proto


def with_weights(graph: "ModelProto", model: Classifier) -> "ModelProto":
    """A copy of the graph of `exported` with the weights of `model`, in half precision where that loses nothing."""
    import onnx

    made, weights = onnx.ModelProto(), dict(model.named_parameters())
    made.CopyFrom(graph)
    for described in (made, made.graph, *made.graph.node, *made.graph.value_info):  # by the exporter, for debugging
        described.ClearField("metadata_props")
    kept = [given for given in made.graph.input if given.name not in weights]
    del made.graph.input[:]
    made.graph.input.extend(kept)
    for name, weight in weights.items():
        whole, half = weight.detach(), weight.detach().half()
        if torch.equal(half.float(), whole):
            made.graph.initializer.append(onnx.numpy_helper.from_array(half.numpy(), f"{name}.half"))
            widen = onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT)
            made.graph.node.insert(0, widen)
        else:
            made.graph.initializer.append(onnx.numpy_helper.from_array(whole.numpy(), name))
    onnx.checker.check_model(made)
    return made


def write(folder: str | Path, runtime: str | Path | None = None, count: int = 1000) -> None:
    """Write what the live page loads: `live.json`, the digits, a graph for each row of Table 2, the runtime.

    Parameters
    ----------
    folder : path
        Made if it is not there.
    runtime : path, optional
        The folder `dist` of the npm package onnxruntime-web. Without it the page says that it is missing.
    count : int
        Number of test digits of `mnist-sample`.

    Raises
    ------
    InputError
        If the runtime's folder lacks a file.
    """
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    sizes = _runtime(Path(runtime), home) if runtime is not None else None
    digits = data.load("mnist-sample").test
    images, labels = next(digits.batches(count))
    pixels = (images * 255).round().to(torch.uint8)
    (home / "digits.bin").write_bytes(gzip.compress(pixels.numpy().tobytes(), mtime=0))
    models = {name: zoo.pretrained(f"mnist/{name}") for name in TABLE_2}
    graph = exported(models[TABLE_2[0]])
    about = []
    for name, model in models.items():
        content = with_weights(graph, model).SerializeToString(deterministic=True)
        (home / f"{name}.onnx").write_bytes(content)
        about.append(_about(name, model, images, labels) | {"bytes": len(content)})
    content = {
        "networks": about,
        "labels": "".join(str(int(label)) for label in labels),
        "digits": (home / "digits.bin").stat().st_size,
        "runtime": sizes,
    }
    (home / "live.json").write_text(json.dumps(content), encoding="utf-8")


def _about(name: str, model: Classifier, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Name, colour, accuracy on the digits in percent, and the features that none of them switches on."""
    with torch.no_grad():
        features = model.features(images)
        right = (model.head(features).argmax(1) == labels).float().mean()
    return {
        "name": name,
        "label": METHODS[name].label,
        "colour": COLOURS[name],
        "clean": round(100 * float(right), 1),
        "dead": (features.amax(0) == 0).nonzero()[:, 0].tolist(),
    }


def _runtime(source: Path, home: Path) -> int:
    """Copy the runtime; its bytes as they travel."""
    missing = [name for name in (*RUNTIME, WASM[0]) if not (source / name).is_file()]
    if missing:
        raise InputError(f"{source} has no {missing[0]}; run make ort")
    for name, ours in RUNTIME.items():
        shutil.copyfile(source / name, home / ours)
    (home / WASM[1]).write_bytes(gzip.compress((source / WASM[0]).read_bytes(), mtime=0))
    return sum((home / name).stat().st_size for name in (*RUNTIME.values(), WASM[1]))


class _Step(nn.Module):
    """`step` as a module, so that its weights can be given from outside."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        return step(self.model, *arguments)


# --- backward passes in terms of what ONNX has ------------------------------------------------------------------------


def _decompositions() -> dict[Any, Any]:
    aten = torch.ops.aten
    plain = (
        aten.threshold_backward, aten.nll_loss_forward, aten.nll_loss_backward, aten._log_softmax,
        aten._log_softmax_backward_data, aten.select_backward, aten.new_zeros,
    )  # fmt: skip
    ours = {
        aten.convolution_backward.default: _convolution_backward,
        aten.max_pool2d_with_indices.default: _max_pool,
        aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
    }
    return get_decompositions(plain) | ours


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, stride: list[int], padding: list[int], *_: Any
) -> tuple[Tensor, None, None]:
    """The gradient in the input of a convolution of stride 1: a convolution with the weights turned by half a turn."""
    if any(length != 1 for length in stride):
        raise InputError(f"the live page takes convolutions of stride 1, got {stride}")
    turned = weight.flip(2, 3).transpose(0, 1)
    around = [size - 1 - pad for size, pad in zip(weight.shape[2:], padding, strict=True)]
    return F.conv2d(gradient, turned, padding=around), None, None


def _max_pool(x: Tensor, kernel: list[int], stride: list[int], *_: Any) -> tuple[Tensor, Tensor]:
    """Max pooling without overlap, and which place of its window each value comes from: the first of equal ones."""
    if list(kernel) != list(stride):
        raise InputError(f"the live page takes max pooling without overlap, got windows {kernel} at steps {stride}")
    return _windows(x, *kernel).max(-1)


def _max_pool_backward(gradient: Tensor, x: Tensor, kernel: list[int], *rest: Any) -> Tensor:
    """The gradient in the input of max pooling: each window's goes to the place that was largest."""
    (height, width), places = kernel, rest[-1]
    chosen = places[..., None] == torch.arange(height * width)
    n, c, rows, columns = gradient.shape
    spread = (chosen * gradient[..., None]).view(n, c, rows, columns, height, width)
    return spread.transpose(3, 4).reshape(x.shape)


def _windows(x: Tensor, height: int, width: int) -> Tensor:
    """(N, C, H, W) -> (N, C, H/h, W/w, h·w)."""
    n, c, rows, columns = x.shape
    split = x.view(n, c, rows // height, height, columns // width, width)
    return split.transpose(3, 4).reshape(n, c, rows // height, columns // width, height * width)
