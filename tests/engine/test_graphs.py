"""The recorded loop against the plain one. Where there is no GPU, a step "recorded" is the step itself, run in place:
all but the recording is then tested, and the recording's failure."""

import warnings

import pytest
import torch
from conftest import linear

import aalp_lib as aalp
from aalp_lib import engine
from aalp_lib.engine import graphs


@pytest.fixture
def device(monkeypatch):
    """Where there is a GPU, that, and convolutions that repeat to the bit."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def recorded(monkeypatch, device):
    """How many steps were recorded, as a list that grows."""
    found, real = [], graphs.record

    def record(step):
        found.append(step)
        return real(step) if device.type == "cuda" else step

    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(graphs, "usable", lambda _: True)
    monkeypatch.setattr(graphs, "_failed", False)
    return found


def plain(function, *args, **kwargs):
    with graphs.switched(False):
        return function(*args, **kwargs)


LOOPS = [(loss, "linf", False) for loss in ("cross_entropy", "exact_cross_entropy", "margin", "trades_kl")]


@pytest.mark.parametrize(("loss", "norm", "led"), [*LOOPS, ("margin", "linf", True), ("cross_entropy", "l2", True)])
def test_recorded_and_plain_loop_give_the_same_images(recorded, device, loss, norm, led, digits):
    torch.manual_seed(0)
    model = aalp.models.lenet((4, 8, 32)).to(device)
    x, y = (t.to(device) for t in digits)
    attack = aalp.Attack(0.3, 0.02, 25, loss=loss, norm=norm)
    for part in (slice(None), slice(0, 20)):
        start = (x[part] + 0.1).clamp(max=1)
        led_to = {"target": (y[part] + 1) % 10} if led else {}
        found = attack(model, x[part], y[part], start=start, **led_to)
        assert torch.equal(found, plain(attack, model, x[part], y[part], start=start, **led_to))
    assert len(recorded) == 2


def test_weights_that_change_in_place_are_seen_and_ones_that_move_are_recorded_anew(recorded, device, digits):
    model = aalp.models.lenet((4, 8, 32)).to(device).to(memory_format=torch.channels_last)
    x, y = (t.to(device) for t in digits)
    attack = aalp.PGD(0.3, 0.02, 25)
    attack(model, x, y, start=x)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(-1)
    again = attack(model, x, y, start=x)
    assert torch.equal(again, plain(attack, model, x, y, start=x))
    before = len(recorded)
    for weight in model.parameters():
        weight.data = weight.data.clone()
    attack(model, x, y, start=x)
    assert len(recorded) == before + 1


def test_evaluation_is_the_same(recorded, device, sample):
    torch.manual_seed(0)
    model = aalp.models.lenet((4, 8, 32)).to(device)
    aalp.fit(model, sample, "adv", aalp.PGD(0.2, 0.1, 3), epochs=2)
    suite = aalp.table2_suite("mnist") | {"three": aalp.PGD(0.1, 0.01, 30, restarts=3)}
    suite |= {"l2 10": aalp.PGD(2.0, 0.2, 10, norm="l2"), "l2 40": aalp.PGD(2.0, 0.2, 40, norm="l2")}
    split = sample.test[:150]
    for target in (None, (split.labels + 1) % 10):
        recorded.clear()
        found, wanted = (
            run(aalp.evaluate, model, split, suite, target=target, batch_size=70)
            for run in (lambda f, *a, **k: f(*a, **k), plain)
        )
        assert recorded
        for name in wanted:
            assert torch.equal(found[name].correct, wanted[name].correct), name
        assert wanted["pgd10"].correct.sum() > wanted["pgd100"].correct.sum()
        assert wanted["l2 10"].correct.sum() > wanted["l2 40"].correct.sum()


def test_decisions_under_bfloat16_are_float32s(recorded, device):
    """The logits are 1 and 1.001: equal in bfloat16, whose argmax is class 0; float32 knows that class 1 is right."""
    model = linear(torch.full((2, 4), 0.0), bias=torch.tensor([1.0, 1.001])).to(device)
    x, y = torch.rand(5, 1, 2, 2, device=device), torch.ones(5, dtype=torch.int64, device=device)
    with torch.autocast(device.type, torch.bfloat16), engine.prepared(model, x) as forward:
        alive = aalp.PGD(0.1, 0.01, 20).survivors(forward, x, y, [10, 20])
    assert alive.all()
    assert recorded


def test_training_is_the_same(recorded, device, sample):
    weights = []
    for run in (lambda f, *a, **k: f(*a, **k), plain):
        torch.manual_seed(0)
        model = aalp.models.lenet((2, 4, 8)).to(device)
        run(aalp.fit, model, sample, "aalp", aalp.PGD(0.2, 0.1, 3), recipe=aalp.Recipe(1, 256))
        weights.append(model.head.weight.detach().clone())
    assert torch.equal(*weights)
    assert len(recorded) == 1  # the second time that a batch of that shape comes


def test_a_failure_is_told_once_and_the_plain_loop_goes_on(monkeypatch, recorded, device, digits):
    def fail(step):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "record", fail)
    model = aalp.models.lenet((4, 8, 32)).to(device)
    x, y = (t.to(device) for t in digits)
    attack = aalp.PGD(0.3, 0.02, 25)
    with pytest.warns(UserWarning, match="could not be recorded as a CUDA graph, it runs step by step"):
        found = attack(model, x, y, start=x)
    assert torch.equal(found, plain(attack, model, x, y, start=x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with engine.prepared(model, x) as forward:
            alive = attack.survivors(forward, x, y, [20], generators=[torch.Generator().manual_seed(1)])
    again = plain(attack.survivors, forward, x, y, [20], generators=[torch.Generator().manual_seed(1)])
    assert torch.equal(alive, again)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_recordings_of_many_shapes_take_the_memory_of_the_largest(recorded, device):
    model = aalp.models.resnet32().to(device)
    taken = []
    for count in (512, 480, 448, 416, 384, 352):
        x, y = torch.rand(count, 3, 32, 32, device=device), torch.zeros(count, dtype=torch.int64, device=device)
        aalp.PGD(0.1, 0.01, 20)(model, x, y)
        torch.cuda.empty_cache()
        taken.append(torch.cuda.memory_reserved())
    assert len(recorded) == len(taken)
    assert taken[-1] < 1.5 * taken[0]


def test_sizes_are_few_and_hold_what_is_needed():
    sizes = [graphs.few_sizes(n) for n in range(1, 2049)]
    assert all(size >= n for n, size in enumerate(sizes, 1))
    assert all(size <= 1.15 * n + 32 for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) < 40


def test_nothing_is_recorded_for_a_function_or_with_the_switch_off(recorded, digits):
    model = aalp.models.lenet((4, 8, 32)).eval()
    attack = aalp.PGD(0.3, 0.02, 25)
    attack.perturb(lambda x: model(x), *digits)
    plain(attack, model, *digits)
    assert not recorded
