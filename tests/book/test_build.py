"""`make book` on a small book: chapters are executed inside the build, and one that fails fails the build."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the book's packages are not installed (extra 'book')")
pytest.importorskip("jupyter_book", reason="the book's packages are not installed (extra 'book')")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small(tmp_path):
    """The repository's Makefile and configuration, a page, a chapter, and this environment in place of `.venv`."""
    (tmp_path / "book").mkdir()
    for name in ("Makefile", "_config.yml", "requirements.lock", "pyproject.toml", "book/references.bib"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("book/_ext", "book/_static"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nchapters:\n  - file: book/01-chapter\n")
    (tmp_path / "book" / "intro.md").write_text("# Start\n")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.prefix) / "bin")
    (tmp_path / ".venv" / "installed").touch()
    (tmp_path / ".ort" / "none").mkdir(parents=True)  # this book has no live attack: npm need not fetch what runs it
    return tmp_path


def built(folder, source):
    """`make book` with one chapter of one cell."""
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "book" / "01-chapter.ipynb")
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "AALP_BOOK")}
    command = ["make", "book", "VENV=.venv", "ORT=none"]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


@pytest.mark.slow
def test_chapters_run_in_the_build(small):
    done = built(small, 'import os\nprint("made of", 6 * 7, os.environ["AALP_BOOK"])')
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"open {small}/_build/html/index.html"
    assert "made of 42 1" in (small / "_build" / "html" / "book" / "01-chapter.html").read_text()
    failed = built(small, "1 / 0")
    assert failed.returncode != 0
    assert "ZeroDivisionError" in failed.stdout + failed.stderr
