"""Signs of gradient masking, and attacks stronger than Table 2's: many restarts, AutoAttack, Square.

What counts as a sign follows Athalye, Carlini and Wagner (2018), section 3.1, and Carlini et al. (2019).
"""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import json
import logging
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from aalp_lib import _checks, losses, resume, seeds
from aalp_lib._checks import InputError
from aalp_lib.attacks import FGSM, Attack, derived, laid_out, scaled
from aalp_lib.data import Split
from aalp_lib.engine import folding
from aalp_lib.engine.precision import Precision, without_tf32
from aalp_lib.evaluation import HEADINGS, Outcome, Report, altered, chosen, evaluate, gradients, starts, table2_suite
from aalp_lib.models import Classifier, channels_last, class_count, evaluating
from aalp_lib.progress import Tell, shown, stages
from aalp_lib.reproduction import machine, schema
from aalp_lib.reproduction.schema import Measurement

NOISE = 0.01  # share of the images below which a difference is no sign
LARGE = 0.05  # share from which a gain by restarts or by another loss is a sign
STEPS = (1, 5, 10, 20, 40, 100, 200)
RESTARTS = (1, 5, 20)
FRACTIONS = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 8)  # of the attack's eps, kept below 0.5
QUERIES = 5000  # of the Square attack, as AutoAttack has it
VERSIONS = {"standard": ("apgd-ce", "apgd-t", "fab-t", "square"), "square": ("square",)}
ROUNDING = 1e-6  # of a ball in float32, for attacks that are not ours
Row = dict[str, float]  # accuracy, low, high, correct, count, and what else is said beside


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What `diagnose` measured, ready for JSON. An accuracy is {accuracy, low, high, correct, count}, as in a record.

    Attributes
    ----------
    attack : dict
        Settings of the attack that is examined.
    seed : int
    eps : list
        Accuracies against "eps", 0 first; "most" is the largest share that can be right, as far as known images in the
        balls say: a grey one from eps = 0.5 on, every other image of the split at eps = 1.
    steps : list
        For "steps" steps, the mean "cross_entropy" (nats) and "margin" (best wrong logit minus true one) over all
        images, and the accuracy, at that iterate.
    restarts : list
        Accuracies with that many "restarts".
    fgsm, margin : dict
        Accuracies under FGSM, and under the same attack on the margin loss; "only" is the number of images that they
        fool and the attack does not.
    black_box : dict
        The same for "transfer" and "square", as far as they were measured.
    zero_gradients : dict
        Share of images with a cross-entropy gradient of exactly 0 in float32: "clean", and "attacked" for 200 steps.
    logits : dict
        Clean images: mean of the "largest" absolute logit, mean "margin", and the share that is "certain", with a
        true-class probability of exactly 1 in float32.
    """

    attack: dict[str, Any]
    seed: int
    eps: list[Row]
    steps: list[Row]
    restarts: list[Row]
    fgsm: Row
    margin: Row
    black_box: dict[str, Row]
    zero_gradients: dict[str, float]
    logits: dict[str, float]

    @classmethod
    def of(cls, measurement: Measurement) -> "Diagnosis":
        """The diagnosis that a measurement of that kind keeps."""
        return cls(**{key: value for key, value in measurement.values.items() if key != "signs"})

    @property
    def signs(self) -> list[str]:
        """A sentence, with its numbers, for each thing that looks like gradient masking; empty when nothing does."""
        return [sentence for sign in SIGNS for sentence in sign(self)]

    @property
    def rows(self) -> list[list[tuple[str, Row, str]]]:
        """The accuracies in groups, each a name, an accuracy and a remark."""
        others = {"FGSM": self.fgsm, "margin loss": self.margin} | {BLACK_BOX[k]: v for k, v in self.black_box.items()}
        return [
            [(f"eps {r['eps']:.3g}", r, "" if r["most"] == 1 else f"at most {_percent(r['most'])}") for r in self.eps],
            [
                (
                    f"{r['steps']} step{'s' * (r['steps'] > 1)}",
                    r,
                    f"cross-entropy {r['cross_entropy']:.3f}, margin {r['margin']:.3f}",
                )
                for r in self.steps
            ],
            [(f"{r['restarts']} start{'s' * (r['restarts'] > 1)}", r, "") for r in self.restarts],
            [(name, r, f"alone fools {r['only']}") for name, r in others.items()],
        ]

    @property
    def remarks(self) -> list[str]:
        """Gradients and logits, in words."""
        zero, z = self.zero_gradients, self.logits
        return [
            f"gradient of exactly 0: {_percent(zero['clean'])} of the clean, {_percent(zero['attacked'])} of the "
            "attacked images",
            f"largest logit {z['largest']:.2f}, margin {z['margin']:.2f}, probability of exactly 1: "
            f"{_percent(z['certain'])}",
        ]

    def __repr__(self) -> str:
        lines = [
            f"{name:>13}  {100 * r['accuracy']:6.2f} %  [{100 * r['low']:.2f}, {100 * r['high']:.2f}]"
            + f"  {remark}" * bool(remark)
            for group in self.rows
            for name, r, remark in group
        ]
        return "\n".join(["Diagnosis", *lines, *self.remarks, *(self.signs or ["no sign of gradient masking"])])


@without_tf32()
def diagnose(
    model: Classifier,
    split: Split,
    attack: Attack,
    *,
    seed: int = 0,
    source: Classifier | None = None,
    queries: int = QUERIES,
    batch_size: int = 500,
    precision: Precision = "float32",
    progress: bool | Tell | None = None,
) -> Diagnosis:
    """Look for signs that a model's gradients mislead an attack, on every image of a split.

    Parameters
    ----------
    model : Classifier
        Seen in evaluation mode, in float32, and left as it was.
    split : Split
        A thousand images are enough: `data.test[:1000]`.
    attack : Attack
        What is examined: `table2_suite(name)["pgd100"]`, say. For other radii its step grows with the radius.
    seed : int
        For the random starts, which are those of `evaluate`.
    source : Classifier, optional
        Another model of the same task, whose adversarial images are tried on this one.
    queries : int
        Of the Square attack on each image, 0 for none. Without the extra [autoattack] there is none either.
    batch_size, progress
        As in `evaluate`.
    precision : "float32", "bfloat16" or "auto"
        As in `evaluate`, for all but the loss against steps, the share of zero gradients and the black-box attacks,
        which are float32's.

    Raises
    ------
    InputError
        If a number is out of range or a model cannot take such images.
    """
    _checks.count("the number of queries", queries, least=0)
    attack = derived(attack, restarts=1)
    suite = _suite(attack)
    square = queries if installed() else 0
    with shown(progress, "diagnosing") as tell:
        tells = stages(
            tell, suite=gradients(suite), steps=STEPS[-1], transfer=attack.steps if source else 0, square=square / 2
        )
        report = evaluate(
            model, split, suite, batch_size=batch_size, seed=seed, precision=precision, progress=tells["suite"]
        )
        start = starts(attack, seed)[0]
        walk = _Walk(**resume.once("steps", lambda: _walk(model, split, attack, start, batch_size, tells["steps"])))
        black_box = {}
        if source is not None:
            transfer = functools.partial(
                _transferred, model, source, split, attack, starts(attack, seed)[0], batch_size, tells["transfer"]
            )
            black_box["transfer"] = Outcome(resume.once("transfer", transfer)["right"])
        if square:
            black_box["square"] = auto_attack(
                model, split, attack.eps, seed=seed, version="square", queries=square, batch_size=batch_size,
                progress=tells["square"],
            )["square"]  # fmt: skip
    return _assembled(attack, seed, report, walk, black_box)


def radii(attack: Attack) -> list[float]:
    """The radii of the accuracy curve: multiples of the attack's own below 0.5, then 0.5 and 1."""
    return [attack.eps * f for f in FRACTIONS if attack.eps * f < 0.5] + [0.5, 1.0]


def _suite(attack: Attack) -> dict[str, Attack]:
    curve = {f"eps {eps:g}": scaled(attack, eps / attack.eps) for eps in radii(attack)}
    runs = {f"x{count}": derived(attack, restarts=count) for count in RESTARTS}
    return curve | runs | {"fgsm": FGSM(attack.eps), "margin": derived(attack, loss="margin")}


def _row(outcome: Outcome, **more: float) -> Row:
    return schema.accuracies(Report({"": outcome}))[""] | more


def _only(other: Outcome, plain: Tensor) -> int:
    """Number of images that the other attack fools and the plain one does not."""
    return int((plain & ~other.correct).sum())


def _assembled(attack: Attack, seed: int, report: Report, walk: "_Walk", black_box: Mapping[str, Outcome]) -> Diagnosis:
    plain = report["x1"].correct
    return Diagnosis(
        attack=dataclasses.asdict(attack),
        seed=seed,
        eps=[
            _row(report[f"eps {eps:g}" if eps else "clean"], eps=eps, most=walk.most(eps))
            for eps in (0, *radii(attack))
        ],
        steps=walk.rows(report["clean"].correct),
        restarts=[_row(report[f"x{count}"], restarts=count) for count in RESTARTS],
        fgsm=_row(report["fgsm"], only=_only(report["fgsm"], plain)),
        margin=_row(report["margin"], only=_only(report["margin"], plain)),
        black_box={name: _row(outcome, only=_only(outcome, plain)) for name, outcome in black_box.items()},
        zero_gradients=walk.zero_gradients,
        logits=walk.logit_scale(),
    )


# --- along one trajectory --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Walk:
    """Logits (N, K) on clean images, logits (S, N, K) at each of `STEPS`, labels (N,), whether gradients are 0."""

    clean: Tensor
    path: Tensor
    labels: Tensor
    zero: Tensor  # bool (2, N): at the clean images and at the last iterates
    grey: Tensor  # int64 (1,): the class that an image of 0.5 everywhere is seen as

    def most(self, eps: float) -> float:
        """Largest share that can be right at `eps`, as images that lie in every ball say."""
        if eps < 0.5:
            return 1.0
        seen = self.grey if eps < 1 else torch.cat([self.grey, self.clean.argmax(1)])
        return float((self.labels[:, None] == seen.unique()).all(1).float().mean())

    def rows(self, right: Tensor) -> list[Row]:
        return [
            _row(
                Outcome(right & (z.argmax(1) == self.labels)),
                steps=steps,
                cross_entropy=float(losses.cross_entropy(z, self.labels).mean()),
                margin=float(losses.margin(z, self.labels).mean()),
            )
            for steps, z in zip(STEPS, self.path, strict=True)
        ]

    @property
    def zero_gradients(self) -> dict[str, float]:
        clean, attacked = self.zero.float().mean(1).tolist()
        return {"clean": clean, "attacked": attacked}

    def logit_scale(self) -> dict[str, float]:
        return {
            "largest": float(self.clean.abs().amax(1).mean()),
            "margin": float(losses.margin(self.clean, self.labels).mean()),
            "certain": float((losses.confidence(self.clean, self.labels) == 1).float().mean()),
        }


def _walk(
    model: Classifier,
    split: Split,
    attack: Attack,
    start: torch.Generator,
    batch_size: int,
    progress: Tell | None,
) -> dict[str, Tensor]:
    """The fields of a `_Walk`."""
    split = split.to(next(model.parameters()).device)
    parts = []
    total = -(-len(split) // batch_size)
    with evaluating(model):
        grey = _logits(model, torch.full_like(split.images[:1], 0.5, dtype=torch.float32)).argmax(1)
    with evaluating(model), channels_last(model), folding.network(model):
        for index, (x, y) in enumerate(split.batches(batch_size), 1):
            parts.append(_walk_batch(model, laid_out(x), y, attack, start))
            if progress:
                progress(index, total, "loss against steps done")
    clean, path, zero = zip(*parts, strict=True)
    return {
        "clean": torch.cat(clean),
        "path": torch.cat(path, 1),
        "labels": split.labels.cpu(),
        "zero": torch.cat(zero, 1),
        "grey": grey.cpu(),
    }


def _walk_batch(
    model: Classifier, x: Tensor, y: Tensor, attack: Attack, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, K) clean and (S, N, K) at each of `STEPS`, bool (2, N) for gradients of 0; one leg goes on from the
    last, which is the attack's own trajectory, since nothing is carried over but the iterate."""
    x_adv = derived(attack, steps=STEPS[0]).perturb(model, x, y, generator=generator)
    path = [_logits(model, x_adv)]
    for made, steps in itertools.pairwise(STEPS):
        x_adv = derived(attack, steps=steps - made).perturb(model, x, y, start=x_adv)
        path.append(_logits(model, x_adv))
    zero = torch.stack([_zero_gradient(model, images, y) for images in (x, x_adv)])
    return _logits(model, x).cpu(), torch.stack(path).cpu(), zero.cpu()


def _logits(model: Classifier, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def _zero_gradient(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """Which images have a cross-entropy gradient of exactly 0, bool (N,)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(losses.cross_entropy(model(x), y).sum(), x)
    return (gradient == 0).flatten(1).all(1)


def _transferred(
    model: Classifier,
    source: Classifier,
    split: Split,
    attack: Attack,
    start: torch.Generator,
    batch_size: int,
    progress: Tell | None,
) -> dict[str, Tensor]:
    """Which images stay "right" when `source`'s adversarial images are shown to `model`, bool (N,)."""
    device = next(model.parameters()).device
    split, right = split.to(device), []
    total = -(-len(split) // batch_size)
    with evaluating(model):
        for index, (x, y) in enumerate(split.batches(batch_size), 1):
            x_adv = attack(source, x, y, generator=start)
            right.append((_logits(model, x).argmax(1) == y) & (_logits(model, x_adv).argmax(1) == y))
            if progress:
                progress(index, total, "transfer done")
    return {"right": torch.cat(right).cpu()}


# --- what looks like masking -----------------------------------------------------------------------------------------

BLACK_BOX = {"transfer": "Transfer", "square": "Square"}


def _above_the_possible(found: Diagnosis) -> Iterator[str]:
    for row in found.eps:
        if row["accuracy"] > row["most"] + NOISE:
            yield (
                f"At eps = {row['eps']:g}, {_percent(row['accuracy'])} stay right under the attack, although images in "
                f"the ball leave at most {_percent(row['most'])}."
            )


def _rising_with_eps(found: Diagnosis) -> Iterator[str]:
    lowest = found.eps[0]
    for row in found.eps[1:]:
        if row["accuracy"] > lowest["accuracy"] + NOISE:
            yield (
                f"Accuracy rises with the radius, from {_percent(lowest['accuracy'])} at eps = {lowest['eps']:g} to "
                f"{_percent(row['accuracy'])} at eps = {row['eps']:g}."
            )
            return
        lowest = min(lowest, row, key=lambda r: r["accuracy"])


def _steps_in_vain(found: Diagnosis) -> Iterator[str]:
    """More steps do not raise the attack's own loss, yet others in the same ball find images that it has not."""
    loss = found.attack["loss"] if found.attack["loss"] == "margin" else "cross_entropy"
    early, late = found.steps[-3], found.steps[-1]
    best = min(found.restarts[-1], found.fgsm, found.margin, *found.black_box.values(), key=lambda r: r["accuracy"])
    stands_still = late[loss] - early[loss] <= NOISE * abs(early[loss])
    if stands_still and found.restarts[0]["accuracy"] > best["accuracy"] + LARGE:
        yield (
            f"More steps do not help: the mean loss is {early[loss]:.3f} after {early['steps']} steps and "
            f"{late[loss]:.3f} after {late['steps']}, at {_percent(found.restarts[0]['accuracy'])}, while another "
            f"attack leaves {_percent(best['accuracy'])}."
        )


def _gain_from_restarts(found: Diagnosis) -> Iterator[str]:
    once, often = found.restarts[0], found.restarts[-1]
    if once["accuracy"] - often["accuracy"] > LARGE:
        yield (
            f"{often['restarts']} restarts lower the accuracy from {_percent(once['accuracy'])} to "
            f"{_percent(often['accuracy'])}."
        )


def _zero_gradients(found: Diagnosis) -> Iterator[str]:
    for where, share in found.zero_gradients.items():
        if share > NOISE:
            yield f"The cross-entropy's gradient is exactly 0 at {_percent(share)} of the {where} images."


def _certainty(found: Diagnosis) -> Iterator[str]:
    certain, z = found.logits["certain"], found.logits
    if certain > LARGE:
        yield (
            f"At {_percent(certain)} of the clean images the true class has a probability of exactly 1 in float32, and "
            f"its logit no part in the gradient (mean margin {z['margin']:.1f}, largest logit {z['largest']:.1f})."
        )


def _fgsm_beats_it(found: Diagnosis) -> Iterator[str]:
    plain, fgsm = found.restarts[0], found.fgsm
    if plain["accuracy"] > fgsm["accuracy"] + NOISE:
        yield (
            f"FGSM leaves {_percent(fgsm['accuracy'])} right and {found.attack['steps']} steps leave "
            f"{_percent(plain['accuracy'])}."
        )


def _margin_beats_it(found: Diagnosis) -> Iterator[str]:
    plain, margin = found.restarts[0], found.margin
    if plain["accuracy"] > margin["accuracy"] + LARGE:
        yield (
            f"The margin loss leaves {_percent(margin['accuracy'])} right, the attack's own loss "
            f"{_percent(plain['accuracy'])}."
        )


def _black_box_beats_it(found: Diagnosis) -> Iterator[str]:
    for name, row in found.black_box.items():
        if row["only"] > NOISE * row["count"]:
            yield (
                f"{BLACK_BOX[name]}, which sees no gradient of the model, fools {row['only']} of {row['count']} images "
                f"that the attack does not, and leaves {_percent(row['accuracy'])} right against "
                f"{_percent(found.restarts[0]['accuracy'])}."
            )


SIGNS = (
    _above_the_possible,
    _rising_with_eps,
    _steps_in_vain,
    _gain_from_restarts,
    _zero_gradients,
    _certainty,
    _fgsm_beats_it,
    _margin_beats_it,
    _black_box_beats_it,
)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


# --- stronger attacks ------------------------------------------------------------------------------------------------


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
    attack = _attack(ball)
    _checks.count("the number of restarts", restarts)
    return {
        f"{name}{attack.steps}x{restarts}": derived(attack, loss=loss, start="uniform", restarts=restarts)
        for name, loss in (("pgd", "cross_entropy"), ("cw", "margin"))
    }


def _attack(ball: str | Attack) -> Attack:
    return table2_suite(ball)["pgd100"] if isinstance(ball, str) else ball


def installed() -> bool:
    """Whether the extra [autoattack] is there."""
    return importlib.util.find_spec("pyautoattack") is not None


@without_tf32()
def auto_attack(
    model: Classifier,
    split: Split,
    eps: float,
    *,
    seed: int = 0,
    version: str = "standard",
    queries: int = QUERIES,
    batch_size: int = 500,
    progress: bool | Tell | None = None,
) -> Report:
    """AutoAttack (Croce and Hein 2020) by the package pyautoattack, in float32: what is right after each of its stages.

    Parameters
    ----------
    model : Classifier
        Seen in evaluation mode and left as it was. Torch's global generators are, too.
    split : Split
        Moved to the model's device.
    eps : float
        Radius of the ball, in (0, 1].
    seed : int
        For the random starts and squares.
    version : "standard" or "square"
        APGD on the cross-entropy, targeted APGD, targeted FAB and Square; or Square alone, which needs no gradient.
        With fewer than ten classes the targeted ones take all wrong classes.
    queries : int
        Of Square, on each image.
    batch_size : int
        Images attacked at a time. Each batch draws from a seed of its own, so another size means other random starts.
    progress : True or callable, optional
        As in `evaluate`; counts gradients, two queries as one.

    Returns
    -------
    Report
        "clean" and the stages, "apgd-ce", "apgd-t", "fab-t", "square": each attacks what the ones before have left. The
        last one is AutoAttack's result.

    Raises
    ------
    InputError
        Without the extra [autoattack]; if a number is out of range; with fewer than four classes, where the targeted
        loss is not defined.

    Warns
    -----
    UserWarning
        What AutoAttack itself warns of, each thing once.
    """
    names = VERSIONS[_checks.known("version of AutoAttack", version, VERSIONS)]
    _checks.radius(eps)
    _checks.count("the number of queries", queries)
    _checks.count("the batch size", batch_size)
    split = split.to(next(model.parameters()).device)
    cost = {"apgd-ce": 100, "apgd-t": 900, "fab-t": 900, "square": queries // 2}
    total, done = -(-len(split) // batch_size) * sum(cost[name] for name in names), 0
    parts: dict[str, list[Tensor]] = {name: [] for name in ("clean", *names)}
    with shown(progress, "AutoAttack") as tell, _lent(model):
        for index, (x, y) in enumerate(split.batches(batch_size)):
            attacker = _attacker(model, x, y, eps, seeds.derive(seed, "autoattack", index), names, queries)
            right = _logits(model, x).argmax(1) == y
            parts["clean"].append(right)
            for name in names:
                stage = functools.partial(_stage, attacker, name, x, y, right)
                right = resume.once(f"{name} {index}", stage)["right"].to(right.device)
                parts[name].append(right)
                done += cost[name]
                if tell:
                    tell(done, total, f"{HEADINGS[name]} done")
    return Report({name: Outcome(torch.cat(outcome).cpu()) for name, outcome in parts.items()})


def _attacker(
    model: Classifier, x: Tensor, y: Tensor, eps: float, seed: int, names: Sequence[str], queries: int
) -> Any:
    """The package's attacks with the settings of its standard version."""
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise InputError(
            f"AutoAttack and Square need the package pyautoattack ({error}): pip install 'aalp_lib[autoattack]'"
        ) from error
    classes = class_count(model, x)
    _checks.labels(y, len(x), classes)
    if classes < 4 and "apgd-t" in names:
        raise InputError(
            f"AutoAttack's targeted loss needs at least 4 classes, got {classes}; version='square' does not"
        )

    def logits(images: Tensor) -> Tensor:
        return torch.cat([model(part) for part in folding.parts(model, laid_out(images))])

    attacker = AutoAttack(logits, device=x.device, eps=eps, seed=seed)
    attacker.apgd_targeted.n_target_classes = attacker.fab.n_target_classes = min(9, classes - 1)
    attacker.square.n_queries = queries
    return attacker


def _stage(attacker: Any, name: str, x: Tensor, y: Tensor, right: Tensor) -> dict[str, Tensor]:
    """Which images are "right" after one stage, bool (N,), of those that were so before it, which alone it attacks; an
    image outside the ball does not count as an attack."""
    right, rows = right.clone(), right.nonzero()[:, 0]
    if not len(rows):
        return {"right": right}
    x, y = x[rows], y[rows]
    attacker.attacks_to_run = [name]
    trace = sys.gettrace()
    try:
        x_adv, predicted = attacker.run_standard_evaluation(x, y, batch_size=len(x))
    finally:
        sys.settrace(trace)  # one of its checks takes it away
    inside = (x_adv - x).abs().flatten(1).amax(1) <= attacker.epsilon + ROUNDING
    right[rows] = (predicted == y) | ~inside
    return {"right": right}


@contextlib.contextmanager
def _lent(model: Classifier) -> Iterator[None]:
    """Lend `model` to the package, which draws from torch's global generators, gives weights gradients where they ask
    for some, and says what it has to say to a logger; afterwards all is as it was, and what it said is a warning."""
    asking = [weight for weight in model.parameters() if weight.requires_grad]
    logger, heard = logging.getLogger("auto-attack"), _Heard()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(heard)
    try:
        with seeds.kept(), evaluating(model), channels_last(model), folding.network(model):
            for weight in asking:
                weight.requires_grad_(False)
            yield
    finally:
        for weight in asking:
            weight.requires_grad_(True)
        logger.removeHandler(heard)
        logger.propagate = propagate
    for said in heard.said.values():
        warnings.warn(f"AutoAttack says: {said}", stacklevel=4)


class _Heard(logging.Handler):
    """What a logger warned of, the first time only, whatever the numbers."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().partition(" See ")[0]
        self.said.setdefault(re.sub(r"\d", "", text), text)


# --- for the records -------------------------------------------------------------------------------------------------


@without_tf32()
def measure(
    model: Classifier,
    split: Split,
    ball: str | Attack,
    *,
    kind: Literal["diagnosis", "strong", "attacks"] = "diagnosis",
    subject: Mapping[str, Any],
    tier: str,
    seed: int = 0,
    source: Classifier | None = None,
    source_subject: Mapping[str, Any] | None = None,
    queries: int = QUERIES,
    batch_size: int = 500,
    precision: Precision = "float32",
    parts: Path | None = None,
    progress: bool | Tell | None = None,
) -> Measurement:
    """Diagnose a model or attack it strongly, as a measurement that can be saved.

    Parameters
    ----------
    model, split, seed, queries, batch_size, precision, progress
        As in `diagnose` and `strong`.
    ball : str or Attack
        As in `strong_suite`.
    kind : "diagnosis", "strong" or "attacks"
        Values of a diagnosis are those of `Diagnosis`, and "signs". Those of "strong" are "accuracy" and "outcomes",
        as in a record, of "clean", the strong suite and, where the extra is installed, AutoAttack's stages; each
        packed outcome has a bit for each image. Those of "attacks" likewise, of the columns of `altered`.
    subject, tier
        As in a `Measurement`.
    source, source_subject
        Another model, for transfer, in a diagnosis; and what it is, for the record.
    parts : path, optional
        Folder for what is done so far: after a kill, the same call with the same package on the same device goes on
        from there. To be deleted once the measurement is saved.
    """
    _checks.known("measurement", kind, ("diagnosis", "strong", "attacks"))
    attack, began = _attack(ball), time.perf_counter()
    environment = machine.environment(next(model.parameters()).device)
    source = source if kind == "diagnosis" else None
    precision = chosen(model, split, precision, batch_size)  # a record says which it was
    settings: dict[str, Any] = {"seed": seed, "queries": queries, "batch_size": batch_size, "precision": precision}
    config: dict[str, Any] = {
        "attack": dataclasses.asdict(attack),
        "images": len(split),
        **settings,
        "pyautoattack": version("pyautoattack") if installed() else None,
        **({"source": dict(source_subject)} if source is not None and source_subject is not None else {}),
    }
    with _kept_in(parts, kind, config, environment, split, model, source) as earlier:
        if kind == "diagnosis":
            found = diagnose(model, split, attack, source=source, progress=progress, **settings)
            values = dataclasses.asdict(found) | {"signs": found.signs}
        else:
            if kind == "strong":
                report = strong(model, split, attack, progress=progress, **settings)
            else:
                del settings["queries"]
                report = altered(model, split, attack.eps, attack.step, progress=progress, **settings)
            values = {"accuracy": schema.accuracies(report), "outcomes": schema.outcomes(report)}
    seconds = time.perf_counter() - began + (earlier.seconds if earlier else 0)
    return Measurement(kind, dict(subject), tier, config, environment, values, seconds)


def _kept_in(
    parts: Path | None,
    kind: str,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    split: Split,
    *models: Classifier | None,
) -> AbstractContextManager[resume.Work | None]:
    """Keep what is done of a measurement in a folder, for one that depends on all the same; None keeps nothing."""
    if parts is None:
        return contextlib.nullcontext()
    around = {key: value for key, value in environment.items() if key != "commit"}  # "code" says more
    states = [model.state_dict().values() for model in models if model is not None]
    tensors = [split.images, split.labels, *itertools.chain.from_iterable(states)]
    described = json.dumps([kind, config, around, len(states)]).encode()
    return resume.resumable(parts, described, *(tensor.cpu().numpy().tobytes() for tensor in tensors))


def strong(
    model: Classifier,
    split: Split,
    ball: str | Attack,
    *,
    seed: int = 0,
    queries: int = QUERIES,
    batch_size: int = 500,
    precision: Precision = "float32",
    progress: bool | Tell | None = None,
) -> Report:
    """The strong suite and, where the extra [autoattack] is installed, AutoAttack; one report of both.

    Parameters
    ----------
    model, split, seed, batch_size, progress
        As in `evaluate`.
    ball : str or Attack
        As in `strong_suite`.
    queries : int
        Of AutoAttack's Square, on each image.
    precision : "float32", "bfloat16" or "auto"
        Of the suite's gradients, as in `evaluate`; AutoAttack is always float32's.

    Returns
    -------
    Report
        "clean", "pgd100x20", "cw100x20" (for a ball of 100 steps) and AutoAttack's stages, which start from all clean
        images again.

    Raises
    ------
    InputError
        As `evaluate` and `auto_attack`.
    """
    attack = _attack(ball)
    suite = strong_suite(attack)
    with shown(progress, "attacking") as tell:
        tells = stages(tell, suite=gradients(suite), auto=1900 + queries / 2 if installed() else 0)
        report = evaluate(
            model, split, suite, batch_size=batch_size, seed=seed, precision=precision, progress=tells["suite"]
        )
        if not installed():
            return report
        found = auto_attack(
            model, split, attack.eps, seed=seed, queries=queries, batch_size=batch_size, progress=tells["auto"]
        )
    return Report({**report, **{name: found[name] for name in VERSIONS["standard"]}})
