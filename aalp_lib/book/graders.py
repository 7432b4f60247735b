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


# --- chapter 6 -------------------------------------------------------------------------------------------------------


def contribution_scores(answer: Answer) -> None:
    """Grade `answer(head, a, y)`: Eq. 7, the mean over samples of `|dLoss/dA * A|`, shape (F,)."""
    head, a, y = _head(), _randn(6, 8).relu(), torch.arange(6) % 5
    gradient = contributions.feature_gradient(head, a, y)
    product = gradient * a
    right = product.abs().mean(0)
    _grade(
        lambda: answer(head, a.clone(), y),
        right,
        (product.mean(0).abs(), "you averaged before taking absolute values: samples cancel each other"),
        (product.mean(0), "take absolute values before the mean"),
        (
            right / len(y),
            "you took the gradient of the mean loss, so scores shrink as the batch grows: sum the loss",
        ),
        (product.abs().sum(0), "you summed over samples; Eq. 7 takes the mean"),
        (product.abs(), "one value a feature: take the mean over samples"),
        (product.abs().mean(1), "you averaged over features; Eq. 7 averages over samples"),
        (gradient.abs().mean(0), "that is Eq. 5; Eq. 7 multiplies by the activation"),
        (
            gradient.abs().mean(0) * a.mean(0),
            "you averaged gradient and activation apart; multiply sample by sample, then average",
        ),
        (a.mean(0), "that is the mean activation; the gradient is missing"),
    )


def exact_half(answer: Answer) -> None:
    """Grade `answer(scores)`: a mask (F,), F even, of exactly the upper half; among equals any may be kept."""
    scores = torch.cat((_rand(5) + 0.1, torch.zeros(7)))[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    right = contributions.guided_dropout_mask(scores, "half").float()

    def ask() -> Any:
        found = answer(scores.clone())
        return right if _keeps_upper(found, scores, 6) else found

    _grade(
        ask,
        right,
        (torch.ones(12), "everything is kept: most features are dead, so the median is 0 and all are at least that"),
        (
            (scores > 0).float(),
            "fewer than half are kept: with most features dead, not half of them lie above the median",
        ),
        (contributions.guided_dropout_mask(-scores, "half").float(), "that is the lower half"),
        (1 - right, "that is the lower half"),
        (
            scores.topk(6).indices.float(),
            "these are the places of the kept features; a mask has an entry for every feature",
        ),
        (scores.topk(6).values, "these are the kept scores; a mask has an entry for every feature"),
        (scores * right, "these are the scores themselves; a mask is 1 where a feature is kept and 0 elsewhere"),
    )


def branch_masks(answer: Answer) -> None:
    """Grade `answer(scores)`: from scores (2N, F), N clean samples first, the mask of Eq. 8 of each branch, (2N, F)."""
    scores = _rand(8, 10)
    masks = [contributions.guided_dropout_mask(part.mean(0)).float() for part in scores.chunk(2)]
    alternate = [contributions.guided_dropout_mask(scores[k::2].mean(0)).float() for k in (0, 1)]
    right = torch.stack(masks).repeat_interleave(4, 0)
    whole = contributions.guided_dropout_mask(scores.mean(0)).float()
    _grade(
        lambda: answer(scores.clone()),
        right,
        (whole.expand(8, 10), "that is one mask for all: each branch has a median of its own"),
        (whole, "that is one mask for all, once: each branch has its own, and each sample a row"),
        (contributions.guided_dropout_mask(scores).float(), "that is one mask a sample; average over the branch first"),
        (torch.stack(masks), "two masks, right; now a row for every sample: repeat each one N times"),
        (torch.stack(masks).repeat(4, 1), "the rows alternate between the branches: all clean samples come first"),
        (torch.stack(alternate).repeat(4, 1), "you took every second sample for clean: all clean samples come first"),
        (right.flip(0), "the branches are exchanged: the clean samples come first"),
        (1 - right, "that is the lower half"),
    )


# --- chapter 7 -------------------------------------------------------------------------------------------------------


def adaptive_pairing(answer: Answer) -> None:
    """Grade `answer(z_clean, z_adv, y)`: Eq. 9 for each sample, shape (N,), with no gradient through the weight."""
    z_clean, z_adv, y = _randn(7, 10).requires_grad_(), _randn(7, 10, seed=1), torch.arange(7)
    pairing, weight = losses.alp(z_clean, z_adv), losses.confidence(z_clean, y)
    right = (weight * pairing).detach()
    theirs = losses.confidence(z_adv, y)

    def gradient(found: Tensor) -> Tensor | None:
        if not found.requires_grad:
            return None
        return torch.autograd.grad(found.sum(), z_clean, retain_graph=True, allow_unused=True)[0]

    def flows(found: Tensor) -> str | None:
        wanted, other = (gradient(losses.adaptive_alp(z_clean, z_adv, y, detach=detach)) for detach in (True, False))
        mine = gradient(found)
        assert wanted is not None
        assert other is not None
        if mine is None or not bool(mine.any()):
            return "the values are right, but no gradient is left: detach the weight, not the logits"
        if _same(mine, other):
            return "the values are right, but a gradient flows through the weight: detach it"
        return None if _same(mine, wanted) else "the values are right, the gradient is not: detach the weight alone"

    _grade(
        lambda: answer(z_clean, z_adv.clone(), y),
        right,
        (pairing, "that is Eq. 1: the weight is missing"),
        (theirs * pairing, "that is the confidence on the adversarial image; Eq. 9 takes the clean one"),
        (z_clean.softmax(1).amax(1) * pairing, "that is the largest probability; Eq. 9 takes the true class's"),
        ((1 - weight) * pairing, "the weight is turned round: the sure ones pay in full"),
        (weight.log() * pairing, "that is a log-probability; take the probability itself"),
        (-weight.log() * pairing, "you weighted by the cross-entropy; Eq. 9 takes the probability"),
        (right / 10, "you averaged over classes: sum the squares"),
        (right.mean(), "one value a sample: the mean over the batch comes later"),
        (weight.mean() * pairing, "you averaged the weights: each sample has its own"),
        (weight, "that is the weight alone; multiply the pairing loss by it"),
        also=flows,
    )


def total_loss(answer: Answer) -> None:
    """Grade `answer(z_clean, z_adv, y, lam)`: Eq. 10, a scalar."""
    z_clean, z_adv, y, lam = _randn(7, 10), _randn(7, 10, seed=1), torch.arange(7), 0.7
    clean, attacked = losses.cross_entropy(z_clean, y), losses.cross_entropy(z_adv, y)
    pairing, weighted = losses.alp(z_clean, z_adv).mean(), losses.adaptive_alp(z_clean, z_adv, y).mean()
    joint = (clean.mean() + attacked.mean()) / 2
    _grade(
        lambda: answer(z_clean.clone(), z_adv.clone(), y, lam),
        joint + lam * weighted,
        (clean.mean() + attacked.mean() + lam * weighted, "you summed the two cross-entropies: take their mean"),
        (clean.mean() + lam * weighted, "the cross-entropy of the clean images alone: both kinds count"),
        (attacked.mean() + lam * weighted, "the cross-entropy of the adversarial images alone: both kinds count"),
        (joint + weighted, "lam is missing"),
        (joint + lam * pairing, "that is ALP's total: the pairing loss is not weighted yet"),
        (joint + lam * weighted * 7, "you summed the pairing loss over the batch: take the mean"),
        (joint + lam * weighted / 10, "you averaged the pairing loss over classes: sum the squares"),
        ((clean + attacked) / 2 + lam * losses.adaptive_alp(z_clean, z_adv, y), "one value a sample: take the mean"),
        (joint - lam * weighted, "the pairing loss is subtracted: it is a price, add it"),
        (joint, "the pairing loss is missing"),
    )


def turning_point(answer: Any) -> None:
    """Grade the weighted pairing loss above which an attached weight lowers the confidence, at lambda 1/4: 2."""
    _grade_number(
        answer,
        2.0,
        {
            0.5: "that is the place for lambda = 1; here the pairing loss counts a quarter as much",
            0.125: "you multiplied by lambda; the pairing loss counts less, so that the place moves up",
            4.0: "the clean image's cross-entropy enters the joint mean with a half",
            1.0: "look at both factors: a half from the joint mean, a quarter from lambda",
            0.25: "that is lambda itself",
            -2.0: "the sign: both a probability and a squared distance are positive",
        },
    )


# --- how it is done --------------------------------------------------------------------------------------------------


def _grade(
    ask: Callable[[], Any], right: Tensor, *foreseen: Foreseen, also: Callable[[Tensor], str | None] = lambda _: None
) -> None:
    """Print a verdict on what `ask` gives: right, one of the foreseen mistakes, or how far off.

    `also` looks at an answer whose values are right, and says what is wrong with it all the same.
    """
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
    given, found = found, found.detach().to(right.dtype)
    if _same(found, right):
        why = also(given)
        return print(f"✗ {why}" if why else "✓ right")
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


def _keeps_upper(found: Any, scores: Tensor, count: int) -> bool:
    """Whether `found` is a mask of `count` features of which none scores less than one that is dropped."""
    if not isinstance(found, Tensor) or found.shape != scores.shape or not bool(((found == 0) | (found == 1)).all()):
        return False
    kept = found.bool()
    return int(kept.sum()) == count and bool(scores[kept].min() >= scores[~kept].max())


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
    "adaptive_pairing",
    "alp_share",
    "branch_masks",
    "contribution_scores",
    "exact_half",
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
    "total_loss",
    "trades",
    "turning_point",
)


# --- chapter 8 -------------------------------------------------------------------------------------------------------


def wilson(answer: Answer) -> None:
    """Grade `answer(correct, count)`: the ends (low, high) of the 95 % Wilson interval, as fractions."""
    cases = ((0, 50), (30, 50), (49, 50), (9164, 10_000))
    count = torch.tensor([n for _, n in cases], dtype=torch.float64)
    share = torch.tensor([k for k, _ in cases], dtype=torch.float64) / count
    right = _interval(share, count)
    plain = _ends(share, 1.959964 * (share * (1 - share) / count).sqrt())
    centre, half, shrink = _wilson_parts(share, count)
    _grade(
        lambda: _values(answer, cases),
        right,
        (right.flip(1), "the lower end comes first"),
        (100 * right, "fractions are asked for, not percent"),
        (plain, "that is p ± z √(p(1-p)/n), which has no width at 0 or 1 and goes beyond them nearby"),
        (plain.clamp(0, 1), "that is p ± z √(p(1-p)/n), cut to [0, 1]; where all are right it has no width"),
        (_ends(centre, half), "the division by 1 + z²/n is missing"),
        (_ends(share, half / shrink), "the centre is not p itself: it moves by z²/2n towards one half"),
        (
            _ends(centre / shrink, 1.959964 * (share * (1 - share) / count).sqrt() / shrink),
            "under the root z²/4n² is missing",
        ),
        (_interval(share, count, 1.644854), "z = 1.645 leaves out 5 % at each end; 95 % leave out 2.5 %: z = 1.96"),
        (_interval(share, count, 1.0), "z is 1.96 for 95 %; with 1 it is one standard error"),
        (_interval(share, count, 2.0), "z is 1.96 for 95 %; 2 is its round figure"),
        (right[:, 1] - right[:, 0], "that is the width; both ends are asked for"),
    )


def read_off(answer: Answer) -> None:
    """Grade `answer(wrong, ks)`: from bool (S+1, N), whether iterate i fools, which images are right at each k."""
    wrong, ks = _rand(13, 40) < 0.1, (3, 6, 12)
    fooled = torch.stack([wrong[: k + 1].any(0) for k in ks])
    right = (~fooled).float()
    _grade(
        lambda: answer(wrong.clone(), ks),
        right,
        (fooled.float(), "these are the images that are fooled; asked for are those that stay right"),
        (
            (~torch.stack([wrong[k] for k in ks])).float(),
            "you read iterate k alone: an image that was fooled before and came back counts as fooled",
        ),
        (
            (~torch.stack([wrong[:k].any(0) for k in ks])).float(),
            "iterate k itself is missing: the slice ends before it",
        ),
        (
            (~torch.stack([wrong[1 : k + 1].any(0) for k in ks])).float(),
            "iterate 0, the random start, may fool as well",
        ),
        (right.mean(1), "one value an image and k, please: do not average over the images"),
        (right.T, "rows are k, columns are images; yours is turned round"),
    )


def training_cost(answer: Any) -> None:
    """Grade the gradient evaluations of AALP: 54,000 images, 16 epochs, 5 attack steps, both samples trained on."""
    images = 54_000 * 16
    _grade_number(
        answer,
        images * 7,
        {
            images * 5: "those are the attack's; the training step takes two more an image, clean and adversarial",
            images * 6: "both the clean and the adversarial sample go through the training step",
            54_000 * 7: "that is one epoch",
            images * 10: "the two samples do not double the attack, which starts from one image: add, do not multiply",
            images * 14: "a forward and a backward pass count as one evaluation",
            images * 7 / 128: "that counts steps on batches; count images",
        },
    )


# --- chapter 9 -------------------------------------------------------------------------------------------------------


def worst_case(answer: Answer) -> None:
    """Grade `answer(right)`: from bool (A, N), which images each attack left right, the share that none fools."""
    right = _rand(4, 57) < torch.tensor([[0.9], [0.8], [0.75], [0.85]])
    shares = right.float().mean(1)
    _grade(
        lambda: _tensor(answer(right.clone())),
        right.all(0).float().mean(),
        (shares.min(), "that is the best single attack; attacks that fool different images are worse together"),
        (shares.mean(), "that is the mean over attacks: an attacker uses what works, image by image"),
        (right.any(0).float().mean(), "that counts images which some attack leaves right; all must"),
        (shares.prod(), "a product would be right if attacks were independent; count image by image"),
        (right.all(0).float().sum(), "that is a count; asked for is the share"),
        (right.all(0).float(), "these are the images; asked for is their share"),
        (1 - right.all(0).float().mean(), "that is the share that is fooled"),
    )


def mcnemar_p(answer: Answer) -> None:
    """Grade `answer(only_a, only_b)`: the two-sided p of McNemar's exact test."""
    cases = ((8, 2), (2, 8), (5, 5), (0, 6), (115, 124))

    def each(value: Callable[[int, int], float]) -> Tensor:
        return torch.tensor([value(a, b) for a, b in cases], dtype=torch.float64)

    def tail(upto: int, of: int) -> float:
        return sum(math.comb(of, i) for i in range(upto + 1)) / 2**of

    two_sided = each(lambda a, b: 2 * tail(min(a, b), a + b))
    _grade(
        lambda: _values(answer, cases),
        two_sided.clamp(max=1),
        (two_sided, "an even split gives more than 1: cut at 1, since its middle was counted twice"),
        (two_sided / 2, "that is one-sided; before looking, either model might have been ahead: double it"),
        (
            each(lambda a, b: min(1.0, 2 * tail(a, a + b))),
            "it must not matter which model is called a: take the smaller of the two counts",
        ),
        (each(lambda a, b: tail(a, a + b)), "one-sided, and from a alone: double the tail of the smaller count"),
        (
            each(lambda a, b: min(1.0, 2 * tail(min(a, b) - 1, a + b))),
            "the split that was found belongs to the tail: at least as uneven, not more",
        ),
        (each(lambda a, b: math.comb(a + b, a) / 2 ** (a + b)), "that is the chance of exactly this split"),
        (
            each(lambda a, b: math.erfc(abs(a - b) / math.sqrt(2 * (a + b)))),
            "that is the χ² approximation; the exact test sums binomial coefficients",
        ),
    )


def images_needed(answer: Any) -> None:
    """Grade how many images, all of them won by one model, McNemar's two-sided test needs for p below 0.05: 6."""
    _grade_number(
        answer,
        6,
        {
            5: "2 · 2⁻⁵ is 0.0625; one-sided it would do, but either model might have been ahead",
            4: "2 · 2⁻⁴ is 0.125",
            7: "enough, but one fewer is enough too",
            20: "0.05 is not one image in twenty: each further image halves the chance",
        },
    )


# --- chapter 10 ------------------------------------------------------------------------------------------------------


def normalised_radius(answer: Answer) -> None:
    """Grade `answer(eps, std)`: the radius of each channel after (x - mean) / std, shape (C,)."""
    eps, std = 8 / 255, torch.tensor([0.2, 0.25, 0.4])
    _grade(
        lambda: _flat(answer(eps, std.clone())),
        eps / std,
        (eps * std, "you multiplied: dividing an image by std divides its perturbation too"),
        (eps / std**2, "std enters once"),
        ((eps / std).mean()[None], "one radius a channel: what is a cube becomes a box"),
        ((eps / std.mean())[None], "one radius a channel: each is divided by its own std"),
        ((eps - 0.5) / std, "the mean moves the image and its ball alike; only std scales the radius"),
        (255 * eps / std, "eps is in units of [0, 1] already"),
    )


def joined_gradient(answer: Answer) -> None:
    """Grade `answer(gradients, counts)`: the gradient of the whole batch's mean loss from those of its shards."""
    counts, parts = [1, 2, 5], [_randn(4, 3, seed=k) for k in range(3)]
    weighted = torch.stack([n * g for n, g in zip(counts, parts, strict=True)]).sum(0)
    _grade(
        lambda: answer([g.clone() for g in parts], list(counts)),
        weighted / 8,
        (torch.stack(parts).mean(0), "a plain mean is right for equal shards; weight each by its number of images"),
        (torch.stack(parts).sum(0), "a sum over processes is a gradient that grows with their number"),
        (weighted, "divide by the number of images of the whole batch"),
        (weighted / 3, "you divided by the number of shards; divide by the number of images"),
        (torch.cat(parts), "one gradient, of the weights' own shape: add, do not concatenate"),
    )


def _wilson_parts(share: Tensor, count: Tensor, z: float = 1.959964) -> tuple[Tensor, Tensor, Tensor]:
    """Centre and half width before they are divided by the third, 1 + z²/n; all (N,)."""
    half = z * (share * (1 - share) / count + z**2 / (4 * count**2)).sqrt()
    return share + z**2 / (2 * count), half, 1 + z**2 / count


def _interval(share: Tensor, count: Tensor, z: float = 1.959964) -> Tensor:
    centre, half, shrink = _wilson_parts(share, count, z)
    return _ends(centre / shrink, half / shrink)


def _ends(centre: Tensor, half: Tensor) -> Tensor:
    return torch.stack((centre - half, centre + half), 1)  # (N, 2)


def _values(answer: Answer, cases: Sequence[tuple[int, ...]]) -> Any:
    """The answers to all cases as one tensor; None or ... where one is, as `_grade` wants to see it."""
    found = [answer(*case) for case in cases]
    if any(value is None or value is ... for value in found):
        return None
    return torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in found])


def _tensor(value: Any) -> Any:
    return torch.tensor(value) if isinstance(value, float) else value


def _flat(value: Any) -> Any:
    return value.flatten() if isinstance(value, Tensor) else _tensor(value)


__all__ = (
    *__all__,
    "images_needed",
    "joined_gradient",
    "mcnemar_p",
    "normalised_radius",
    "read_off",
    "training_cost",
    "wilson",
    "worst_case",
)
