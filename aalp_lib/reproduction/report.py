"""RESULTS.md, the pages of `results/` and the figures on them: templates, and what templates may say of the records."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from aalp_lib import checkpoints
from aalp_lib._checks import InputError
from aalp_lib.methods import METHODS
from aalp_lib.plots import DPI
from aalp_lib.reproduction import claims, comparisons, figures, paper, schema, tables
from aalp_lib.reproduction.archive import Model, Records, is_ablation
from aalp_lib.reproduction.claims import Source, source
from aalp_lib.reproduction.comparisons import Comparison, compare, judged
from aalp_lib.reproduction.schema import Record, label

TEMPLATES = Path(__file__).parent / "templates"
MADE = "<!-- made by `aalp results --write` -->"  # first line of a page that may be overwritten
FOLDERS = {"mnist": "mnist", "cifar10-jpeg": "cifar10", "cifar10": "cifar10", "svhn": "svhn"}  # of a data set's records
SHORT = ("clean", "pgd100", "cw100", comparisons.AUTOATTACK)  # columns of RESULTS.md
LEAD_CLAIM = "AALP − ALP: clean digits of MNIST tell the two apart, and no attack does"  # a test holds it


# --- what templates may call -----------------------------------------------------------------------------------------


class Accuracy(NamedTuple):
    """Percent right: the mean over seeds, the lowest and the highest seed, and how many seeds there are."""

    percent: float
    low: float
    high: float
    seeds: int


def context(records: Records | None = None) -> dict[str, Any]:
    """What a template may call, over the records: by default the repository's.

    Functions, each of which raises InputError where nothing was measured:

    - `gain(first, second, attack, data="mnist", ...)`: `comparisons.compare` over the frame, not judged.
    - `lead(attack, data="mnist")`, `step(first, second, attack, data="mnist", protocol="fast")`,
      `control(first, second, attack)`: the judged one of `comparisons.lead`, `.order` and `.controls`.
    - `accuracy(method, attack, data="mnist", protocol="fast", model="last", suite=...)`: an `Accuracy`.
    - `published(method, attack, data="mnist")`: the paper's number of Table 2.
    - `finding(words, on="MNIST")`: of the scorecard, the claim that begins with these words.

    and `findings`, `card`, `main_table`, `frame`, `records`, `tables` and `label`.
    """
    of = source(records)
    return {
        "gain": lambda *names, data="mnist", **more: _there(compare(of.frame, *names, data=data, **more), names),
        "lead": lambda attack, data="mnist": _among(comparisons.lead(of.frame), data=data, attack=attack),
        "step": lambda first, second, attack, data="mnist", protocol="fast": _among(
            [one for family in comparisons.order(of.frame).values() for one in family],
            first=first, second=second, attack=attack, data=data, protocol=protocol,
        ),
        "control": lambda first, second, attack: _among(
            comparisons.controls(of.frame), first=first, second=second, attack=attack
        ),
        "accuracy": lambda method, attack, **more: _accuracy(of, method, attack, **more),
        "published": lambda method, attack, data="mnist": paper.TABLE_2[data][method][attack],
        "finding": lambda words, on="MNIST": next(
            one for one in claims.scorecard(records) if one.claim.words.startswith(words) and one.claim.on == on
        ),
        "card": lambda: tables.markdown(claims.card(claims.scorecard(records))),
        "findings": lambda: claims.scorecard(records),
        "main_table": lambda: tables.markdown(main_table(records)),
        "records": of.records, "frame": of.frame, "tables": tables, "label": label,
    }  # fmt: skip


def _there(found: Comparison | None, names: Sequence[str]) -> Comparison:
    if found is None:
        raise InputError(f"nothing was measured of {' against '.join(names[:2])} under {names[-1]}")
    return found


def _among(family: Sequence[Comparison], **traits: str) -> Comparison:
    alike = (one for one in family if all(getattr(one, key) == value for key, value in traits.items()))
    return _there(next(alike, None), (traits.get("first", "alp"), traits.get("second", "aalp"), traits["attack"]))


def _accuracy(
    of: Source, method: str, attack: str, data: str = "mnist", protocol: str = "fast", model: Model = "last",
    suite: str = "",
) -> Accuracy:  # fmt: skip
    wanted = {"method": method, "attack": attack, "data": data, "protocol": protocol, "model": model}
    rows = of.frame[(of.frame[[*wanted]] == pd.Series(wanted)).all(axis=1)]
    rows = rows[rows["suite"] == (suite or rows["suite"].min() if "table2" not in {*rows["suite"]} else "table2")]
    if rows.empty:
        raise InputError(f"nothing was measured of {method} on {data}, {protocol}, under {attack}")
    percents = 100 * rows["accuracy"]
    return Accuracy(percents.mean(), percents.min(), percents.max(), len(rows))


FILTERS: dict[str, Callable[..., str]] = {
    "points": lambda value: tables.signed(value.mean if isinstance(value, Comparison) else value),
    "interval": tables.bracketed,
    "estimate": tables.estimate,
    "percent": lambda value: f"{value.percent if isinstance(value, Accuracy) else value:.1f}",
    "p": tables.shown_p,
    "escaped": tables.escaped,
}


def rendered(text: str, records: Records | None = None, **more: Any) -> str:
    """A template with the numbers of the records: jinja2, with `context` and the filters `FILTERS`.

    Parameters
    ----------
    text : str
        Such as ``AALP − ALP: {{ gain("alp", "aalp", "pgd100") | estimate }} points``.
    records : Records, optional
        The repository's by default.
    **more
        Further names.

    Raises
    ------
    InputError
        If what the template asks for was not measured.
    jinja2.UndefinedError
        If it names what there is not.
    """
    made = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    made.filters.update(FILTERS)
    return made.from_string(text).render(context(records) | more)


# --- RESULTS.md ------------------------------------------------------------------------------------------------------


def main_table(records: Records | None = None) -> pd.DataFrame:
    """Rows of Table 2 on the paper's data sets, the paper beside ours: mean over seeds, recipe "fast"."""
    of = source(records)
    runs = of.frame[(of.frame["model"] == "last") & (of.frame["protocol"] == "fast") & ~of.frame["ablation"]]
    runs = runs[runs["suite"].isin(("table2", "strong")) & (runs["tier"] == "full")]
    lines = []
    for data, rows in paper.TABLE_2.items():
        for method, published in rows.items():
            mine = runs[runs["data"].isin((data, f"{data}-jpeg")) & (runs["method"] == method)]
            ours = mine.sort_values("suite", ascending=False).groupby(["attack", "suite"])["accuracy"].mean()
            cells: dict[str, str] = {"": f"{tables.title(data)}, {label(method)}"}
            for name in SHORT:
                value = ours.get((name, "strong" if name == comparisons.AUTOATTACK else "table2"))
                if name in published:
                    cells[tables.heading(name)] = f"{published[name]:.1f}"
                cells[f"{tables.heading(name)}, ours"] = "–" if value is None else f"{100 * value:.1f}"
            lines.append(cells | {"Seeds": str(mine["seed"].nunique() or claims.UNTESTED)})
    return pd.DataFrame(lines)


def lead(records: Records | None = None) -> Figure:
    """The forest plot of RESULTS.md: AALP against ALP on the paper's data sets, a line an attack."""
    family = comparisons.lead(source(records).frame)
    rows = tables.gains([one for one in family if one.attack in SHORT])
    missing = {"gain": float("nan"), "low": float("nan"), "high": float("nan"), "gains": (), "word": claims.UNTESTED}
    rows = pd.concat([rows, *(
        pd.DataFrame([missing | {"panel": tables.title(data), "attack": tables.heading(name), "paper": _theirs(data, name)}
                      for name in SHORT])
        for data in paper.TABLE_2 if not {data, f"{data}-jpeg"} & {one.data for one in family}
    )])  # fmt: skip
    order = [tables.heading(name) for name in SHORT]
    rows = rows.sort_values("attack", key=lambda names: names.map(order.index), kind="stable")
    rows = rows.sort_values("panel", key=lambda names: names.map([*tables.TITLES.values()].index), kind="stable")
    return figures.forest(rows, LEAD_CLAIM)


def _theirs(data: str, attack: str) -> float:
    rows = paper.TABLE_2[data]
    return rows["aalp"].get(attack, float("nan")) - rows["alp"].get(attack, float("nan"))

