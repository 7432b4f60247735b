"""Signs of gradient masking: what tells that an attack fails for want of a gradient, not for want of a weakness.

What counts as a sign follows Athalye, Carlini and Wagner (2018), section 3.1, and Carlini et al. (2019).
"""

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from aalp_lib import _checks, _tables, engine, losses, resume
from aalp_lib._checks import InputError
from aalp_lib.attacks import FGSM, NORMS, Attack, derived, levels, scaled
from aalp_lib.autoattack import QUERIES, auto_attack, installed, square_fits
from aalp_lib.data import Labelled, Split, split_of, to_float
from aalp_lib.engine import Forward
from aalp_lib.engine.precision import Precision, without_tf32
from aalp_lib.evaluation import Outcome, Report, evaluate, flat_is_told, generators, gradient_count, unusual
from aalp_lib.models import Classifier
from aalp_lib.progress import Tell, shown, stages, told

NOISE = 0.01  # share of the images below which a difference is no sign
LARGE = 0.05  # share from which a gain by restarts or by another loss is a sign
STEPS = (1, 5, 10, 20, 40, 100, 200)
RESTARTS = (1, 5, 20)
FRACTIONS = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 8)  # of the attack's eps, kept below half the width of [0, 1]
Row = dict[str, float]  # accuracy, low, high, correct, count, and what else is said beside


@dataclass(frozen=True, repr=False)
class Diagnosis(_tables.Tabled):
    """What `diagnose` measured, ready for JSON. An accuracy is {accuracy, low, high, correct, count}, as in a record.

    Attributes
    ----------
    attack : dict
        Settings of the attack that is examined; "ball", in words, where it is in L2 or led to targets.
    seed : int
    eps : list
        Accuracies against "eps", 0 first; "most" is the largest share that can be right, as far as known images in the
        balls say: a grey one from eps = 0.5 on, every other image of the split at eps = 1; in L2 of images of P values
        from half of sqrt(P) on, and at sqrt(P).
    steps : list
        For "steps" steps, the mean "cross_entropy" (nats) and "margin" (best wrong logit minus true one) over all
        images, and the accuracy, at that iterate. Both are what the attack raises: with targets, those of the targets
        with a minus sign.
    restarts : list
        Accuracies with that many "restarts".
    fgsm, margin : dict
        Accuracies under FGSM, and under the same attack on the margin loss; "only" is the number of images that they
        fool and the attack does not.
    black_box : dict
        The same for "transfer" and "square", as far as they were measured.
    zero_gradients : dict
        Share of images with a cross-entropy gradient of exactly 0 in float32: "clean", and "attacked" for 200 steps.
    nan_gradients : dict
        The same for a gradient that is NaN at a pixel.
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
    nan_gradients: dict[str, float] = field(default_factory=dict)

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
        zero, nan, z = self.zero_gradients, self.nan_gradients, self.logits
        said = f"gradient that is NaN: {_percent(nan.get('clean', 0))} of the clean, {_percent(nan.get('attacked', 0))}"
        return [
            f"gradient of exactly 0: {_percent(zero['clean'])} of the clean, {_percent(zero['attacked'])} of the "
            "attacked images",
            f"largest logit {z['largest']:.2f}, margin {z['margin']:.2f}, probability of exactly 1: "
            f"{_percent(z['certain'])}",
            *([f"{said} of the attacked images"] if any(nan.values()) else []),
        ]

    @property
    def ball(self) -> str:
        """Where the attack may go, in words."""
        return str(self.attack.get("ball") or f"L∞ {levels(self.attack['eps'])}")

    def _table(self) -> _tables.Table:
        rows = [
            [name, _percent(r["accuracy"], 2), f"[{100 * r['low']:.2f}, {100 * r['high']:.2f}]", remark]
            for group in self.rows
            for name, r, remark in group
        ]
        notes = [*self.remarks, *(self.signs or ["no sign of gradient masking"])]
        return [f"Diagnosis, {self.ball}", "right", "95 % interval", ""], rows, notes


@_checks.hinted
@without_tf32()
def diagnose(
    model: Classifier,
    split: Labelled,
    attack: Attack,
    *,
    target: Tensor | None = None,
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
    target : (N,) int64, optional
        As in `evaluate`. Square, which knows no targets, is then left out; in L2 also for images it cannot take.
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
        If a number is out of range, a model cannot take such images, or `attack` is another thing than one Attack.
    """
    _checks.count("the number of queries", queries, least=0)
    if not isinstance(attack, Attack):
        raise InputError(f"diagnose examines one Attack, got {type(attack).__name__}; pass suite['pgd100'], say")
    split, attack = split_of(split), derived(attack, restarts=1)
    suite, pixels = _suite(attack, split.images[0].numel()), split.images[0].numel()
    square = queries if installed() and target is None and square_fits(attack.norm, split.images.shape) else 0
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
                model, split, suite, target=target, batch_size=batch_size, seed=seed, precision=precision,
                progress=tells["suite"],
            )  # fmt: skip
        finally:
            flat_is_told.reset(token)
        path = functools.partial(
            _walk, model, split, attack, target, generators(attack, seed)[0], batch_size, tells["steps"]
        )
        walk = _Walk(**resume.part("steps", path))
        black_box = {}
        if source is not None:
            transfer = functools.partial(
                _transferred, model, source, split, attack, target, generators(attack, seed)[0], batch_size,
                tells["transfer"],
            )  # fmt: skip
            black_box["transfer"] = Outcome(resume.part("transfer", transfer)["right"])
        if square:
            black_box["square"] = auto_attack(
                model, split, attack.eps, norm=attack.norm, seed=seed, version="square", queries=square,
                batch_size=batch_size, progress=tells["square"],
            )["square"]  # fmt: skip
    return _assembled(attack.toward(target), pixels, seed, report, walk, black_box)


def radii(attack: Attack, pixels: int = 1) -> list[float]:
    """The radii of the accuracy curve: multiples of the attack's own below half the width of [0, 1], half and all.

    The width is 1, or in L2 the square root of the number of an image's `pixels`, channels counted.
    """
    width = NORMS[attack.norm].width(pixels)
    return [attack.eps * f for f in FRACTIONS if attack.eps * f < width / 2] + [width / 2, width]


def _suite(attack: Attack, pixels: int) -> dict[str, Attack]:
    curve = {f"eps {eps:g}": scaled(attack, eps / attack.eps) for eps in radii(attack, pixels)}
    runs = {f"x{count}": derived(attack, restarts=count) for count in RESTARTS}
    return curve | runs | {"fgsm": FGSM(attack.eps, norm=attack.norm), "margin": derived(attack, loss="margin")}


def _assembled(
    attack: Attack, pixels: int, seed: int, report: Report, walk: "_Walk", black_box: Mapping[str, Outcome]
) -> Diagnosis:
    width = NORMS[attack.norm].width(pixels)

    def beside(other: Outcome) -> Row:
        return other.numbers | {"only": int((report["x1"].correct & ~other.correct).sum())}

    return Diagnosis(
        attack=derived(attack, step=abs(attack.step)).described() | unusual(attack.ball),
        seed=seed,
        eps=[
            report[f"eps {eps:g}" if eps else "clean"].numbers | {"eps": eps, "most": walk.most(eps / width)}
            for eps in (0, *radii(attack, pixels))
        ],
        steps=walk.rows(report["clean"].correct),
        restarts=[report[f"x{count}"].numbers | {"restarts": count} for count in RESTARTS],
        fgsm=beside(report["fgsm"]),
        margin=beside(report["margin"]),
        black_box={name: beside(outcome) for name, outcome in black_box.items()},
        zero_gradients=walk.shares(walk.zero),
        nan_gradients=walk.shares(walk.nan),
        logits=walk.logit_scale(),
    )


# --- along one trajectory --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Walk:
    """Logits (N, K) on clean images, (S, N, K) at each of `STEPS`, labels (N,), and where gradients are 0 or NaN."""

    clean: Tensor
    path: Tensor
    labels: Tensor
    zero: Tensor  # bool (2, N): at the clean images and at the last iterates
    grey: Tensor  # int64 (1,): the class that an image of 0.5 everywhere is seen as
    nan: Tensor = field(default_factory=lambda: torch.zeros(2, 1, dtype=torch.bool))
    target: Tensor | None = None  # (N,)

    def most(self, eps: float) -> float:
        """Largest share that can be right at `eps`, in widths of [0, 1], as images that lie in every ball say."""
        if eps < 0.5:
            return 1.0
        seen = self.grey if eps < 1 else torch.cat([self.grey, self.clean.argmax(1)])
        return float(self._right(seen.unique()[:, None]).all(0).float().mean())

    def _right(self, seen: Tensor) -> Tensor:
        """Where images that are seen as these classes, (N,) or (C, 1), are not lost."""
        return seen == self.labels if self.target is None else seen != self.target

    def rows(self, right: Tensor) -> list[Row]:
        sought, sign = (self.labels, 1) if self.target is None else (self.target, -1)
        return [
            Outcome(right & self._right(z.argmax(1))).numbers
            | {
                "steps": steps,
                "cross_entropy": sign * float(losses.cross_entropy(z, sought).mean()),
                "margin": sign * float(losses.margin(z, sought).mean()),
            }
            for steps, z in zip(STEPS, self.path, strict=True)
        ]

    def shares(self, of: Tensor) -> dict[str, float]:
        clean, attacked = of.float().mean(1).tolist()
        return {"clean": clean, "attacked": attacked}

    def logit_scale(self) -> dict[str, float]:
        return {
            "largest": float(self.clean.abs().amax(1).mean()),
            "margin": float(losses.margin(self.clean, self.labels).mean()),
            "certain": float((losses.confidence(self.clean, self.labels) == 1).float().mean()),
        }


def _walk(
    model: Classifier, split: Split, attack: Attack, target: Tensor | None, generator: torch.Generator,
    batch_size: int, tell: Tell | None,
) -> dict[str, Tensor]:  # fmt: skip
    """The fields of a `_Walk`."""
    split, attack = split.to(engine.device_of(model)), attack.toward(target)
    sought = split.labels if target is None else target.to(split.labels.device)
    with engine.prepared(model, to_float(split.images[:2])) as forward:
        grey = _logits(forward, torch.full_like(split.images[:1], 0.5, dtype=torch.float32)).argmax(1)
        each = zip(split.batches(batch_size), sought.split(batch_size), strict=True)
        batches = told(each, -(-len(split) // batch_size), tell, "loss against steps done")
        found = (_walk_batch(forward, x, wanted, attack, generator) for (x, _), wanted in batches)
        clean, path, zero, nan = zip(*found, strict=True)
    return {
        "clean": torch.cat(clean),
        "path": torch.cat(path, 1),
        "labels": split.labels.cpu(),
        "zero": torch.cat(zero, 1),
        "grey": grey.cpu(),
        "nan": torch.cat(nan, 1),
    } | ({} if target is None else {"target": sought.cpu()})


def _walk_batch(
    forward: Forward, x: Tensor, y: Tensor, attack: Attack, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits (N, K) clean and (S, N, K) at each of `STEPS`, bool (2, N) for gradients of 0 and of NaN; one leg goes on
    from the last, which is the attack's own trajectory, since nothing is carried over but the iterate."""
    x_adv = derived(attack, steps=STEPS[0]).perturb(forward, x, y, generator=generator)
    path = [_logits(forward, x_adv)]
    for made, steps in itertools.pairwise(STEPS):
        x_adv = derived(attack, steps=steps - made).perturb(forward, x, y, start=x_adv)
        path.append(_logits(forward, x_adv))
    gradients = torch.stack([_gradient(forward, images, y).flatten(1) for images in (x, x_adv)])  # (2, N, P)
    zero, nan = (gradients == 0).all(2), gradients.isnan().any(2)
    return _logits(forward, x).cpu(), torch.stack(path).cpu(), zero.cpu(), nan.cpu()


def _logits(forward: Forward, x: Tensor) -> Tensor:
    with torch.no_grad():
        return forward(x)


def _gradient(forward: Forward, x: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy's gradient at images (N, C, H, W)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(losses.cross_entropy(forward(x), y).sum(), x)
    return gradient


def _transferred(
    model: Classifier, source: Classifier, split: Split, attack: Attack, target: Tensor | None,
    generator: torch.Generator, batch_size: int, tell: Tell | None,
) -> dict[str, Tensor]:  # fmt: skip
    """Which images stay "right" when `source`'s adversarial images are shown to `model`, bool (N,)."""
    split, right = split.to(engine.device_of(model)), []
    model = engine.private(model)
    targets = (
        [None] * -(-len(split) // batch_size) if target is None else target.to(split.labels.device).split(batch_size)
    )
    each = zip(split.batches(batch_size), targets, strict=True)
    for (x, y), wanted in told(each, len(targets), tell, "transfer done"):
        x_adv = attack(source, x, y, target=wanted, generator=generator)
        seen = _logits(model, x_adv).argmax(1)
        right.append((_logits(model, x).argmax(1) == y) & (seen == y if wanted is None else seen != wanted))
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
    for where, share in found.nan_gradients.items():
        if share > 0:
            yield f"The cross-entropy's gradient is NaN at {_percent(share)} of the {where} images."
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


def _percent(share: float, digits: int = 1) -> str:
    return _tables.percent(share, digits)
