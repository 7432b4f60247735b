import captum.attr
import pytest
import torch
from conftest import linear
from hypothesis import given, strategies as st

import aalp_lib as aalp
from aalp_lib import contributions, losses
from aalp_lib.contributions import guided_dropout_mask


def head_gradient(model, x, y):
    """dLoss/dA in closed form: (softmax - one hot) W."""
    a = model.features(x)
    p = model.head(a).softmax(1) - torch.nn.functional.one_hot(y, 10)
    return a, p @ model.head.weight


def test_eq_5_and_7_closed_form(model, digits):
    model.eval()
    a, gradient = head_gradient(model, *digits)
    torch.testing.assert_close(contributions.loss_gradient(model, *digits), gradient.abs().mean(0))
    torch.testing.assert_close(contributions.scores(model, *digits), (gradient * a).abs().mean(0))


def test_gradient_matches_finite_differences(model, digits):
    model.double().eval()
    a, y = model.features(digits[0].double()).detach(), digits[1]
    gradient = contributions.feature_gradient(model.head, a, y)
    for feature in (0, 7, 31):
        move = torch.zeros_like(a)
        move[:, feature] = 1e-6
        up, down = (losses.cross_entropy(model.head(a + sign * move), y) for sign in (1, -1))
        torch.testing.assert_close(gradient[:, feature], (up - down) / 2e-6, rtol=1e-5, atol=1e-9)


def test_contributions_do_not_depend_on_the_batch_size(model, digits):
    x, y = digits
    for function in (contributions.loss_gradient, contributions.scores):
        halves = torch.stack([function(model, x[:16], y[:16]), function(model, x[16:], y[16:])]).mean(0)
        torch.testing.assert_close(function(model, x, y), halves)
        twice = function(model, x.repeat(2, 1, 1, 1), y.repeat(2))
        torch.testing.assert_close(twice, function(model, x, y))


def test_modes_and_gradients_are_left_alone(model, digits):
    model.train()
    contributions.scores(model, *digits)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


# --- Eq. 8


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_half_keeps_exactly_the_upper_half_whatever_the_ties(count, seed, values):
    scores = torch.randint(values, (count,), generator=torch.Generator().manual_seed(seed)).float()
    mask = guided_dropout_mask(scores, "half")
    assert mask.sum() == count - count // 2
    if 0 < mask.sum() < count:
        assert scores[mask].min() >= scores[~mask].max()


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40, unique=True))
def test_median_keeps_the_upper_half_when_all_differ(values):
    scores = torch.tensor(values, dtype=torch.float64)
    assert guided_dropout_mask(scores).sum() == len(values) - len(values) // 2


def test_median_is_the_mean_of_the_two_middle_values():
    scores = torch.rand(10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(guided_dropout_mask(scores), scores >= scores.quantile(0.5))


def test_with_more_than_half_dead_the_median_rule_keeps_everything():
    scores = torch.cat([torch.zeros(9), torch.arange(1.0, 8)])
    assert guided_dropout_mask(scores).all()
    assert guided_dropout_mask(scores, "half").sum() == 8


def test_every_row_gets_a_mask_of_its_own():
    scores = torch.tensor([[1.0, 2, 3, 4], [4.0, 3, 2, 1]])
    for rule in ("median", "half"):
        expected = [[False, False, True, True], [True, True, False, False]]
        assert guided_dropout_mask(scores, rule).tolist() == expected


def test_unknown_rule():
    with pytest.raises(aalp.InputError, match="known are median, half"):
        guided_dropout_mask(torch.rand(4), "mean")


# --- activation maps


@pytest.fixture
def convolutional(digits):
    torch.manual_seed(0)
    model = aalp.models.lenet((4, 8, 32)).eval()
    return model, model.body[3], *digits


def test_grad_cam_agrees_with_captum(convolutional):
    model, layer, x, y = convolutional
    expected = captum.attr.LayerGradCam(model, layer).attribute(x, y, relu_attributions=True)[:, 0]
    found = contributions.activation_map(model, x, y, layer=layer, kind="grad-cam")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert found.max() > 0


def test_eq_6_agrees_with_captums_gradient_times_activation(convolutional):
    model, layer, x, y = convolutional

    def loss(images):
        return losses.cross_entropy(model(images), y)

    product = captum.attr.LayerGradientXActivation(loss, layer).attribute(x)
    found = contributions.activation_map(model, x, y)
    torch.testing.assert_close(found, product.relu().sum(1), rtol=1e-4, atol=1e-7)
    assert found.shape == (32, 14, 14)


def test_activation_map_of_a_network_with_operations_in_place(digits):
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(inplace=True), torch.nn.Flatten(), torch.nn.Linear(4 * 26**2, 10))
    model = aalp.models.wrap(torch.nn.Sequential(*layers))
    plain = aalp.models.wrap(torch.nn.Sequential(layers[0], torch.nn.ReLU(), *layers[2:]))
    found = contributions.activation_map(model, *digits)
    torch.testing.assert_close(found, contributions.activation_map(plain, *digits))


def test_activation_map_needs_a_convolution(digits):
    with pytest.raises(aalp.InputError, match="no convolution"):
        contributions.activation_map(linear(torch.randn(10, 784)), *digits)
