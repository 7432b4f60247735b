"""The paper's tables with ours beside them, lists of records, and RESULTS.md."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch

from aalp_lib import _checks, checkpoints
from aalp_lib._checks import InputError
from aalp_lib.evaluation import HEADINGS, Outcome, Report, gradient_count, paper_name, suite_in_ball
from aalp_lib.methods import METHODS
from aalp_lib.reproduction import paper, schema
from aalp_lib.reproduction.beyond import about as about  # beside the tables, for chapters
from aalp_lib.reproduction.beyond import (
    attacks_table,
    diagnosis_table,
    measured_csv,
    signs_table,
    starts_table,
    strong_table,
)
from aalp_lib.reproduction.beyond import by_method as by_method
from aalp_lib.reproduction.collect import (
    ABLATIONS,
    TITLES,
    UNMEASURED,
    Cell,
    Found,
    Group,
    Which,
    changes,
    csv_text,
    differences_from,
    effort,
    grid,
    groups,
    half_features,
    is_of,
    measured_protocol,
    measured_sets,
    of_the_paper,
    protocol,
    recipe,
    signed,
    title,
)
from aalp_lib.reproduction.grids import CONTROLS
from aalp_lib.reproduction.paired import (
    ABLATED,
    DECIDING,
    ablation_table,
    compare,
    controls_table,
    headline,
    mcnemar_csv,
    mcnemar_table,
    nearest,
    order_csv,
    order_table,
)
from aalp_lib.reproduction.schema import Measurement, Record, label
from aalp_lib.train import VAL_STEPS

Form = Literal["markdown", "csv"]

RECIPES = ("fast", "paper")
TOLERANCE = 2.0  # points, on accuracies and confidences
LOSS_TOLERANCE = 0.1  # of the published loss
CONSISTENT = {"mnist": "pgd40", "svhn": "pgd10", "cifar10": "pgd10"}  # at section 4.1's training steps, or nearest
GUIDED = {"raw_gd": "raw", "adv_gd": "adv", "aalp_gd": "alp"}  # Table 3: with Guided Dropout, without
IMAGES = {  # training and validation
    "mnist": (54_000, 6_000),
    "mnist-sample": (3_600, 400),
    "svhn": (65_931, 7_326),
    "cifar10": (45_000, 5_000),
    "cifar10-jpeg": (45_000, 5_000),
}

COLUMNS = (
    *("table", "data", "row", "source", "model", "column", "paper", "ours", "low", "high", "span"),
    *("seeds", "images", "verdict"),
)
_HEADINGS = HEADINGS | {
    "mean_clean_confidence": "Clean confidence",
    "mean_adversarial_confidence": "Adversarial confidence",
    "classification_loss": "Classification loss",
    "alp_loss": "ALP loss",
    "consistent": "Consistent",
}


# --- rows and verdicts -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row of the paper and one protocol's counterpart; `ours` is empty where nothing was measured."""

    data: str
    name: str
    source: str
    published: Mapping[str, float]
    ours: Mapping[str, Cell]
    verdict: str
    paper: str = "paper"

    def count(self, of: Literal["seeds", "images"]) -> str:
        """Number of seeds or of test images, or its range where columns differ."""
        counts = sorted({getattr(cell, of) for cell in self.ours.values()})
        return "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1]))) if counts else ""


def verdict(published: Mapping[str, float], ours: Mapping[str, float]) -> str:
    """Say in words how our row stands to the paper's.

    "agrees" if in every column the two are at most 2 points apart (losses: 10 % of the published one); otherwise
    "lower", "higher" or both, with the widest difference to that side, relative to what is allowed, and its column; of
    several columns it is counted how many are that far apart, and how many were not measured.

    Examples
    --------
    >>> verdict({"clean": 99.0, "pgd40": 94.1}, {"clean": 98.9, "pgd40": 90.0})
    'lower by 4.1 at PGD-40; off in 1 of 2 columns'
    """
    shared = [name for name in published if name in ours]
    if not shared:
        return UNMEASURED
    apart = {name: (ours[name] - published[name]) / _tolerance(name, published[name]) for name in shared}
    words = []
    for word, sign in (("lower", -1), ("higher", 1)):
        widest = max(shared, key=lambda name: sign * apart[name])
        if sign * apart[widest] > 1 + 1e-9:
            words.append(f"{word} by {_points(widest, abs(ours[widest] - published[widest]))}")
    widest = max(shared, key=lambda name: abs(apart[name]))
    off = sum(abs(far) > 1 + 1e-9 for far in apart.values())
    if off and len(shared) > 1:
        words.append(f"off in {off} of {len(shared)} columns")
    words = words or [f"agrees; widest {_points(widest, ours[widest] - published[widest], '+')}"]
    if len(shared) < len(published):
        words.append(f"{len(published) - len(shared)} columns not measured")
    return "; ".join(words)


def _tolerance(name: str, published: float) -> float:
    return LOSS_TOLERANCE * published if name.endswith("_loss") else TOLERANCE


def _points(name: str, difference: float, sign: str = "") -> str:
    at_the_limit = round(abs(difference), 1) == TOLERANCE  # where one decimal does not say on which side
    digits = 2 if name.endswith("_loss") or at_the_limit else 1
    return f"{round(difference, digits) + 0.0:{sign}.{digits}f} at {_HEADINGS.get(name, name)}"  # never -0.0


def _rows(
    name: str, published: Mapping[str, float], found: Sequence[Group], which: str, data: str, measured: bool
) -> list[Row]:
    """A row for each protocol, or one that says that there is none."""
    if not found:
        return [] if measured else [Row(data, name, "ours", published, {}, UNMEASURED)]
    rows = []
    for group in found:
        ours = group.cells(published, which)
        said = verdict(published, {column: cell.value for column, cell in ours.items()})
        rows.append(Row(group.data, name, _source(group.data, group.protocol), published, ours, said))
    return rows


def _source(data: str, words: str) -> str:
    return f"ours, {title(data)}, {words}" if data.endswith("-jpeg") else f"ours, {words}"


# --- the paper's tables, ours beside them ----------------------------------------------------------------------------


def table_1(found: Found, data: str, which: Which = "last", measured: bool = False) -> list[Row]:
    """Consistent and inconsistent samples of ALP's model: confidences in percent, losses in nats.

    Of measurements on the networks of the records alone: what was measured on a network that another took the place
    of, or that has no record, is in no row.

    Parameters
    ----------
    found : Found
    data : str
        A data set of the paper, or a copy of one, such as "cifar10-jpeg".
    which : "last" or "best"
    measured : bool
        Leave out the rows for which there is nothing of ours.
    """
    samples: dict[tuple[str, str], list[Measurement]] = {}
    runs = of_the_paper(found.records, data)
    trained = [record for group in runs if group.method == "alp" for record in group.records]
    for m in about(found, "samples", which):
        where = str(m.subject.get("data"))
        if any(is_of(m, record, which) for record in trained):
            samples.setdefault((where, measured_protocol(m)), []).append(m)
    rows = []
    for name, published in paper.TABLE_1[paper_name(data)].items():
        for (where, words), group in samples.items():
            ours = _sample_cells([m.values[name] for m in group if m.values[name]["count"]])
            said = verdict(published, {column: cell.value for column, cell in ours.items()})
            rows.append(Row(where, name, _source(where, words), published, ours, said))
        if not samples and not measured:
            rows.append(Row(data, name, "ours", published, {}, UNMEASURED))
    return rows


def _sample_cells(found: Sequence[Mapping[str, float]]) -> dict[str, Cell]:
    """Means over seeds; an empty set has none."""
    if not found:
        return {}
    cells, images = {}, round(mean(f["count"] for f in found))
    for name in paper.SAMPLE_COLUMNS:
        loss = name.endswith("_loss")
        values = [f[name] if loss else 100 * f[name] for f in found]
        span = (min(values), max(values)) if len(values) > 1 else (None, None)
        cells[name] = Cell(mean(values), span[0], span[1], len(values), images, 3 if loss else 1)
    return cells


def table_2(found: Found, data: str, which: Which = "last", measured: bool = False) -> list[Row]:
    """Seven methods under ten attacks; arguments as in `table_1`."""
    runs = of_the_paper(found.records, data)
    return [
        row
        for method, published in paper.TABLE_2[paper_name(data)].items()
        for row in _rows(method, published, [g for g in runs if g.method == method], which, data, measured)
    ]


def table_3(found: Found, data: str, which: Which = "last", measured: bool = False) -> list[Row]:
    """Guided Dropout with other methods; the paper's numbers are SVHN's whatever `data` is.

    On SVHN the verdict is `verdict`'s. Elsewhere levels are not compared, only what adding Guided Dropout does: its
    effect in points on the same seeds and images, column by column, ours beside the paper's, and whether it is shown
    (see `aalp_lib.reproduction.paired.standing`) to go the same way.
    """
    runs = of_the_paper(found.records, data)
    rows = [
        row
        for method, published in paper.TABLE_3.items()
        for row in _rows(method, published, [g for g in runs if g.method == method], which, data, measured)
    ]
    if data == "svhn":
        return rows
    by = {(g.data, g.method, _source(g.data, g.protocol)): g.records for g in runs}
    return [dataclasses.replace(row, verdict=_effect(row, by, which), paper="paper, SVHN") for row in rows]


def _effect(row: Row, by: Mapping[tuple[str, str, str], Sequence[Record]], which: Which) -> str:
    if not row.ours:
        return UNMEASURED
    if row.name not in GUIDED:
        return "other data: levels not compared"
    base, of = GUIDED[row.name], by[row.data, row.name, row.source]
    without = by.get((row.data, base, row.source))
    if without is None:
        return f"without it ({label(base)}) {UNMEASURED}"
    words = []
    for name in row.ours:
        ours, theirs = compare(without, of, name, which), row.published[name] - paper.TABLE_3[base][name]
        if ours:
            words.append(f"{HEADINGS[name]} {signed(ours.gain)} ({signed(theirs)}): {ours.way(theirs)}")
    if not words:
        return f"without it ({label(base)}): no seed in common"
    return f"effect of gd on the seeds with and without, ours (paper's): {'; '.join(words)}"


def table_4(found: Found, data: str, which: Which = "last", measured: bool = False) -> list[Row]:
    """Share of consistent samples, right both clean and attacked, at the steps of section 4.1's training attack.

    That is the column of `CONSISTENT`; where it has other steps, as on CIFAR-10, the share that `samples` counted on
    these networks, if on all of them.
    """
    runs, rows = of_the_paper(found.records, data), []
    column = CONSISTENT[paper_name(data)]
    for method, share in paper.TABLE_4[paper_name(data)].items():
        mine = [g for g in runs if g.method == method and g.cell(column, which)]
        for group, row in itertools.zip_longest(mine, _rows(method, {column: share}, mine, which, data, measured)):
            ours = {"consistent": row.ours[column]} if row.ours else {}
            if (
                ours
                and f"pgd{paper.SETTINGS[paper_name(data)].steps}" != column
                and (counted := _counted(found, group, which))
            ):
                said = verdict({"consistent": share}, {"consistent": counted.value}).removesuffix(" at Consistent")
                row, ours = dataclasses.replace(row, verdict=said), {"consistent": counted}
            rows.append(dataclasses.replace(row, published={"consistent": share}, ours=ours))
    return rows


def _counted(found: Found, group: Group, which: Which) -> Cell | None:
    """The share of consistent samples that was counted on a group's networks; None unless it was on all of them."""
    cells = []
    for r in group.records:
        for m in about(found, "samples", which):
            if is_of(m, r, which) and m.config.get("images"):
                right = torch.arange(m.config["images"]) < m.values["consistent"]["count"]
                cells.append(schema.accuracies(Report({"consistent": Outcome(right)}))["consistent"])
    return Cell.of(cells) if len(cells) == len(group.records) else None


TABLES: dict[int, Callable[..., list[Row]]] = {1: table_1, 2: table_2, 3: table_3, 4: table_4}
_AGREES = (
    "A row agrees if every column is within 2 points of the paper's; otherwise the widest difference is named, and "
    "counted how many columns are off."
)
_SPANS = (
    "Ours: one seed with its 95 % Wilson interval in round brackets; several as their mean with the lowest and the "
    "highest in square brackets."
)
_CAPTIONS = {
    1: "Mean softmax probability of the true class in percent and losses in nats, over the test images of each set, "
    "attacked with the steps of section 4.1's training attack, of which the last iterate counts "
    f'(of several seeds, "Images" is their mean); model trained with ALP. {_AGREES} A loss is within if it is less '
    "than 10 % off. Ours: one seed has no interval, since a cell is a mean over images and no share of them; several "
    "as their mean with the lowest and the highest in square brackets.",
    2: "Correct test images in percent. An image counts as fooled at k steps once any iterate up to k fools it. "
    f"{_AGREES} {_SPANS}",
    3: "Correct test images in percent. The paper's numbers are SVHN's; on SVHN, a row agrees if every column is "
    "within 2 points of them; elsewhere the verdict says what adding Guided Dropout does, in points, on the same "
    "seeds and images, and whether that is shown to go the paper's way. "
    f"{_SPANS}",
    4: "Test images in percent that are right both clean and attacked, at the steps of section 4.1's training attack: "
    "PGD-40 on MNIST, PGD-10 on SVHN, where an image counts as fooled once any iterate fools it; on CIFAR-10 the last "
    "of 7 steps, as in Table 1, or PGD-10 for a row of which any seed lacks that. "
    f"{_AGREES} {_SPANS}",
}
_WHICH = {"last": "model after the last epoch", "best": "model that was best on the validation split"}


def table(
    found: Found,
    number: int,
    *,
    data: str | None = None,
    which: Which = "last",
    form: Form = "markdown",
    measured: bool = False,
) -> str:
    """One of the paper's tables with ours beside it, for a data set or for all of the paper.

    Parameters
    ----------
    found : Found
    number : 1, 2, 3 or 4
    data : str, optional
        A data set of the paper, or a copy of one.
    which : "last" or "best"
        The model after the last epoch, or the best on the validation split.
    form : "markdown" or "csv"
    measured : bool
        Leave out the rows for which there is nothing of ours.

    Raises
    ------
    InputError
        If a name is unknown.
    """
    _checks.known("table form", form, ("markdown", "csv"))
    made = parts(found, number, data=data, which=which, measured=measured)
    if form == "csv":
        return _csv(number, which, itertools.chain.from_iterable(made.values()))
    shown = [f"**{title(name)}**\n\n{markdown(rows)}" for name, rows in made.items() if rows]
    return "\n".join([f"{caption(number, which)}\n", *shown])


def parts(
    found: Found, number: int, *, data: str | None = None, which: Which = "last", measured: bool = False
) -> dict[str, list[Row]]:
    """The rows of one of the paper's tables by data set; arguments, and what is raised, as for `table`."""
    _checks.known("table", str(number), map(str, TABLES))
    _checks.known("model", which, ("last", "best"))
    sets = _sets_of(number, found) if data is None else [_checks.known("data set of the paper", data, TITLES)]
    return {name: TABLES[number](found, name, which, measured) for name in sets}


def caption(number: int, which: Which = "last") -> str:
    """What stands above one of the paper's tables."""
    return f"Table {number}, {_WHICH[which]}. {_CAPTIONS[number]}"


def _sets_of(number: int, found: Found) -> list[str]:
    """The data sets that a table is made for: the paper's; for Table 3 also those on which Guided Dropout was tried."""
    if number != 3:
        return list(paper.TABLE_2)
    tried = {r.data for r in found.records if r.tier == "full" and r.method in GUIDED}
    return ["svhn", *(data for data in TITLES if data in tried and data != "svhn")]


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table, each row of the paper above ours."""
    names = list(rows[0].published)
    lines = [["Row", "Source", "Seeds", "Images", *(_HEADINGS.get(name, name) for name in names), "Verdict"]]
    before = None
    for row in rows:
        if row.name != before:
            printed = [_printed(name, row.published[name]) for name in names]
            lines.append([_row_label(row.name), row.paper, "", "", *printed, ""])
        before = row.name
        cells = [str(row.ours.get(name, "–")) for name in names]
        lines.append(["", row.source, row.count("seeds"), row.count("images"), *cells, row.verdict])
    return grid(lines)


def brief(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """`markdown` for a narrow page: some of the columns, neither seeds nor images; the verdict is still that of all."""
    lines = [["", *(_HEADINGS.get(name, name) for name in columns), "Verdict"]]
    before = None
    for row in rows:
        if row.name != before:
            lines.append(
                [f"**{_row_label(row.name)}**", *(_printed(name, row.published[name]) for name in columns), ""]
            )
        before = row.name
        lines.append([row.source, *(str(row.ours.get(name, "–")) for name in columns), row.verdict])
    return grid(lines)


def cells(rows: Sequence[Row], spans: bool = True) -> list[list[str]]:
    """`markdown` for a terminal, as cells, the head first: seeds by the source, spans below numbers or left out."""
    names = list(rows[0].published)
    heads = [re.sub("[ -]", "\n", _HEADINGS.get(name, name)) for name in names]
    lines, before = [["", *heads, "Verdict"]], None
    for row in rows:
        if row.name != before:
            printed = [_printed(name, row.published[name]) for name in names]
            lines.append([f"{_row_label(row.name)}, {row.paper}", *printed, ""])
        before = row.name
        ours = {name: cell if spans else dataclasses.replace(cell, low=None) for name, cell in row.ours.items()}
        seeds = f", {row.count('seeds')} seed" + "s" * (row.count("seeds") != "1") if ours else ""
        numbers = [str(ours.get(name, "–")).replace(" ", "\n") for name in names]
        lines.append([row.source + seeds, *numbers, row.verdict])
    return lines


def _printed(name: str, value: float) -> str:
    """A number of the paper with the decimals that it is printed with."""
    return f"{value:.{4 if name.endswith('_loss') else 2}f}"


def _row_label(name: str) -> str:
    return label(name) if name in METHODS else name.capitalize()


def _csv(number: int, which: str, rows: Iterable[Row]) -> str:
    """A line for each number: the paper's, ours, what its span is, and the verdict on its row."""
    lines: list[list[object]] = []
    for row in rows:
        for name, published in row.published.items():
            cell = row.ours.get(name)
            ours = [""] * 6
            if cell:
                span = "" if cell.low is None else "wilson95" if cell.seeds == 1 else "range"
                numbers = ["" if v is None else f"{v:.{cell.digits + 1}f}" for v in (cell.value, cell.low, cell.high)]
                ours = [*numbers, span, str(cell.seeds), str(cell.images)]
            lines.append([number, row.data, row.name, row.source, which, name, published, *ours, row.verdict])
    return csv_text(COLUMNS, lines)


# --- what was tried to explain a row ----------------------------------------------------------------------------------


TRIED = ("clean", "fgsm", *ABLATED[1:])  # columns; FGSM is where RAW's row departs


def tried_table(found: Found, data: str, which: Which = "last") -> str:
    """Full-tier runs on a data set that depart from the plain recipes in one thing or several, each beside the plain
    run that it departs from, which comes first, and beside the paper: what was tried to explain a row.

    Beside the plain run: on the same images, over the seeds that both have. Beside the paper: the mean over seeds.
    """
    runs = [r for r in (*found.records, *found.ablations) if r.tier == "full" and r.data == data]
    runs = [r for r in runs if r.method not in CONTROLS and not half_features(r)]  # those explain no row
    made = [group for group in groups(runs) if not group.records[0].config.get("reduced")]
    plain = [group for group in made if group.protocol in RECIPES and not changes(group.records[0])]
    tried = [group for group in made if group not in plain]
    if not tried:
        return f"Runs that depart from the recipe on {title(data)}: {UNMEASURED}.\n"
    lines = [["Method", "What is changed", "Seeds", *(HEADINGS[name] for name in TRIED)]]
    lines[0] += [f"Against the plain run, {HEADINGS[DECIDING]}", f"Against the paper, {HEADINGS[DECIDING]}"]
    bases = [_plain_run(group, plain) for group in tried]
    shown = [group for group in plain if any(group is base for base in bases)] + tried
    return (
        "Correct test images in percent, differences in points; p of McNemar's exact test, over several seeds of the "
        "sign-flip test.\n\n" + grid(lines + [_tried_line(group, plain, data, which) for group in shown])
    )


def _plain_run(group: Group, plain: Sequence[Group]) -> Group | None:
    return nearest(group, [other for other in plain if other.protocol == recipe(group.records[0])])


def _tried_line(group: Group, plain: Sequence[Group], data: str, which: Which) -> list[str]:
    record = group.records[0]
    base = _plain_run(group, plain)
    given = str(record.config["method"].get("label", group.method))
    words = group.protocol.split(", ")[1:]
    if base and differences_from(record, base.method):
        words.append(given.removeprefix(f"{label(base.method)}, "))
    cells = [group.cell(name, which) for name in TRIED]
    at = group.cell(DECIDING, which)
    beside = compare(base.records, group.records, DECIDING, which) if base and base is not group else None
    published = paper.TABLE_2[paper_name(data)].get(base.method if base else group.method, {}).get(DECIDING)
    differences = [str(beside or "–"), signed(at.value - published) if at and published is not None else "–"]
    name = label(base.method) if base else given
    changed, seeds = ", ".join(words) or "nothing: the plain run", str(len(group.records))
    return [name, changed, seeds, *(str(cell or "–") for cell in cells), *differences]


# --- cost ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Gradient evaluations of a run, one an image; None where the record does not say how many images there were.

    `training`: images × epochs × (attack steps + samples of an image that go through the training step).
    `evaluation`: at most; PGD-10 on the validation split after each epoch, and the test attacks on the last model and,
    where it is another, on the best. An image that is fooled is not attacked again.
    """

    training: int | None
    evaluation: int | None


def cost(record: Record) -> Cost:
    """Work out what a run took from its config."""
    epochs, steps, images, best_is_last = effort(record)
    train, val = IMAGES.get(record.data, (None, None))
    train = images or train
    if train is None or val is None:
        return Cost(None, None)
    again = 0 if best_is_last else _suite(record, "best")
    return Cost(train * epochs * steps, val * epochs * VAL_STEPS + _suite(record, "last") + again)


def _suite(record: Record, which: str) -> int:
    """Gradients of the attacks on one model, if nothing is fooled."""
    cells = record.accuracy.get(which, {})
    suite = {name: attack for name, attack in suite_in_ball(0.3, 0.3).items() if name in cells}
    return gradient_count(suite) * int(max((cell["count"] for cell in cells.values()), default=0))


def cost_table(found: Found) -> str:
    """Minutes and gradient evaluations of each training run of the full tier, and hours of all that was measured."""
    made = [r for r in (*found.records, *found.ablations) if r.tier == "full"]
    runs = [r for data in dict.fromkeys((*TITLES, *(r.data for r in made))) for r in made if r.data == data]
    if not runs:
        return f"Cost: {UNMEASURED}.\n"
    lines = [["Data", "Method", "Protocol", "Seed", "Training, min", "Evaluation, min"]]
    lines[0] += ["Gradients, training", "Gradients, evaluation (at most)", "Device"]
    for r in runs:
        spent = cost(r)
        lines.append(
            [
                title(r.data), str(r.config["method"].get("label", label(r.method))), protocol(r), str(r.seed),
                *(f"{r.seconds[part] / 60:.1f}" if part in r.seconds else "–" for part in ("training", "evaluation")),
                *(f"{n / 1e6:.1f} M" if n is not None else "not known" for n in (spent.training, spent.evaluation)),
                _device(r),
            ]
        )  # fmt: skip
    return (
        "A gradient evaluation is one forward and backward pass of one image. Evaluation counts validation and the "
        f"test attacks. Runs of several at a time took longer than they would have alone. {_hours(found)}\n\n"
        + grid(lines)
    )


def _hours(found: Found) -> str:
    """In a sentence, how long everything took."""
    runs = [*found.records, *found.ablations]
    spent = (
        ("run", "", [sum(r.seconds.values()) for r in runs if r.tier == "full"]),
        ("run", " on the bundled sample", [sum(r.seconds.values()) for r in runs if r.tier != "full"]),
        ("measurement", " on trained models", [m.seconds for m in found.measurements]),
    )
    said = [
        f"{len(of)} {what}{'s' * (len(of) > 1)}{where}, {sum(of) / 3600:.1f} hours" for what, where, of in spent if of
    ]
    made: dict[str, list[Any]] = {"run": [*runs], "measurement": [*found.measurements]}
    unsaved = [
        f"{sum(str(one.environment.get('commit', '')).endswith('+') for one in of)} of {len(of)} {what}s"
        for what, of in made.items()
        if of
    ]
    return (
        f"In all: {'; '.join(said)}. From a working tree with uncommitted changes, marked by a + behind the commit in "
        f"the record: {', '.join(unsaved)}."
    )


def _device(record: Record) -> str:
    found = record.environment
    if found.get("device") != "cpu":
        return str(found.get("device", "–"))
    return f"{found.get('processor', 'cpu')}, {found.get('threads', '?')} thread" + "s" * (found.get("threads") != 1)


# --- list, files and RESULTS.md --------------------------------------------------------------------------------------


def listing(found: Found, which: Which = "last", form: Form = "markdown") -> str:
    """A line for each training record, by data set: what was run, four accuracies in percent, minutes, device.

    "markdown" gives columns aligned with spaces and a line that counts the measurements; "csv" the records' own table.
    """
    _checks.known("table form", form, ("markdown", "csv"))
    if form == "csv":
        runs = [*found.records, *found.ablations]
        return schema.table([r for r in runs if which in r.accuracy], which=which, form="csv")
    lines = listed(found, which)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
    return f"{text}\n{counted(found)}"


def listed(found: Found, which: Which = "last") -> list[list[str]]:
    """The lines of `listing` as cells, the head first."""
    runs = [*found.records, *found.ablations]
    sets = dict.fromkeys((*TITLES, *(r.data for r in runs)))
    head = ["data", "method", "seed", "recipe", "tier", "clean", "PGD-40", "PGD-100", "CW-100", "min", "device"]
    return [head, *(_listed(record, which) for data in sets for record in runs if record.data == data)]


def counted(found: Found) -> str:
    """A line that counts the measurements of each kind; nothing where there are none."""
    kinds = [m.kind for m in found.measurements]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"measurements: {counts}\n" if kinds else ""


def _listed(record: Record, which: Which) -> list[str]:
    cells = record.accuracy.get(which, {})
    shares = [f"{100 * cells[name]['accuracy']:.1f}" if name in cells else "–" for name in ABLATED]
    name = str(record.config["method"].get("label", label(record.method)))
    minutes = f"{sum(record.seconds.values()) / 60:.1f}"
    return [record.data, name, str(record.seed), protocol(record), record.tier, *shares, minutes, _device(record)]


def files(found: Found) -> dict[str, str]:
    """Every generated table file: its path below the folder, its text."""
    made = {}
    for data in dict.fromkeys(paper_name(data) for data in measured_sets(found)):  # a copy lies with its original
        for number, rows in TABLES.items():
            tried = number != 3 or data in map(paper_name, _sets_of(3, found))
            if tried and any(row.ours for which in ("last", "best") for row in rows(found, data, which)):
                both = [table(found, number, data=data, which=which) for which in ("last", "best")]
                made[f"{data}/table{number}.md"] = "\n".join(both)
                both = [table(found, number, data=data, which=which, form="csv") for which in ("last", "best")]
                made[f"{data}/table{number}.csv"] = both[0] + both[1].split("\n", 1)[1]
        compared = {"order": order_csv(found, data), "mcnemar": mcnemar_csv(found, data)}
        for kind, text in (measured_csv(found, data) | compared).items():
            if text:
                made[f"{data}/{kind}.csv"] = text
    if found.ablations:
        made[f"{ABLATIONS}/ablations.md"] = ablation_table(found)
        made[f"{ABLATIONS}/ablations.csv"] = schema.table(
            [r for r in found.ablations if "last" in r.accuracy], form="csv"
        )
    return made


def blocks(found: Found) -> dict[str, str]:
    """Every generated part of RESULTS.md by its name."""
    return {
        "headline": headline(found),
        **{f"table2-{data}": table(found, 2, data=data) for data in paper.TABLE_2},
        **{f"table{number}": table(found, number) for number in (1, 3, 4)},
        "mcnemar": mcnemar_table(found),
        "order": order_table(found),
        "attacks": attacks_table(found),
        "starts": starts_table(found),
        "strong": strong_table(found),
        "diagnosis": diagnosis_table(found),
        "signs": signs_table(found),
        "tried": tried_table(found, "mnist"),
        "ablations": ablation_table(found),
        "controls": controls_table(found),
        "cost": cost_table(found),
    }


def refreshed(text: str, parts: Mapping[str, str]) -> str:
    """`text` with each part put between `<!-- begin NAME -->` and `<!-- end NAME -->`.

    Raises
    ------
    InputError
        If the text names a part that there is not, or begins one and does not end it.
    """
    for name in re.findall(r"<!-- begin (\S+) -->", text):
        _checks.known("generated part", name, parts)
        pattern = re.compile(rf"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
        text, count = pattern.subn(_between(parts[name]), text)
        if not count:
            raise InputError(f"the part '{name}' begins but does not end: '<!-- end {name} -->' is missing")
    return text


def _between(part: str) -> Callable[[re.Match[str]], str]:
    return lambda found: f"{found[1]}{part}{found[2]}"


def _is_record(path: Path) -> bool:
    try:
        return isinstance(schema.load(path), Record)
    except (InputError, OSError):
        return False


def write(folder: str | Path, found: Found) -> list[Path]:
    """Remake the tables of `folder`, and the generated parts of the RESULTS.md beside it; returns what was written.

    The page is that of `folder` if it says so, in a comment: `<!-- records: NAME -->` with the folder's name.

    Raises
    ------
    InputError
        If the records lie in `folder` itself instead of in a folder a grid, or the page is damaged.
    """
    folder = Path(folder)
    if any(_is_record(path) for path in folder.glob("*.json")):
        raise InputError(f"{folder} holds the records of one grid; name the folder above it, {folder.resolve().parent}")
    texts = {folder / name: text for name, text in files(found).items()}
    page = folder.resolve().parent / "RESULTS.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if f"<!-- records: {folder.resolve().name} -->" in text:
        texts[page] = refreshed(text, blocks(found))
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoints.write_atomically(path, text.encode())
    return list(texts)
