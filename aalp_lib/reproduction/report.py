"""RESULTS.md, the pages of `results/` and the figures on them: templates, and what templates may say of the records."""

import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from statistics import mean
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from aalp_lib import _checks, checkpoints, plots
from aalp_lib._checks import InputError
from aalp_lib.evaluation import paper_name
from aalp_lib.reproduction import archive, claims, comparisons, figures, pages, paper, protocols, tables
from aalp_lib.reproduction.archive import ABLATIONS, Model, Records
from aalp_lib.reproduction.comparisons import Comparison, compare
from aalp_lib.reproduction.frames import SUITES, frame as frame_of
from aalp_lib.reproduction.schema import Measurement, Record, label

TEMPLATES = Path(__file__).parent / "templates"
MADE = "<!-- made by `aalp results --write` -->"  # first line of a page that may be overwritten
LEAD_CLAIM = "AALP − ALP: clean digits of MNIST tell the two apart, none of these attacks does"  # a test holds it


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
    - `lead(attack, data="mnist")`, `step(first, second, attack, data="mnist", protocol="fast", family=...)`,
      `control(first, second, attack)`: the judged one of `comparisons.lead`, `.order` and `.controls`; the family of a
      step is "order", "halves" or "madry", by default the first of these that has it.
    - `accuracy(method, attack, data="mnist", protocol="fast", model="last", suite=...)`: an `Accuracy`.
    - `published(method, attack, data="mnist")`: the paper's number of Table 2.
    - `measured(kind, method, *path, data="mnist", seed=None)`: a number in measurements, by the keys that lead to it:
      the mean over seeds, or that of one.
    - `kept(method, epoch, data="mnist")`: the share of features that a mask kept in an epoch, by seed.
    - `finding(words, on="MNIST")`: of the scorecard, the claim that begins with these words.

    and `findings`, `card`, `main_table`, `frame`, `records`, `paper`, `tables` and `label`.
    """
    records = records or archive.records()
    frame = frame_of(records)
    return {
        "gain": lambda *names, data="mnist", **more: _there(compare(frame, *names, data=data, **more), names),
        "lead": lambda attack, data="mnist": _among(_judged(records)["lead"], data=data, attack=attack),
        "step": lambda first, second, attack, data="mnist", protocol="fast", family="": _among(
            _judged(records)[family or "steps"],
            first=first, second=second, attack=attack, data=data, protocol=protocol,
        ),
        "control": lambda first, second, attack: _among(
            _judged(records)["controls"], first=first, second=second, attack=attack
        ),
        "accuracy": lambda method, attack, **more: _accuracy(frame, method, attack, **more),
        "published": lambda method, attack, data="mnist": paper.TABLE_2[data][method][attack],
        "measured": lambda kind, method, *path, **more: _measured(records, kind, method, path, **more),
        "kept": lambda method, epoch, data="mnist": _kept(records, method, epoch, data),
        "finding": lambda words, on="MNIST": next(
            one for one in claims.scorecard(records) if one.claim.words.startswith(words) and one.claim.on == on
        ),
        "card": lambda: tables.markdown(claims.card(claims.scorecard(records))),
        "findings": lambda: claims.scorecard(records),
        "main_table": lambda: tables.markdown(main_table(records)),
        "records": records, "frame": frame, "paper": paper, "tables": tables, "label": label,
    }  # fmt: skip


@functools.lru_cache(maxsize=2)
def _judged(records: Records) -> dict[str, list[Comparison]]:
    """Every judged comparison of the pages, by family; "steps" has those of all orders, the first of them first."""
    frame, chain = frame_of(records), itertools.chain.from_iterable
    orders = {name: [*chain(comparisons.order(frame, steps).values())] for _, name, steps in pages.ORDERS}
    return orders | {
        "steps": [*chain(orders.values())],
        "lead": [*chain(comparisons.lead(frame, attacks) for attacks in pages.LEADS)],
        "controls": [*chain(comparisons.controls(frame).values())],
    }


def _there(found: Comparison | None, names: Sequence[str]) -> Comparison:
    if found is None:
        raise InputError(f"nothing was measured of {' against '.join(names[:2])} under {names[-1]}")
    return found


def _among(family: Sequence[Comparison], **traits: str) -> Comparison:
    alike = (one for one in family if all(getattr(one, key) == value for key, value in traits.items()))
    return _there(next(alike, None), (traits.get("first", "alp"), traits.get("second", "aalp"), traits["attack"]))


def _accuracy(
    frame: pd.DataFrame, method: str, attack: str, data: str = "mnist", protocol: str = "fast", model: Model = "last",
    suite: str = "",
) -> Accuracy:  # fmt: skip
    wanted = {"method": method, "attack": attack, "data": data, "protocol": protocol, "model": model}
    rows = frame[(frame[[*wanted]] == pd.Series(wanted)).all(axis=1)]
    suite = suite or next((name for name in SUITES if (rows["suite"] == name).any()), "")
    rows = rows[rows["suite"] == suite]
    if rows.empty:
        raise InputError(f"nothing was measured of {method} on {data}, {protocol}, under {attack}")
    percents = 100 * rows["accuracy"]
    return Accuracy(percents.mean(), percents.min(), percents.max(), len(rows))


def _measured(
    records: Records, kind: str, method: str, path: Sequence[str | int], data: str = "mnist", seed: int | None = None
) -> float:
    found = tables.measurements(records, kind, data=data, method=method)
    kept: list[Any] = [m.values for m in found if seed in (None, m.subject["seed"])]
    if not kept:
        raise InputError(f"nothing was measured of {kind} in {method}'s networks on {data}")
    for key in path:
        kept = [of_one[key] for of_one in kept]
    return mean(map(float, kept))


def _kept(records: Records, method: str, epoch: int, data: str) -> dict[int, float]:
    """By seed, of the runs of the recipe "fast"."""
    runs = [r for r in records.runs.values() if (r.data, r.method, protocols.protocol(r)) == (data, method, "fast")]
    if not runs:
        raise InputError(f"nothing was measured of {method} on {data}")
    return {r.seed: float(r.history["epochs"][epoch]["kept"]) for r in runs}


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


def main_table(records: Records) -> pd.DataFrame:
    """Rows of Table 2 on the paper's data sets, the paper beside ours: mean over seeds, recipe "fast"."""
    runs = frame_of(records)
    runs = runs[(runs["model"] == "last") & (runs["protocol"] == "fast") & ~runs["ablation"]]
    runs = runs[runs["suite"].isin(("table2", "strong")) & (runs["tier"] == "full")]
    lines = []
    for data, rows in paper.TABLE_2.items():
        for method, published in rows.items():
            mine = runs[(runs["data"].map(paper_name) == data) & (runs["method"] == method)]
            ours = mine.sort_values("suite", ascending=False).groupby(["attack", "suite"])["accuracy"].mean()
            cells: dict[str, str] = {"": f"{tables.title(data)}, {label(method)}"}
            for name in comparisons.LEAD:
                value = ours.get((name, "strong" if name == comparisons.AUTOATTACK else "table2"))
                if name in published:
                    cells[tables.heading(name)] = f"{published[name]:.1f}"
                cells[f"{tables.heading(name)}, ours"] = "–" if value is None else f"{100 * value:.1f}"
            lines.append(cells | {"Seeds": str(mine["seed"].nunique() or claims.UNTESTED)})
    return pd.DataFrame(lines)


def lead(records: Records) -> Figure:
    """The forest plot of RESULTS.md: AALP against ALP on the paper's data sets, a line an attack."""
    return figures.closed(figures.forest(lead_gains(records), LEAD_CLAIM))


def lead_gains(records: Records) -> pd.DataFrame:
    """The lines of `lead`, as `tables.gains` makes them; of an untested data set there are the paper's gains alone."""
    family = comparisons.lead(frame_of(records))
    rows: list[Any] = tables.gains(family).to_dict("records")
    for data in {*paper.TABLE_2} - {paper_name(one.data) for one in family}:
        traits = dict.fromkeys(("gain", "low", "high"), float("nan")) | {"panel": tables.title(data), "gains": ()}
        for name in comparisons.LEAD:
            traits |= {"attack": tables.heading(name), "paper": _theirs(data, name), "word": claims.UNTESTED}
            rows.append(dict(traits))
    panels, lines = [*tables.TITLES.values()], [*map(tables.heading, comparisons.LEAD)]
    rows.sort(key=lambda row: (panels.index(row["panel"]), lines.index(row["attack"])))
    return pd.DataFrame(rows)


def _theirs(data: str, attack: str) -> float:
    rows = paper.TABLE_2[data]
    return rows["aalp"].get(attack, float("nan")) - rows["alp"].get(attack, float("nan"))


# --- files -----------------------------------------------------------------------------------------------------------


def files(records: Records) -> dict[str, str | Figure]:
    """The pages and figures that records allow, by their path below the folder: a page for each folder of runs."""
    made: dict[str, str | Figure] = {}
    folders = {str(PurePosixPath(name).parent): run.data for name, run in records.runs.items()}
    for folder, data in folders.items():
        ablations = PurePosixPath(folder).name == ABLATIONS
        found = list((pages.ablation_sections if ablations else pages.sections)(records, data))
        drawn = figures.every(*_drawable(records, folder))
        if found or drawn:
            texts = {
                "title": tables.title(data) + ", ablations" * ablations,
                "about": pages.ABOUT.get(ABLATIONS if ablations else data, ""),
            }
            made[f"{folder}/README.md"] = page("page.md", records, sections=found, drawn=drawn, **texts)
        made |= {f"{folder}/figures/{one.name}.png": one.figure for one in found if one.figure}
        made |= {f"{folder}/figures/{name}.png": one.figure for name, one in drawn.items()}
    return made


def _drawable(found: Records, folder: str) -> tuple[dict[str, list[Measurement]], list[Record]]:
    """Measurements by kind and runs of a folder, of one protocol: "fast" where there is one."""
    runs = [run for name, run in found.runs.items() if str(PurePosixPath(name).parent) == folder]
    made = [m for name, m in found.measurements.items() if str(PurePosixPath(name).parents[1]) == folder]
    words = [*map(protocols.measured_protocol, made), *map(protocols.protocol, runs)]
    chosen = "fast" if "fast" in words else words[0]
    kinds: dict[str, list[Measurement]] = {}
    for m in sorted(made, key=lambda m: int(m.subject["seed"])):
        if protocols.measured_protocol(m) == chosen:
            kinds.setdefault(m.kind, []).append(m)
    return kinds, [run for run in runs if protocols.protocol(run) == chosen]


def page(template: str, records: Records, **more: Any) -> str:
    """One of the package's templates, rendered, with a line at its top that says what made it."""
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    return rendered(text, records, made=MADE, lead_claim=LEAD_CLAIM, **more).rstrip() + "\n"


def write(folder: str | Path, records: Records) -> list[Path]:
    """Remake the pages and figures of `folder`, and the RESULTS.md beside it; returns what was written.

    A page that is there and was not made by this function stays as it is. RESULTS.md and the folder's own README.md are
    remade only where they are there and the records have all that they speak of. With the repository's records the pack
    that travels in the wheel is remade, too.

    Raises
    ------
    InputError
        If the records lie in `folder` itself instead of in a folder a grid.

    Warns
    -----
    UserWarning
        Of RESULTS.md where too little was measured for it, and of figures that cannot be drawn.
    """
    folder = _checks.path(folder)
    if any("/" not in name for name in records.runs):
        raise InputError(f"{folder} holds the records of one grid; name the folder above it, {folder.resolve().parent}")
    made = {folder / name: content for name, content in files(records).items()}
    if whole := _remade(folder.resolve().parent / "RESULTS.md", "results.md", records):
        made |= whole | {folder / "figures/aalp-alp.png": lead(records)}
    made |= _remade(folder / "README.md", "records.md", records)
    written = [_written(path, content) for path, content in made.items() if _ours(path) or not path.exists()]
    return [*written, archive.pack()] if folder.resolve() == archive.RESULTS else written


def _remade(path: Path, template: str, records: Records) -> dict[Path, str]:
    """A page that was made here, by its path; nothing, with a warning, where records lack what its prose speaks of."""
    try:
        return {path: page(template, records)} if _ours(path) else {}
    except (InputError, jinja2.UndefinedError) as error:
        warnings.warn(f"{path.name} stays as it is: {error}", stacklevel=3)
        return {}


def _ours(path: Path) -> bool:
    """Whether a file is a picture, or a page that was made here."""
    return path.suffix == ".png" or (path.exists() and path.read_text(encoding="utf-8").startswith(MADE))


def _written(path: Path, content: str | Figure) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        checkpoints.write_atomically(path, content.encode())
    else:
        plots.save(content, path)
    return path
