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
README = (ROOT / "README.md").read_text()
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


@pytest.mark.network
def test_pip_resolves_the_bench():
    """Into an empty environment, beside what the library needs: torchattacks wants a requests of its own time."""
    call(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", f"{ROOT}[bench]")


@pytest.mark.slow
def test_wheel_in_an_empty_environment_runs_the_demo(tmp_path):
    """Its declared requirements alone are there, lent by this environment: torch installed anew would take 6 GB."""
    call(sys.executable, "-m", "build", "--outdir", tmp_path, ROOT)  # the wheel from the sdist, as a release has it
    call(sys.executable, "-m", "twine", "check", "--strict", *tmp_path.glob("*.*"))
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:  # what test_colab.py resolves is what the wheel declares
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    assert re.findall(r"\]\((?!https://)", "\n".join(lines)) == []  # the package index knows no files of ours
    assert sum("](https://github.com/OWNER/aalp_lib/raw/main/docs/demo/digits.png)" in line for line in lines) == 1
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


def test_workflows_pin_actions_and_try_every_python_that_is_promised():
    found = {path.stem: path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    assert set(found) == {"tests", "book", "release"}
    for text in found.values():
        for action in re.findall(r"uses: (.*)", text):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action)
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert re.findall(r'"(3\.\d+)"', re.search(r"python: \[.*\]", found["tests"])[0]) == promised


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


def test_readmes_five_lines_print_what_it_says(capsys, tmp_path, monkeypatch):
    """Up to the rounding of another machine."""
    _, code, said, *_ = re.findall(r"```\w*\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    shown, said = (
        {name: float(right) for name, right in re.findall(r"(\w+) +([\d.]+) %  \[", text)}
        for text in (capsys.readouterr().out, said)
    )
    assert len(shown) == 10
    assert shown == pytest.approx(said, abs=1)


def test_readmes_lines_for_a_readers_own_network_run(tmp_path, monkeypatch):
    block = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[1]
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
    assert len(found["history"]) == 1
    assert all(0 <= outcome.accuracy <= 1 for outcome in found["report"].values())


def test_readme_says_of_the_paper_what_the_records_say():
    (row,) = re.findall(r"\| AALP beats ALP at PGD-100 \| MNIST \|(.*)\|", (ROOT / "RESULTS.md").read_text())
    assert re.fullmatch(r" \+1\.8 \| .*\[−.*, \+.*\] \| 7 \| unresolved ", row)
    assert "gains 1.8 points over plain pairing on MNIST. Over seven seeds we find no gain" in README.replace("\n", " ")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/README.md", "results/README.md", "RESULTS.md"])
def test_links_of_pages_lead_to_files(page):
    for path in re.findall(r"\]\(((?!https?:|#)[^)#]+)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(path).exists(), path


def test_addresses_are_the_repositorys():
    config = (ROOT / "_config.yml").read_text()
    home, branch = (re.search(rf"^  {key}: (\S+)", config, re.MULTILINE)[1] for key in ("url", "branch"))
    owner, name = home.removeprefix("https://github.com/").split("/")
    assert PROJECT["urls"] == {
        "Documentation": f"https://{owner}.github.io/{name}/",
        "Repository": home,
        "Changelog": f"{home}/blob/{branch}/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }
    assert f'BRANCH = "{branch}"' in (ROOT / "scripts" / "metadata.py").read_text()
    assert PROJECT["urls"]["Documentation"] in README


def test_tables_in_docs_are_the_records():
    """What `make demo` and `aalp bench` wrote, beside the records that it comes from."""
    records = archive.in_order(schema.load_records(ROOT / "docs" / "demo"))
    assert demo.markdown(records) == (ROOT / "docs" / "demo" / "table.md").read_text()
    text = bench.markdown(json.loads((ROOT / "docs" / "bench" / "bench.json").read_text()))
    assert text == (ROOT / "docs" / "bench" / "bench.md").read_text()


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
