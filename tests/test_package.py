"""The package as users get it: a wheel in an empty environment, and the promises that the repository makes."""

import ast
import functools
import importlib.metadata
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tomllib
import types
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import aalp_lib as aalp
from aalp_lib.methods import TABLE_2
from aalp_lib.reproduction import archive, bench, demo, schema

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def call(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def lend(requirements, site):
    """Link into `site` what the requirements and theirs need of this environment's packages, and nothing else."""
    wanted, lent = [Requirement(text) for text in requirements], set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        extras = requirement.extras or {""}
        if name in lent or (requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in extras)):
            continue
        found = importlib.metadata.distribution(name)
        assert found.version in requirement.specifier, f"{name} {found.version} is not {requirement.specifier}"
        lent.add(name)
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
        wanted += [Requirement(text) for text in found.requires or ()]
    return lent


@pytest.mark.slow
def test_wheel_in_an_empty_environment_runs_the_demo(tmp_path):
    """Its declared requirements alone are there, lent by this environment: torch installed anew would take 6 GB."""
    call(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT)
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:  # what test_colab.py resolves is what the wheel declares
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    declared = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    assert sorted(text for text in declared if "extra ==" not in text) == sorted(PROJECT["dependencies"])
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    lent = lend(PROJECT["dependencies"], site)
    assert "torch" in lent
    assert not any(re.search("jupyter|sphinx|nbval|myst|ipython|pytest", name) for name in lent)
    call(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    call(python, "-m", "pip", "check")
    elsewhere = {"cwd": tmp_path, "env": {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}}
    home = call(python, "-c", "import aalp_lib; print(aalp_lib.__file__)", **elsewhere)
    assert home.startswith(str(tmp_path / "venv"))
    said = call(tmp_path / "venv" / "bin" / "aalp", "demo", "--quick", "--out", "demo", **elsewhere)
    assert "7/7" in said
    found = {path.name for path in (tmp_path / "demo").iterdir()}
    assert {"table.md", "robust-accuracy.png", "training-curves.png", "digits.png"} <= found
    assert len([name for name in found if name.endswith(".json")]) == 7


def test_lower_bounds_only_and_a_lock_with_exact_versions():
    for requirement in PROJECT["dependencies"]:
        assert re.fullmatch(r"[a-z-]+>=[\d.]+", requirement), requirement
    lock = [
        line
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if line and not line.strip().startswith("#")
    ]
    assert all("==" in line for line in lock)
    assert {"torch==2.14.1", "torchvision==0.29.1"} <= set(lock)


def test_versions_agree():
    assert PROJECT["version"] == aalp.__version__
    assert f"version: {aalp.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {aalp.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_pickle_is_read_or_written():
    for path in (ROOT / "aalp_lib").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"torch\.(load|save)\(|import pickle|allow_pickle=True", text), path


def test_every_module_is_reachable_under_its_own_name():
    """No function hides one: `aalp.pretrained` is a function, and the module of its index is `aalp.zoo`."""
    for path in (ROOT / "aalp_lib").rglob("*.py"):
        names = path.relative_to(ROOT / "aalp_lib").with_suffix("").parts
        if not names[-1].startswith("__"):
            importlib.import_module(".".join(("aalp_lib", *names)))
            assert isinstance(functools.reduce(getattr, names, aalp), types.ModuleType), names


def test_public_functions_say_what_they_take():
    """Every public function and class at the top of a module has a docstring; an equation is named by one only."""
    equations = {}
    for path in (ROOT / "aalp_lib").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                first = (ast.get_docstring(node) or "").split("\n")[0]
                assert first, f"{path.name}: {node.name}"
                for number in re.findall(r"^Eq\. (\d+)", first):
                    equations.setdefault(number, []).append(node.name)
    assert equations["5"] == ["loss_gradient"]
    assert equations["7"] == ["scores"]
    assert equations["8"] == ["guided_dropout_mask"]
    assert equations["9"] == ["adaptive_alp"]


def test_readmes_five_lines_run(tmp_path, monkeypatch):
    """The README's code, as it stands, with fewer epochs and images."""
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    code = re.sub(r"epochs=\d+", "epochs=1", block).replace("data.test,", "data.test[:20],")
    assert code != block
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_readmes_lines_for_a_readers_own_network_run(tmp_path, monkeypatch):
    block = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    random = np.random.default_rng(0)
    for part, name, i in itertools.product(("train", "test"), ("cat", "dog"), range(4)):
        folder = tmp_path / "pictures" / part / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    code = block.replace("epochs=10", "epochs=1")
    assert code != block
    monkeypatch.chdir(tmp_path)
    found = {"aalp": aalp}
    exec(compile(code, "README.md", "exec"), found)
    assert found["kept"].shape == (512,)


def test_readmes_table_is_the_demos():
    """What the README shows is what `make demo` wrote, beside the records that it comes from."""
    text = (ROOT / "docs" / "demo" / "table.md").read_text()
    assert text in (ROOT / "README.md").read_text()
    records = archive.in_order(schema.load_records(ROOT / "docs" / "demo"))
    assert demo.markdown(records) == text
    for path in re.findall(r"\]\(((?!https?:)[^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / path).exists(), path


def test_readmes_bench_is_the_records():
    text = bench.markdown(json.loads((ROOT / "docs" / "bench" / "bench.json").read_text()))
    assert text == (ROOT / "docs" / "bench" / "bench.md").read_text()
    assert text in (ROOT / "README.md").read_text()


def test_the_table_of_runs_on_one_card_is_the_records():
    record = json.loads((ROOT / "docs" / "bench" / "one-card.json").read_text())
    text = (ROOT / "docs" / "bench" / "one-card.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:] if line.startswith("|")]
    assert len(rows) == len(record["rows"])
    for found, row in zip(rows, record["rows"], strict=True):
        took = statistics.median(row["milliseconds"])
        yes = ["yes" if row[key] else "no" for key in ("graphs", "mps")]
        network = {"mnist": "LeNet", "cifar10": "ResNet-32"}[row["data"]]
        expected = [network, row["recipe"], row["precision"], yes[0], str(row["at_once"]), yes[1]]
        assert found == [*expected, f"{took:.1f}", f"{1000 * row['at_once'] / took:.0f}"]
    assert all(record["environment"][key] in text for key in ("device", "torch", "commit"))


def test_the_demo_shows_what_it_promises():
    records = {r.method: r for r in schema.load_records(ROOT / "docs" / "demo")}
    assert tuple(records) == tuple(sorted(TABLE_2))
    assert sum(sum(r.seconds.values()) for r in records.values()) < 2 * 600  # on two cores
    for name, record in records.items():
        pgd = record.accuracy["last"]["pgd40"]
        assert pgd["count"] == 1000
        assert pgd["accuracy"] < 0.05 if name == "raw" else pgd["accuracy"] > 0.65
