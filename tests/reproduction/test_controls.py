import dataclasses
import json

import torch

import aalp_lib as aalp
from aalp_lib import losses
from aalp_lib.contributions import guided_dropout_mask
from aalp_lib.methods import training_loss
from aalp_lib.reproduction import controls
from aalp_lib.reproduction.grids import ABLATIONS


def test_controls_keep_as_many_features_but_the_low_ones_or_any():
    scores = torch.rand(64, 7)
    low, random = controls.low(scores, scores), controls.random(scores, torch.rand(64, 7))
    for mask in (low, random):
        assert (mask.sum(1) == 4).all()
    assert (scores[low].view(64, 4).amax(1) == scores.sort(1).values[:, 3]).all()
    assert len(random.unique(dim=0)) > 20
    assert abs(float(random.float().mean(0).std())) < 0.15


def test_a_shuffled_mask_keeps_as_many_as_the_median_but_any():
    dead = torch.arange(64) % 8
    scores = torch.rand(64, 7).where(torch.arange(7) >= dead[:, None], 0.0)
    shuffled = controls.shuffled(scores, torch.rand(64, 7))
    assert (shuffled.sum(1) == guided_dropout_mask(scores).sum(1)).all()
    assert set(shuffled.sum(1).tolist()) == {4, 7}
    assert not shuffled[:, 0].all()
    assert 0.3 < float(shuffled[dead < 4].float()[:, 0].mean()) < 0.85


def test_the_mean_weight_is_as_large_as_the_samples_weights_and_the_same_for_all(model, digits):
    x, y = digits
    x_adv = (x + 0.2 * torch.rand_like(x)).clamp(0, 1)
    with torch.no_grad():
        model.head.weight.mul_(30)
    alone, control, plain = (
        training_loss((aalp.METHODS | ABLATIONS)[name], model, x, x_adv, y)
        for name in ("aalp_sw", "aalp_sw_mean", "alp")
    )
    weight = losses.confidence(model(x), y)
    torch.testing.assert_close(control.pairing, weight.mean() * plain.pairing)
    assert not torch.isclose(control.pairing, alone.pairing, rtol=1e-3)
    gradients = [torch.autograd.grad(terms.pairing, model.head.weight)[0] for terms in (control, plain)]
    torch.testing.assert_close(gradients[0], weight.mean() * gradients[1])


def test_records_name_the_controls_as_they_always_did():
    """A grid on disk is told from another by these words: with others, it would not go on."""
    told = {name: json.loads(json.dumps(method.described())) for name, method in ABLATIONS.items()}
    assert told["aalp_sw_mean"]["pairing"] == "mean_weight_alp"
    rules = {name: told[name]["guided_dropout"]["rule"] for name in ("aalp_low", "aalp_random", "aalp_shuffled")}
    assert rules == {"aalp_low": "low", "aalp_random": "random", "aalp_shuffled": "shuffled"}
    plain = {name: method for name, method in ABLATIONS.items() if name not in {*rules, "aalp_sw_mean"}}
    assert all(told[name] == dataclasses.asdict(method) for name, method in plain.items())
