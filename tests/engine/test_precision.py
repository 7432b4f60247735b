"""Float32 without TF32 where accuracies are measured, bfloat16 for gradients alone.

On a CPU the switches can be watched, if not their effect.
"""

import pytest
import torch
from conftest import linear
from torch import nn

import aalp_lib as aalp
from aalp_lib import engine, models
from aalp_lib.autoattack import installed
from aalp_lib.data import Split
from aalp_lib.engine import precision


@pytest.fixture
def split(generator):
    return Split(torch.randint(0, 256, (6, 1, 4, 4), generator=generator, dtype=torch.uint8), torch.arange(6) % 4)


@pytest.fixture
def watched():
    """A network, and what `tf32` said at each of its calls."""
    model, seen = models.wrap(nn.Sequential(nn.Flatten(), nn.Linear(16, 4))), []
    model.register_forward_hook(lambda *_: seen.append(precision.tf32()))
    return model, seen


@pytest.fixture(params=["old", "new"])
def allowed(request):
    """TF32 allowed outside, as is torch's default, by the old switch or by those of torch 2.9."""
    cudnn = torch.backends.cudnn
    if request.param == "new" and not hasattr(cudnn, "conv"):
        pytest.skip("an older torch")
    cudnn.allow_tf32 = True
    if request.param == "new":
        cudnn.rnn.fp32_precision = "ieee"  # unlike convolutions: the old switch cannot be read any more
    yield
    cudnn.allow_tf32 = True


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("what", ["evaluate", "diagnose", "auto_attack"])
def test_accuracies_are_measured_without_tf32(what, watched, split):
    model, seen = watched
    attack = aalp.PGD(0.1, 0.05, 2)
    assert precision.tf32()
    if what == "evaluate":
        aalp.evaluate(model, split, {"a": attack})
    elif what == "diagnose":
        aalp.diagnose(
            model, split, attack, queries=2, source=models.wrap(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)))
        )
    elif installed():
        aalp.auto_attack(model, split, 0.1, queries=2)
    else:
        pytest.skip("without the extra [autoattack]")
    assert seen
    assert not any(seen)
    assert precision.tf32()


@pytest.mark.usefixtures("allowed")
def test_what_was_set_comes_back_after_an_error():
    def stop():
        raise RuntimeError(f"tf32 is {precision.tf32()}")

    with pytest.raises(RuntimeError, match="tf32 is False"), precision.without_tf32():
        stop()
    assert precision.tf32()


# --- bfloat16


def test_bfloat16_gradients_give_the_same_accuracies_within_the_interval(trained, sample):
    suite = {name: attack for name, attack in aalp.table2_suite("mnist").items() if name in ("fgsm", "pgd20", "cw40")}
    plain, half = (aalp.evaluate(trained, sample.test[:300], suite, precision=p) for p in ("float32", "bfloat16"))
    assert torch.equal(plain["clean"].correct, half["clean"].correct)
    for name in suite:
        assert plain[name].low <= half[name].accuracy <= plain[name].high
    with pytest.raises(aalp.InputError, match="Did you mean 'bfloat16'"):
        aalp.evaluate(trained, sample.test[:10], suite, precision="bfloat")


@pytest.mark.parametrize("reading", ["any", "last"])
@pytest.mark.parametrize("label", [0, 1])
def test_decisions_are_float32s_where_bfloat16_sees_a_tie(reading, label):
    """The logits are 1 and 1.001: equal in bfloat16, whose argmax is class 0; float32 knows that class 1 has won."""
    model = linear(torch.full((2, 4), 0.0), bias=torch.tensor([1.0, 1.001]))
    x, y = torch.rand(8, 1, 2, 2), torch.full((8,), label)
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(x).argmax(1) == 0).all()
        alive = aalp.PGD(0.1, 0.05, 4).survivors(model, x, y, [2, 4], reading=reading)
    assert (alive == label).all()


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
