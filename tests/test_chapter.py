"""What the chapters share: the records beside the book, or a sentence where there are none."""

from pathlib import Path

from aalp_lib import chapter, collect

ROOT = Path(__file__).resolve().parents[1]


def test_records_are_those_beside_the_book(monkeypatch, capsys):
    everything = len(collect.read(ROOT / "results").records)
    assert everything > 0
    for place in (ROOT / "book", ROOT):
        monkeypatch.chdir(place)
        assert len(chapter.records().records) == everything
    assert capsys.readouterr().out == ""


def test_without_a_repository_there_are_none_and_it_is_said(monkeypatch, capsys, tmp_path):
    (tmp_path / "home" / "results").mkdir(parents=True)  # somebody's own, without the book
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setattr(chapter, "__file__", str(tmp_path / "site" / "aalp_lib" / "chapter.py"))
    assert chapter.records() == collect.Found()
    said = capsys.readouterr().out
    assert said.count(".") >= 1
    assert len(said.splitlines()) == 1
