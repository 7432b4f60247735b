"""The graders: the right answer passes, each foreseen mistake is named, an experiment is measured by its rules."""

import math
import re

import pytest
import torch
from torch.func import jvp

import aalp_lib as aalp
from aalp_lib.book import graders


def said(capsys, grader, answer):
    assert grader(answer) is None
    return capsys.readouterr().out


def change(model, x, delta):
    return jvp(model, (x,), (delta,))[1]


def keep(scores, rule="median"):
    return aalp.contributions.guided_dropout_mask(scores, rule)


def by_count(parts, counts):
    return sum(n * g for n, g in zip(counts, parts, strict=True))


RIGHT = {
    graders.first_order: aalp.taylor.pairing_first_order,
    graders.exact_half: lambda s: keep(s, "half").float(),
}
WRONG = [
    (graders.first_order, aalp.taylor.pairing_exact, "exact loss"),
    (graders.first_order, lambda m, x, d: change(m, x, d).norm(dim=1), "squares it"),
    (graders.first_order, change, "a change for each class"),
    (graders.first_order, lambda m, x, d: change(m, x, d).square().sum(1).mean(), "do not average over the batch"),
    (graders.first_order, lambda m, x, d: change(m, x, d).square().sum(), "do not sum over the batch"),
    (graders.first_order, lambda m, x, d: change(m, x, d).square().mean(1), "averaged over classes"),
    (graders.first_order, lambda m, x, d: change(m, x, d).sum(1).square(), "before squaring"),
    (graders.exact_half, lambda s: keep(s), "everything is kept"),
    (graders.exact_half, lambda s: s >= s.median(), "everything is kept"),
    (graders.exact_half, lambda s: s > s.median(), "fewer than half"),
    (graders.exact_half, lambda s: keep(-s, "half"), "lower half"),
    (graders.exact_half, lambda s: s.topk(6).indices, "the places"),
    (graders.exact_half, lambda s: s.topk(6).values, "the kept scores"),
    (graders.exact_half, lambda s: s * keep(s, "half"), "the scores themselves"),
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
    assert "0.37 times" in said(capsys, grader, lambda *a: 0.37 * right(*a))


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


# --- open experiments: an answer that wins, one that does not, one that breaks a rule


def from_the_image(model, x, y, eps):
    return aalp.attacks.derived(aalp.CW(eps, 0.03, 20), start="clean")(model, x, y)


def units(C):
    return torch.full_like(C, 10.0).scatter(0, C.topk(8).indices, 0.1)


def greedy(model, x, y):
    a, W, mask = model.features(x).detach(), model.head.weight.detach(), torch.zeros(256)
    z = model.head.bias.detach().repeat(len(a), 1)
    for _ in range(32):
        loss = torch.stack([torch.nn.functional.cross_entropy(z + a[:, [j]] * W[:, j], y) for j in range(256)])
        j = loss.masked_fill(mask.bool(), math.inf).argmin()
        mask[j], z = 1, z + a[:, j, None] * W[:, j]
    return mask


def without_the_stairs(model, x, y, eps):
    plain = aalp.models.Classifier(model.body[1:], model.head, (0.1307,), (0.3081,)).eval()
    return aalp.CW(eps, 0.05, 40)(plain, x, y)


EXPERIMENTS = [  # grader, wins, loses, breaks a rule, and what is said of that
    (graders.fool, from_the_image, lambda m, x, y, e: x, lambda m, x, y, e: aalp.PGD(e, 0.05, 40)(m, x, y), "budget"),
    (graders.fool, from_the_image, lambda m, x, y, e: x, lambda m, x, y, e: x + 0.4, "left the ball"),
    (graders.fool_the_share, units, torch.ones_like, lambda C: 0 * C, "from 0.1 to 10"),
    (graders.foretell, lambda z, y: aalp.losses.margin(z, y) > -1.25, lambda z, y: y < 0, lambda z, y: z, "each digit"),
    (graders.prune, greedy, lambda m, x, y: torch.arange(256) < 32, lambda m, x, y: torch.ones(256), "at most 32"),
    (graders.weigh, lambda p: (p > 0.6).float(), lambda p: p**0.5, lambda p: p**9, "mean weight of"),
    (graders.break_defence, without_the_stairs, lambda m, x, y, e: aalp.FGSM(e)(m, x, y), lambda m, x, y, e: x[:3],
     "of the same shape"),
]  # fmt: skip


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda of: f"{of[0].__name__}, {of[4]}")
def test_an_experiment_has_a_scoreboard_and_rules(capsys, experiment):
    grader, wins, loses, breaks, word = experiment
    first, *board = said(capsys, grader, wins).splitlines()
    assert first.startswith("✓ yours:")
    assert board[0].endswith("yours")  # the best stands first
    assert len(board) >= 3
    assert said(capsys, grader, loses).startswith("✗ yours:")
    assert word in said(capsys, grader, breaks)
    assert "not written yet" in said(capsys, grader, _unwritten)


def test_a_faster_rate_and_a_longer_ramp_leave_the_plateau(capsys):
    assert said(capsys, graders.off_the_plateau, {"rate": 1e-2, "ramp": 0.8}).startswith("✓ yours:")
    assert "unexpected keyword argument" in said(capsys, graders.off_the_plateau, {"rate": 1e-2, "ramps": 0.8})
    assert "no answer yet" in said(capsys, graders.off_the_plateau, ...)


@pytest.mark.parametrize(("grader", "turn"), [(graders.crossing, 0.13), (graders.order_turns, 0.04)])
def test_a_turn_is_found_from_both_sides(capsys, grader, turn):
    assert said(capsys, grader, turn) == "✓ right\n"
    assert said(capsys, grader, turn / 2).endswith("go up\n")
    assert said(capsys, grader, 2 * turn).endswith("go down\n")
    assert "a radius between" in said(capsys, grader, 3.0)
    assert "no answer yet" in said(capsys, grader, ...)


# --- the last chapters

LATER = [
    (graders.seeds_needed, 7, "✓ right"),
    (graders.seeds_needed, 4, "t of 3.18"),
    (graders.seeds_needed, 6, "half the interval 0.52"),
    (graders.seeds_needed, ..., "no answer yet"),
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
    assert re.search(word, said(capsys, grader, answer))


def test_half_an_interval_of_seven_seeds_is_below_half_a_point():
    from scipy import stats

    half = {n: 0.5 * stats.t.ppf(0.975, n - 1) / math.sqrt(n) for n in (4, 5, 6, 7)}
    assert half[7] < 0.5 < half[6]
    assert [round(half[n], 2) for n in (5, 6)] == [0.62, 0.52]


def test_every_grader_is_tested():
    numbers = {"steps_to_cross", "plateau", "smallest_wrong_loss", "turning_point", "off_the_plateau", "crossing",
               "order_turns"}  # fmt: skip
    tables = {*RIGHT, *(of[0] for of in EXPERIMENTS), *(of[0] for of in LATER)}
    assert {grader.__name__ for grader in tables} | numbers == set(graders.__all__)
