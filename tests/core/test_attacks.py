import dataclasses
import functools
import math
import warnings

import pytest
import torch
import torchattacks
from conftest import linear, quiet
from hypothesis import given, settings, strategies as st
from scipy.stats import kstest

import aalp_lib as aalp
from aalp_lib import engine, losses
from aalp_lib.attacks import LOSSES, Attack, scaled, trades_inner

ATTACKS = {
    "fgsm": aalp.FGSM(0.1),
    "pgd": aalp.PGD(0.1, 0.02, 12),
    "cw": aalp.CW(0.1, 0.02, 12),
    "trades": trades_inner(aalp.PGD(0.1, 0.02, 12)),
    "restarts": aalp.PGD(0.1, 0.02, 8, restarts=3),
}


# --- the optimum on a linear model


@pytest.mark.parametrize("name", ["fgsm", "pgd", "cw"])
def test_reaches_the_optimum_of_a_linear_model(name, generator):
    """Two classes, logits (-w·x, w·x): the worst image in ball and range is known pixel by pixel."""
    w = torch.randn(30, generator=generator, dtype=torch.float64)
    model = linear(torch.stack([-w, w]))
    x = torch.rand(40, 1, 5, 6, generator=generator, dtype=torch.float64)
    y = model(x).argmax(1)
    toward = torch.where(y == 0, 1.0, -1.0)[:, None].double() * w.sign()  # (N, 30)
    best = (x.flatten(1) + 0.1 * toward).clamp(0, 1).view_as(x)
    torch.testing.assert_close(ATTACKS[name](model, x, y, generator=generator), best)


def test_cw_moves_where_cross_entropy_has_no_gradient_left(generator):
    """Beyond a margin of about 18 the float32 cross-entropy is flat; the margin loss is not."""
    w = torch.full((16,), 20.0)
    model = linear(torch.stack([-w, w]))
    x, y = torch.full((8, 1, 4, 4), 0.5), torch.ones(8).long()
    x_pgd, x_cw = (make(0.1, 0.02, 12)(model, x, y, generator=generator) for make in (aalp.PGD, aalp.CW))
    assert losses.margin(model(x), y).max() < -18
    torch.testing.assert_close(x_cw, x - 0.1)
    assert (x_pgd - x).abs().mean() < 0.06  # where the random start left it


@pytest.mark.parametrize("make", ["fgsm", "pgd", "cw"])
@pytest.mark.parametrize("led", [False, True])
def test_reaches_the_optimum_of_a_linear_model_in_l2(make, led, generator):
    """Two classes: the worst image lies eps along the difference of the weights, as long as [0, 1] is not left; to the
    other class as a target it is the same one."""
    attack = {
        "fgsm": aalp.FGSM(0.3, norm="l2"),
        "pgd": aalp.PGD(0.3, 0.3, 40, norm="l2"),
        "cw": aalp.CW(0.3, 0.3, 40, norm="l2"),
    }[make]
    w = torch.randn(30, generator=generator, dtype=torch.float64)
    model = linear(torch.stack([-w, w]))
    x = 0.4 + 0.2 * torch.rand(40, 1, 5, 6, generator=generator, dtype=torch.float64)
    y = model(x).argmax(1)
    toward = torch.where(y == 0, 1.0, -1.0)[:, None].double() * w / w.norm()  # (N, 30)
    found = attack(model, x, y, target=1 - y if led else None, generator=generator)
    torch.testing.assert_close(found, x + 0.3 * toward.view_as(x))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("make", [aalp.PGD, aalp.CW])
def test_what_is_fooled_at_a_linear_model_is_what_the_closed_form_says(make, norm, generator):
    """With logits W x, an image can be led to class t within eps of a ball that stays in [0, 1] only if for each class
    j the dual norm of w_t - w_j times eps covers the gap; with two classes this is all that it needs."""
    weight = torch.randn(2, 16, generator=generator)
    model = linear(weight)
    x = 0.3 + 0.4 * torch.rand(300, 1, 4, 4, generator=generator)
    y = model(x).argmax(1)
    gap = (x.flatten(1) @ (weight[0] - weight[1])).abs()
    dual = (weight[0] - weight[1]).norm(p=1 if norm == "linf" else 2)
    eps = float(gap.median() / dual)
    attack = make(eps, eps / 3, 20, norm=norm)
    sure = (gap - eps * dual).abs() > 1e-3
    for target in (None, 1 - y):
        report = aalp.evaluate(model, (x, y), {"a": attack}, target=target)
        assert torch.equal(report["a"].correct[sure], (gap > eps * dual)[sure])
        assert 100 < report["a"].correct.sum() < 200


def test_a_target_is_reached_by_the_straight_way(generator):
    """Identity as a network: led to class t, cross-entropy on two equal others raises t and lowers the others."""
    model = linear(torch.eye(3))
    x, y, target = torch.full((1, 1, 1, 3), 0.5), torch.tensor([0]), torch.tensor([2])
    for loss in ("cross_entropy", "exact_cross_entropy"):
        attack = Attack(0.2, 0.05, 10, loss=loss, start="clean")
        torch.testing.assert_close(attack(model, x, y, target=target).flatten(), torch.tensor([0.3, 0.3, 0.7]))
    attack = Attack(0.3, 0.3, 1, start="clean", norm="l2")  # gradient (1, 1, -2) / 3
    wanted = torch.tensor([0.5 - 0.3 / 6**0.5, 0.5 - 0.3 / 6**0.5, 0.5 + 0.6 / 6**0.5])
    torch.testing.assert_close(attack(model, x, y, target=target).flatten(), wanted)


def test_an_l2_step_does_not_mind_how_long_a_gradient_is(generator):
    """Squares of such numbers vanish or overflow in float32; a gradient of 0 moves nothing."""
    w = torch.randn(9, generator=generator)
    x, y = torch.full((1, 1, 3, 3), 0.5), torch.tensor([1])
    for scale in (1e-30, 1e-36, 1e30):
        model = linear(scale * torch.stack([-w, w]))
        found = aalp.CW(0.2, 0.1, 4, norm="l2")(model, x, y, start=x)
        torch.testing.assert_close(found.flatten(), 0.5 - 0.2 * w / w.norm())
    with pytest.warns(UserWarning, match="gradient of 0 at 1 of 1 images"):
        assert torch.equal(aalp.FGSM(0.2, norm="l2")(linear(torch.zeros(2, 9)), x, y), x)


def test_an_l2_start_is_uniform_in_the_ball(generator):
    """The distance to the power of the dimension is uniform in [0, 1], and no direction is preferred."""
    x, y = torch.full((4000, 1, 1, 5), 0.5), torch.zeros(4000, dtype=torch.int64)
    attack = Attack(0.3, 0.3, 1, norm="l2")
    apart = (quiet(attack, linear(torch.zeros(2, 5)), x, y, generator=generator) - x).flatten(1)
    share = (apart.norm(dim=1) / 0.3) ** 5
    assert kstest(share.numpy(), "uniform").pvalue > 0.01
    assert apart.mean(0).abs().max() < 4 * 0.3 / (7 * 4000) ** 0.5  # each coordinate has variance eps² / (P + 2)
    assert kstest((apart[:, 0] / apart.norm(dim=1)).square().numpy(), "beta", (0.5, 2)).pvalue > 0.01


# --- ball, range, dtype


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(LOSSES)),
    start=st.sampled_from(["clean", "uniform", "gaussian"]),
    shape=st.tuples(st.integers(0, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    eps=st.floats(1e-3, 1.0),
    steps=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 1000),
    norm=st.sampled_from(["linf", "l2"]),
    led=st.booleans(),
)
def test_images_stay_in_the_ball_and_in_range(name, start, shape, eps, steps, dtype, seed, norm, led):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator).to(dtype)
    model = linear(torch.randn(3, math.prod(shape[1:]), generator=generator).to(dtype))
    y = torch.randint(3, shape[:1], generator=generator)
    attack = Attack(eps, step=eps, steps=steps, loss=name, start=start, norm=norm)
    target = (y + 1) % 3 if led and name != "trades_kl" else None
    x_adv = quiet(attack, model, x, y, target=target, generator=generator)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == dtype
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    apart = torch.linalg.vector_norm((x_adv - x).flatten(1).double(), math.inf if norm == "linf" else 2, dim=1)
    rounding = torch.finfo(dtype).eps * (1 if norm == "linf" else 2 * x[:1].numel() ** 0.5)
    assert (apart <= eps + rounding).all()


# --- more effort never helps the defender


@pytest.fixture(scope="module")
def trained(sample):
    torch.manual_seed(0)
    model = aalp.models.lenet((4, 8, 32))
    aalp.fit(model, sample, "adv", aalp.PGD(0.2, 0.1, 3), epochs=3)
    return model


@pytest.mark.parametrize("reading", ["any", "last"])
def test_restarts_never_raise_accuracy(trained, digits, reading):
    x, y = digits
    right = []
    for restarts in (1, 2, 5):
        attack = aalp.PGD(0.15, 0.02, 10, restarts=restarts)
        generators = [torch.Generator().manual_seed(run) for run in range(restarts)]
        with engine.prepared(trained, x) as forward:
            right.append(attack.survivors(forward, x, y, [5, 10], reading=reading, generators=generators))
    assert (right[1] <= right[0]).all()
    assert (right[2] <= right[1]).all()
    assert right[0].any()


def test_restarts_of_a_call_never_raise_accuracy(trained, digits):
    x, y = digits
    right = []
    for restarts in (1, 2, 5):
        generator = torch.Generator().manual_seed(0)
        x_adv = aalp.PGD(0.15, 0.02, 10, restarts=restarts)(trained, x, y, generator=generator)
        right.append(trained(x_adv).argmax(1) == y)
    assert (right[1] <= right[0]).all()
    assert (right[2] <= right[1]).all()


# --- targets


def test_targets_are_what_restarts_and_readings_look_for(trained, digits):
    """An image is done when it is taken for its target; for a third class it goes on."""
    x, y = digits
    target, at = (y + 3) % 10, [0, 4, 8, 12]
    attack, noise = aalp.PGD(0.25, 0.1, 12), torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    trained.eval()
    said, _ = naive_trajectory(trained, attack, x, y, x + 0.25 * (2 * noise - 1), target)  # (steps + 1, N)
    free = {"any": ~(said == target).long().cumsum(0).bool()[at], "last": (said != target)[at]}
    assert ((said[-1] != y) & (said[-1] != target)).any()  # a third class
    for reading, outcome in free.items():
        generators = [torch.Generator().manual_seed(1)]
        found = attack.toward(target).survivors(trained, x, target, at, reading=reading, generators=generators)
        assert torch.equal(found, outcome)
        assert outcome.any()
        assert not outcome[-1].all()
    reached = []
    for restarts in (1, 10):
        generator = torch.Generator().manual_seed(1)
        x_adv = aalp.PGD(0.25, 0.15, 2, restarts=restarts)(trained, x, y, target=target, generator=generator)
        reached.append(trained(x_adv).argmax(1) == target)
    assert (reached[1] >= reached[0]).all()
    assert reached[1].sum() > reached[0].sum()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda y: y, "another class than the label, but 32 of 32"),
        (lambda y: y + 10, r"targets must lie in \[0, 9\]"),
        (lambda y: (y + 1)[:4] % 10, r"targets must be int64 of shape \(32,\)"),
        (lambda y: y.tolist(), "targets must be a torch tensor"),
    ],
)
def test_bad_targets(model, digits, change, said):
    x, y = digits
    for call in (
        ATTACKS["pgd"],
        lambda model, x, y, target: aalp.evaluate(model, (x, y), ATTACKS["pgd"], target=target),
    ):
        with pytest.raises(aalp.InputError, match=said):
            call(model, x, y, target=change(y))
    with pytest.raises(aalp.InputError, match="'trades_kl' knows no classes"):
        ATTACKS["trades"](model, x, y, target=(y + 1) % 10)


# --- readings


def naive_trajectory(model, attack, x, y, start, target=None):
    """What the model says of all iterates, one after the other, without dropping any image, and the last one."""
    x_adv, found = start.clamp((x - attack.eps).clamp(min=0), (x + attack.eps).clamp(max=1)), []
    for _ in range(attack.steps):
        found.append(model(x_adv).argmax(1))
        image = x_adv.detach().requires_grad_()
        logits = model(image)
        led = 0 if target is None else -torch.nn.functional.cross_entropy(logits, target, reduction="sum")
        loss = led or torch.nn.functional.cross_entropy(logits, y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, image)
        x_adv = x_adv + attack.step * gradient.sign()
        x_adv = torch.clamp(torch.min(torch.max(x_adv, x - attack.eps), x + attack.eps), 0, 1)
    return torch.stack([*found, model(x_adv).argmax(1)]), x_adv  # (steps + 1, N)


def test_readings_agree_with_a_trajectory_written_out(trained, digits):
    x, y = digits
    attack, at = aalp.PGD(0.2, 0.15, 12), [3, 7, 12]
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    trained.eval()
    said, last = naive_trajectory(trained, attack, x, y, x + 0.2 * (2 * noise - 1))
    right = said == y
    expected = {"any": right.long().cumprod(0).bool()[at], "last": right[at]}
    for reading, outcome in expected.items():
        generators = [torch.Generator().manual_seed(1)]
        found = attack.survivors(trained, x, y, at, reading=reading, generators=generators)
        assert torch.equal(found, outcome)
    assert not torch.equal(expected["any"], expected["last"])  # this case tells the readings apart
    x_adv = attack(trained, x, y, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(x_adv, last, rtol=0, atol=1e-6)


def test_images_outside_among_are_left_out_and_change_nothing_for_the_others(trained, digits):
    x, y = digits
    among = torch.arange(len(x)) % 3 != 0
    attack = aalp.PGD(0.15, 0.02, 10)
    with engine.prepared(trained, x) as forward:
        whole, part = (
            attack.survivors(forward, x, y, [5, 10], among=rows, generators=[torch.Generator().manual_seed(0)])
            for rows in (None, among)
        )
    assert torch.equal(part[:, among], whole[:, among])
    assert not part[:, ~among].any()


def test_same_start_gives_the_same_images_as_torchattacks(trained, digits):
    x, y = digits
    trained.eval()
    theirs = torchattacks.PGD(trained, eps=0.1, alpha=0.02, steps=10, random_start=False)(x, y)
    ours = aalp.PGD(0.1, 0.02, 10)(trained, x, y, start=x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert (ours - x).abs().max() > 0.09


def test_l2_is_torchattacks_pgdl2_and_targets_are_its_targets(trained, digits):
    x, y = digits
    target = (y + 1) % 10
    trained.eval()
    theirs = torchattacks.PGDL2(trained, eps=1.0, alpha=0.3, steps=10, random_start=False)
    ours = aalp.PGD(1.0, 0.3, 10, norm="l2")
    torch.testing.assert_close(ours(trained, x, y, start=x), theirs(x, y), rtol=0, atol=1e-5)
    theirs.set_mode_targeted_by_label(quiet=True)
    torch.testing.assert_close(ours(trained, x, y, target=target, start=x), theirs(x, target), rtol=0, atol=1e-5)


def test_same_generator_gives_the_same_images(trained, digits):
    for attack in ATTACKS.values():
        first, second, other = (
            attack(trained, *digits, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
        )
        assert torch.equal(first, second)
        assert torch.equal(first, other) == (attack.start == "clean")


@pytest.mark.parametrize(("start", "norm"), [("uniform", "linf"), ("gaussian", "linf"), ("uniform", "l2")])
@pytest.mark.parametrize("side", [3, 9, 28])
def test_an_image_starts_at_the_same_place_whatever_the_batches(start, norm, side):
    """With a gradient that pushes nowhere, an attack returns its start."""
    model, x, y = linear(torch.zeros(2, side * side)), torch.rand(10, 1, side, side), torch.zeros(10).long()
    attack = functools.partial(quiet, Attack(0.3, 0.3, 1, start=start, norm=norm))
    whole, parts = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    apart = [attack(model, x[i : i + 3], y[i : i + 3], generator=parts) for i in range(0, 10, 3)]
    assert torch.equal(attack(model, x, y, generator=whole), torch.cat(apart))


# --- what is left behind


@pytest.mark.parametrize("restarts", [1, 2])
def test_images_that_ask_for_a_gradient_get_none_through_the_attack(model, digits, generator, restarts):
    x, y = digits
    x_adv = aalp.PGD(0.1, 0.05, 3, restarts=restarts)(model, x.clone().requires_grad_(), y, generator=generator)
    assert not x_adv.requires_grad


# --- settings and bad input


def test_names_of_the_house_are_settings_of_one_loop():
    assert aalp.PGD(eps=0.3, step=0.01, steps=40) == Attack(0.3, 0.01, 40)
    assert aalp.FGSM(0.1) == Attack(0.1, 0.1, 1, start="clean")
    assert aalp.CW(0.3, 0.01, 40).loss == "margin"
    with pytest.raises(dataclasses.FrozenInstanceError):
        aalp.FGSM(0.1).eps = 0.2


def test_steps_that_cannot_reach_the_surface_warn():
    with pytest.warns(UserWarning, match=r"10 steps of 0\.01 move at most 0\.1, less than eps = 0\.3"):
        aalp.PGD(0.3, 0.01, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aalp.PGD(0.3, 0.01, 30)
        aalp.PGD(8 / 255, 2 / 255, 4)
        scaled(aalp.PGD(8 / 255, 2 / 255, 4), 1 / 3)
        scaled(quiet(aalp.PGD, 0.3, 0.01, 10), 0.5)  # said once is enough


@pytest.mark.parametrize(
    "bad", [{"eps": 0.0}, {"eps": -1}, {"step": 0}, {"steps": 0}, {"steps": 2.5}, {"eps": math.nan}]
)
def test_numbers_out_of_range_are_named(bad):
    with pytest.raises(aalp.InputError, match=f"{next(iter(bad))} must be .* got {next(iter(bad.values()))}"):
        aalp.PGD(**{"eps": 0.1, "step": 0.1, "steps": 1} | bad)


def test_a_radius_in_grey_levels_is_refused():
    with pytest.raises(aalp.InputError, match=r"eps must be at most 1.* got 8; write 8/255"):
        aalp.PGD(8, 2, 10)


def test_an_l2_ball_is_as_wide_as_its_images(model, digits):
    x, y = digits
    with pytest.raises(aalp.InputError, match=r"eps must be at most 28, .* got 128; .* write 128/255, not 128"):
        aalp.PGD(128, 32, 10, norm="l2")(model, x, y)
    with pytest.raises(aalp.InputError, match="eps must be at most 28"):
        aalp.evaluate(model, (x, y), aalp.PGD(28.1, 10, 10, norm="l2"))
    assert aalp.PGD(28, 10, 10, norm="l2")(model, x, y).shape == x.shape
    with pytest.raises(aalp.InputError, match="unknown norm 'l1'; known are linf, l2"):
        aalp.PGD(0.1, 0.1, 1, norm="l1")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: aalp.PGD(0.3, alpha=0.1, steps=10), "PGD has no argument 'alpha': say step"),
        (lambda: aalp.PGD(epsilon=0.3, step=0.1, steps=10), "say eps"),
        (lambda: aalp.PGD(0.3, 0.1, iters=10), "say steps"),
        (lambda: aalp.CW(0.3, 0.1, num_steps=10), "CW has no argument 'num_steps': say steps"),
        (lambda: aalp.PGD(0.3, 0.1, 10, targeted=True), "say target=labels where the attack is called"),
        (lambda: aalp.PGD(0.3, 0.1, 4)(None, None, None, targeted=True), "say target=labels where"),
        (
            lambda: aalp.evaluate(None, None, None, targets=None),
            "evaluate has no argument 'targets': say target=labels",
        ),
        (lambda: aalp.fit(None, None, "aalp", lr=1), r"say Recipe\(lr=...\)"),
        (lambda: aalp.Recipe(learning_rate=1), r"say Recipe\(lr=...\)"),
        (lambda: Attack(0.3, 0.1, 10, ord=2), "Attack has no argument 'ord': say norm"),
        (lambda: aalp.FGSM(0.3, alpha=0.1), "FGSM has no argument 'alpha': it takes eps, norm"),
    ],
)
def test_other_libraries_names_lead_to_ours(call, said):
    with pytest.raises(aalp.InputError, match=said):
        call()
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        aalp.PGD(0.3, 0.1, 10, colour=1)


def test_numbers_that_float32_cannot_hold_and_layers_without_a_size(digits):
    for make in (lambda: aalp.PGD(0.1, 1e39, 3), lambda: aalp.PGD(1e-46, 1.0, 3, norm="l2")):
        with pytest.raises(aalp.InputError, match="must lie between 1e-30 and 1e30"):
            make()
    lazy = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(10))
    with pytest.raises(aalp.InputError, match="call it once on a batch"):
        ATTACKS["pgd"](lazy, *digits)
    lazy(digits[0])
    assert ATTACKS["pgd"](lazy, *digits).shape == digits[0].shape


def test_unknown_loss_or_start_suggests_the_nearest():
    with pytest.raises(aalp.InputError, match="Did you mean 'margin'"):
        Attack(0.1, 0.1, 1, loss="margins")
    with pytest.raises(aalp.InputError, match="known are clean, uniform, gaussian"):
        Attack(0.1, 0.1, 1, start="zero")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x * 255, y), r"images must lie in \[0, 1\]"),
        (lambda x, y: (x - 0.1, y), r"got values in \[-0.1"),
        (lambda x, y: (x.where(x > 0, torch.nan), y), "nan"),
        (lambda x, y: ((x * 255).byte(), y), "floating point"),
        (lambda x, y: (x.to_sparse(), y), "images must be a dense tensor"),
        (lambda x, y: (x.to("meta"), y), "images must be a dense tensor"),
        (lambda x, y: (x, y + 10), r"labels must lie in \[0, 9\]"),
        (lambda x, y: (x, y[:-1]), r"labels must be int64 of shape \(32,\)"),
        (lambda x, y: (x, y.float()), "labels must be int64"),
        (lambda x, y: (x[:, :, :9], y), r"cannot take images of shape \(1, 9, 28\)"),
    ],
)
def test_bad_images_and_labels(model, digits, change, said):
    with pytest.raises(aalp.InputError, match=said):
        ATTACKS["pgd"](model, *change(*digits))


def test_images_that_leave_the_range_by_rounding_are_clamped(model, digits):
    """As after a normalisation that was undone."""
    x, y = digits
    assert x.min() == 0
    assert x.max() == 1
    rounded = torch.where(x == 0, -3e-8, torch.where(x == 1, 1 + 2e-7, x))
    attack = Attack(0.1, 0.05, 3, start="clean")
    x_adv = attack(model, rounded, y)
    assert torch.equal(x_adv, attack(model, x, y))
    report = aalp.evaluate(model, (rounded, y), attack)
    assert report["clean"].accuracy == aalp.evaluate(model, (x, y), attack)["clean"].accuracy
    with pytest.raises(aalp.InputError, match=r"got values in \[-1e-05"):
        attack(model, x - 1e-5, y)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda x: {"start": x[0]}, r"start must have the images' shape \(\d+, 1, 28, 28\), got \(1, 28"),
        (lambda x: {"start": x.where(x > 0, torch.nan)}, "the start must be finite"),
        (lambda x: {"start": x.long()}, "the start must be finite and floating point, .* got torch.int64"),
        (lambda x: {"generator": 0}, "the generator must be a torch.Generator, got int"),
    ],
)
def test_bad_starts_and_generators(model, digits, given, said):
    x, y = digits
    with pytest.raises(aalp.InputError, match=said):
        ATTACKS["pgd"](model, x, y, **given(x))
    assert torch.equal(ATTACKS["pgd"](model, x, y, start=x.double()), ATTACKS["pgd"](model, x, y, start=x))


def test_whatever_a_model_says_of_images_that_it_cannot_take_is_bad_input(digits):
    class Asserts(torch.nn.Module):
        def forward(self, x):
            assert x.shape[-1] == 224, "Wrong image size!"

    with pytest.raises(aalp.InputError, match=r"cannot take images of shape \(1, 28, 28\): Wrong image size!"):
        ATTACKS["pgd"](Asserts(), *digits)
