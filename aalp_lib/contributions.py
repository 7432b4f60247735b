"""Eq. 5 to 8: how much each feature contributes, the Guided Dropout mask, and activation maps."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from aalp_lib import _checks, engine, losses
from aalp_lib._checks import InputError
from aalp_lib.models import Classifier, require_classifier

RULES = ("median", "half")


def feature_gradient(head: Callable[[Tensor], Tensor], features: Tensor, y: Tensor) -> Tensor:
    """Gradient dLoss/dA of the summed cross-entropy with respect to features (N, F), shape (N, F).

    Summed, not averaged: contributions must not depend on the batch size. Only the head is differentiated.
    """
    with torch.enable_grad():
        a = features.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(losses.cross_entropy(head(a), y).sum(), a)
    return gradient


def sample_scores(head: Callable[[Tensor], Tensor], features: Tensor, y: Tensor) -> Tensor:
    """`|dLoss/dA * A|` of each sample, from features (N, F) and labels (N,), shape (N, F): Eq. 7 before its mean."""
    return (feature_gradient(head, features, y) * features.detach()).abs()


def loss_gradient(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """Eq. 5: the contribution C, mean over samples of `|dLoss/dA|`, shape (F,); arguments as for `scores`."""
    model, features = _seen(model, x)
    return feature_gradient(model.head, features, y).abs().mean(0)


def scores(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """Eq. 7: the contribution scores R, mean over samples of `|dLoss/dA * A|`, shape (F,).

    Parameters
    ----------
    model : Classifier
        Seen in evaluation mode.
    x, y : (N, C, H, W) and (N,)
        Images in [0, 1] and labels.
    """
    model, features = _seen(model, x)
    return sample_scores(model.head, features, y).mean(0)


def _seen(model: Classifier, x: Tensor) -> tuple[Classifier, Tensor]:
    """The model in evaluation mode, and its features (N, F)."""
    require_classifier(model)
    model = engine.private(model)
    with torch.no_grad():
        return model, model.features(x)


def guided_dropout_mask(scores: Tensor, rule: Literal["median", "half"] = "median") -> Tensor:
    """Eq. 8: True for the features that are kept, those that contribute most; same shape as `scores`.

    Parameters
    ----------
    scores : (F,) or (..., F)
        Contribution scores; each row along the last dimension gets a mask of its own.
    rule : "median" or "half"
        "median" keeps `scores >= median`, the median being the mean of the two middle values. Ties keep more than
        half, and with more than half of the features dead the median is 0 and everything is kept. "half" keeps exactly
        the upper F // 2 + F % 2, ties by position.

    Raises
    ------
    InputError
        If the rule is unknown.

    Examples
    --------
    >>> guided_dropout_mask(torch.tensor([0.1, 0.4, 0.2, 0.3]))
    tensor([False,  True, False,  True])
    >>> guided_dropout_mask(torch.tensor([0.0, 0.0, 0.0, 0.3]))
    tensor([True, True, True, True])
    >>> guided_dropout_mask(torch.tensor([0.0, 0.0, 0.0, 0.3]), "half")
    tensor([ True, False, False,  True])
    """
    _checks.known("Guided Dropout rule", rule, RULES)
    dropped = scores.shape[-1] // 2
    ranked = scores.sort(dim=-1, descending=True, stable=True)
    if rule == "half":
        kept = torch.ones_like(scores, dtype=torch.bool)
        return kept.scatter(-1, ranked.indices[..., scores.shape[-1] - dropped :], False)
    middle = ranked.values[..., (scores.shape[-1] - 1) // 2 : scores.shape[-1] // 2 + 1]
    return scores >= middle.mean(-1, keepdim=True)


def activation_map(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    layer: nn.Module | None = None,
    kind: Literal["paper", "grad-cam"] = "paper",
) -> Tensor:
    """Where in the image the evidence lies, at the resolution of a layer, shape (N, h, w), all values >= 0.

    Parameters
    ----------
    model : nn.Module
        Seen in evaluation mode.
    x, y : (N, C, H, W) and (N,)
        Images in [0, 1]; labels, the class c of Eq. 6.
    layer : nn.Module, optional
        Layer of `model` with activations A (N, D, h, w); by default its last convolution.
    kind : "paper" or "grad-cam"
        "paper" is Eq. 6 as printed, `ReLU(dLoss_c/dA * A)` element by element, summed over the D channels. "grad-cam"
        is Selvaraju et al. (2017): `ReLU(sum_d w_d A_d)`, w the gradient of the class score averaged over h and w. The
        signs oppose: Eq. 6 shows what raises the loss, Grad-CAM what raises the score.

    Raises
    ------
    InputError
        If there is no convolution, or the layer's output is not (N, D, h, w).
    """
    _checks.known("activation map", kind, ("paper", "grad-cam"))
    layer = layer if layer is not None else _last_convolution(model)
    name = next((name for name, module in model.named_modules() if module is layer), None)
    if name is None:
        raise InputError(f"the layer {type(layer).__name__} is no part of the model")
    model = engine.private(model)
    with torch.enable_grad():
        a, logits = _activations(model, x, model.get_submodule(name))
        target = losses.cross_entropy(logits, y) if kind == "paper" else logits.gather(1, y[:, None])
        (gradient,) = torch.autograd.grad(target.sum(), a)  # (N, D, h, w)
    if kind == "paper":
        return (gradient * a).relu().sum(1).detach()
    return (gradient.mean((2, 3), keepdim=True) * a).sum(1).relu().detach()


def _activations(model: nn.Module, x: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor]:
    """The output of `layer` (N, D, h, w), with a graph from it to the logits (N, K), which come second; of a copy."""
    seen: list[Tensor] = []

    def tap(_: nn.Module, __: object, output: Tensor) -> Tensor:
        seen.append(output if output.requires_grad else output.requires_grad_())
        return seen[-1].clone()  # a ReLU in place further on must not overwrite what was seen

    layer.register_forward_hook(tap)
    logits = model(x)
    if not seen or seen[-1].ndim != 4:
        shape = tuple(seen[-1].shape) if seen else "none, it was not called"
        raise InputError(f"an activation map needs a layer with output (N, D, h, w), got {shape}")
    return seen[-1], logits


def _last_convolution(model: nn.Module) -> nn.Module:
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not layers:
        raise InputError(f"{type(model).__name__} has no convolution; name a layer with output (N, D, h, w)")
    return layers[-1]
