import pytest
import torch
from conftest import linear

import aalp_lib as aalp
from aalp_lib import engine, losses, taylor


@pytest.fixture
def smooth(digits):
    """A network of all the layers that matter, with batch norm, in float64, and some digits."""
    torch.manual_seed(0)
    x, y = digits
    return aalp.models.resnet9(4, in_channels=1, mean=(0.1,), std=(0.3,)).double(), x[:6].double(), y[:6]


def test_gradient_form_is_first_order_at_the_gradient_step(smooth):
    """The identity that Eq. 3 and 4 rest on, to float64 accuracy."""
    model, x, y = smooth
    step = 0.37
    image = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses.cross_entropy(engine.private(model)(image), y).sum(), image)
    expected = taylor.pairing_first_order(model, x, step * gradient)
    torch.testing.assert_close(taylor.pairing_gradient_form(model, x, y, step), expected, rtol=1e-10, atol=0)


def test_first_order_is_the_limit_of_the_exact_loss(smooth):
    """On noise: on digits it fails, since max-pooling over a constant background sits on a kink."""
    model, x, _ = smooth
    random = torch.Generator().manual_seed(0)
    x, delta = (torch.rand(x.shape, dtype=x.dtype, generator=random) for _ in range(2))
    first = taylor.pairing_first_order(model, x, delta)
    for size in (1e-5, 1e-6):
        exact = taylor.pairing_exact(model, x, size * delta) / size**2
        torch.testing.assert_close(exact, first, rtol=1e-2, atol=1e-8)


def test_all_agree_with_an_explicit_jacobian_on_a_linear_model():
    torch.manual_seed(0)
    weight, x = torch.randn(3, 4, dtype=torch.float64), torch.rand(5, 1, 2, 2, dtype=torch.float64)
    y, delta = torch.tensor([0, 1, 2, 0, 1]), torch.randn(5, 1, 2, 2, dtype=torch.float64)
    model = linear(weight)
    expected = (delta.flatten(1) @ weight.T).square().sum(1)
    torch.testing.assert_close(taylor.pairing_exact(model, x, delta), expected)
    torch.testing.assert_close(taylor.pairing_first_order(model, x, delta), expected)
    g = model(x).softmax(1) - torch.nn.functional.one_hot(y, 3)
    gradient_form = 0.25 * (g @ weight @ weight.T).square().sum(1)
    torch.testing.assert_close(taylor.pairing_gradient_form(model, x, y, 0.5), gradient_form)


def test_works_on_wrapped_networks_and_leaves_modes_alone(smooth):
    _, x, y = smooth
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)).double().train()
    model = aalp.models.wrap(module)
    assert taylor.pairing_gradient_form(model, x, y, 1.0).shape == (6,)
    assert module.training
