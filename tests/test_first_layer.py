"""The input gradient of a first convolution in blocks of pixels: the same numbers, nothing left behind."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import aalp_lib as aalp
from aalp_lib import first_layer


def gradient(model, x, blocks):
    leaf = x.clone().requires_grad_()
    with first_layer.switched(blocks), first_layer.in_blocks(model):
        (found,) = torch.autograd.grad(model(leaf).square().sum(), leaf)
    return found


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 4),
    outputs=st.integers(1, 20),
    size=st.sampled_from([1, 2, 3, 5, 7]),
    height=st.sampled_from([4, 8, 12]),
    width=st.sampled_from([4, 8, 20]),
    data=st.data(),
)
def test_is_the_gradient(channels, outputs, size, height, width, data):
    padding = data.draw(st.integers(max(0, -(-(size - min(height, width)) // 2)), size - 1))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, outputs, size, padding=padding)).double()
    x = torch.rand(2, channels, height, width, dtype=torch.double)
    assert torch.allclose(gradient(model, x, True), gradient(model, x, False))


def test_block_weights_gather_the_transposed_convolution():
    weight, g = torch.randn(5, 2, 3, 3, dtype=torch.double), torch.randn(1, 5, 8, 8, dtype=torch.double)
    gathered = F.conv2d(g, first_layer.block_weights(weight, 2), stride=2, padding=1)
    assert torch.allclose(F.pixel_shuffle(gathered, 2), F.conv_transpose2d(g, weight, padding=1))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 8, 3, stride=2),
        nn.Conv2d(1, 8, 3, dilation=2),
        nn.Conv2d(4, 8, 3, groups=2),
        nn.Conv2d(5, 8, 3),
        nn.Conv2d(1, 8, 3, padding=3),
        nn.Conv2d(1, 8, 3, padding="same"),
        nn.Conv2d(1, 8, (3, 5)),
        nn.Conv2d(1, 8, 3, padding=1, padding_mode="reflect"),
    ],
    ids=str,
)
def test_others_are_left_alone(layer):
    with first_layer.in_blocks(nn.Sequential(layer)):
        assert "forward" not in vars(layer)


def test_used_where_it_fits_and_taken_off_again():
    """Also where images do not divide into blocks, within itself, and after an error."""
    model = aalp.models.lenet()
    layer = model.body[0]
    with first_layer.in_blocks(model):
        assert "forward" in vars(layer)
        with first_layer.in_blocks(model):
            pass
        assert "forward" in vars(layer)
    with pytest.raises(ZeroDivisionError), first_layer.in_blocks(model):
        raise ZeroDivisionError
    assert "forward" not in vars(layer)
    with first_layer.switched(False), first_layer.in_blocks(model):
        assert "forward" not in vars(layer)
    odd = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1))
    x = torch.rand(2, 1, 7, 9)
    assert torch.equal(gradient(odd, x, True), gradient(odd, x, False))


@pytest.mark.parametrize("network", ["lenet", "resnet32"])
def test_attacks_make_the_same_images(network):
    """But for pixels whose gradient is 0 up to rounding: its sign is rounding's too."""
    torch.manual_seed(0)
    model = aalp.models.MODELS[network]().eval()
    x = torch.rand(8, 1, 28, 28) if network == "lenet" else torch.rand(8, 3, 32, 32)
    y = torch.arange(8)
    attack = aalp.PGD(0.1, 0.02, 10)
    fast = attack(model, x, y, start=x)
    with first_layer.switched(False):
        plain = attack(model, x, y, start=x)
    assert ((fast - plain).abs() > 1e-6).float().mean() < 0.01
    assert torch.allclose(model(fast), model(plain), atol=1e-2)


def test_weights_change_between_attacks():
    """The blocks are made anew for each attack: training moves the weights in between."""
    torch.manual_seed(0)
    model = aalp.models.lenet((4, 8, 16))
    x, y = torch.rand(4, 1, 28, 28), torch.arange(4)
    for _ in range(2):
        fast = aalp.FGSM(0.1)(model, x, y)
        with first_layer.switched(False):
            assert (aalp.FGSM(0.1)(model, x, y) - fast).abs().gt(1e-6).float().mean() < 0.01
        with torch.no_grad():
            model.body[0].weight.neg_()
