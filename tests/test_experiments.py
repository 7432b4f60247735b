import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import heed_ctrl_c

import aalp_lib as aalp
from aalp_lib import checkpoints, demo, results
from aalp_lib.experiments import SETTINGS, Job, Origin, Setting, run_job, run_jobs, setting_for

TINY = Setting({"name": "lenet", "width": [2, 4, 8]}, aalp.PGD(0.3, 0.15, 2), aalp.Recipe(epochs=1, batch_size=200))


def tiny(method, out, **changes):
    values = {"data": "mnist-sample", "method": method, "setting": TINY, "out": out, "test_images": 20}
    return Job(**(values | {"best_columns": ("pgd40",)} | changes))


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


def test_a_job_leaves_a_record_that_says_everything(tmp_path, sample):
    job = tiny("aalp", tmp_path)
    record = run_job(job)
    assert record == results.Record.load(tmp_path / "mnist-sample-aalp-seed0.json")
    assert (record.data, record.method, record.seed, record.tier) == ("mnist-sample", "aalp", 0, "quick")
    assert list(record.accuracy["last"]) == ["clean", *aalp.table2_suite("mnist")]
    assert list(record.accuracy["best"]) == ["clean", "pgd40"]
    assert record.config["recipe"]["epochs"] == 1
    assert {"device", "processor", "threads", "torch", "commit"} <= set(record.environment)
    assert record.seconds["training"] > 0
    model = aalp.load_model(job.run)
    found = aalp.evaluate(model, sample.test[:20], aalp.table2_suite("mnist"))
    for name, outcome in found.items():
        assert torch.equal(results.unpack(record.outcomes["last"][name], 20), outcome.correct)
        assert record.accuracy["last"][name]["correct"] == outcome.correct.sum()
    assert Origin.read(job.run) == Origin("mnist-sample")


def test_a_finished_job_is_not_run_again_and_another_setting_is_refused(tmp_path):
    record = run_job(tiny("raw", tmp_path))
    began = time.perf_counter()
    assert run_job(tiny("raw", tmp_path)) == record
    assert time.perf_counter() - began < 0.5
    with pytest.raises(aalp.InputError, match=r"mnist-sample-raw-seed0\.json was made with other settings"):
        run_job(tiny("raw", tmp_path, test_images=30))


def test_jobs_side_by_side_give_what_they_give_alone(tmp_path):
    torch.set_num_threads(1)
    jobs = [tiny(name, tmp_path / "together") for name in ("raw", "aalp")]
    told = []
    records = {r.method: r for r in run_jobs(jobs, 2, lambda *news: told.append(news))}
    for name in ("raw", "aalp"):
        alone = run_job(tiny(name, tmp_path / "alone"))
        assert alone.accuracy == records[name].accuracy
        assert alone.outcomes == records[name].outcomes
    assert {job.method for job, *_ in told} == {"raw", "aalp"}
    assert all(0 < done <= total for _, done, total, _ in told)


SLOW = """
import sys
from pathlib import Path
import aalp_lib as aalp
from aalp_lib.experiments import Job, Setting, run_jobs
if __name__ == "__main__":
    setting = Setting({"name": "lenet"}, aalp.PGD(0.3, 0.1, 5), aalp.Recipe(epochs=50, batch_size=64))
    jobs = [Job("mnist-sample", name, setting, Path(sys.argv[1])) for name in ("alp", "aalp", "trades")]
    for record in run_jobs(jobs, 2, lambda *news: print(news[1], flush=True)):
        pass
"""


@pytest.mark.parametrize("group", [True, False])
def test_ctrl_c_saves_what_is_under_way(tmp_path, group):
    """Whether the signal reaches the whole group, as from a keyboard, or the first process alone."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, script, tmp_path / "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
    for _ in range(6):
        process.stdout.readline()
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.count("Traceback") == 1  # the first process's own, of the script
    assert "Interrupted: stopped; what is done and what was under way is saved" in said
    runs = [path.parent for path in (tmp_path / "out").rglob(checkpoints.LAST)]
    assert runs
    assert all(checkpoints.read(run / checkpoints.LAST).meta["done"] > 0 for run in runs)
    assert not list((tmp_path / "out").rglob("*trades*"))


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
