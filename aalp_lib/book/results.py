"""Tables of the results page and the landing page, made from the records: HTML that a script sorts, filters and draws.

The script is `book/_static/tables.js`. Without it every table stands there as a whole, with all its numbers.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from aalp_lib.reproduction import archive, claims, comparisons, pages, paper, report, tables
from aalp_lib.reproduction.archive import ABLATIONS, Records
from aalp_lib.reproduction.comparisons import Comparison
from aalp_lib.reproduction.frames import frame as frame_of
from aalp_lib.reproduction.pages import Section
from aalp_lib.reproduction.schema import HEADINGS, label

ATTACKS = tuple(HEADINGS)  # the ten of Table 2, then the stronger ones
CHOICES = {  # of columns; the first is shown at the start
    "the four that decide": comparisons.LEAD,
    "Table 2's ten": ATTACKS[:10],
    "stronger attacks": pages.STRONG,
    "all": ATTACKS,
}
MEANS, EACH, PAPER = "means over seeds", "each network", "paper"
ALL: dict[str, list[str]] = {"all": []}
TITLES = tables.TITLES | {"mnist-sample": "MNIST, 5,000 digits"}
ORIGINALS = {copy: name for name, copies in claims.COPIES.items() for copy in copies}
OTHERS = {  # tables of the pages in `results/` that are neither accuracies nor comparisons
    "samples": "Table 1",
    "consistent": "Table 4",
    "masking": "Signs of gradient masking",
}


class Filter(NamedTuple):
    """A choice above a table.

    Attributes
    ----------
    column : str
        Rows pass whose cell in this column, or whose key where no column has the name, is one of some texts.
    options : mapping of str to sequence of str
        What a choice is called -> the texts that pass, or none where all do. The first is chosen at the start.
    """

    column: str
    options: Mapping[str, Sequence[str]]


def accuracies(records: Records | None = None) -> str:
    """Percent right of every network after its last epoch, means over seeds, and the paper's rows."""
    table = _networks(records or archive.records())
    filters = [
        Filter("Data", {name: [name] for name in table["Data"].unique()} | ALL),
        Filter("Rows", {"means, and the paper's": [MEANS, PAPER], EACH: [EACH]}),
        _any_of(table, "Method"),
        Filter("Training", {"recipe fast": ["fast", ""]} | dict(_any_of(table, "Training").options)),
    ]
    kinds = [PAPER if of == PAPER else EACH if of.startswith("seed") else MEANS for of in table["Networks"]]
    columns = {words: [tables.heading(name) for name in names] for words, names in CHOICES.items()}
    places = {f"accuracies-{name}": {"Data": TITLES[name]} for name in ("mnist", "svhn", "cifar10", "mnist-sample")}
    said = [{"key": kind} for kind in kinds]
    return sortable(table, "accuracies", "Accuracies", filters, said=said, columns=columns, places=places)


def compared(records: Records | None = None) -> str:
    """Every comparison of the pages in `results/`, one of their tables at a time, with its interval drawn.

    The place of each table is its name and that of the data set: `order-mnist`, `aalp-alp-cifar10`.
    """
    names, lines, said = {}, [], []
    for where, section in _sections(records or archive.records()):
        if section.gains is not None:
            words = f"{section.heading}: {TITLES[where]}"
            names[f"{section.name.removeprefix('forest-')}-{where}"] = words
            for _, row in section.gains.iterrows():
                lines.append(_comparison(row) | {"Data": TITLES[where]})
                said.append(_drawn(row) | {"key": words})
    table = pd.DataFrame(lines)
    filters = [Filter("Table", {words: [words] for words in names.values()} | ALL)]
    filters += [_any_of(table, name) for name in ("Attack", "Verdict")]
    places = {name: {"Table": words} for name, words in names.items()}
    return sortable(table, "comparisons", "Comparisons", filters, said=said, places=places)


def other(name: str, records: Records | None = None) -> str:
    """One of `OTHERS`, of all data sets."""
    sections = _sections(records or archive.records())
    found = {TITLES[where]: of.table for where, of in sections if of.heading == OTHERS[name]}
    table = pd.concat(found, names=["Data", ""]).reset_index(0)
    table = table[[table.columns[1], *table.columns.drop(table.columns[1])]]  # what names the row comes first
    return sortable(table, name, OTHERS[name], [_any_of(table, "Data")])


def costs(records: Records | None = None) -> str:
    """What training and evaluation took."""
    table = tables.costs(records or archive.records())
    return sortable(table, "cost", "Cost", [_any_of(table, name) for name in ("Data", "Method", "Protocol")])


def lead(records: Records | None = None) -> str:
    """The answer as one figure: what AALP gains over ALP on each data set of the paper."""
    found = report.lead_gains(records or archive.records())
    found = found[(found["attack"] != tables.heading("cw100")) & found[["gain", "paper"]].notna().any(axis=1)]
    gains = [row for _, row in found.iterrows()]
    lines = [{"AALP − ALP": f"{row['panel'].split(',')[0]}, {row['attack']}"} | _comparison(row) for row in gains]
    table = pd.DataFrame(lines)[["AALP − ALP", DRAWN, "Ours", "Paper"]]
    return sortable(table, "answer", report.LEAD_CLAIM, said=[_drawn(gain) for gain in gains])


def scorecard(records: Records | None = None) -> str:
    """The paper's claims, what we measured, and the verdict."""
    found = claims.scorecard(records)
    table = claims.card(found).assign(Verdict=[one.verdict for one in found])
    said = [{"word": one.verdict} | ({"place": place} if (place := _place(one.ours)) else {}) for one in found]
    return sortable(table, "scorecard", "The paper's claims", said=said)


def _place(ours: Comparison | None) -> str:
    """Where the results page has the rows of a claim; empty where it has none."""
    if ours and ours.attack == comparisons.DECIDING:
        step = (ours.first, ours.second)
        family = "aalp-alp" if step == ("alp", "aalp") else "order" if step in comparisons.STEPS else "halves"
        return f"{family}-{ORIGINALS.get(ours.data, ours.data)}"
    return {"samples": "samples", tables.CONSISTENT["mnist"]: "consistent"}.get(ours.attack, "") if ours else ""


# --- lines ------------------------------------------------------------------------------------------------------------

DRAWN = "Gain"  # the column in which the script draws
SHORT = 20  # letters of a cell that stands in one line


@functools.lru_cache(maxsize=2)
def _sections(records: Records) -> tuple[tuple[str, Section], ...]:
    """The tables of the pages in `results/`, each with the data set of the paper that it is of, or the sample."""
    folders = {PurePosixPath(name).parent: run.data for name, run in records.runs.items()}
    return tuple(
        (ORIGINALS.get(data, data), section)
        for folder, data in folders.items()
        for section in (pages.ablation_sections if folder.name == ABLATIONS else pages.sections)(records, data)
    )


def _networks(records: Records) -> pd.DataFrame:
    """A line a network, a mean or a row of the paper: data, method, training, seed, and the attacks."""
    frame = frame_of(records)
    frame = frame[(frame["model"] == "last") & frame["suite"].isin(("table2", "strong"))]
    frame = frame.drop_duplicates(["run", "attack"])  # of clean images, all of the test split
    frame = frame.assign(data=frame["data"].replace(ORIGINALS), percent=100 * frame["accuracy"])
    kinds, seeds = ["data", "label", "protocol"], frame["seed"].map("seed {}".format)
    counts = frame.groupby(kinds)["seed"].transform("nunique")
    of_each = frame.groupby([*kinds, "attack"])["seed"].transform("nunique")
    means = frame.groupby([*kinds, "attack"])["percent"].transform("mean").map(_percent)
    fewer = (" (" + of_each.astype(str) + ")").where(of_each < counts, "")
    named = counts.map(lambda n: f"{n} seeds" if n > 1 else "1 seed")
    both = [frame.assign(seed=named, text=means + fewer), frame.assign(seed=seeds, text=frame["percent"].map(_percent))]
    wide = pd.concat(both).pivot_table(
        index=[*kinds, "seed"], columns="attack", values="text", sort=False, aggfunc="first"
    )
    wide = pd.concat([_published(), wide.reset_index()])
    names, rows = [*TITLES], [label(name) for name in paper.TABLE_2["mnist"]]
    place = wide["label"].map(lambda name: rows.index(name) if name in rows else len(rows))
    wide = wide.assign(place=place, where=wide["data"].map(names.index)).sort_values(["where", "place"], kind="stable")
    head = {
        "Method": wide["label"],
        "Data": wide["data"].map(TITLES),
        "Training": wide["protocol"],
        "Networks": wide["seed"],
    }
    return pd.DataFrame(head | {tables.heading(name): wide[name].fillna("–") for name in ATTACKS})


def _published() -> pd.DataFrame:
    rows = [(data, method, of) for data, methods in paper.TABLE_2.items() for method, of in methods.items()]
    rows += [("svhn", method, of) for method, of in paper.TABLE_3.items() if method not in paper.TABLE_2["svhn"]]
    heads = ({"data": data, "label": label(method), "protocol": "", "seed": PAPER} for data, method, _ in rows)
    return pd.DataFrame(
        head | {name: _percent(value) for name, value in of.items()} for head, (*_, of) in zip(heads, rows, strict=True)
    )


def _percent(value: float) -> str:
    return f"{value:.1f}"


def _comparison(row: "pd.Series[Any]") -> dict[str, Any]:
    """A line of `tables.gains` as text, with an empty cell to draw in."""
    span = f"[{tables.signed(row['low'])}, {tables.signed(row['high'])}]" if pd.notna(row["low"]) else "–"
    return {
        "Step": row.get("step", ""), "Attack": row["attack"], DRAWN: "", "Verdict": row["word"],
        "Ours": claims.UNTESTED if pd.isna(row["gain"]) else tables.signed(row["gain"]), "95 % interval": span,
        "Paper": "–" if pd.isna(row["paper"]) else tables.signed(row["paper"]), "Seeds": row.get("seeds", 0),
        "p, Holm": tables.shown_p(row.get("p")) or "–", "Images": f"{row.get('images', 0):,.0f}",
    }  # fmt: skip


# --- HTML -------------------------------------------------------------------------------------------------------------

HTML = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
HTML.filters["json"] = functools.partial(json.dumps, ensure_ascii=False)
TABLE = HTML.from_string("""\
{% macro named(text, place) %}
{% if place %}<a href="results.html#{{ place }}">{{ text }}</a>{% else %}{{ text }}{% endif %}
{% endmacro %}
<div class="aalp-table" id="{{ name }}">
{% for place, set in places.items() %}
<span id="{{ place }}" data-set="{{ set | json }}"></span>
{% endfor %}
{% if filters %}
<p class="aalp-choices" hidden>
{% for one in filters %}
<label>{{ one.column }} <select data-column="{{ one.column }}">
{% for words, texts in one.options.items() %}
<option data-texts="{{ texts | json }}">{{ words }}</option>
{% endfor %}
</select></label>
{% endfor %}
<output></output></p>
{% endif %}
<div class="aalp-scroll" role="region" tabindex="0" aria-label="{{ title }}"><table>
<thead><tr>
{% for head, kind in heads %}
<th scope="col"{% if kind %} class="{{ kind }}"{% endif %}>{{ head }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in rows %}
<tr{% for word, value in row.said.items() %} data-{{ word }}="{{ value }}"{% endfor %}>
{% for text, kind in row.cells %}
<{{ "th scope=row" if loop.first else "td" }}{% if kind %} class="{{ kind }}"{% endif %}>
{{ named(text, row.said.place if loop.first) }}
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div></div>
""")


def _any_of(table: pd.DataFrame, column: str) -> Filter:
    return Filter(column, ALL | {text: [text] for text in dict.fromkeys(map(str, table[column])) if text})


def sortable(
    table: pd.DataFrame,
    name: str,
    title: str,
    filters: Sequence[Filter] = (),
    *,
    said: Sequence[Mapping[str, str]] = (),
    columns: Mapping[str, Sequence[str]] | None = None,
    places: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """A table in HTML that the script of the page sorts and filters.

    Parameters
    ----------
    table : DataFrame
        Text or numbers; the first column names the row.
    name, title : str
        Its place in the page, and its name for those who hear it.
    filters : sequence of Filter
    said : sequence of mapping
        What the script reads of each row: "key", for a filter that no column has, "gain", numbers to draw in the column
        `DRAWN`, "word", a verdict; and "place", of the results page, to which the row's name leads.
    columns : mapping of str to sequence of str, optional
        Choices of columns. Those that no choice names are always shown.
    places : mapping, optional
        Further places in the page -> the choices that show them: the name of a filter -> what is chosen.
    """
    names, texts = [*map(str, table)], table.astype(str).to_numpy().tolist()
    numbers = [name != DRAWN and not tables.is_text(table[name]) for name in names]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    kinds = [_kind(n=number, long=wide > SHORT) for number, wide in zip(numbers, widths, strict=True)]
    heads = [
        (name, _kind(n=number, long=" " in name, drawn=name == DRAWN))
        for name, number in zip(names, numbers, strict=True)
    ]
    cells = [[*zip(row, kinds, strict=True)] for row in texts]
    rows = [{"said": of, "cells": row} for of, row in zip(said or [{}] * len(cells), cells, strict=True)]
    if columns:
        always = set(names).difference(*columns.values())
        filters = [*filters, Filter("Columns", {words: [*of, *sorted(always)] for words, of in columns.items()})]
    made = TABLE.render(name=name, title=title, filters=filters, heads=heads, rows=rows, places=places or {})
    return "\n".join(filter(None, made.split("\n")))


def _kind(**given: bool) -> str:
    return " ".join(word for word, so in given.items() if so)


def _drawn(gain: "pd.Series[Any]") -> dict[str, str]:
    """What the script draws of a line of `tables.gains`: mean, interval, the paper's, and each seed's; its verdict."""
    numbers = [*(gain[name] for name in ("gain", "low", "high", "paper")), *gain["gains"]]
    shown = [None if pd.isna(value) else round(float(value), 3) for value in numbers]
    return {"gain": json.dumps(shown), "word": gain["word"]}
