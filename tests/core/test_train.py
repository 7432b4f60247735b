import contextlib
import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import heed_ctrl_c
from safetensors import safe_open
from torch.utils.data import DataLoader, TensorDataset

import aalp_lib as aalp
from aalp_lib import checkpoints
from aalp_lib.train import asked_to_stop

ATTACK = aalp.PGD(0.2, 0.1, 2)


def small(seed=0):
    torch.manual_seed(seed)
    return aalp.models.lenet((2, 4, 8))


@pytest.fixture(scope="module")
def few(sample):
    """A few digits, so that an epoch takes no time."""
    return aalp.Dataset("few", sample.classes, sample.train[:320], sample.val[:100], sample.test[:100])


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# --- what training does


@pytest.mark.parametrize("name", aalp.METHODS)
def test_every_method_learns(sample, name):
    torch.manual_seed(0)
    model = aalp.models.lenet((4, 8, 32))
    history = aalp.fit(model, sample, name, aalp.PGD(0.1, 0.05, 2), epochs=2, recipe=aalp.Recipe(lr=5e-3))
    assert len(history) == 2
    assert history["clean"][-1] > 0.6
    assert history["loss"][1] < history["loss"][0]
    assert all(0.5 <= kept <= 1 for kept in history["kept"])


def test_history_names_losses_accuracies_and_the_best_epoch(few):
    history = aalp.fit(small(), few, "aalp", ATTACK, epochs=3)
    assert [e.epoch for e in history.epochs] == [1, 2, 3]
    for line in history.epochs:
        assert abs(line.loss - (line.classification + line.pairing)) < 1e-5
        assert 0 <= line.robust <= line.clean <= 1
        assert line.seconds > 0
    assert history["robust"][history.best - 1] == max(history["robust"])
    heads, *rows, validation, best = str(history).splitlines()
    assert heads.split()[0] == "epoch"
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert f"{100 * history['robust'][-1]:.2f} %" in rows[-1]
    assert validation == "robust: right under 10 PGD steps of eps / 4"  # Table 2's PGD-10 has other steps
    assert best == f"best epoch on the validation split: {history.best}"
    assert history._repr_html_().count("<tr>") == 4
    assert "clean" not in str(aalp.fit(small(), list(few.train.batches(64)), "raw", epochs=1))


def test_a_pair_of_tensors_is_trained_on_as_its_split_is(few):
    models = [small() for _ in range(4)]
    x, y = few.train.images, few.train.labels
    val = (few.val.images, few.val.labels)
    for model, data in zip(models, (few, few.train, (x, y), (x.float() / 255, y)), strict=True):
        aalp.fit(model, data, "raw", epochs=1, val=None if data is few else val)
    assert all(same(models[0], other) for other in models[1:])


def test_training_in_an_l2_ball_is_watched_in_it(few, tmp_path):
    aalp.fit(small(), few, "adv", aalp.PGD(1.0, 0.5, 3, norm="l2"), epochs=1, out=tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["attack"]["norm"] == run["watched"]["norm"] == "l2"
    with pytest.raises(aalp.InputError, match="started with another attack"):
        aalp.fit(small(), few, "adv", aalp.PGD(1.0, 0.5, 3), epochs=1, out=tmp_path, resume=True)


def test_in_l_infinity_run_json_is_as_it_was_before_there_were_norms(few, tmp_path):
    aalp.fit(small(), few, "adv", ATTACK, epochs=1, out=tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    assert list(run["attack"]) == ["eps", "step", "steps", "loss", "start", "restarts"]


def test_same_seed_same_weights_and_the_global_generator_is_left_alone(few):
    torch.manual_seed(123)
    state = torch.get_rng_state()
    runs = []
    for seed in (0, 0, 1):
        model = small()
        torch.set_rng_state(state)
        aalp.fit(model, few, "aalp", ATTACK, epochs=1, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        runs.append(model)
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_radius_is_ramped_up_and_the_rate_goes_up_and_down():
    recipe = aalp.Recipe(lr=1.0, ramp=0.5)
    assert [recipe.eps_fraction(p) for p in (0.25, 0.5, 1.0)] == [0.5, 1.0, 1.0]
    assert aalp.Recipe(ramp=0).eps_fraction(0.01) == 1
    assert [round(recipe.lr_at(p), 3) for p in (0.15, 0.3, 0.65, 1.0)] == [0.5, 1.0, 0.5, 0.01]
    assert aalp.Recipe(lr=0.1, schedule="constant").lr_at(0.9) == 0.1


def test_history_shows_the_ramp(few):
    history = aalp.fit(small(), few, "adv", ATTACK, epochs=4, recipe=aalp.Recipe(ramp=0.5))
    assert [round(eps, 6) for eps in history["eps"]] == [0.1, 0.2, 0.2, 0.2]


def test_channels_last_changes_nothing_but_rounding(few):
    runs = []
    for channels_last in (False, True):
        model = small()
        aalp.fit(model, few, "adv", aalp.PGD(0.1, 0.1, 1), epochs=1, recipe=aalp.Recipe(channels_last=channels_last))
        runs.append(model)
    x = few.test.images[:20].float() / 255
    torch.testing.assert_close(runs[0](x), runs[1](x), rtol=1e-2, atol=1e-2)


def test_bfloat16_trains_float32_weights(sample):
    torch.manual_seed(0)
    model = aalp.models.lenet((4, 8, 32))
    recipe = aalp.Recipe(lr=5e-3, precision="bfloat16")
    history = aalp.fit(model, sample, "aalp", aalp.PGD(0.1, 0.05, 2), epochs=2, recipe=recipe)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert history["clean"][-1] > 0.4


def test_augmentation_is_part_of_the_recipe(few):
    runs = []
    for changes in ({}, {"crop": 2}, {"flip": True}):
        runs.append(small())
        aalp.fit(runs[-1], few, "raw", epochs=1, recipe=aalp.Recipe(**changes))
    assert not same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_any_loader_will_do(few):
    tensors = TensorDataset(few.train.images.float() / 255, few.train.labels)
    model = small()
    history = aalp.fit(model, DataLoader(tensors, batch_size=64, shuffle=True), "aalp", ATTACK, epochs=2, val=few.val)
    assert history["clean"][-1] is not None
    assert aalp.fit(small(), DataLoader(tensors, batch_size=64), "raw", epochs=1)["clean"] == [None]


def normed(seed=0):
    torch.manual_seed(seed)
    nn = torch.nn
    return aalp.models.wrap(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    )


@pytest.mark.parametrize(
    ("model", "method", "size", "steps"),
    [
        (normed, "raw", 319, 1),
        (normed, "adv", 319, 1),
        (normed, "raw", 29, 11),
        (normed, "raw", 106, 4),  # two images are left
        (normed, "alp", 319, 2),  # its two kinds of images make two rows
        (small, "raw", 319, 2),  # no batch norm
    ],
)
def test_a_last_image_that_batch_norm_cannot_learn_from_joins_the_batch_before(few, model, method, size, steps):
    told, before = [], torch.get_rng_state()
    trained = model()
    torch.set_rng_state(before)
    aalp.fit(
        trained, few, method, ATTACK, epochs=1, recipe=aalp.Recipe(batch_size=size),
        progress=lambda done, total, _: told.append((done, total)),
    )  # fmt: skip
    assert told == [(step, steps) for step in range(1, steps + 1)]
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_of_one_under_batch_norm_are_refused(few, tmp_path):
    one = [(few.train.images[:1].float() / 255, few.train.labels[:1])]
    with pytest.raises(aalp.InputError, match="batch of one image"):
        aalp.fit(normed(), few, "raw", epochs=1, recipe=aalp.Recipe(batch_size=1), out=tmp_path)
    assert not list(tmp_path.iterdir())
    x, y = few.train.images[:65].float() / 255, few.train.labels[:65]
    loader, generator = DataLoader(TensorDataset(x, y), 32, shuffle=True), torch.get_rng_state()
    for data in (one, loader, [*one, *loader]):
        model = normed()
        torch.set_rng_state(generator)
        before = copy.deepcopy(model)
        with pytest.raises(aalp.InputError, match=r"batch of one image, and the data has one; .* drop_last=True"):
            aalp.fit(model, data, "raw", epochs=1, out=tmp_path)
        assert same(model, before)
        assert torch.equal(torch.get_rng_state(), generator)
    assert not list(tmp_path.iterdir())
    aalp.fit(normed(), DataLoader(TensorDataset(x, y), 32, drop_last=True), "raw", epochs=1)
    aalp.fit(normed(), loader, "alp", ATTACK, epochs=1)  # its two kinds of images make two rows

    class Unknown:
        def __iter__(self):
            return iter(one)

        def __len__(self):
            return 1

    with pytest.raises(aalp.InputError, match="batch of one image; step 1"):
        aalp.fit(normed(), Unknown(), "raw", epochs=1)


def test_frozen_parts_stay_frozen(few):
    model = small()
    frozen = model.body[0].weight
    frozen.requires_grad_(False)
    before = frozen.clone()
    aalp.fit(model, few, "aalp", ATTACK, epochs=1)
    assert torch.equal(frozen, before)


def test_wrapped_network_trains_and_saves(few, tmp_path):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    model = aalp.models.wrap(module)
    aalp.fit(model, few, "aalp", ATTACK, epochs=1, out=tmp_path / "run")
    again = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    other = aalp.load_model(tmp_path / "run", model=aalp.models.wrap(again))
    assert same(model, other)
    with pytest.raises(aalp.InputError, match="wrapped network"):
        aalp.load_model(tmp_path / "run")


def test_a_network_is_loaded_with_the_normalisation_it_was_trained_with(few, tmp_path):
    def net(*normalisation):
        return aalp.models.wrap(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)), *normalisation)

    aalp.fit(net((0.13,), (0.3,)), few, "raw", epochs=1, out=tmp_path)
    with pytest.raises(
        aalp.InputError, match=r"'mean': \[0\.13\], .* but this one has {'mean': \[0\.0\], 'std': \[1\.0\]}"
    ):
        aalp.load_model(tmp_path, model=net())
    with pytest.raises(aalp.InputError, match="normalisation"):
        aalp.fit(net((0.13,), (0.25,)), few, "raw", epochs=1, out=tmp_path, resume=True)
    assert aalp.load_model(tmp_path, model=net((0.13,), (0.3,))).std.item() == pytest.approx(0.3)
    aalp.fit(net((0.13,), (0.3,)), few, "raw", epochs=1, out=tmp_path, resume=True)


# --- interruption and resume

KILLED = """
import os, signal, sys, torch, aalp_lib as aalp
torch.set_num_threads(1)
sample = aalp.load("mnist-sample")
few = aalp.Dataset("few", sample.classes, sample.train[:320], sample.val[:100], sample.test[:100])
torch.manual_seed(0)
model = aalp.models.lenet((2, 4, 8))
how, at = sys.argv[2], int(sys.argv[3])
def progress(done, total, text):
    if how == "kill" and done == at:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "interrupt" and done == at:
        os.kill(os.getpid(), signal.SIGINT)
aalp.fit(model, few, "aalp", aalp.PGD(0.2, 0.1, 2), epochs=3, recipe=aalp.Recipe(batch_size=64), out=sys.argv[1],
         resume=True, progress=progress)
"""


@pytest.mark.parametrize(
    ("how", "at", "status", "kept"),
    [("kill", 8, -signal.SIGKILL, 5), ("kill", 3, -signal.SIGKILL, None), ("interrupt", 8, None, 8)],
)
def test_resumed_run_has_the_weights_of_an_uninterrupted_one(few, tmp_path, how, at, status, kept):
    """Five steps an epoch: killed, it goes on from the last epoch's end; interrupted, from where it was."""
    recipe = aalp.Recipe(batch_size=64)
    whole = small()
    history = aalp.fit(whole, few, "aalp", ATTACK, epochs=3, recipe=recipe)
    out = tmp_path / "run"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, out, how, str(at)], capture_output=True, text=True, preexec_fn=heed_ctrl_c
    )
    assert ended.returncode != 0
    if status is not None:
        assert ended.returncode == status
    else:
        assert "stopped after step 8 of 15" in ended.stderr
    if kept is not None:
        assert checkpoints.read(out / checkpoints.LAST).meta["done"] == kept
    resumed = small(seed=99)
    found = aalp.fit(resumed, few, "aalp", ATTACK, epochs=3, recipe=recipe, out=out, resume=True) if kept else None
    if kept is None:
        resumed = small()
        found = aalp.fit(resumed, few, "aalp", ATTACK, epochs=3, recipe=recipe, out=out, resume=True)
    assert same(resumed, whole)
    assert [dataclasses.replace(e, seconds=0) for e in found.epochs] == [
        dataclasses.replace(e, seconds=0) for e in history.epochs
    ]
    assert found.best == history.best
    assert same(aalp.load_model(out), whole)


def test_the_best_model_is_made_good_after_a_kill_before_it_was_written(few, tmp_path, monkeypatch):
    """On resuming, what an epoch would have been is forgotten; a best model of it must not be left behind."""
    written = []

    def killed(path, checkpoint):
        if path.name == checkpoints.BEST and len(written) >= 2:
            raise MemoryError  # as if the process had ended here
        written.append(path.name)
        write(path, checkpoint)

    write = checkpoints.write
    monkeypatch.setattr(checkpoints, "write", killed)
    recipe = aalp.Recipe(batch_size=64, lr=5e-3)
    with pytest.raises(MemoryError):
        aalp.fit(small(), few, "raw", epochs=3, recipe=recipe, out=tmp_path)
    monkeypatch.undo()
    assert written[:2] == [checkpoints.LAST, checkpoints.BEST]

    def stop(*_):
        raise KeyboardInterrupt

    assert epochs_of(tmp_path / checkpoints.BEST) == 1
    with pytest.raises(aalp.Interrupted):
        aalp.fit(small(9), few, "raw", epochs=3, recipe=recipe, out=tmp_path, resume=True, progress=stop)
    assert (
        epochs_of(tmp_path / checkpoints.BEST) == checkpoints.read(tmp_path / checkpoints.LAST).meta["history"]["best"]
    )
    history = aalp.fit(small(9), few, "raw", epochs=3, recipe=recipe, out=tmp_path, resume=True)
    assert epochs_of(tmp_path / checkpoints.BEST) == history.best
    assert epochs_of(tmp_path / checkpoints.LAST) == 3


def epochs_of(path):
    return len(checkpoints.read(path).meta["history"]["epochs"])


def test_a_loader_with_random_transforms_resumes_too(few, tmp_path):
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, i):
            return few.train.images[i].float().div(255).add(0.1 * torch.rand(1)).clamp(0, 1), few.train.labels[i]

    def stop(done, total, text):
        if done == 3:
            raise KeyboardInterrupt

    whole, resumed = small(), small()
    for model, out, progress in ((whole, "a", None), (small(), "b", stop), (resumed, "b", None)):
        loader = DataLoader(Noisy(), batch_size=32, shuffle=True)
        with contextlib.suppress(aalp.Interrupted):
            aalp.fit(model, loader, "aalp", ATTACK, epochs=2, out=tmp_path / out, resume=True, progress=progress)
    assert same(whole, resumed)


def test_children_in_evaluation_mode_stay_in_it(few):
    torch.manual_seed(0)
    model = aalp.models.resnet9(2, in_channels=1, mean=(0.1,), std=(0.3,)).train()
    model.body[0].eval()
    kept, moved = (model.body[i][1].running_mean.clone() for i in (0, 1))
    aalp.fit(model, few, "raw", epochs=1)
    assert torch.equal(model.body[0][1].running_mean, kept)
    assert not torch.equal(model.body[1][1].running_mean, moved)


def test_weights_that_are_not_finite_are_never_saved(few, tmp_path):
    model, out = small(), tmp_path / "run"

    def poison_and_stop(done, total, text):
        model.head.weight.data[0, 0] = torch.inf
        raise KeyboardInterrupt

    with pytest.raises(FloatingPointError, match=r"head\.weight is no longer finite after step 1; nothing was saved"):
        aalp.fit(model, few, "raw", epochs=1, out=out, progress=poison_and_stop)
    assert not (out / checkpoints.LAST).exists()


def test_tied_weights_are_saved(few, tmp_path):
    model = small()
    model.register_parameter("tied", model.head.weight)
    aalp.fit(model, few, "raw", epochs=1, out=tmp_path / "run")
    assert "model.tied" in checkpoints.read(tmp_path / "run" / checkpoints.LAST).tensors


def test_a_finished_run_is_taken_up_without_training_and_says_how_long_it_took(few, tmp_path):
    model, again, steps = small(), small(seed=5), []
    first = aalp.fit(model, few, "raw", ATTACK, epochs=2, out=tmp_path)
    assert first.seconds > sum(line.seconds for line in first.epochs)  # validation counts, too
    taken_up = aalp.fit(
        again, few, "raw", ATTACK, epochs=2, out=tmp_path, resume=True, progress=lambda *told: steps.append(told)
    )
    assert not steps
    assert taken_up == first
    assert same(again, model)


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    """A process that writes the same checkpoint over and over is killed at a random moment, several times."""
    path = tmp_path / "c.safetensors"
    code = (
        "import sys, torch\nfrom pathlib import Path\nfrom aalp_lib.checkpoints import Checkpoint, write\n"
        "print('ready', flush=True)\n"
        "i = 0\n"
        "while True:\n    i += 1\n"
        "    write(Path(sys.argv[1]), Checkpoint({'model.a': torch.full((300_000,), float(i))}, {'i': i}))\n"
    )
    for pause in (0.05, 0.11, 0.23):
        process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
        process.stdout.readline()
        while not path.exists():
            time.sleep(0.01)
        time.sleep(pause)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = checkpoints.read(path)
        assert (found.tensors["model.a"] == found.meta["i"]).all()


def test_ctrl_c_between_two_handlers(monkeypatch):
    """The interpreter may call a handler before `signal.signal`, which has just installed it, returns."""
    install = signal.signal

    def install_and_interrupt(number, handler):
        was = install(number, handler)
        if handler is not heed:
            signal.raise_signal(number)
        return was

    def heed(*_):
        raise KeyboardInterrupt

    outside = install(signal.SIGINT, heed)
    monkeypatch.setattr(signal, "signal", install_and_interrupt)
    try:
        with asked_to_stop() as asked:
            assert asked.is_set()
        assert signal.getsignal(signal.SIGINT) is heed
    finally:
        install(signal.SIGINT, outside)


def test_checkpoints_are_safetensors_and_best_is_the_best_epochs(few, tmp_path):
    out = tmp_path / "run"
    history = aalp.fit(small(), few, "aalp", ATTACK, epochs=4, out=out)
    assert sorted(p.name for p in out.iterdir()) == [".lock", "best.safetensors", "last.safetensors", "run.json"]
    with safe_open(out / "best.safetensors", framework="pt") as file:
        meta = json.loads(file.metadata()["meta"])
    assert len(meta["history"]["epochs"]) == history.best == meta["history"]["best"]


# --- bad input


def test_folder_that_holds_another_run(few, tmp_path):
    out = tmp_path / "run"
    aalp.fit(small(), few, "raw", epochs=1, out=out)
    with pytest.raises(FileExistsError, match="already holds a run"):
        aalp.fit(small(), few, "raw", epochs=1, out=out)
    with pytest.raises(aalp.InputError, match=r"another method: .*'raw'.*'adv'"):
        aalp.fit(small(), few, "adv", ATTACK, epochs=1, out=out, resume=True)
    with pytest.raises(aalp.InputError, match="another seed: 0, now 1"):
        aalp.fit(small(), few, "raw", epochs=1, seed=1, out=out, resume=True)
    with pytest.raises(aalp.InputError, match=r"another recipe: {'epochs': 1}, now {'epochs': 2};"):
        aalp.fit(small(), few, "raw", epochs=2, out=out, resume=True)
    other = aalp.Dataset("few", few.classes, few.train[torch.arange(319, -1, -1)], few.val, few.test)
    with pytest.raises(aalp.InputError, match=r"another data: .*labels_crc32"):
        aalp.fit(small(), other, "raw", epochs=1, out=out, resume=True)
    (out / "run.json").unlink()
    with pytest.raises(FileExistsError, match="already holds a run"):
        aalp.fit(small(), few, "raw", epochs=1, out=out)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_run_is_not_resumed_on_other_images_under_the_same_labels(few, tmp_path, split):
    parts = {name: getattr(few, name) for name in ("train", "val", "test")}
    inverted = parts | {split: aalp.Split(255 - parts[split].images, parts[split].labels)}
    aalp.fit(small(), few, "raw", epochs=1, out=tmp_path)
    with pytest.raises(aalp.InputError, match={"train": "other training images", "val": "other validation"}[split]):
        aalp.fit(small(), aalp.Dataset("few", few.classes, **inverted), "raw", epochs=1, out=tmp_path, resume=True)


def test_a_run_of_an_earlier_version_which_kept_less_is_resumed(few, tmp_path):
    aalp.fit(small(), few, "raw", epochs=1, out=tmp_path)
    last = checkpoints.read(tmp_path / checkpoints.LAST)
    meta = {key: value for key, value in last.meta.items() if key not in ("images", "normalisation")}
    checkpoints.write(last.path, checkpoints.Checkpoint(last.tensors, meta))
    assert len(aalp.fit(small(), few, "raw", epochs=1, out=tmp_path, resume=True)) == 1


def test_damaged_foreign_and_missing_checkpoints_are_named(few, tmp_path):
    out = tmp_path / "run"
    aalp.fit(small(), few, "raw", epochs=1, out=out)
    path = out / checkpoints.LAST
    good = path.read_bytes()
    for content in (good[:100], b"", b"hello world"):
        path.write_bytes(content)
        with pytest.raises(aalp.InputError, match=r"last\.safetensors is not a readable checkpoint"):
            aalp.load_model(out)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(aalp.InputError, match="was not written by"):
        aalp.load_model(out)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        aalp.load_model(tmp_path / "nowhere")


def test_a_loss_that_turns_nan_stops_at_the_last_good_checkpoint(few, tmp_path):
    model, out = small(), tmp_path / "run"

    def poison(done, total, text):
        if done == 4:
            model.body[0].weight.data.fill_(torch.nan)

    with pytest.raises(FloatingPointError, match=r"loss became nan in step 5 of 9; the last good checkpoint is .*last"):
        aalp.fit(model, few, "raw", epochs=3, out=out, progress=poison)
    saved = checkpoints.read(out / checkpoints.LAST)
    assert saved.meta["done"] == 3
    assert all(torch.isfinite(t).all() for t in saved.tensors.values())


class Short:
    """A loader that promises more than it gives."""

    def __len__(self):
        return 2

    def __iter__(self):
        return iter([(torch.rand(4, 1, 28, 28), torch.arange(4))])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda d: aalp.fit(small(), d, "aalp"), "pass an attack"),
        (lambda d: aalp.fit(small(), d, "adv", "pgd"), "attack must be an Attack, got str"),
        (lambda d: aalp.fit(small(), d, "adv", aalp.PGD(100, 50, 2, norm="l2")), "eps must be at most 28"),
        (lambda d: aalp.fit(small(), d, None), "a method must be a Method or the name of one, got NoneType"),
        (lambda d: aalp.fit(small(), d, "raw", recipe={}), "recipe must be a Recipe, got dict"),
        (lambda d: aalp.fit(small(), d, "raw", progress="yes"), "progress must be True, False or a function"),
        (lambda d: aalp.fit(small(), d, "raw", resume=True), "no run to resume without `out`"),
        (lambda d: aalp.fit(small(), d, "raw", epochs=0), "epochs must be a whole number of at least 1, got 0"),
        (lambda d: aalp.fit(small(), d, "raw", seed=-1), "seed must be .* at least 0, got -1"),
        (lambda d: aalp.fit(torch.nn.Linear(784, 10), d, "raw"), r"use models\.wrap"),
        (lambda d: aalp.fit(aalp.models.lenet(image_size=32), d, "raw"), r"cannot take images of shape \(1, 28, 28\)"),
        (lambda d: aalp.Recipe(crop=-1), "crop must be"),
        (lambda d: aalp.GuidedDropout(rule="mean"), "known are median, half"),
        (lambda d: aalp.fit(small(), Short(), "raw"), "gave 1 batches, but its length says 2"),
        (lambda d: aalp.fit(small(), [], "raw"), "empty"),
        (lambda d: aalp.fit(small(), (b for b in []), "raw"), "must have a length"),
        (lambda d: aalp.Recipe(ramp=1.5), r"ramp .* got 1.5"),
        (lambda d: aalp.Recipe(weight_decay=-1), "weight_decay must be at least 0, got -1"),
        (lambda d: aalp.Recipe(schedule="cosine"), "known are constant, one-cycle"),
        (lambda d: aalp.Recipe(precision="float16"), "Did you mean 'bfloat16'"),
        (
            lambda d: aalp.fit(small(), [(torch.ones(2, 1, 28, 28) * 2, torch.zeros(2).long())], "raw"),
            r"lie in \[0, 1\]",
        ),
        (lambda d: aalp.fit(small(), [(torch.ones(2, 1, 28, 28), torch.tensor([0, 10]))], "raw"), r"in \[0, 9\]"),
    ],
)
def test_bad_arguments(few, call, said):
    with pytest.raises(aalp.InputError, match=said):
        call(few)


def test_numpys_numbers_in_settings_are_kept_as_numbers(sample, tmp_path):
    few = aalp.Dataset("few", sample.classes, sample.train[:32], sample.val[:8], sample.test[:8])
    recipe = aalp.Recipe(epochs=np.int64(1), lr=np.float32(1e-3), ramp=np.float64(0.5))
    attack = aalp.PGD(np.float32(0.1), np.float64(0.2), np.int32(2))
    network = aalp.models.lenet((4, 8, 16))
    aalp.fit(network, few, "alp", attack, recipe=recipe, seed=np.int64(7), out=tmp_path / "run")
    again = aalp.fit(network, few, "alp", attack, recipe=recipe, seed=7, out=tmp_path / "run", resume=True)
    assert len(again) == 1


def test_batches_that_are_no_pairs_are_said(sample):
    x, y = next(sample.train.batches(8))
    for batches in ([{"image": x, "label": y}], [x], [(x,)], [(x.numpy(), y.numpy())]):
        with pytest.raises(aalp.InputError, match=r"pair of tensors \(images, labels\)"):
            aalp.fit(aalp.models.lenet((4, 8, 16)), batches, "raw", epochs=1)
    with pytest.raises(aalp.InputError, match="val must be a Split, got str"):
        aalp.fit(aalp.models.lenet((4, 8, 16)), [(x, y)], "raw", epochs=1, val="val")
