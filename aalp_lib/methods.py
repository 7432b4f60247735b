"""The rows of Table 2 and 3 as data: which terms of the training loss are on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import torch
from torch import Tensor

from aalp_lib import _checks, engine, losses
from aalp_lib._checks import InputError
from aalp_lib.attacks import Attack, trades_inner
from aalp_lib.contributions import RULES, guided_dropout_mask, sample_scores
from aalp_lib.engine import Forward, distributed
from aalp_lib.models import Classifier, require_classifier

PAIRINGS = ("alp", "adaptive_alp", "trades_kl")
# Of one's own: logits (N, K) of the clean and of the adversarial images and labels (N,), to losses (N,).
Pairing = Callable[[Tensor, Tensor, Tensor], Tensor]
# Of one's own: scores (G, F), a row for each mask, and uniform noise (G, F), to masks, bool (G, F).
Rule = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class GuidedDropout:
    """How Eq. 7 and 8 are used in training.

    Under torch.distributed a mask is that of all ranks' samples together: scores are averaged before the median.

    Attributes
    ----------
    rule : "median", "half" or function
        See `contributions.guided_dropout_mask`. A function takes scores (G, F), a row for each mask, and noise (G, F),
        uniform in [0, 1], to masks, bool (G, F). Both are the same on all ranks, except for masks a sample.
    scope : "batch", "branch" or "sample"
        One mask from all samples of the step, clean and adversarial; one from each kind for itself; one a sample.
    rescale : bool
        Divide what is kept by the kept fraction, as ordinary dropout does.
    in_attack : bool
        Let the training attack see the model through the mask of the clean batch.
    """

    rule: Literal["median", "half"] | Rule = "median"
    scope: Literal["batch", "branch", "sample"] = "batch"
    rescale: bool = False
    in_attack: bool = False

    def __post_init__(self) -> None:
        _checks.known_or_function("Guided Dropout rule", self.rule, RULES)
        _checks.known("mask scope", self.scope, ("batch", "branch", "sample"))

    def factors(self, model: Classifier, features: Tensor, y: Tensor, branches: int) -> Tensor:
        """What multiplies features (branches·N, F) with labels (branches·N,): shape (1 or branches·N, F)."""
        half = features.dtype in (torch.bfloat16, torch.float16)  # in which scores would tie where they differ
        scores = sample_scores(model.head, features.float() if half else features, y)  # (branches·N, F)
        groups = {"batch": 1, "branch": branches, "sample": len(scores)}[self.scope]
        if self.scope != "sample":
            grouped = torch.stack([part.mean(0) for part in scores.chunk(groups)])  # Eq. 7, (groups, F)
            scores = distributed.mean(grouped, len(features))
        kept = self._mask(scores, len(features)).to(features.dtype)  # Eq. 8, (groups, F)
        if self.rescale:
            kept = kept / kept.mean(1, keepdim=True)
        return kept if groups == 1 else kept.repeat_interleave(len(features) // groups, 0)

    def _mask(self, scores: Tensor, rows: int) -> Tensor:
        if isinstance(self.rule, str):
            return guided_dropout_mask(scores, self.rule)
        noise = torch.rand_like(scores)
        # the mean of all ranks' noise is the same on each of them
        mask = self.rule(scores, noise if self.scope == "sample" else distributed.mean(noise, rows))
        if not isinstance(mask, Tensor) or (mask.dtype, mask.shape) != (torch.bool, scores.shape):
            raise InputError(
                f"the rule '{self.rule.__name__}' must return masks, bool {tuple(scores.shape)}, got {_said(mask)}"
            )
        return mask


@dataclass(frozen=True)
class Method:
    """A row of Table 2 or 3: `mean(cross-entropy) + weight * mean(pairing)`.

    Attributes
    ----------
    name, label : str
        As in code and as in tables and figures.
    classify : "clean", "adversarial" or "joint"
        The samples whose cross-entropy counts; "joint" is the mean over both kinds (Eq. 10).
    pairing : None, "alp", "adaptive_alp", "trades_kl" or function
        What ties a clean sample to its adversarial one. A function takes logits (N, K) of the clean images, those of
        the adversarial ones and labels (N,) to losses (N,). On several processes it sees those of its own rank, and can
        average over all with `engine.distributed.mean`.
    weight : float
        The paper's alpha; beta for TRADES.
    guided_dropout : GuidedDropout, optional
        On in training only.
    detach_weight : bool
        Whether Eq. 9's weight is a constant to the gradient.
    """

    name: str
    label: str
    classify: Literal["clean", "adversarial", "joint"] = "joint"
    pairing: Literal["alp", "adaptive_alp", "trades_kl"] | Pairing | None = None
    weight: float = 1.0
    guided_dropout: GuidedDropout | None = None
    detach_weight: bool = True

    def __post_init__(self) -> None:
        _checks.known("classification term", self.classify, ("clean", "adversarial", "joint"))
        if self.pairing is not None:
            _checks.known_or_function("pairing term", self.pairing, PAIRINGS)

    @property
    def adversarial(self) -> bool:
        """Whether training needs adversarial images."""
        return self.classify != "clean" or self.pairing is not None

    @property
    def samples(self) -> int:
        """How many samples of each image go through a training step: clean, adversarial, or both."""
        return 2 if self.classify == "joint" or self.pairing else 1

    def gradient_count(self, attack_steps: int) -> int:
        """Gradients of single images that a training step takes of each image: the attack's, and one for a sample."""
        return attack_steps * self.adversarial + self.samples

    def training_attack(self, attack: Attack) -> Attack:
        """The attack that this method trains against: TRADES ascends its own loss."""
        return trades_inner(attack) if self.pairing == "trades_kl" else attack

    def described(self) -> dict[str, Any]:
        """What records and `run.json` keep of the method, as JSON has it; a function stands by its name."""
        described: dict[str, Any] = msgspec.to_builtins(self, enc_hook=lambda function: function.__name__)
        return described


_GD = GuidedDropout()
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("raw", "RAW", classify="clean"),
        Method("adv", "Madry", classify="adversarial"),
        Method("alp", "ALP", pairing="alp"),
        Method("trades", "TRADES", classify="clean", pairing="trades_kl", weight=6.0),
        Method("aalp_gd", "AALP (gd)", pairing="alp", guided_dropout=_GD),
        Method("aalp_sw", "AALP (sw)", pairing="adaptive_alp"),
        Method("aalp", "AALP", pairing="adaptive_alp", guided_dropout=_GD),
        Method("raw_gd", "RAW + gd", classify="clean", guided_dropout=_GD),
        Method("adv_gd", "Madry + gd", classify="adversarial", guided_dropout=_GD),
    )
}
TABLE_2 = ("raw", "adv", "alp", "trades", "aalp_gd", "aalp_sw", "aalp")


def method(name: str | Method) -> Method:
    """The row called `name`, in code or in tables, or `name` itself where it is a Method; else InputError."""
    return name if isinstance(name, Method) else METHODS[named(name, METHODS)]


def named(name: str, known: Iterable[str]) -> str:
    """Which of the `known` methods, by their names in code, is called `name` in code or in tables; else InputError."""
    labels = {method.label.lower(): method.name for method in METHODS.values()}
    if not isinstance(name, str):
        raise InputError(f"a method must be a Method or the name of one, got {type(name).__name__}")
    lower = name.strip().lower()
    return _checks.known("method", labels.get(lower, lower), known)


class Terms(NamedTuple):
    """The parts of one step's loss, scalars; `kept` is the fraction of features that Guided Dropout kept."""

    total: Tensor
    classification: Tensor
    pairing: Tensor
    kept: Tensor


def training_loss(method: str | Method, model: Classifier, x: Tensor, x_adv: Tensor | None, y: Tensor) -> Terms:
    """Eq. 10 and its relatives on one batch, after one pass through the network, clean and adversarial together.

    Parameters
    ----------
    method : str or Method
        A row of `METHODS`, or its name.
    model : Classifier
        In the mode in which it is to be trained; `models.wrap` makes one of another network.
    x, x_adv : (N, C, H, W)
        Images in [0, 1]; `x_adv` may be None where `method.adversarial` is False.
    y : (N,)
        Labels.

    Raises
    ------
    InputError
        If the method is unknown, the model no Classifier, adversarial images are missing or unlike the clean ones, or
        images or labels are none that the model can take.
    """
    row = method if isinstance(method, Method) else METHODS[named(method, METHODS)]
    require_classifier(model)
    if row.adversarial and x_adv is None:
        raise InputError(f"method '{row.name}' needs adversarial images")
    _checks.images(x)
    if x_adv is not None:
        _checks.images(x_adv)
        if (x_adv.shape, x_adv.dtype) != (x.shape, x.dtype):
            raise InputError(f"clean and adversarial images must be alike, got {_said(x)} and {_said(x_adv)}")
    if not len(x):
        raise InputError("there are no images")
    try:
        return terms(row, model, x, x_adv, y, checked=False)
    except RuntimeError:
        with engine.prepared(model, x):  # InputError if the model cannot take such images
            raise


def terms(row: Method, model: Classifier, x: Tensor, x_adv: Tensor | None, y: Tensor, *, checked: bool = True) -> Terms:
    """`training_loss` of what was checked before: on a GPU, to look at values would wait for it in every step."""
    branches = [x] if row.classify != "adversarial" or row.pairing else []
    branches += [x_adv] if row.adversarial and x_adv is not None else []
    features = model.features(torch.cat(branches))  # (branches·N, F)
    if not checked:
        with torch.no_grad():
            _checks.labels(y, len(x), engine.private(model.head)(features[:1]).shape[1])
    labels = y.repeat(len(branches))
    kept = features.new_ones(())
    if row.guided_dropout:
        factors = row.guided_dropout.factors(model, features, labels, len(branches))
        features, kept = features * factors, (factors > 0).float().mean()
    z = model.head(features)  # (branches·N, K)
    z_clean, z_adv = z[: len(y)], z[-len(y) :]
    chosen = {"clean": (z_clean, y), "adversarial": (z_adv, y), "joint": (z, labels)}[row.classify]
    classification = losses.cross_entropy(*chosen).mean()
    pairing = _pairing(row, z_clean, z_adv, y).mean() if row.pairing else classification.new_zeros(())
    return Terms(classification + row.weight * pairing, classification, pairing, kept)


def _pairing(method: Method, z_clean: Tensor, z_adv: Tensor, y: Tensor) -> Tensor:
    """The pairing loss of each sample, shape (N,)."""
    if callable(method.pairing):
        own = method.pairing(z_clean, z_adv, y)
        if not isinstance(own, Tensor) or own.shape != y.shape:
            raise InputError(
                f"the pairing '{method.pairing.__name__}' must return losses of shape ({len(y)},), got {_said(own)}"
            )
        return own
    if method.pairing == "adaptive_alp":
        return losses.adaptive_alp(z_clean, z_adv, y, detach=method.detach_weight)
    return (losses.alp if method.pairing == "alp" else losses.trades_kl)(z_clean, z_adv)


def _said(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def attacked_view(method: Method, model: Classifier, forward: Forward, x: Tensor, y: Tensor) -> Forward:
    """What the training attack sees: `forward`, the prepared model, or with `in_attack` the model through the mask."""
    dropout = method.guided_dropout
    if dropout is None or not dropout.in_attack:
        return forward
    seen = engine.private(model, frozen=True)
    with torch.no_grad():
        factors = dropout.factors(seen, seen.features(x), y, branches=1)
    return lambda images: seen.head(seen.features(images) * factors)
