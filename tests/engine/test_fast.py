import pytest
import torch
from conftest import linear

import aalp_lib as aalp
from aalp_lib import engine, models
from aalp_lib.engine import precision


@pytest.fixture(scope="module")
def trained(sample):
    torch.manual_seed(0)
    model = aalp.models.lenet((4, 8, 32))
    aalp.fit(model, sample, "adv", aalp.PGD(0.2, 0.1, 3), epochs=3, recipe=aalp.Recipe(channels_last=False))
    return model


@pytest.mark.parametrize(
    "make", [lambda: models.lenet((4, 8, 32)), lambda: models.resnet9(4, in_channels=1, mean=(0.1,), std=(0.3,))]
)
def test_fast_and_plain_layout_give_the_same_images(make, digits):
    """On noise: over a digit's constant background max-pooling meets ties, which the layouts break differently."""
    torch.manual_seed(0)
    model, y = make().double().eval(), digits[1]
    attack, x = aalp.PGD(0.2, 0.05, 8), torch.rand(digits[0].shape, dtype=torch.float64)
    plain = attack.perturb(model, x, y, start=x)
    found = attack(model, x, y, start=x)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-9)
    assert found.is_contiguous()


def test_bfloat16_gradients_give_the_same_accuracies_within_the_interval(trained, sample):
    suite = {name: attack for name, attack in aalp.table2_suite("mnist").items() if name in ("fgsm", "pgd20", "cw40")}
    plain, half = (aalp.evaluate(trained, sample.test[:300], suite, precision=p) for p in ("float32", "bfloat16"))
    assert torch.equal(plain["clean"].correct, half["clean"].correct)
    for name in suite:
        assert plain[name].low <= half[name].accuracy <= plain[name].high
    with pytest.raises(aalp.InputError, match="Did you mean 'bfloat16'"):
        aalp.evaluate(trained, sample.test[:10], suite, precision="bfloat")


@pytest.mark.parametrize("reading", ["any", "last"])
def test_decisions_are_float32s_where_bfloat16_sees_a_tie(reading):
    """The logits are 1 and 1.001: equal in bfloat16, whose argmax is class 0; float32 knows that class 1 is right."""
    model = linear(torch.full((2, 4), 0.0), bias=torch.tensor([1.0, 1.001]))
    x, y = torch.rand(8, 1, 2, 2), torch.ones(8).long()
    attack = aalp.PGD(0.1, 0.05, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(x).argmax(1) == 0).all()
        assert attack.survivors(model, x, y, [2, 4], reading=reading).all()


def test_an_image_that_only_float32_sees_fooled_is_found_where_it_is_read(sample):
    """The other way round: bfloat16 sees a tie and class 0, which is the label; float32 knows that class 1 has won."""
    model = linear(torch.full((2, 4), 0.0), bias=torch.tensor([1.0, 1.001]))
    x, y = torch.rand(8, 1, 2, 2), torch.zeros(8).long()
    with torch.autocast("cpu", torch.bfloat16):
        assert not aalp.PGD(0.1, 0.05, 4).survivors(model, x, y, [4]).any()


def test_precision_is_measured_once(trained, digits, monkeypatch):
    monkeypatch.setattr(precision, "_known", {})
    times = {"float32": 2.0, "bfloat16": 1.0}
    calls = []

    def seconds(model, x, y, precision):
        calls.append(precision)
        return times[precision]

    monkeypatch.setattr(precision, "_gradient_seconds", seconds)
    with engine.prepared(trained, digits[0]) as forward:
        assert precision.faster(forward, *digits) == "bfloat16"
        count = len(calls)
        assert precision.faster(forward, *digits) == "bfloat16"
        assert len(calls) == count
        times["bfloat16"] = 1.95  # not worth it
        assert precision.faster(forward, digits[0][:16], digits[1][:16]) == "float32"


def test_measuring_for_real_names_one_of_the_two(trained, digits):
    with engine.prepared(trained, digits[0]) as forward:
        assert precision.faster(forward, *digits) in ("float32", "bfloat16")
