"""A grid within so many minutes: it stops at checkpoints, says what is left, and goes on to the same bits."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import TINY, tiny

from aalp_lib import checkpoints
from aalp_lib.cli import main
from aalp_lib.reproduction import jobs as jobs_module, workers
from aalp_lib.reproduction.jobs import run_job
from aalp_lib.reproduction.workers import Clock, OutOfTime, run_jobs

TWO_EPOCHS = TINY.changed(recipe={"epochs": 2})  # of 18 steps each


def grid(out):
    return [tiny(name, out, setting=TWO_EPOCHS) for name in ("adv", "aalp")]


def in_steps(jobs, steps, monkeypatch):
    """Run jobs one after the other until so many steps and batches are done."""

    class Counted(Clock):
        left = steps

        def is_up(self):
            Counted.left -= 1
            self.over = Counted.left <= 0
            return self.over

    monkeypatch.setattr(workers, "Clock", Counted)
    with ThreadPoolExecutor(1) as executor:
        return list(run_jobs(jobs, executor=executor, minutes=60))


def but_for_times(record):
    lines = [line | {"seconds": 0} for line in record.history["epochs"]]
    return dataclasses.replace(record, seconds={}, history=record.history | {"epochs": lines})


def tensors(job):
    found = {name: checkpoints.read(job.run / name).tensors for name in (checkpoints.LAST, checkpoints.BEST)}
    return {f"{name} {key}": value for name, of in found.items() for key, value in of.items()}


def test_a_grid_in_three_pieces_gives_what_it_gives_at_once(tmp_path, monkeypatch):
    """Stopped in training and in an evaluation; the third piece finds its folder elsewhere, as on another machine."""
    here, there = tmp_path / "here", tmp_path / "there"
    with pytest.raises(
        OutOfTime, match=r"60 minutes: 0 of 2 runs .* left are mnist-sample-adv-seed0 \(\d+ %\), .*aalp"
    ):
        in_steps(grid(here), 20, monkeypatch)
    assert checkpoints.read(grid(here)[0].run / checkpoints.LAST).meta["done"] == 20
    with pytest.raises(OutOfTime):
        in_steps(grid(here), 16 + 2, monkeypatch)
    assert checkpoints.read(grid(here)[0].run / checkpoints.LAST).meta["done"] == 36
    kept = list((grid(here)[0].run / jobs_module.PARTS).rglob("*.safetensors"))
    assert len(kept) == 2
    assert not any(str(tmp_path).encode() in file.read_bytes() for file in here.rglob("*") if file.is_file())
    here.rename(there)
    pieces = in_steps(grid(there), 10**6, monkeypatch)
    for job, record in zip(grid(there), pieces, strict=True):
        whole = dataclasses.replace(job, out=tmp_path / "whole")
        assert but_for_times(record) == but_for_times(run_job(whole))
        found, wanted = tensors(job), tensors(whole)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
        assert record.seconds["evaluation"] > 0
        assert not (job.run / jobs_module.PARTS).exists()


def test_the_command_says_what_is_left_and_how_to_go_on(tmp_path, capsys):
    call = ["reproduce", "mnist-sample", "--methods", "raw,adv", "--quick", "--device", "cpu", "--jobs", "1"]
    call += ["--out", str(tmp_path)]
    assert main([*call, "--minutes", "1e-6"]) == 75
    said = capsys.readouterr().err
    assert "time is up after 1e-06 minutes: 0 of 2 runs are done, left are mnist-sample-raw-seed0 (not begun), " in said
    assert said.endswith(f"go on with:\n  aalp {' '.join(call)} --minutes 1e-6\n")
    assert main([*call, "--minutes", "-1"]) == 2
    assert "number of minutes must be above 0" in capsys.readouterr().err


def test_a_step_that_would_end_too_late_is_not_begun(monkeypatch):
    """Steps of 1, 3 and 2 seconds: with 4 seconds left one more may begin, with less not."""
    times = iter([100.0, 101.0, 104.0, 106.0, 106.5])
    monkeypatch.setattr(workers.time, "time", lambda: next(times))
    clock = Clock(109.1)
    assert [clock.is_up() for _ in range(4)] == [False, False, False, False]
    assert clock.is_up()
    assert clock.over
