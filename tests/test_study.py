"""What is measured on a grid's trained models, from the command line, at the size of a minute."""

import pytest
from conftest import tiny

import aalp_lib as aalp
from aalp_lib import results, study
from aalp_lib.cli import main
from aalp_lib.jobs import run_job


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    for method in ("alp", "aalp"):
        run_job(tiny(method, out / "mnist-sample"))
    return out


@pytest.mark.slow
def test_measures_what_is_missing_and_draws_it(grid, capsys):
    arguments = ["measure", "mnist-sample", "--out", str(grid), "--kinds", "samples,diagnosis", "--images", "20"]
    assert main([*arguments, "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "measurements of 2 models" in said
    folder = grid / "mnist-sample"
    (diagnosis,) = (m for m in results.load_measurements(folder / "diagnosis") if m.subject["method"] == "aalp")
    assert diagnosis.config["images"] == 20
    assert diagnosis.config["source"]["method"] == "alp"
    assert {path.parent.name for path in folder.glob("*/*.json")} >= {"samples", "contributions", "diagnosis"}
    assert (folder / "figures" / "figure-11-confidences.png").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json")}
    assert main([*arguments, "--threads", "1"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json")} == before
    assert main([*arguments[:-1], "30"]) == 1
    assert "was made with other settings" in capsys.readouterr().err


def test_a_record_of_the_papers_recipe_is_not_taken_for_the_fast_runs(grid):
    folder = grid / "mnist-sample"
    before = [one.run.name for one in study.trained(folder)]
    record = results.Record.load(folder / "mnist-sample-alp-seed0.json")
    record.config["attack"].update(eps=0.3, step=0.01, steps=40)
    record.config["recipe"]["lr"] = 1e-4
    path = record.save(folder / "mnist-sample-alp-paper-seed0.json")
    assert (
        [one.run.name for one in study.trained(folder)]
        == before
        == ["mnist-sample-aalp-seed0", "mnist-sample-alp-seed0"]
    )
    path.unlink()


def test_a_folder_without_runs_is_told(tmp_path, sample):
    with pytest.raises(aalp.InputError, match="holds no finished run"):
        study.measure(tmp_path, sample)
