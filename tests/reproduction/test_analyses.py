import dataclasses
import math

import pytest
import torch
from conftest import linear, quiet
from hypothesis import given, strategies as st

import aalp_lib as aalp
from aalp_lib import contributions
from aalp_lib.reproduction import analyses, schema
from aalp_lib.reproduction.analyses import Attacked, attacked, examples, feature_shares, samples, sets, unpack
from aalp_lib.reproduction.settings import SETTINGS, new_model

ATTACK = aalp.PGD(0.3, 0.15, 3)
NAME = "mnist-sample-raw-seed3"
SUBJECT = {"data": "mnist-sample", "method": "raw", "seed": 3, "model": "last"}


@pytest.fixture(scope="module")
def two_pixels():
    """Two classes that one pixel each votes for, and images that the attack must meet in closed form."""
    images = torch.tensor([[200, 0], [150, 100], [0, 255], [100, 150]], dtype=torch.uint8)[:, None, None]
    return linear(4 * torch.eye(2)), aalp.Split(images, torch.tensor([0, 0, 1, 0]))


@pytest.fixture(scope="module")
def fitted(sample):
    """A tiny network, trained for an epoch, as `measure_model` is given it."""
    setting = dataclasses.replace(SETTINGS["mnist-sample"]["fast"], model={"name": "lenet", "width": [2, 4, 8]})
    recipe = aalp.Recipe(epochs=1, batch_size=100, lr=1e-2)
    model = new_model(setting, 3)
    aalp.fit(model, sample, "raw", ATTACK, seed=3, recipe=recipe)
    return model


# --- the two sets


def test_a_linear_model_is_attacked_and_measured_in_closed_form(two_pixels):
    """The best attack moves each pixel by eps away from the true class: the confidence is known on paper."""
    model, split = two_pixels
    found = attacked(model, split, aalp.PGD(0.1, 0.05, 10))
    x = split.images.float()[:, 0, 0] / 255
    towards = torch.where(split.labels[:, None] == torch.arange(2), -0.1, 0.1)
    torch.testing.assert_close(found.x_adv[:, 0, 0], (x + towards).clamp(0, 1))
    margins = {name: 4 * (i[:, 0] - i[:, 1])[:2] for name, i in (("clean", x), ("adversarial", (x + towards).clamp(0)))}
    values = samples(model, found)
    # image 0 stays right, 1 is fooled (150 - 25.5 < 100 + 25.5), 2 stays right, 3 is wrong already
    assert (values["images"], values["wrong"]) == (4, 1)
    assert (values["consistent"]["count"], values["inconsistent"]["count"], values["both"]["count"]) == (2, 1, 3)
    inconsistent = values["inconsistent"]
    for name, margin in margins.items():
        assert inconsistent[f"{name}_confidence"] == pytest.approx(float(margin[1].sigmoid()), rel=1e-4)
        expected = float(torch.nn.functional.softplus(-margin[1]))
        assert inconsistent[f"classification_loss_{name}"] == pytest.approx(expected, rel=1e-4)
    # each logit moves by 4 · 0.1, the two of them: 2 · 0.4²
    assert inconsistent["alp_loss"] == pytest.approx(0.32, rel=1e-4)
    joint = inconsistent["classification_loss"]
    kinds = [inconsistent[f"classification_loss_{name}"] for name in margins]
    assert joint == pytest.approx(sum(kinds) / 2, rel=1e-4)
    assert inconsistent["alp_share"] == pytest.approx(0.32 / (0.32 + joint), rel=1e-4)
    assert values["points"]["inconsistent"]["clean"] == [pytest.approx(inconsistent["clean_confidence"], abs=1e-4)]


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_the_sets_part_the_images_that_are_right_when_clean(seed, count):
    generator = torch.Generator().manual_seed(seed)
    z, z_adv = torch.randn(2, count, 3, generator=generator)
    y = torch.randint(3, (count,), generator=generator)
    found = sets(z, z_adv, y)
    assert not (found["consistent"] & found["inconsistent"]).any()
    assert torch.equal(found["consistent"] | found["inconsistent"], z.argmax(1) == y)
    assert not (found["inconsistent"] & (z_adv.argmax(1) == y)).any()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(2, 12))
def test_no_right_answers_lie_outside_the_bounds_of_their_loss(places, classes):
    confidences = [1 / classes + (1 - 1 / classes) * place for place in places]
    loss = sum(-math.log(p) for p in confidences) / len(confidences)
    low, high = analyses.loss_bounds(min(1.0, sum(confidences) / len(confidences)), classes)
    assert low - 1e-9 <= loss <= high + 1e-9


def test_the_bounds_of_the_loss_are_reached():
    confidences = [1.0, 1.0, 0.1]
    loss = sum(-math.log(p) for p in confidences) / 3
    assert analyses.loss_bounds(sum(confidences) / 3, 10)[1] == pytest.approx(loss)
    assert analyses.loss_bounds(0.4, 10)[0] == pytest.approx(-math.log(0.4))
    with pytest.raises(aalp.InputError, match=r"10 classes .* in \[0.1, 1\], got 0.05"):
        analyses.loss_bounds(0.05, 10)


def test_an_empty_set_has_no_means(two_pixels):
    model, split = two_pixels
    x, y = next(split[torch.tensor([0, 2])].batches(2))
    values = samples(model, Attacked(x, x, y))
    assert values["inconsistent"] == {"count": 0} | dict.fromkeys(list(values["consistent"])[1:])
    assert values["points"]["inconsistent"] == {"clean": [], "adversarial": []}
    assert values["consistent"]["alp_loss"] == values["consistent"]["confidence_gap"] == 0


def test_the_last_iterate_starts_where_evaluate_starts(fitted, sample):
    """With a step too short to matter, the start alone decides who is fooled, and both name the same images."""
    split, noise = sample.test[:300], quiet(aalp.PGD, 0.4, 1e-6, 1)
    report = aalp.evaluate(fitted, split, {"noise": noise}, seed=4, reading="last")
    chosen = {}
    for seed in (4, 5):
        found = attacked(fitted, split, noise, seed=seed)
        chosen[seed] = sets(analyses.logits(fitted, found.x), analyses.logits(fitted, found.x_adv), found.y)
    assert torch.equal(chosen[4]["consistent"], report.consistent("noise"))
    assert torch.equal(chosen[4]["inconsistent"], report.inconsistent("noise"))
    assert not torch.equal(chosen[5]["inconsistent"], report.inconsistent("noise"))


def test_no_more_points_than_wanted_and_the_same_each_time(model, sample, monkeypatch):
    monkeypatch.setattr(analyses, "POINTS", 5)
    x, y = next(sample.test.batches(200))
    first, second = (samples(model, Attacked(x, x, y), seed=1)["points"] for _ in range(2))
    assert first == second
    assert len(first["consistent"]["clean"]) == 5


def test_examples_show_the_class_that_the_attack_favours(two_pixels):
    model, split = two_pixels
    values = examples(model, split, aalp.PGD(0.1, 0.05, 10))
    assert values["consistent"]["index"] == [0, 2]
    assert values["inconsistent"] | {"images": 0, "adversarial_images": 0} == {
        "index": [1],
        "label": [0],
        "target": [1],
        "clean": values["inconsistent"]["clean"],
        "adversarial": values["inconsistent"]["adversarial"],
        "images": 0,
        "adversarial_images": 0,
    }
    shown = values["inconsistent"]["adversarial"]
    assert shown["true"][0] + shown["target"][0] == pytest.approx(1, abs=1e-3)
    assert shown["target"][0] > 0.5
    assert torch.equal(unpack(values["consistent"]["images"]), split[torch.tensor([0, 2])].images / 255)


def test_a_set_without_images_has_no_pictures(two_pixels):
    model, split = two_pixels
    values = examples(model, split[torch.tensor([0])], aalp.PGD(0.01, 0.01, 1))
    assert values["inconsistent"]["images"] is None
    assert values["inconsistent"]["index"] == []


# --- contributions


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60).filter(lambda v: sum(v) > 1e-3))
def test_feature_shares_are_what_their_names_say(values):
    found = feature_shares(torch.tensor(values, dtype=torch.float64))
    ordered = sorted(values, reverse=True)
    carried = round(found["half_share"] * len(values))
    assert sum(ordered[:carried]) >= sum(values) / 2 * (1 - 1e-6)
    assert sum(ordered[: carried - 1]) <= sum(values) / 2 * (1 + 1e-6)
    pairs = sum(abs(a - b) for a in values for b in values) / (2 * len(values) * sum(values))
    assert found["gini"] == pytest.approx(pairs, abs=1e-4)
    assert found["dead_share"] == pytest.approx(values.count(0) / len(values), rel=1e-4)
    assert len(found["sorted"]) == len(values)


def test_contributions_are_eq_5_and_7_of_all_images_at_once(model, sample, monkeypatch):
    monkeypatch.setattr(analyses, "BATCH", 30)
    x, y = next(sample.test.batches(100))
    x_adv = (x + 0.1).clamp(max=1)
    found = analyses.contribution_vectors(model, Attacked(x, x_adv, y))
    torch.testing.assert_close(found["clean", "loss_gradient"], contributions.loss_gradient(model, x, y))
    torch.testing.assert_close(found["adversarial", "scores"], contributions.scores(model, x_adv, y))
    values = analyses.feature_contributions(model, Attacked(x, x_adv, y))
    assert values["features"] == 32 == len(values["clean"]["scores"]["sorted"])


def test_of_many_features_evenly_spaced_ranks_are_kept():
    found = feature_shares(torch.arange(2000.0))["sorted"]
    assert len(found) == 512
    assert (found[0], found[-1]) == (1999, 0)


# --- activation maps


def test_concentration_of_known_maps():
    maps = torch.zeros(3, 2, 5)
    maps[0] = 1
    maps[1, 0, 2] = 7  # the third is empty and left out
    strokes = torch.zeros(3, 2, 5, dtype=torch.bool)
    strokes[:, 0] = True
    assert analyses.concentration(maps, strokes) == {"top_tenth": 0.55, "on_stroke": 0.75, "empty": 1}
    assert analyses.concentration(maps[2:]) == {"top_tenth": None, "on_stroke": None, "empty": 1}


def test_activation_keeps_the_maps_of_what_is_shown(model, sample):
    split = analyses.first_of_each_class(sample.test)
    assert split.labels.tolist() == list(range(10))
    found = attacked(model, split, ATTACK)
    values = analyses.activation(model, found, found)
    maps = contributions.activation_map(model, found.x_adv, found.y)
    expected = maps / maps.amax((1, 2), keepdim=True)
    torch.testing.assert_close(unpack(values["paper"]["maps"]), expected, atol=0.5 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(unpack(values["paper"]["mean"]), expected.mean(0), atol=0.5 / 255 + 1e-6, rtol=0)
    assert values["resolution"] == [14, 14]
    assert 0.1 <= values["paper"]["top_tenth"] <= 1
    assert 0 < values["stroke_area"] < 1
    assert analyses.activation(model, found)["pictures"] is None


def test_colour_has_no_strokes(sample):
    torch.manual_seed(0)
    model = aalp.models.lenet((2, 4, 8), in_channels=3)
    x, y = torch.rand(4, 3, 28, 28), torch.arange(4)
    values = analyses.activation(model, Attacked(x, x, y))
    assert values["stroke_area"] is values["paper"]["on_stroke"] is None


# --- as files


def test_measure_model_writes_what_is_missing_and_leaves_the_rest(fitted, sample, tmp_path):
    small = dataclasses.replace(sample, test=sample.test[:150])
    paths = analyses.measure_model(fitted, NAME, SUBJECT, small, tmp_path, attack=ATTACK, tier="quick")
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [
        f"{kind}/mnist-sample-raw-seed3.json" for kind in ("samples", "contributions", "activation", "examples")
    ]
    found = schema.Measurement.load(paths[0])
    assert (found.kind, found.tier, found.config["images"]) == ("samples", "quick", 150)
    assert found.subject == SUBJECT
    assert found.config["attack"] == ATTACK.described()
    paths[1].unlink()
    before = {path: path.stat().st_mtime_ns for path in paths if path.exists()}
    assert analyses.measure_model(fitted, NAME, SUBJECT, small, tmp_path, attack=ATTACK, tier="quick") == paths
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert schema.Measurement.load(paths[1]).kind == "contributions"
    assert all(path.stat().st_size < 60_000 for path in paths)


def test_numbers_are_kept_to_five_digits():
    assert analyses.rounded(math.pi) == 3.1416
    assert analyses.mean(torch.tensor([True, False, False])) == 0.33333
    assert analyses.mean(torch.empty(0)) is None
