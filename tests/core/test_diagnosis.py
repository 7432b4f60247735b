import dataclasses
import json
import logging
import sys

import pytest
import torch
from conftest import linear

import aalp_lib as aalp
from aalp_lib import plots, seeds
from aalp_lib.attacks import derived
from aalp_lib.diagnosis import STEPS, Diagnosis, measure, radii, strong
from aalp_lib.reproduction import plots_of_records, schema

needs_autoattack = pytest.mark.skipif(
    not sys.modules["aalp_lib.diagnosis"].installed(), reason="needs the extra [autoattack]"
)
ATTACK = aalp.PGD(0.1, 0.02, 15)


def grey_split(classes, generator, count=60, side=4):
    """A linear model that sees neither overall brightness nor the first pixel, and images well inside [0, 1], labelled
    as it sees them."""
    weight = torch.randn(classes, side * side, generator=generator)
    weight[:, 0] = 0
    weight[:, 1:] -= weight[:, 1:].mean(1, keepdim=True)
    images = torch.randint(64, 192, (count, 1, side, side), generator=generator, dtype=torch.uint8)
    model = linear(weight)
    return model, weight, aalp.Split(images, model(images / 255).argmax(1))


def linear_accuracy(weight, split, eps):
    """Of two classes, whose optimal attack moves every pixel by eps against the difference of the weights."""
    difference = weight[split.labels] - weight[1 - split.labels]  # (N, P)
    x = (split.images / 255).flatten(1)
    return float((((x - eps * difference.sign()).clamp(0, 1) * difference).sum(1) > 0).float().mean())


class Rounded(torch.nn.Module):
    """Flattens, and rounds the pixels to black or white: the gradient of that is zero."""

    def forward(self, x):
        return x.round().flatten(1)


@pytest.fixture
def two(generator):
    return grey_split(2, generator)


@pytest.fixture(scope="module")
def few(sample):
    return sample.test[:30]


def test_a_linear_model_shows_no_sign_and_falls_as_the_closed_form_says(two):
    model, weight, split = two
    found = aalp.diagnose(model, split, ATTACK, queries=0)
    assert found.signs == []
    assert [row["eps"] for row in found.eps] == [0, *radii(ATTACK)]
    assert [row["accuracy"] for row in found.eps] == [
        pytest.approx(linear_accuracy(weight, split, row["eps"])) for row in found.eps
    ]
    assert 0.1 < found.eps[3]["accuracy"] < 0.9
    assert found.margin["accuracy"] == found.fgsm["accuracy"] == found.restarts[0]["accuracy"]


def test_radii_end_where_accuracy_must():
    assert radii(aalp.PGD(8 / 255, 2 / 255, 10))[-2:] == [0.5, 1.0]
    assert radii(aalp.PGD(0.3, 0.1, 10)) == pytest.approx([0.075, 0.15, 0.225, 0.3, 0.375, 0.45, 0.5, 1])


def test_saturated_logits_are_named(two):
    _, weight, split = two
    found = aalp.diagnose(linear(1e4 * weight), split, ATTACK, queries=0)
    assert found.zero_gradients["clean"] > 0.9
    assert found.logits["certain"] > 0.9
    said = " ".join(found.signs)
    assert f"gradient is exactly 0 at {100 * found.zero_gradients['clean']:.1f} % of the clean images" in said
    assert "At eps = 1, " in said
    assert "The margin loss leaves" in said
    assert "More steps do not help: the mean loss is" in said
    assert "FGSM leaves" not in said  # it sees the same zeros


def test_a_step_function_before_a_linear_model_is_named(two):
    _, weight, split = two
    head = linear(weight).head
    model = aalp.Classifier(Rounded(), head)
    split = aalp.Split(split.images, model(split.images / 255).argmax(1))
    found = aalp.diagnose(model, split, ATTACK, queries=0)
    assert found.zero_gradients == {"clean": 1, "attacked": 1}
    assert any(s.startswith("The cross-entropy's gradient is exactly 0 at 100.0 % of the clean") for s in found.signs)
    assert any(s.startswith(("At eps = 0.5", "At eps = 1")) for s in found.signs)
    transferred = aalp.diagnose(model, split, ATTACK, queries=0, source=linear(weight))
    black = transferred.black_box["transfer"]
    assert black["only"] > 5
    assert f"Transfer, which sees no gradient of the model, fools {black['only']} of 60" in " ".join(transferred.signs)


def test_each_sign_needs_its_cause(two):
    """Signs are read off the numbers alone: move one number, and one sentence appears."""
    model, _, split = two
    clean = aalp.diagnose(model, split, ATTACK, queries=0)
    row = clean.restarts[0]

    def signs(**changes):
        return dataclasses.replace(clean, **changes).signs

    (said,) = signs(eps=[*clean.eps[:3], clean.eps[3] | {"accuracy": 1.0}, *clean.eps[4:]])
    assert said.startswith("Accuracy rises with the radius, from ")
    (said,) = signs(fgsm=row | {"accuracy": row["accuracy"] - 0.02})
    assert said.startswith("FGSM leaves")
    (said,) = signs(zero_gradients={"clean": 0.0, "attacked": 0.25})
    assert said == "The cross-entropy's gradient is exactly 0 at 25.0 % of the attacked images."
    (said,) = signs(logits=clean.logits | {"certain": 0.5})
    assert "probability of exactly 1" in said
    (said,) = signs(black_box={"square": row | {"only": 7}})
    assert said.startswith(
        "Square, which sees no gradient of the model, fools 7 of 60 images that the attack does not, "
    )
    assert said.endswith(f"leaves {100 * row['accuracy']:.1f} % right against {100 * row['accuracy']:.1f} %.")
    rising = [r | {"cross_entropy": float(r["steps"])} for r in clean.steps]
    (said,) = signs(steps=rising, restarts=[row, row, row | {"accuracy": row["accuracy"] - 0.1, "restarts": 20}])
    assert said.startswith("20 restarts lower the accuracy from ")


def test_the_bound_counts_known_images_of_the_ball(two):
    """At 0.5 only images that are labelled as grey is seen can be right; at 1 none, since both classes are seen."""
    model, _, split = two
    grey = int(model(torch.full((1, 1, 4, 4), 0.5)).argmax())
    rows = {row["eps"]: row["most"] for row in aalp.diagnose(model, split, ATTACK, queries=0).eps}
    assert rows[0.1] == 1
    assert rows[0.5] == pytest.approx(float((split.labels == grey).float().mean()))
    assert rows[1.0] == 0
    constant = linear(torch.zeros(2, 16), torch.tensor([1.0, 0.0]))
    rows = {row["eps"]: row["most"] for row in aalp.diagnose(constant, split, ATTACK, queries=0).eps}
    assert rows[1.0] == pytest.approx(float((split.labels == 0).float().mean()))


def test_accuracies_are_those_of_evaluate_and_of_the_attacks_own_iterates(trained, few):
    attack = aalp.PGD(0.12, 0.04, 10)
    found = aalp.diagnose(trained, few, attack, seed=3, queries=0)
    suite = {f"k{k}": derived(attack, steps=k) for k in STEPS}
    last = aalp.evaluate(trained, few, suite, seed=3, reading="last")
    assert [row["accuracy"] for row in found.steps] == [last[f"k{k}"].accuracy for k in STEPS]
    assert found.restarts[0]["accuracy"] == aalp.evaluate(trained, few, {"a": attack}, seed=3)["a"].accuracy
    (x, y), start = next(few.batches(30)), torch.Generator().manual_seed(seeds.derive(3, attack.loss, 0))
    x_adv = derived(attack, steps=20)(trained, x, y, generator=start)
    with torch.no_grad():
        loss = aalp.losses.cross_entropy(trained(x_adv), y).mean()
    assert found.steps[STEPS.index(20)]["cross_entropy"] == pytest.approx(float(loss), rel=1e-4)
    assert found.eps[0]["accuracy"] == last["clean"].accuracy


def test_restarts_never_raise_accuracy(trained, few):
    attack = aalp.PGD(0.15, 0.05, 3)
    accuracies = [row["accuracy"] for row in aalp.diagnose(trained, few, attack, queries=0).restarts]
    assert accuracies == sorted(accuracies, reverse=True)
    often = aalp.evaluate(trained, few, {"a": derived(attack, restarts=20)})["a"].accuracy
    assert accuracies[0] > accuracies[-1] == often


def test_transfer_from_itself_is_the_attack(trained, few):
    found = aalp.diagnose(trained, few, ATTACK, queries=0, source=trained)
    assert found.black_box["transfer"]["only"] == 0
    assert found.black_box["transfer"]["accuracy"] >= found.restarts[0]["accuracy"]


def test_diagnosis_leaves_the_model_as_it_was_speaks_and_counts_up(trained, few):
    trained.train()
    told, before = [], torch.get_rng_state()
    found = aalp.diagnose(trained, few, ATTACK, queries=0, source=trained, progress=lambda *t: told.append(t[:2]))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in trained.modules())
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    text = repr(found)
    assert text.startswith("Diagnosis")
    assert all(word in text for word in ("eps 0.1", "200 steps", "20 starts", "FGSM", "no sign of gradient masking"))


def test_bad_input_of_diagnose(trained, few):
    with pytest.raises(aalp.InputError, match="number of queries must be a whole number of at least 0, got -1"):
        aalp.diagnose(trained, few, ATTACK, queries=-1)
    with pytest.raises(aalp.InputError, match=r"cannot take images of shape \(1, 28, 28\)"):
        aalp.diagnose(trained, few, ATTACK, queries=0, source=linear(torch.randn(2, 16)))


# --- stronger attacks


def test_strong_suite_has_the_balls_of_table_2():
    suite = aalp.strong_suite("cifar10")
    assert suite["pgd100x20"] == aalp.PGD(8 / 255, 2 / 255, 100, restarts=20)
    assert suite["cw100x20"] == aalp.CW(8 / 255, 2 / 255, 100, restarts=20)
    assert list(aalp.strong_suite(aalp.CW(0.1, 0.05, 7), restarts=3)) == ["pgd7x3", "cw7x3"]
    with pytest.raises(aalp.InputError, match="number of restarts must be a whole number of at least 1, got 0"):
        aalp.strong_suite("mnist", restarts=0)


def test_strong_outcomes_are_among_the_plain_ones(trained, few):
    attack = aalp.PGD(0.12, 0.06, 4)
    plain = aalp.evaluate(trained, few, {"pgd": attack, "cw": derived(attack, loss="margin")})
    found = aalp.evaluate(trained, few, aalp.strong_suite(attack, restarts=5))
    assert (found["pgd4x5"].correct <= plain["pgd"].correct).all()
    assert (found["cw4x5"].correct <= plain["cw"].correct).all()


def test_later_restarts_see_survivors_only(trained, few):
    """What restarts cost: the images that go through the network, not restarts times all of them."""
    seen = []
    handle = trained.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    try:
        once = aalp.evaluate(trained, few, {"a": aalp.PGD(0.2, 0.05, 10)})["a"].correct
        first = sum(seen)
        seen.clear()
        aalp.evaluate(trained, few, {"a": aalp.PGD(0.2, 0.05, 10, restarts=20)})
    finally:
        handle.remove()
    assert int(once.sum()) < 20
    assert sum(seen) - first <= 19 * 11 * int(once.sum())


def closed_form(weight, split, eps):
    """Of any number of classes inside [0, 1]: right while each other class stays behind under its own best attack."""
    x, y = (split.images / 255).flatten(1), split.labels
    z = x @ weight.T
    slack = z.gather(1, y[:, None]) - z - eps * (weight[y][:, None] - weight).abs().sum(2)  # (N, K), 0 at the label
    return (slack.scatter(1, y[:, None], 1) > 0).all(1)


@needs_autoattack
def test_autoattack_reaches_the_optimum_of_a_linear_model(generator):
    model, weight, split = grey_split(5, generator)
    report = aalp.auto_attack(model, split, 0.02, queries=50, batch_size=40)
    robust = closed_form(weight, split, 0.02)
    assert list(report) == ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert 5 < int(robust.sum()) < 55
    assert torch.equal(report["square"].correct, robust)
    for earlier, later in zip(list(report), list(report)[1:], strict=False):
        assert (report[later].correct <= report[earlier].correct).all()


@needs_autoattack
def test_autoattack_leaves_everything_as_it_was(generator):
    model, _, split = grey_split(5, generator, count=8)
    model = aalp.Classifier(torch.nn.Sequential(model.body, torch.nn.Dropout()), model.head).train()
    model.head.bias.requires_grad_(False)
    logger, told, before, own_trace = logging.getLogger("auto-attack"), [], torch.get_rng_state(), sys.gettrace()
    sys.settrace(silent := lambda *_: None)
    try:
        first, again = (
            aalp.auto_attack(model, split, 0.01, queries=20, batch_size=5, progress=lambda *t: told.append(t[:2]))
            for _ in range(2)
        )
        assert sys.gettrace() is silent
    finally:
        sys.settrace(own_trace)
    assert all(torch.equal(first[name].correct, again[name].correct) for name in first)
    assert first["clean"].accuracy == 1  # no dropout while it is attacked
    assert first["square"].correct.any()
    assert all(module.training for module in model.modules())
    assert model.head.weight.requires_grad
    assert not model.head.bias.requires_grad
    assert model.head.weight.grad is None
    assert torch.equal(torch.get_rng_state(), before)
    assert logger.handlers == []
    assert logger.propagate
    assert told[7] == (told[7][1],) * 2


def test_an_image_outside_the_ball_is_no_attack():
    class Cheat:
        epsilon = 0.1

        def run_standard_evaluation(self, x, y, batch_size):
            return x + torch.tensor([0.1, 0.2, 0.0])[:, None], 1 - y

    x, y = torch.full((4, 4), 0.5), torch.zeros(4, dtype=torch.int64)
    right = torch.tensor([True, True, True, False])  # the last one is wrong already, and is not attacked
    found = sys.modules["aalp_lib.diagnosis"]._stage(Cheat(), "square", x, y, right)["right"]
    assert found.tolist() == [False, True, False, False]
    assert right.tolist() == [True, True, True, False]


@needs_autoattack
def test_autoattacks_own_warnings_are_ours_once(generator):
    model, _, split = grey_split(5, generator)
    with pytest.warns(UserWarning, match="AutoAttack says: .* zero gradient") as caught:
        aalp.auto_attack(aalp.Classifier(Rounded(), model.head), split, 0.1, queries=5)
    assert len([w for w in caught if "zero gradient" in str(w.message)]) == 1


@needs_autoattack
def test_square_beats_a_step_function_and_is_named(two):
    _, weight, split = two
    model = aalp.Classifier(Rounded(), linear(weight).head)
    split = aalp.Split(split.images, model(split.images / 255).argmax(1))
    found = aalp.diagnose(model, split, derived(ATTACK, eps=0.2), queries=200)
    square = found.black_box["square"]
    assert square["only"] > 5
    assert f"Square, which sees no gradient of the model, fools {square['only']} of 60 images" in " ".join(found.signs)


@needs_autoattack
def test_colour_images_go_through_autoattack(generator):
    torch.manual_seed(0)
    model = aalp.models.resnet9(4)
    images = torch.randint(0, 256, (3, 3, 16, 16), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        split = aalp.Split(images, model.eval()(images / 255).argmax(1))
    assert aalp.auto_attack(model, split, 0.1, queries=5)["square"].count == 3


@needs_autoattack
def test_bad_input_of_autoattack(two, trained, few):
    model, _, split = two
    with pytest.raises(aalp.InputError, match="needs at least 4 classes, got 2; version='square' does not"):
        aalp.auto_attack(model, split, 0.1)
    assert aalp.auto_attack(model, split, 0.1, version="square", queries=2)["clean"].accuracy == 1
    with pytest.raises(aalp.InputError, match="known are standard, square"):
        aalp.auto_attack(trained, few, 0.1, version="plus")
    with pytest.raises(aalp.InputError, match="eps must be above 0"):
        aalp.auto_attack(trained, few, 0)
    with pytest.raises(aalp.InputError, match="write 8/255, not 8"):
        aalp.auto_attack(trained, few, 8)


def test_without_the_extra_its_name_is_said(monkeypatch, trained, few):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    monkeypatch.setattr(sys.modules["aalp_lib.diagnosis"], "installed", lambda: False)
    with pytest.raises(aalp.InputError, match=r"pip install 'aalp_lib\[autoattack\]'"):
        aalp.auto_attack(trained, few, 0.1)
    assert list(strong(trained, few[:5], aalp.PGD(0.1, 0.1, 1))) == ["clean", "pgd1x20", "cw1x20"]
    found = measure(trained, few[:5], ATTACK, subject={"method": "adv"}, tier="quick")
    assert found.config["pyautoattack"] is None
    assert found.values["black_box"] == {}


# --- measurements and their figure


SUBJECT = {"data": "mnist-sample", "method": "aalp", "seed": 0, "model": "last"}


@pytest.fixture(scope="module")
def made(trained, few):
    return measure(trained, few, ATTACK, subject=SUBJECT, tier="quick", queries=0)


def test_a_diagnosis_comes_back_from_disk_small(tmp_path, made):
    path = made.save(tmp_path / "d.json")
    assert path.stat().st_size < 20_000
    again = schema.Measurement.load(path)
    assert again == made
    assert Diagnosis.of(again).signs == again.values["signs"]
    assert again.kind == "diagnosis"
    assert again.config["attack"]["eps"] == 0.1
    assert json.loads(path.read_text())["subject"] == SUBJECT


def test_strong_measurement_packs_each_image(generator):
    model, _, split = grey_split(5, generator, count=12)
    attack = aalp.PGD(0.01, 0.005, 2)
    made = measure(model, split, attack, kind="strong", subject={}, tier="quick", queries=5)
    report = strong(model, split, attack, queries=5)
    assert list(made.values["outcomes"]) == list(report)
    assert list(report)[:3] == ["clean", "pgd2x20", "cw2x20"]
    for name, outcome in report.items():
        assert torch.equal(schema.unpack(made.values["outcomes"][name], 12), outcome.correct)
        assert made.values["accuracy"][name]["count"] == 12
    assert made.config["batch_size"] == 500  # the random starts of AutoAttack hang on it
    source = {"source": model, "source_subject": {"method": "alp"}}  # has no part in strong attacks
    assert (
        "source"
        not in measure(model, split, attack, kind="strong", subject={}, tier="quick", queries=5, **source).config
    )
    with pytest.raises(aalp.InputError, match="known are diagnosis, strong, attacks"):
        measure(model, split, attack, kind="weak", subject={}, tier="quick")


def test_rounded_gradients_are_recorded_and_reach_all_attacks_but_autoattack(generator):
    """Under bfloat16 the suite's forward passes run under autocast, those of AutoAttack and of the walk do not."""
    model, _, split = grey_split(5, generator, count=12)
    attack = aalp.PGD(0.01, 0.005, 2)
    seen = []
    handle = model.register_forward_hook(lambda _, inputs, out: seen.append(out.dtype))
    try:
        for kind in ("strong", "diagnosis"):
            plain = measure(model, split, attack, kind=kind, subject={}, tier="quick", queries=5)
            assert plain.config["precision"] == "float32"
            assert torch.bfloat16 not in seen
            made = measure(model, split, attack, kind=kind, subject={}, tier="quick", queries=5, precision="bfloat16")
            assert made.config["precision"] == "bfloat16"
            assert torch.bfloat16 in seen
            found = measure(model, split, attack, kind=kind, subject={}, tier="quick", queries=5, precision="auto")
            assert found.config["precision"] in ("float32", "bfloat16")
            seen.clear()
        aalp.auto_attack(model, split, 0.01, queries=5)
    finally:
        handle.remove()
    assert seen
    assert torch.bfloat16 not in seen


def test_figure_draws_each_diagnosis(made):
    figure = plots_of_records.diagnoses([made, made], "A claim")
    figure.canvas.draw()
    eps, steps = figure.axes
    assert list(eps.containers[0].lines[0].get_ydata()) == [100 * row["accuracy"] for row in made.values["eps"]]
    assert list(steps.lines[0].get_xdata()) == list(STEPS)
    assert figure.get_suptitle() == "A claim"
    assert steps.get_ylabel() == "mean cross-entropy (nats)"
    plots.plt.close(figure)
