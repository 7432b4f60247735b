"""Images per second that a device trains and attacks, beside the floors that arithmetic and memory traffic set."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aalp_lib import engine, models
from aalp_lib.attacks import PGD, Attack
from aalp_lib.data import Dataset, Split
from aalp_lib.engine import graphs
from aalp_lib.evaluation import gradient_count, table2_suite
from aalp_lib.methods import TABLE_2
from aalp_lib.models import Classifier
from aalp_lib.reproduction import machine
from aalp_lib.reproduction.grids import SETTINGS
from aalp_lib.train import Recipe, fit

MISSING = "not measured yet"
# training images (the validation split taken off), test images
SIZES = {"mnist": (54_000, 10_000), "svhn": (65_931, 26_032), "cifar10": (45_000, 10_000)}
BATCHES = (128, 512, 2048)


def measure(device: torch.device, quick: bool = False) -> dict[str, Any]:
    """Throughput of each data set's network under its fast recipe, the floors, and what the whole of Table 2 takes.

    Returns
    -------
    dict
        "environment"; "peak": measured bfloat16 FLOP/s of a large product and bytes/s of a large copy; "networks": for
        each data set the network, and for each batch size images/s of PGD training with and without recorded loops,
        attack gradients/s, and the shares of the two floors; "table_2_minutes": seven methods on three data sets,
        trained and evaluated one after the other, at the best batch size found.
    """
    peak = {
        "flops": _peak_flops(device, 256 if quick else 8192),
        "bytes": _peak_bytes(device, 1 << (20 if quick else 30)),
    }
    networks = {name: _network(name, device, peak, (4,) if quick else BATCHES, quick) for name in SIZES}
    minutes = sum(_minutes(name, rows) for name, rows in networks.items())
    return {
        "environment": machine.environment(device),
        "peak": peak,
        "networks": networks,
        "table_2_minutes": minutes,
    }


def markdown(found: dict[str, Any] | str) -> str:
    """The measurement as a table with a sentence below, or that there is none."""
    if isinstance(found, str):
        return f"On a GPU: {found}.\n"
    head = (
        "| Data set | Batch | Images/s of PGD training | Without graphs | Attack gradients/s "
        "| Of the arithmetic floor | Of the memory floor |\n"
    )
    rows = [
        f"| {name} | {row['batch']} | {row['training']:.0f} | {row['training_plain']:.0f} | {row['attack']:.0f} "
        f"| {100 * row['of_arithmetic']:.0f} % | {100 * row['of_memory']:.0f} % |\n"
        for name, rows in found["networks"].items()
        for row in rows
    ]
    machine = found["environment"]
    return (
        f"\n{head}| --- | --- | --- | --- | --- | --- | --- |\n{''.join(rows)}\n"
        f"{machine['device']}, torch {machine['torch']} ({machine['commit']}). Table 2, seven methods on three data "
        "sets, trained and evaluated one after the other, would take "
        f"{found['table_2_minutes']:.0f} minutes at these rates.\n"
    )


def _network(
    data: str, device: torch.device, peak: dict[str, float], batches: tuple[int, ...], quick: bool
) -> list[dict[str, float]]:
    setting = SETTINGS[data]["fast"]
    rows = []
    for batch in batches:
        model = models.build(setting.model).to(device)
        seconds = {on: _training_seconds(model, setting.attack, batch, device, quick, on) for on in (True, False)}
        attack = _attack_seconds(model, setting.attack, batch, device, quick)
        flops, traffic = work(model, setting.attack, _images(data, 8, device))
        rows.append(
            {
                "batch": batch,
                "training": batch / seconds[True],
                "training_plain": batch / seconds[False],
                "attack": batch / attack,
                "of_arithmetic": flops * batch / peak["flops"] / seconds[True],
                "of_memory": traffic * batch / peak["bytes"] / seconds[True],
            }
        )
    return rows


def work(model: Classifier, attack: Attack, x: Tensor) -> tuple[float, float]:
    """FLOPs and least bytes of memory traffic that one image costs in an AALP training step with this attack.

    The pass back costs as much as the pass forward where images alone get a gradient, and twice that where weights get
    one too. The bytes: every layer's output is written once and read once on the way forward, and read twice and
    written once, as a gradient, on the way back, in bfloat16; weights are not counted.
    """
    model = engine.private(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    forward = counter.get_total_flops() / len(x)
    return (2 * attack.steps + 3 * 2) * forward, (attack.steps + 2) * 5 * 2 * _outputs(model, x[:1])


def _outputs(copy: nn.Module, x: Tensor) -> int:
    """Numbers that the layers of a private copy put out for one image."""
    sizes: list[int] = []
    for module in copy.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _m, _i, out: sizes.append(out.numel()))
    with torch.no_grad():
        copy(x)
    return sum(sizes)


def _training_seconds(
    model: Classifier, attack: Attack, batch: int, device: torch.device, quick: bool, on: bool
) -> float:
    """Wall time of a training step of AALP, as `fit` does it, after a warm-up."""
    steps = 2 if quick else 40
    shape = _shape(model)
    split = Split(
        torch.randint(256, (batch * steps, *shape), dtype=torch.uint8, device=device),
        torch.randint(10, (batch * steps,), device=device),
    )
    data = Dataset("noise", tuple("0123456789"), split, split[:32], split[:32])
    recipe = Recipe(3, batch, 1e-4, precision="bfloat16" if device.type == "cuda" else "float32")
    with graphs.switched(on):
        history = fit(model, data, "aalp", attack, recipe=recipe)
    return min(history["seconds"][1:]) / steps


def _attack_seconds(model: Classifier, attack: Attack, batch: int, device: torch.device, quick: bool) -> float:
    """Wall time of one gradient of a batch in a long attack, in float32, as evaluation runs it."""
    steps = 4 if quick else 100
    x, y = torch.rand(batch, *_shape(model), device=device), torch.randint(10, (batch,), device=device)
    long = PGD(attack.eps, attack.eps, steps)
    long(model, x, y)
    return _clocked(lambda: long(model, x, y), device) / steps


def _minutes(data: str, rows: list[dict[str, float]]) -> float:
    """Of the seven methods on one data set: training, and evaluating last and best as if nothing was ever fooled."""
    train, test = SIZES[data]
    training = max(row["training"] for row in rows)
    attack = max(row["attack"] for row in rows)
    epochs = SETTINGS[data]["fast"].recipe.epochs
    seconds = train * epochs / training + 2 * test * gradient_count(table2_suite(data)) / attack
    return len(TABLE_2) * seconds / 60


def _shape(model: Classifier) -> tuple[int, int, int]:
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    return (1, 28, 28) if first.in_channels == 1 else (3, 32, 32)


def _images(data: str, count: int, device: torch.device) -> Tensor:
    return torch.rand(count, *((1, 28, 28) if data == "mnist" else (3, 32, 32)), device=device)


def _peak_flops(device: torch.device, size: int) -> float:
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / _clocked(lambda: a @ a, device)


def _peak_bytes(device: torch.device, size: int) -> float:
    a = torch.empty(size, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * size / _clocked(lambda: b.copy_(a), device)


def _clocked(function: Callable[[], Any], device: torch.device) -> float:
    """Least wall time of five calls, after one that does not count."""
    found = []
    for _ in range(6):
        _wait(device)
        began = time.perf_counter()
        function()
        _wait(device)
        found.append(time.perf_counter() - began)
    return min(itertools.islice(found, 1, None))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
