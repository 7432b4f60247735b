"""The graders: the right answer passes, and each foreseen mistake is named."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch.func import jvp

import aalp_lib as aalp
from aalp_lib.book import graders


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
    graders.projection: lambda x_adv, x, eps: clip(x_adv.clamp(x - eps, x + eps)),
    graders.fgsm: lambda m, x, y, eps: aalp.FGSM(eps)(m, x, y),
    graders.margin: aalp.losses.margin,
    graders.pairing_loss: aalp.losses.alp,
    graders.trades: lambda z, v, y, b: F.cross_entropy(z, y) + b * kl(z, v).mean(),
    graders.first_order: aalp.taylor.pairing_first_order,
    graders.gradient_form: aalp.taylor.pairing_gradient_form,
    graders.feature_contributions: lambda head, a, y: head_gradient(head, a, y).abs().mean(0),
    graders.printed_map: lambda g, a: (g * a).relu().sum(1),
    graders.alp_share: lambda c, p, w: w * p.mean() / (c + w * p).mean(),
    graders.inconsistent: lambda z, v, y: correct(z, y) & ~correct(v, y),
    graders.grad_cam: lambda g, a: (pooled(g) * a).sum(1).relu(),
}
WRONG = [
    (graders.projection, lambda v, x, e: v.clamp(x - e, x + e), r"not inside \[0, 1\]"),
    (graders.projection, lambda v, x, e: clip(v), "not inside the ball"),
    (graders.projection, lambda v, x, e: clip(v).clamp(-e, e), "it is the perturbation"),
    (graders.projection, lambda v, x, e: clip(x + e * l2(v - x)), "L2 ball"),
    (graders.projection, lambda v, x, e: clip(x + e * (v - x).sign()), "those inside may stay"),
    (graders.fgsm, lambda m, x, y, e: x + e * gradient(m, x, y).sign(), r"leave \[0, 1\]"),
    (graders.fgsm, lambda m, x, y, e: clip(x - e * gradient(m, x, y).sign()), "goes down"),
    (graders.fgsm, lambda m, x, y, e: clip(x + e * gradient(m, x, y)), "take its sign, so"),
    (graders.fgsm, lambda m, x, y, e: clip(x + e * gradient(m, x, y, "mean")), "gradient of the mean"),
    (graders.fgsm, lambda m, x, y, e: clip(x + e * l2(gradient(m, x, y))), "L2 ball"),
    (graders.margin, lambda z, y: -aalp.losses.margin(z, y), "turned round"),
    (graders.margin, lambda z, y: z.amax(1) - true(z, y), "over the true class as well"),
    (graders.margin, lambda z, y: aalp.losses.margin(z, y).clamp(min=0), "clamped at 0, or"),
    (graders.margin, lambda z, y: aalp.losses.margin(z, y).clamp(max=0), "behind the boundary"),
    (graders.margin, lambda z, y: erase(z, y).amax(1) - true(z, y), "by 0 leaves a 0"),
    (graders.margin, lambda z, y: aalp.losses.margin(z, y).mean(), "one value a sample"),
    (
        graders.pairing_loss,
        lambda a, b: (a - b).square().mean(1),
        "you averaged over classes: with 10",
    ),
    (graders.pairing_loss, F.mse_loss, "over samples and classes"),
    (graders.pairing_loss, lambda a, b: (a - b).square().sum(1).mean(), "averaged over the batch"),
    (graders.pairing_loss, lambda a, b: (a - b).square().sum(), "summed over the batch"),
    (graders.pairing_loss, lambda a, b: (a - b).norm(dim=1), "Eq. 1 squares it"),
    (graders.pairing_loss, lambda a, b: (a - b).abs().sum(1), "L1 distance"),
    (graders.pairing_loss, lambda a, b: aalp.losses.alp(a.softmax(1), b.softmax(1)), "compares logits"),
    (graders.trades, lambda z, v, y, b: F.cross_entropy(z, y) + b * kl(v, z).mean(), "stands first"),
    (graders.trades, lambda z, v, y, b: F.cross_entropy(z, y) + kl(z, v).mean(), "beta is missing"),
    (graders.trades, lambda z, v, y, b: F.cross_entropy(v, y) + b * kl(z, v).mean(), "that of the clean image"),
    (graders.trades, lambda z, v, y, b: F.cross_entropy(z, y) + b * kl(z, v).mean() / 10, "over classes as well: sum"),
    (
        graders.trades,
        lambda z, v, y, b: F.cross_entropy(z, y) + b * F.kl_div(z.log_softmax(1), v.softmax(1), reduction="mean"),
        "turned round, and averaged",
    ),
    (graders.trades, lambda z, v, y, b: F.cross_entropy(z, y) + b * kl(z, v).sum(), "summed the KL"),
    (graders.trades, lambda z, v, y, b: F.cross_entropy(z, y, reduction="sum") + b * kl(z, v).sum(), "summed over"),
    (graders.trades, lambda z, v, y, b: F.cross_entropy(z, y, reduction="none") + b * kl(z, v), "one value a sample"),
    (graders.trades, lambda z, v, y, b: F.cross_entropy(z, y) - b * kl(z, v).mean(), "add it"),
    (graders.first_order, aalp.taylor.pairing_exact, "exact loss"),
    (graders.first_order, lambda m, x, d: change(m, x, d).norm(dim=1), "squares it"),
    (graders.first_order, change, "a change for each class"),
    (graders.first_order, lambda m, x, d: change(m, x, d).square().sum(1).mean(), "do not average over the batch"),
    (graders.first_order, lambda m, x, d: change(m, x, d).square().sum(), "do not sum over the batch"),
    (graders.first_order, lambda m, x, d: change(m, x, d).square().mean(1), "averaged over classes"),
    (graders.first_order, lambda m, x, d: change(m, x, d).sum(1).square(), "before squaring"),
    (graders.gradient_form, lambda m, x, y, s: s * aalp.taylor.pairing_gradient_form(m, x, y, 1), "step enters once"),
    (graders.gradient_form, lambda m, x, y, s: aalp.taylor.pairing_gradient_form(m, x, y, 1), "step is missing"),
    (
        graders.gradient_form,
        lambda m, x, y, s: change(m, x, s * gradient(m, x, y, "mean")).square().sum(1),
        "batch's mean loss",
    ),
    (
        graders.gradient_form,
        lambda m, x, y, s: change(m, x, s * gradient(m, x, y).sign()).square().sum(1),
        "gradient's sign",
    ),
    (
        graders.gradient_form,
        lambda m, x, y, s: (s * gradient(m, x, y)).flatten(1).square().sum(1),
        "J is still to come",
    ),
    (graders.gradient_form, lambda m, x, y, s: change(m, x, s * gradient(m, x, y)).norm(dim=1), "its square"),
    (
        graders.gradient_form,
        lambda m, x, y, s: aalp.taylor.pairing_gradient_form(m, x, y, s).mean(),
        "one value a sample",
    ),
    (graders.feature_contributions, lambda h, a, y: head_gradient(h, a, y).mean(0).abs(), "cancel each other"),
    (graders.feature_contributions, lambda h, a, y: head_gradient(h, a, y).mean(0), "absolute values before"),
    (
        graders.feature_contributions,
        lambda h, a, y: head_gradient(h, a, y, "mean").abs().mean(0),
        "shrink as the batch",
    ),
    (graders.feature_contributions, lambda h, a, y: head_gradient(h, a, y).abs().sum(0), "summed over samples"),
    (graders.feature_contributions, lambda h, a, y: head_gradient(h, a, y).abs(), "one value a feature"),
    (graders.feature_contributions, lambda h, a, y: head_gradient(h, a, y).abs().mean(1), "averaged over features"),
    (graders.feature_contributions, lambda h, a, y: (head_gradient(h, a, y) * a).abs().mean(0), "that is Eq. 7"),
    (graders.printed_map, lambda g, a: (g * a).sum(1).relu(), "before the ReLU"),
    (graders.printed_map, lambda g, a: (g * a).sum(1), "ReLU is missing"),
    (graders.printed_map, lambda g, a: (g * a).relu(), "one map an image"),
    (graders.printed_map, lambda g, a: (g.mean((2, 3), keepdim=True) * a).sum(1).relu(), "that is Grad-CAM"),
    (graders.printed_map, lambda g, a: (g * a).abs().sum(1), "absolute value"),
    (graders.printed_map, lambda g, a: (g * a).relu().mean(1), "averaged over channels"),
    (graders.grad_cam, lambda g, a: (pooled(g) * a).sum(1), "ReLU is missing"),
    (graders.grad_cam, lambda g, a: (pooled(g) * a).relu().sum(1), "before the sum"),
    (graders.grad_cam, lambda g, a: (g * a).sum(1).relu(), "one weight a channel"),
    (graders.grad_cam, lambda g, a: (g * a).relu().sum(1), "that is Eq. 6"),
    (graders.grad_cam, lambda g, a: (pooled(g) * a).relu(), "sum over the channels"),
    (graders.grad_cam, lambda g, a: (-pooled(g) * a).sum(1).relu(), "turned round"),
    (graders.grad_cam, lambda g, a: (g.mean(1, keepdim=True) * a).sum(1).relu(), "average over h and w"),
    (graders.grad_cam, lambda g, a: (g.sum((2, 3), keepdim=True) * a).sum(1).relu(), "take the mean"),
    (graders.grad_cam, lambda g, a: (pooled(g) * a).mean(1).relu(), "averaged over channels"),
    (graders.inconsistent, lambda z, v, y: ~correct(v, y), "wrong clean already"),
    (graders.inconsistent, lambda z, v, y: z.argmax(1) != v.argmax(1), "was it right before"),
    (graders.inconsistent, lambda z, v, y: correct(z, y) & correct(v, y), "the consistent set$"),
    (graders.inconsistent, lambda z, v, y: ~correct(z, y) & correct(v, y), "swapped"),
    (graders.inconsistent, lambda z, v, y: ~(correct(z, y) & correct(v, y)), "three kinds"),
    (graders.inconsistent, lambda z, v, y: correct(z, y), "does the attack turn"),
    (graders.alp_share, lambda c, p, w: p.mean() / (c + p).mean(), "weight is missing: the total"),
    (graders.alp_share, lambda c, p, w: p.mean() / (c + w * p).mean(), "in the numerator"),
    (graders.alp_share, lambda c, p, w: w * p.mean() / (c + p).mean(), "in the denominator"),
    (graders.alp_share, lambda c, p, w: (w * p / (c + w * p)).mean(), "shares of single images"),
    (graders.alp_share, lambda c, p, w: w * p / (c + w * p), "one share an image"),
    (graders.alp_share, lambda c, p, w: w * p.mean() / c.mean(), "of their sum"),
    (graders.alp_share, lambda c, p, w: c.mean() / (c + w * p).mean(), "classification loss's share"),
]


def joint(z, v, y, reduction="mean"):
    return (F.cross_entropy(z, y, reduction=reduction) + F.cross_entropy(v, y, reduction=reduction)) / 2


def sure(z, y):
    return z.softmax(1).gather(1, y[:, None])[:, 0]


def paired(z, v):
    return aalp.losses.alp(z, v)


def keep(scores, rule="median"):
    return aalp.contributions.guided_dropout_mask(scores, rule)


def two(scores):
    return torch.stack([keep(part.mean(0)) for part in scores.chunk(2)])


def weighted(z, v, y, detach=True):
    return aalp.losses.adaptive_alp(z, v, y, detach=detach)


def price(z, v, y):
    return weighted(z, v, y).mean()


SCALARS = (graders.trades, graders.alp_share, graders.total_loss)
RIGHT |= {
    graders.contribution_scores: lambda head, a, y: (head_gradient(head, a, y) * a).abs().mean(0),
    graders.exact_half: lambda s: keep(s, "half").float(),
    graders.branch_masks: lambda s: two(s).repeat_interleave(len(s) // 2, 0).float(),
    graders.adaptive_pairing: weighted,
    graders.total_loss: lambda z, v, y, a: joint(z, v, y) + a * price(z, v, y),
}  # fmt: skip
WRONG += [
    (graders.contribution_scores, lambda h, a, y: (head_gradient(h, a, y) * a).mean(0).abs(), "cancel each other"),
    (graders.contribution_scores, lambda h, a, y: (head_gradient(h, a, y) * a).mean(0), "absolute values before"),
    (graders.contribution_scores, lambda h, a, y: (head_gradient(h, a, y, "mean") * a).abs().mean(0), "batch grows"),
    (graders.contribution_scores, lambda h, a, y: (head_gradient(h, a, y) * a).abs().sum(0), "summed over samples"),
    (graders.contribution_scores, lambda h, a, y: (head_gradient(h, a, y) * a).abs(), "one value a feature"),
    (graders.contribution_scores, lambda h, a, y: (head_gradient(h, a, y) * a).abs().mean(1), "averaged over features"),
    (graders.contribution_scores, lambda h, a, y: head_gradient(h, a, y).abs().mean(0), "that is Eq. 5"),
    (graders.contribution_scores, lambda h, a, y: head_gradient(h, a, y).abs().mean(0) * a.mean(0), "apart"),
    (graders.contribution_scores, lambda h, a, y: a.mean(0), "gradient is missing"),
    (graders.exact_half, lambda s: keep(s), "everything is kept"),
    (graders.exact_half, lambda s: s >= s.median(), "everything is kept"),
    (graders.exact_half, lambda s: s > s.median(), "fewer than half"),
    (graders.exact_half, lambda s: keep(-s, "half"), "lower half"),
    (graders.exact_half, lambda s: s.topk(6).indices, "the places"),
    (graders.exact_half, lambda s: s.topk(6).values, "the kept scores"),
    (graders.exact_half, lambda s: s * keep(s, "half"), "the scores themselves"),
    (graders.branch_masks, lambda s: keep(s.mean(0)).expand(8, 10), "one mask for all: each"),
    (graders.branch_masks, lambda s: keep(s.mean(0)), "for all, once"),
    (graders.branch_masks, lambda s: keep(s), "one mask a sample"),
    (graders.branch_masks, two, "a row for every sample"),
    (graders.branch_masks, lambda s: two(s).repeat(4, 1), "alternate between"),
    (graders.branch_masks, lambda s: torch.stack([keep(s[k::2].mean(0)) for k in (0, 1)]).repeat(4, 1), "every second"),
    (graders.branch_masks, lambda s: two(s).flip(0).repeat_interleave(4, 0), "exchanged"),
    (graders.branch_masks, lambda s: ~two(s).repeat_interleave(4, 0), "lower half"),
    (graders.adaptive_pairing, lambda z, v, y: paired(z, v), "weight is missing"),
    (graders.adaptive_pairing, lambda z, v, y: sure(v, y) * paired(z, v), "on the adversarial image"),
    (graders.adaptive_pairing, lambda z, v, y: z.softmax(1).amax(1) * paired(z, v), "largest probability"),
    (graders.adaptive_pairing, lambda z, v, y: (1 - sure(z, y)) * paired(z, v), "turned round"),
    (graders.adaptive_pairing, lambda z, v, y: sure(z, y).log() * paired(z, v), "log-probability"),
    (graders.adaptive_pairing, lambda z, v, y: -sure(z, y).log() * paired(z, v), "by the cross-entropy"),
    (graders.adaptive_pairing, lambda z, v, y: sure(z, y) * (z - v).square().mean(1), "over classes"),
    (graders.adaptive_pairing, price, "one value a sample"),
    (graders.adaptive_pairing, lambda z, v, y: sure(z, y).mean() * paired(z, v), "averaged the weights"),
    (graders.adaptive_pairing, lambda z, v, y: sure(z, y), "weight alone"),
    (graders.adaptive_pairing, lambda z, v, y: weighted(z, v, y, detach=False), "flows through the weight"),
    (graders.adaptive_pairing, lambda z, v, y: weighted(z.detach(), v, y), "not the logits"),
    (graders.adaptive_pairing, lambda z, v, y: weighted(z, v, y).detach(), "not the logits"),
    (graders.adaptive_pairing, lambda z, v, y: sure(z, y) * paired(z.detach(), v), "the gradient is not"),
    (graders.total_loss, lambda z, v, y, a: 2 * joint(z, v, y) + a * price(z, v, y), "their mean"),
    (graders.total_loss, lambda z, v, y, a: F.cross_entropy(z, y) + a * price(z, v, y), "of the clean images alone"),
    (graders.total_loss, lambda z, v, y, a: F.cross_entropy(v, y) + a * price(z, v, y), "adversarial images alone"),
    (graders.total_loss, lambda z, v, y, a: joint(z, v, y) + price(z, v, y), "lam is missing"),
    (graders.total_loss, lambda z, v, y, a: joint(z, v, y) + a * paired(z, v).mean(), "not weighted yet"),
    (graders.total_loss, lambda z, v, y, a: joint(z, v, y) + a * weighted(z, v, y).sum(), "over the batch"),
    (graders.total_loss, lambda z, v, y, a: joint(z, v, y) + a * price(z, v, y) / 10, "over classes"),
    (graders.total_loss, lambda z, v, y, a: joint(z, v, y, "none") + a * weighted(z, v, y), "one value a sample"),
    (graders.total_loss, lambda z, v, y, a: joint(z, v, y) - a * price(z, v, y), "subtracted"),
    (graders.total_loss, lambda z, v, y, a: joint(z, v, y), "pairing loss is missing"),
]  # fmt: skip


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
    assert word in said(capsys, graders.steps_to_cross, number)


@pytest.mark.parametrize(
    ("number", "word"),
    [(math.log(100), "✓"), (4.605, "✓"), (math.log(10), "ten classes"), (math.log2(100), "bits"), (2, "decimal"),
     (0.01, "probability"), (-4.605, "sign"), (5, "too large"), (None, "no answer")],
)  # fmt: skip
def test_plateau(capsys, number, word):
    assert word in said(capsys, graders.plateau, number)


@pytest.mark.parametrize(
    ("number", "word"),
    [(math.log(2), "✓"), (0.6931, "✓"), (math.log(10), "of a *right* answer"), (0.5, "probability"), (1, "bits"),
     (-math.log(2), "sign"), (0, "confidence of 1"), (2, "too large"), (..., "no answer")],
)  # fmt: skip
def test_smallest_wrong_loss(capsys, number, word):
    assert word in said(capsys, graders.smallest_wrong_loss, number)


@pytest.mark.parametrize(
    ("number", "word"),
    [(2, "✓"), (2.0, "✓"), (0.5, "for lambda = 1"), (0.125, "multiplied by lambda"), (4, "joint mean with a half"),
     (1, "both factors"), (0.25, "lambda itself"), (-2, "the sign"), (3, "too large"), (..., "no answer")],
)  # fmt: skip
def test_turning_point(capsys, number, word):
    assert word in said(capsys, graders.turning_point, number)


@pytest.mark.parametrize("ties", ["first", "last", "any"])
def test_any_of_the_equals_may_be_kept(capsys, ties):
    answers = {
        "first": lambda scores: keep(scores, "half"),
        "last": lambda scores: keep(scores.flip(0), "half").flip(0),
        "any": lambda scores: torch.zeros(len(scores)).scatter(0, scores.topk(len(scores) // 2).indices, 1.0),
    }
    assert said(capsys, graders.exact_half, answers[ties]) == "✓ right\n"


def test_every_grader_is_tested():
    numbers = {"steps_to_cross", "plateau", "smallest_wrong_loss", "turning_point"} | {
        grader.__name__ for grader, _, _ in LATER
    }
    assert {grader.__name__ for grader in RIGHT} | numbers == set(graders.__all__)


# --- chapters 8 to 10


def interval(correct, count, z=1.96, shift=True, shrink=True, inner=True):
    """Wilson's interval, with the pieces that people forget."""
    p, extra = correct / count, z**2 / count
    half = z * math.sqrt(p * (1 - p) / count + (extra / (4 * count) if inner else 0))
    centre, below = p + (extra / 2 if shift else 0), 1 + (extra if shrink else 0)
    return (centre if not shift else centre / below) - half / below, (
        centre if not shift else centre / below
    ) + half / below


def wald(correct, count):
    p = correct / count
    half = 1.96 * math.sqrt(p * (1 - p) / count)
    return p - half, p + half


def tail(k, n):
    return sum(math.comb(n, i) for i in range(k + 1)) / 2**n


def by_count(parts, counts):
    return sum(n * g for n, g in zip(counts, parts, strict=True))


LATER = [
    (graders.wilson, interval, "✓ right"),
    (graders.wilson, lambda k, n: torch.tensor(interval(k, n)), "✓ right"),
    (graders.wilson, wald, "no width at 0"),
    (graders.wilson, lambda k, n: [min(max(v, 0), 1) for v in wald(k, n)], r"cut to \[0, 1\]"),
    (graders.wilson, lambda k, n: interval(k, n)[::-1], "lower end comes first"),
    (graders.wilson, lambda k, n: [100 * v for v in interval(k, n)], "not percent"),
    (graders.wilson, lambda k, n: interval(k, n, shrink=False), "division by 1"),
    (graders.wilson, lambda k, n: interval(k, n, shift=False), "towards one half"),
    (graders.wilson, lambda k, n: interval(k, n, inner=False), "under the root"),
    (graders.wilson, lambda k, n: interval(k, n, z=1.645), "1.645"),
    (graders.wilson, lambda k, n: interval(k, n, z=1), "one standard error"),
    (graders.wilson, lambda k, n: interval(k, n, z=2), "round figure"),
    (graders.wilson, lambda k, n: interval(k, n)[1] - interval(k, n)[0], "the width"),
    (graders.wilson, lambda k, n: None, "nothing came back"),
    (graders.wilson, lambda k, n: 1 / k, "stopped with ZeroDivisionError"),
    (graders.wilson, lambda k, n: (0.1, 0.2), "values differ"),
    (graders.read_off, lambda w, ks: torch.stack([~w[: k + 1].any(0) for k in ks]), "✓ right"),
    (graders.read_off, lambda w, ks: torch.stack([w.cummax(0).values[k] for k in ks]), "that are fooled"),
    (graders.read_off, lambda w, ks: torch.stack([~w[k] for k in ks]), "iterate k alone"),
    (graders.read_off, lambda w, ks: torch.stack([~w[:k].any(0) for k in ks]), "ends before it"),
    (graders.read_off, lambda w, ks: torch.stack([~w[1 : k + 1].any(0) for k in ks]), "random start"),
    (graders.read_off, lambda w, ks: torch.stack([1 - w[: k + 1].any(0).float().mean() for k in ks]), "do not average"),
    (graders.read_off, lambda w, ks: torch.stack([~w[: k + 1].any(0) for k in ks], 1), "turned round"),
    (graders.read_off, _unwritten, "not written yet"),
    (graders.worst_case, lambda r: r.all(0).float().mean(), "✓ right"),
    (graders.worst_case, lambda r: r.all(0).float().mean().item(), "✓ right"),
    (graders.worst_case, lambda r: r.float().mean(1).min(), "best single attack"),
    (graders.worst_case, lambda r: r.float().mean(), "mean over attacks"),
    (graders.worst_case, lambda r: r.any(0).float().mean(), "some attack leaves"),
    (graders.worst_case, lambda r: r.float().mean(1).prod(), "independent"),
    (graders.worst_case, lambda r: r.all(0).sum(), "a count"),
    (graders.worst_case, lambda r: r.all(0), "asked for is their share"),
    (graders.worst_case, lambda r: 1 - r.all(0).float().mean(), "that is fooled"),
    (graders.worst_case, lambda r: None, "nothing came back"),
    (graders.mcnemar_p, lambda a, b: min(1, 2 * tail(min(a, b), a + b)), "✓ right"),
    (graders.mcnemar_p, aalp.reproduction.comparisons.exact_p, "✓ right"),
    (graders.mcnemar_p, lambda a, b: 2 * tail(min(a, b), a + b), "cut at 1"),
    (graders.mcnemar_p, lambda a, b: tail(min(a, b), a + b), "one-sided; before looking"),
    (graders.mcnemar_p, lambda a, b: min(1, 2 * tail(a, a + b)), "which model is called a"),
    (graders.mcnemar_p, lambda a, b: tail(a, a + b), "from a alone"),
    (graders.mcnemar_p, lambda a, b: min(1, 2 * tail(min(a, b) - 1, a + b)), "belongs to the tail"),
    (graders.mcnemar_p, lambda a, b: math.comb(a + b, a) / 2 ** (a + b), "exactly this split"),
    (graders.mcnemar_p, lambda a, b: math.erfc(math.sqrt((a - b) ** 2 / (a + b) / 2)), "approximation"),
    (graders.mcnemar_p, lambda a, b: None, "nothing came back"),
    (graders.normalised_radius, lambda eps, std: eps / std, "✓ right"),
    (graders.normalised_radius, lambda eps, std: (eps / std).view(1, -1, 1, 1), "✓ right"),
    (graders.normalised_radius, lambda eps, std: eps * std, "you multiplied"),
    (graders.normalised_radius, lambda eps, std: eps / std**2, "enters once"),
    (graders.normalised_radius, lambda eps, std: (eps / std).mean(), "becomes a box"),
    (graders.normalised_radius, lambda eps, std: eps / std.mean(), "its own std"),
    (graders.normalised_radius, lambda eps, std: (eps - 0.5) / std, "image and its ball alike"),
    (graders.normalised_radius, lambda eps, std: 255 * eps / std, r"units of \[0, 1\]"),
    (graders.normalised_radius, lambda eps, std: eps, r"the shape is \(\)"),
    (graders.joined_gradient, lambda g, n: by_count(g, n) / sum(n), "✓ right"),
    (graders.joined_gradient, lambda g, n: torch.stack(g).mean(0), "equal shards"),
    (graders.joined_gradient, lambda g, n: sum(g), "grows with their number"),
    (graders.joined_gradient, by_count, "images of the whole batch"),
    (graders.joined_gradient, lambda g, n: by_count(g, n) / len(n), "number of shards"),
    (graders.joined_gradient, lambda g, n: torch.cat(g), "do not concatenate"),
    (graders.training_cost, 54_000 * 16 * 7, "✓ right"),
    (graders.training_cost, 54_000 * 16 * 5, "those are the attack's"),
    (graders.training_cost, 54_000 * 16 * 6, "both the clean and"),
    (graders.training_cost, 54_000 * 7, "one epoch"),
    (graders.training_cost, 54_000 * 16 * 10, "add, do not multiply"),
    (graders.training_cost, 54_000 * 16 * 14, "count as one"),
    (graders.training_cost, 54_000 * 16 * 7 / 128, "count images"),
    (graders.training_cost, ..., "no answer yet"),
    (graders.images_needed, 6, "✓ right"),
    (graders.images_needed, 5, "one-sided it would do"),
    (graders.images_needed, 4, "0.125"),
    (graders.images_needed, 7, "one fewer"),
    (graders.images_needed, 20, "one image in twenty"),
    (graders.images_needed, ..., "no answer yet"),
]


@pytest.mark.parametrize(("grader", "answer", "word"), LATER, ids=[f"{g.__name__}-{w}" for g, _, w in LATER])
def test_graders_of_the_last_chapters(capsys, grader, answer, word):
    text = said(capsys, grader, answer)
    assert re.search(word, text), text
    assert text.startswith("✓" if word.startswith("✓") else ("✗", "…"))
