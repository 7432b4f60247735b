"""Leaner layers on a CPU: the same numbers with less work, wherever they can be had."""

import pytest
import torch
import torchvision
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

import aalp_lib as aalp
from aalp_lib import engine
from aalp_lib.engine import folding


def gradient(forward, x):
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(forward(leaf).square().sum(), leaf)
    return found


def pairs(model, shape=(3, 32, 32)):
    """Convolutions and batch norms that are folded."""
    x = torch.rand(2, *shape, dtype=next(model.parameters()).dtype)
    return folding.pairs(engine.private(model), x)


def with_statistics(model):
    """In float64 and evaluation mode, batch norms with numbers in which a slip would show."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.weight, module.bias):
                if value is not None:
                    nn.init.normal_(value)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.double().eval()


def end(channels):
    """From a map of features to three logits."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 3))


def assert_the_same(model, x):
    with engine.prepared(model, x) as forward:
        torch.testing.assert_close(forward(x), model(x))
        torch.testing.assert_close(gradient(forward, x), gradient(model, x))


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 4),
    outputs=st.integers(1, 20),
    size=st.sampled_from([1, 2, 3, 5, 7]),
    height=st.sampled_from([4, 7, 8, 12]),
    width=st.sampled_from([4, 8, 9, 20]),
    data=st.data(),
)
def test_blocks_give_the_gradient(channels, outputs, size, height, width, data):
    """Also where images do not divide into blocks."""
    padding = data.draw(st.integers(max(0, -(-(size - min(height, width)) // 2)), size - 1))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, outputs, size, padding=padding), end(outputs)).double()
    assert_the_same(model, torch.rand(2, channels, height, width, dtype=torch.double))


@pytest.mark.parametrize(
    ("make", "norms"),
    [
        (aalp.models.resnet32, 31),
        (lambda: aalp.models.resnet9(8), 8),
        (lambda: aalp.models.wrap(torchvision.models.resnet18(num_classes=4)), 20),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4, affine=False), end(4)), 1),
    ],
    ids=["resnet32", "resnet9", "torchvision's resnet18", "without affine"],
)
def test_batch_norms_are_folded_into_the_convolutions_before_them(make, norms):
    model = with_statistics(make())
    assert len(pairs(model)) == norms
    assert_the_same(model, torch.rand(2, 3, 32, 32, dtype=torch.double))


class Net(nn.Module):
    """A convolution, a batch norm, and what a test has them do."""

    def __init__(self, way):
        super().__init__()
        self.conv, self.norm, self.other, self.end = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8), end(8)
        self.way, self.flag = way, False

    def forward(self, x):
        return self.end(self.way(self, x))


UNFOLDED = {
    "used beside": lambda net, x: (z := net.conv(x)) + net.norm(z),
    "used in place": lambda net, x: net.norm(net.conv(x).relu_()),
    "used twice": lambda net, x: net.norm(net.conv(x)) + net.norm(net.conv(2 * x)),
    "two batch norms": lambda net, x: net.norm(z := net.conv(x)) + net.other(z),
    "detached beside": lambda net, x: net.norm(z := net.conv(x)) * z.detach().mean(),
    "batch norm alone": lambda net, x: net.norm(net.conv(x) + 1),
}


@pytest.mark.parametrize("way", UNFOLDED.values(), ids=UNFOLDED)
def test_what_cannot_be_folded_is_left_alone(way):
    model = with_statistics(Net(way))
    assert not pairs(model, (3, 8, 8))
    assert_the_same(model, torch.rand(4, 3, 8, 8, dtype=torch.double))


def test_layers_with_hooks_are_left_alone():
    model, seen = with_statistics(Net(lambda net, x: net.norm(net.conv(x)))), []
    model.conv.register_forward_hook(lambda _, __, out: seen.append(out))
    assert not pairs(model, (3, 8, 8))
    x = torch.rand(4, 3, 8, 8, dtype=torch.double)
    with engine.prepared(model, x) as forward:
        forward(x)
    torch.testing.assert_close(seen[-1], F.conv2d(x, model.conv.weight, model.conv.bias))


WAYS = {
    "by a flag": (lambda net, x: (net.other if net.flag else net.norm)(net.conv(x)), True),
    "beside": (lambda net, x: net.norm(z := net.conv(x)) + (z if net.flag else 0), True),
    "by the numbers": (lambda net, x: (net.other if x.mean() > 0.9 else net.norm)(net.conv(x)), False),
    "past it": (lambda net, x: net.conv(x) if x.mean() > 0.9 else net.norm(net.conv(x)), False),
}


@pytest.mark.parametrize(("way", "flag"), WAYS.values(), ids=WAYS)
def test_another_way_than_on_the_first_look_is_seen(way, flag):
    """By a flag that was set since, or within one use by what the images are."""
    model = with_statistics(Net(way))
    x = torch.rand(4, 3, 8, 8, dtype=torch.double)
    assert_the_same(model, x)
    model.flag = flag
    bright = torch.full_like(x, 0.95)
    with engine.prepared(model, x) as forward:
        for images in (x, bright, x):
            torch.testing.assert_close(forward(images), model(images))
            torch.testing.assert_close(gradient(forward, images), gradient(model, images))


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
def test_convolutions_of_another_kind_are_right_too(layer):
    x = torch.rand(2, layer.in_channels, 8, 8, dtype=torch.double)
    assert_the_same(nn.Sequential(layer, end(8)).double(), x)


@pytest.mark.parametrize("network", ["lenet", "resnet32"])
def test_attacks_make_the_images_of_the_plain_loop(network):
    """In float64, where the sign of a gradient is hardly ever rounding's; over ten steps a sign that is spreads."""
    torch.manual_seed(0)
    model = aalp.models.MODELS[network]().eval().double()
    x = torch.rand(8, 1, 28, 28) if network == "lenet" else torch.rand(8, 3, 32, 32)
    x, y = x.double(), torch.arange(8)
    attack = aalp.PGD(0.1, 0.02, 10)
    fast, plain = attack(model, x, y, start=x), attack.perturb(model, x, y, start=x)
    assert ((fast - plain).abs() > 1e-9).double().mean() < 1e-3


def test_a_large_batch_is_attacked_in_parts_and_gets_the_same_images():
    torch.manual_seed(0)
    model, sizes = aalp.models.lenet().double().eval(), []
    x, y = torch.rand(300, 1, 28, 28, dtype=torch.double), torch.randint(10, (300,))
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    attack = aalp.PGD(0.1, 0.05, 3, restarts=2)

    def attacked(forward):
        images = attack.perturb(forward, x, y, generator=torch.Generator().manual_seed(0))
        starts = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        return images, [attack.survivors(forward, x, y, [1, 3], reading=r, generators=starts) for r in ("any", "last")]

    with engine.prepared(model, x) as forward:
        images, alive = attacked(forward)
    assert {128, 44} <= set(sizes)
    sizes.clear()
    expected, expected_alive = attacked(model)
    assert 300 in sizes  # what is not known to treat every image on its own is given all of them
    assert torch.allclose(images, expected)
    assert all(torch.equal(found, right) for found, right in zip(alive, expected_alive, strict=True))
