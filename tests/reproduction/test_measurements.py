"""What is measured on a grid's trained models, from the command line, at the size of a minute."""

import contextlib
import dataclasses
import shutil
import time
from pathlib import Path

import pytest
import torch
from conftest import tiny

import aalp_lib as aalp
from aalp_lib import checkpoints, resume
from aalp_lib.checkpoints import load_model
from aalp_lib.cli import main
from aalp_lib.data import load
from aalp_lib.reproduction import archive, attack_measurements, machine, measurements, protocols, schema
from aalp_lib.reproduction.jobs import run_job
from aalp_lib.reproduction.packing import fingerprint, keep_beside_records, packaged
from aalp_lib.reproduction.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    for method in ("alp", "aalp"):
        run_job(tiny(method, out / "mnist-sample"))
    return out


@pytest.mark.slow
def test_measures_what_is_missing_and_draws_it(grid, capsys):
    arguments = ["measure", "mnist-sample", "--out", str(grid), "--kinds", "samples,diagnosis", "--threads", "1"]
    arguments += ["--precision", "bfloat16", "--images", "20"]
    assert main(arguments) == 0
    assert "measurements" in capsys.readouterr().out
    folder = grid / "mnist-sample"
    (diagnosis,) = (
        m for m in archive.records(folder / "diagnosis").measurements.values() if m.subject["method"] == "aalp"
    )
    assert diagnosis.config["images"] == 20
    assert diagnosis.config["precision"] == "bfloat16"
    assert diagnosis.config["source"]["method"] == "alp"
    assert {path.parent.name for path in folder.glob("*/*.json")} >= {"samples", "contributions", "diagnosis"}
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json")}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json")} == before
    assert main([*arguments[:-1], "30"]) == 2
    assert "was made with other settings" in capsys.readouterr().err
    assert main(["results", str(grid), "--write"]) == 0
    assert str(folder / "figures" / "figure-11-confidences.png") in "".join(capsys.readouterr().out.split())
    assert (folder / "figures" / "figure-11-confidences.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["strong", "diagnosis", "attacks"])
def test_a_measurement_goes_on_where_it_was_stopped(grid, tmp_path, monkeypatch, kind):
    """Stopped again and again, each time an attack later: no attack is finished twice, and the record is the same."""
    few = dataclasses.replace(load("mnist-sample"), test=load("mnist-sample").test[:12])
    finished, records = [], []
    write = checkpoints.write
    monkeypatch.setattr(checkpoints, "write", lambda path, part: (finished.append(path), write(path, part)))
    for out, stopped in ((tmp_path / "whole", False), (tmp_path / "parts", True)):
        shutil.copytree(grid / "mnist-sample", out, ignore=shutil.ignore_patterns("diagnosis", "strong"))
        attempts, path = 0, None
        while path is None:
            attempts, told, began = attempts + 1, [], time.perf_counter()

            def stop(*said, told=told, patience=attempts + 1 if stopped else 0):
                told.append(said)
                if len(told) == patience:
                    raise KeyboardInterrupt

            with contextlib.suppress(KeyboardInterrupt):
                (path,) = measurements.measure(out, few, kinds=[kind], methods=["aalp"], progress=stop)
        assert not list((out / "runs").glob(f"*-{kind}"))
        records.append(schema.Measurement.load(path))
    whole, parts = records
    assert attempts > 4
    assert len(finished) == len(set(finished)) > 4
    assert parts.values == whole.values
    assert parts.config == whole.config
    assert parts.seconds > time.perf_counter() - began  # those of all attempts, not of the last one


@pytest.mark.slow
def test_what_others_left_is_not_read_by_a_measurement(grid, tmp_path, monkeypatch):
    """Parts belong to one network, images, labels, attack and seed: change one, and they are made anew."""
    shutil.copytree(grid / "mnist-sample", tmp_path / "run", ignore=shutil.ignore_patterns("strong"))
    sample, read = load("mnist-sample"), []

    def strong(*_, **__):
        read.append(resume.part("part", part)["made"])
        raise ZeroDivisionError

    monkeypatch.setattr(attack_measurements, "strong", strong)

    def part():
        return {"made": torch.tensor(len(read))}

    def measure(test=sample.test[:12], method="aalp", seed=0):
        with contextlib.suppress(ZeroDivisionError):
            few = dataclasses.replace(sample, test=test)
            measurements.measure(tmp_path / "run", few, kinds=["strong"], methods=[method], images=12, seed=seed)

    measure()
    measure()
    assert [int(made) for made in read] == [0, 0]
    measure(seed=1)
    measure(sample.test[1:13])
    measure(aalp.Split(sample.test.images[:12], sample.test.labels[:12].flip(0)))
    monkeypatch.setattr(measurements, "suite_for", lambda *_: {"pgd100": aalp.PGD(0.2, 0.1, 100)})
    measure()
    assert [int(made) for made in read] == [0, 0, 2, 3, 4, 5]
    measure(method="alp")
    assert int(read[-1]) == 6
    measure(method="alp")
    monkeypatch.setattr(machine, "_code", lambda: "of another version")
    measure(method="alp")
    assert [int(made) for made in read[-2:]] == [6, 8]


@pytest.mark.slow
def test_parts_outlive_a_measurement_that_could_not_be_saved(grid, tmp_path, monkeypatch):
    shutil.copytree(grid / "mnist-sample", tmp_path / "run", ignore=shutil.ignore_patterns("strong"))
    sample = load("mnist-sample")

    def strong(*_, **__):
        resume.part("part", lambda: {"made": torch.tensor(1)})
        return aalp.Report({"clean": aalp.Outcome(torch.ones(12, dtype=torch.bool))})

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(attack_measurements, "strong", strong)
    monkeypatch.setattr(schema.Measurement, "save", full)
    few = dataclasses.replace(sample, test=sample.test[:12])
    with pytest.raises(OSError, match="no space left"):
        measurements.measure(tmp_path / "run", few, kinds=["strong"], methods=["aalp"], images=12)
    assert list((tmp_path / "run" / "runs").glob("*-strong/*/part.safetensors"))


def test_damaged_parts_are_made_anew_and_no_name_is_used_twice(tmp_path):
    with contextlib.suppress(KeyboardInterrupt), resume.resumable(tmp_path / "work", "a") as work:
        resume.part("part", lambda: {"made": torch.tensor(1)})
        (work.folder / "part.safetensors").write_bytes(b"")
        raise KeyboardInterrupt
    with resume.resumable(tmp_path / "work", "a"):
        assert resume.part("part", lambda: {"made": torch.tensor(2)})["made"] == 2
        with pytest.raises(RuntimeError, match="'part' is done already"):
            resume.part("part", pytest.fail)


def test_what_is_measured_on_a_reduced_run_says_so(tmp_path):
    job = tiny("alp", tmp_path, reduced="1 of 16 epochs")
    run_job(job)
    (one,) = measurements.trained(tmp_path)
    (path,) = measurements.measure(tmp_path, load("mnist-sample"), kinds=["diagnosis"], images=10)
    found = schema.Measurement.load(path)
    assert found.subject["reduced"] == one.subject["reduced"] == "1 of 16 epochs"
    assert protocols.measured_protocol(found) == protocols.protocol(one.record) == "fast, reduced: 1 of 16 epochs"


def test_a_measurement_belongs_to_the_weights_that_it_was_made_on(tmp_path):
    job = tiny("raw", tmp_path)
    run_job(job)
    ask = {"kinds": ["samples", "diagnosis"], "images": 10}
    digits = load("mnist-sample")
    digits = dataclasses.replace(digits, test=digits.test[:30])
    paths = measurements.measure(tmp_path, digits, **ask)
    networks = {schema.Measurement.load(path).subject["network"] for path in paths}
    assert networks == {fingerprint(job.run / checkpoints.LAST)} == {fingerprint(keep_beside_records(job.run))}
    assert measurements.measure(tmp_path, digits, **ask) == paths
    other = checkpoints.read(job.run / checkpoints.LAST)
    next(iter(other.part("model").values())).add_(0.1)
    checkpoints.write(job.run / checkpoints.LAST, other)
    (one,) = measurements.trained(tmp_path)  # the record knows its network, and takes the weights that were kept of it
    assert one.half
    assert measurements.measure(tmp_path, digits, **ask) == paths
    record = schema.Record.load(job.record)
    assert record.network == networks.pop()
    dataclasses.replace(record, network=None).save(job.record)  # an older record knows none
    for kind in ask["kinds"]:
        with pytest.raises(aalp.InputError, match=r"seed0.json is of another network than .*; move it away"):
            measurements.measure(tmp_path, digits, **(ask | {"kinds": [kind]}))


@pytest.mark.slow
def test_a_run_of_the_papers_recipe_keeps_apart_from_the_fast_one(grid, sample, tmp_path):
    shutil.copytree(grid / "mnist-sample" / "runs", tmp_path / "runs")
    for path in (grid / "mnist-sample").glob("*.json"):
        shutil.copy(path, tmp_path)
    record = schema.Record.load(tmp_path / "mnist-sample-alp-seed0.json")
    record.config["attack"].update(eps=0.3, step=0.01, steps=40)
    record.config["recipe"].update(dataclasses.asdict(SETTINGS["mnist-sample"]["paper"].recipe))
    record.config["model"] = SETTINGS["mnist-sample"]["paper"].model
    record.save(tmp_path / "mnist-sample-alp-paper-seed0.json")
    usual = ["mnist-sample-aalp-seed0", "mnist-sample-alp-seed0"]
    assert [one.run.name for one in measurements.trained(tmp_path)] == usual  # it has no weights of its own
    shutil.copytree(tmp_path / "runs" / "mnist-sample-alp-seed0", tmp_path / "runs" / "mnist-sample-alp-paper-seed0")
    paper = next(one for one in measurements.trained(tmp_path) if "paper" in one.run.name)
    assert paper.subject["recipe"] == "paper"
    few = dataclasses.replace(sample, test=sample.test[:60])
    paths = measurements.measure(tmp_path, few, kinds=["samples", "diagnosis"], methods=["alp"], images=10)
    made = {path.relative_to(tmp_path).as_posix(): schema.Measurement.load(path) for path in paths}
    assert len(made) == 10
    for name, found in made.items():
        assert protocols.measured_protocol(found).startswith("paper" if "paper" in name else "fast, model width")
    source = made["diagnosis/mnist-sample-alp-seed0.json"].config["source"]
    assert source["method"] == "aalp"
    assert source["recipe"].startswith("fast")
    assert "source" not in made["diagnosis/mnist-sample-alp-paper-seed0.json"].config  # no other of that recipe


@pytest.mark.slow
def test_a_variant_is_asked_for_by_its_own_name(grid, sample, tmp_path):
    """`aalp measure mnist/ablations --methods alp_averaged`: a row that is none of METHODS."""
    shutil.copytree(grid / "mnist-sample" / "runs" / "mnist-sample-alp-seed0", tmp_path / "runs" / "averaged")
    record = schema.Record.load(grid / "mnist-sample" / "mnist-sample-alp-seed0.json")
    record.config["method"].update(name="alp_averaged", label="ALP, averaged", weight=0.1)
    dataclasses.replace(record, method="alp_averaged").save(tmp_path / "averaged.json")
    few = dataclasses.replace(sample, test=sample.test[:20])
    (path,) = measurements.measure(tmp_path, few, kinds=["diagnosis"], methods=["alp_averaged"], images=10)
    assert path == tmp_path / "diagnosis" / "averaged.json"
    with pytest.raises(aalp.InputError, match="unknown method 'alp'; known are alp_averaged"):
        measurements.measure(tmp_path, few, kinds=["diagnosis"], methods=["alp"])
    with pytest.raises(aalp.InputError, match="at least one method"):
        measurements.measure(tmp_path, few, kinds=["diagnosis"], methods=[])
    with pytest.raises(aalp.InputError, match="unknown training seed '3'; known are 0"):
        measurements.measure(tmp_path, few, kinds=["diagnosis"], seeds=[0, 3])
    later = schema.Record.load(tmp_path / "averaged.json")
    dataclasses.replace(later, seed=3).save(tmp_path / "later.json")
    shutil.copytree(tmp_path / "runs" / "averaged", tmp_path / "runs" / "later")
    assert measurements.measure(tmp_path, few, kinds=["diagnosis"], seeds=[0], images=10) == [path]
    (tmp_path / "later.json").unlink()
    keep_beside_records(tmp_path / "runs" / "averaged")
    shutil.rmtree(tmp_path / "runs")  # what is left tells which data set it was
    arguments = ["--kinds", "diagnosis", "--images", "10", "--methods", "alp_averaged", "--seeds", "0"]
    assert main(["measure", tmp_path.name, "--out", str(tmp_path.parent), *arguments]) == 0


def test_models_trained_on_a_folder_of_images_ask_where_it_is(capsys):
    assert main(["measure", "cifar10", "--out", str(ROOT / "results"), "--methods", "alp"]) == 2
    assert "on the images of a folder, 'cifar10-jpeg': say where it is with --data FOLDER" in capsys.readouterr().err


@pytest.mark.slow
def test_packaged_weights_stand_in_for_checkpoints_that_are_not_at_hand(tmp_path, sample):
    """On a fresh clone there are records and no checkpoints."""
    record = schema.Record.load(ROOT / "results" / "mnist" / "mnist-alp-seed0.json")
    record.save(tmp_path / "mnist-alp-seed0.json")
    dataclasses.replace(record, seed=1).save(tmp_path / "mnist-alp-seed1.json")  # of which the package has no weights
    shutil.copy(ROOT / "results" / "mnist" / "mnist-raw-seed0.json", tmp_path)
    assert [one.run.name for one in measurements.trained(tmp_path)] == ["mnist-alp-seed0", "mnist-raw-seed0"]
    few = dataclasses.replace(sample, name="mnist", test=sample.test[:60])
    for path in measurements.measure(tmp_path, few, kinds=["samples", "diagnosis"], methods=["raw"], images=10):
        assert path.name == "mnist-raw-seed0.json"
        subject = schema.Measurement.load(path).subject
        assert subject["weights"] == "in half precision, as packaged"
    with pytest.raises(aalp.InputError, match="no finished run on mnist-sample"):
        measurements.measure(tmp_path, sample, kinds=["samples"])
    run = tmp_path / "runs" / "mnist-alp-seed1"
    run.mkdir(parents=True)
    shutil.copy(packaged("mnist/alp"), run / "last.safetensors")
    assert keep_beside_records(run) == tmp_path / "weights" / "mnist-alp-seed1.safetensors"
    shutil.rmtree(tmp_path / "runs")
    _, one, _ = measurements.trained(tmp_path)
    assert (one.run.name, one.subject["weights"]) == ("mnist-alp-seed1", "in half precision")
    assert torch.equal(load_model(one.weights).head.weight, aalp.pretrained("mnist/alp").head.weight)


def test_a_folder_without_runs_is_told(tmp_path, sample, capsys):
    with pytest.raises(aalp.InputError, match="holds no finished run"):
        measurements.measure(tmp_path, sample)
    assert main(["measure", "ablations", "--out", str(tmp_path)]) == 2
    assert "ablations holds no finished run with its weights" in capsys.readouterr().err


def test_networks_on_a_readers_images_are_measured_in_the_ball_of_their_training(tmp_path, sample):
    run_job(tiny("raw", tmp_path))
    few = dataclasses.replace(sample, name="digits-of-mine", test=sample.test[:30])
    record = schema.Record.load(tmp_path / "mnist-sample-raw-seed0.json")
    dataclasses.replace(record, data=few.name).save(tmp_path / "mnist-sample-raw-seed0.json")
    attack = aalp.Attack(**record.config["attack"])
    for path in measurements.measure(tmp_path, few, kinds=["samples", "diagnosis"], images=10):
        measured = schema.Measurement.load(path).config["attack"]
        assert measured["eps"] == attack.eps
        assert measured["step"] == (attack.eps / 4 if path.parent.name == "diagnosis" else attack.step)
