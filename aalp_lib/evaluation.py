"""Robust accuracy under a suite of attacks, with per-image outcomes and intervals."""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from aalp_lib import _checks, engine, resume, seeds
from aalp_lib._checks import InputError
from aalp_lib.attacks import CW, FGSM, FIRST, PGD, Attack, Reading, derived
from aalp_lib.data import Labelled, Split, split_of, to_float
from aalp_lib.engine.precision import PRECISIONS, Precision, faster, without_tf32
from aalp_lib.models import Classifier
from aalp_lib.progress import Tell, shown, stages, told

Suite = Mapping[str, Attack]
TABLE_2_STEPS = (10, 20, 40, 100)
# eps and step of the paper's evaluation, in units of [0, 1]
BALLS = {"mnist": (0.3, 0.01), "svhn": (12 / 255, 3 / 255), "cifar10": (8 / 255, 2 / 255)}

flat_is_told: ContextVar[bool] = ContextVar("whether the caller of `evaluate` tells of gradients of 0", default=False)


@dataclass(frozen=True, eq=False, repr=False)
class Outcome:
    """Which images one attack left correctly classified.

    Attributes
    ----------
    correct : bool tensor (N,)
        Right on the clean image and not fooled. Images that are wrong without an attack count as wrong.
    """

    correct: Tensor

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """Fraction in [0, 1]."""
        return int(self.correct.sum()) / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval of the accuracy."""
        from scipy.stats import binomtest  # slow to import

        found = binomtest(int(self.correct.sum()), self.count).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)

    @property
    def numbers(self) -> dict[str, float]:
        """As records and tables keep them: accuracy, low, high, correct, count."""
        (low, high), correct = self.interval, int(self.correct.sum())
        return {"accuracy": self.accuracy, "low": low, "high": high, "correct": correct, "count": self.count}

    def __repr__(self) -> str:
        return f"{100 * self.accuracy:6.2f} %  [{100 * self.low:.2f}, {100 * self.high:.2f}]  of {self.count}"

    @property
    def low(self) -> float:
        """Lower end of the 95 % Wilson interval."""
        return self.interval[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % Wilson interval."""
        return self.interval[1]


@dataclass(frozen=True, eq=False, repr=False)
class Report(Mapping[str, Outcome]):
    """An `Outcome` for "clean" and for each attack of the suite, in the suite's order."""

    outcomes: dict[str, Outcome]

    def __getitem__(self, name: str) -> Outcome:
        return self.outcomes[_checks.known("column", name, self.outcomes)]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.outcomes)

    def __len__(self) -> int:
        return len(self.outcomes)

    def consistent(self, attack: str) -> Tensor:
        """Images right on clean and on adversarial, bool (N,)."""
        return self[attack].correct

    def inconsistent(self, attack: str) -> Tensor:
        """Images right on clean and wrong on adversarial, bool (N,)."""
        return self["clean"].correct & ~self[attack].correct

    def __repr__(self) -> str:
        return "\n".join(f"{name:>8}  {outcome!r}" for name, outcome in self.outcomes.items())


def table2_suite(name: str) -> dict[str, Attack]:
    """The nine attacks of Table 2 with the paper's radius and step for a data set.

    Parameters
    ----------
    name : str
        "mnist", "mnist-sample", "svhn", "cifar10" or "cifar10-jpeg".

    Returns
    -------
    dict of Attack
        Keys "fgsm", "pgd10", "pgd20", "pgd40", "pgd100", "cw10", "cw20", "cw40", "cw100"; `evaluate` adds "clean".
        On MNIST ten steps of 0.01 cannot reach eps = 0.3; this is the paper's setting and does not warn here.

    Examples
    --------
    >>> table2_suite("cifar10")["cw20"].steps
    20
    """
    return suite_in_ball(*BALLS[_checks.known("data set", paper_name(name), BALLS)])


def paper_name(data: str) -> str:
    """The paper's data set that one is a part or a copy of: "mnist" for "mnist-sample"; otherwise its own name."""
    return data.removesuffix("-sample").removesuffix("-jpeg").removesuffix("-part")


def suite_in_ball(eps: float, step: float) -> dict[str, Attack]:
    """The nine attacks of Table 2 with another radius and step, in units of [0, 1]."""
    suite = {"fgsm": FGSM(eps)}
    for kind, make in (("pgd", PGD), ("cw", CW)):
        longest = make(eps, step, TABLE_2_STEPS[-1])
        suite |= {f"{kind}{steps}": derived(longest, steps=steps) for steps in TABLE_2_STEPS}
    return suite


def strong_suite(ball: str | Attack, restarts: int = 20) -> dict[str, Attack]:
    """PGD and CW with many restarts, for `evaluate`: the survivors of each run are all that the next one attacks.

    Parameters
    ----------
    ball : str or Attack
        Name of a data set, for its PGD-100 of Table 2; or an attack whose radius, step and steps are taken.
    restarts : int

    Examples
    --------
    >>> strong_suite("mnist")["cw100x20"]
    Attack(eps=0.3, step=0.01, steps=100, loss='margin', start='uniform', restarts=20)
    """
    attack = in_ball(ball)
    _checks.count("the number of restarts", restarts)
    return {
        f"{name}{attack.steps}x{restarts}": derived(attack, loss=loss, start="uniform", restarts=restarts)
        for name, loss in (("pgd", "cross_entropy"), ("cw", "margin"))
    }


def in_ball(ball: str | Attack) -> Attack:
    """The attack whose radius, step and steps stand for a ball: PGD-100 of Table 2 for the name of a data set."""
    return table2_suite(ball)["pgd100"] if isinstance(ball, str) else ball


@without_tf32()
def evaluate(
    model: Classifier,
    split: Labelled,
    suite: Suite | Attack | Sequence[Attack],
    *,
    batch_size: int = 500,
    seed: int = 0,
    reading: Reading = "any",
    precision: Precision = "float32",
    progress: bool | Tell | None = None,
) -> Report:
    """Attack every image of a split with every attack of a suite.

    Attacks that differ only in their number of steps share one trajectory for each image. Only images that are still
    classified correctly are attacked on.

    Parameters
    ----------
    model : Classifier
        Seen in evaluation mode and left as it was.
    split : Split, Dataset, (images, labels), or a loader of such pairs
        Moved to the model's device. Of a data set the test split is taken; tensors are uint8, or floating point in
        [0, 1]; what a loader gives is held in memory, in its order.
    suite : mapping of str to Attack, an Attack, or a sequence of them
        `table2_suite(...)`, or any attacks under any names; those without a name are called "pgd40", say, by loss and
        steps, or where this is not enough by all their settings.
    batch_size : int
        Does not change the result beyond rounding.
    seed : int
        For the random starts: image i starts at the same place whichever model is attacked, in whatever suite.
    reading : "any" or "last"
        An image counts as fooled at k steps once any iterate up to k fools it, or only by iterate k, as the paper
        seems to read.
    precision : "float32", "bfloat16" or "auto"
        Of the attacks' gradients; whether an image counts as fooled is always decided in float32, which on a GPU is not
        rounded to TF32 here. "auto" takes what is faster here, measured once; two machines, or two such runs, may then
        differ in single images.
    progress : True or callable, optional
        True shows a bar. A function is called after each trajectory of a batch with steps done, steps in all (summed
        over batches), and a word on it.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        If `reading` is unknown, an attack is called "clean", a label out of range, the model cannot take such images,
        or `split` or `suite` is something else.

    Warns
    -----
    UserWarning
        If the loss of an attack has a gradient of 0 at the first images, so that no step moves them, or the model's
        outputs look like probabilities instead of logits.
    """
    suite = _named(suite)
    if "clean" in suite:
        raise InputError("'clean' is the column without an attack; give the attack of that name another one")
    _checks.known("reading", reading, ("any", "last"))
    batch_size = _checks.count("the batch size", batch_size)
    split = split_of(split).to(engine.device_of(model))
    precision = chosen_precision(model, split, precision, batch_size)
    trajectories, batches = _trajectories(suite), -(-len(split) // batch_size)
    costs = {f"trajectory {i}": one.steps * one.restarts * batches for i, (one, _) in enumerate(trajectories)}
    with shown(progress, "attacking") as tell, engine.prepared(model, to_float(split.images[:2])) as forward:
        with torch.no_grad():
            logits = torch.cat([forward(x) for x, _ in split.batches(batch_size)])
        _checks.no_nan(logits)
        _checks.warn_of_probabilities(logits, stacklevel=4)
        correct = {"clean": logits.argmax(1) == split.labels}
        _warn_of_flat(forward, split, correct["clean"], trajectories, seed)
        for (part, tell_part), (longest, steps) in zip(stages(tell, **costs).items(), trajectories, strict=True):
            survivors = functools.partial(
                longest.survivors, forward, at=[*steps.values()], reading=reading, generators=generators(longest, seed)
            )
            right = zip(split.batches(batch_size), correct["clean"].split(batch_size), strict=True)
            alive: list[Tensor] = []
            for (x, y), among in told(right, batches, tell_part, f"{next(reversed(steps))} done"):
                attacked = functools.partial(_alive, survivors, x, y, among, precision)
                alive.append(resume.part(f"{part} {reading} {precision} {len(alive)}", attacked)["alive"])
            correct |= dict(zip(steps, torch.cat(alive, 1), strict=True))
    return Report({name: Outcome(correct[name].cpu()) for name in ("clean", *suite)})


_SHORT = {"cross_entropy": "pgd", "exact_cross_entropy": "exact", "margin": "cw", "trades_kl": "trades"}


def _named(suite: Suite | Attack | Sequence[Attack]) -> Suite:
    """Attacks by name; InputError if there is something else among them."""
    attacks = [suite] if isinstance(suite, Attack) else suite
    if not isinstance(attacks, Mapping | list | tuple):
        raise InputError(f"the suite must be an attack, a list or a mapping of attacks, got {type(suite).__name__}")
    for attack in attacks.values() if isinstance(attacks, Mapping) else attacks:
        if not isinstance(attack, Attack):
            raise InputError(f"the attacks of a suite must be of the class Attack, got {type(attack).__name__}")
    if isinstance(attacks, Mapping):
        return attacks
    names = [
        "fgsm" if a == FGSM(a.eps) else f"{_SHORT[a.loss]}{a.steps}" + f"x{a.restarts}" * (a.restarts > 1)
        for a in attacks
    ]
    return {name if names.count(name) == 1 else str(a): a for name, a in zip(names, attacks, strict=True)}


def _warn_of_flat(
    forward: engine.Forward, split: Split, right: Tensor, trajectories: list[tuple[Attack, dict[str, int]]], seed: int
) -> None:
    """Warn of attacks that cannot move the first images that are right; their accuracy says nothing of robustness."""
    rows = right.nonzero()[:FIRST, 0]
    if flat_is_told.get() or len(rows) < FIRST // 2:  # of a handful it may well be so
        return
    x, y = to_float(split.images[rows]), split.labels[rows]
    for attack, steps in trajectories:
        if attack.flat(forward, x, y, generators(attack, seed)[0]):
            warnings.warn(
                f"{', '.join(steps)}: the loss has a gradient of 0 at the first {len(x)} images, so no step moves "
                "them; what these attacks leave right is not robust. `diagnose` tells more",
                stacklevel=4,
            )


def _alive(
    survivors: Callable[..., Tensor], x: Tensor, y: Tensor, among: Tensor, precision: Precision
) -> dict[str, Tensor]:
    """Which images of a batch one trajectory leaves "alive", bool (S, N), of those that are right without it."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return {"alive": survivors(x, y, among=among)}


def chosen_precision(model: Classifier, split: Split, precision: Precision, batch_size: int = 500) -> Precision:
    """What "auto" stands for on these images, as `faster` says; any other precision is returned as it is.

    InputError if the precision is unknown, a label out of range, or the model cannot take such images.
    """
    _checks.known("precision", precision, PRECISIONS)
    split = split.to(engine.device_of(model))
    with engine.prepared(model, to_float(split.images[:2])) as forward:
        _checks.labels(split.labels, len(split), forward.classes)
        return faster(forward, *next(split.batches(min(batch_size, 128)))) if precision == "auto" else precision


def generators(attack: Attack, seed: int) -> list[torch.Generator]:
    """A generator for each restart, so that image i starts at the same place whatever the batches and the suite."""
    return [torch.Generator().manual_seed(seeds.derive(seed, attack.loss, run)) for run in range(attack.restarts)]


def gradient_count(suite: Suite) -> int:
    """Gradients that the suite takes of an image which nothing fools: the steps of its trajectories."""
    return sum(longest.steps * longest.restarts for longest, _ in _trajectories(suite))


def _trajectories(suite: Suite) -> list[tuple[Attack, dict[str, int]]]:
    """The longest attack of every group that differs only in steps, with the steps at which each name is read off."""
    groups: dict[Attack, dict[str, int]] = {}
    for name, attack in suite.items():
        groups.setdefault(derived(attack, steps=0), {})[name] = attack.steps
    return [(derived(alike, steps=max(steps.values())), steps) for alike, steps in groups.items()]
