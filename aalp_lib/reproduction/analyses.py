"""The paper's Table 1 and its figures of trained models, as measurements.

All look at the last iterate of the attack, not at the first that fools: confidences and losses are those of the images
that the attack ends with. Counts of consistent images may therefore lie above those of a record, which by default lets
an attacker keep whatever fooled.
"""

import base64
import functools
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aalp_lib import _checks, contributions, engine, losses
from aalp_lib._checks import InputError
from aalp_lib.attacks import Attack
from aalp_lib.data import Dataset, Split, load, to_float
from aalp_lib.engine.precision import without_tf32
from aalp_lib.evaluation import BALLS, generators, paper_name
from aalp_lib.models import Classifier
from aalp_lib.reproduction import machine
from aalp_lib.reproduction.schema import Measurement
from aalp_lib.reproduction.settings import setting_for

Values = dict[str, Any]  # what a measurement holds
SETS = ("consistent", "inconsistent")
EQUATIONS = {"loss_gradient": contributions.loss_gradient, "scores": contributions.scores}
POINTS = 300  # of each set, for Figure 11
STROKE = 0.25  # brightness above which a position of a grey image belongs to its stroke
BATCH = 500


# --- what every measurement looks at ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Attacked:
    """Images x and their adversarial ones x_adv, both float32 (N, C, H, W) in [0, 1], with labels y (N,)."""

    x: Tensor
    x_adv: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


def attacked(model: Classifier, split: Split, attack: Attack, *, seed: int = 0) -> Attacked:
    """Attack every image of a split once and keep the last iterate; image i starts where `evaluate` would start it."""
    (generator, *_), split = generators(attack, seed), split.to(next(model.parameters()).device)
    found = [attack(model, x, y, generator=generator) for x, y in split.batches(BATCH)]
    return Attacked(to_float(split.images), torch.cat(found), split.labels)


def paper_attack(dataset: Dataset) -> Attack:
    """The attack of the paper's data analysis, which is the one it trains against: on MNIST PGD-40, steps of 0.01."""
    return setting_for(dataset, "paper").attack


def attack_for(dataset: Dataset, trained_against: Attack) -> Attack:
    """The attack to look at a network with: the paper's on its data sets, on any other that of its training."""
    return paper_attack(dataset) if paper_name(dataset.name) in BALLS else trained_against


def logits(model: Classifier, x: Tensor) -> Tensor:
    """Logits (N, K) of images (N, C, H, W), in evaluation mode, some hundred at a time."""
    model = engine.private(model)
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(BATCH)])


def sets(z: Tensor, z_adv: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Which images are consistent (right on both) and inconsistent (right on clean alone), bool (N,) each.

    Examples
    --------
    >>> z, y = torch.eye(2), torch.tensor([0, 0])
    >>> sets(z, z, y)["consistent"].tolist(), sets(z, z.flip(0), y)["inconsistent"].tolist()
    ([True, False], [True, False])
    """
    right, right_adv = z.argmax(1) == y, z_adv.argmax(1) == y
    return {"consistent": right & right_adv, "inconsistent": right & ~right_adv}


def loss_bounds(confidence: float, classes: int) -> tuple[float, float]:
    """Smallest and largest mean cross-entropy (nats) that right answers of a given mean confidence can have.

    -log p is convex. So its mean is smallest where all confidences are equal (Jensen's inequality), and largest where
    each lies at an end of what is possible: 1, or 1 / classes, below which the answer would not be right.

    Parameters
    ----------
    confidence : float
        Mean probability of the true class, in [1 / classes, 1].
    classes : int

    Raises
    ------
    InputError
        If no right answers have that mean confidence.

    Examples
    --------
    >>> low, high = loss_bounds(0.75, classes=2)
    >>> round(low, 3), round(high, 3), round(math.log(2) / 2, 3)  # at most every second one is at log 2
    (0.288, 0.347, 0.347)
    """
    if not 1 / classes <= confidence <= 1:
        span = f"[{1 / classes:.3g}, 1]"
        raise InputError(f"right answers among {classes} classes have a mean confidence in {span}, got {confidence}")
    return -math.log(confidence), (1 - confidence) / (1 - 1 / classes) * math.log(classes)


# --- Table 1, Figure 11 ----------------------------------------------------------------------------------------------


def samples(model: Classifier, found: Attacked, *, seed: int = 0) -> Values:
    """Table 1 and Figure 11: confidences and losses of the consistent and of the inconsistent images.

    The paper does not say on which images its classification loss is taken: it is given for the clean, for the
    adversarial, and joint, their mean (Eq. 10).

    Returns
    -------
    dict
        "images", "wrong" (on clean already): counts. "consistent", "inconsistent" and "both": `count` and the means of
        `clean_confidence`, `adversarial_confidence` (both of the true class), `confidence_gap` (their absolute
        difference), `classification_loss`, `classification_loss_clean`, `classification_loss_adversarial` (nats),
        `alp_loss` (Eq. 1) and `alp_share`, mean Eq. 1 over the sum of it and the joint loss; None for an empty set.
        "points": for each set the confidences "clean" and "adversarial" of up to 300 images, drawn by `seed`.
    """
    z, z_adv = logits(model, found.x), logits(model, found.x_adv)
    measured = _per_image(z, z_adv, found.y)
    chosen = sets(z, z_adv, found.y)
    right = chosen["consistent"] | chosen["inconsistent"]
    return {
        "images": len(found),
        "wrong": int((~right).sum()),
        **{name: _means(measured, rows) for name, rows in (chosen | {"both": right}).items()},
        "points": {name: _points(measured, rows, seed) for name, rows in chosen.items()},
    }


def _per_image(z: Tensor, z_adv: Tensor, y: Tensor) -> dict[str, Tensor]:
    """What Table 1 averages, each of shape (N,)."""
    clean, adversarial = losses.cross_entropy(z, y), losses.cross_entropy(z_adv, y)
    return {
        "clean_confidence": (-clean).exp(),
        "adversarial_confidence": (-adversarial).exp(),
        "confidence_gap": ((-clean).exp() - (-adversarial).exp()).abs(),
        "classification_loss": (clean + adversarial) / 2,
        "classification_loss_clean": clean,
        "classification_loss_adversarial": adversarial,
        "alp_loss": losses.alp(z, z_adv),
    }


def _means(measured: dict[str, Tensor], rows: Tensor) -> Values:
    means = {name: mean(values[rows]) for name, values in measured.items()}
    pairing, joint = means["alp_loss"], means["classification_loss"]
    share = None if pairing is None or joint is None else rounded(pairing / (pairing + joint))
    return {"count": int(rows.sum())} | means | {"alp_share": share}


def _points(measured: dict[str, Tensor], rows: Tensor, seed: int) -> Values:
    found = rows.nonzero()[:, 0].cpu()
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    found = found[order[:POINTS]].sort().values.to(rows.device)
    return {
        name: [round(v, 4) for v in measured[f"{name}_confidence"][found].tolist()] for name in ("clean", "adversarial")
    }


def rounded(value: Tensor | float, digits: int = 5) -> float:
    """Round to so many significant digits, as a measurement keeps a number."""
    return float(f"{float(value):.{digits}g}")


def mean(values: Tensor) -> float | None:
    """Mean of a tensor of any type, rounded; None of an empty one."""
    return rounded(values.double().mean()) if len(values) else None


# --- Figure 3 --------------------------------------------------------------------------------------------------------


def examples(model: Classifier, shown: Split, attack: Attack, *, count: int = 5, seed: int = 0) -> Values:
    """Figure 3: the first images of each set, with the confidence in the true class and in the attack's target.

    The attack has no target of its own: what counts as one is the wrong class that it made most probable.

    Returns
    -------
    dict
        "consistent" and "inconsistent": "index" in the split, "label", "target", "clean" and "adversarial" (each with
        confidences "true" and "target"), "images" and "adversarial_images" (packed, see `unpack`; None for no image).
    """
    found = attacked(model, shown, attack, seed=seed)
    z, z_adv = logits(model, found.x), logits(model, found.x_adv)
    target = z_adv.scatter(1, found.y[:, None], float("-inf")).argmax(1)

    def described(rows: Tensor) -> Values:
        confidences = {
            name: {
                kind: [round(v, 4) for v in losses.confidence(of[rows], classes[rows]).tolist()]
                for kind, classes in (("true", found.y), ("target", target))
            }
            for name, of in (("clean", z), ("adversarial", z_adv))
        }
        return {
            "index": rows.tolist(),
            "label": found.y[rows].tolist(),
            "target": target[rows].tolist(),
            **confidences,
            "images": pack(found.x[rows]) if len(rows) else None,
            "adversarial_images": pack(found.x_adv[rows]) if len(rows) else None,
        }

    return {name: described(chosen.nonzero()[:count, 0]) for name, chosen in sets(z, z_adv, found.y).items()}


def pack(images: Tensor) -> Values:
    """Turn values in [0, 1], of any shape, into {"shape", "uint8"}: 256 levels, base64."""
    levels = (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return {"shape": list(levels.shape), "uint8": base64.b64encode(levels.tobytes()).decode()}


def unpack(packed: Values) -> Tensor:
    """Turn what `pack` made back into float32 values in [0, 1]."""
    levels = np.frombuffer(base64.b64decode(packed["uint8"]), dtype=np.uint8).reshape(packed["shape"])
    return to_float(torch.from_numpy(levels.copy()))


# --- Figures 1 and 7 -------------------------------------------------------------------------------------------------


def feature_contributions(model: Classifier, found: Attacked) -> Values:
    """Figures 1 and 7: how Eq. 5 and Eq. 7 are shared out among the features, on clean and on adversarial images.

    Returns
    -------
    dict
        "features": F. "clean" and "adversarial": "loss_gradient" (Eq. 5) and "scores" (Eq. 7), each as
        `feature_shares` gives it.
    """
    vectors = contribution_vectors(model, found)
    nested: Values = {"features": len(next(iter(vectors.values())))}
    for (images, equation), vector in vectors.items():
        nested.setdefault(images, {})[equation] = feature_shares(vector)
    return nested


def contribution_vectors(model: Classifier, found: Attacked) -> dict[tuple[str, str], Tensor]:
    """Contributions over all images, (F,) each, by ("clean" or "adversarial", "loss_gradient" or "scores")."""
    return {
        (images, name): _over_batches(equation, model, x, found.y)
        for images, x in (("clean", found.x), ("adversarial", found.x_adv))
        for name, equation in EQUATIONS.items()
    }


def _over_batches(
    equation: Callable[[Classifier, Tensor, Tensor], Tensor], model: Classifier, x: Tensor, y: Tensor
) -> Tensor:
    """A mean over samples, taken batch by batch."""
    parts = [equation(model, a, b) * len(b) for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True)]
    return torch.stack(parts).sum(0) / len(y)


def feature_shares(values: Tensor) -> Values:
    """How non-negative values (F,) are shared out among the features: evenly, or to a few.

    Returns
    -------
    dict
        "mean", "largest"; "dead_share": fraction of exact zeros; "half_share": smallest fraction of the features that
        carries half of the sum; "high_share": fraction above half of the largest; "gini": 0 for all equal, (F - 1) / F
        for all on one; "sorted": the values, largest first (of more than 512, 512 evenly spaced ranks).

    Examples
    --------
    >>> shares = feature_shares(torch.tensor([0.0, 3.0, 1.0, 0.0]))
    >>> shares["half_share"], shares["high_share"], shares["dead_share"], shares["gini"], shares["sorted"]
    (0.25, 0.25, 0.5, 0.625, [3.0, 1.0, 0.0, 0.0])
    """
    ordered = values.detach().double().cpu().sort(descending=True).values
    total, mean_value = float(ordered.sum()), float(ordered.mean())
    ranks = torch.linspace(0, len(ordered) - 1, min(len(ordered), 512)).round().long()
    carried = int((ordered.cumsum(0) < total / 2 * (1 - 1e-12)).sum()) + 1
    difference = float((ordered[:, None] - ordered).abs().mean())  # of two features drawn at random
    return {
        "mean": rounded(mean_value),
        "largest": rounded(ordered[0]),
        "dead_share": rounded((ordered == 0).double().mean()),
        "half_share": rounded(carried / len(ordered)) if total else 0.0,
        "high_share": rounded((ordered > ordered[0] / 2).double().mean()),
        "gini": rounded(difference / (2 * mean_value)) if total else 0.0,
        "sorted": [rounded(v, 4) for v in ordered[ranks].tolist()],
    }


# --- Figures 2 and 8 -------------------------------------------------------------------------------------------------


def activation(model: Classifier, found: Attacked, shown: Attacked | None = None) -> Values:
    """Figures 2 and 8: activation maps of adversarial images, and how concentrated they are.

    Parameters
    ----------
    model : Classifier
        With a convolution; its last one gives the maps.
    found : Attacked
        Whose maps are summed up in numbers.
    shown : Attacked, optional
        Whose maps and pictures are kept.

    Returns
    -------
    dict
        "resolution": [h, w]. "stroke_area": mean share of positions on the stroke, brighter than 0.25 in the clean
        image at the maps' resolution; None for images in colour. "paper", Eq. 6: "top_tenth", mean share of a map's sum
        on its strongest tenth of positions; "on_stroke", mean share on the stroke; "empty", number of maps that are 0
        everywhere, which the means leave out; "mean" of all maps, each over its largest value, packed; "maps" of
        `shown`, likewise, or None. "labels" and "pictures" (adversarial, packed) of `shown`, or None. Older records
        have "grad-cam" too.
    """
    whole = maps(model, found)
    strokes = _strokes(found.x, *whole.shape[1:])
    kept = pack(over_largest(maps(model, shown))) if shown else None
    return {
        "resolution": list(whole.shape[1:]),
        "stroke_area": None if strokes is None else rounded(strokes.double().mean()),
        "labels": shown.y.tolist() if shown else None,
        "pictures": pack(shown.x_adv) if shown else None,
        "paper": concentration(whole, strokes) | {"mean": pack(over_largest(whole).mean(0)), "maps": kept},
    }


def concentration(maps: Tensor, strokes: Tensor | None = None) -> Values:
    """How much of maps (N, h, w) lies on their strongest tenth of positions, and on strokes, bool (N, h, w)."""
    total = maps.sum((1, 2))
    full = total > 0
    strongest = maps.flatten(1).topk(math.ceil(maps[0].numel() / 10)).values.sum(1)
    on_stroke = None if strokes is None else (maps * strokes).sum((1, 2))

    def share(part: Tensor | None) -> float | None:
        return None if part is None or not full.any() else rounded((part / total)[full].double().mean())

    return {"top_tenth": share(strongest), "on_stroke": share(on_stroke), "empty": int((~full).sum())}


def maps(model: Classifier, found: Attacked) -> Tensor:
    """Eq. 6's maps (N, h, w) of adversarial images, some hundred at a time."""
    parts = zip(found.x_adv.split(BATCH), found.y.split(BATCH), strict=True)
    return torch.cat([contributions.activation_map(model, x, y) for x, y in parts])


def over_largest(maps: Tensor) -> Tensor:
    """Maps (N, h, w), each divided by its largest value; one that is 0 everywhere stays so."""
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def _strokes(x: Tensor, height: int, width: int) -> Tensor | None:
    """Where grey images (N, 1, H, W) are bright, at the maps' resolution, bool (N, h, w)."""
    if x.shape[1] != 1:
        return None
    return torch.nn.functional.adaptive_avg_pool2d(x, (height, width))[:, 0] > STROKE


def first_of_each_class(split: Split) -> Split:
    """The first image of each class of a split, in the order of the classes."""
    return split[torch.stack([(split.labels == label).nonzero()[0, 0] for label in split.labels.unique()])]


# --- all of it, as files ---------------------------------------------------------------------------------------------


@without_tf32()
def measure_model(
    model: Classifier,
    name: str,
    subject: Values,
    dataset: Dataset,
    out: str | Path,
    *,
    attack: Attack,
    tier: str,
    seed: int = 0,
) -> list[Path]:
    """Write `samples`, `contributions`, `activation` and `examples` of a trained model, unless they are there.

    They go to `out/KIND/NAME.json`. The whole test split is attacked once for all of them, with starts drawn from
    `seed`. Pictures are of `storable` images alone; without such there are no `examples`, and no pictures in
    `activation`. Returns all paths, old and new; InputError if one that is there was made with other settings.
    """
    shown, found = storable(dataset), functools.cache(lambda: attacked(model, dataset.test, attack, seed=seed))
    make: dict[str, Callable[[], Values]] = {
        "samples": lambda: samples(model, found(), seed=seed),
        "contributions": lambda: feature_contributions(model, found()),
        "activation": lambda: activation(
            model, found(), attacked(model, first_of_each_class(shown), attack, seed=seed) if shown else None
        ),
    }
    if shown is not None:
        make["examples"] = lambda: examples(model, shown, attack, seed=seed)
    config = {"attack": attack.described(), "images": len(dataset.test), "seed": seed, "reading": "last"}
    device = dataset.test.labels.device
    return [
        kept(_checks.path(out) / kind / f"{name}.json", kind, subject, config, tier, device, one)
        for kind, one in make.items()
    ]


def storable(dataset: Dataset) -> Split | None:
    """Images that look like a data set's and may be stored: for MNIST, the bundled sample's test digits."""
    return load("mnist-sample").test if dataset.name in ("mnist", "mnist-sample") else None


def present(path: Path, subject: Mapping[str, Any], config: Values) -> bool:
    """Whether it is there; InputError if it is damaged, of another network, or has another of these values."""
    if not path.exists():
        return False
    there = Measurement.load(path)
    if there.subject.get("network") not in (None, subject.get("network")):  # older measurements do not say
        raise InputError(
            f"{path} is of another network than {subject.get('network')}; move it away to measure this one"
        )
    if there.config | json.loads(json.dumps(config)) != there.config:
        raise InputError(f"{path} was made with other settings; name another folder, or move it away")
    return True


def kept(
    path: Path, kind: str, subject: Values, config: Values, tier: str, device: torch.device, make: Callable[[], Values]
) -> Path:
    """Write what `make` gives as a measurement, with the time that it took, unless it is there; returns the path."""
    if not present(path, subject, config):
        began, environment, values = time.perf_counter(), machine.environment(device), make()
        Measurement(kind, subject, tier, config, environment, values, round(time.perf_counter() - began, 2)).save(path)
    return path
