"""The yardstick: this library beside its peers and the limit, timed in turns within one run.

Peers are torchattacks, foolbox and the adversarial-robustness-toolbox for the attack, the loop that was published for
TRADES, and ten separate attack calls for a row of Table 2. The limit is the bare loop of forward pass, input gradient
and step on the same network, in the best memory format for the precision.
"""

import copy
import dataclasses
import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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
from aalp_lib.reproduction import machine, schema, throughput
from aalp_lib.reproduction.jobs import Job, Setting, cores, run_jobs
from aalp_lib.train import Recipe, fit

Case = Callable[[], object]
EPS, STEP = 0.3, 0.01


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio, its goal, and what it was made of.

    Attributes
    ----------
    what : str
    goal : str
        In words, with the number.
    reached : float
        The ratio; a goal "at least" is met from `goal_value` up, one "at most" up to it.
    met : bool
    seconds : dict
        For each thing timed {"median", "low", "high", "runs"}.
    note : str
        The measured limit where the goal is missed, and other remarks.
    """

    what: str
    goal: str
    reached: float
    met: bool
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    note: str = ""


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


def spread(seconds: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median, extremes and number of the runs of each case."""
    return {
        name: {"median": statistics.median(runs), "low": min(runs), "high": max(runs), "runs": len(runs)}
        for name, runs in seconds.items()
    }


def ratio(seconds: Mapping[str, list[float]], one: str, other: str) -> float:
    """Median over the rounds of the time of `one` over that of `other` in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def fastest(seconds: Mapping[str, list[float]], names: list[str]) -> str:
    """The case with the smallest median."""
    return min(names, key=lambda name: statistics.median(seconds[name]))


# --- the peers -------------------------------------------------------------------------------------------------------


def peers(model: nn.Module, x: Tensor, y: Tensor, steps: int, eps: float, step: float) -> dict[str, Case]:
    """PGD with the image itself as start, by each peer; they must be installed."""
    import foolbox
    import torchattacks
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    ours_elsewhere = torchattacks.PGD(model, eps=eps, alpha=step, steps=steps, random_start=False)
    fool = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps, random_start=False)
    fooled = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    pixels, labels = x.cpu().numpy(), y.cpu().numpy()
    with engine.prepared(model, x) as forward:
        classes = forward.classes
    estimator = PyTorchClassifier(model, nn.CrossEntropyLoss(), x.shape[1:], classes, clip_values=(0, 1))
    art = ProjectedGradientDescentPyTorch(
        estimator, eps=eps, eps_step=step, max_iter=steps, batch_size=len(x), verbose=False, summary_writer=False
    )
    return {
        "torchattacks": lambda: ours_elsewhere(x, y),
        "foolbox": lambda: fool.run(fooled, x, y, epsilon=eps),
        "adversarial-robustness-toolbox": lambda: art.generate(pixels, labels),
    }


def bare(model: nn.Module, x: Tensor, y: Tensor, steps: int, precision: str, eps: float, step: float) -> Tensor:
    """The limit: forward, input gradient, step; no checks, no modes, nothing kept."""
    x_adv, low, high = x.clone(), (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for _ in range(steps):
            x_adv.requires_grad_()
            (gradient,) = torch.autograd.grad(losses.cross_entropy(model(x_adv), y).sum(), x_adv)
            x_adv = x_adv.detach().add_(gradient.sign_(), alpha=step).clamp_(low, high)
    return x_adv


def published_trades_step(
    model: Classifier, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int, eps: float, step: float
) -> None:
    """One TRADES step in the order of operations that its authors published: the clean batch goes through the network
    again in every inner step, and clean and adversarial images in passes of their own."""
    kl = nn.KLDivLoss(reduction="sum")
    model.eval()
    x_adv = x.detach() + 0.001 * torch.randn_like(x)
    for _ in range(steps):
        x_adv.requires_grad_()
        with torch.enable_grad():
            loss = kl(model(x_adv).log_softmax(1), model(x).softmax(1))
        (gradient,) = torch.autograd.grad(loss, x_adv)
        x_adv = (x_adv.detach() + step * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    model.train()
    optimizer.zero_grad()
    z_clean = model(x)
    robust = kl(model(x_adv).log_softmax(1), model(x).softmax(1)) / len(x)
    (nn.functional.cross_entropy(z_clean, y) + 6 * robust).backward()
    optimizer.step()


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
PEERS = ["torchattacks", "foolbox", "adversarial-robustness-toolbox"]


def attack_rows(size: Size, rounds: int) -> Iterator[Row]:
    """PGD with the same start: against the fastest peer, and against the bare loop, in float32 and in bfloat16."""
    model, x, y = size.prepared()
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x_last = x.contiguous(memory_format=torch.channels_last)
    attack = PGD(EPS, EPS / size.steps * 2.5, size.steps)
    ball = (attack.eps, attack.step)

    def ours(precision: str) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return attack(model, x, y, start=x)

    precisions = ("float32", "bfloat16")
    cases: dict[str, Case] = {f"aalp_lib, {p}": lambda p=p: ours(p) for p in precisions}  # type: ignore[misc]
    cases |= peers(model, x, y, size.steps, *ball)
    for p in precisions:
        cases[f"bare, {p}"] = lambda p=p: bare(model, x, y, size.steps, p, *ball)  # type: ignore[misc]
        cases[f"bare channels-last, {p}"] = lambda p=p: bare(last, x_last, y, size.steps, p, *ball)  # type: ignore[misc]
    seconds = in_turns(cases, rounds)
    peer = fastest(seconds, PEERS)
    for precision, goal in (("float32", 1.5), ("bfloat16", 2.5)):
        mine = f"aalp_lib, {precision}"
        limit = fastest(seconds, [f"bare, {precision}", f"bare channels-last, {precision}"])
        reached, possible = ratio(seconds, peer, mine), ratio(seconds, peer, limit)
        what = f"PGD, {precision}: {size}"
        note = f"fastest peer: {peer}; the limit is {possible:.2f}"
        yield Row(what, f"at least {goal} × the fastest peer", reached, reached >= goal, spread(seconds), note)
        above = ratio(seconds, mine, limit)
        yield Row(what, "at most 1.05 × the bare loop", above, above <= 1.05, note=limit)


def table_2_row(rounds: int, images: int, epochs: int) -> Row:
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
    peers_attacks = _torchattacks_row(model, suite)

    def ours(precision: Any) -> None:
        report = evaluate(model, test, suite, precision=precision)
        found[precision] = {name: outcome.accuracy for name, outcome in report.items()}

    def theirs() -> None:
        found["peer"] = {}
        for name, make in peers_attacks.items():
            x_adv = make(x, y)
            with torch.no_grad():
                found["peer"][name] = float((model(x_adv).argmax(1) == y).float().mean())

    last, x_last = copy.deepcopy(model).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    steps = gradient_count(suite)
    cases = {
        "aalp_lib": lambda: ours("auto"),
        "aalp_lib, float32": lambda: ours("float32"),
        "torchattacks": theirs,
        "bare channels-last, float32": lambda: bare(last, x_last, y, steps, "float32", EPS, STEP),
        "bare channels-last, bfloat16": lambda: bare(last, x_last, y, steps, "bfloat16", EPS, STEP),
    }
    seconds = in_turns(cases, rounds)
    limit = fastest(seconds, ["bare channels-last, float32", "bare channels-last, bfloat16"])
    reached = ratio(seconds, "torchattacks", "aalp_lib")
    apart = max(abs(found["auto"][name] - right) for name, right in found["peer"].items() if not name.startswith("cw"))
    half_width = 1.96 * (0.25 / images) ** 0.5
    note = (
        f"float32 throughout: {ratio(seconds, 'torchattacks', 'aalp_lib, float32'):.2f}; the limit, the {steps} "
        f"gradients of a row on all images in the bare loop, is {ratio(seconds, 'torchattacks', limit):.2f}; "
        f"accuracies differ by up to {100 * apart:.1f} points, half an interval is up to {100 * half_width:.1f}"
    )
    what = f"a row of Table 2, LeNet, {images} digits"
    met = reached >= 5 and apart <= half_width
    return Row(what, "at least 5 × ten separate calls", reached, met, spread(seconds), note)


def _torchattacks_row(model: nn.Module, suite: Mapping[str, Attack]) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Clean and the columns of Table 2 as calls on images and labels."""
    import torchattacks

    calls: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"clean": lambda x, y: x}
    calls["fgsm"] = torchattacks.FGSM(model, eps=EPS)
    for name, attack in suite.items():
        if name != "fgsm":
            calls[name] = torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=attack.steps)
    return calls


def trades_rows(rounds: int) -> Iterator[Row]:
    """A training step of TRADES against the order of operations that was published, both in float32."""
    for size in (Size("lenet", 64, 10), Size("resnet32", 64, 10)):
        model, x, y = size.prepared()
        other = copy.deepcopy(model)
        theirs = torch.optim.Adam(other.parameters(), 1e-4)
        step = _Step("trades", model, x, y, size.steps)
        cases: dict[str, Case] = {
            "aalp_lib": step,
            "published": lambda: published_trades_step(other, theirs, x, y, size.steps, EPS, STEP * 4),  # noqa: B023
        }
        seconds = in_turns(cases, rounds)
        reached = ratio(seconds, "published", "aalp_lib")
        yield Row(
            f"a TRADES step: {size}", "at least 1.4 × the published loop", reached, reached >= 1.4, spread(seconds)
        )


def aalp_row(rounds: int) -> Row:
    """A step of AALP against a step of ALP: what Guided Dropout and the weighting cost."""
    size = Size("lenet", 64, 5)
    cases = {name: _Step(name, *size.prepared(), size.steps) for name in ("alp", "aalp")}
    seconds = in_turns(cases, 10 * rounds)
    reached = ratio(seconds, "aalp", "alp")
    return Row(f"an AALP step: {size}", "at most 1.03 × an ALP step", reached, reached <= 1.03, spread(seconds))


class _Step:
    """A training step of a method, as `fit` does it."""

    def __init__(self, method: str, model: Classifier, x: Tensor, y: Tensor, steps: int) -> None:
        self.method, self.y = METHODS[method], y
        self.model = model.to(memory_format=torch.channels_last).train()
        self.x = x.contiguous(memory_format=torch.channels_last)
        self.attack = scaled(self.method.training_attack(PGD(EPS, EPS / 4, steps)), 1.0)
        self.optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

    def __call__(self) -> None:
        with engine.prepared(self.model, self.x) as forward:
            x_adv = self.attack.perturb(forward, self.x, self.y)
        terms = training_loss(self.method, self.model, self.x, x_adv, self.y)
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()
        self.optimizer.step()


MEMORY = """
import sys, torch, aalp_lib as aalp
from aalp_lib.reproduction.bench import peak_memory
torch.set_num_threads(1)
model, x = aalp.models.resnet32().eval(), torch.rand(64, 3, 32, 32)
y = torch.zeros(64).long()
aalp.PGD(0.3, 0.3, 1)(model, x, y)
aalp.PGD(0.3, 0.3, int(sys.argv[1]))(model, x, y)
print(peak_memory())
"""


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def memory_row(steps: tuple[int, int]) -> Row:
    """Peak memory of a process that attacks with many steps against one with few."""
    few, many = (
        float(subprocess.run([sys.executable, "-c", MEMORY, str(n)], capture_output=True, text=True, check=True).stdout)
        for n in steps
    )
    reached = many / few
    note = f"{few:.0f} MiB at {steps[0]} steps, {many:.0f} MiB at {steps[1]}"
    return Row(
        "peak memory, ResNet32, batch 64",
        "at most 1.05 × with eight times the steps",
        reached,
        reached <= 1.05,
        note=note,
    )


THREADS = """
import sys, time, torch, aalp_lib as aalp
from aalp_lib.reproduction.bench import bare
torch.set_num_threads(int(sys.argv[1]))
model, x = aalp.models.lenet().to(memory_format=torch.channels_last).eval(), torch.rand(64, 1, 28, 28)
y = torch.zeros(64).long()
bare(model, x, y, 20, "float32", 0.3, 0.01)
began = time.perf_counter()
bare(model, x, y, int(sys.argv[2]), "float32", 0.3, 0.01)
print(time.perf_counter() - began)
"""


def threads_limit(steps: int) -> float:
    """Two bare loops side by side, a thread each, against one after the other with two threads: what jobs can gain."""

    def loops(count: int) -> float:
        command = [sys.executable, "-c", THREADS, str(2 // count), str(steps)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        return max(float(process.communicate()[0]) for process in running)

    return statistics.median(2 * loops(1) / loops(2) for _ in range(3))


def jobs_row(epochs: int, train_images: int | None, steps: int) -> Row:
    """Two trainings side by side, a core each, against one after the other, both cores each.

    `train_images` of the bundled digits, by default all; `steps` are those of the bare loops that set the limit.
    """
    setting = Setting({"name": "lenet"}, PGD(EPS, 0.1, 5), Recipe(epochs, 64, 2e-3))
    seconds, inside = {}, {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            jobs = [
                Job(
                    "mnist-sample", name, setting, Path(folder), test_images=100,
                    train_images=train_images, reduced=f"{train_images} images" if train_images else None,
                )
                for name in ("alp", "aalp")
            ]  # fmt: skip
            began = time.perf_counter()
            records = list(run_jobs(jobs, workers))
            seconds["side by side" if workers == 2 else "one after the other"] = [time.perf_counter() - began]
            inside[workers] = sum(sum(record.seconds.values()) for record in records) / workers
    reached = ratio(seconds, "one after the other", "side by side")
    what = f"two jobs on {cores()} cores"
    note = (
        f"without the start of the processes {inside[1] / inside[2]:.2f}; "
        f"the limit, two bare loops on LeNet, is {threads_limit(steps):.2f}"
    )
    return Row(what, "at least 1.5 × one after the other", reached, reached >= 1.5, spread(seconds), note)


# --- the curves ------------------------------------------------------------------------------------------------------


def curves(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Seconds of PGD on LeNet against steps, batch and threads, for this library and for torchattacks."""
    threads = torch.get_num_threads()
    found: dict[str, list[dict[str, Any]]] = {"steps": [], "batch": [], "threads": []}
    try:
        for size in (Size("lenet", 128, steps) for steps in (5, 10, 20, 40)):
            found["steps"].append({"at": size.steps, **_pair(size, rounds)})
        for size in (Size("lenet", batch, 10) for batch in (32, 64, 128, 256, 512, 1024)):
            found["batch"].append({"at": size.batch, **_pair(size, rounds)})
        for count in range(1, cores() + 1):
            torch.set_num_threads(count)
            found["threads"].append({"at": count, **_pair(Size("lenet", 256, 10), rounds)})
    finally:
        torch.set_num_threads(threads)
    return found


def _pair(size: Size, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    model, x, y = size.prepared()
    attack = PGD(EPS, EPS, size.steps)

    def ours(precision: str) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            attack(model, x, y, start=x)

    cases: dict[str, Case] = {
        "aalp_lib, float32": lambda: ours("float32"),
        "aalp_lib, bfloat16": lambda: ours("bfloat16"),
        "torchattacks": peers(model, x, y, size.steps, EPS, EPS)["torchattacks"],
    }
    return {"seconds": spread(in_turns(cases, rounds))}


# --- all of it -------------------------------------------------------------------------------------------------------


def run(out: Path, quick: bool = False, tell: Callable[[Row], None] | None = None) -> dict[str, Any]:
    """Measure everything, write `bench.json` into `out` and return what it holds; `tell` sees each row as it comes."""
    rounds = 1 if quick else 3
    sizes = (Size("lenet", 64, 4),) if quick else SIZES
    rows, environment = [], machine.environment(torch.device("cpu")) | peer_versions()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' own
        for row in itertools.chain(
            itertools.chain.from_iterable(attack_rows(size, 1 if quick else 5) for size in sizes),
            _later(table_2_row, *((1, 50, 1) if quick else (2, 500, 4))),
            trades_rows(1 if quick else 12),
            _later(aalp_row, rounds),
            _later(memory_row, (2, 16) if quick else (5, 40)),
            _later(jobs_row, *((1, 500, 20) if quick else (3, None, 300))),
        ):
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
            "gpu": throughput.measure(torch.device("cuda"), quick) if torch.cuda.is_available() else throughput.MISSING,
        }
    out.mkdir(parents=True, exist_ok=True)
    checkpoints.write_json(out / "bench.json", record)
    return record


def markdown(record: dict[str, Any]) -> str:
    """The table of a record, with what was measured on."""
    machine = record["environment"]
    rows = []
    for row in record["rows"]:
        missed = "" if row["met"] else " (missed)"
        rows.append(f"| {row['what']} | {row['goal']} | **{row['reached']:.2f}**{missed} | {row['note']} |\n")
    peers_named = ", ".join(f"{name} {machine[name]}" for name in PEERS)
    return (
        "| What | Goal | Reached | Note |\n| --- | --- | --- | --- |\n" + "".join(rows) + "\n"
        f"{machine['processor']}, {machine['threads']} threads, Python {machine['python']}, torch {machine['torch']}, "
        f"aalp_lib {machine['aalp_lib']} ({machine['commit']}); {peers_named}. Medians of ratios within a round. "
        f"{throughput.markdown(record['gpu'])}"
    )


def _later(make: Callable[..., Row], *arguments: Any) -> Iterator[Row]:
    yield make(*arguments)


def peer_versions() -> dict[str, str]:
    """Versions of the peers; InputError if one of them is not installed."""
    try:
        return {name: version(name) for name in PEERS}
    except PackageNotFoundError as error:
        raise InputError(f"the bench needs its peers ({error}): pip install 'aalp_lib[bench]'") from error


def write(record: dict[str, Any], out: Path) -> list[Path]:
    """Write the table of a record and, where curves were measured, their figure, beside it; returns all paths."""
    from aalp_lib.plots import DPI  # not for the processes whose memory is measured
    from aalp_lib.reproduction.plots_of_records import speed

    (out / "bench.md").write_text(markdown(record), encoding="utf-8")
    written = [out / "bench.json", out / "bench.md"]
    if record["curves"]:
        speed(record).savefig(out / "speed.png", dpi=DPI)
        written.append(out / "speed.png")
    return written
