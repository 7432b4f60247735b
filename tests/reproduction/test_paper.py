"""The published numbers: what holds inside the paper, what is known not to, and the shared copy where there is one."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from conftest import SHARED

from aalp_lib.evaluation import table2_suite
from aalp_lib.methods import METHODS, TABLE_2
from aalp_lib.reproduction import paper

ROOT = Path(__file__).resolve().parents[2]
SETS = ("mnist", "svhn", "cifar10")


def test_table_2_has_seven_methods_and_ten_columns_on_three_data_sets():
    assert tuple(paper.TABLE_2) == SETS
    for name, rows in paper.TABLE_2.items():
        assert tuple(rows) == TABLE_2
        for row in rows.values():
            assert tuple(row) == paper.COLUMNS == ("clean", *table2_suite(name))
            assert all(0 <= value <= 100 for value in row.values())


def test_tables_1_3_and_4_have_their_rows():
    assert tuple(paper.TABLE_1) == tuple(paper.TABLE_4) == SETS
    for sets in paper.TABLE_1.values():
        assert tuple(sets) == ("consistent", "inconsistent")
        consistent, inconsistent = sets.values()
        assert tuple(consistent) == paper.SAMPLE_COLUMNS
        assert consistent["mean_clean_confidence"] > inconsistent["mean_clean_confidence"]
        assert consistent["alp_loss"] < inconsistent["alp_loss"]
    assert tuple(paper.TABLE_3) == ("raw", "raw_gd", "adv", "adv_gd", "alp", "aalp_gd")
    assert set(paper.TABLE_3) <= set(METHODS)
    assert all(row["aalp"] > row["alp"] for row in paper.TABLE_4.values())


def test_tables_2_and_3_agree_on_svhn_but_for_cw10():
    for method in set(paper.TABLE_3) & set(TABLE_2):
        two, three = paper.TABLE_2["svhn"][method], paper.TABLE_3[method]
        assert (two["clean"], two["pgd10"]) == (three["clean"], three["pgd10"])
    cw10 = {m: (paper.TABLE_2["svhn"][m]["cw10"], paper.TABLE_3[m]["cw10"]) for m in ("adv", "alp", "aalp_gd")}
    assert cw10 == {"adv": (38.41, 24.03), "alp": (44.82, 31.17), "aalp_gd": (46.47, 37.57)}


def test_other_contradictions_that_the_notes_name():
    raw, adv, adv_gd = (paper.TABLE_3[method] for method in ("raw", "adv", "adv_gd"))
    assert adv["clean"] < adv_gd["clean"] < raw["clean"]
    assert adv_gd["pgd10"] > adv["pgd10"]
    for method, share in paper.TABLE_4["cifar10"].items():
        assert share < min(paper.TABLE_2["cifar10"][method].values())
    assert paper.TABLE_2["mnist"]["raw"]["pgd40"] > paper.TABLE_2["mnist"]["raw"]["pgd10"]


def test_numbers_are_those_of_the_shared_copy():
    path = SHARED.parent / "paper" / "tables.json"
    if not path.exists():
        pytest.skip("the paper's tables are not beside the checkout (shared/paper/tables.json)")
    found = json.loads(path.read_text())
    table1 = found["table1"]
    assert [name.removesuffix("_percent") for name in table1.pop("columns")] == list(paper.SAMPLE_COLUMNS)
    assert table1 == {d: {s: list(row.values()) for s, row in sets.items()} for d, sets in paper.TABLE_1.items()}
    assert found["table2"] == paper.TABLE_2
    table3 = found["table3"]
    assert (table3.pop("dataset"), table3.pop("model")) == ("svhn", paper.SETTINGS["svhn"].model)
    assert table3.pop("columns") == list(paper.TABLE_3["raw"])
    assert table3 == {method: list(row.values()) for method, row in paper.TABLE_3.items()}
    assert found["table4"]["consistent_percent"] == paper.TABLE_4
    for name, said in found["settings"].items():
        ours = paper.SETTINGS[name]
        assert (said["model"], said["optimizer"], said["attack"]) == (ours.model, ours.optimizer, "pgd")
        assert (said["lr"], said["steps"], said.get("alpha")) == (ours.lr, ours.steps, ours.alpha)
        assert float(Fraction(str(said["eps"]))) == pytest.approx(ours.eps)
        assert float(Fraction(str(said["step_size"]))) == pytest.approx(ours.step)


def test_what_others_found_has_its_sources_in_the_bibliography():
    keys = re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(), re.MULTILINE)
    for found in paper.AFTERWARDS:
        assert set(found.source) <= set(keys)
        assert 0 <= found.strong < found.weak <= 100
    of = {(f.data, f.network): f for f in paper.AFTERWARDS}
    without, paired = of["MNIST", "AT"], of["MNIST", "AT + ALP"]
    assert paired.weak > without.weak
    assert paired.strong < without.strong
