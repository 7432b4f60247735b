"""Float32 without TF32 where accuracies are measured; on a CPU the switches can be watched, if not their effect."""

import pytest
import torch
from torch import nn

import aalp_lib as aalp
from aalp_lib import models
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
