import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import tiny

import aalp_lib as aalp
from aalp_lib import checkpoints
from aalp_lib.cli import main
from aalp_lib.reproduction import archive, machine, measurements, schema
from aalp_lib.reproduction.jobs import Origin, finished, run_job
from aalp_lib.reproduction.packing import fingerprint


def test_a_job_leaves_a_record_that_says_everything(tmp_path, sample):
    job = tiny("aalp", tmp_path)
    record = run_job(job)
    assert record == schema.Record.load(tmp_path / "mnist-sample-aalp-seed0.json")
    assert (record.data, record.method, record.seed, record.tier) == ("mnist-sample", "aalp", 0, "quick")
    assert list(record.accuracy["last"]) == ["clean", *aalp.table2_suite("mnist")]
    assert list(record.accuracy["best"]) == ["clean", "pgd40"]
    assert record.config["recipe"]["epochs"] == 1
    assert {"device", "processor", "threads", "torch", "commit", "code"} <= set(record.environment)
    assert record.network == fingerprint(job.run / checkpoints.LAST)
    assert record.seconds["training"] > 0
    model = aalp.load_model(job.run)
    found = aalp.evaluate(model, sample.test[:20], aalp.table2_suite("mnist"))
    for name, outcome in found.items():
        assert torch.equal(schema.unpack(record.outcomes["last"][name], 20), outcome.correct)
        assert record.accuracy["last"][name]["correct"] == outcome.correct.sum()
    assert Origin.read(job.run) == Origin("mnist-sample")


def test_a_record_is_of_the_network_that_was_evaluated_whatever_lies_there_by_then(tmp_path, monkeypatch):
    """Another process may have begun the same run and written its checkpoint: those weights are not the record's."""
    job, evaluate = tiny("raw", tmp_path), aalp.evaluate

    def meanwhile(model, *args, **kwargs):
        saved = checkpoints.read(job.run / checkpoints.LAST)
        tensors = {k: v + 1 if k.startswith("model.") else v for k, v in saved.tensors.items()}
        checkpoints.write(job.run / checkpoints.LAST, dataclasses.replace(saved, tensors=tensors))
        return evaluate(model, *args, **kwargs)

    assert measurements.trained(tmp_path) == []
    monkeypatch.setattr("aalp_lib.reproduction.jobs.evaluate", meanwhile)
    record = run_job(job)
    assert record.network != fingerprint(job.run / checkpoints.LAST)
    assert measurements.trained(tmp_path) == []


def test_on_a_gpu_the_record_says_that_accuracies_are_without_tf32(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "environment", lambda device: {"device": "a GPU", "tf32": True})
    assert run_job(tiny("raw", tmp_path)).environment == {"device": "a GPU", "tf32": True, "evaluation_tf32": False}


def test_a_finished_job_is_not_run_again_and_another_setting_is_refused(tmp_path, monkeypatch):
    record = run_job(tiny("raw", tmp_path))
    monkeypatch.setattr("aalp_lib.reproduction.jobs.fit", lambda *args, **kwargs: pytest.fail("trained again"))
    assert run_job(tiny("raw", tmp_path)) == record
    with pytest.raises(aalp.InputError, match=r"mnist-sample-raw-seed0\.json was made with other settings"):
        run_job(tiny("raw", tmp_path, test_images=30))


def test_a_finished_job_lacks_no_column(tmp_path):
    job = tiny("raw", tmp_path)
    run_job(job)
    assert job.best_columns == ("pgd40",)
    with pytest.raises(aalp.InputError, match=r"seed0\.json lacks the columns cw10, .*pgd20; name another folder"):
        run_job(dataclasses.replace(job, best_columns=None))


def test_a_folder_called_like_a_known_data_set_is_another_job():
    job = tiny("raw", Path("results"))
    assert dataclasses.replace(job, data="/home/me/mnist-sample").name == "mnist-sample-folder-raw-seed0"


def test_a_run_belongs_to_the_images_that_it_was_trained_on(tmp_path):
    """Two folders of one name share the names of their runs."""
    job = tiny("raw", tmp_path)
    run_job(job)
    for here in ("one", "two"):
        (tmp_path / here / "digits").mkdir(parents=True)
    first = dataclasses.replace(job, data=str(tmp_path / "one" / "digits"))
    job.run.rename(first.run)
    job.record.rename(first.record)
    (first.run / "data.json").unlink()
    Origin(first.data).save(first.run)
    assert finished(first)
    with pytest.raises(aalp.InputError, match=r"is of the images of .*one/digits, not of .*two/digits; name another"):
        finished(dataclasses.replace(first, data=str(tmp_path / "two" / "digits")))
    (tmp_path / "one").rename(tmp_path / "moved")  # or the run was copied to another machine
    assert finished(dataclasses.replace(first, data=str(tmp_path / "moved" / "digits")))


def test_a_training_that_never_began_does_not_say_which_images_the_next_one_sees(tmp_path, capsys):
    assert main(["train", "--data", "mnist-sample", "--seed", "-1", "--out", str(tmp_path)]) == 2
    Origin("/home/me/digits", None, 28).save(tmp_path)
    assert Origin.read(tmp_path) == Origin("/home/me/digits", None, 28)


def test_an_observed_job_gives_the_same_record_and_what_was_seen(tmp_path):
    plain, seen = (run_job(tiny("alp", tmp_path / "plain")), run_job(tiny("alp", tmp_path / "seen", observe=True)))
    assert (seen.accuracy, seen.outcomes) == (plain.accuracy, plain.outcomes)
    (kept,) = archive.records(tmp_path / "seen" / "over_training").measurements.values()
    assert kept.subject == {"data": "mnist-sample", "method": "alp", "seed": 0}
    assert len(kept.values["epochs"]) == len(seen.history["epochs"])
    assert run_job(tiny("alp", tmp_path / "seen", observe=True)) == seen
    with pytest.raises(aalp.InputError, match="of a run that was not observed"):
        run_job(tiny("alp", tmp_path / "plain", observe=True))
