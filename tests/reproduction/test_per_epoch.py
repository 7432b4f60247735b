import dataclasses
import shutil

import pytest
import torch
from conftest import tiny

import aalp_lib as aalp
from aalp_lib import checkpoints
from aalp_lib.reproduction import analyses, jobs, schema
from aalp_lib.reproduction.per_epoch import over_training
from aalp_lib.reproduction.settings import Setting, new_model

SETTING = Setting({"name": "lenet", "width": [4, 8, 16]}, aalp.PGD(0.1, 0.05, 2), aalp.Recipe(3, 50, 3e-3, ramp=0.5))
LOOK = aalp.PGD(0.1, 0.05, 2)


@pytest.fixture(scope="module")
def small(sample):
    return aalp.Dataset(sample.name, sample.classes, sample.train[:400], sample.val[:40], sample.test[:80])


@pytest.fixture(scope="module")
def observed(small, tmp_path_factory):
    """An AALP training that was looked at, with all that it left."""
    run = tmp_path_factory.mktemp("observed") / "run"
    shown = analyses.first_of_each_class(small.test)[:2]
    return run, over_training(small, "aalp", SETTING, run, seed=1, images=60, attack=LOOK, shown=shown)


def same_tensors(one, other):
    one, other = (checkpoints.read(run / "last.safetensors").tensors for run in (one, other))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_looking_changes_no_weight(observed, small, tmp_path):
    model = new_model(SETTING, 1)
    aalp.fit(model, small, "aalp", SETTING.attack, seed=1, recipe=SETTING.recipe, out=tmp_path)
    same_tensors(observed[0], tmp_path)


def test_looking_changes_no_batch_statistics(small, tmp_path):
    net = {"name": "resnet9", "width": 2, "in_channels": 1, "mean": [0.5], "std": [0.5]}
    setting = Setting(net, aalp.PGD(0.1, 0.05, 2), aalp.Recipe(2, 50, 3e-3, crop=2))
    few = dataclasses.replace(small, train=small.train[:100])
    over_training(few, "adv", setting, tmp_path / "one", images=20, attack=LOOK)
    aalp.fit(new_model(setting, 0), few, "adv", setting.attack, recipe=setting.recipe, out=tmp_path / "other")
    same_tensors(tmp_path / "one", tmp_path / "other")


def test_the_last_epoch_is_the_trained_model_as_it_is_measured_elsewhere(observed, small):
    run, values = observed
    model = checkpoints.load_model(run)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))[:60].sort().values
    found = analyses.samples(model, analyses.attacked(model, small.test[order], LOOK))
    last = values["epochs"][-1]
    assert values["images"] == 60
    for name in ("consistent", "inconsistent"):
        assert values[name] == found[name]["count"]
        assert last["alp"][name] == found[name]["alp_loss"]
    assert last["clean"] == pytest.approx(found["both"]["count"] / 60, abs=1e-5)
    assert last["robust"] >= values["consistent"] / 60 - 1e-5


def test_the_sets_are_those_of_the_end_at_every_epoch(observed):
    run, values = observed
    seen = [checkpoints.read(run / "observed" / f"epoch-{n:04d}.safetensors").tensors for n in (1, 2, 3)]
    consistent = seen[-1]["clean"] & seen[-1]["robust"]
    for line, now in zip(values["epochs"], seen, strict=True):
        assert line["alp"]["consistent"] == analyses.mean(now["alp"][consistent])
        assert line["clean"] == analyses.mean(now["clean"])


def test_every_feature_is_in_one_bin_in_every_epoch(observed):
    _, values = observed
    for kept in values["contributions"].values():
        assert [sum(counts) for counts in kept["counts"]] == [16, 16, 16]
        assert len(kept["edges"]) == len(kept["counts"][0]) + 1
    assert [len(m["shape"]) for m in values["activation"]["maps"]] == [3, 3, 3]
    assert values["activation"]["labels"] == [0, 1]


def stop_at(step):
    def stop(done, total, text):
        if done == step:
            raise KeyboardInterrupt

    return stop


def test_a_run_that_was_interrupted_has_seen_the_same_in_the_end(observed, small, tmp_path):
    shown = analyses.first_of_each_class(small.test)[:2]
    again = {"seed": 1, "images": 60, "attack": LOOK, "shown": shown}
    for step in (8, 13):  # 8 is an epoch's end, 13 within the second
        with pytest.raises(aalp.Interrupted):
            over_training(small, "aalp", SETTING, tmp_path, **again, progress=stop_at(step))
    assert over_training(small, "aalp", SETTING, tmp_path, **again) == observed[1]


def test_an_epoch_whose_end_was_saved_but_not_seen_is_looked_at_first(observed, small, tmp_path):
    """As after a kill between the two."""
    shown = analyses.first_of_each_class(small.test)[:2]
    again = {"seed": 1, "images": 60, "attack": LOOK, "shown": shown}
    with pytest.raises(aalp.Interrupted):
        over_training(small, "aalp", SETTING, tmp_path, **again, progress=stop_at(16))
    (tmp_path / "observed" / "epoch-0002.safetensors").unlink()
    assert over_training(small, "aalp", SETTING, tmp_path, **again) == observed[1]


def test_a_run_that_was_not_looked_at_is_refused(observed, small, tmp_path):
    aalp.fit(new_model(SETTING, 1), small, "aalp", SETTING.attack, seed=1, recipe=SETTING.recipe, out=tmp_path / "run")
    with pytest.raises(aalp.InputError, match="not looked at after epoch 1"):
        over_training(small, "aalp", SETTING, tmp_path / "run", seed=1, images=60, attack=LOOK)
    shutil.copytree(observed[0], tmp_path / "other")
    with pytest.raises(aalp.InputError, match="another attack or other images"):
        over_training(small, "aalp", SETTING, tmp_path / "other", seed=1, images=50, attack=LOOK)


def test_a_run_that_was_stopped_without_having_been_looked_at_is_refused_before_it_goes_on(small, tmp_path):
    model = new_model(SETTING, 1)
    with pytest.raises(aalp.Interrupted):  # in the second epoch of 8 steps
        aalp.fit(model, small, "aalp", SETTING.attack, seed=1, recipe=SETTING.recipe, out=tmp_path, progress=stop_at(9))
    with pytest.raises(aalp.InputError, match="not looked at after epoch 1"):
        over_training(small, "aalp", SETTING, tmp_path, seed=1, attack=LOOK, progress=lambda *_: pytest.fail("trained"))


def test_a_training_is_measured_once(small, tmp_path, monkeypatch):
    monkeypatch.setattr(analyses, "paper_attack", lambda dataset: LOOK)
    job = tiny("alp", tmp_path, setting=SETTING.changed(recipe={"epochs": 1}), reduced="one epoch")
    path = jobs.observed(job, small, images=20)
    found = schema.Measurement.load(path)
    assert (path, found.kind, found.config["images"]) == (job.observed, "over_training", 20)
    assert found.subject == {"data": "mnist-sample", "method": "alp", "seed": 0, "reduced": "one epoch"}
    assert found.values["activation"]["labels"] == [0, 1, 2, 3]
    at = path.stat().st_mtime_ns
    assert jobs.observed(job, small, images=20) == path
    assert path.stat().st_mtime_ns == at
    with pytest.raises(aalp.InputError, match="made with other settings"):
        jobs.observed(dataclasses.replace(job, setting=SETTING), small, images=20)
