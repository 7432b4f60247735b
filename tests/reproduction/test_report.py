"""RESULTS.md and the pages of `results/`, and the command that shows and remakes them."""

import dataclasses
import itertools
import re
from pathlib import Path

import jinja2
import pytest
from PIL import Image
from test_tables import attacked, found, record

import aalp_lib as aalp
from aalp_lib.cli import main
from aalp_lib.reproduction import archive, report

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)#]+)\)")


@pytest.fixture(scope="module")
def made():
    """The pages and figures that the repository's records make."""
    return report.files(archive.records())


# --- the committed pages


def test_results_md_is_what_the_records_make_and_fits_on_a_screen():
    text = (ROOT / "RESULTS.md").read_text()
    assert text == report.page("results.md", archive.records())
    assert len(text.encode()) <= 8_000


def test_the_pages_of_results_are_what_the_records_make(made):
    pages = {name: page for name, page in made.items() if name.endswith(".md")}
    assert set(pages) == {
        f"{folder}/README.md" for folder in ("mnist", "cifar10", "svhn-part", "mnist/ablations", "ablations")
    }
    pages["README.md"] = report.page("records.md", archive.records())
    assert {name: (ROOT / "results" / name).read_text() for name in pages} == pages


def test_every_figure_is_there_small_and_on_its_page(made):
    drawn = {name for name in made if name.endswith(".png")} | {"figures/aalp-alp.png"}
    there = {path.relative_to(ROOT / "results").as_posix(): path for path in (ROOT / "results").rglob("*.png")}
    assert set(there) == drawn
    for path in there.values():
        assert path.stat().st_size <= 300_000
        width, height = Image.open(path).size
        assert (400 < width <= 2000, 300 < height <= 1200) == (True, True), path


@pytest.mark.parametrize("page", ["RESULTS.md", *(f"results/{p}" for p in ("README.md", "mnist/README.md",
                         "cifar10/README.md", "mnist/ablations/README.md", "ablations/README.md"))])  # fmt: skip
def test_links_and_pictures_lead_to_files_and_pictures_have_a_text(page):
    text = (ROOT / page).read_text()
    for target in LINK.findall(text):
        assert ((ROOT / page).parent / target).exists(), target
    assert all(len(alt) > 20 for alt in re.findall(r"!\[(.*?)\]\(", text))
    assert "nan" not in re.findall(r"\w+", text)
    assert "not measured" not in text


# --- templates


def test_a_template_gets_its_numbers_from_the_records():
    kept = found(
        *(record("alp", seed, pgd100=900) for seed in range(3)),
        *(record("aalp", seed, pgd100=900 + n) for seed, n in enumerate((10, 20, 30))),
        measurements=[attacked("strong", "alp", seed, square=850 + seed) for seed in range(3)],
    )
    said = report.rendered(
        '{{ gain("alp", "aalp", "pgd100") | points }} {{ lead("pgd100").verdict }} {{ lead("pgd100") | interval }} '
        '{{ accuracy("alp", "square") | percent }} {{ accuracy("alp", "square").seeds }} {{ 0.0004 | p }} '
        '{{ published("alp", "pgd100") }} {{ finding("AALP beats ALP").verdict }}',
        kept,
    )
    assert said == "+2.0 unresolved [−0.5, +4.5] 85.1 3 4e-04 94.5 unresolved"


def test_a_template_that_asks_for_what_there_is_not_fails():
    with pytest.raises(aalp.InputError, match="nothing was measured of alp against aalp under pgd100"):
        report.rendered('{{ gain("alp", "aalp", "pgd100") | points }}', found())
    with pytest.raises(aalp.InputError, match="nothing was measured of alp on mnist, fast, under clean"):
        report.rendered('{{ accuracy("alp", "clean") }}', found())
    with pytest.raises(jinja2.UndefinedError):
        report.rendered("{{ gian }}", found())


# --- the command


@pytest.fixture
def folder(tmp_path):
    record("alp", pgd100=690, cw100=680).save(tmp_path / "mnist" / "a.json")
    record("aalp", seed=1, pgd100=700).save(tmp_path / "mnist" / "b.json")
    record("aalp", data_set="mnist-sample", pgd100=710).save(tmp_path / "ablations" / "c.json")
    return tmp_path


def test_the_command_lists_filters_and_names_what_it_leaves_out(capsys, folder):
    (folder / "broken.json").write_text("{")
    assert main(["results", str(folder)]) == 0
    said = capsys.readouterr()
    lines = [line.strip("| ").split(" | ") for line in said.out.splitlines()]
    assert (lines[0], lines[7]) == (["**mnist**"], ["**mnist-sample**"])
    assert lines[4] == ["ALP", "0", "fast", "full", "98.0", "", "69.0", "68.0", "11.0", "X, 2 threads"]
    assert (lines[5][0], lines[11][0]) == ("AALP", "AALP")
    assert f"left out: {folder / 'broken.json'} is not a readable record" in said.err
    assert main(["results", str(folder), "--method", "AALP", "--data", "mnist", "--form", "csv"]) == 0
    assert capsys.readouterr().out.count("mnist,aalp,AALP,") == 4  # two attacks, last and best
    assert main(["results", str(folder), "--table", "2", "--method", "alp"]) == 0
    said = capsys.readouterr().out
    assert "| ALP | paper |" in said
    assert "Madry" not in said
    assert main(["results", str(folder), "--table", "4", "--form", "csv"]) == 0
    assert capsys.readouterr().out.startswith("table,data,row,")


def test_where_all_records_lie_beside_checkpoints_the_command_says_so(capsys, tmp_path):
    record(pgd100=900).save(tmp_path / "runs" / "a" / "evaluations" / "mnist-last.json")
    assert main(["results", str(tmp_path)]) == 0
    assert "no records but beside checkpoints, 1 in all; to see them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{tmp}/none",), "there is no folder {tmp}/none"),
        (("{tmp}", "--method", "alpp"), "Did you mean 'alp'"),
        (("{tmp}", "--data", "mnits"), "Did you mean 'mnist'"),
        (("{tmp}", "--recipe", "slow"), "known are paper, fast"),
        (("{tmp}", "--table", "2", "--data", "mnist-sample"), "unknown data set of the paper 'mnist-sample'"),
        (("{tmp}", "--write", "--seed", "0"), "--write remakes every page"),
        (("{tmp}/mnist", "--write"), "name the folder above it"),
    ],
)
def test_bad_input_is_one_clear_sentence(capsys, folder, arguments, said):
    assert main(["results", *(a.format(tmp=folder) for a in arguments)]) == 2
    assert said.format(tmp=folder) in capsys.readouterr().err


def test_writing_makes_pages_and_touches_no_page_of_anothers(capsys, folder):
    (folder / "README.md").write_text("mine")
    assert main(["results", str(folder), "--write"]) == 0
    page = (folder / "mnist" / "README.md").read_text()
    assert page.startswith(report.MADE)
    assert "| ALP | ours, fast | 1 |" in page
    assert (folder / "README.md").read_text() == "mine"
    (folder / "mnist" / "README.md").write_text("mine")
    assert main(["results", str(folder), "--write"]) == 0
    assert (folder / "mnist" / "README.md").read_text() == "mine"
    assert not (folder.parent / "RESULTS.md").exists()


@pytest.mark.filterwarnings("default:RESULTS.md stays")
def test_where_records_are_few_their_pages_are_written_and_results_md_stays(capsys, tmp_path):
    folder, beside, prose = tmp_path / "results", tmp_path / "RESULTS.md", f"{report.MADE}\nas it was"
    record("alp", pgd100=690).save(folder / "mnist" / "a.json")
    beside.write_text(prose)
    assert main(["results", str(folder), "--write"]) == 0
    assert "RESULTS.md stays as it is: nothing was measured of" in " ".join(capsys.readouterr().out.split())
    assert (folder / "mnist" / "README.md").exists()
    assert beside.read_text() == prose


OUTSIDE = "=x | <b>\n\n# H $\\frac{$ [a](b) \x1b[31m"  # a formula, markup, and what colours a terminal


@pytest.fixture
def hostile(tmp_path):
    """Records whose labels, processor and reduction are text from outside."""
    for seed, method in itertools.product(range(4), ("alp", "mine")):
        row = dataclasses.replace(aalp.methods.METHODS["alp"], label=OUTSIDE)
        kept = record(method, seed, row=row, pgd100=690 + seed, changes={"reduced": OUTSIDE})
        kept.environment["processor"] = OUTSIDE
        kept.save(tmp_path / "results" / ("mnist", "mnist/ablations")[seed // 2] / f"{method}{seed}.json")
    (tmp_path / "results" / "README.md").write_text(report.MADE)
    return tmp_path / "results"


def test_text_from_outside_is_no_markup_in_pages(hostile):
    pages = [path for path in report.write(hostile, archive.records(hostile)) if path.suffix == ".md"]
    assert [page.parent.name for page in pages] == ["mnist", "ablations", "results"]
    said = [page.read_text() for page in pages]
    assert "=x \\| &lt;b> # H $\\\\frac{$ [a]\\(b) �[31m" in said[1]
    for text in said:
        assert not any(mark in text for mark in ("<b>", "\n# H", "[a](b)", "\x1b"))


@pytest.mark.parametrize("form", ["csv", "markdown"])
def test_text_from_outside_is_no_formula_and_colours_no_terminal(capsys, hostile, form):
    assert main(["results", str(hostile), "--form", form]) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    if form == "csv":
        assert ",'=x | <b>" in said.out
        assert ",=x" not in said.out


def test_there_may_be_nothing_to_write(capsys, tmp_path):
    assert main(["results", str(tmp_path), "--write"]) == 0
    assert "nothing to write" in capsys.readouterr().out
