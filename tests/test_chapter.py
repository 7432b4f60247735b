"""What the chapters share: the records beside the book, or a sentence where there are none; the command line."""

from pathlib import Path

import pytest

import aalp_lib as aalp
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


def test_a_command_is_shown_with_what_it_says_and_no_colours(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    chapter.shell("aalp reproduce mnist --methods alp --out here --dry-run", tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("$ aalp reproduce mnist --methods alp --out here --dry-run\n1 runs into here/mnist")
    assert "\x1b" not in said
    with pytest.raises(aalp.InputError, match="unknown method 'nothing'"):
        chapter.shell("aalp reproduce mnist --methods nothing --dry-run", tmp_path)
    with pytest.raises(aalp.InputError, match="unknown command 'ls'"):
        chapter.shell("ls", tmp_path)
