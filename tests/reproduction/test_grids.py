import dataclasses
import re
from pathlib import Path

import pytest
import torch
from conftest import tiny, write_svhn

import aalp_lib as aalp
from aalp_lib import _checks
from aalp_lib.cli import main
from aalp_lib.methods import METHODS, TABLE_2
from aalp_lib.reproduction import demo, grids, schema
from aalp_lib.reproduction.grids import ABLATIONS, ALPHAS, Grid, jobs_of
from aalp_lib.reproduction.jobs import finished, run_job
from aalp_lib.reproduction.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
GRIDS_WITH_RECORDS = ("mnist", "cifar10", "ablations", "reasons", "controls")


def test_a_reduced_protocol_is_said_in_every_record():
    whole, part = (Grid("cifar10", Path("r"), ("alp",)).jobs(epochs=epochs) for epochs in (None, 4))
    assert [job.reduced for job in whole + part] == [None, "4 of 30 epochs"]
    assert part[0].config()["reduced"] == "4 of 30 epochs"
    assert "reduced" not in whole[0].config()
    (job,) = Grid("cifar10", Path("r"), ("alp",)).jobs(folder=Path("mine/cifar10-jpeg"))
    assert (job.name, job.reduced) == ("cifar10-jpeg-alp-seed0", None)
    assert job.suites()["last"] == aalp.table2_suite("cifar10")


def test_a_grid_names_what_is_wrong(tmp_path):
    for wrong, of in (
        ({"data": "imagenet"}, "data set 'imagenet'"),
        ({"recipe": "slow"}, "recipe 'slow'"),
        ({"methods": ("alp-narrow",)}, "variant on mnist 'narrow'"),
        ({"methods": ("salp",)}, "method 'salp'"),
    ):
        recipe = {"recipe": wrong.pop("recipe", "fast")}
        with pytest.raises(aalp.InputError, match=f"unknown {of}"):
            Grid(**({"data": "mnist", "out": tmp_path} | wrong)).jobs(**recipe)
    with pytest.raises(aalp.InputError, match="a seed"):
        Grid("mnist", tmp_path, seeds=(-1,)).jobs()
    with pytest.raises(aalp.InputError, match="unknown run of this grid 'alp'"):
        jobs_of("reasons", tmp_path, ["alp"])


def test_quick_runs_enter_no_table(tmp_path):
    (job,) = jobs_of("mnist", tmp_path, ["alp"], quick=True)
    assert (job.tier, job.reduced, job.test_images) == ("quick", "1 of 16 epochs", 100)
    (whole,) = jobs_of("mnist", tmp_path, ["alp"])
    assert whole.tier == "full"
    assert job.out != whole.out


def test_recipes_and_variants_keep_records_apart(tmp_path):
    names = {
        job.name
        for recipe in ("fast", "paper")
        for job in Grid("mnist", tmp_path, ("alp", "alp-wide")).jobs(recipe=recipe)
    }
    assert names == {"mnist-alp-seed0", "mnist-alp-wide-seed0", "mnist-alp-paper-seed0", "mnist-alp-paper-wide-seed0"}


@pytest.mark.parametrize("name", GRIDS_WITH_RECORDS)
def test_what_lies_in_results_is_what_the_grid_would_run(name):
    """`aalp reproduce NAME` goes on with the records that the repository holds, and refuses none."""
    folder = ROOT / "results" / "cifar10" / "cifar10-jpeg"
    jobs = jobs_of(name, ROOT / "results", seeds=(0, 1, 2), folder=folder if name.startswith("cifar10") else None)
    assert any(finished(job) for job in jobs)


@pytest.mark.parametrize("name", ["reasons", "cifar10-reasons", "controls"])
def test_a_variant_changes_what_its_name_says(name, tmp_path):
    """A row's method departs from the paper's in one choice, or its setting from the usual one in the named parts."""
    jobs = jobs_of(name, tmp_path)
    assert len({job.name for job in jobs}) == len(jobs) > 3
    for job in jobs:
        usual = SETTINGS[job.data]["fast"]
        base = METHODS[re.split("_(?!gd|sw)", job.row.name)[0]]
        changed = [f for f in base.described() if getattr(base, f) != getattr(job.row, f)]
        assert len(set(changed) - {"name", "label"}) == ("_" in job.row.name.removeprefix(base.name)), job.name
        parts = {part for part in ("model", "attack", "recipe") if getattr(job.setting, part) != getattr(usual, part)}
        assert parts == set(grids.VARIANTS[job.data].get(job.variant, {})), job.name


def test_every_ablation_changes_something_and_can_be_trained(tmp_path):
    methods = [*ABLATIONS.values(), *ALPHAS.values()]
    assert len({dataclasses.replace(m, name="", label="") for m in methods}) == len(methods)
    assert len(jobs_of("ablations", tmp_path)) == 3 * len(methods)
    x = torch.rand(8, 1, 28, 28)
    torch.manual_seed(0)
    model = aalp.models.lenet((2, 4, 8))
    found = {
        m.name: float(aalp.training_loss(m, model, x, (x + 0.1).clamp(max=1), torch.arange(8)).total.detach())
        for m in methods
    }
    assert all(value > 0 for value in found.values())
    assert found["aalp_half"] != found["aalp_low"]


# --- on the command line


def test_a_grid_runs_the_rows_and_seeds_that_are_asked_for(capsys, tmp_path):
    arguments = ["reproduce", "reasons", "--dry-run", "--out", str(tmp_path)]
    assert main([*arguments, "--methods", "alp_averaged,alp-long", "--seeds", "1,2"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[-1] for line in said.splitlines() if "to do" in line] == [
        "mnist-alp_averaged-seed1", "mnist-alp-long-seed1", "mnist-alp_averaged-seed2", "mnist-alp-long-seed2"
    ]  # fmt: skip
    assert main(["reproduce", "ablations", "--methods", "alp", "--dry-run", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("3 runs")  # three seeds, where other grids have one
    assert not list(tmp_path.iterdir())


def test_jobs_for_a_scheduler_do_not_depend_on_this_machine(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_checks, "device", lambda name: pytest.fail("the device is for the worker to find"))
    assert main(["reproduce", "mnist", "--methods", "alp", "--dry-run", "--scheduler", "tcp://elsewhere:1"]) == 0
    assert capsys.readouterr().out.startswith(f"1 run into {tmp_path}/results/mnist")


@pytest.mark.slow
def test_svhn_is_one_command_on_its_own_files(tmp_path, capsys):
    """Thirty images in SVHN's own layout; the rows of Table 2 stay unmeasured, since such a run is a quick one."""
    write_svhn(tmp_path)
    arguments = ["reproduce", "svhn", "--root", str(tmp_path), "--methods", "alp", "--quick", "--jobs", "1"]
    arguments += ["--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    (path,) = tmp_path.rglob("svhn-alp-seed0.json")
    made = schema.Record.load(path)
    assert (made.tier, made.config["reduced"]) == ("quick", "1 of 20 epochs")
    assert made.config["model"]["name"] == "resnet9"
    assert made.accuracy["last"]["pgd100"]["count"] == 30
    capsys.readouterr()
    assert main(["results", str(tmp_path / "out"), "--table", "2", "--data", "svhn"]) == 0
    said = capsys.readouterr().out
    assert (said.count("| paper |"), said.count("| ours |")) == (len(TABLE_2), 0)


# --- the demo


def test_demo_writes_table_and_figures(tmp_path):
    jobs = [tiny(name, tmp_path) for name in ("raw", "aalp")]
    records = [run_job(job) for job in reversed(jobs)]
    paths = demo.write(records, jobs, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert text.index("| RAW") < text.index("| AALP")
    assert "Features that Guided Dropout kept" in text
    figures = [path for path in paths if path.suffix == ".png"]
    assert len(figures) == 3
    assert all(path.stat().st_size > 10_000 for path in figures)
