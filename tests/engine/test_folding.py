"""A network as attacks see it on a CPU: the same numbers with less work, and nothing left behind."""

from unittest import mock

import pytest
import torch
import torchvision
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

import aalp_lib as aalp
from aalp_lib.engine import folding


def gradient(model, x, on):
    leaf = x.clone().requires_grad_()
    with folding.switched(on), folding.network(model):
        (found,) = torch.autograd.grad(model(leaf).square().sum(), leaf)
    return found


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


def lent(model):
    """The layers that are changed inside."""
    with folding.network(model):
        found = [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert not any("forward" in vars(module) for module in model.modules())
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
def test_blocks_give_the_gradient(channels, outputs, size, height, width, data):
    padding = data.draw(st.integers(max(0, -(-(size - min(height, width)) // 2)), size - 1))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, outputs, size, padding=padding)).double()
    x = torch.rand(2, channels, height, width, dtype=torch.double)
    assert torch.allclose(gradient(model, x, True), gradient(model, x, False))


def test_block_weights_gather_the_transposed_convolution():
    weight, g = torch.randn(5, 2, 3, 3, dtype=torch.double), torch.randn(1, 5, 8, 8, dtype=torch.double)
    gathered = F.conv2d(g, folding.block_weights(weight, 2), stride=2, padding=1)
    assert torch.allclose(F.pixel_shuffle(gathered, 2), F.conv_transpose2d(g, weight, padding=1))


@pytest.mark.parametrize(
    ("make", "norms"),
    [
        (aalp.models.resnet32, 31),
        (lambda: aalp.models.resnet9(8), 8),
        (lambda: aalp.models.wrap(torchvision.models.resnet18(num_classes=4)), 20),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4, affine=False)), 1),
    ],
    ids=["resnet32", "resnet9", "torchvision's resnet18", "without affine"],
)
def test_batch_norms_are_folded_into_the_convolutions_before_them(make, norms):
    model = with_statistics(make())
    x = torch.rand(2, 3, 32, 32, dtype=torch.double)
    with folding.network(model):
        inside = model(x)
        folded = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and "forward" in vars(m)]
    assert len(folded) == norms
    assert torch.allclose(inside, model(x))
    assert torch.allclose(gradient(model, x, True), gradient(model, x, False))


class Twice(nn.Module):
    """A convolution whose output goes to a batch norm and past it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.seen = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), 0

    def forward(self, x):
        self.seen += 1
        z = self.conv(x)
        return z + self.norm(z)


class Unsteady(Twice):
    """Its path depends on the numbers, so nothing can be traced."""

    def forward(self, x):
        return self.norm(self.conv(x)) if x.sum() > 0 else self.conv(x)


def test_what_cannot_be_folded_is_left_alone():
    assert lent(Twice().eval()) == lent(Unsteady().eval()) == []
    shared = nn.BatchNorm2d(8)
    assert lent(nn.Sequential(nn.Conv2d(8, 8, 1), shared, nn.Conv2d(8, 8, 1), shared).eval()) == []
    pair = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    assert lent(pair.train()) == []
    assert lent(pair.eval()) == ["0", "1"]
    pair[1] = nn.ReLU()  # what was known of it is known no longer
    assert lent(pair) == []
    watched = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)).eval()
    watched[0].register_forward_hook(lambda *_: None)
    assert lent(watched) == []


def test_looking_for_pairs_runs_a_copy():
    model = Twice().eval()
    lent(model)
    assert model.seen == 0


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
def test_convolutions_of_another_kind_are_left_alone(layer):
    assert lent(nn.Sequential(layer)) == []


def test_used_where_it_fits_and_taken_off_again():
    """Also where images do not divide into blocks, within itself, and after an error."""
    model = aalp.models.lenet()
    with folding.network(model):
        assert lent_inside(model) == ["body.0"]
        with folding.network(model):
            pass
        assert lent_inside(model) == ["body.0"]
    with pytest.raises(ZeroDivisionError), folding.network(model):
        raise ZeroDivisionError
    assert lent_inside(model) == []
    with folding.switched(False):
        assert lent(model) == []
    odd = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1))
    x = torch.rand(2, 1, 7, 9)
    assert torch.allclose(gradient(odd, x, True), gradient(odd, x, False))


def lent_inside(model):
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


@pytest.mark.parametrize("network", ["lenet", "resnet32"])
def test_attacks_make_the_same_images(network):
    """In float64, where the sign of a gradient is hardly ever rounding's; over ten steps a sign that is spreads."""
    torch.manual_seed(0)
    model = aalp.models.MODELS[network]().eval().double()
    x = torch.rand(8, 1, 28, 28) if network == "lenet" else torch.rand(8, 3, 32, 32)
    x, y = x.double(), torch.arange(8)
    attack = aalp.PGD(0.1, 0.02, 10)
    fast = attack(model, x, y, start=x)
    with folding.switched(False):
        plain = attack(model, x, y, start=x)
    assert ((fast - plain).abs() > 1e-9).double().mean() < 1e-3


def test_weights_change_between_attacks():
    """What is folded and gathered is made anew for each attack: training moves the weights in between."""
    torch.manual_seed(0)
    model = aalp.models.lenet((4, 8, 16))
    x, y = torch.rand(4, 1, 28, 28), torch.arange(4)
    for _ in range(2):
        fast = aalp.FGSM(0.1)(model, x, y)
        with folding.switched(False):
            assert (aalp.FGSM(0.1)(model, x, y) - fast).abs().gt(1e-6).float().mean() < 0.01
        with torch.no_grad():
            model.body[0].weight.neg_()


def test_a_large_batch_is_attacked_in_parts_and_gets_the_same_images():
    torch.manual_seed(0)
    model = aalp.models.lenet().double().eval()
    x, y = torch.rand(300, 1, 28, 28, dtype=torch.double), torch.randint(10, (300,))
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    attack = aalp.PGD(0.1, 0.05, 3, restarts=2)

    def attacked(parts):
        with mock.patch.object(folding, "PART", folding.PART if parts else len(x)):
            images = attack(model, x, y, generator=torch.Generator().manual_seed(0))
            starts = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
            read = [attack.survivors(model, x, y, [1, 3], reading=how, generators=starts) for how in ("any", "last")]
            return images, read

    images, alive = attacked(True)
    assert {128, 44} <= set(sizes)
    expected, expected_alive = attacked(False)
    assert torch.allclose(images, expected)
    assert all(torch.equal(found, right) for found, right in zip(alive, expected_alive, strict=True))


@pytest.mark.parametrize("forward", [nn.Flatten().train(), lambda x: x.flatten(1)], ids=["training", "no module"])
def test_what_may_mix_the_images_of_a_batch_is_given_all_of_it(forward):
    assert len(folding.parts(forward, torch.arange(1000))) == 1
    with folding.switched(False):
        assert len(folding.parts(nn.Flatten().eval(), torch.arange(1000))) == 1
