"""Spelling of notebooks, pages, README and docstrings, by Hunspell and the project's own list of words."""

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("hunspell", reason="chunspell is not installed (extra 'dev')")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import spelling


@pytest.mark.parametrize("path", spelling.sources(), ids=lambda path: path.name)
def test_spelt_right(path):
    assert spelling.unknown(path) == []


def test_the_list_is_in_order():
    lines = [line for line in spelling.WORDS.read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(set(lines), key=lambda word: (word.lower(), word))
    assert all(re.fullmatch(r"[A-Za-z']+", line) for line in lines)


def test_slips_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("The pertubation, `teh` $teh$ {cite:p}`teh` [of](teh.html) PGD-10 and teh_name, moves teh pixels.")
    assert spelling.unknown(page) == ["pertubation", "teh"]
    notebook = tmp_path / "page.ipynb"
    lines = '"x = 1  # a coment\\n", "say(f\\"a sentense {x}\\")\\n", "y = \\"teh\\""'
    cells = f'{{"cell_type": "code", "source": [{lines}]}}'
    notebook.write_text(f'{{"cells": [{cells}, {{"cell_type": "markdown", "source": ["Teh *end*."]}}]}}')
    assert spelling.unknown(notebook) == ["Teh", "coment", "sentense"]
    module = tmp_path / "page.py"
    module.write_text(
        '"""A modul.\n\n    >>> teh\n"""\n\ndef f():\n    """Do it rihgt."""\n\ndef _g():\n    """Teh."""\n'
    )
    assert spelling.unknown(module) == ["modul", "rihgt"]


def test_the_command_says_where(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("All of it is right.")
    spelling.main(str(page))
    page.write_text("Not all of it is rihgt.")
    with pytest.raises(SystemExit, match=r"words\.txt"):
        spelling.main(str(page))
    assert capsys.readouterr().out == "page.md: rihgt\n"
