"""Signs of gradient masking: what tells that an attack fails for want of a gradient, not for want of a weakness.

What counts as a sign follows Athalye, Carlini and Wagner (2018), section 3.1, and Carlini et al. (2019).
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aalp_lib import _checks, engine, losses, resume
from aalp_lib._checks import InputError
from aalp_lib.attacks import FGSM, Attack, derived, scaled
from aalp_lib.autoattack import QUERIES, auto_attack, installed
from aalp_lib.data import Labelled, Split, split_of, to_float
from aalp_lib.engine import Forward
from aalp_lib.engine.precision import Precision, without_tf32
from aalp_lib.evaluation import Outcome, Report, evaluate, flat_is_told, generators, gradient_count
from aalp_lib.models import Classifier
from aalp_lib.progress import Tell, shown, stages, told

NOISE = 0.01  # share of the images below which a difference is no sign
LARGE = 0.05  # share from which a gain by restarts or by another loss is a sign
STEPS = (1, 5, 10, 20, 40, 100, 200)
RESTARTS = (1, 5, 20)
FRACTIONS = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 8)  # of the attack's eps, kept below 0.5
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

    @property
    def signs(self) -> list[str]:
        """A sentence, with its numbers, for each thing that looks like gradient masking; empty when nothing does."""
        return [*_signs_along_curves(self), *_signs_in_gradients(self), *_signs_of_others(self)]

    @property
    def plain(self) -> Row:
        """Accuracy under the attack itself, from one start."""
        return self.restarts[0]

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
    split: Labelled,
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
    split : Split, Dataset, (images, labels), or a loader of such pairs
        As in `evaluate`. A thousand images are enough: `data.test[:1000]`.
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
    if not isinstance(attack, Attack):
        raise InputError(f"diagnose examines one Attack, got {type(attack).__name__}; pass suite['pgd100'], say")
    split, attack = split_of(split), derived(attack, restarts=1)
    suite = _suite(attack)
    square = queries if installed() else 0
    with shown(progress, "diagnosing") as tell:
        tells = stages(
            tell,
            suite=gradient_count(suite),
            steps=STEPS[-1],
            transfer=attack.steps if source else 0,
            square=square / 2,
        )
        token = flat_is_told.set(True)
        try:
            report = evaluate(
                model, split, suite, batch_size=batch_size, seed=seed, precision=precision, progress=tells["suite"]
            )
        finally:
            flat_is_told.reset(token)
        path = functools.partial(_walk, model, split, attack, generators(attack, seed)[0], batch_size, tells["steps"])
        walk = _Walk(**resume.part("steps", path))
        black_box = {}
        if source is not None:
            transfer = functools.partial(
                _transferred, model, source, split, attack, generators(attack, seed)[0], batch_size, tells["transfer"]
            )
            black_box["transfer"] = Outcome(resume.part("transfer", transfer)["right"])
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


def _assembled(attack: Attack, seed: int, report: Report, walk: "_Walk", black_box: Mapping[str, Outcome]) -> Diagnosis:
    def beside(other: Outcome) -> Row:
        return other.numbers | {"only": int((report["x1"].correct & ~other.correct).sum())}

    return Diagnosis(
        attack=dataclasses.asdict(attack),
        seed=seed,
        eps=[
            report[f"eps {eps:g}" if eps else "clean"].numbers | {"eps": eps, "most": walk.most(eps)}
            for eps in (0, *radii(attack))
        ],
        steps=walk.rows(report["clean"].correct),
        restarts=[report[f"x{count}"].numbers | {"restarts": count} for count in RESTARTS],
        fgsm=beside(report["fgsm"]),
        margin=beside(report["margin"]),
        black_box={name: beside(outcome) for name, outcome in black_box.items()},
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
            Outcome(right & (z.argmax(1) == self.labels)).numbers
            | {
                "steps": steps,
                "cross_entropy": float(losses.cross_entropy(z, self.labels).mean()),
                "margin": float(losses.margin(z, self.labels).mean()),
            }
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
    model: Classifier, split: Split, attack: Attack, generator: torch.Generator, batch_size: int, tell: Tell | None
) -> dict[str, Tensor]:
    """The fields of a `_Walk`."""
    split = split.to(engine.device_of(model))
    with engine.prepared(model, to_float(split.images[:2])) as forward:
        grey = _logits(forward, torch.full_like(split.images[:1], 0.5, dtype=torch.float32)).argmax(1)
        batches = told(split.batches(batch_size), -(-len(split) // batch_size), tell, "loss against steps done")
        clean, path, zero = zip(*(_walk_batch(forward, x, y, attack, generator) for x, y in batches), strict=True)
    return {
        "clean": torch.cat(clean),
        "path": torch.cat(path, 1),
        "labels": split.labels.cpu(),
        "zero": torch.cat(zero, 1),
        "grey": grey.cpu(),
    }


def _walk_batch(
    forward: Forward, x: Tensor, y: Tensor, attack: Attack, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, K) clean and (S, N, K) at each of `STEPS`, bool (2, N) for gradients of 0; one leg goes on from the
    last, which is the attack's own trajectory, since nothing is carried over but the iterate."""
    x_adv = derived(attack, steps=STEPS[0]).perturb(forward, x, y, generator=generator)
    path = [_logits(forward, x_adv)]
    for made, steps in itertools.pairwise(STEPS):
        x_adv = derived(attack, steps=steps - made).perturb(forward, x, y, start=x_adv)
        path.append(_logits(forward, x_adv))
    zero = torch.stack([_zero_gradient(forward, images, y) for images in (x, x_adv)])
    return _logits(forward, x).cpu(), torch.stack(path).cpu(), zero.cpu()


def _logits(forward: Forward, x: Tensor) -> Tensor:
    with torch.no_grad():
        return forward(x)


def _zero_gradient(forward: Forward, x: Tensor, y: Tensor) -> Tensor:
    """Which images have a cross-entropy gradient of exactly 0, bool (N,)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(losses.cross_entropy(forward(x), y).sum(), x)
    return (gradient == 0).flatten(1).all(1)


def _transferred(
    model: Classifier, source: Classifier, split: Split, attack: Attack, generator: torch.Generator, batch_size: int,
    tell: Tell | None,
) -> dict[str, Tensor]:  # fmt: skip
    """Which images stay "right" when `source`'s adversarial images are shown to `model`, bool (N,)."""
    split, right = split.to(engine.device_of(model)), []
    model = engine.private(model)
    for x, y in told(split.batches(batch_size), -(-len(split) // batch_size), tell, "transfer done"):
        x_adv = attack(source, x, y, generator=generator)
        right.append((_logits(model, x).argmax(1) == y) & (_logits(model, x_adv).argmax(1) == y))
    return {"right": torch.cat(right).cpu()}


# --- what looks like masking -----------------------------------------------------------------------------------------

BLACK_BOX = {"transfer": "Transfer", "square": "Square"}


def _signs_along_curves(found: Diagnosis) -> Iterator[str]:
    """More radius, steps and restarts that do not do what they must."""
    for row in found.eps:
        if row["accuracy"] > row["most"] + NOISE:
            yield (
                f"At eps = {row['eps']:g}, {_percent(row['accuracy'])} stay right under the attack, although images in "
                f"the ball leave at most {_percent(row['most'])}."
            )
    for number, row in enumerate(found.eps):
        lowest = min(found.eps[: number + 1], key=lambda r: r["accuracy"])
        if row["accuracy"] > lowest["accuracy"] + NOISE:
            yield (
                f"Accuracy rises with the radius, from {_percent(lowest['accuracy'])} at eps = {lowest['eps']:g} to "
                f"{_percent(row['accuracy'])} at eps = {row['eps']:g}."
            )
            break
    loss = "margin" if found.attack["loss"] == "margin" else "cross_entropy"
    plain, often, early, late = found.plain["accuracy"], found.restarts[-1], found.steps[-3], found.steps[-1]
    best = min(row["accuracy"] for row in (often, found.fgsm, found.margin, *found.black_box.values()))
    if late[loss] - early[loss] <= NOISE * abs(early[loss]) and plain > best + LARGE:
        yield (
            f"More steps do not help: the mean loss is {early[loss]:.3f} after {early['steps']} steps and "
            f"{late[loss]:.3f} after {late['steps']}, at {_percent(plain)}, while another attack leaves "
            f"{_percent(best)}."
        )
    if plain - often["accuracy"] > LARGE:
        yield (
            f"{often['restarts']} restarts lower the accuracy from {_percent(plain)} to {_percent(often['accuracy'])}."
        )


def _signs_in_gradients(found: Diagnosis) -> Iterator[str]:
    """Gradients that are 0, or lack the true class's part."""
    for where, share in found.zero_gradients.items():
        if share > NOISE:
            yield f"The cross-entropy's gradient is exactly 0 at {_percent(share)} of the {where} images."
    z = found.logits
    if z["certain"] > LARGE:
        yield (
            f"At {_percent(z['certain'])} of the clean images the true class has a probability of exactly 1 in "
            f"float32, and its logit no part in the gradient (mean margin {z['margin']:.1f}, largest logit "
            f"{z['largest']:.1f})."
        )


def _signs_of_others(found: Diagnosis) -> Iterator[str]:
    """Weaker attacks, and those without gradients, that do better."""
    plain, fgsm, clean = (row["accuracy"] for row in (found.plain, found.fgsm, found.eps[0]))
    if fgsm > clean / 2 and plain < fgsm / 2:
        yield (
            f"FGSM leaves {_percent(fgsm)} right and {found.attack['steps']} steps leave {_percent(plain)}: robust "
            "against one step alone, as training with one step makes a network (catastrophic overfitting)."
        )
    if plain > fgsm + NOISE:
        yield (f"FGSM leaves {_percent(fgsm)} right and {found.attack['steps']} steps leave {_percent(plain)}.")
    if plain > found.margin["accuracy"] + LARGE:
        yield (
            f"The margin loss leaves {_percent(found.margin['accuracy'])} right, the attack's own loss "
            f"{_percent(plain)}."
        )
    for name, row in found.black_box.items():
        if row["only"] > NOISE * row["count"]:
            yield (
                f"{BLACK_BOX[name]}, which sees no gradient of the model, fools {row['only']} of {row['count']} images "
                f"that the attack does not, and leaves {_percent(row['accuracy'])} right against {_percent(plain)}."
            )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
