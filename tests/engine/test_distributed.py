"""One training on two real processes that talk over gloo is the training of one process."""

import contextlib
import dataclasses
import gc
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
import types
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import heed_ctrl_c
from torch import nn

import aalp_lib as aalp
from aalp_lib import checkpoints
from aalp_lib.cli import main
from aalp_lib.engine import distributed
from aalp_lib.reproduction import controls
from aalp_lib.reproduction.grids import ABLATIONS

ATTACK = aalp.PGD(0.2, 0.1, 3)
CONTEXT = multiprocessing.get_context("spawn")


# --- two processes that wait for tasks


class Ranks:
    """Processes in one group; a call has each of them call a function of this file, and returns what each returned."""

    def __init__(self, count, folder):
        self.pipes, self.processes = [], []
        for rank in range(count):
            ours, theirs = CONTEXT.Pipe()
            self.pipes.append(ours)
            arguments = (rank, count, f"file://{folder}/store", theirs)
            self.processes.append(CONTEXT.Process(target=serve, args=arguments, daemon=True))
            self.processes[-1].start()

    def __call__(self, task, *args, **kwargs):
        for pipe in self.pipes:
            pipe.send((task, args, kwargs))
        answers = []
        for pipe in self.pipes:
            assert pipe.poll(60), "a process hangs"
            answers.append(pipe.recv())
        return answers

    def close(self):
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(20)


def serve(rank, count, store, pipe):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with it ignored
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
    while (call := pipe.recv()) is not None:
        task, args, kwargs = call
        try:
            pipe.send(task(*args, **kwargs))
        except BaseException as error:
            pipe.send(error)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    found = Ranks(2, tmp_path_factory.mktemp("ranks"))
    yield found
    found.close()


# --- what they do


def small(dtype=torch.float64):
    """In float64, the signs of the attack's gradients do not depend on how a batch is divided."""
    torch.manual_seed(0)
    return aalp.models.lenet((2, 4, 9)).to(dtype)


def digits(rows, val):
    sample = aalp.load("mnist-sample")
    return aalp.Dataset("few", sample.classes, sample.train[:rows], sample.val[:val], sample.test[:10])


def method(name, **dropout):
    found = (aalp.METHODS | ABLATIONS)[name]
    if dropout:
        found = dataclasses.replace(found, guided_dropout=dataclasses.replace(found.guided_dropout, **dropout))
    return found


def train(name="aalp", *, dropout=None, rows=33, val=20, model=None, source=None, restarts=1, recipe=None, **options):
    """Train, and return as arrays what a test may want to compare."""
    model = model or small()
    attack = dataclasses.replace(ATTACK, restarts=restarts)
    recipe = aalp.Recipe(**{"epochs": 1, "batch_size": 64, "lr": 3e-3} | (recipe or {}))
    source = source or digits(rows, val)
    history = aalp.fit(model, source, method(name, **dropout or {}), attack, recipe=recipe, **options)
    return {
        "weights": {key: value.numpy() for key, value in model.state_dict().items()},
        "gradient": {key: p.grad.numpy() for key, p in model.named_parameters() if p.grad is not None},
        "history": [dataclasses.replace(epoch, seconds=0) for epoch in history.epochs],
        "best": history.best,
    }


def assert_close(found, wanted, rtol):
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=rtol * np.abs(value).max(), err_msg=key)


def assert_one(both):
    """Every rank holds the same bits; return them."""
    first, second = both
    for part in ("weights", "gradient"):
        assert all(np.array_equal(first[part][key], second[part][key]) for key in first[part]), part
    assert (first["history"], first["best"]) == (second["history"], second["best"])
    return first


# --- the gradient of the joint batch


def gradient(name, dropout, dtype="float64"):
    return train(name, dropout=dropout, model=small(getattr(torch, dtype)))


@pytest.mark.parametrize(
    ("name", "dropout"),
    [
        ("raw", {}),
        ("adv", {}),
        ("alp", {}),
        ("trades", {}),
        ("aalp_sw", {}),
        ("aalp_sw_mean", {}),
        *(("aalp", {"rule": r, "scope": s}) for r in ("median", "half") for s in ("batch", "branch", "sample")),
        ("aalp", {"rule": "half", "rescale": True, "in_attack": True}),
        ("raw_gd", {"scope": "branch"}),
    ],
)
def test_gradient_is_that_of_the_joint_batch(ranks, name, dropout):
    """33 rows: 17 on one process, 16 on the other. The difference is the attack's and the sum's rounding."""
    found, wanted = assert_one(ranks(gradient, name, dropout, "float32")), gradient(name, dropout, "float32")
    assert_close(found["gradient"], wanted["gradient"], 2e-5)
    found, wanted = assert_one(ranks(gradient, name, dropout)), gradient(name, dropout)
    assert_close(found["gradient"], wanted["gradient"], 1e-6)
    assert abs(found["history"][0].loss - wanted["history"][0].loss) < 1e-6
    assert found["history"][0].kept == pytest.approx(wanted["history"][0].kept, abs=1e-6)


@pytest.mark.parametrize("rule", [controls.random, controls.shuffled])
def test_a_random_mask_is_the_same_on_every_process(ranks, rule):
    one, other = ranks(drawn, rule)
    assert torch.equal(one, other)
    assert one.sum() == 4


def drawn(rule):
    torch.manual_seed(distributed.rank())
    model = aalp.Classifier(nn.Flatten(), nn.Linear(8, 3))
    return aalp.GuidedDropout(rule=rule).factors(model, torch.rand(6, 8), torch.arange(6) % 3, 2)[0]


# --- the same training


@pytest.mark.parametrize(
    "options",
    [
        {"rows": 97, "val": 513},  # batches of 32, and one of a single row; on validation 512 and 1
        {"rows": 99, "recipe": {"crop": 2, "flip": True}, "name": "trades"},
        {"rows": 64, "restarts": 2, "name": "adv"},
        {"rows": 64, "recipe": {"precision": "bfloat16"}, "name": "raw_gd"},
    ],
)
def test_weights_and_history_are_those_of_one_process(ranks, options):
    recipe = {"batch_size": 32, "epochs": 3} | options.get("recipe", {})
    found, wanted = assert_one(ranks(train, **options | {"recipe": recipe})), train(**options | {"recipe": recipe})
    half = recipe.get("precision") == "bfloat16"
    assert_close(found["weights"], wanted["weights"], 2e-2 if half else 1e-6)
    if not half:
        assert found["best"] == wanted["best"]
        for here, there in zip(found["history"], wanted["history"], strict=True):
            assert (here.clean, here.robust) == (there.clean, there.robust)
            assert here.loss == pytest.approx(there.loss, rel=1e-6)


def unused():
    model = small()
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    return train(model=model, rows=64, recipe={"batch_size": 32, "weight_decay": 0.1})


def test_weights_that_nothing_uses_are_left_alone(ranks):
    found, wanted = assert_one(ranks(unused)), unused()
    assert "unused" not in found["gradient"]
    assert_close(found["weights"], wanted["weights"], 1e-6)


def different_start():
    torch.manual_seed(distributed.rank())
    return train(model=aalp.models.lenet((2, 4, 9)))


def test_the_first_processs_weights_are_everyones(ranks):
    assert_one(ranks(different_start))


def loader(stop=None, turned=False):
    """Batches of 8 digits; `stop` is called before the sixth of them."""

    class Batches(list):
        def __iter__(self):
            for number, batch in enumerate(list.__iter__(self)):
                if stop and number == 5:
                    stop()
                yield batch

    split = digits(64, 1).train
    return Batches(list(split[torch.arange(63, -1, -1)].batches(8) if turned else split.batches(8)))


def from_loader(**kwargs):
    return train(source=loader(**kwargs))


def test_any_loader_will_do_if_every_process_has_the_same(ranks):
    assert_close(assert_one(ranks(from_loader))["weights"], from_loader()["weights"], 1e-6)


def dropped():
    """Which features an ordinary dropout layer drops in the steps of a training."""
    torch.manual_seed(0)
    layer, seen = nn.Dropout(0.5), []
    layer.register_forward_hook(lambda module, _, out: seen.append(out[0] == 0) if module.training else None)
    body = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), layer, nn.Linear(64, 10))
    found = train("raw", model=aalp.models.wrap(body), rows=32, val=1, recipe={"batch_size": 16})
    return found | {"dropped": torch.stack(seen).numpy()}


def test_layers_that_draw_do_not_draw_the_same_on_every_rank(ranks):
    both = ranks(dropped)
    assert_one(both)
    assert not np.array_equal(both[0]["dropped"], both[1]["dropped"])


# --- files, stop, resume


def written(folder, resume=False):
    """Train with a progress function of each rank's own, but rank 0's folder; count what each of them does."""
    told = []
    out = folder / "run" if distributed.rank() == 0 else None
    with mock.patch.object(checkpoints, "write_atomically", side_effect=checkpoints.write_atomically) as write:
        found = train(out=out, resume=resume, progress=lambda *step: told.append(step), recipe={"epochs": 2})
    return found | {"told": len(told), "written": write.call_count}


def test_only_rank_0_writes_and_shows_progress(ranks, tmp_path):
    both = ranks(written, tmp_path)
    assert [one["told"] for one in both] == [2, 0]
    assert [one["written"] > 0 for one in both] == [True, False]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        ".lock",
        "best.safetensors",
        "last.safetensors",
        "run.json",
    ]
    loaded = aalp.load_model(tmp_path / "run", model=small())  # plain names, and nothing of a second process
    assert_close({k: v.numpy() for k, v in loaded.state_dict().items()}, both[0]["weights"], 0)
    for error in ranks(written, tmp_path):
        assert isinstance(error, FileExistsError)
    assert assert_one(ranks(written, tmp_path, resume=True))["told"] == 0


def interrupted(out, who):
    """Train on a loader; rank `who` is asked to stop in the middle of the second epoch."""
    epoch = iter(range(2))

    def stop():
        if next(epoch) and distributed.rank() == who:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(aalp.Interrupted, match="stopped after step 14 of 16") as caught:
        train(source=loader(stop), out=out, recipe={"epochs": 2})
    return str(caught.value)


def resumed(out):
    return train(source=loader(), out=out, recipe={"epochs": 2}, resume=True)


@pytest.mark.parametrize("before", [0, 1, "alone"])
def test_a_stop_on_any_rank_is_everyones_and_any_number_of_processes_goes_on(ranks, tmp_path, before):
    wanted = train(source=loader(), recipe={"epochs": 2})
    if before == "alone":
        was = signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupted(tmp_path / "run", 0)
        signal.signal(signal.SIGINT, was)
        found = assert_one(ranks(resumed, tmp_path / "run"))
    else:
        said = ranks(interrupted, tmp_path / "run", before)
        assert said[0] == said[1]
        assert checkpoints.read(tmp_path / "run" / checkpoints.LAST).meta["done"] == 14
        found = resumed(tmp_path / "run") if before else assert_one(ranks(resumed, tmp_path / "run"))
    assert_close(found["weights"], wanted["weights"], 1e-6)
    for here, there in zip(found["history"], wanted["history"], strict=True):
        assert (here.clean, here.loss) == (there.clean, pytest.approx(there.loss, rel=1e-6))


# --- what goes wrong


def poisoned(out):
    """Rank 1's features alone turn NaN in the third step."""
    model, steps = small(), iter(range(9))

    def poison(module, _, features):
        return features * torch.nan if module.training and next(steps) == 2 and distributed.rank() == 1 else None

    model.body.register_forward_hook(poison)
    return train("adv", model=model, rows=64, out=out, recipe={"epochs": 2, "batch_size": 32})


def test_a_loss_that_turns_nan_on_one_rank_stops_all_at_the_last_good_checkpoint(ranks, tmp_path):
    for error in ranks(poisoned, tmp_path / "run"):
        assert isinstance(error, FloatingPointError)
        assert re.search("nan in step 3 of 4; the last good checkpoint is", str(error))
    assert checkpoints.read(tmp_path / "run" / checkpoints.LAST).meta["done"] == 2


def each_its_own(what):
    rank = distributed.rank()
    if what == "batches":
        return from_loader(turned=rank == 1)
    return train(**{what: rank + 2} if what != "recipe" else {"recipe": {"lr": 1.0 + rank}})


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("seed", "same seed, but rank 0 has 2 and rank 1 3"),
        ("rows", r"same data, but rank 0 has .*'images': 2.* and rank 1 .*'images': 3"),
        ("val", "same validation, but rank 0 has 2 and rank 1 3"),
        ("recipe", "same recipe, but rank 0 has {'lr': 1.0} and rank 1 {'lr': 2.0}"),
        ("batches", "the same batches, but they differ; use no DistributedSampler"),
    ],
)
def test_processes_that_were_given_different_things_are_told(ranks, what, said):
    for error in ranks(each_its_own, what):
        assert isinstance(error, aalp.InputError)
        assert re.search(said, str(error)), error


def batch_normed(frozen):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 5, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    model = aalp.Classifier(body, nn.Linear(144, 10)).double().train(frozen)
    body[1].eval()
    return train(model=model)


def test_batch_norm_is_trained_on_the_whole_batch_or_not_at_all(ranks):
    """A network in evaluation mode is put into training mode as a whole, its batch norms too."""
    for error in ranks(batch_normed, False):
        assert isinstance(error, aalp.InputError)
        assert "batch norm cannot be trained on several CPU processes" in str(error)
    assert_close(assert_one(ranks(batch_normed, True))["weights"], batch_normed(True)["weights"], 1e-6)


def test_on_gpus_batch_norm_is_synchronised_while_training_lasts(monkeypatch):
    model = aalp.models.resnet9(2)
    own, frozen = list(model.modules()), model.body[0][1]
    frozen.eval()
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(model, "parameters", lambda: iter([types.SimpleNamespace(is_cuda=True)]))
    with distributed.synced_norms(model):
        stand_ins = [module for module in model.modules() if isinstance(module, nn.SyncBatchNorm)]
        assert len(stand_ins) == 8
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        assert stand_ins[0].running_mean is frozen.running_mean
        assert not stand_ins[0].training
        stand_ins[1].eval()
    assert list(model.modules()) == own
    assert not frozen.training
    assert not model.body[1][1].training
    assert model.body[3].inner[0][1].training


def agreement(folder):
    """Errors and results of rank 0 reach all; what is done in turn is done by rank 0 first."""
    rank = distributed.rank()
    assert distributed.once(lambda: rank) == 0
    assert distributed.gathered(rank) == [0, 1]
    assert distributed.on_any(rank == 1, torch.device("cpu"))
    assert not distributed.on_any(False, torch.device("cpu"))

    def load():
        if rank == 0:
            time.sleep(0.3)
            (folder / "downloaded").touch()
        return (folder / "downloaded").exists()

    assert distributed.in_turn(load)
    for together in (distributed.once, distributed.in_turn):
        with pytest.raises(OSError, match="no network"):
            together(no_network if rank == 0 else load)
    return rank


def no_network():
    raise OSError("no network")


def test_what_one_rank_does_reaches_all(ranks, tmp_path):
    assert ranks(agreement, tmp_path) == [0, 1]


# --- as torchrun starts them


def fails_on_rank_1(rank, port, pipe):
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update(address, WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    alive, leave = [], torch.distributed.destroy_process_group

    def counted():
        alive.append(sum(isinstance(found, nn.parallel.DistributedDataParallel) for found in gc.get_objects()))
        leave()

    torch.distributed.destroy_process_group = counted
    train(model=small())  # one group after the other

    def stop():
        if rank == 1:
            raise RuntimeError("broken")

    try:
        train(source=loader(stop))
    except RuntimeError as error:
        pipe.send((str(error), alive))
    pipe.recv()  # lives on: the other must not wait for its end


def test_an_error_on_one_rank_ends_the_others():
    with contextlib.closing(socket.socket()) as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pipes, processes = [], []
    for rank in range(2):
        ours, theirs = CONTEXT.Pipe()
        pipes.append(ours)
        processes.append(CONTEXT.Process(target=fails_on_rank_1, args=(rank, port, theirs), daemon=True))
        processes[-1].start()
    try:
        assert pipes[1].poll(60)
        assert pipes[1].recv() == ("broken", [0, 0])  # nothing holds a group that is left
        assert pipes[0].poll(10)
        said, alive = pipes[0].recv()
        assert "broken" not in said
        assert alive == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.join()


def torchrun(*arguments, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "-m", "aalp_lib", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment, preexec_fn=heed_ctrl_c, **options,
    )  # fmt: skip


@pytest.mark.slow
def test_aalp_train_under_torchrun_stops_and_goes_on(tmp_path, capsys):
    """Stopped by Ctrl-C on two processes, finished on one, as without any stop."""
    arguments = ("train", "--method", "raw", "--epochs", "4", "--threads", "1", "--device", "cpu", "--out")
    out = tmp_path / "run"
    process = torchrun(*arguments, out)
    while not (out / checkpoints.LAST).exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, complaint = process.communicate(timeout=180)
    assert process.returncode != 0
    assert said.count("RAW on mnist-sample") == 1
    assert complaint.count("resume to go on") == 1
    assert f"torchrun --nproc-per-node 2 -m aalp_lib {' '.join(arguments)} {out} --resume" in complaint
    assert main([*arguments, str(out), "--resume"]) == 0
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    metas = [checkpoints.read(folder / checkpoints.LAST).meta for folder in (out, tmp_path / "whole")]
    found, wanted = (meta["history"]["epochs"] for meta in metas)
    assert len(found) == 4
    assert found[0]["loss"] == pytest.approx(wanted[0]["loss"], rel=1e-4)  # later Adam amplifies float32's rounding
    assert abs(found[-1]["clean"] - wanted[-1]["clean"]) <= 0.02


def test_other_commands_are_not_for_torchrun(monkeypatch, capsys):
    for name, value in {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["info"]) == 2
    assert capsys.readouterr().err.startswith("aalp, rank 1: under torchrun on several processes there is only 'train'")
