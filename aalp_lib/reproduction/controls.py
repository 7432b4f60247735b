"""Controls of AALP's two halves: what is to make them work is taken out, and the rest stays.

If a control does as well, the guidance of the mask, or the weight of each sample, is not what helps. Each is a pairing
term or a mask rule of one's own, see `methods.Method` and `methods.GuidedDropout`; records keep its name.
"""

from torch import Tensor

from aalp_lib import losses
from aalp_lib.contributions import guided_dropout_mask
from aalp_lib.engine import distributed


def mean_weight_alp(z_clean: Tensor, z_adv: Tensor, y: Tensor) -> Tensor:
    """Eq. 1 times the mean of Eq. 9's weights, shape (N,): their sum is the same, but no sample counts less.

    The mean is over the whole batch, all ranks' samples, and a constant to the gradient.
    """
    own = losses.confidence(z_clean.detach(), y).mean(0, keepdim=True)  # (1,)
    return distributed.mean(own, len(y)) * losses.alp(z_clean, z_adv)


def low(scores: Tensor, noise: Tensor) -> Tensor:
    """Keep the half that contributes least, from scores (G, F), bool (G, F)."""
    return guided_dropout_mask(-scores, "half")


def random(scores: Tensor, noise: Tensor) -> Tensor:
    """Keep any half, from noise (G, F), bool (G, F)."""
    return guided_dropout_mask(noise, "half")


def shuffled(scores: Tensor, noise: Tensor) -> Tensor:
    """Keep any, but as many as the median rule would, from scores and noise (G, F), bool (G, F)."""
    return guided_dropout_mask(scores).gather(-1, noise.argsort(-1))
