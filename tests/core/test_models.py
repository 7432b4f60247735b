import copy
import json

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import aalp_lib as aalp
from aalp_lib import models


def weights(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("model", "shape", "features", "count"),
    [
        (models.lenet(), (1, 28, 28), 256, 417_482),
        (models.lenet((32, 64, 1024)), (1, 28, 28), 1024, 3_274_634),  # Madry et al.'s network
        (models.resnet9(), (3, 32, 32), 512, 6_573_130),
        (models.resnet9(16), (3, 32, 32), 128, 412_954),
        (models.resnet32(), (3, 32, 32), 64, 464_154),  # "0.46M" in He et al. 2016, table 6
        (models.resnet32(64), (3, 32, 32), 256, 7_386_186),
    ],
)
def test_paper_networks(model, shape, features, count):
    x = torch.rand(2, *shape)
    assert weights(model) == count
    assert model.features(x).shape == (2, features)
    assert model(x).shape == (2, 10)


def test_logits_are_the_head_of_the_features(model, digits):
    assert torch.equal(model(digits[0]), model.head(model.features(digits[0])))


def test_normalisation_is_inside(digits):
    torch.manual_seed(0)
    plain = models.lenet(mean=(0.0,), std=(1.0,))
    inside = models.lenet(mean=(0.2,), std=(0.5,))
    inside.load_state_dict(plain.state_dict())
    torch.testing.assert_close(inside(digits[0]), plain((digits[0] - 0.2) / 0.5))


def test_build_repeats_a_network_from_its_description():
    for model in (models.lenet((2, 4, 8), image_size=16), models.resnet9(4, classes=3), models.resnet32()):
        again = models.build(model.config)
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in model.state_dict().items()
        }


def test_unknown_network_is_named():
    with pytest.raises(aalp.InputError, match=r"unknown model 'lenett'.*Did you mean 'lenet'"):
        models.build({"name": "lenett"})
    with pytest.raises(aalp.InputError, match="multiple of 4, got 30"):
        models.lenet(image_size=30)
    with pytest.raises(aalp.InputError, match="mean has 3 values for 1 channels"):
        models.resnet9(in_channels=1)


def test_images_of_another_kind_than_the_normalisation_are_refused():
    model = models.resnet9(4)
    with pytest.raises(aalp.InputError, match="divide uint8 images by 255"):
        model(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(aalp.InputError, match=r"needs images of 3 channels, got shape \(2, 1, 16, 16\)"):
        model.features(torch.rand(2, 1, 16, 16))


# --- wrap


class LateHead(nn.Module):
    """Its Linear is registered first and used last."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(6, 3)
        self.first = nn.Linear(4, 6)

    def forward(self, x):
        return self.last(torch.relu(self.first(x.flatten(1))))


class Branching(nn.Module):
    """Cannot be traced: its way depends on the values."""

    def __init__(self, scale=1):
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(4, 6), nn.Linear(6, 3), scale

    def forward(self, x):
        if x.sum() < -1:
            x = -x
        logits = self.last(torch.relu(self.first(x.flatten(1))))
        return logits * self.scale if self.scale != 1 else logits


class OwnLinear(nn.Linear):
    """A Linear with a forward of its own, as timm's heads have."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias)


class BranchingLateHead(LateHead):
    """Its way depends on the values, and its Linear is registered first."""

    def forward(self, x):
        return super().forward(-x if x.sum() < -1 else x)


class Looping(Branching):
    """Waits for its images, in a loop without an end if they are not looked at."""

    def forward(self, x):
        while x.max() > 0.5:
            x = x / 2
        return super().forward(x)


@pytest.mark.parametrize(
    ("module", "shape", "features"),
    [
        (torchvision.models.resnet18(num_classes=7), (3, 64, 64), 512),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), (1, 2, 2), 5),
        (LateHead(), (1, 2, 2), 6),
        (Branching(), (1, 2, 2), 6),
        (BranchingLateHead(), (1, 2, 2), 6),
        (Looping(), (1, 2, 2), 6),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2), nn.Identity()), (1, 2, 2), 5),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2), nn.Flatten()), (1, 2, 2), 5),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), OwnLinear(5, 2)), (1, 2, 2), 5),
    ],
)
def test_wrap_splits_without_changing_the_network(module, shape, features):
    module.eval()
    x = torch.rand(3, *shape)
    before, names = module(x), list(module.state_dict())
    wrapped = aalp.models.wrap(module).eval()
    assert wrapped.features(x).shape == (3, features)
    assert torch.equal(wrapped(x), before)
    assert torch.equal(wrapped.head(wrapped.features(x)), before)
    assert torch.equal(module(x), before)
    assert list(module.state_dict()) == names
    assert weights(wrapped) == weights(module)


def test_wrapped_copy_is_independent():
    wrapped = aalp.models.wrap(nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
    other = copy.deepcopy(wrapped)
    with torch.no_grad():
        wrapped.head.weight.zero_()
    assert other.head.weight.abs().sum() > 0
    assert other.features(torch.rand(2, 1, 2, 2)).shape == (2, 5)


@pytest.mark.parametrize(
    "module",
    [nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), LateHead(), nn.Linear(4, 2)],
    ids=["in a sequence", "by a name", "alone"],
)
def test_a_new_head_of_a_wrapped_network_is_the_one_that_computes(module):
    wrapped = aalp.models.wrap(module)
    head = nn.Linear(wrapped.head.in_features, 3)
    wrapped.head = head
    assert wrapped.head is head
    if not isinstance(module, nn.Linear):
        x = torch.rand(2, 1, 2, 2)
        assert torch.equal(wrapped(x), head(wrapped.features(x)))
    assert sum(parameter is head.weight for parameter in wrapped.parameters()) == 1
    with pytest.raises(aalp.InputError, match="a head must be"):
        wrapped.head = None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"module": None}, "must be an nn.Module, got NoneType"),
        ({"module": lambda x: x}, "must be an nn.Module, got function"),
        ({"module": nn.Linear}, "got the class Linear"),
        ({"logits": "logits"}, "logits must be a function"),
        ({"mean": 0.5}, "mean must be a sequence of numbers"),
        ({"mean": ()}, "mean must be a sequence of numbers"),
        ({"mean": "0.5"}, "mean must be a sequence of numbers"),
        ({"mean": (None,)}, "mean must be a number"),
        ({"mean": (float("nan"),)}, "mean must be finite"),
        ({"mean": (0.5,) * 2, "std": (0.5,) * 3}, "as many channels, got 2 and 3"),
        ({"std": (0,)}, "std must be above 0"),
        ({"std": (float("nan"),)}, "std must be above 0"),
    ],
)
def test_wrap_refuses_what_is_no_network_or_no_normalisation(given, said):
    with pytest.raises(aalp.InputError, match=said):
        aalp.models.wrap(**{"module": nn.Sequential(nn.Flatten(), nn.Linear(4, 2))} | given)


def test_wrap_with_normalisation():
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x = torch.rand(3, 1, 2, 2)
    torch.testing.assert_close(aalp.models.wrap(module, mean=(0.5,), std=(0.25,))(x), module((x - 0.5) / 0.25))


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Softmax(1)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU()),
    ],
)
def test_wrap_refuses_what_does_not_end_in_a_linear(module):
    with pytest.raises(aalp.InputError, match="cannot split Sequential"):
        aalp.models.wrap(module)


def test_network_with_a_branch_that_does_more_after_its_linear_is_found_out():
    with pytest.raises(aalp.InputError, match="cannot split Branching"):
        aalp.models.wrap(Branching(scale=2)).features(torch.rand(2, 1, 2, 2))


class Written(nn.Module):
    """Writes into what its last Linear gave."""

    def __init__(self, write):
        super().__init__()
        self.first, self.last, self.write = nn.Linear(4, 6), nn.Linear(6, 3), write

    def forward(self, x):
        logits = self.last(torch.relu(self.first(x.flatten(1))))
        self.write(logits)
        return logits


@pytest.mark.parametrize(
    "write", [lambda z: z.mul_(0.1), lambda z: z.__setitem__((..., 2), -1e4)], ids=["scale", "mask"]
)
def test_logits_that_are_written_into_cannot_be_split(write):
    with pytest.raises(aalp.InputError, match="cannot split"):
        models.wrap(Written(write)).features(torch.rand(2, 1, 2, 2))


def test_a_compiled_network_is_wrapped_as_it_was_before():
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    model, x = models.wrap(torch.compile(module, backend="eager")), torch.rand(5, 1, 2, 2)
    assert torch.equal(model.head(model.features(x)), module(x))


class _Answer(nn.Module):
    """Gives its logits inside something else, as Hugging Face's networks do."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(784, 10)

    def forward(self, x):
        return {"logits": self.last(x.flatten(1)), "loss": None}


def test_logits_are_taken_from_where_they_are(sample):
    few = aalp.Dataset("few", sample.classes, sample.train[:20], sample.val[:10], sample.test[:10])
    network, attack = _Answer(), aalp.PGD(0.1, 0.1, 1)
    with pytest.raises(aalp.InputError, match=r"logits=lambda out: out\.logits"):
        models.wrap(network)
    model = models.wrap(network, logits=lambda out: out["logits"])
    assert model.head is network.last
    assert len(aalp.fit(model, few, "aalp", attack, epochs=1)) == 1
    assert aalp.evaluate(model, few.test, attack)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: models.lenet((2, 3)), "width of a lenet is three numbers"),
        (lambda: models.lenet((2, 3, 0)), "width must be a whole number of at least 1, got 0"),
        (lambda: models.resnet9(2**40), "width must be at most 65536"),
        (lambda: models.resnet9(std=(0, 1, 1)), "std must be above 0, got 0"),
        (lambda: models.build({"name": "resnet9", "depth": 3}), "unexpected keyword argument 'depth'"),
    ],
)
def test_sizes_that_no_network_has(make, said):
    with pytest.raises(aalp.InputError, match=said):
        make()


def test_numpys_numbers_may_say_how_wide_a_network_is():
    config = models.lenet(np.array([2, 3, 4]), classes=np.int64(5), mean=np.array([0.5])).config
    assert models.build(json.loads(json.dumps(config))).head.out_features == 5


def test_what_has_no_weights_to_train_is_not_trained(sample):
    frozen = models.lenet((2, 3, 4)).requires_grad_(False)
    for model in (frozen, aalp.Classifier(nn.Flatten(), nn.Identity())):
        with pytest.raises(aalp.InputError, match="no weights that can be trained"):
            aalp.fit(model, sample, "raw", epochs=1)


def test_a_buffer_that_is_infinite_on_purpose_is_saved_and_loaded(sample, tmp_path):
    few = aalp.Dataset("few", sample.classes, sample.train[:20], sample.val[:10], sample.test[:10])
    model = models.lenet((2, 3, 4))
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    aalp.fit(model, few, "raw", epochs=1, out=tmp_path)
    other = models.lenet((2, 3, 4))
    other.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    assert torch.equal(aalp.load_model(tmp_path, model=other).head.weight, model.head.weight)
