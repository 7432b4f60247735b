import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import TINY, tiny, write_svhn

import aalp_lib as aalp
from aalp_lib import _checks
from aalp_lib.cli import main
from aalp_lib.methods import METHODS, TABLE_2
from aalp_lib.reproduction import demo, display, grids, plans, schema
from aalp_lib.reproduction.grids import ABLATIONS, ALPHAS, SETTINGS, Grid, reproduce, setting_for
from aalp_lib.reproduction.jobs import cores, run_job


def test_settings_are_the_papers_where_it_gives_them():
    for name, lr, steps, step, eps, model in (
        ("mnist", 1e-4, 40, 0.01, 0.3, "lenet"),
        ("svhn", 1e-4, 10, 3 / 255, 12 / 255, "resnet9"),
        ("cifar10", 1e-5, 7, 2 / 255, 8 / 255, "resnet32"),
    ):
        setting = SETTINGS[name]["paper"]
        assert (setting.recipe.lr, setting.recipe.schedule, setting.recipe.weight_decay) == (lr, "constant", 0)
        assert setting.attack == aalp.PGD(eps, step, steps)
        assert setting.model["name"] == model
        assert SETTINGS[name]["fast"].attack.eps == eps


def test_setting_for_a_folder_fits_the_network_to_its_images(sample):
    grey = dataclasses.replace(sample, name="mine", classes=tuple("abcdefghijk"))
    setting = setting_for(grey)
    assert setting.model["name"] == "lenet"
    assert (setting.model["classes"], setting.model["image_size"]) == (11, 28)
    assert aalp.models.build(setting.model)(torch.rand(2, 1, 28, 28)).shape == (2, 11)
    assert abs(setting.model["mean"][0] - sample.train.images.float().mean() / 255) < 0.01
    other = setting_for(sample, model="resnet9")
    assert aalp.models.build(other.model)(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(aalp.InputError, match="known are paper, fast"):
        setting_for(sample, recipe="quick")


def test_a_folders_classes_all_count_in_its_normalisation(sample):
    """A folder's images stand class by class, the first one dark here."""
    images = torch.zeros(3000, 1, 28, 28, dtype=torch.uint8)
    images[1000:] = 200
    split = aalp.Split(images, torch.arange(3).repeat_interleave(1000))
    model = setting_for(aalp.Dataset("digits", ("a", "b", "c"), split, split, split)).model
    assert model["mean"][0] == pytest.approx(2 / 3 * 200 / 255, abs=1e-3)


def test_a_reduced_protocol_is_said_in_every_record():
    whole, part = (Grid("cifar10", Path("r"), ("alp",), epochs=epochs) for epochs in (None, 4))
    assert [job.reduced for job in whole.jobs() + part.jobs()] == [None, "4 of 30 epochs"]
    assert part.jobs()[0].config()["reduced"] == "4 of 30 epochs"
    assert "reduced" not in whole.jobs()[0].config()
    (job,) = Grid("cifar10", Path("r"), ("alp",), folder=Path("mine/cifar10-jpeg"), train_images=500).jobs()
    assert (job.name, job.reduced) == ("cifar10-jpeg-alp-seed0", "500 training images")
    assert job.suites()["last"] == aalp.table2_suite("cifar10")


def test_a_grid_names_what_is_wrong():
    with pytest.raises(aalp.InputError, match="unknown data set 'imagenet'"):
        Grid("imagenet", Path("r"))
    with pytest.raises(aalp.InputError, match="unknown recipe 'slow'"):
        Grid("mnist", Path("r"), recipe="slow")
    with pytest.raises(aalp.InputError, match="a seed"):
        Grid("mnist", Path("r"), seeds=(-1,))


def test_ablations_run_where_and_as_often_as_asked(capsys, tmp_path, monkeypatch):
    assert {job.device for job in grids.ablations(tmp_path, device="cuda:1")} == {"cuda:1"}
    arguments = ["reproduce", "ablations", "--methods", "alp", "--dry-run", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("3 runs")  # three seeds, where other grids have one
    assert main([*arguments, "--seeds", "7"]) == 0
    assert "mnist-sample-alp-seed7" in capsys.readouterr().out
    seen = []
    monkeypatch.setattr(display, "run_all", lambda jobs, workers, executor: seen.append((jobs[0].device, workers)))
    for device, asked in (("cpu", []), ("cuda", []), ("cuda", ["--jobs", "5"])):
        monkeypatch.setattr(_checks, "device", lambda _, device=device: torch.device(device))
        assert main([*arguments[:4], *arguments[5:], *asked]) == 0
    assert main([*arguments[:4], *arguments[5:], "--jobs", "0"]) == 0  # which is refused where they are run
    assert seen == [("cpu", cores()), ("cuda", 1), ("cuda", 5), ("cuda", 0)]


def test_quick_runs_enter_no_table(tmp_path):
    (job,) = Grid("mnist", tmp_path, ("alp",), **grids.QUICK).jobs()
    assert (job.tier, job.reduced, job.test_images) == ("quick", "1 of 16 epochs", 100)
    (whole,) = Grid("mnist", tmp_path, ("alp",)).jobs()
    assert whole.tier == "full"


def test_ablations_refuse_what_they_would_pass_over(capsys, tmp_path):
    arguments = ["reproduce", "ablations", "--dry-run", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert main([*arguments, "--epochs", "3"]) == 2
    assert "the ablations take no --epochs" in capsys.readouterr().err
    assert main([*arguments, "--observe"]) == 2
    assert "the ablations take no --observe" in capsys.readouterr().err


CHANGED = {  # by variant
    "": set(),
    "long": {"recipe"},
    "ramp": {"recipe"},
    "steps": {"attack"},
    "wide": {"model"},
    "wide-steps": {"model", "attack"},
    "image-start": {"attack"},
}


def changes(job, usual):
    base = METHODS[job.row.name.removesuffix("_averaged").removesuffix("_ce_adversarial")]
    made = [f.name for f in dataclasses.fields(base) if getattr(base, f.name) != getattr(job.row, f.name)]
    return {*made} - {"name", "label"} | {
        n for n in ("model", "attack", "recipe") if getattr(job.setting, n) != getattr(usual, n)
    }


def test_reasons_change_what_their_name_says_and_take_no_other_settings(capsys, tmp_path):
    jobs = grids.reasons(tmp_path)
    for job in jobs:
        of_the_method = {"averaged": {"weight"}, "adversarial": {"classify"}}.get(job.row.name.split("_")[-1], set())
        expected = CHANGED[job.variant] | of_the_method
        assert changes(job, SETTINGS["mnist"]["fast"]) == expected != set(), job.name
    assert len({job.name for job in jobs}) == len(jobs)
    arguments = ["reproduce", "reasons", "--dry-run", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("to do") == len(jobs)
    assert main([*arguments, "--methods", "alp_averaged,alp-long", "--seeds", "1,2"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[-1] for line in said.splitlines() if "to do" in line] == [
        "mnist-alp_averaged-seed1", "mnist-alp-long-seed1", "mnist-alp_averaged-seed2", "mnist-alp-long-seed2"
    ]  # fmt: skip
    assert main([*arguments, "--methods", "alp"]) == 2
    assert "unknown run of this grid 'alp'" in capsys.readouterr().err
    assert main([*arguments, "--epochs", "1"]) == 2
    assert "the reasons take no --epochs" in capsys.readouterr().err


def test_reasons_on_cifar10_take_their_images_from_a_folder(capsys, tmp_path):
    jobs = grids.cifar10_reasons(tmp_path, tmp_path / "images")
    found = {job.label: changes(job, SETTINGS["cifar10"]["fast"]) for job in jobs}
    assert found == {
        "alp_averaged": {"weight"},
        "aalp_averaged": {"weight"},
        "adv-wide": {"model"},
        "alp_averaged-wide": {"model", "weight"},
    }
    assert {(job.data, job.columns) for job in jobs} == {(str(tmp_path / "images"), None)}
    arguments = ["reproduce", "cifar10-reasons", "--dry-run", "--methods", "adv-wide", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert "cifar10-adv-wide-seed0" in capsys.readouterr().out
    assert main([*arguments, "--epochs", "1"]) == 2
    assert "the cifar10-reasons take no --epochs" in capsys.readouterr().err


def test_controls_run_on_the_whole_of_mnist(capsys, tmp_path):
    jobs = grids.controls(tmp_path, seeds=(0, 1))
    assert {(job.data, job.reduced, job.test_images, job.columns) for job in jobs} == {("mnist", None, None, None)}
    assert len({job.name for job in jobs}) == 8
    halved = [job.setting.model["width"] for job in jobs if job.variant == grids.HALF_FEATURES]
    assert halved == 4 * [(16, 32, 256 // 2)]
    assert main(["reproduce", "controls", "--dry-run", "--seeds", "0,1", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("to do") == 8


def test_jobs_for_a_scheduler_do_not_depend_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_checks, "device", lambda name: pytest.fail("the device is for the worker to find"))
    (job,) = plans.jobs("mnist", Path("results"), elsewhere=True, methods=("alp",), root=Path("data"))
    assert (job.out, job.root, job.device) == (tmp_path / "results" / "mnist", tmp_path / "data", "auto")


def test_other_columns_are_another_experiment(tmp_path):
    run_job(tiny("raw", tmp_path, columns=("pgd40",)))
    with pytest.raises(aalp.InputError, match="made with other settings"):
        run_job(tiny("raw", tmp_path, columns=("pgd40", "cw40")))


def test_recipes_of_a_grid_keep_records_apart():
    names = {
        job.name for recipe in ("fast", "paper") for job in Grid("mnist", Path("r"), ("alp",), recipe=recipe).jobs()
    }
    assert names == {"mnist-alp-seed0", "mnist-alp-paper-seed0"}


def test_every_ablation_changes_something_and_can_be_trained(tmp_path):
    methods = [*ABLATIONS.values(), *ALPHAS.values()]
    assert len({dataclasses.replace(m, name="", label="") for m in methods}) == len(methods)
    assert len(grids.ablations(tmp_path)) == 3 * len(methods)
    x = torch.rand(8, 1, 28, 28)
    torch.manual_seed(0)
    model = aalp.models.lenet((2, 4, 8))
    found = {
        m.name: float(aalp.training_loss(m, model, x, (x + 0.1).clamp(max=1), torch.arange(8)).total.detach())
        for m in methods
    }
    assert all(value > 0 for value in found.values())
    assert found["aalp_half"] != found["aalp_low"]


def test_reproduce_finishes_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(SETTINGS, "mnist-sample", {"fast": TINY})
    grid = Grid("mnist-sample", tmp_path, ("raw", "alp"), test_images=20, columns=("pgd40",))
    run_job(grid.jobs()[0])
    before = grid.jobs()[0].record.stat().st_mtime_ns
    assert {record.method for record in reproduce(grid)} == {"raw", "alp"}
    assert grid.jobs()[0].record.stat().st_mtime_ns == before
    other = dataclasses.replace(grid, test_images=10)
    with pytest.raises(aalp.InputError, match="made with other settings"):
        next(reproduce(other))


# --- the demo


def test_demo_is_table_2_on_the_sample():
    jobs = demo.jobs(Path("demo"))
    assert [job.method for job in jobs] == ["raw", "adv", "alp", "trades", "aalp_gd", "aalp_sw", "aalp"]
    assert len({job.setting.recipe for job in jobs}) == 1
    assert len({job.setting.attack for job in jobs}) == 1


def test_demo_writes_table_and_figures(tmp_path):
    jobs = [tiny(name, tmp_path) for name in ("raw", "aalp")]
    records = [run_job(job) for job in reversed(jobs)]
    paths = demo.write(records, jobs, tmp_path)
    assert [p.name for p in paths] == [
        "table.md", "table.csv", "robust-accuracy.png", "training-curves.png", "digits.png",
    ]  # fmt: skip
    text = (tmp_path / "table.md").read_text()
    assert text.index("| RAW") < text.index("| AALP")
    assert "Features that Guided Dropout kept" in text
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 1 + 2 * (10 + 2)
    for path in paths[2:]:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000


@pytest.mark.slow
def test_svhn_is_one_command_on_its_own_files(tmp_path, capsys):
    """Thirty images in SVHN's own layout; the rows of Table 2 stay unmeasured, since such a run is a quick one."""
    write_svhn(tmp_path)
    arguments = ["reproduce", "svhn", "--root", str(tmp_path), "--methods", "alp", "--quick", "--jobs", "1"]
    arguments += ["--device", "cpu", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--dry-run"]) == 0
    assert not list(tmp_path.rglob("svhn-alp-seed0.json"))
    assert main(arguments) == 0
    (path,) = tmp_path.rglob("svhn-alp-seed0.json")
    made = schema.Record.load(path)
    assert (made.tier, made.config["reduced"]) == ("quick", "1 of 20 epochs")
    assert made.config["model"]["name"] == "resnet9"
    assert made.accuracy["last"]["pgd100"]["count"] == 30
    capsys.readouterr()
    assert main(["results", str(tmp_path / "out"), "--table", "2", "--data", "svhn"]) == 0
    assert capsys.readouterr().out.count("not measured yet") == len(TABLE_2)
