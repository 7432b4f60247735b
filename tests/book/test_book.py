"""The book's sources: notebooks that ran top to bottom, small outputs, tested solutions, no number typed by hand.

Skipped where the book's packages (extra `book`) are not installed.
"""

import ast
import contextlib
import importlib
import io
import os
import re
import runpy
import sys
from pathlib import Path

import pytest

import aalp_lib as aalp
from aalp_lib.book import graders

nbformat = pytest.importorskip("nbformat", reason="the book's packages are not installed (extra 'book')")
pytest.importorskip("nbclient", reason="the book's packages are not installed (extra 'book')")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in (ROOT / "aalp_lib").rglob("*.py")
    if not path.stem.startswith("_")
}
sys.path.insert(0, str(ROOT / "scripts"))
import notebooks  # noqa: E402

CHAPTERS = notebooks.chapters()
MARK = "NBVAL_CHECK_OUTPUT"
HIDDEN = {"remove-input", "hide-input"}
PARTS = ("Paper beside ours", "What did not work", "Exercises", "Summary")


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request):
    return nbformat.read(request.param, as_version=4)


def code(chapter):
    return [cell for cell in chapter.cells if cell.cell_type == "code"]


def text(chapter):
    """The Markdown cells as their author wrote them, in MyST."""
    cells = [nbformat.from_dict(cell) for cell in chapter.cells if cell.cell_type == "markdown"]
    for cell in cells:
        cell.source = notebooks.native(cell.source)
    return cells


def shown(chapter, kind):
    """What the cells show of a kind such as text/html."""
    return [
        "".join(output["data"][kind])
        for cell in code(chapter)
        for output in cell.outputs
        if kind in output.get("data", {})
    ]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def test_there_are_chapters_and_the_contents_lists_them():
    contents = (ROOT / "_toc.yml").read_text()
    assert len(CHAPTERS) >= 2
    assert [f"book/{path.stem}" for path in CHAPTERS] == re.findall(r"file: (book/\d\S+)", contents)
    for name in re.findall(r"(?:file|root): (\S+)", contents):
        assert any((ROOT / f"{name}{end}").exists() for end in (".md", ".ipynb")), name


def test_executed_in_order_without_an_error(chapter):
    cells = code(chapter)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", cell.id


def test_outputs_are_small_and_name_no_machine(chapter):
    assert notebooks.output_size(chapter) < 300_000
    for words in (*shown(chapter, "text/plain"), *shown(chapter, "text/markdown")):
        assert not re.search(r"site-packages|/(home|root|tmp)/|object at 0x", words), words
    for cell in code(chapter):
        for output in cell.outputs:
            assert not re.search(r"site-packages|/(home|root|tmp)/", output.get("text", "")), cell.id


def test_cells_are_short(chapter):
    for cell in code(chapter):
        lines = cell.source.split("\n")
        if tags(cell) & HIDDEN:  # on Colab its title stands there, and the code is folded
            assert re.match(r"# @title \S.{10,60}$", lines[0]), cell.id
            assert cell.metadata["cellView"] == "form"
            assert max(map(len, lines)) <= 120, cell.id
        else:
            assert len(lines) <= 15 or cell.id == "setup", cell.id
            assert max(map(len, lines)) <= 96 or cell.id == "setup", cell.id
    ids = [cell.id for cell in chapter.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in ids)


def test_stamped_and_normalised(chapter, request):
    """Stamping again changes nothing: badge, setup, time line and metadata are what the script writes."""
    path = CHAPTERS[[p.stem for p in CHAPTERS].index(request.node.callspec.id)]
    before = nbformat.writes(chapter)
    notebooks.stamp(chapter, path)
    assert nbformat.writes(chapter) == before
    assert set(chapter.metadata) == {"kernelspec", "language_info", "aalp"}
    assert chapter.metadata["aalp"]["seconds"] <= 90  # of CPU time, which two idle cores do in 60
    assert chapter.cells[0].source.startswith("# ")
    assert notebooks.badge(path) in notebooks.native(chapter.cells[0].source)
    assert chapter.cells[1].id == "setup"


def test_a_notebook_is_plain_markdown_and_turns_back(chapter):
    """Colab and GitHub know no role, label or file next door; what stands instead is plain, and nothing is lost."""
    for cell in chapter.cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"\{(eq|cite:.|doc)\}`|^\$\$ \(|\]\((?!https://|#eq-)", cell.source, re.MULTILINE), (
                cell.id
            )
    numbers = notebooks.equations(chapter, Path("01-of-another-name.ipynb"))
    for before, cell in zip([c for c in chapter.cells if c.cell_type == "markdown"], text(chapter), strict=True):
        assert re.sub(r"\d+\.\d+", "", notebooks.portable(cell.source, numbers, *notebooks.repository())) == re.sub(
            r"\d+\.\d+", "", before.source
        )


def test_plain_equations_and_sources_can_be_read():
    words = "See {eq}`eq-a` {cite:p}`madry2018`, {cite:t}`zhang2019`.\n\n$$\nx\n$$ (eq-a)"
    place = "https://github.com/A/b/blob/main/book/references.bib"
    assert notebooks.portable(words, {"eq-a": "1.2"}, "https://github.com/A/b", "main") == (
        f"See [(1.2)](#eq-a) [(Madry et al., 2018)]({place}#p-madry2018), "
        f"[Zhang et al. (2019)]({place}#t-zhang2019).\n\n$$\nx\n\\tag{{1.2}} % eq-a\n$$"
    )


def test_a_link_to_the_live_attack_is_whole_on_colab_and_html_in_the_pages():
    portable = sys.modules["portable"]
    said = portable.portable("[look](live.md#digit=0&eps=0.3), [terms](glossary.md)", {}, *notebooks.repository())
    assert said.count("https://OWNER.github.io/aalp_lib/book/") == 2
    page = portable.STATE.sub(portable.opened, portable.native(said))
    assert page == '<a href="live.html#digit=0&amp;eps=0.3">look</a>, [terms](glossary.md)'


def test_numbers_of_equations_are_those_of_the_pages(chapter, request):
    """Sphinx counts them too; the built pages say how."""
    page = ROOT / "_build" / "html" / "book" / f"{request.node.callspec.id}.html"
    if not page.exists():
        pytest.skip("the book was not built (make html)")
    tags = re.findall(r"\\tag\{([\d.]+)\}", "\n".join(cell.source for cell in chapter.cells))
    assert re.findall(r'class="eqno">\(([\d.]+)\)', page.read_text()) == tags


def test_the_chapters_fit_make_book():
    """`make book` runs them one after the other: of its 15 minutes, five are for installing and rendering."""
    seconds = {path.stem: nbformat.read(path, as_version=4).metadata["aalp"]["seconds"] for path in CHAPTERS}
    assert sum(seconds.values()) <= 10 * 60, seconds


def test_the_library_pages_hold_every_public_module():
    """Each once, with all of its members: what a module defines without an underscore; ruff holds it to docstrings."""
    pages = "\n".join(path.read_text() for path in sorted((ROOT / "book").glob("api*.md")))
    shown = re.findall(r"^\.\. automodule:: ([\w.]+)\n   :members:$", pages, re.MULTILINE)
    assert sorted(shown) == sorted(MODULES)


def test_built_library_pages_have_every_public_name():
    inventory = ROOT / "_build" / "html" / "objects.inv"
    if not inventory.exists():
        pytest.skip("the book was not built (make html)")
    from sphinx.util.inventory import InventoryFile

    with inventory.open("rb") as file:
        kinds = InventoryFile.load(file, "", lambda base, place: place)
    named = {name for kind, names in kinds.items() if kind.startswith("py:") for name in names}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert f"{module}.{node.name}" in named


def test_skeleton(chapter):
    whole = "\n".join(cell.source for cell in text(chapter))
    objectives = whole[whole.index("**After this chapter you can**") : whole.index("**One question")]
    assert re.findall(r"^(\d)\. ", objectives, re.MULTILINE) == ["1", "2", "3"]
    assert "**One question to keep in mind:**" in whole
    headings = re.findall(r"^## (.+)$", whole, re.MULTILINE)
    assert headings[-len(PARTS) :] == list(PARTS)
    assert len(re.findall(r"^\$\$ \(eq-[a-z0-9-]+\)$", whole, re.MULTILINE)) >= 3
    assert any("interactive.predict(" in cell.source for cell in code(chapter))
    assert any("interactive.slider(" in cell.source for cell in code(chapter))
    assert sum("assert" in cell.source for cell in code(chapter)) >= 5


def test_labels_of_equations_are_the_books_own():
    labels = [
        label
        for path in CHAPTERS
        for cell in text(nbformat.read(path, as_version=4))
        for label in re.findall(r"^\$\$ \((eq-[a-z0-9-]+)\)$", cell.source, re.MULTILINE)
    ]
    assert len(set(labels)) == len(labels)
    listed = (ROOT / "book" / "equations.md").read_text()
    assert [label for label in labels if f"{{eq}}`{label}`" not in listed] == []


def test_what_pages_say_of_the_library_is_there():
    """Sphinx passes over a function that it does not find, and knows nothing of test files."""
    pages = {path.name: path.read_text() for path in (ROOT / "book").glob("*.md")}
    pages |= {p.name: "\n".join(cell.source for cell in text(nbformat.read(p, as_version=4))) for p in CHAPTERS}
    for page, words in pages.items():
        for module, name in re.findall(r"\{py:\w+\}`~?aalp_lib\.(\w+)\.(\w+)`", words):
            assert hasattr(importlib.import_module(f"aalp_lib.{module}"), name), f"{page}: {module}.{name}"
        for name in re.findall(r"`(test_\w+\.py)`", words):
            assert (ROOT / "tests" / name).exists(), f"{page}: {name}"


def rows(page):
    """The cells of a page's tables, row by row, without the heads."""
    lines = (ROOT / "book" / page).read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return [row for row in cells if row[0] not in ("paper", "what", "the paper")]


@pytest.mark.skipif(len(CHAPTERS) < 10, reason="not all chapters are written yet")
def test_every_equation_has_a_chapter_and_every_open_point_an_answer():
    for row in rows("equations.md"):
        assert re.search(r"\{doc\}`\d\d-[a-z-]+`, \{eq\}`eq-", row[-1]), row
    for row in rows("paper-notes.md"):
        assert len(row) == 3, row
        assert row[-1].strip("| "), row


def test_every_picture_has_words(chapter):
    images = [image for page in shown(chapter, "text/html") for image in re.findall("<img [^>]*>", page)]
    assert images
    assert all(len(re.search('alt="([^"]*)"', image)[1]) > 20 for image in images)
    assert not shown(chapter, "image/png")  # these would come without
    for cell in text(chapter):
        assert "![](" not in cell.source


def test_marked_cells_can_be_compared(chapter):
    """nbval compares nothing where count or output is missing."""
    marked = [cell for cell in code(chapter) if MARK in cell.source]
    assert marked
    for cell in marked:
        assert cell.execution_count
        assert cell.outputs, cell.id


def setup(chapter):
    """What the setup cell defines."""
    cell = next(cell for cell in chapter.cells if cell.id == "setup")
    source = cell.source.replace(
        re.search("    %pip.*", cell.source)[0], "    raise AssertionError('aalp_lib is there')"
    )
    found = {}
    exec(compile(source, "setup", "exec"), found)
    return found


def test_solutions_pass_and_stubs_do_not(chapter, capsys):
    """Each exercise: the stub as it stands is told so, the folded solution passes its own grader."""
    names, exercises = setup(chapter), [cell for cell in chapter.cells if re.fullmatch(r"exercise-\d+", cell.id)]
    solutions = [cell for cell in chapter.cells if "solution" in tags(cell)]
    assert 2 <= len(exercises) == len(solutions) <= 4
    capsys.readouterr()
    for stub, folded in zip(exercises, solutions, strict=True):
        assert folded.source.startswith("<details>\n<summary>")
        assert folded.source.endswith("</details>")
        solution = re.search(r"```python\n(.+?)```", folded.source, re.DOTALL)[1]
        assert set(re.findall(r"graders\.(\w+)", stub.source)) == set(re.findall(r"graders\.(\w+)", solution))
        assert said(stub.source, names).startswith("…"), stub.id
        assert said(solution, names).startswith("✓"), folded.id


def said(source, names):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(source, "exercise", "exec"), dict(names))
    return out.getvalue()


def test_every_grader_has_an_exercise():
    used = {
        name
        for path in CHAPTERS
        for cell in code(nbformat.read(path, as_version=4))
        for name in re.findall(r"graders\.(\w+)\(", cell.source)
    }
    unwritten = set() if (ROOT / "book" / "04-feature-contributions.ipynb").exists() else {
        "feature_contributions", "printed_map",
    }  # fmt: skip
    assert used == set(graders.__all__) - unwritten


# A result: a percentage, or a decimal with an "accuracy" or "loss" near it. What is set, not found, is allowed.
RESULT = re.compile(
    r"\b\d+(?:\.\d+)?\s?(?:%|percent\b|points?\b|times\b)|\b0\.\d{2,}\b|\b\d+\.\d+ (?:s|seconds|minutes)\b"
)
SET_BY_HAND = {
    "0.85",
    "0.01",
    "0.02",
    "0.05",
    "0.0003",
    "95 %",
    "70 %",
    "50 %",
}  # steps, levels, a ramp; the paper's "50 %"


def found_results(words):
    """Numbers in a text that look like results typed by hand; what a template fills in is not."""
    prose = re.sub(r"\]\([^()\s]*\)|```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\{\{.*?\}\}", " ", words, flags=re.DOTALL)
    return [number for number in RESULT.findall(prose) if number not in SET_BY_HAND]


def strings(source):
    """The constant parts of the strings in a cell's code, joined where one follows another."""
    tree = ast.parse(source)
    formats = {id(part) for node in ast.walk(tree) if isinstance(node, ast.FormattedValue) and node.format_spec
               for part in ast.walk(node.format_spec)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in formats:
            yield node.value


def test_no_result_is_typed_by_hand(chapter):
    for cell in text(chapter)[1:]:
        assert found_results(cell.metadata.get("template", cell.source)) == [], cell.id
    for cell in code(chapter):
        if cell.id != "setup":
            assert [r for words in strings(cell.source) for r in found_results(words)] == [], cell.id


@pytest.mark.parametrize("page", sorted((ROOT / "book").glob("*.md")), ids=lambda path: path.stem)
def test_no_result_is_typed_by_hand_in_pages(page):
    assert found_results(page.read_text()) == []


def test_the_finder_finds():
    assert found_results("it keeps 92.2 % of 500 digits") == ["92.2 %"]
    assert found_results("three times larger, 17 times, a loss of 0.412, in 3.5 s") == ["17 times", "0.412", "3.5 s"]
    assert found_results("steps of 0.01, $0.412$, `0.412`, Eq. 4, 1,000 digits, ε = 0.3") == []


def test_the_address_stands_in_one_place():
    """`_config.yml` has it; notebooks get it from there, and nothing else names it."""
    address, _ = notebooks.repository()
    owner = address.removeprefix("https://github.com/")
    copies = ("_config.yml", "_execute.yml", "pyproject.toml")  # tests/test_package.py compares the last
    for path in [*ROOT.glob("*.*"), *(ROOT / "aalp_lib").rglob("*.py"), *(ROOT / "scripts").glob("*"),
                 *(ROOT / "book").glob("*.md"), *(ROOT / "book" / "_static").glob("*")]:  # fmt: skip
        if path.is_file() and path.name not in copies:
            assert owner.encode() not in path.read_bytes(), path
    assert (ROOT / "_config.yml").read_text().count(owner) == 1
    for path in CHAPTERS:
        chapter = nbformat.read(path, as_version=4)
        written = text(chapter) + code(chapter)
        places = {cell.id for cell in written if owner in cell.metadata.get("template", cell.source)}
        assert places == {"title", "setup"}
        assert f'git+{address}@v{aalp.__version__}"\n' in chapter.cells[1].source


def test_packing_what_was_unpacked_changes_nothing(tmp_path):
    for path in CHAPTERS:
        notebooks.unpack(path, tmp_path / "text")
        notebooks.pack(tmp_path / "text", tmp_path / path.name)
        first, second = nbformat.read(path, as_version=4), nbformat.read(tmp_path / path.name, as_version=4)
        assert [(c.id, c.cell_type, c.source) for c in first.cells[1:]] == [
            (c.id, c.cell_type, c.source) for c in second.cells[1:]
        ]


def test_kernels_of_nbval_take_no_port(monkeypatch):
    kernel = pytest.importorskip("nbval.kernel")
    monkeypatch.setattr(kernel, "KernelManager", kernel.KernelManager)  # to be put back afterwards
    _held = runpy.run_path(str(ROOT / "book" / "conftest.py"))  # its folder lives as long as this does
    managers = []
    for _ in range(2):
        manager, client = kernel.start_new_kernel(kernel_name=kernel.CURRENT_ENV_KERNEL_NAME)
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        managers.append(manager)
    assert {manager.transport for manager in managers} == {"ipc"}
    assert managers[0].ip != managers[1].ip


@pytest.mark.slow
def test_a_failing_cell_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "AALP_BOOK", "1")
    cells = [nbformat.v4.new_markdown_cell("# Title", id="title"), nbformat.v4.new_code_cell("1 / 0", id="setup")]
    path = tmp_path / "00-fails.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        notebooks.run(path)
