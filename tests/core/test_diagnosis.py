import dataclasses

import pytest
import torch
from conftest import Rounded, linear

import aalp_lib as aalp
from aalp_lib import autoattack, seeds
from aalp_lib.attacks import derived
from aalp_lib.diagnosis import STEPS, radii

needs_autoattack = pytest.mark.skipif(not autoattack.installed(), reason="needs the extra [autoattack]")
ATTACK = aalp.PGD(0.1, 0.02, 15)


def linear_accuracy(weight, split, eps):
    """Of two classes, whose optimal attack moves every pixel by eps against the difference of the weights."""
    difference = weight[split.labels] - weight[1 - split.labels]  # (N, P)
    x = (split.images / 255).flatten(1)
    return float((((x - eps * difference.sign()).clamp(0, 1) * difference).sum(1) > 0).float().mean())


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


def l2_share(weight, split, eps):
    """Of two classes: right where the gap is more than eps times the length of the weights' difference."""
    difference = weight[split.labels] - weight[1 - split.labels]
    gap = ((split.images / 255).flatten(1) * difference).sum(1)
    return float((gap > eps * difference.norm(dim=1)).float().mean())


def test_l2_and_targets_fall_as_the_closed_form_says(two):
    """With two classes the other one is the only target, so all is the same but the words."""
    model, weight, split = two
    attack = aalp.PGD(0.2, 0.2, 30, norm="l2")
    found = aalp.diagnose(model, split, attack, queries=0, source=model)
    led = aalp.diagnose(model, split, attack, queries=0, source=model, target=1 - split.labels)
    assert [row["eps"] for row in found.eps[-2:]] == [2, 4]  # of 16 pixels: half the way, and all, through [0, 1]
    for row in found.eps[:7]:  # further out the ball leaves [0, 1]
        assert row["accuracy"] == pytest.approx(l2_share(weight, split, row["eps"]))
    assert 0.1 < found.eps[4]["accuracy"] < 0.9
    assert found.ball == "L2 0.2"
    assert str(led).startswith("Diagnosis, L2 0.2 to targets")
    for one, other in zip(found.eps + found.steps + found.restarts, led.eps + led.steps + led.restarts, strict=True):
        assert one["accuracy"] == other["accuracy"]
        assert one.get("most") == other.get("most")
        assert one.get("margin") == pytest.approx(other.get("margin"))
    assert found.signs == led.signs == []
    assert led.black_box["transfer"]["accuracy"] == led.plain["accuracy"]
    assert "ball" not in found.eps[0]
    assert "ball" in found.eps[1]


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
    (said,) = signs(fgsm=row | {"accuracy": 0.55})
    assert said.startswith("FGSM leaves 55.0 % right and 15 steps leave 5.0 %: robust against one step alone")
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
    constant = linear(torch.zeros(2, 16), torch.tensor([2.0, 0.0]))
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
    assert text.startswith("Diagnosis, L∞ 0.1 ")
    assert found._repr_html_().count("<tr>") == len(text.splitlines()) - 3
    assert all(word in text for word in ("eps 0.1", "200 steps", "20 starts", "FGSM", "no sign of gradient masking"))


def test_bad_input_of_diagnose(trained, few):
    with pytest.raises(aalp.InputError, match="number of queries must be a whole number of at least 0, got -1"):
        aalp.diagnose(trained, few, ATTACK, queries=-1)
    with pytest.raises(aalp.InputError, match=r"cannot take images of shape \(1, 28, 28\)"):
        aalp.diagnose(trained, few, ATTACK, queries=0, source=linear(torch.randn(2, 16)))


@needs_autoattack
def test_square_beats_a_step_function_and_is_named(two):
    _, weight, split = two
    model = aalp.Classifier(Rounded(), linear(weight).head)
    split = aalp.Split(split.images, model(split.images / 255).argmax(1))
    found = aalp.diagnose(model, split, derived(ATTACK, eps=0.2), queries=200)
    square = found.black_box["square"]
    assert square["only"] > 5
    assert f"Square, which sees no gradient of the model, fools {square['only']} of 60 images" in " ".join(found.signs)


def test_a_pair_of_tensors_is_diagnosed_as_its_split_is(two):
    model, _, split = two
    wanted = aalp.diagnose(model, split, ATTACK, queries=0)
    x, y = next(split.batches(len(split)))
    assert dataclasses.asdict(aalp.diagnose(model, (x, y), ATTACK, queries=0)) == dataclasses.asdict(wanted)
    for attack in ({"pgd": ATTACK}, [ATTACK], None):
        with pytest.raises(aalp.InputError, match="diagnose examines one Attack"):
            aalp.diagnose(model, split, attack)


def test_training_with_one_step_makes_a_network_that_is_robust_against_one_step_alone(sample):
    """Catastrophic overfitting: nine in ten digits right under FGSM, none under twenty steps; the sign says so."""
    torch.manual_seed(0)
    model, recipe = aalp.models.lenet((4, 8, 32)), aalp.Recipe(12, 50, 1e-2)
    few = aalp.Dataset("few", sample.classes, sample.train[:2000], sample.val[:20], sample.test[:100])
    aalp.fit(model, few, "adv", aalp.FGSM(0.3), recipe=recipe)
    found = aalp.diagnose(model, few, aalp.PGD(0.3, 0.03, 20), queries=0)
    assert found.fgsm["accuracy"] > 0.6
    assert found.plain["accuracy"] < 0.1
    assert "robust against one step alone" in " ".join(found.signs)
