"""The tables of the results page and the landing page hold what the records say; the landing page claims no more."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from aalp_lib._checks import InputError
from aalp_lib.book import drawings, results
from aalp_lib.reproduction import report

ROOT = Path(__file__).resolve().parents[2]
SAYS = report.context()


class Table(HTMLParser):
    """Cells by heading, a mapping a row, with what the script reads of the row; and the places that can be linked."""

    def __init__(self, made):
        super().__init__()
        self.heads, self.cells, self.said, self.places, self.options = [], [], [], {}, set()
        self._into = None
        self.feed(made)
        self.rows = [dict(zip(self.heads, cells, strict=True)) for cells in self.cells]

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        if tag != "a":
            self._into = None
        if tag in ("th", "td"):
            self._into = self.heads if of.get("scope") == "col" else self.cells[-1]
            self._into.append("")
        elif tag == "tr" and self.heads:
            self.cells.append([])
            self.said.append({name.removeprefix("data-"): value for name, value in of.items()})
        elif "data-set" in of:
            self.places[of["id"]] = json.loads(of["data-set"])
        elif tag == "option":
            self._into = None
            self.options.add(of["data-texts"])

    def handle_data(self, data):
        if self._into is not None:
            self._into[-1] += data.strip()


@pytest.fixture(scope="module")
def accuracies():
    return Table(results.accuracies())


@pytest.fixture(scope="module")
def compared():
    return Table(results.compared())


def test_every_network_has_its_line_with_its_own_accuracies(accuracies):
    frame = SAYS["frame"]
    each = [row for row, said in zip(accuracies.rows, accuracies.said, strict=True) if said["key"] == results.EACH]
    assert len(each) == frame["run"].nunique()
    wanted = {"method": "aalp", "data": "cifar10-jpeg", "seed": 1, "model": "last", "attack": "pgd100"}
    (line,) = frame[(frame[[*wanted]] == list(wanted.values())).all(axis=1)]["accuracy"]
    shown = {"Method": "AALP", "Data": "CIFAR-10", "Networks": "seed 1", "Training": "fast"}
    (row,) = [row for row in each if shown.items() <= row.items()]
    assert row["PGD-100"] == f"{100 * line:.1f}"


def test_means_and_the_papers_rows_stand_beside_one_another(accuracies):
    rows = [row for row in accuracies.rows if (row["Method"], row["Data"]) == ("AALP", "MNIST")]
    (ours,) = [row for row in rows if row["Networks"].endswith("seeds") and row["Training"] == "fast"]
    (theirs,) = [row for row in rows if row["Networks"] == "paper"]
    for name, attack in (("PGD-100", "pgd100"), ("AutoAttack", "square")):
        assert ours[name] == f"{SAYS['accuracy']('aalp', attack).percent:.1f}"
    assert theirs["PGD-100"] == f"{SAYS['published']('aalp', 'pgd100'):.1f}"
    (few,) = [row for row in accuracies.rows if "[16, 32, 128]" in row["Training"] and row["Networks"] == "3 seeds"
              and row["Method"] == "ALP"]  # fmt: skip
    assert few["AutoAttack"].endswith(" (1)")
    assert "(" not in few["PGD-100"]
    assert ours["Networks"] == f"{SAYS['accuracy']('aalp', 'pgd100').seeds} seeds"


def test_comparisons_say_and_draw_what_was_judged(compared):
    lead, table = SAYS["lead"]("pgd100"), compared.places["aalp-alp-mnist"]["Table"]
    found = [(row, said) for row, said in zip(compared.rows, compared.said, strict=True) if said["key"] == table]
    ((row, said),) = [one for one in found if one[0]["Attack"] == "PGD-100"]
    assert (row["Ours"], row["Verdict"], said["word"]) == (f"{lead.mean:+.1f}".replace("-", "−"), *[lead.verdict] * 2)
    mean, low, high, theirs, *seeds = json.loads(said["gain"])
    assert (mean, low, high) == pytest.approx((lead.mean, lead.low, lead.high), abs=1e-3)
    assert seeds == pytest.approx(lead.gains, abs=1e-3)
    assert f"{theirs:+.1f}" == row["Paper"]


def test_the_places_that_chapters_link_to_stay(accuracies, compared):
    """A chapter may link to any of these; a place that goes breaks its link."""
    both = ("aalp-alp", "aalp-alp-weaker", "order", "halves", "madry", "guided")
    mnist = ("aalp-alp-start", "aalp-alp-paper", "order-averaged", "madry-averaged", "controls", "variants", "settings")
    wanted = {f"{name}-{data}" for name in both for data in ("mnist", "cifar10")}
    wanted |= {f"{name}-mnist" for name in mnist} | {"controls-mnist-sample", "variants-mnist-sample"}
    assert wanted <= set(compared.places)
    assert {f"accuracies-{name}" for name in ("mnist", "svhn", "cifar10", "mnist-sample")} == set(accuracies.places)
    keys = {said["key"] for said in compared.said}
    assert all(choice["Table"] in keys for choice in compared.places.values())


def test_each_claim_leads_to_its_rows(compared):
    card = Table(results.scorecard())
    places = [said.get("place") for said in card.said]
    assert set(places) <= {None, *results.OTHERS, *compared.places}
    tested = [(row, place) for row, place in zip(card.rows, places, strict=True) if place in compared.places]
    assert [place for _, place in tested[:3]] == ["aalp-alp-mnist", "aalp-alp-svhn", "aalp-alp-cifar10"]
    assert len(tested) == 8
    for row, place in tested:
        table = compared.places[place]["Table"]
        there = [of for of, said in zip(compared.rows, compared.said, strict=True) if said["key"] == table]
        wanted = {"Attack": "PGD-100", "Ours": row["Ours"].split()[0], "Paper": row["Paper"], "Seeds": row["Seeds"]}
        assert any(wanted.items() <= of.items() for of in there), row


def test_text_from_records_is_escaped():
    import pandas as pd

    made = results.sortable(pd.DataFrame({"<a>": ["<script>"], "n": [1]}), "t", 'a "title"')
    assert "<script>" not in made
    assert "&lt;a&gt;" in made
    assert 'aria-label="a &#34;title&#34;"' in made


def test_the_landing_page_claims_what_was_found():
    """Its sentences, each beside what it rests on."""
    page = (ROOT / "book" / "intro.md").read_text()
    said = re.sub(r"\s+", " ", page)
    lead, step = SAYS["lead"], SAYS["step"]
    theirs = SAYS["published"]("aalp", "pgd100") - SAYS["published"]("alp", "pgd100")
    assert "We find no such gain" in said
    assert lead("pgd100").verdict != "ahead"
    assert lead("pgd100").high < theirs
    assert "{{ digits | points }} between two networks on a part of SVHN" in said
    colour, digits = lead("pgd100", "cifar10-jpeg"), lead("pgd100", "svhn-part")
    assert colour.verdict == "unresolved"
    assert colour.mean < 0
    assert digits.seeds == (0,)
    assert digits.mean < 0
    assert "the difference under attack is {{ mnist.verdict }}" in said
    assert {lead(attack).verdict for attack in ("pgd100", "square")} == {lead("pgd100").verdict}
    assert "Under AutoAttack on MNIST, Madry's plain training is ahead of ALP and of AALP" in said
    assert {step("adv", name, "square", family="madry").verdict for name in ("alp", "aalp")} == {"behind"}


def test_the_landing_page_has_a_card_for_each_chapter():
    page = (ROOT / "book" / "intro.md").read_text()
    linked = re.findall(r"^\d+\. \*\*\[.+?\]\((\d\d-[\w-]+\.ipynb)\)", page, re.MULTILINE)
    assert linked == sorted(path.name for path in (ROOT / "book").glob("[0-9][0-9]-*.ipynb"))


def test_the_diagram_lights_the_parts_that_are_named():
    dark, lit = drawings.diagram(), drawings.diagram("mask", "weight")
    assert "part lit" not in dark.html
    assert re.findall(r'class="part lit" data-part="(\w+)"', lit.html) == ["mask", "weight"]
    assert "Lit here: mask and weight." in lit.html
    for number in ("1", "7 and 8", "9", "10"):
        assert f"Eq. {number}</text>" in lit.html
    with pytest.raises(InputError, match="unknown part of the diagram 'masks'"):
        drawings.diagram("masks")
