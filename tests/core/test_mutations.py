"""A wrong formula in the library turns the book red: its chapters really check what they print.

For each equation: a copy of the library with one slip in it, the chapter of that equation run against the copy by
nbval, as `make nbval` does, up to the first cell that fails. That cell must be one that asserts something
about the formula.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nbval", reason="the book's packages are not installed (extra 'book')")
ROOT = Path(__file__).resolve().parents[2]

# equation: chapter, file, the formula as it is, the slip, and what a cell that notices it calls
SLIPS = {
    "the pairing loss": ("03", "losses.py", ".square().sum(1)\n\n\ndef confidence", ".abs().sum(1)\n\n\ndef confidence",
                         r"\.alp\("),
    "Eq. 7": ("06", "contributions.py", "return sample_scores(model.head, features, y).mean(0)",
              "return feature_gradient(model.head, features, y).abs().mean(0)", r"\bscores\("),
    "Eq. 9": ("07", "losses.py", "weight = confidence(z_clean, y)", "weight = 1 - confidence(z_clean, y)",
              r"adaptive_alp\("),
}  # fmt: skip


@pytest.fixture(params=SLIPS)
def slip(request):
    number, *rest = SLIPS[request.param]
    chapters = sorted((ROOT / "book").glob(f"{number}-*.ipynb"))
    if not chapters:
        pytest.skip(f"chapter {int(number)}, of {request.param}, is not written yet")
    return chapters[0], *rest


def copy_of_the_library(folder):
    """The sources copied, what they only read linked."""
    home = folder / "aalp_lib"
    home.mkdir()
    for path in (ROOT / "aalp_lib").iterdir():
        if path.suffix == ".py":
            shutil.copy(path, home)
        elif path.name != "__pycache__":
            (home / path.name).symlink_to(path)
    return home


def cells_of(chapter, library):
    """nbval over a chapter up to the first cell that fails, against the library in a folder."""
    command = [sys.executable, "-m", "pytest", "-x", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300",
               "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", "--color=no", str(chapter)]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(library), "AALP_BOOK": "1", "AALP_TIER": "quick", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.mark.slow
def test_a_wrong_formula_turns_the_chapter_red(slip, tmp_path):
    chapter, file, formula, wrong, call = slip
    target = copy_of_the_library(tmp_path) / file
    source = target.read_text()
    assert source.count(formula) == 1, f"{file} has changed: where is `{formula}` now?"
    target.write_text(source.replace(formula, wrong))
    done = cells_of(chapter, tmp_path)
    assert done.returncode == 1, f"{chapter.name} is green with `{wrong}`:\n{done.stdout[-2000:]}"
    failed = re.search(r"Input:\n(.*?)\n\nTraceback:\n(.*)", done.stdout, re.DOTALL)
    assert "AssertionError" in failed[2], done.stdout[-2000:]
    assert re.search(call, failed[1]), f"another cell failed:\n{failed[1]}"
