"""Diagnoses and strong attacks as measurements, and Table 2's attacks read otherwise."""

import json
import sys

import pytest
import torch
from conftest import grey_split

import aalp_lib as aalp
from aalp_lib.attacks import derived
from aalp_lib.evaluation import gradient_count
from aalp_lib.reproduction import schema
from aalp_lib.reproduction.attack_measurements import (
    ALTERED,
    altered,
    altered_suite,
    diagnosis_of,
    measure_attacks,
    strong,
)

ATTACK = aalp.PGD(0.1, 0.02, 15)


@pytest.fixture(scope="module")
def few(sample):
    return sample.test[:30]


SUBJECT = {"data": "mnist-sample", "method": "aalp", "seed": 0, "model": "last"}


@pytest.fixture(scope="module")
def made(trained, few):
    return measure_attacks(trained, few, ATTACK, subject=SUBJECT, tier="quick", queries=0)


def test_a_diagnosis_comes_back_from_disk_small(tmp_path, made):
    path = made.save(tmp_path / "d.json")
    assert path.stat().st_size < 20_000
    again = schema.Measurement.load(path)
    assert again == made
    assert diagnosis_of(again).signs == again.values["signs"]
    assert again.kind == "diagnosis"
    assert again.config["attack"]["eps"] == 0.1
    assert json.loads(path.read_text())["subject"] == SUBJECT


def test_strong_measurement_packs_each_image(generator):
    model, _, split = grey_split(5, generator, count=12)
    attack = aalp.PGD(0.01, 0.005, 2)
    source = {"source": model, "source_subject": {"method": "alp"}}
    made = measure_attacks(model, split, attack, kind="strong", subject={}, tier="quick", queries=5, **source)
    report = strong(model, split, attack, queries=5)
    assert list(made.values["outcomes"]) == list(report)
    assert list(report)[:3] == ["clean", "pgd2x20", "cw2x20"]
    for name, outcome in report.items():
        assert torch.equal(schema.unpack(made.values["outcomes"][name], 12), outcome.correct)
        assert made.values["accuracy"][name]["count"] == 12
    assert made.config["batch_size"] == 500  # the random starts of AutoAttack hang on it
    assert "source" not in made.config  # which has no part in strong attacks
    with pytest.raises(aalp.InputError, match="known are diagnosis, strong, attacks"):
        measure_attacks(model, split, attack, kind="weak", subject={}, tier="quick")


@pytest.mark.parametrize("kind", ["strong", "diagnosis"])
def test_rounded_gradients_are_recorded_and_reach_all_attacks_but_autoattack(generator, kind):
    """Under bfloat16 the suite's forward passes run under autocast, those of AutoAttack and of the walk do not."""
    model, _, split = grey_split(5, generator, count=12)
    seen = []
    model.register_forward_hook(lambda _, inputs, out: seen.append(out.dtype))
    how = {"kind": kind, "subject": {}, "tier": "quick", "queries": 5}
    for precision, found in (("float32", ["float32"]), ("bfloat16", ["bfloat16"]), ("auto", ["float32", "bfloat16"])):
        made = measure_attacks(model, split, aalp.PGD(0.01, 0.005, 2), precision=precision, **how)
        assert made.config["precision"] in found
        assert precision == "auto" or (torch.bfloat16 in seen) == (precision == "bfloat16")
    seen.clear()
    aalp.auto_attack(model, split, 0.01, queries=5)
    assert seen
    assert torch.bfloat16 not in seen


def test_without_the_extra_its_name_is_said(monkeypatch, trained, few):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(aalp.InputError, match=r"pip install 'aalp_lib\[autoattack\]'"):
        aalp.auto_attack(trained, few, 0.1)
    assert list(strong(trained, few[:5], aalp.PGD(0.1, 0.1, 1))) == ["clean", "pgd1x20", "cw1x20"]
    found = measure_attacks(trained, few[:5], ATTACK, subject={"method": "adv"}, tier="quick")
    assert found.config["pyautoattack"] is None
    assert found.values["black_box"] == {}


def test_altered_attacks_change_one_setting_of_table_2s():
    suite, plain = altered_suite(0.3, 0.01), aalp.table2_suite("mnist")
    assert {name: suite[name] for name in plain} == plain
    assert suite["pgd10 longer"] == derived(plain["pgd10"], step=0.03)
    assert suite["cw100 start"] == derived(plain["cw100"], start="clean")
    assert suite["fgsm start"] == derived(plain["fgsm"], start="uniform")
    assert suite["fgsm half"] == derived(plain["fgsm"], start="uniform", step=0.15)
    assert suite["fgsm exact"] == derived(plain["fgsm"], loss="exact_cross_entropy")
    assert {name.partition(" ")[2] for name in suite} == {"", *ALTERED} - {"last"}
    assert gradient_count(suite) == 201 + 200 + 200 + 3


def test_altered_attacks_stand_beside_those_of_table_2(trained, few):
    few, told = few[:40], []
    report = altered(trained, few, aalp.PGD(0.1, 0.04, 100), seed=3, progress=lambda *said: told.append(said))
    plain = {name: attack for name, attack in altered_suite(0.1, 0.04).items() if " " not in name}
    for reading, ending in (("any", ""), ("last", " last")):
        alone = aalp.evaluate(trained, few, plain, seed=3, reading=reading)
        for name in plain.keys() - {"fgsm"}:
            assert torch.equal(report[f"{name}{ending}"].correct, alone[name].correct)
    longer = aalp.evaluate(trained, few, {"a": aalp.CW(0.1, 0.12, 20)}, seed=3)["a"]
    assert torch.equal(report["cw20 longer"].correct, longer.correct)
    assert report["fgsm half"].accuracy > report["fgsm"].accuracy
    assert "fgsm last" not in report
    assert told[-1][0] == told[-1][1]
