"""Where records are found: in a folder, in the clone's results, in the pack of the wheel."""

import shutil
import zipfile
from pathlib import Path

import pytest

import aalp_lib as aalp
from aalp_lib.methods import TABLE_2
from aalp_lib.reproduction import archive, records
from aalp_lib.reproduction.archive import PACK, RESULTS

REMADE = "the pack is not what lies in results/; remake it: python -m aalp_lib results results --write"


def test_the_pack_in_the_wheel_is_what_lies_in_results():
    with zipfile.ZipFile(PACK) as pack:
        packed = {name: pack.read(name) for name in pack.namelist()}
    lying = {name: path.read_bytes() for name, path in archive.packable(RESULTS)}
    assert packed.keys() == lying.keys(), REMADE
    assert packed == lying, REMADE
    assert PACK.stat().st_size < 2e6


def test_an_installed_package_reads_its_pack(monkeypatch, tmp_path):
    own = records()
    monkeypatch.setattr(archive, "RESULTS", tmp_path / "results")
    archive._own.cache_clear()
    installed = records()
    archive._own.cache_clear()
    assert own.runs == installed.runs
    assert own.measurements == installed.measurements
    assert not installed.left_out


def test_the_same_records_make_the_same_pack(tmp_path):
    shutil.copytree(RESULTS / "mnist" / "samples", tmp_path / "a" / "samples")
    first, second = (archive.pack(tmp_path / "a", tmp_path / name).read_bytes() for name in ("1.zip", "2.zip"))
    assert first == second
    assert len(archive.unpacked(tmp_path / "1.zip").kind("samples")) == 11


def copied(name, folder):
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(RESULTS / "mnist" / f"{name}.json", folder))


def test_runs_beside_checkpoints_and_earlier_ones_are_passed_over(tmp_path):
    for place in ("", "runs/a", "earlier"):
        copied("mnist-alp-seed0", tmp_path / place)
    (tmp_path / "runs" / "a" / "run.json").write_text("{}")
    found = records(tmp_path)
    assert (list(found.runs), found.left_out, found.beside_checkpoints) == (["mnist-alp-seed0"], (), 1)


def test_a_second_record_of_the_same_run_is_named(tmp_path):
    copied("mnist-alp-seed0", tmp_path / "a")
    second = copied("mnist-alp-seed0", tmp_path / "b")
    found = records(tmp_path)
    assert list(found.runs) == ["a/mnist-alp-seed0"]
    assert found.left_out == (f"{second} is of the same run as {tmp_path / 'a' / second.name}",)


def test_ablations_are_told_by_their_folder_also_when_it_is_the_one_that_is_read():
    assert all(map(archive.is_ablation, records(RESULTS / "ablations").runs))
    assert not any(map(archive.is_ablation, records(RESULTS / "cifar10").runs))


def test_records_are_selected_by_name_or_label_and_a_data_set_brings_its_copy():
    found = records()
    of = found.select(data="cifar10", method="AALP (gd)")
    assert {(r.data, r.method) for r in of.runs.values()} == {("cifar10-jpeg", "aalp_gd")}
    assert {m.subject["method"] for m in of.measurements.values()} == {"aalp_gd"}
    of = found.select(seed=0, recipe="paper")
    assert {r.method for r in of.runs.values()} == {"raw", "alp", "aalp"}
    for wrong in ({"method": "alpp"}, {"data": "mnit"}, {"recipe": "slow"}):
        with pytest.raises(aalp.InputError, match="unknown"):
            found.select(**wrong)


def test_runs_come_as_the_papers_tables_have_them():
    runs = [(name, r.data, r.method, r.seed) for name, r in records().runs.items()]
    assert [run[0] for run in runs[:3]] == [f"mnist/mnist-raw-{end}" for end in ("seed0", "paper-seed0", "seed1")]
    assert list(dict.fromkeys(method for _, data, method, _ in runs if data == "cifar10-jpeg")) == [
        *TABLE_2,
        "raw_gd",
        "adv_gd",
    ]
    assert [archive.is_ablation(name) for name, *_ in runs] == sorted(archive.is_ablation(name) for name, *_ in runs)


def test_a_damaged_member_of_a_pack_is_named_and_what_is_no_pack_is_refused(tmp_path):
    shutil.copytree(RESULTS / "mnist" / "samples", tmp_path / "a")
    path = archive.pack(tmp_path / "a", tmp_path / "records.zip")
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    found = archive.unpacked(path)
    assert len(found.measurements) == 10
    assert len(found.left_out) == 1
    assert "records.zip/mnist-" in found.left_out[0]
    path.write_bytes(b"<html>")
    with pytest.raises(aalp.InputError, match=r"records\.zip is no readable pack"):
        archive.unpacked(path)
