"""What installing the library does to a Colab runtime: nothing to torch, torchvision and numpy, nothing of the book.

`colab.txt` lists the versions that such a runtime brings. pip keeps an installed package that fits, so the question is
whether every requirement fits; for one that does not, what it would bring is followed as far as this environment knows.
"""

import importlib.metadata
import re
import tomllib
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [line for line in (ROOT / "tests" / "book" / "colab.txt").read_text().splitlines() if not line.startswith("#")]
COLAB = {canonicalize_name(name): version for name, version in (line.split("==") for line in LINES)}
FIXED = {"torch", "torchvision", "numpy"}
BOOK = re.compile("jupyter|sphinx|myst|nb(val|client|format)|docutils|playwright|ipykernel|ipywidgets|ipython")


def installed_anew(requirements, colab=COLAB):
    """What pip would install or exchange in the runtime, and what that would need in turn."""
    here = default_environment() | {
        "python_version": colab["python"], "python_full_version": f"{colab['python']}.0", "sys_platform": "linux",
        "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix",
    }  # fmt: skip
    wanted, anew = [Requirement(text) for text in requirements], set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name in anew or (requirement.marker and not requirement.marker.evaluate(here | {"extra": ""})):
            continue
        if name in colab and requirement.specifier.contains(colab[name], prereleases=True):
            continue
        anew.add(name)
        try:
            wanted += [Requirement(text) for text in importlib.metadata.requires(name) or ()]
        except importlib.metadata.PackageNotFoundError:
            continue
    return anew


def test_nothing_is_installed_beside_the_library():
    anew = installed_anew(PROJECT["dependencies"])
    assert not anew & FIXED
    assert not [name for name in anew if BOOK.search(name)]
    assert anew == {"msgspec", "lazy-loader"}  # small, and they need nothing; a new requirement may change it


def test_the_runtimes_python_will_do():
    assert SpecifierSet(PROJECT["requires-python"]).contains(COLAB["python"])


def test_the_book_is_an_extra():
    """With it, Sphinx would be exchanged for an older one: so it must not come with the library."""
    assert "sphinx" in installed_anew(PROJECT["optional-dependencies"]["book"])
    assert not [text for text in PROJECT["dependencies"] if BOOK.search(text)]


def test_the_check_can_fail():
    assert installed_anew(["torch>=2.12"]) >= {"torch"}
    assert installed_anew(["numpy>=2.3", "rich"]) == {"numpy"}
    assert "torch" in installed_anew(["torchvision>=0.29"])  # a later one pins the torch that it fits
    assert installed_anew(["torch ; python_version < '3.12'"]) == set()
