"""What is on disk is what was written, or it is refused."""

import json
import os
import time
from unittest import mock

import pytest
import torch
from safetensors.torch import load as load_tensors, save as save_tensors

import aalp_lib as aalp
from aalp_lib import checkpoints
from aalp_lib.checkpoints import Checkpoint


@pytest.fixture
def run(sample, tmp_path):
    few = aalp.Dataset("few", sample.classes, sample.train[:32], sample.val[:8], sample.test[:8])
    aalp.fit(aalp.models.lenet((2, 3, 4)), few, "raw", epochs=1, out=tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["model.head.weight", "optimizer.head.weight.exp_avg_sq", "sums"])
def test_one_flipped_bit_in_weights_or_training_state_is_noticed(run, name):
    path = run / checkpoints.LAST
    content = path.read_bytes()
    place = content.index(checkpoints.read(path).tensors[name].numpy().tobytes())
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(aalp.InputError, match=r"last\.safetensors is damaged.*its checksum"):
        aalp.load_model(run)


def test_a_number_that_changed_beside_the_weights_is_noticed(run):
    path = run / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(aalp.InputError, match=r"run\.json cannot be read \(it is damaged"):
        checkpoints.read_json(path)


def test_files_of_earlier_versions_have_no_checksum(run):
    path, noted = run / checkpoints.LAST, run / "run.json"
    found = checkpoints.read(path)
    header = {"format": checkpoints.FORMAT, "meta": json.dumps(found.meta)}
    path.write_bytes(save_tensors(load_tensors(path.read_bytes()), header))
    assert torch.equal(aalp.load_model(run).head.weight, found.tensors["model.head.weight"])
    values = checkpoints.read_json(noted)
    noted.write_text(json.dumps(values))
    assert checkpoints.read_json(noted) == values


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["model.head.weight", "optimizer.head.weight.exp_avg"])
def test_weights_and_moments_that_are_no_numbers_are_refused(run, name, value):
    path = run / checkpoints.LAST
    found = checkpoints.read(path)
    found.tensors[name][0, 0] = value
    checkpoints.write(path, found)
    with pytest.raises(aalp.InputError, match=rf"last\.safetensors is damaged: {name} has values that are not finite"):
        aalp.load_model(run)


def test_a_description_that_does_not_fit_the_weights_makes_no_network(run):
    """However large it says the network is, or whatever it says instead of a number."""
    found = checkpoints.read(run / checkpoints.LAST)
    for width, said in (([2, 3, 40_000], "not of the network"), ([2, 3, 10**12], "at most"), ("234", "whole number")):
        meta = found.meta | {"model": found.meta["model"] | {"width": width}}
        checkpoints.write(run / checkpoints.LAST, Checkpoint(found.tensors, meta))
        with pytest.raises(aalp.InputError, match=rf"last\.safetensors .*{said}"):
            aalp.load_model(run)


def test_what_killed_writes_have_left_is_cleaned_up_and_what_is_being_written_is_not(tmp_path):
    dead, alive = (tmp_path / f".last.safetensors.{name}.partial" for name in ("0123abcd", "4567abcd"))
    dead.write_bytes(b"half")
    with alive.open("wb") as file:
        checkpoints._hold(file)
        for path in (dead, alive):
            os.utime(path, (time.time() - 60,) * 2)
        checkpoints.write_json(tmp_path / "a.json", {"a": 1})
        assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "a.json"]


def test_a_full_disk_is_said_with_the_path_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    checkpoints.write_json(path, {"a": 1})
    with (
        mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")),
        pytest.raises(OSError, match=r"a\.json cannot be written \(No space left on device\)"),
    ):
        checkpoints.write_json(path, {"a": 2})
    assert checkpoints.read_json(path) == {"a": 1}
    assert [*tmp_path.iterdir()] == [path]
