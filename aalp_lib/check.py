"""Graders for the book's exercises: each takes the reader's answer and prints whether it is right, or what is wrong.

A grader tries the answer on small inputs with known results, first against the right formula, then against the wrong
ones that people write. It returns nothing and lets no exception out: the answer's own errors become a sentence.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jvp

from aalp_lib import contributions, losses, taylor
from aalp_lib.models import Classifier

Answer = Callable[..., Any]
Foreseen = tuple[Tensor, str]  # what a known mistake gives on the same input, and what to say of it
EPS = 0.1


# --- chapter 1 -------------------------------------------------------------------------------------------------------


def projection(answer: Answer) -> None:
    """Grade `answer(x_adv, x, eps)`: the nearest image inside the ball around x and inside [0, 1]."""
    x, x_adv = _rand(4, 1, 3, 3), 3 * _rand(4, 1, 3, 3, seed=1) - 1
    ball, box = x_adv.clamp(x - EPS, x + EPS), x_adv.clamp(0, 1)
    length = (x_adv - x).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    _grade(
        lambda: answer(x_adv.clone(), x.clone(), EPS),
        ball.clamp(0, 1),
        (ball, "inside the ball, but not inside [0, 1]: such pixels are no image"),
        (box, "inside [0, 1], but not inside the ball: clamp to [x - eps, x + eps] as well"),
        (
            box.clamp(-EPS, EPS),
            "you clamped the image to [-eps, eps]; it is the perturbation x_adv - x that is bounded",
        ),
        ((x + EPS * (x_adv - x) / length).clamp(0, 1), "that is the L2 ball: here every pixel is bounded by itself"),
        ((x + EPS * (x_adv - x).sign()).clamp(0, 1), "you moved every pixel to the surface; those inside may stay"),
    )


def fgsm(answer: Answer) -> None:
    """Grade `answer(model, x, y, eps)`: one step of length eps along the sign of the gradient, cut to [0, 1]."""
    model, x, y = _classifier(), _rand(6, 1, 4, 4), torch.arange(6) % 5
    gradient = _input_gradient(model, x, y)
    free = x + EPS * gradient.sign()
    length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    _grade(
        lambda: answer(model, x.clone(), y, EPS),
        free.clamp(0, 1),
        (free, "the pixels leave [0, 1]: clamp at the end"),
        ((x - EPS * gradient.sign()).clamp(0, 1), "the loss goes down: an attacker adds the gradient's sign"),
        (
            (x + EPS * gradient).clamp(0, 1),
            "you stepped along the gradient; take its sign, so that every pixel uses eps",
        ),
        ((x + EPS * gradient / len(y)).clamp(0, 1), "you stepped along the gradient of the mean; take its sign"),
        ((x + EPS * gradient / length).clamp(0, 1), "that is the best step in an L2 ball; the L∞ ball wants the sign"),
    )


def margin(answer: Answer) -> None:
    """Grade `answer(z, y)`: the largest wrong logit minus the true one, shape (N,)."""
    z, y = torch.cat((_randn(6, 5), _randn(6, 5, seed=1) - 8)), torch.arange(12) % 5
    right, true = losses.margin(z, y), z.gather(1, y[:, None])[:, 0]
    one_hot = F.one_hot(y, 5).to(z)
    _grade(
        lambda: answer(z.clone(), y),
        right,
        (-right, "the sign is turned round: the margin is positive where the image is misclassified"),
        (right.clamp(min=0), "never negative: it is clamped at 0, or its maximum runs over the true class as well"),
        (right.clamp(max=0), "you clamped at 0; the attack should go on behind the boundary"),
        (
            ((1 - one_hot) * z).amax(1) - true,
            "multiplying the true class by 0 leaves a 0, which is the maximum when all other logits are negative",
        ),
        (right.mean(), "one value a sample, please: do not average over the batch"),
    )


def steps_to_cross(answer: Any) -> None:
    """Grade the number of steps of 0.01 that reach any point of a ball of radius 0.3 from any start in it: 60."""
    _grade_number(
        answer,
        60,
        {
            30: "that is enough from the centre; a random start may lie on the opposite side",
            10: "ten steps of 0.01 move a pixel by at most 0.1",
            61: "60 steps of 0.01 are 0.6, exactly the diameter",
            40: "40 steps of 0.01 move a pixel by 0.4; from one side to the other it is 0.6",
        },
    )


# --- chapter 2 -------------------------------------------------------------------------------------------------------


def trades(answer: Answer) -> None:
    """Grade `answer(z_clean, z_adv, y, beta)`: clean cross-entropy + beta * KL(clean || adversarial), a scalar."""
    z_clean, z_adv, y, beta = _randn(7, 10), _randn(7, 10, seed=1), torch.arange(7), 6.0
    clean, attacked = losses.cross_entropy(z_clean, y), losses.cross_entropy(z_adv, y)
    kl, reverse = losses.trades_kl(z_clean, z_adv), losses.trades_kl(z_adv, z_clean)
    _grade(
        lambda: answer(z_clean.clone(), z_adv.clone(), y, beta),
        clean.mean() + beta * kl.mean(),
        (clean.mean() + beta * reverse.mean(), "the clean distribution stands first in the KL; you have it second"),
        (clean.mean() + kl.mean(), "beta is missing"),
        (
            attacked.mean() + beta * kl.mean(),
            "the cross-entropy is that of the clean image; the KL looks after the other",
        ),
        (clean.mean() + beta * kl.mean() / 10, "you averaged the KL over classes as well: sum over them"),
        (clean.mean() + beta * reverse.mean() / 10, "the KL is turned round, and averaged over classes as well"),
        (clean.mean() + beta * kl.sum(), "you summed the KL over the batch: take the mean"),
        (clean.sum() + beta * kl.sum(), "you summed over the batch: take the mean"),
        (clean + beta * kl, "one value a sample; a training loss is their mean"),
        (clean.mean() - beta * kl.mean(), "the KL is subtracted: it is a price, add it"),
    )


def plateau(answer: Any) -> None:
    """Grade the cross-entropy of a constant answer over 100 classes: log 100."""
    _grade_number(
        answer,
        math.log(100),
        {
            math.log(10): "that is log 10, for ten classes; here there are 100",
            math.log2(100): "that is in bits; a cross-entropy in PyTorch is in nats, the natural logarithm",
            2.0: "that is the decimal logarithm; a cross-entropy is in nats, the natural one",
            0.01: "that is the probability; the loss is minus its logarithm",
            -math.log(100): "the sign: a loss is minus a log-probability",
        },
    )


# --- chapter 3 -------------------------------------------------------------------------------------------------------


def pairing_loss(answer: Answer) -> None:
    """Grade `answer(z_clean, z_adv)`: Eq. 1 for each sample, shape (N,)."""
    z_clean, z_adv = _randn(7, 10), _randn(7, 10, seed=1)
    square = (z_clean - z_adv).square()
    right, probabilities = square.sum(1), (z_clean.softmax(1) - z_adv.softmax(1)).square().sum(1)
    _grade(
        lambda: answer(z_clean.clone(), z_adv.clone()),
        right,
        (square.mean(1), "you averaged over classes: with 10 of them that is 10 times too small; sum them"),
        (square.mean(), "you averaged over samples and classes: one value a sample, summed over classes"),
        (right.mean(), "you averaged over the batch already; that comes later: one value a sample"),
        (square.sum(), "you summed over the batch as well: one value a sample"),
        (right.sqrt(), "that is the distance; Eq. 1 squares it"),
        ((z_clean - z_adv).abs().sum(1), "that is the L1 distance; Eq. 1 takes squares"),
        (probabilities, "you compared probabilities; Eq. 1 compares logits"),
    )


def first_order(answer: Answer) -> None:
    """Grade `answer(model, x, delta)`: the last line of Eq. 2, `|J delta|^2` for each sample, shape (N,)."""
    model, x, delta = _classifier(), _rand(6, 1, 4, 4), _randn(6, 1, 4, 4, seed=2)
    change = jvp(model, (x,), (delta,))[1].detach()
    right = change.square().sum(1)
    _grade(
        lambda: answer(model, x.clone(), delta.clone()),
        right,
        (
            losses.alp(model(x), model(x + delta)).detach(),
            "that is the exact loss; Eq. 2 asks for its linear part, J delta",
        ),
        (right.sqrt(), "that is |J delta|; Eq. 2 squares it"),
        (change, "that is J delta, a change for each class; Eq. 2 asks for its squared length"),
        (right.mean(), "one value a sample, please: do not average over the batch"),
        (right.sum(), "one value a sample, please: do not sum over the batch"),
        (change.square().mean(1), "you averaged over classes: sum the squares"),
        (change.sum(1).square(), "you summed over classes before squaring: square each class, then sum"),
    )


def gradient_form(answer: Answer) -> None:
    """Grade `answer(model, x, y, step)`: Eq. 4, `step^2 |J J^T g|^2` for each sample, shape (N,)."""
    model, x, y, step = _classifier(), _rand(6, 1, 4, 4), torch.arange(6) % 5, 0.3
    gradient = _input_gradient(model, x, y)
    right = taylor.pairing_gradient_form(model, x, y, step).detach()
    sign = taylor.pairing_first_order(model, x, step * gradient.sign()).detach()
    _grade(
        lambda: answer(model, x.clone(), y, step),
        right,
        (right / step, "step enters once; the loss is a square, so it enters as step ** 2"),
        (right / step**2, "the step is missing: multiply by step ** 2"),
        (right / len(y) ** 2, "you took the gradient of the batch's mean loss; each sample has its own loss: sum them"),
        (sign, "you stepped along the gradient's sign; Eq. 3 steps along the gradient itself"),
        (
            step**2 * gradient.flatten(1).square().sum(1),
            "that is the gradient's squared length |J^T g|^2; J is still to come",
        ),
        (right.sqrt(), "that is the length; Eq. 4 is its square"),
        (right.mean(), "one value a sample, please: do not average over the batch"),
    )


# --- chapter 4 -------------------------------------------------------------------------------------------------------


def feature_contributions(answer: Answer) -> None:
    """Grade `answer(head, a, y)`: Eq. 5, the mean over samples of `|dLoss/dA|`, shape (F,)."""
    head, a, y = _head(), _randn(6, 8).relu(), torch.arange(6) % 5
    gradient = contributions.feature_gradient(head, a, y)
    right = gradient.abs().mean(0)
    _grade(
        lambda: answer(head, a.clone(), y),
        right,
        (gradient.mean(0).abs(), "you averaged before taking absolute values: samples cancel each other"),
        (gradient.mean(0), "take absolute values before the mean"),
        (
            right / len(y),
            "you took the gradient of the mean loss, so contributions shrink as the batch grows: sum the loss",
        ),
        (gradient.abs().sum(0), "you summed over samples; Eq. 5 takes the mean"),
        (gradient.abs(), "one value a feature: take the mean over samples"),
        (gradient.abs().mean(1), "you averaged over features; Eq. 5 averages over samples"),
        ((gradient * a).abs().mean(0), "that is Eq. 7, which multiplies by the activation; Eq. 5 does not"),
    )


def printed_map(answer: Answer) -> None:
    """Grade `answer(gradient, a)`: Eq. 6 from (N, D, h, w) each, ReLU(gradient * a) summed over channels, (N, h, w)."""
    gradient, a = _randn(3, 4, 5, 5), _randn(3, 4, 5, 5, seed=1).relu()
    product = gradient * a
    pooled = gradient.mean((2, 3), keepdim=True) * a
    _grade(
        lambda: answer(gradient.clone(), a.clone()),
        product.relu().sum(1),
        (product.sum(1).relu(), "you summed over channels before the ReLU: they cancel; Eq. 6 is element by element"),
        (product.sum(1), "the ReLU is missing"),
        (product.relu(), "one map an image: sum over the channels"),
        (pooled.sum(1).relu(), "that is Grad-CAM, with the gradient averaged over the map; Eq. 6 multiplies in place"),
        (product.abs().sum(1), "that is the absolute value; the ReLU drops what is negative"),
        (product.relu().mean(1), "you averaged over channels; sum them"),
    )


def grad_cam(answer: Answer) -> None:
    """Grade `answer(gradient, a)`: Grad-CAM from score gradient and activations (N, D, h, w), shape (N, h, w)."""
    gradient, a = _randn(3, 4, 5, 5), _randn(3, 4, 5, 5, seed=1).relu()
    weights = gradient.mean((2, 3), keepdim=True)
    right = (weights * a).sum(1).relu()
    _grade(
        lambda: answer(gradient.clone(), a.clone()),
        right,
        ((weights * a).sum(1), "the ReLU is missing"),
        ((weights * a).relu().sum(1), "the ReLU stands before the sum: channels against c are to be subtracted"),
        ((gradient * a).sum(1).relu(), "the gradient is not averaged over h and w: Grad-CAM has one weight a channel"),
        ((gradient * a).relu().sum(1), "that is Eq. 6 as printed; Grad-CAM averages the gradient over h and w first"),
        ((weights * a).relu(), "one map an image: sum over the channels"),
        ((-weights * a).sum(1).relu(), "the sign is turned round: Grad-CAM follows the class score up, not the loss"),
        ((gradient.mean(1, keepdim=True) * a).sum(1).relu(), "you averaged over channels: average over h and w"),
        (25 * right, "you summed the gradient over h and w; take the mean"),
        ((weights * a).mean(1).relu(), "you averaged over channels; sum them"),
    )  # fmt: skip


# --- chapter 5 -------------------------------------------------------------------------------------------------------


def inconsistent(answer: Answer) -> None:
    """Grade `answer(z, z_adv, y)`: True for images that are right clean and wrong attacked, bool of shape (N,)."""
    y = torch.arange(40) % 5
    z, z_adv = (_randn(40, 5, seed=seed) + F.one_hot(y, 5) for seed in (0, 1))
    right, right_adv = z.argmax(1) == y, z_adv.argmax(1) == y
    _grade(
        lambda: answer(z.clone(), z_adv.clone(), y),
        (right & ~right_adv).float(),
        ((~right_adv).float(), "all that are wrong attacked: leave out those that are wrong clean already"),
        ((z.argmax(1) != z_adv.argmax(1)).float(), "the answer changed, but was it right before?"),
        ((right & right_adv).float(), "that is the consistent set"),
        ((~right & right_adv).float(), "the two are swapped: right clean, wrong attacked"),
        ((~(right & right_adv)).float(), "that is all but the consistent set; there are three kinds, not two"),
        (right.float(), "all that are right clean: which of them does the attack turn?"),
    )  # fmt: skip


def smallest_wrong_loss(answer: Any) -> None:
    """Grade the smallest cross-entropy in nats that a misclassified image can have: log 2."""
    _grade_number(
        answer,
        math.log(2),
        {
            math.log(10): "that is the largest loss of a *right* answer among ten classes",
            0.5: "that is the probability of the true class; the loss is minus its logarithm",
            1.0: "that is in bits; PyTorch's cross-entropy is in nats",
            -math.log(2): "the sign: a loss is minus a log-probability",
            0.0: "a loss of 0 needs a confidence of 1, and then the answer is right",
        },
    )


def alp_share(answer: Answer) -> None:
    """Grade `answer(classification, pairing, weight)`: pairing's part in the mean total loss, from (N,), a scalar."""
    classification, pairing, weight = _rand(9), 3 * _rand(9, seed=1), 0.5
    c, p = classification.mean(), pairing.mean()
    each = weight * pairing / (classification + weight * pairing)
    _grade(
        lambda: answer(classification.clone(), pairing.clone(), weight),
        weight * p / (c + weight * p),
        (p / (c + p), "the weight is missing: the total is classification + weight * pairing"),
        (p / (c + weight * p), "the weight is missing in the numerator"),
        (weight * p / (c + p), "the weight is missing in the denominator"),
        (each.mean(), "you averaged the shares of single images; take the share of the mean loss, which training sees"),
        (each, "one share an image; take means first, then the share"),
        (weight * p / c, "that is pairing against classification; its share is of their sum"),
        (c / (c + weight * p), "that is the classification loss's share"),
    )


# --- how it is done --------------------------------------------------------------------------------------------------


def _grade(ask: Callable[[], Any], right: Tensor, *foreseen: Foreseen) -> None:
    """Print a verdict on what `ask` gives: right, one of the foreseen mistakes, or how far off."""
    try:
        found = ask()
    except NotImplementedError:
        return print("… not written yet: replace the line that raises")
    except Exception as error:  # whatever the reader's code raises
        return print(f"✗ your function stopped with {type(error).__name__}: {error}")
    if found is None or found is ...:
        return print("… nothing came back: is there a return?")
    if not isinstance(found, Tensor):
        return print(f"✗ a tensor is asked for, got {type(found).__name__}")
    found = found.detach().to(right.dtype)
    if _same(found, right):
        return print("✓ right")
    for value, why in foreseen:
        if _same(found, value.detach()):
            return print(f"✗ {why}")
    return print(f"✗ {_how_far(found, right)}")


def _grade_number(found: Any, right: float, foreseen: dict[float, str]) -> None:
    if found is None or found is ...:
        return print("… no answer yet: replace the dots")
    if isinstance(found, Tensor) and found.numel() == 1:
        found = found.item()
    if isinstance(found, bool) or not isinstance(found, int | float):
        return print(f"✗ a number is asked for, got {type(found).__name__}")
    if abs(found - right) < 1e-3 * abs(right):
        return print("✓ right")
    near = [why for value, why in foreseen.items() if abs(found - value) <= 1e-3 * abs(value)]
    return print(f"✗ {near[0] if near else f'{found:g} is too ' + ('small' if found < right else 'large')}")


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-6)


def _how_far(found: Tensor, right: Tensor) -> str:
    if found.shape != right.shape:
        return f"the shape is {tuple(found.shape)}, asked for is {tuple(right.shape)}"
    if not bool(found.isfinite().all()):
        return "some values are not finite"
    ratio = (found / right)[right.abs() > 1e-6]
    if len(ratio) > 1 and torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-3):
        return f"right but for a factor: everything is {float(ratio[0]):.4g} times what it should be"
    wrong = ~torch.isclose(found, right, rtol=1e-3, atol=1e-6)
    place = tuple(wrong.nonzero()[0].tolist())
    return (
        f"{int(wrong.sum())} of {wrong.numel()} values differ; the first at {place}: "
        f"{float(found[place]):.4g}, and {float(right[place]):.4g} is right"
    )


def _rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _layer(fan_in: int, fan_out: int, seed: int) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
    with torch.no_grad():
        layer.weight.copy_(_randn(fan_out, fan_in, seed=seed) / 2)
        layer.bias.zero_()
    return layer


def _head() -> nn.Linear:
    return _layer(8, 5, seed=3)


def _classifier() -> Classifier:
    """A small network on images (N, 1, 4, 4), smooth and not linear, in evaluation mode."""
    return Classifier(nn.Sequential(nn.Flatten(), _layer(16, 8, seed=4), nn.Tanh()), _head()).eval()


def _input_gradient(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses.cross_entropy(model(x), y).sum(), x)
    return gradient


__all__: Sequence[str] = (
    "alp_share",
    "feature_contributions",
    "fgsm",
    "first_order",
    "grad_cam",
    "gradient_form",
    "inconsistent",
    "margin",
    "pairing_loss",
    "plateau",
    "printed_map",
    "projection",
    "smallest_wrong_loss",
    "steps_to_cross",
    "trades",
)
