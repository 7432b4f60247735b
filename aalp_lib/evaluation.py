"""Robust accuracy under a suite of attacks, with per-image outcomes and intervals."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aalp_lib import _checks, _tables, engine, resume, seeds
from aalp_lib._checks import InputError
from aalp_lib.attacks import CW, FGSM, PGD, TO_TARGETS, Attack, Reading, derived
from aalp_lib.data import Labelled, Split, split_of, to_float
from aalp_lib.engine.precision import PRECISIONS, Precision, faster, without_tf32
from aalp_lib.models import Classifier
from aalp_lib.progress import Tell, shown, stages, told

Suite = Mapping[str, Attack]
TABLE_2_STEPS = (10, 20, 40, 100)
# eps and step of the paper's evaluation, in units of [0, 1]
BALLS = {"mnist": (0.3, 0.01), "svhn": (12 / 255, 3 / 255), "cifar10": (8 / 255, 2 / 255)}

PAPERS = re.compile("L∞ [^ ]+$")
NOT_ROBUST = "; what is right there is not robust. `diagnose` tells more"

flat_is_told: ContextVar[bool] = ContextVar("whether the caller of `evaluate` tells of gradients of 0", default=False)


@dataclass(frozen=True, eq=False, repr=False)
class Outcome:
    """Which images one attack left correctly classified.

    Attributes
    ----------
    correct : bool tensor (N,)
        Right on the clean image and not fooled. Images that are wrong without an attack count as wrong. To an attack
        with targets an image is lost when the model says its target, and not when it says a third class.
    ball : str
        Where the attack may go, "L2 1.5 to targets", say; nothing for no attack.
    """

    correct: Tensor
    ball: str = ""

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
    def numbers(self) -> dict[str, Any]:
        """As records and tables keep them: accuracy, low, high, correct, count; "ball" where it is not the paper's."""
        (low, high), correct = self.interval, int(self.correct.sum())
        numbers = {"accuracy": self.accuracy, "low": low, "high": high, "correct": correct, "count": self.count}
        return numbers | unusual(self.ball)

    def __repr__(self) -> str:
        return "  ".join(self.cells).rstrip()

    @property
    def cells(self) -> list[str]:
        """Accuracy, interval, count and ball, in words."""
        low, high = (f"{100 * end:.2f}" for end in self.interval)
        return [_tables.percent(self.accuracy), f"[{low}, {high}]", f"of {self.count}", self.ball]

    @property
    def low(self) -> float:
        """Lower end of the 95 % Wilson interval."""
        return self.interval[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % Wilson interval."""
        return self.interval[1]


def unusual(ball: str) -> dict[str, str]:
    """What a number says of its ball; nothing in the L∞ ball without targets, as records always were."""
    return {"ball": ball} if ball and not PAPERS.match(ball) else {}


@dataclass(frozen=True, eq=False, repr=False)
class Report(_tables.Tabled, Mapping[str, Outcome]):
    """An `Outcome` for "clean" and for each attack of the suite, in the suite's order; printed, a table."""

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

    def _table(self) -> _tables.Table:
        rows = [[str(name), *outcome.cells] for name, outcome in self.outcomes.items()]
        led = any(outcome.ball.endswith(TO_TARGETS) for outcome in self.outcomes.values())
        notes = ["With targets an image is lost when the model says its target."] if led else []
        return ["attack", "right", "95 % interval", "images", "ball"], rows, notes


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
    return suite_in_ball(*BALLS[_checks.known("data set", paper_name(str(name)), BALLS)])


def paper_name(data: str) -> str:
    """The paper's data set that one is a part or a copy of: "mnist" for "mnist-sample"; otherwise its own name."""
    return data.removesuffix("-sample").removesuffix("-jpeg").removesuffix("-part")


def suite_in_ball(eps: float, step: float, *, norm: str = "linf") -> dict[str, Attack]:
    """The nine attacks of Table 2 with another radius and step, in units of [0, 1]; in L2 "l2-pgd10" and so on."""
    longest = [make(eps, step, TABLE_2_STEPS[-1], norm=norm) for make in (PGD, CW)]
    attacks = [FGSM(eps, norm=norm), *(derived(one, steps=steps) for one in longest for steps in TABLE_2_STEPS)]
    return {called(attack): attack for attack in attacks}


_SHORT = {"cross_entropy": "pgd", "exact_cross_entropy": "exact", "margin": "cw", "trades_kl": "trades"}


def called(attack: Attack) -> str:
    """A short name, by norm, loss, steps and restarts.

    Examples
    --------
    >>> called(CW(0.3, 0.01, 40)), called(PGD(2.0, 0.5, 10, restarts=5, norm="l2"))
    ('cw40', 'l2-pgd10x5')
    """
    one = attack == FGSM(attack.eps, norm=attack.norm)
    kind = "fgsm" if one else f"{_SHORT[attack.loss]}{attack.steps}" + f"x{attack.restarts}" * (attack.restarts > 1)
    return f"{attack.norm}-" * (attack.norm != "linf") + kind


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
    Attack(eps=0.3, step=0.01, steps=100, loss='margin', start='uniform', restarts=20, norm='linf')
    """
    attack = in_ball(ball)
    _checks.count("the number of restarts", restarts)
    where = f"{attack.norm}-" * (attack.norm != "linf")
    return {
        f"{where}{name}{attack.steps}x{restarts}": derived(attack, loss=loss, start="uniform", restarts=restarts)
        for name, loss in (("pgd", "cross_entropy"), ("cw", "margin"))
    }


def in_ball(ball: str | Attack) -> Attack:
    """The attack whose radius, step and steps stand for a ball: PGD-100 of Table 2 for the name of a data set."""
    return ball if isinstance(ball, Attack) else table2_suite(ball)["pgd100"]


@_checks.hinted
@without_tf32()
def evaluate(
    model: Classifier,
    split: Labelled,
    suite: Suite | Attack | Sequence[Attack],
    *,
    target: Tensor | None = None,
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
        steps ("l2-pgd40", "pgd40-targeted"), or where this is not enough by all their settings.
    target : (N,) int64, optional
        A class for each image, other than its label, that all attacks lead it to, as in an attack's call.
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
    progress : bool or callable, optional
        True shows a bar, False none; by default there is one in a terminal or notebook once it takes more than a
        second. A function is called after each trajectory of a batch with steps done, steps in all (summed over
        batches), and a word on it.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        If `reading` is unknown, an attack is called "clean", a label or target out of range, the model cannot take such
        images, a ball is too wide for them, or `split` or `suite` is something else.

    Warns
    -----
    UserWarning
        If the gradient at an attack's start is NaN at an image or 0 at many, with their numbers; if the model's outputs
        look like probabilities instead of logits; if what it says of an image depends on the others in the batch.

    Examples
    --------
    >>> import aalp_lib as aalp
    >>> model, split = aalp.pretrained("mnist/aalp"), aalp.load("mnist-sample").test[:50]
    >>> suite = {"l2": aalp.PGD(2.0, 0.4, 10, norm="l2"), "linf": aalp.PGD(0.3, 0.1, 10)}
    >>> anything = aalp.evaluate(model, split, suite)
    >>> led = aalp.evaluate(model, split, suite, target=(split.labels + 1) % 10)
    >>> led["l2"].ball, led["l2"].accuracy >= anything["l2"].accuracy
    ('L2 2 to targets', True)
    """
    suite = _named(suite, "-targeted" * (target is not None))
    if "clean" in suite:
        raise InputError("'clean' is the column without an attack; give the attack of that name another one")
    _checks.known("reading", reading, ("any", "last"))
    batch_size = _checks.count("the batch size", batch_size)
    split = split_of(split).to(engine.device_of(model))
    precision = chosen_precision(model, split, precision, batch_size)
    suite = {name: attack.fitting(split.images).toward(target) for name, attack in suite.items()}
    trajectories, batches = _trajectories(suite), -(-len(split) // batch_size)
    costs = {f"trajectory {i}": one.steps * one.restarts * batches for i, (one, _) in enumerate(trajectories)}
    with shown(progress, "attacking") as tell, engine.prepared(model, to_float(split.images[:2])) as forward:
        sought = _checks.target(target, split.labels, forward.classes)
        with torch.no_grad():
            logits = torch.cat([forward(x) for x, _ in split.batches(batch_size)])
        _checks.no_nan(logits)
        _checks.warn_of_probabilities(logits)
        engine.warn_of_company(forward)
        correct = {"clean": logits.argmax(1) == split.labels}
        for (part, tell_part), (longest, steps) in zip(stages(tell, **costs).items(), trajectories, strict=True):
            survivors = functools.partial(
                longest.survivors, forward, at=[*steps.values()], reading=reading, generators=generators(longest, seed)
            )
            right = zip(
                split.batches(batch_size), sought.split(batch_size), correct["clean"].split(batch_size), strict=True
            )
            found: list[dict[str, Tensor]] = []
            for (x, _), wanted, among in told(right, batches, tell_part, f"{next(reversed(steps))} done"):
                attacked = functools.partial(_alive, survivors, x, wanted, among, precision)
                found.append(resume.part(f"{part} {reading} {precision} {len(found)}", attacked))
            correct |= dict(zip(steps, torch.cat([one["alive"] for one in found], 1), strict=True))
            if not flat_is_told.get() and all("blind" in one for one in found):  # earlier versions did not keep it
                blind = torch.cat([one["blind"] for one in found]).cpu()[correct["clean"].cpu()]
                _checks.warn_of_blind(", ".join(map(str, steps)), blind, NOT_ROBUST)
    balls = {"clean": ""} | {name: attack.ball for name, attack in suite.items()}
    return Report({name: Outcome(correct[name].cpu(), ball) for name, ball in balls.items()})


def _named(suite: Suite | Attack | Sequence[Attack], ending: str = "") -> Suite:
    """Attacks by name, with this ending where they have none yet; InputError if there is something else among them."""
    attacks = [suite] if isinstance(suite, Attack) else suite
    if not isinstance(attacks, Mapping | list | tuple):
        raise InputError(f"the suite must be an attack, a list or a mapping of attacks, got {type(suite).__name__}")
    for attack in attacks.values() if isinstance(attacks, Mapping) else attacks:
        if not isinstance(attack, Attack):
            raise InputError(f"the attacks of a suite must be of the class Attack, got {type(attack).__name__}")
    if isinstance(attacks, Mapping):
        return attacks
    names = [called(attack) + ending for attack in attacks]
    return {name if names.count(name) == 1 else str(a): a for name, a in zip(names, attacks, strict=True)}


def _alive(
    survivors: Callable[..., Tensor], x: Tensor, y: Tensor, among: Tensor, precision: Precision
) -> dict[str, Tensor]:
    """Which images of a batch one trajectory leaves "alive", bool (S, N), of those that are right without it; and which
    are "blind", int8 (N,) as in `Attack.perturb`. `y` holds labels or targets."""
    blind = torch.zeros_like(y, dtype=torch.int8)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return {"alive": survivors(x, y, among=among, blind=blind), "blind": blind}


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
