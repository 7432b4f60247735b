"""Losses, one value for each sample, shape (N,), computed in float32 or wider."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits (N, K) and labels (N,), shape (N,), in nats."""
    return F.cross_entropy(_wide(z), y, reduction="none")


def exact_cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """`cross_entropy` with a gradient that float32 does not spoil: `log(1 + sum_{j != y} exp(z_j - z_y))`, shape (N,).

    The true class's part of the gradient is the sum of the others' with a minus sign. As the difference p_y - 1 that
    `cross_entropy` has in its place, it is 0 in float32 once the true logit leads by about 17, in float64 by about 37.
    Here both fade together, and in float32 vanish beyond a lead of about 104.

    Examples
    --------
    >>> z, y = torch.tensor([[30.0, 0.0]], requires_grad=True), torch.tensor([0])
    >>> [torch.autograd.grad(loss(z, y).sum(), z)[0].tolist() for loss in (cross_entropy, exact_cross_entropy)]
    [[[0.0, 9.357...e-14]], [[-9.357...e-14, 9.357...e-14]]]
    """
    z, true = _wide(z), y[:, None]
    return F.softplus(z.scatter(1, true, float("-inf")).logsumexp(1) - z.gather(1, true)[:, 0])


def alp(z_clean: Tensor, z_adv: Tensor) -> Tensor:
    """Eq. 1, the logit-pairing loss: squared L2 distance of logits (N, K), summed over classes, shape (N,).

    Examples
    --------
    >>> alp(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]]))
    tensor([9.])
    """
    return (_wide(z_clean) - _wide(z_adv)).square().sum(1)


def confidence(z: Tensor, y: Tensor) -> Tensor:
    """Softmax probability of the true class, from logits (N, K) and labels (N,), shape (N,), in [0, 1]."""
    return (-cross_entropy(z, y)).exp()


def adaptive_alp(z_clean: Tensor, z_adv: Tensor, y: Tensor, *, detach: bool = True) -> Tensor:
    """Eq. 9: the logit-pairing loss weighted by the clean confidence in the true class, shape (N,).

    Parameters
    ----------
    z_clean, z_adv : logits (N, K)
    y : labels (N,)
    detach : bool
        Let no gradient flow through the weight. Otherwise the loss can be lowered by being less sure.
    """
    weight = confidence(z_clean, y)
    return (weight.detach() if detach else weight) * alp(z_clean, z_adv)


def margin(z: Tensor, y: Tensor) -> Tensor:
    """Largest wrong logit minus the true one, `max_{j != y} z_j - z_y`, unclamped, from (N, K) and (N,), shape (N,).

    Positive when misclassified (Carlini and Wagner 2017, their f6 without the clamp).

    Examples
    --------
    >>> margin(torch.tensor([[-5.0, -2.0, -9.0]]), torch.tensor([0]))
    tensor([3.])
    """
    z, true = _wide(z), y[:, None]
    return z.scatter(1, true, float("-inf")).amax(1) - z.gather(1, true)[:, 0]


def trades_kl(z_clean: Tensor, z_adv: Tensor) -> Tensor:
    """KL(p_clean || p_adv) of the softmax of logits (N, K), in nats, shape (N,) (Zhang et al. 2019)."""
    log_clean, log_adv = F.log_softmax(_wide(z_clean), 1), F.log_softmax(_wide(z_adv), 1)
    return F.kl_div(log_adv, log_clean, reduction="none", log_target=True).sum(1)


def _wide(z: Tensor) -> Tensor:
    return z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
