"""AutoAttack (Croce and Hein 2020) by the package pyautoattack, of the extra [autoattack]."""

import contextlib
import functools
import importlib.util
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from aalp_lib import _checks, engine, resume, seeds
from aalp_lib._checks import InputError
from aalp_lib.attacks import PGD, Attack
from aalp_lib.data import Labelled, Split, split_of, to_float
from aalp_lib.engine import Prepared
from aalp_lib.engine.precision import without_tf32
from aalp_lib.evaluation import Outcome, Report
from aalp_lib.models import Classifier
from aalp_lib.progress import Tell, shown

QUERIES = 5000  # of the Square attack, as AutoAttack has it
VERSIONS = {"standard": ("apgd-ce", "apgd-t", "fab-t", "square"), "square": ("square",)}
TARGETED_CLASSES = 4  # that the loss of targeted APGD tells apart
THEIRS = {"linf": "Linf", "l2": "L2"}
ROUNDING = 1e-6  # of a ball in float32, for attacks that are not ours


def installed() -> bool:
    """Whether the extra [autoattack] is there."""
    return importlib.util.find_spec("pyautoattack") is not None


@_checks.hinted
@without_tf32()
def auto_attack(
    model: Classifier,
    split: Labelled,
    eps: float,
    *,
    norm: str = "linf",
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
    split : Split, Dataset, (images, labels), or a loader of such pairs
        As in `evaluate`.
    eps : float
        Radius of the ball, above 0; in L∞ at most 1.
    norm : "linf" or "l2"
        Which distance the ball is of.
    seed : int
        For the random starts and squares.
    version : "standard" or "square"
        APGD on the cross-entropy, targeted APGD, targeted FAB and Square; or Square alone, which needs no gradient.
        With fewer than ten classes the targeted ones take all wrong classes; with fewer than four, where the loss of
        targeted APGD is not defined, that stage is left out.
    queries : int
        Of Square, on each image.
    batch_size : int
        Images attacked at a time. Each batch draws from a seed of its own, so another size means other random starts.
    progress : bool or callable, optional
        As in `evaluate`; counts gradients, two queries as one.

    Returns
    -------
    Report
        "clean" and the stages, "apgd-ce", "apgd-t", "fab-t", "square": each attacks what the ones before have left. The
        last one is AutoAttack's result.

    Raises
    ------
    InputError
        Without the extra [autoattack]; if a number is out of range; in L2, if Square cannot lay its squares into images
        of that shape; it can in square ones from 25×25 on.

    Warns
    -----
    UserWarning
        What AutoAttack itself warns of, each thing once; and that a stage is left out.
    """
    names: Sequence[str] = VERSIONS[_checks.known("version of AutoAttack", version, VERSIONS)]
    ball = PGD(eps, eps, 1, norm=norm)
    _checks.count("the number of queries", queries)
    _checks.count("the batch size", batch_size)
    split = split_of(split).to(engine.device_of(model))
    ball = ball.fitting(split.images)
    if not square_fits(norm, split.images.shape):
        raise InputError(f"Square in L2 cannot lay its squares into images of shape {tuple(split.images.shape[1:])}")
    cost = {"apgd-ce": 100, "apgd-t": 900, "fab-t": 900, "square": queries // 2}
    with shown(progress, "AutoAttack") as tell, _lent(model, split) as forward:
        names = _possible(names, forward.classes)
        total, done = -(-len(split) // batch_size) * sum(cost[name] for name in names), 0
        parts: dict[str, list[Tensor]] = {name: [] for name in ("clean", *names)}
        for index, (x, y) in enumerate(split.batches(batch_size)):
            attacker = _attacker(forward, x, y, ball, seeds.derive(seed, "autoattack", index), queries)
            with torch.no_grad():
                right = forward(x).argmax(1) == y
            parts["clean"].append(right)
            for name in names:
                stage = functools.partial(_stage, attacker, name, x, y, right)
                right = resume.part(f"{name} {index}", stage)["right"].to(right.device)
                parts[name].append(right)
                done += cost[name]
                if tell:
                    tell(done, total, f"{name} done")
    return Report(
        {name: Outcome(torch.cat(part).cpu(), "" if name == "clean" else ball.ball) for name, part in parts.items()}
    )


def square_fits(norm: str, shape: Sequence[int]) -> bool:
    """Whether Square's first squares, a fifth of the height each, lie inside images (N, C, H, W); in L∞ they all do."""
    height, width = shape[-2:]
    side = height // 5
    edge = (height - 5 * side) // 2
    fits = side == 1 or (side > 1 and all(edge + size // side * side <= size for size in (height, width)))
    return norm == "linf" or fits


def _possible(names: Sequence[str], classes: int) -> Sequence[str]:
    """The stages that so many classes allow; a warning names the one that is left out."""
    if classes >= TARGETED_CLASSES or "apgd-t" not in names:
        return names
    left = [name for name in names if name != "apgd-t"]
    _checks.warn(
        f"AutoAttack without its stage apgd-t, whose loss needs at least {TARGETED_CLASSES} classes, got {classes}; "
        f"{', '.join(left)} remain"
    )
    return left


def _attacker(forward: Prepared, x: Tensor, y: Tensor, ball: Attack, seed: int, queries: int) -> Any:
    """The package's attacks with the settings of its standard version."""
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise InputError(
            f"AutoAttack and Square need the package pyautoattack ({error}): pip install 'aalp_lib[autoattack]'"
        ) from error
    classes = forward.classes
    _checks.labels(y, len(x), classes)

    def logits(images: Tensor) -> Tensor:
        rows = torch.arange(len(images), device=images.device)
        return torch.cat([forward(images[part]) for part in engine.parts(forward, rows)])

    attacker = AutoAttack(logits, device=x.device, eps=ball.eps, norm=THEIRS[ball.norm], seed=seed)
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
    apart = torch.linalg.vector_norm((x_adv - x).flatten(1), 2 if attacker.norm == "L2" else float("inf"), dim=1)
    inside = apart <= attacker.epsilon + ROUNDING * max(1.0, attacker.epsilon)
    right[rows] = (predicted == y) | ~inside
    return {"right": right}


@contextlib.contextmanager
def _lent(model: Classifier, split: Split) -> Iterator[Prepared]:
    """Lend a copy of `model` to the package, which draws from torch's global generators and says what it has to say to
    a logger; afterwards all is as it was, and what it said is a warning."""
    logger, heard = logging.getLogger("auto-attack"), _Heard()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(heard)
    try:
        with seeds.restored(), engine.prepared(model, to_float(split.images[:2])) as forward:
            yield forward
    finally:
        logger.removeHandler(heard)
        logger.propagate = propagate
    for said in heard.said.values():
        _checks.warn(f"AutoAttack says: {said}")


class _Heard(logging.Handler):
    """What a logger warned of, the first time only, whatever the numbers."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().partition(" See ")[0]
        self.said.setdefault(re.sub(r"\d", "", text), text)
