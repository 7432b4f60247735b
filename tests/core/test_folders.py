"""The folder of a run: one process at a time, and the number of threads that the run began with."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_train import ATTACK, same, small

import aalp_lib as aalp
from aalp_lib import checkpoints, folders

START = """
import sys, torch, aalp_lib as aalp
torch.set_num_threads(1)
sample = aalp.load("mnist-sample")
few = aalp.Dataset("few", sample.classes, sample.train[:320], sample.val[:100], sample.test[:100])
model = aalp.models.lenet((2, 4, 8))
print("ready", flush=True)
sys.stdin.readline()
try:
    aalp.fit(model, few, sys.argv[2], aalp.PGD(0.2, 0.1, 2), epochs=3, out=sys.argv[1], resume=len(sys.argv) > 3)
except (aalp.InputError, FileExistsError) as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("resume", [[], ["resume"]])
def test_of_two_processes_started_at_once_into_one_folder_one_is_refused(tmp_path, resume):
    out = tmp_path / "run"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", START, out, method, *resume],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for method in ("adv", "alp")
    ]  # fmt: skip
    for process in both:
        process.stdout.readline()
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=300)[1] for process in both]
    statuses = [process.returncode for process in both]
    assert sorted(statuses) == [0, 1], said
    winner = statuses.index(0)
    assert str(out) in said[1 - winner]
    assert checkpoints.read_json(out / "run.json")["method"]["name"] == ("adv", "alp")[winner]
    assert checkpoints.read(out / checkpoints.LAST).meta["done"] == 9


HOLD = """
import sys, time
from pathlib import Path
from aalp_lib import folders
with folders.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_dead_owners_folder_is_taken_over_and_a_live_ones_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "PATIENCE", 0.1)
    owner = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    owner.stdout.readline()
    with pytest.raises(aalp.InputError, match=f"another process is at work in {tmp_path}"), folders.held(tmp_path):
        pass
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    with folders.held(tmp_path), folders.held(tmp_path), ThreadPoolExecutor(1) as pool:
        refused = pool.submit(folders.free, tmp_path).exception()
        assert "at work" in str(refused)
    folders.free(tmp_path)


def test_what_cannot_be_known_of_a_lock_is_said(tmp_path, monkeypatch):
    """The file is left full by an owner that did not end in peace; a disk may refuse to lock."""
    (tmp_path / folders.LOCK).write_text("node-7")
    with pytest.warns(UserWarning, match="a process on node-7 worked in .* make sure that it has"):
        folders.free(tmp_path)
    folders.free(tmp_path)

    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match=r"cannot be locked \(.*no locks available\)"), folders.held(tmp_path):
        folders.begun(tmp_path, {"seed": 0}, resume=False)
    with pytest.raises(aalp.InputError, match=r"has begun a run in .* just now"):
        folders._describe(tmp_path, {"seed": 1}, new=True)
    assert checkpoints.read_json(tmp_path / folders.RUN)["seed"] == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == [folders.LOCK, folders.RUN]


def test_a_resumed_run_keeps_the_threads_that_it_began_with(sample, tmp_path):
    """On 160 digits at once the number of threads moves the weights' bits; the last assertion shows it."""
    few = aalp.Dataset("few", sample.classes, sample.train[:320], sample.val[:100], sample.test[:100])
    recipe, seen = aalp.Recipe(batch_size=160), []

    def stop(done, total, text):
        raise KeyboardInterrupt

    def train(out, progress=None):
        aalp.fit(model := small(), few, "adv", ATTACK, epochs=2, recipe=recipe, out=out, resume=True, progress=progress)
        return model

    whole = train(tmp_path / "whole")
    with pytest.raises(aalp.Interrupted):
        train(tmp_path / "run", stop)
    torch.set_num_threads(2)
    try:
        with pytest.warns(UserWarning, match="goes on with the number of threads that it began with, 1, not with 2"):
            resumed = train(tmp_path / "run", lambda *_: seen.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 2
        other = train(tmp_path / "other")
    finally:
        torch.set_num_threads(1)
    assert seen == [1, 1, 1]
    assert same(resumed, whole)
    assert not same(other, whole)
