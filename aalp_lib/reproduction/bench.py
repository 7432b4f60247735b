"""The yardstick: this library beside its peers and the limit, timed in turns within one run.

Peers are torchattacks, foolbox and the adversarial-robustness-toolbox for the attack, the loop that was published for
TRADES, and ten separate attack calls for a row of Table 2. The limit is the bare loop of forward pass, input gradient
and step on the same network, in the best memory format for the precision.
"""

import copy
import dataclasses
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aalp_lib import checkpoints, engine, losses, models
from aalp_lib._checks import InputError
from aalp_lib.attacks import PGD, Attack, scaled
from aalp_lib.data import load
from aalp_lib.evaluation import evaluate, gradient_count, table2_suite
from aalp_lib.methods import METHODS, training_loss
from aalp_lib.models import Classifier
from aalp_lib.reproduction import escaping, machine, schema, throughput
from aalp_lib.reproduction.jobs import Job
from aalp_lib.reproduction.settings import Setting
from aalp_lib.reproduction.workers import cores, run_jobs
from aalp_lib.train import Recipe, fit

Case = Callable[[], object]
Seconds = Mapping[str, Sequence[float]]  # of each case, a number a round
EPS, STEP = 0.3, 0.01
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio, its goal in words, what was timed, and the measured limit and other remarks."""

    what: str
    goal: str
    reached: float
    met: bool
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)  # as of `summary`
    note: str = ""


def at_least(what: str, goal: float, of: str, reached: float, seconds: Seconds, note: str = "") -> Row:
    """A ratio that should reach a number."""
    return Row(what, f"at least {goal:g} × {of}", reached, reached >= goal, summary(seconds), note)


def at_most(what: str, goal: float, of: str, reached: float, seconds: Seconds, note: str = "") -> Row:
    """A ratio that should stay below a number."""
    return Row(what, f"at most {goal:g} × {of}", reached, reached <= goal, summary(seconds), note)


def in_turns(cases: Mapping[str, Case], rounds: int) -> dict[str, list[float]]:
    """Seconds of each case in each round; every case runs once unclocked, then all take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for index in range(rounds + 1):
        for name, case in cases.items():
            began = time.perf_counter()
            case()
            if index:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def summary(seconds: Seconds) -> dict[str, dict[str, float]]:
    """Median, extremes and number of the runs of each case."""
    return {
        name: {"median": statistics.median(runs), "low": min(runs), "high": max(runs), "runs": len(runs)}
        for name, runs in seconds.items()
    }


def ratio(seconds: Seconds, one: str, other: str) -> float:
    """Median over the rounds of the time of `one` over that of `other` in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def fastest(seconds: Seconds, names: Sequence[str]) -> str:
    """The case with the smallest median."""
    return min(names, key=lambda name: statistics.median(seconds[name]))


# --- what is timed ---------------------------------------------------------------------------------------------------


def ours(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, precision: str) -> Tensor:
    """The attack as this library runs it, from the image itself."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return attack(model, x, y, start=x)


def bare(attack: Attack, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, precision: str = "float32") -> Tensor:
    """The limit: forward, input gradient, step; no checks, no modes, nothing kept."""
    x_adv, low, high = x.clone(), (x - attack.eps).clamp_(min=0), (x + attack.eps).clamp_(max=1)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for _ in range(attack.steps):
            x_adv.requires_grad_()
            (gradient,) = torch.autograd.grad(losses.cross_entropy(model(x_adv), y).sum(), x_adv)
            x_adv = x_adv.detach().add_(gradient.sign_(), alpha=attack.step).clamp_(low, high)
    return x_adv


def _torchattacks(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> Case:
    import torchattacks

    made = torchattacks.PGD(model, eps=attack.eps, alpha=attack.step, steps=attack.steps, random_start=False)
    return lambda: made(x, y)


def _compiled(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> Case:
    """The bare loop on a compiled network."""
    network = torch.compile(model.eval(), mode="reduce-overhead", dynamic=False)
    return lambda: bare(attack, network, x, y)


def _foolbox(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> Case:
    import foolbox

    made = foolbox.attacks.LinfPGD(abs_stepsize=attack.step, steps=attack.steps, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    return lambda: made.run(wrapped, x, y, epsilon=attack.eps)


def _art(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> Case:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    pixels, labels = x.cpu().numpy(), y.cpu().numpy()
    with engine.prepared(model, x) as forward:
        classes = forward.classes
    estimator = PyTorchClassifier(model, nn.CrossEntropyLoss(), x.shape[1:], classes, clip_values=(0, 1))
    made = ProjectedGradientDescentPyTorch(
        estimator, eps=attack.eps, eps_step=attack.step, max_iter=attack.steps, batch_size=len(x), verbose=False,
        summary_writer=False,
    )  # fmt: skip
    return lambda: made.generate(pixels, labels)


PEERS: dict[str, Callable[[Attack, nn.Module, Tensor, Tensor], Case]] = {
    "torchattacks": _torchattacks,
    "foolbox": _foolbox,
    "adversarial-robustness-toolbox": _art,
}
"""Name of the package -> what makes its PGD with the image itself as start."""


def peer_versions() -> dict[str, str]:
    """Versions of the peers; InputError if one of them is not installed."""
    try:
        return {name: version(name) for name in PEERS}
    except PackageNotFoundError as error:
        raise InputError(f"the bench needs its peers ({error}): pip install 'aalp_lib[bench]'") from error


def published_trades_step(
    attack: Attack, model: Classifier, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> None:
    """One TRADES step in the order of operations that its authors published: the clean batch goes through the network
    again in every inner step, and clean and adversarial images in passes of their own."""
    kl = nn.KLDivLoss(reduction="sum")
    model.eval()
    x_adv = x.detach() + 0.001 * torch.randn_like(x)
    for _ in range(attack.steps):
        x_adv.requires_grad_()
        with torch.enable_grad():
            loss = kl(model(x_adv).log_softmax(1), model(x).softmax(1))
        (gradient,) = torch.autograd.grad(loss, x_adv)
        x_adv = (x_adv.detach() + attack.step * gradient.sign()).clamp(x - attack.eps, x + attack.eps).clamp(0, 1)
    model.train()
    optimizer.zero_grad()
    z_clean = model(x)
    robust = kl(model(x_adv).log_softmax(1), model(x).softmax(1)) / len(x)
    (nn.functional.cross_entropy(z_clean, y) + 6 * robust).backward()
    optimizer.step()


def channels_last(model: Classifier, x: Tensor) -> tuple[Classifier, Tensor]:
    """The model and the images (N, C, H, W) in channels-last memory."""
    return model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)


class _Step:
    """A training step of a method, as `fit` does it."""

    def __init__(self, method: str, attack: Attack, model: Classifier, x: Tensor, y: Tensor) -> None:
        self.method, self.y = METHODS[method], y
        self.model = model.to(memory_format=torch.channels_last).train()
        self.x = x.contiguous(memory_format=torch.channels_last)
        self.attack = scaled(self.method.training_attack(attack), 1.0)
        self.optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

    def __call__(self) -> None:
        with engine.prepared(self.model, self.x) as forward:
            x_adv = self.attack.perturb(forward, self.x, self.y)
        terms = training_loss(self.method, self.model, self.x, x_adv, self.y)
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()
        self.optimizer.step()


# --- the rows --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """A network, a batch and a number of steps to time the attack on."""

    network: str
    batch: int
    steps: int

    def __str__(self) -> str:
        return f"{self.network}, batch {self.batch}, {self.steps} steps"

    def prepared(self) -> tuple[Classifier, Tensor, Tensor]:
        """The network, in evaluation mode, with images and labels."""
        torch.manual_seed(0)
        model = models.MODELS[self.network]().eval()
        shape = (1, 28, 28) if self.network == "lenet" else (3, 32, 32)
        return model, torch.rand(self.batch, *shape), torch.randint(10, (self.batch,))


SIZES = (
    *(Size("lenet", batch, steps) for batch, steps in ((64, 40), (256, 40), (1000, 10))),
    *(Size(network, batch, 4) for network, batch in (("resnet32", 64), ("resnet32", 256), ("resnet9", 64))),
)


def attack_rows(sizes: Sequence[Size], rounds: int) -> Iterator[Row]:
    """PGD with the same start: against the fastest peer, and against the bare loop, in float32 and in bfloat16."""
    for size in sizes:
        model, x, y = size.prepared()
        last, x_last = channels_last(copy.deepcopy(model), x)
        attack = PGD(EPS, EPS / size.steps * 2.5, size.steps)
        cases: dict[str, Case] = {name: make(attack, model, x, y) for name, make in PEERS.items()}
        for p in PRECISIONS:
            cases[f"aalp_lib, {p}"] = partial(ours, attack, model, x, y, p)
            cases[f"bare, {p}"] = partial(bare, attack, model, x, y, p)
            cases[f"bare channels-last, {p}"] = partial(bare, attack, last, x_last, y, p)
        seconds = in_turns(cases, rounds)
        peer = fastest(seconds, list(PEERS))
        for p, goal in zip(PRECISIONS, (1.5, 2.5), strict=True):
            mine, what = f"aalp_lib, {p}", f"PGD, {p}: {size}"
            limit = fastest(seconds, [f"bare, {p}", f"bare channels-last, {p}"])
            note = f"fastest peer: {peer}; the limit is {ratio(seconds, peer, limit):.2f}"
            yield at_least(what, goal, "the fastest peer", ratio(seconds, peer, mine), seconds, note)
            yield at_most(what, 1.05, "the bare loop", ratio(seconds, mine, limit), {}, limit)


def table_2_rows(rounds: int, images: int, epochs: int) -> Iterator[Row]:
    """A row of Table 2 in one call, against a call of torchattacks for each column.

    torchattacks has no L∞ attack on the margin: its CW columns are timed as PGD of as many steps, and left out where
    accuracies are compared.
    """
    sample = load("mnist-sample")
    torch.manual_seed(0)
    model = models.lenet()
    fit(model, sample, "adv", PGD(EPS, 0.1, 3), recipe=Recipe(epochs, 64, 2e-3))
    model.eval()
    test, suite = sample.test[:images], table2_suite("mnist")
    x, y = next(test.batches(images))
    found: dict[str, dict[str, float]] = {}

    def mine(precision: Any) -> None:
        report = evaluate(model, test, suite, precision=precision)
        found[precision] = {name: outcome.accuracy for name, outcome in report.items()}

    import torchattacks

    calls = {"clean": lambda x, y: x, "fgsm": torchattacks.FGSM(model, eps=EPS)}
    for name in suite.keys() - {"fgsm"}:
        calls[name] = torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=suite[name].steps)

    def theirs() -> None:
        attacked = {name: call(x, y) for name, call in calls.items()}
        with torch.no_grad():
            right = {name: model(images).argmax(1) == y for name, images in attacked.items()}
        found["peer"] = {name: float(of.float().mean()) for name, of in right.items()}

    (last, x_last), steps = channels_last(copy.deepcopy(model), x), gradient_count(suite)
    limits = {f"bare channels-last, {p}": partial(bare, PGD(EPS, STEP, steps), last, x_last, y, p) for p in PRECISIONS}
    cases: dict[str, Case] = {"aalp_lib": partial(mine, "auto"), "aalp_lib, float32": partial(mine, "float32")}
    seconds = in_turns(cases | {"torchattacks": theirs} | limits, rounds)
    by = {name: ratio(seconds, "torchattacks", name) for name in seconds}
    apart = max(abs(found["auto"][name] - right) for name, right in found["peer"].items() if not name.startswith("cw"))
    half_width = 1.96 * (0.25 / images) ** 0.5
    note = (
        f"float32 throughout: {by['aalp_lib, float32']:.2f}; the limit, the {steps} gradients of a row on all images "
        f"in the bare loop, is {by[fastest(seconds, list(limits))]:.2f}; accuracies differ by up to {100 * apart:.1f} "
        f"points, half an interval is up to {100 * half_width:.1f}"
    )
    what = f"a row of Table 2, LeNet, {images} digits"
    row = at_least(what, 5, "ten separate calls", by["aalp_lib"], seconds, note)
    yield dataclasses.replace(row, met=row.met and apart <= half_width)


def trades_rows(rounds: int) -> Iterator[Row]:
    """A training step of TRADES against the order of operations that was published, both in float32."""
    for size in (Size("lenet", 64, 10), Size("resnet32", 64, 10)):
        (model, x, y), attack = size.prepared(), PGD(EPS, STEP * 4, size.steps)
        other = copy.deepcopy(model)
        optimizer = torch.optim.Adam(other.parameters(), 1e-4)
        cases: dict[str, Case] = {
            "aalp_lib": _Step("trades", attack, model, x, y),
            "published": partial(published_trades_step, attack, other, optimizer, x, y),
        }
        seconds = in_turns(cases, rounds)
        reached = ratio(seconds, "published", "aalp_lib")
        yield at_least(f"a TRADES step: {size}", 1.4, "the published loop", reached, seconds)


def aalp_rows(rounds: int) -> Iterator[Row]:
    """A step of AALP against a step of ALP: what Guided Dropout and the weighting cost."""
    size = Size("lenet", 64, 5)
    cases = {name: _Step(name, PGD(EPS, EPS / 4, size.steps), *size.prepared()) for name in ("alp", "aalp")}
    seconds = in_turns(cases, rounds)
    yield at_most(f"an AALP step: {size}", 1.03, "an ALP step", ratio(seconds, "aalp", "alp"), seconds)


def _in_processes(call: str, count: int = 1) -> list[float]:
    """What a call of this module gives in so many processes of their own, side by side."""
    command = [sys.executable, "-c", f"from aalp_lib.reproduction.bench import *; print({call})"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [float(process.communicate()[0]) for process in running]


def peak_memory(steps: int) -> float:
    """Largest resident memory of this process in MiB, after an attack with so many steps on ResNet32."""
    torch.set_num_threads(1)
    model, x, y = Size("resnet32", 64, steps).prepared()
    PGD(EPS, EPS, 1)(model, x, y)
    PGD(EPS, EPS, steps)(model, x, y)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def memory_rows(few: int, many: int) -> Iterator[Row]:
    """Peak memory of a process that attacks with many steps against one with few."""
    less, more = (_in_processes(f"peak_memory({steps})")[0] for steps in (few, many))
    note = f"{less:.0f} MiB at {few} steps, {more:.0f} MiB at {many}"
    yield at_most("peak memory, ResNet32, batch 64", 1.05, "with eight times the steps", more / less, {}, note)


def bare_seconds(threads: int, steps: int) -> float:
    """Wall time of a bare loop on LeNet, after a warm-up."""
    torch.set_num_threads(threads)
    model, x, y = Size("lenet", 64, steps).prepared()
    model, x = channels_last(model, x)
    seconds = in_turns({"bare": partial(bare, PGD(EPS, EPS, steps), model, x, y)}, 1)
    return seconds["bare"][0]


def threads_limit(steps: int) -> float:
    """Two bare loops side by side, a thread each, against one after the other with two threads: what jobs can gain."""
    alone, beside = f"bare_seconds(2, {steps})", f"bare_seconds(1, {steps})"
    return statistics.median(2 * _in_processes(alone)[0] / max(_in_processes(beside, 2)) for _ in range(3))


def jobs_rows(network: dict[str, Any], epochs: int, steps: int) -> Iterator[Row]:
    """Two trainings side by side, a core each, against one after the other, both cores each.

    `steps` are those of the bare loops that set the limit.
    """
    setting = Setting(network, PGD(EPS, 0.1, 5), Recipe(epochs, 64, 2e-3))
    seconds, inside = {}, {}
    for workers, name in ((1, "one after the other"), (2, "side by side")):
        with tempfile.TemporaryDirectory() as folder:
            job = Job("mnist-sample", "alp", setting, Path(folder), test_images=100)
            began = time.perf_counter()
            records = list(run_jobs([job, dataclasses.replace(job, method="aalp")], workers))
            seconds[name] = [time.perf_counter() - began]
            inside[workers] = sum(sum(record.seconds.values()) for record in records) / workers
    note = (
        f"without the start of the processes {inside[1] / inside[2]:.2f}; "
        f"the limit, two bare loops on LeNet, is {threads_limit(steps):.2f}"
    )
    reached = ratio(seconds, "one after the other", "side by side")
    yield at_least(f"two jobs on {cores()} cores", 1.5, "one after the other", reached, seconds, note)


# what makes rows, with its arguments in a quick run and in a whole one
ROWS: tuple[tuple[Callable[..., Iterator[Row]], tuple[Any, ...], tuple[Any, ...]], ...] = (
    (attack_rows, ((Size("lenet", 64, 4),), 1), (SIZES, 5)),
    (table_2_rows, (1, 50, 1), (2, 500, 4)),
    (trades_rows, (1,), (12,)),
    (aalp_rows, (10,), (30,)),
    (memory_rows, (2, 16), (5, 40)),
    (jobs_rows, ({"name": "lenet", "width": (4, 8, 32)}, 1, 20), ({"name": "lenet"}, 3, 300)),
)


# --- the curves ------------------------------------------------------------------------------------------------------


def curves(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Seconds of PGD on LeNet against steps, batch and threads, for this library and for torchattacks."""
    threads = torch.get_num_threads()
    points = [("steps", steps, Size("lenet", 128, steps), threads) for steps in (5, 10, 20, 40)]
    points += [("batch", batch, Size("lenet", batch, 10), threads) for batch in (32, 64, 128, 256, 512, 1024)]
    points += [("threads", count, Size("lenet", 256, 10), count) for count in range(1, cores() + 1)]
    found: dict[str, list[dict[str, Any]]] = {"steps": [], "batch": [], "threads": []}
    try:
        for curve, at, size, count in points:
            torch.set_num_threads(count)
            found[curve].append({"at": at, "seconds": _beside_torchattacks(size, rounds)})
    finally:
        torch.set_num_threads(threads)
    return found


def _beside_torchattacks(size: Size, rounds: int) -> dict[str, dict[str, float]]:
    (model, x, y), attack = size.prepared(), PGD(EPS, EPS, size.steps)
    cases: dict[str, Case] = {f"aalp_lib, {p}": partial(ours, attack, model, x, y, p) for p in PRECISIONS}
    return summary(in_turns(cases | {"torchattacks": _torchattacks(attack, model, x, y)}, rounds))


# --- all of it -------------------------------------------------------------------------------------------------------


def run(out: Path, quick: bool = False, tell: Callable[[Row], None] | None = None) -> dict[str, Any]:
    """Measure everything, write `bench.json` into `out` and return what it holds; `tell` sees each row as it comes."""
    rows, environment = [], machine.environment(torch.device("cpu")) | peer_versions()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' own
        for make, small, whole in ROWS:
            for row in make(*(small if quick else whole)):
                rows.append(row)
                if tell:
                    tell(row)
        record = {
            "schema": schema.SCHEMA,
            "kind": "bench",
            "quick": quick,
            "environment": environment,
            "rows": [dataclasses.asdict(row) for row in rows],
            "curves": {} if quick else curves(3),
            "gpu": throughput.MISSING,
        }
    if torch.cuda.is_available():
        record["gpu"] = _on(torch.device("cuda"), quick)
    return _written(out, record)


def on_device(out: Path, device: torch.device, quick: bool = False) -> dict[str, Any]:
    """Measure what a device trains and attacks, put it into the `bench.json` in `out`, made if need be, and return
    what that holds."""
    there = out / "bench.json"
    record = checkpoints.read_json(there) if there.exists() else _nothing(device)
    return _written(out, record | {"gpu": _on(device, quick), "quick": quick or record["quick"]})


def _on(device: torch.device, quick: bool) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' own
        return throughput.measure(device, quick, {"torchattacks": _torchattacks, "torch.compile": _compiled})


def _nothing(device: torch.device) -> dict[str, Any]:
    environment = machine.environment(device) | dict.fromkeys(PEERS, "not timed")
    return {
        "schema": schema.SCHEMA,
        "kind": "bench",
        "environment": environment,
        "rows": [],
        "curves": {},
        "quick": False,
    }


def _written(out: Path, record: dict[str, Any]) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    checkpoints.write_json(out / "bench.json", record)
    return record


def markdown(record: dict[str, Any]) -> str:
    """The table of a record, with what was measured on."""
    machine = {key: escaping.markdown(value) for key, value in record["environment"].items()}
    rows = [
        f"| {escaping.markdown(row['what'])} | {escaping.markdown(row['goal'])} "
        f"| **{row['reached']:.2f}**{'' if row['met'] else ' (missed)'} | {escaping.markdown(row['note'])} |\n"
        for row in record["rows"]
    ]
    peers = ", ".join(f"{name} {machine[name]}" for name in PEERS)
    return (
        "| What | Goal | Reached | Note |\n| --- | --- | --- | --- |\n" + "".join(rows) + "\n"
        f"{machine['processor']}, {machine['threads']} threads, Python {machine['python']}, "
        f"torch {machine['torch']}, aalp_lib {machine['aalp_lib']} ({machine['commit']}); {peers}. "
        f"Medians of ratios within a round. {throughput.markdown(record['gpu'])}"
    )


def write(record: dict[str, Any], out: Path) -> list[Path]:
    """Write the table of a record and, where curves were measured, their figure, beside it; returns all paths."""
    from aalp_lib import plots  # not for the processes whose memory is measured
    from aalp_lib.reproduction.plots_of_records import speed

    checkpoints.write_atomically(out / "bench.md", markdown(record).encode())
    written = [out / "bench.json", out / "bench.md"]
    if record["curves"]:
        plots.save(speed(record), out / "speed.png")
        written.append(out / "speed.png")
    return written
