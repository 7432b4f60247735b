"""The networks that come with the package, and how they are packed."""

import json
from pathlib import Path

import pytest
import torch
from conftest import tiny

import aalp_lib as aalp
from aalp_lib import checkpoints
from aalp_lib.methods import TABLE_2
from aalp_lib.reproduction.jobs import run_job
from aalp_lib.reproduction.measurements import trained
from aalp_lib.reproduction.packing import pack
from aalp_lib.reproduction.schema import Record
from aalp_lib.zoo import INDEX, index, weights

SIZE = 8_000_000


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    job = tiny("raw", folder / "out")
    run_job(job)
    pack(job.run, "mine/raw", folder / "packed")
    return job, folder / "packed"


def test_a_packed_network_comes_back_to_half_precision(packed):
    job, folder = packed
    original, model = aalp.load_model(job.run), aalp.pretrained("mine/raw", folder=folder)
    assert not model.training
    for name, value in original.state_dict().items():
        found = model.state_dict()[name]
        assert found.dtype == value.dtype
        assert torch.equal(found, value.half().to(value.dtype))


def test_best_and_last_share_a_file_where_they_are_the_same(packed):
    _, folder = packed
    entry = index(folder)["mine/raw"]
    assert entry["best"] == entry["last"]
    assert [path.name for path in (folder / "mine").iterdir()] == ["raw-last.safetensors"]


def test_a_file_that_was_tampered_with_and_an_unknown_name_are_told(packed):
    _, folder = packed
    with pytest.raises(aalp.InputError, match="unknown pretrained network 'mine/alp'"):
        aalp.pretrained("mine/alp", folder=folder)
    path = folder / "mine" / "raw-last.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(aalp.InputError, match=r"is not the file that index\.json describes"):
            aalp.pretrained("mine/raw", folder=folder)
    finally:
        path.write_bytes(content)


def test_what_is_bundled_loads_and_stays_small():
    known = index()
    assert known == json.loads((weights() / INDEX).read_text())
    for name, entry in known.items():
        for which in entry:
            assert aalp.pretrained(name, which).config["name"] == "lenet"
            assert entry[which]["epoch"] <= entry["last"]["epoch"]
    assert set(known) == {f"mnist/{name}" for name in TABLE_2}
    assert sum(path.stat().st_size for path in weights().rglob("*.safetensors")) < SIZE


def test_what_lies_in_the_repository_alone_loads_and_has_a_record():
    root = Path(__file__).resolve().parents[2]
    alone = index(root / "weights")
    with pytest.raises(aalp.InputError, match="the repository has it, folder='weights'"):
        aalp.pretrained("mnist/aalp_gd", "best")
    for name, entry in index().items():
        assert {*entry, *alone.get(name, {})} == {"last", "best"}
    for name in alone:
        assert aalp.pretrained(name, "best", folder=root / "weights").config["name"] == "lenet"
        data, method = name.split("/")
        assert (root / "results" / data / f"{data}-{method}-seed0.json").exists()


def test_cifar10s_networks_lie_in_the_repository_beside_their_records():
    results = Path(__file__).resolve().parents[2] / "results" / "cifar10"
    known = index(results / "weights")
    assert set(known) == {f"cifar10-jpeg/{name}" for name in TABLE_2}
    for name, entry in known.items():
        record = Record.load(results / f"{name.replace('/', '-')}-seed0.json")
        assert entry["last"]["epoch"] == len(record.history["epochs"])
        assert entry["best"]["epoch"] == record.history["best"]
        for which in entry:
            assert aalp.pretrained(name, which, folder=results / "weights").config["name"] == "resnet32"
    made = trained(results)  # Table 3's two are kept beside the records
    assert {one.record.method for one in made} == {*TABLE_2, "raw_gd", "adv_gd"}
    assert {str(one.subject["weights"]) for one in made} == {"in half precision"}


def test_bundled_networks_know_digits_and_withstand_attacks_that_raw_does_not(sample):
    x, y = next(sample.test[:200].batches(200))
    attack = aalp.PGD(0.3, 0.03, 20)
    for name in index():
        model = aalp.pretrained(name)
        generator = torch.Generator().manual_seed(0)
        robust = (model(attack(model, x, y, generator=generator)).argmax(1) == y).float().mean()
        assert (model(x).argmax(1) == y).float().mean() > 0.93
        assert robust < 0.05 if name.endswith("raw") else robust > 0.85


@pytest.mark.parametrize("file", ["../raw.safetensors", "/raw.safetensors", "C:\\raw.safetensors", "a/../../b", ""])
def test_an_index_names_files_in_its_folder_alone(tmp_path, file):
    entry = {"file": file, "sha256": "b" * 64, "epoch": 3}
    (tmp_path / INDEX).write_text(json.dumps({"mine/raw": {"last": entry}}))
    with pytest.raises(aalp.InputError, match=r"index\.json names a file outside its folder: mine/raw, last"):
        aalp.pretrained("mine/raw", folder=tmp_path)


def test_weights_are_packed_into_the_folder_alone_and_as_numbers(packed, tmp_path):
    job, _ = packed
    for name in ("../raw", "/tmp/raw", ""):
        with pytest.raises(aalp.InputError, match="a path inside the folder of weights"):
            pack(job.run, name, tmp_path)
    large = checkpoints.read(job.run / checkpoints.LAST)
    large.tensors["model.head.weight"][0, 0] = 1e6
    (tmp_path / "run").mkdir()
    checkpoints.write(tmp_path / "run" / checkpoints.LAST, large)
    with pytest.raises(aalp.InputError, match=r"model\.head\.weight would not be finite"):
        pack(tmp_path / "run", "mine/raw", tmp_path)


def test_loading_leaves_torchs_generator_where_it_was():
    before = torch.get_rng_state()
    aalp.pretrained("mnist/raw")
    assert torch.equal(torch.get_rng_state(), before)
