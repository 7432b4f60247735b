import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from aalp_lib import losses


def test_alp_is_summed_over_classes_not_averaged():
    z = torch.zeros(2, 4)
    assert losses.alp(z, z + torch.tensor([1.0, 2.0, 0.0, 2.0])).tolist() == [9.0, 9.0]


def test_adaptive_alp_is_alp_times_clean_confidence():
    z_clean = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # softmax (3/4, 1/4) and (1/2, 1/2)
    z_adv = z_clean + 1
    y = torch.tensor([0, 1])
    torch.testing.assert_close(losses.adaptive_alp(z_clean, z_adv, y), torch.tensor([0.75 * 2, 0.5 * 2]))


def test_no_gradient_flows_through_the_weight_unless_asked():
    z_clean = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    z_adv, y = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    weight = losses.confidence(z_clean, y).detach()
    (held,) = torch.autograd.grad(losses.adaptive_alp(z_clean, z_adv, y).sum(), z_clean)
    (expected,) = torch.autograd.grad((weight * losses.alp(z_clean, z_adv)).sum(), z_clean)
    (free,) = torch.autograd.grad(losses.adaptive_alp(z_clean, z_adv, y, detach=False).sum(), z_clean)
    torch.testing.assert_close(held, expected, rtol=0, atol=0)
    assert (free - held).abs().max() > 1e-3


def test_margin_is_right_when_all_logits_are_negative():
    z = torch.tensor([[-3.0, -1.0, -2.0]])
    assert losses.margin(z, torch.tensor([1])).item() == -1.0
    assert losses.margin(z, torch.tensor([0])).item() == 2.0


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_margin_is_positive_exactly_when_misclassified(classes, seed):
    generator = torch.Generator().manual_seed(seed)
    z = 10 * torch.randn(20, classes, generator=generator) - 20
    y = torch.randint(classes, (20,), generator=generator)
    assert torch.equal(losses.margin(z, y) > 0, z.argmax(1) != y)


@settings(deadline=None)
@given(st.integers(2, 10), st.floats(0.1, 20), st.integers(0, 2**32 - 1))
def test_exact_cross_entropy_is_cross_entropy_with_the_gradient_of_float64(classes, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    z = (scale * torch.randn(20, classes, generator=generator)).requires_grad_()
    y = torch.randint(classes, (20,), generator=generator)
    exact, plain = losses.exact_cross_entropy(z, y), losses.cross_entropy(z.double(), y)
    torch.testing.assert_close(exact.double(), plain, rtol=1e-4, atol=1e-6)
    found, expected = (torch.autograd.grad(loss.sum(), z)[0] for loss in (exact, plain))
    near = losses.margin(z, y) > -20  # further on float64 rounds it too, before it loses it
    torch.testing.assert_close(found[near], expected[near], rtol=1e-4, atol=1e-30)


def test_exact_cross_entropy_keeps_the_true_classs_part_of_the_gradient_of_a_sure_network():
    for lead in (20.0, 40.0, 80.0):
        z, y = torch.tensor([[0.0, -lead, -lead]], requires_grad=True), torch.tensor([0])
        (plain,) = torch.autograd.grad(losses.cross_entropy(z, y).sum(), z)
        (exact,) = torch.autograd.grad(losses.exact_cross_entropy(z, y).sum(), z)
        assert plain[0, 0] == 0 > exact[0, 0]
        assert exact[0, 0].item() == pytest.approx(-2 * math.exp(-lead), rel=1e-4)


def test_trades_kl_closed_form_and_zero_at_equal_logits():
    p, q = torch.tensor([[0.25, 0.75]]), torch.tensor([[0.5, 0.5]])
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert abs(losses.trades_kl(p.log(), q.log()).item() - expected) < 1e-6
    z = torch.randn(6, 10)
    assert losses.trades_kl(z, z).abs().max() == 0


def test_bfloat16_logits_give_float32_losses():
    z, y = torch.randn(3, 4).bfloat16(), torch.tensor([0, 1, 2])
    found = (losses.cross_entropy(z, y), losses.alp(z, z), losses.margin(z, y), losses.trades_kl(z, z))
    assert {loss.dtype for loss in found} == {torch.float32}
