"""What chapters share: the records of the full runs, found beside the book or said to be missing."""

import shutil
from pathlib import Path

import pytest

from aalp_lib.book import chapter
from aalp_lib.reproduction import collect

ROOT = Path(__file__).resolve().parents[2]
RECORD = "mnist/mnist-alp-seed0.json"


@pytest.fixture
def said(monkeypatch):
    found = []
    monkeypatch.setattr(chapter, "say", found.append)
    return found


@pytest.mark.parametrize("place", [".", "book"])
def test_records_lie_beside_the_book(tmp_path, monkeypatch, said, place):
    (tmp_path / "book").mkdir()
    (tmp_path / "results" / "mnist").mkdir(parents=True)
    shutil.copy(ROOT / "results" / RECORD, tmp_path / "results" / RECORD)
    monkeypatch.chdir(tmp_path / place)
    (record,) = chapter.records().records
    assert (record.method, record.seed) == ("alp", 0)
    assert said == []


def test_without_records_there_is_a_sentence(tmp_path, monkeypatch, said):
    (tmp_path / "results").mkdir()  # of something else: there is no book
    monkeypatch.chdir(tmp_path)
    assert chapter.records() == collect.Found()
    assert len(said) == 1
    assert "not beside this notebook" in said[0]
