import logging
import sys

import pytest
import torch
from conftest import Rounded, grey_split

import aalp_lib as aalp
from aalp_lib import autoattack

needs_autoattack = pytest.mark.skipif(not autoattack.installed(), reason="needs the extra [autoattack]")


@pytest.fixture(scope="module")
def few(sample):
    return sample.test[:30]


def closed_form(weight, split, eps):
    """Of any number of classes inside [0, 1]: right while each other class stays behind under its own best attack."""
    x, y = (split.images / 255).flatten(1), split.labels
    z = x @ weight.T
    slack = z.gather(1, y[:, None]) - z - eps * (weight[y][:, None] - weight).abs().sum(2)  # (N, K), 0 at the label
    return (slack.scatter(1, y[:, None], 1) > 0).all(1)


@needs_autoattack
def test_autoattack_reaches_the_optimum_of_a_linear_model(generator):
    model, weight, split = grey_split(5, generator)
    report = aalp.auto_attack(model, split, 0.02, queries=50, batch_size=40)
    robust = closed_form(weight, split, 0.02)
    assert list(report) == ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert 5 < int(robust.sum()) < 55
    assert torch.equal(report["square"].correct, robust)
    for earlier, later in zip(list(report), list(report)[1:], strict=False):
        assert (report[later].correct <= report[earlier].correct).all()


@needs_autoattack
@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_leave_one_stage_out_and_reach_the_optimum_all_the_same(classes, generator):
    model, weight, split = grey_split(classes, generator)
    with pytest.warns(UserWarning, match=f"without its stage apgd-t, whose loss needs .* 4 classes, got {classes}"):
        report = aalp.auto_attack(model, split, 0.05, queries=50)
    robust = closed_form(weight, split, 0.05)
    assert list(report) == ["clean", "apgd-ce", "fab-t", "square"]
    assert 5 < int(robust.sum()) < 55
    assert torch.equal(report["square"].correct, robust)


@needs_autoattack
@needs_autoattack
def test_square_in_an_l2_ball_is_bounded_by_the_closed_form(generator):
    model, weight, split = grey_split(2, generator, side=10)
    difference = weight[split.labels] - weight[1 - split.labels]
    gap = ((split.images / 255).flatten(1) * difference).sum(1) / difference.norm(dim=1)
    eps = float(gap.median())
    outcome = aalp.auto_attack(model, split, eps, norm="l2", version="square", queries=300)["square"]
    assert outcome.ball == f"L2 {eps:g}"
    assert outcome.correct[gap > eps * 1.001].all()
    assert not outcome.correct[gap < 0.3 * eps].any()


@needs_autoattack
@pytest.mark.parametrize("side", [4, 8, 10, 12, 20, 24, 28, 32])
def test_square_in_l2_runs_where_it_is_said_to_fit(side, generator):
    model, _, split = grey_split(2, generator, count=3, side=side)
    if autoattack.square_fits("l2", split.images.shape):
        aalp.auto_attack(model, split, 0.01, norm="l2", version="square", queries=2)
    else:
        with pytest.raises(aalp.InputError, match=rf"images of shape \(1, {side}, {side}\)"):
            aalp.auto_attack(model, split, 0.01, norm="l2", version="square", queries=2)
        from pyautoattack import AutoAttack

        x, y = next(split.batches(3))
        with pytest.raises((RuntimeError, ZeroDivisionError)):
            AutoAttack(model, device=x.device, eps=0.01, norm="L2").square.perturb(x, y)


def test_autoattack_leaves_everything_as_it_was(generator):
    model, _, split = grey_split(5, generator, count=8)
    model = aalp.Classifier(torch.nn.Sequential(model.body, torch.nn.Dropout()), model.head).train()
    model.head.bias.requires_grad_(False)
    logger, told, before, own_trace = logging.getLogger("auto-attack"), [], torch.get_rng_state(), sys.gettrace()
    sys.settrace(silent := lambda *_: None)
    try:
        first, again = (
            aalp.auto_attack(model, split, 0.01, queries=20, batch_size=5, progress=lambda *t: told.append(t[:2]))
            for _ in range(2)
        )
        assert sys.gettrace() is silent
    finally:
        sys.settrace(own_trace)
    assert all(torch.equal(first[name].correct, again[name].correct) for name in first)
    assert first["clean"].accuracy == 1  # no dropout while it is attacked
    assert first["square"].correct.any()
    assert all(module.training for module in model.modules())
    assert model.head.weight.requires_grad
    assert not model.head.bias.requires_grad
    assert model.head.weight.grad is None
    assert torch.equal(torch.get_rng_state(), before)
    assert logger.handlers == []
    assert logger.propagate
    assert told[7] == (told[7][1],) * 2


def test_an_image_outside_the_ball_is_no_attack():
    class Cheat:
        epsilon, norm = 0.1, "Linf"

        def run_standard_evaluation(self, x, y, batch_size):
            return x + torch.tensor([0.1, 0.2, 0.0])[:, None], 1 - y

    x, y = torch.full((4, 4), 0.5), torch.zeros(4, dtype=torch.int64)
    right = torch.tensor([True, True, True, False])  # the last one is wrong already, and is not attacked
    found = autoattack._stage(Cheat(), "square", x, y, right)["right"]
    assert found.tolist() == [False, True, False, False]
    assert right.tolist() == [True, True, True, False]


@needs_autoattack
def test_autoattacks_own_warnings_are_ours_once(generator):
    model, _, split = grey_split(5, generator)
    with pytest.warns(UserWarning, match="AutoAttack says: .* zero gradient") as caught:
        aalp.auto_attack(aalp.Classifier(Rounded(), model.head), split, 0.1, queries=5)
    assert len([w for w in caught if "zero gradient" in str(w.message)]) == 1


@needs_autoattack
def test_colour_images_go_through_autoattack(generator):
    torch.manual_seed(0)
    model = aalp.models.resnet9(4)
    images = torch.randint(0, 256, (3, 3, 16, 16), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        split = aalp.Split(images, model.eval()(images / 255).argmax(1))
    assert aalp.auto_attack(model, split, 0.1, queries=5)["square"].count == 3


@needs_autoattack
def test_bad_input_of_autoattack(two, trained, few):
    model, _, split = two
    assert aalp.auto_attack(model, split, 0.1, version="square", queries=2)["clean"].accuracy == 1
    with pytest.raises(aalp.InputError, match="known are standard, square"):
        aalp.auto_attack(trained, few, 0.1, version="plus")
    with pytest.raises(aalp.InputError, match="eps must be above 0"):
        aalp.auto_attack(trained, few, 0)
    with pytest.raises(aalp.InputError, match="write 8/255, not 8"):
        aalp.auto_attack(trained, few, 8)


@needs_autoattack
def test_autoattack_takes_a_loader(generator):
    model, _, split = grey_split(5, generator)
    wanted = aalp.auto_attack(model, split, 0.02, version="square", queries=20, batch_size=40)
    found = aalp.auto_attack(model, list(split.batches(30)), 0.02, version="square", queries=20, batch_size=40)
    assert torch.equal(found["square"].correct, wanted["square"].correct)
