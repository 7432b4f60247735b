"""Many jobs at once: killed, stopped, failing, on other executors, and no bit different."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import pytest
import torch
from conftest import heed_ctrl_c, tiny

import aalp_lib as aalp
from aalp_lib import checkpoints
from aalp_lib.cli import main
from aalp_lib.reproduction import schema, workers
from aalp_lib.reproduction.jobs import run_job
from aalp_lib.reproduction.settings import Setting
from aalp_lib.reproduction.workers import run_jobs


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
from aalp_lib.reproduction.jobs import Job
from aalp_lib.reproduction.settings import Setting
from aalp_lib.reproduction.workers import run_jobs
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


def test_a_job_that_fails_does_not_stop_the_others(tmp_path):
    jobs = [tiny(name, tmp_path) for name in ("adv", "raw", "alp")]
    for job in (jobs[0], jobs[2]):
        _damage(job.run)
    with pytest.raises(aalp.InputError, match=r"adv-seed0 holds last\.safetensors but no run\.json") as caught:
        list(run_jobs(jobs, 1))
    assert [job.record.exists() for job in jobs] == [False, True, False]
    one, other = caught.value.__notes__
    assert one == "in mnist-sample-adv-seed0"
    assert other.startswith("mnist-sample-alp-seed0 failed too: ")


def _damage(run):
    """Leave a checkpoint of which nobody can tell what run it was."""
    run.mkdir(parents=True)
    (run / checkpoints.LAST).touch()


def test_two_jobs_of_one_name_would_write_one_folder(tmp_path):
    with pytest.raises(aalp.InputError, match="two of the runs are mnist-sample-raw-seed0"):
        list(run_jobs([tiny("raw", tmp_path), tiny("raw", tmp_path)]))


def test_a_failed_run_is_named_on_the_command_line(capsys, tmp_path):
    arguments = ["reproduce", "mnist-sample", "--methods", "raw", "--jobs", "1"]
    _damage(tmp_path / "mnist-sample" / "runs" / "mnist-sample-raw-seed0")
    assert main([*arguments, "--device", "cpu", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "raw-seed0 holds last.safetensors but no run.json" in said[0]
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


def test_jobs_that_wait_have_the_threads_that_they_would_have_had_without_a_kill(tmp_path, monkeypatch):
    """Other numbers of threads give other bits: the one that is left must not take all."""
    threads = []

    class Pool(ThreadPoolExecutor):
        """The first one's processes are killed while "adv" and "alp" are under way; the next one's do their work."""

        def __init__(self, count, context, enter, arguments):
            super().__init__(count)
            threads.append(arguments[1])

        def submit(self, work, job, until):
            future = Future()
            if len(threads) > 1:
                future.set_result(job.method)
                return future
            if job.method != "raw":
                job.run.mkdir(parents=True)
                (job.run / workers.NOTE).write_text("")
            future.set_exception(BrokenProcessPool())
            return future

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(workers, "cores", lambda: 4)
    found = []
    jobs = [tiny(name, tmp_path) for name in ("adv", "alp", "raw")]
    with pytest.raises(workers.Killed):
        list(run_jobs(jobs, 2, lambda job, *_: found.append(job.method)))
    assert found == ["raw"]
    assert threads == [2, 2]


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread_each")
def test_a_grid_runs_on_a_scheduler_that_the_command_names(tmp_path, monkeypatch, capsys):
    """A real scheduler and a worker in a process of its own, which sees the same folder."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "aalp_lib.reproduction.workers.ProcessPoolExecutor", lambda *_: pytest.fail("it ran on this machine's own")
    )
    where = str(tmp_path / "dask")
    with distributed.LocalCluster(1, threads_per_worker=1, dashboard_address=None, local_directory=where) as cluster:
        call = ["reproduce", "mnist-sample", "--methods", "raw", "--seeds", "0,1", "--quick"]
        assert main([*call, "--test-images", "20", "--device", "cpu", "--scheduler", cluster.scheduler_address]) == 0
    said = capsys.readouterr().out
    assert all(f"RAW, seed {seed}: clean" in said for seed in (0, 1))
    records = [schema.Record.load(path) for path in (tmp_path / "results" / "mnist-sample-quick").glob("*.json")]
    assert sorted(record.seed for record in records) == [0, 1]
    assert all(r.tier == "quick" for r in records)


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
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


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
