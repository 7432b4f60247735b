"""Images per second that a device trains and attacks, beside the floors that arithmetic and memory traffic set."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import benchmark
from torch.utils.flop_counter import FlopCounterMode

from aalp_lib import engine, models
from aalp_lib.attacks import PGD, Attack
from aalp_lib.data import Dataset, Split
from aalp_lib.engine import graphs
from aalp_lib.models import Classifier
from aalp_lib.reproduction import escaping, machine
from aalp_lib.reproduction.settings import SETTINGS
from aalp_lib.train import Recipe, fit

MISSING = "not measured yet"
SHAPES = {"mnist": (1, 28, 28), "svhn": (3, 32, 32), "cifar10": (3, 32, 32)}
BATCHES = (128, 512, 2048)
RATES = {  # of a row, by what a table calls them
    "training": "PGD training, images/s",
    "training, eager": "eager",
    "attack": "Attack, gradients/s",
    "attack, eager": "eager",
    "attack, torch.compile": "torch.compile",
    "attack, torchattacks": "torchattacks",
}
SHARES = {
    "training of arithmetic": "Training of the arithmetic's floor",
    "training of memory": "of the memory's",
    "attack of arithmetic": "Attack of the arithmetic's floor",
    "attack of memory": "of the memory's",
}
Other = Callable[[Attack, nn.Module, Tensor, Tensor], Callable[[], object]]


def measure(device: torch.device, quick: bool = False, others: Mapping[str, Other] | None = None) -> dict[str, Any]:
    """Throughput of each data set's network under its fast recipe by batch size, and the shares of the two floors.

    "peak" are measured bfloat16 FLOP/s of a large product and bytes/s of a large copy. Attacks, those of `others` too,
    take float32 gradients; what cannot run here is left out.
    """
    size, count = (256, 1 << 20) if quick else (8192, 1 << 30)
    square = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    one, other = torch.empty(2, count, device=device, dtype=torch.uint8)
    flops, traffic = _seconds(lambda: square @ square), _seconds(lambda: other.copy_(one))
    peak = {"flops": 2 * size**3 / flops, "bytes": 2 * count / traffic}
    networks = {
        data: [_rates(data, batch, device, peak, quick, others or {}) for batch in ((4,) if quick else BATCHES)]
        for data in SHAPES
    }
    return {"environment": machine.environment(device), "peak": peak, "networks": networks}


def markdown(found: dict[str, Any] | str) -> str:
    """The measurement as a table with a line below, or that there is none."""
    if isinstance(found, str):
        return f"On a GPU: {found}.\n"
    head = ("Data set", "Batch", *RATES.values(), *SHARES.values())
    lines: list[Sequence[str]] = [head, ["---"] * len(head)]
    for name, rows in found["networks"].items():
        for row in rows:
            rates = [f"{row[key]:.0f}" if key in row else "–" for key in RATES]
            shares = [f"{100 * row[key]:.0f} %" for key in SHARES]
            lines.append([escaping.markdown(name), str(row["batch"]), *rates, *shares])
    machine = found["environment"]
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    on, torch_version, commit = (escaping.markdown(machine[key]) for key in ("device", "torch", "commit"))
    return f"\n{table}\n{on}, torch {torch_version} ({commit}).\n"


def _rates(
    data: str, batch: int, device: torch.device, peak: dict[str, float], quick: bool, others: Mapping[str, Other]
) -> dict[str, float]:
    """A row of the table: a data set's network and recipe with one batch size."""
    setting, shape = SETTINGS[data]["fast"], SHAPES[data]
    model = models.build(setting.model).to(device)
    seconds, plain = (_training_seconds(model, setting.attack, batch, shape, quick, on) for on in (True, False))
    x, y = torch.rand(batch, *shape, device=device), torch.randint(10, (batch,), device=device)
    long = PGD(setting.attack.eps, setting.attack.eps, 4 if quick else 100)
    attacks = {"attack": lambda: long(model, x, y), "attack, eager": _eager(lambda: long(model, x, y))}
    attacks |= {f"attack, {name}": make(long, model, x, y) for name, make in others.items()}
    rates = {name: batch * long.steps / took for name, case in attacks.items() if (took := _tried(case, name))}
    (flops, traffic), (a_gradient, its_traffic) = work(model, setting.attack, x[:8]), gradient_work(model, x[:8])
    return {
        "batch": batch,
        "training": batch / seconds,
        "training, eager": batch / plain,
        **rates,
        "training of arithmetic": flops * batch / peak["flops"] / seconds,
        "training of memory": traffic * batch / peak["bytes"] / seconds,
        "attack of arithmetic": a_gradient * rates["attack"] / peak["flops"],
        "attack of memory": its_traffic * rates["attack"] / peak["bytes"],
    }


def _eager(case: Callable[[], object]) -> Callable[[], object]:
    def without_graphs() -> object:
        with graphs.switched(False):
            return case()

    return without_graphs


def _tried(case: Callable[[], object], name: str) -> float | None:
    """Seconds of a case, or None and a warning where it cannot run: torch.compile wants a compiler, say."""
    try:
        return _seconds(case)
    except (RuntimeError, ImportError) as error:
        warnings.warn(f"not timed, {name}: {str(error).splitlines()[0]}", stacklevel=2)
        return None


def work(model: Classifier, attack: Attack, x: Tensor) -> tuple[float, float]:
    """FLOPs and least bytes of memory traffic that one image costs in an AALP training step with this attack.

    The pass back costs as much as the pass forward where images alone get a gradient, and twice that where weights get
    one too. The bytes: every layer's output is written once and read once on the way forward, and read twice and
    written once, as a gradient, on the way back, in bfloat16; weights are not counted.
    """
    forward, outputs = _forward_work(model, x)
    return (2 * attack.steps + 3 * 2) * forward, (attack.steps + 2) * 5 * 2 * outputs


def gradient_work(model: Classifier, x: Tensor) -> tuple[float, float]:
    """FLOPs and least bytes of memory traffic of one image's gradient in float32."""
    forward, outputs = _forward_work(model, x)
    return 2 * forward, 5 * 4 * outputs


def _forward_work(model: Classifier, x: Tensor) -> tuple[float, float]:
    """FLOPs of an image's way forward, and how many numbers all layers put out."""
    sizes: list[int] = []
    copy = engine.private(model)
    for module in copy.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _m, _i, out: sizes.append(out.numel()))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy(x)
    return counter.get_total_flops() / len(x), sum(sizes) / len(x)


def _training_seconds(
    model: Classifier, attack: Attack, batch: int, shape: tuple[int, ...], quick: bool, on: bool
) -> float:
    """Wall time of a training step of AALP, as `fit` does it, after a warm-up."""
    steps, device = 2 if quick else 40, next(model.parameters()).device
    pixels = torch.randint(256, (batch * steps, *shape), dtype=torch.uint8, device=device)
    split = Split(pixels, torch.randint(10, (batch * steps,), device=device))
    data = Dataset("noise", tuple("0123456789"), split, split[:32], split[:32])
    recipe = Recipe(3, batch, 1e-4, precision="bfloat16" if device.type == "cuda" else "float32")
    with graphs.switched(on):
        history = fit(model, data, "aalp", attack, recipe=recipe)
    return min(history["seconds"][1:]) / steps


def _seconds(function: Callable[[], Any]) -> float:
    """Mean wall time of a call, after a warm-up, a GPU's own work included."""
    timer = benchmark.Timer("function()", globals={"function": function}, num_threads=torch.get_num_threads())
    return float(timer.timeit(5).mean)
