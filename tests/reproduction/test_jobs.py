import contextlib
import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from conftest import heed_ctrl_c, tiny

import aalp_lib as aalp
from aalp_lib import checkpoints
from aalp_lib.cli import main
from aalp_lib.reproduction import cluster, display, measurements, per_epoch, schema
from aalp_lib.reproduction.jobs import Origin, Setting, finished, run_job, run_jobs
from aalp_lib.zoo import fingerprint


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
    monkeypatch.setattr(schema, "environment", lambda device: {"device": "a GPU", "tf32": True})
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
    (first.run / "data.json").write_text((first.run / "data.json").read_text().replace("mnist-sample", first.data))
    assert finished(first)
    with pytest.raises(aalp.InputError, match=r"is of the images of .*one/digits, not of .*two/digits; name another"):
        finished(dataclasses.replace(first, data=str(tmp_path / "two" / "digits")))


def test_a_training_that_never_began_does_not_say_which_images_the_next_one_sees(tmp_path, capsys):
    assert main(["train", "--data", "mnist-sample", "--seed", "-1", "--out", str(tmp_path)]) == 2
    Origin("/home/me/digits", None, 28).save(tmp_path)
    assert Origin.read(tmp_path) == Origin("/home/me/digits", None, 28)


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
from aalp_lib.reproduction.jobs import Job, Setting, run_jobs
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
    _, said = process.communicate(timeout=180)
    assert process.returncode != 0
    assert said.count("Traceback") == 1  # the first process's own, of the script
    assert "Interrupted: stopped; what is done and what was under way is saved" in said
    runs = [path.parent for path in (tmp_path / "out").rglob(checkpoints.LAST)]
    assert runs
    assert all(checkpoints.read(run / checkpoints.LAST).meta["done"] > 0 for run in runs)
    assert not list((tmp_path / "out").rglob("*trades*"))


def test_runs_end_soon_after_the_process_that_began_them_was_killed(tmp_path):
    """Or a second call would train in the same folder beside them."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    process = subprocess.Popen([sys.executable, script, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
    notes = [tmp_path / "out" / "runs" / f"mnist-sample-{name}-seed0" / "progress.json" for name in ("alp", "aalp")]
    for note in notes:
        _wait_for(note)
    process.kill()
    process.wait()
    process.stdout.close()
    until = time.monotonic() + 60
    while any(time.time() - note.stat().st_mtime < 3 for note in notes):
        assert time.monotonic() < until, "the runs go on"
        time.sleep(0.1)
    assert not list((tmp_path / "out").glob("*.json"))


def test_training_images_are_a_share_of_every_class(tmp_path):
    record = run_job(tiny("raw", tmp_path, train_images=360, reduced="360 training images"))
    assert record.config["reduced"] == "360 training images"
    assert run_job(tiny("raw", tmp_path, train_images=360, reduced="360 training images")) == record
    with pytest.raises(aalp.InputError, match="3600 is no part of them"):
        run_job(tiny("adv", tmp_path, train_images=3600, reduced="all"))


def test_an_observed_job_gives_the_same_record_and_what_was_seen(tmp_path):
    plain, seen = (
        run_job(tiny("alp", tmp_path / "plain")),
        run_job(tiny("alp", tmp_path / "seen", observer=per_epoch.job)),
    )
    assert (seen.accuracy, seen.outcomes) == (plain.accuracy, plain.outcomes)
    (kept,) = schema.load_measurements(tmp_path / "seen" / "over_training")
    assert kept.subject == {"data": "mnist-sample", "method": "alp", "seed": 0}
    assert len(kept.values["epochs"]) == len(seen.history["epochs"])
    assert run_job(tiny("alp", tmp_path / "seen", observer=per_epoch.job)) == seen
    with pytest.raises(aalp.InputError, match="of a run that was not observed"):
        run_job(tiny("alp", tmp_path / "plain", observer=per_epoch.job))


def test_a_job_that_fails_does_not_stop_the_others(tmp_path):
    jobs = [tiny("adv", tmp_path, train_images=10**6), tiny("raw", tmp_path), tiny("alp", tmp_path, train_images=10**7)]
    with pytest.raises(aalp.InputError, match="is no part of them") as caught:
        list(run_jobs(jobs, 1))
    assert [job.record.exists() for job in jobs] == [False, True, False]
    one, other = caught.value.__notes__
    assert one == "in mnist-sample-adv-seed0"
    assert other.startswith("mnist-sample-alp-seed0 failed too: mnist-sample has 3600 training images; 10000000")


def test_two_jobs_of_one_name_would_write_one_folder(tmp_path):
    with pytest.raises(aalp.InputError, match="two of the runs are mnist-sample-raw-seed0"):
        list(run_jobs([tiny("raw", tmp_path), tiny("raw", tmp_path)]))


def test_a_failed_run_is_named_on_the_command_line(capsys, tmp_path):
    arguments = ["reproduce", "mnist-sample", "--methods", "raw", "--train-images", "9999999", "--jobs", "1"]
    assert main([*arguments, "--device", "cpu", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("aalp: mnist-sample has 3600 training images")
    assert said[1] == "  in mnist-sample-raw-seed0"


@pytest.fixture
def _one_thread_each(monkeypatch):
    """For processes that an executor starts; results are equal to the bit only at the same number of threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.usefixtures("_one_thread_each")
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_jobs_run_on_any_executor_and_threads_take_turns(tmp_path, kind):
    make = {"processes": lambda: ProcessPoolExecutor(2, get_context("spawn")), "threads": lambda: ThreadPoolExecutor(2)}
    told = []
    with make[kind]() as executor:
        jobs = [tiny(name, tmp_path / kind) for name in ("raw", "aalp")]
        records = {r.method: r for r in run_jobs(jobs, executor=executor, watch=lambda *news: told.append(news))}
    for name in ("raw", "aalp"):
        alone = run_job(tiny(name, tmp_path / "alone"))
        assert alone.outcomes == records[name].outcomes
    assert {job.method for job, done, total, _ in told if done == total} == {"raw", "aalp"}


LONG = Setting({"name": "lenet", "width": [2, 4, 8]}, aalp.PGD(0.3, 0.15, 2), aalp.Recipe(epochs=12, batch_size=100))


def _wait_for(path, seconds=180):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread_each")
def test_a_process_killed_half_way_loses_nothing(tmp_path):
    """SIGKILL to the process of a run; the same call then goes on, and gives what an undisturbed run gives."""
    jobs = [tiny(name, tmp_path / "killed", setting=LONG) for name in ("adv", "raw")]
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        victims = []

        def kill(job, done, total, text):
            if not victims and job.method == "adv" and (job.run / checkpoints.LAST).exists() and done < total:
                victims.extend(executor._processes)
                for victim in victims:
                    os.kill(victim, signal.SIGKILL)

        with pytest.raises(OSError, match="goes on from its last checkpoint"):
            list(run_jobs(jobs, executor=executor, watch=kill))
    assert not jobs[0].record.exists()
    reached = checkpoints.read(jobs[0].run / checkpoints.LAST).meta["done"]
    assert reached > 0
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        found = {r.method: r for r in run_jobs(jobs, executor=executor)}
    alone = run_job(tiny("adv", tmp_path / "alone", setting=LONG))
    assert found["adv"].outcomes == alone.outcomes
    assert [e["loss"] for e in found["adv"].history["epochs"]] == [e["loss"] for e in alone.history["epochs"]]


@pytest.mark.slow
def test_jobs_that_wait_outlive_a_killed_process(tmp_path):
    jobs = [tiny("adv", tmp_path, setting=LONG), tiny("raw", tmp_path), tiny("alp", tmp_path)]

    def kill(job, done, total, text):
        if job.method == "adv" and done < total:
            (worker,) = multiprocessing.active_children()
            worker.kill()

    with pytest.raises(OSError, match="goes on from its last checkpoint") as caught:
        list(run_jobs(jobs, 1, watch=kill))
    assert caught.value.__notes__ == ["in mnist-sample-adv-seed0"]
    assert [job.record.exists() for job in jobs] == [False, True, True]


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread_each")
def test_a_grid_runs_on_a_scheduler_that_the_command_names(tmp_path, monkeypatch, capsys):
    """A real scheduler and a worker in a process of its own, which sees the same folder."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "aalp_lib.reproduction.jobs.ProcessPoolExecutor", lambda *_: pytest.fail("it ran on this machine's own")
    )
    where = str(tmp_path / "dask")
    with distributed.LocalCluster(1, threads_per_worker=1, dashboard_address=None, local_directory=where) as cluster:
        call = ["reproduce", "mnist-sample", "--methods", "raw", "--seeds", "0,1", "--quick", "--train-images", "200"]
        assert main([*call, "--test-images", "20", "--device", "cpu", "--scheduler", cluster.scheduler_address]) == 0
    said = capsys.readouterr().out
    assert all(f"RAW, seed {seed}: clean" in said for seed in (0, 1))
    records = [schema.Record.load(path) for path in (tmp_path / "results" / "mnist-sample-quick").glob("*.json")]
    assert sorted(record.seed for record in records) == [0, 1]
    assert all(r.tier == "quick" and r.config["train_images"] == 200 for r in records)


def test_after_ctrl_c_what_runs_on_a_cluster_is_to_be_waited_for(tmp_path, monkeypatch, capsys):
    """To begin it again meanwhile would have two processes write one folder."""

    def stop(*_):
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(aalp.Interrupted, match=r"^stopped; what is done is saved$"):
            list(run_jobs([tiny("raw", tmp_path)], watch=stop, executor=pool))
        monkeypatch.setattr(cluster, "executor", lambda address: contextlib.nullcontext(pool))
        monkeypatch.setattr(display, "run_all", lambda jobs, *_: list(run_jobs(jobs, watch=stop, executor=pool)))
        call = [
            "reproduce",
            "mnist-sample",
            "--quick",
            "--methods",
            "raw",
            "--out",
            str(tmp_path),
            "--scheduler",
            "tcp:1",
        ]
        assert main(call) == 130
    said = capsys.readouterr().err
    assert "what is under way on the cluster runs to its end there" in said
    assert f"go on with:\n  aalp reproduce mnist-sample --quick --methods raw --out {tmp_path}" in said


def test_a_scheduler_that_does_not_answer_is_one_sentence(tmp_path, monkeypatch, capsys):
    distributed = pytest.importorskip("distributed")
    client, asked = distributed.Client, []

    def impatient(address, timeout, **more):
        asked.append(address)
        return client(address, timeout="200ms", **more)

    monkeypatch.setattr(distributed, "Client", impatient)
    for address in ("tcp://127.0.0.1:1", "nothing://here"):
        assert main(["reproduce", "mnist-sample", "--out", str(tmp_path), "--scheduler", address]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"aalp: no Dask scheduler answers at {address} (")
        assert said.count("\n") == 1
    assert asked == ["tcp://127.0.0.1:1"]  # a client of the other would hang for 40 s when it is given up
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread_each")
def test_a_dask_worker_killed_half_way_loses_nothing(tmp_path):
    """A real scheduler and two worker processes; its jobs go to the other worker, and each record is written once."""
    distributed = pytest.importorskip("distributed")
    service = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--no-show"]
    where = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    processes = [subprocess.Popen([*service, "--scheduler-file", where], **quiet)]
    try:
        _wait_for(where)
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", where, "--no-nanny"]
        workers = {
            name: subprocess.Popen([*worker, "--no-dashboard", "--nthreads", "1", "--name", name], **quiet)
            for name in ("a", "b")
        }
        processes += workers.values()
        with distributed.Client(scheduler_file=str(where), set_as_default=False) as client:
            client.wait_for_workers(2, timeout=180)
            by_address = {address: info["id"] for address, info in client.scheduler_info()["workers"].items()}
            jobs = [tiny(name, tmp_path / "out", setting=LONG) for name in ("adv", "alp", "raw")]
            killed, reached, records = [], {}, {}

            def kill(job, done, total, text):
                if (job.run / checkpoints.LAST).exists():
                    now = checkpoints.read(job.run / checkpoints.LAST).meta["done"]
                    assert now >= reached.get(job.name, 0), f"{job.name} began again"
                    reached[job.name] = now
                if job.record.exists():
                    records.setdefault(job.name, job.record.stat().st_ino)
                if not killed and reached.get(job.name, 0) > 0 and done < total:
                    name = next(name for address, name in by_address.items() if client.processing()[address])
                    killed.append(name)
                    workers[name].kill()

            found = list(run_jobs(jobs, executor=client.get_executor(pure=False), watch=kill))
        assert killed
        assert workers[killed[0]].wait(10) == -signal.SIGKILL
        assert sorted(r.method for r in found) == ["adv", "alp", "raw"]
        assert {job.name: job.record.stat().st_ino for job in jobs} == records  # none was written again
        alone = run_job(tiny("adv", tmp_path / "alone", setting=LONG))
        assert next(r for r in found if r.method == "adv").outcomes == alone.outcomes
        assert all(len(r.history["epochs"]) == 12 for r in found)
    finally:
        for process in processes:
            process.kill()
            process.wait()
