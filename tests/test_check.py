"""The graders: the right answer passes, and each foreseen mistake is named."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch.func import jvp

import aalp_lib as aalp
from aalp_lib import check


def said(capsys, grader, answer):
    assert grader(answer) is None
    return capsys.readouterr().out


def gradient(model, x, y, reduction="sum"):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y, reduction=reduction), x)[0]


def clip(x):
    return x.clamp(0, 1)


def l2(v):
    return v / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def change(model, x, delta):
    return jvp(model, (x,), (delta,))[1]


def head_gradient(head, a, y, reduction="sum"):
    a = a.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(head(a), y, reduction=reduction), a)[0]


def erase(z, y):
    return (1 - F.one_hot(y, z.shape[1])) * z


def true(z, y):
    return z.gather(1, y[:, None])[:, 0]


def kl(z, v):
    return aalp.losses.trades_kl(z, v)


def pooled(g):
    return g.mean((2, 3), keepdim=True)


def correct(z, y):
    return z.argmax(1) == y


RIGHT = {
    check.projection: lambda x_adv, x, eps: clip(x_adv.clamp(x - eps, x + eps)),
    check.fgsm: lambda m, x, y, eps: aalp.FGSM(eps)(m, x, y),
    check.margin: aalp.losses.margin,
    check.pairing_loss: aalp.losses.alp,
    check.trades: lambda z, v, y, b: F.cross_entropy(z, y) + b * kl(z, v).mean(),
    check.first_order: aalp.taylor.pairing_first_order,
    check.gradient_form: aalp.taylor.pairing_gradient_form,
    check.feature_contributions: lambda head, a, y: head_gradient(head, a, y).abs().mean(0),
    check.printed_map: lambda g, a: (g * a).relu().sum(1),
    check.grad_cam: lambda g, a: (pooled(g) * a).sum(1).relu(),
    check.inconsistent: lambda z, v, y: correct(z, y) & ~correct(v, y),
    check.alp_share: lambda c, p, w: w * p.mean() / (c + w * p).mean(),
}
SCALARS = (check.trades, check.alp_share)
WRONG = [
    (check.projection, lambda v, x, e: v.clamp(x - e, x + e), r"not inside \[0, 1\]"),
    (check.projection, lambda v, x, e: clip(v), "not inside the ball"),
    (check.projection, lambda v, x, e: clip(v).clamp(-e, e), "it is the perturbation"),
    (check.projection, lambda v, x, e: clip(x + e * l2(v - x)), "L2 ball"),
    (check.projection, lambda v, x, e: clip(x + e * (v - x).sign()), "those inside may stay"),
    (check.fgsm, lambda m, x, y, e: x + e * gradient(m, x, y).sign(), r"leave \[0, 1\]"),
    (check.fgsm, lambda m, x, y, e: clip(x - e * gradient(m, x, y).sign()), "goes down"),
    (check.fgsm, lambda m, x, y, e: clip(x + e * gradient(m, x, y)), "take its sign, so"),
    (check.fgsm, lambda m, x, y, e: clip(x + e * gradient(m, x, y, "mean")), "gradient of the mean"),
    (check.fgsm, lambda m, x, y, e: clip(x + e * l2(gradient(m, x, y))), "L2 ball"),
    (check.margin, lambda z, y: -aalp.losses.margin(z, y), "turned round"),
    (check.margin, lambda z, y: z.amax(1) - true(z, y), "over the true class as well"),
    (check.margin, lambda z, y: aalp.losses.margin(z, y).clamp(min=0), "clamped at 0, or"),
    (check.margin, lambda z, y: aalp.losses.margin(z, y).clamp(max=0), "behind the boundary"),
    (check.margin, lambda z, y: erase(z, y).amax(1) - true(z, y), "by 0 leaves a 0"),
    (check.margin, lambda z, y: aalp.losses.margin(z, y).mean(), "one value a sample"),
    (
        check.pairing_loss,
        lambda a, b: (a - b).square().mean(1),
        "you averaged over classes: with 10",
    ),
    (check.pairing_loss, F.mse_loss, "over samples and classes"),
    (check.pairing_loss, lambda a, b: (a - b).square().sum(1).mean(), "averaged over the batch"),
    (check.pairing_loss, lambda a, b: (a - b).square().sum(), "summed over the batch"),
    (check.pairing_loss, lambda a, b: (a - b).norm(dim=1), "Eq. 1 squares it"),
    (check.pairing_loss, lambda a, b: (a - b).abs().sum(1), "L1 distance"),
    (check.pairing_loss, lambda a, b: aalp.losses.alp(a.softmax(1), b.softmax(1)), "compares logits"),
    (check.trades, lambda z, v, y, b: F.cross_entropy(z, y) + b * kl(v, z).mean(), "stands first"),
    (check.trades, lambda z, v, y, b: F.cross_entropy(z, y) + kl(z, v).mean(), "beta is missing"),
    (check.trades, lambda z, v, y, b: F.cross_entropy(v, y) + b * kl(z, v).mean(), "that of the clean image"),
    (check.trades, lambda z, v, y, b: F.cross_entropy(z, y) + b * kl(z, v).mean() / 10, "over classes as well: sum"),
    (
        check.trades,
        lambda z, v, y, b: F.cross_entropy(z, y) + b * F.kl_div(z.log_softmax(1), v.softmax(1), reduction="mean"),
        "turned round, and averaged",
    ),
    (check.trades, lambda z, v, y, b: F.cross_entropy(z, y) + b * kl(z, v).sum(), "summed the KL"),
    (check.trades, lambda z, v, y, b: F.cross_entropy(z, y, reduction="sum") + b * kl(z, v).sum(), "summed over"),
    (check.trades, lambda z, v, y, b: F.cross_entropy(z, y, reduction="none") + b * kl(z, v), "one value a sample"),
    (check.trades, lambda z, v, y, b: F.cross_entropy(z, y) - b * kl(z, v).mean(), "add it"),
    (check.first_order, aalp.taylor.pairing_exact, "exact loss"),
    (check.first_order, lambda m, x, d: change(m, x, d).norm(dim=1), "squares it"),
    (check.first_order, change, "a change for each class"),
    (check.first_order, lambda m, x, d: change(m, x, d).square().sum(1).mean(), "do not average over the batch"),
    (check.first_order, lambda m, x, d: change(m, x, d).square().sum(), "do not sum over the batch"),
    (check.first_order, lambda m, x, d: change(m, x, d).square().mean(1), "averaged over classes"),
    (check.first_order, lambda m, x, d: change(m, x, d).sum(1).square(), "before squaring"),
    (check.gradient_form, lambda m, x, y, s: s * aalp.taylor.pairing_gradient_form(m, x, y, 1), "step enters once"),
    (check.gradient_form, lambda m, x, y, s: aalp.taylor.pairing_gradient_form(m, x, y, 1), "step is missing"),
    (
        check.gradient_form,
        lambda m, x, y, s: change(m, x, s * gradient(m, x, y, "mean")).square().sum(1),
        "batch's mean loss",
    ),
    (
        check.gradient_form,
        lambda m, x, y, s: change(m, x, s * gradient(m, x, y).sign()).square().sum(1),
        "gradient's sign",
    ),
    (check.gradient_form, lambda m, x, y, s: (s * gradient(m, x, y)).flatten(1).square().sum(1), "J is still to come"),
    (check.gradient_form, lambda m, x, y, s: change(m, x, s * gradient(m, x, y)).norm(dim=1), "its square"),
    (
        check.gradient_form,
        lambda m, x, y, s: aalp.taylor.pairing_gradient_form(m, x, y, s).mean(),
        "one value a sample",
    ),
    (check.feature_contributions, lambda h, a, y: head_gradient(h, a, y).mean(0).abs(), "cancel each other"),
    (check.feature_contributions, lambda h, a, y: head_gradient(h, a, y).mean(0), "absolute values before"),
    (check.feature_contributions, lambda h, a, y: head_gradient(h, a, y, "mean").abs().mean(0), "shrink as the batch"),
    (check.feature_contributions, lambda h, a, y: head_gradient(h, a, y).abs().sum(0), "summed over samples"),
    (check.feature_contributions, lambda h, a, y: head_gradient(h, a, y).abs(), "one value a feature"),
    (check.feature_contributions, lambda h, a, y: head_gradient(h, a, y).abs().mean(1), "averaged over features"),
    (check.feature_contributions, lambda h, a, y: (head_gradient(h, a, y) * a).abs().mean(0), "that is Eq. 7"),
    (check.printed_map, lambda g, a: (g * a).sum(1).relu(), "before the ReLU"),
    (check.printed_map, lambda g, a: (g * a).sum(1), "ReLU is missing"),
    (check.printed_map, lambda g, a: (g * a).relu(), "one map an image"),
    (check.printed_map, lambda g, a: (g.mean((2, 3), keepdim=True) * a).sum(1).relu(), "that is Grad-CAM"),
    (check.printed_map, lambda g, a: (g * a).abs().sum(1), "absolute value"),
    (check.printed_map, lambda g, a: (g * a).relu().mean(1), "averaged over channels"),
    (check.grad_cam, lambda g, a: (pooled(g) * a).sum(1), "ReLU is missing"),
    (check.grad_cam, lambda g, a: (pooled(g) * a).relu().sum(1), "before the sum"),
    (check.grad_cam, lambda g, a: (g * a).sum(1).relu(), "one weight a channel"),
    (check.grad_cam, lambda g, a: (g * a).relu().sum(1), "that is Eq. 6"),
    (check.grad_cam, lambda g, a: (pooled(g) * a).relu(), "sum over the channels"),
    (check.grad_cam, lambda g, a: (-pooled(g) * a).sum(1).relu(), "turned round"),
    (check.grad_cam, lambda g, a: (g.mean(1, keepdim=True) * a).sum(1).relu(), "average over h and w"),
    (check.grad_cam, lambda g, a: (g.sum((2, 3), keepdim=True) * a).sum(1).relu(), "take the mean"),
    (check.grad_cam, lambda g, a: (pooled(g) * a).mean(1).relu(), "averaged over channels"),
    (check.inconsistent, lambda z, v, y: ~correct(v, y), "wrong clean already"),
    (check.inconsistent, lambda z, v, y: z.argmax(1) != v.argmax(1), "was it right before"),
    (check.inconsistent, lambda z, v, y: correct(z, y) & correct(v, y), "the consistent set$"),
    (check.inconsistent, lambda z, v, y: ~correct(z, y) & correct(v, y), "swapped"),
    (check.inconsistent, lambda z, v, y: ~(correct(z, y) & correct(v, y)), "three kinds"),
    (check.inconsistent, lambda z, v, y: correct(z, y), "does the attack turn"),
    (check.alp_share, lambda c, p, w: p.mean() / (c + p).mean(), "weight is missing: the total"),
    (check.alp_share, lambda c, p, w: p.mean() / (c + w * p).mean(), "in the numerator"),
    (check.alp_share, lambda c, p, w: w * p.mean() / (c + p).mean(), "in the denominator"),
    (check.alp_share, lambda c, p, w: (w * p / (c + w * p)).mean(), "shares of single images"),
    (check.alp_share, lambda c, p, w: w * p / (c + w * p), "one share an image"),
    (check.alp_share, lambda c, p, w: w * p.mean() / c.mean(), "of their sum"),
    (check.alp_share, lambda c, p, w: c.mean() / (c + w * p).mean(), "classification loss's share"),
]


@pytest.mark.parametrize("grader", RIGHT, ids=lambda grader: grader.__name__)
def test_the_right_answer_passes(capsys, grader):
    assert said(capsys, grader, RIGHT[grader]) == "✓ right\n"


@pytest.mark.parametrize(("grader", "answer", "word"), WRONG, ids=[f"{g.__name__}-{w}" for g, _, w in WRONG])
def test_a_foreseen_mistake_is_named(capsys, grader, answer, word):
    text = said(capsys, grader, answer)
    assert text.startswith("✗")

    assert re.search(word, text), text


@pytest.mark.parametrize("grader", RIGHT, ids=lambda grader: grader.__name__)
def test_anything_else_becomes_a_sentence(capsys, grader):
    right = RIGHT[grader]
    assert "not written yet" in said(capsys, grader, _unwritten)
    assert "nothing came back" in said(capsys, grader, lambda *_: None)
    assert "stopped with ZeroDivisionError" in said(capsys, grader, lambda *_: 1 / 0)
    assert "stopped with TypeError" in said(capsys, grader, lambda: 0)
    assert "a tensor is asked for, got int" in said(capsys, grader, lambda *_: 3)
    assert "the shape is (3,)" in said(capsys, grader, lambda *_: torch.zeros(3))
    assert "not finite" in said(capsys, grader, lambda *a: right(*a) * float("nan"))
    scaled = said(capsys, grader, lambda *a: 0.37 * right(*a))
    assert "0.37 times" in scaled or (grader in SCALARS and "1 of 1 values" in scaled)
    assert "values differ" in said(
        capsys, grader, lambda *a: torch.arange(1.0, right(*a).numel() + 1).view_as(right(*a))
    )


def _unwritten(*_):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("number", "word"),
    [(60, "✓"), (60.0, "✓"), (torch.tensor(60), "✓"), (30, "opposite side"), (10, "by at most 0.1"), (61, "diameter"),
     (40, "by 0.4"), (7, "too small"), (99, "too large"), (None, "no answer"), (..., "no answer"), ("60", "got str"),
     (True, "got bool")],
)  # fmt: skip
def test_steps_to_cross(capsys, number, word):
    assert word in said(capsys, check.steps_to_cross, number)


@pytest.mark.parametrize(
    ("number", "word"),
    [(math.log(100), "✓"), (4.605, "✓"), (math.log(10), "ten classes"), (math.log2(100), "bits"), (2, "decimal"),
     (0.01, "probability"), (-4.605, "sign"), (5, "too large"), (None, "no answer")],
)  # fmt: skip
def test_plateau(capsys, number, word):
    assert word in said(capsys, check.plateau, number)


@pytest.mark.parametrize(
    ("number", "word"),
    [(math.log(2), "✓"), (0.6931, "✓"), (math.log(10), "of a *right* answer"), (0.5, "probability"), (1, "bits"),
     (-math.log(2), "sign"), (0, "confidence of 1"), (2, "too large"), (..., "no answer")],
)  # fmt: skip
def test_smallest_wrong_loss(capsys, number, word):
    assert word in said(capsys, check.smallest_wrong_loss, number)


def test_every_grader_is_tested():
    numbers = {"steps_to_cross", "plateau", "smallest_wrong_loss"}
    assert {grader.__name__ for grader in RIGHT} | numbers == set(check.__all__)
