"""Eq. 2 to 4: the pairing loss, its first-order form, and its form in gradients, as three functions to compare."""

import torch
from torch import Tensor
from torch.func import jvp, vjp

from aalp_lib import engine, losses
from aalp_lib.models import Classifier


def pairing_exact(model: Classifier, x: Tensor, delta: Tensor) -> Tensor:
    """Eq. 1 and the first line of Eq. 2: `|f(x + delta) - f(x)|^2`, f mapping images to logits, shape (N,).

    Parameters
    ----------
    model : Classifier
        Seen in evaluation mode.
    x, delta : (N, C, H, W)
        Images in [0, 1] and any perturbation of them.
    """
    model = engine.private(model)
    return losses.alp(model(x), model(x + delta))


def pairing_first_order(model: Classifier, x: Tensor, delta: Tensor) -> Tensor:
    """Eq. 2, last line: `|J delta|^2`, J the Jacobian of the logits at x, shape (N,). One forward-mode product.

    Arguments as for `pairing_exact`.
    """
    change = jvp(engine.private(model), (x,), (delta,))[1]  # (N, K)
    return change.square().sum(1)


def pairing_gradient_form(model: Classifier, x: Tensor, y: Tensor, step: float) -> Tensor:
    """Eq. 4: `step^2 |J J^T g|^2`, g = dLoss/dz, shape (N,); equals `pairing_first_order` at `step * dLoss/dx` (Eq. 3).

    Loss is each sample's cross-entropy. One reverse-mode and one forward-mode product; J is never built. The paper's
    transposes do not fit as printed; this is what they must mean.

    Parameters
    ----------
    model : Classifier
        Seen in evaluation mode.
    x, y : (N, C, H, W) and (N,)
        Images in [0, 1] and labels.
    step : float
        The paper's alpha of Eq. 3, in units of [0, 1] over the gradient's.
    """
    model = engine.private(model)
    z, pull_back = vjp(model, x)[:2]
    g = z.softmax(1) - torch.nn.functional.one_hot(y, z.shape[1])  # dLoss/dz, (N, K)
    (input_gradient,) = pull_back(g.to(z.dtype))  # J^T g, (N, C, H, W)
    change = jvp(model, (x,), (input_gradient,))[1]  # J J^T g, (N, K)
    return step**2 * change.square().sum(1)
