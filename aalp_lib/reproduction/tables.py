"""Tables as pandas frames: the paper's with ours beside them, accuracies and gains; and Markdown of any of them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

import pandas as pd

from aalp_lib import _checks
from aalp_lib.evaluation import paper_name
from aalp_lib.methods import METHODS
from aalp_lib.reproduction import escaping, paper, protocols
from aalp_lib.reproduction.archive import Model, Records, is_ablation
from aalp_lib.reproduction.attack_measurements import ALTERED
from aalp_lib.reproduction.comparisons import Comparison
from aalp_lib.reproduction.frames import frame as frame_of
from aalp_lib.reproduction.grids import ROWS
from aalp_lib.reproduction.schema import HEADINGS, Measurement, Record, label

TITLES = {
    "mnist": "MNIST",
    "svhn": "SVHN",
    "svhn-part": "SVHN, part",
    "cifar10": "CIFAR-10",
    "cifar10-jpeg": "CIFAR-10, JPEG",
}
TABLES = (1, 2, 3, 4)
CONSISTENT = {"mnist": "pgd40", "svhn": "pgd10", "cifar10": "pgd10"}  # at section 4.1's training steps, or nearest
COLUMNS = HEADINGS | {
    "mean_clean_confidence": "Clean confidence",
    "mean_adversarial_confidence": "Adversarial confidence",
    "classification_loss": "Classification loss",
    "alp_loss": "ALP loss",
    "consistent": "Consistent",
}
STAGES = {"apgd-ce": "APGD-CE", "apgd-t": "+ APGD-T", "fab-t": "+ FAB-T", "square": "AutoAttack"}
# to train on
IMAGES = {"mnist": 54_000, "mnist-sample": 3_600, "svhn": 65_931, "cifar10": 45_000, "cifar10-jpeg": 45_000}
SPANS = "Percent right: one seed with its 95 % Wilson interval (), several with their lowest and highest []."
CAPTIONS = {
    1: "ALP's networks: confidence in the true class in percent, losses in nats, last iterate of section 4.1's attack.",
    2: SPANS,
    3: f"{SPANS} The paper's numbers are SVHN's.",
    4: f"{SPANS} Right both clean and under PGD-40 (MNIST) or PGD-10.",
}
LISTED = ("clean", "pgd40", "pgd100", "cw100")
LITTLE = 0.1  # points


# --- words and Markdown ----------------------------------------------------------------------------------------------


def title(data: str) -> str:
    """The name of a data set in tables."""
    return TITLES.get(data, data)


def heading(attack: str) -> str:
    """The name of a column in tables; a stage of AutoAttack stands for all up to it.

    Examples
    --------
    >>> heading("pgd100"), heading("square"), heading("pgd10 longer")
    ('PGD-100', 'AutoAttack', 'PGD-10, steps three times as long')
    """
    name, _, altered = attack.partition(" ")
    said = STAGES.get(name) or COLUMNS.get(name, name)
    if altered == "start":
        return f"{said}, from {'a random start' if name == 'fgsm' else 'the image'}"
    return f"{said}, {ALTERED[altered]}" if altered in ALTERED else said


def signed(points: float) -> str:
    """A difference in points with its sign and one decimal, a true minus; what rounds to 0 has no sign.

    Examples
    --------
    >>> signed(-0.04), signed(1.25), signed(-3.0)
    ('0.0', '+1.2', '−3.0')
    """
    return "0.0" if abs(points) < 0.05 else f"{points:+.1f}".replace("-", "−")


def spanned(value: float, low: float, high: float, seeds: int, digits: int = 1) -> str:
    """A number with its 95 % interval in round brackets, or of several seeds the lowest and highest in square ones."""
    if pd.isna(value):
        return "–"
    text = f"{value:.{digits}f}"
    if pd.isna(low):
        return text
    span = f"{low:.{digits}f}–{high:.{digits}f}"
    return f"{text} ({span})" if seeds == 1 else f"{text} [{span}]"


def markdown(table: pd.DataFrame) -> str:
    """A frame as a Markdown table, without its index; numbers to the right; text from records is escaped.

    Examples
    --------
    >>> print(markdown(pd.DataFrame({"a|b": ["x"], "n": [1]})))
    | a\\|b | n |
    | --- | ---: |
    | x | 1 |
    """
    right = [not is_text(table[name]) for name in table]
    rule = ["---:" if so else "---" for so in right]
    lines = [map(escaped, table.columns), rule, *(map(escaped, row) for row in table.itertuples(index=False))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escaped(value: object) -> str:
    """Text as Markdown shows it, in one line; nothing for a missing value."""
    if value is None or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return ""
    return escaping.markdown(value)


def is_text(column: "pd.Series[Any]") -> bool:
    """Whether a column holds anything but numbers and signs."""
    return any(str(value) and str(value)[0] not in "0123456789+−-–n" for value in column.dropna())


# --- the paper's tables ----------------------------------------------------------------------------------------------


def beside_paper(
    source: Records, number: int, data: str | None = None, model: Model = "last", measured: bool = False
) -> pd.DataFrame:
    """One of the paper's tables with ours beside it, a line a number.

    Full-tier runs of the paper's own rows alone, no ablations; those on a copy or part, such as "cifar10-jpeg", stand
    beside the rows of its original, under their own name.

    Parameters
    ----------
    source : Records
    number : 1, 2, 3 or 4
    data : str, optional
        A data set of the paper or a copy of one; all of the paper's by default.
    model : "last" or "best"
        After the last epoch, or best on the validation split.
    measured : bool
        Leave out the rows for which there is nothing of ours.

    Returns
    -------
    DataFrame
        table, data, row (a method or set of samples), source ("paper" or "ours"), protocol, column, value in the
        paper's unit, low and high (of one seed the 95 % Wilson interval, of several the lowest and highest), seeds,
        images.

    Raises
    ------
    InputError
        If a name is unknown.
    """
    _checks.known("table", str(number), map(str, TABLES))
    _checks.known("model", model, ("last", "best"))
    sets = list(paper.TABLE_2) if data is None else [_checks.known("data set of the paper", data, TITLES)]
    lines: list[Line] = []
    for name in sets:
        ours = _samples(source, name, model) if number == 1 else _accuracies(source, number, name, model)
        for row, columns in _published(number, name).items():
            mine = [line for line in ours if line.row == row]
            if mine or not measured:
                lines += [Line(name, row, "paper", "", *cell) for cell in columns.items()] + mine
    made = pd.DataFrame(lines, columns=Line._fields)
    made.insert(0, "table", number)
    return made


class Line(NamedTuple):
    """A number of `beside_paper`."""

    data: str
    row: str
    source: str
    protocol: str
    column: str
    value: float
    low: float | None = None
    high: float | None = None
    seeds: int | None = None
    images: int | None = None


def _published(number: int, data: str) -> dict[str, dict[str, float]]:
    name = paper_name(data)
    shares = {method: {"consistent": share} for method, share in paper.TABLE_4[name].items()}
    tables: dict[int, Any] = {1: paper.TABLE_1[name], 2: paper.TABLE_2[name], 3: paper.TABLE_3, 4: shares}
    return dict(tables[number])


def _accuracies(source: Records, number: int, data: str, model: Model) -> list[Line]:
    runs = frame_of(source)
    runs = runs[runs["data"].map(lambda name: data in (name, paper_name(name))) & (runs["variant"] == "")]
    runs = runs[(runs["tier"] == "full") & ~runs["ablation"] & (runs["model"] == model) & (runs["suite"] == "table2")]
    if number == 4:
        runs = runs[runs["attack"] == CONSISTENT[paper_name(data)]].assign(attack="consistent")
    runs = runs[runs["attack"].isin({column for row in _published(number, data).values() for column in row})]
    return [
        Line(str(where), str(method), "ours", str(protocol), attack, *cell)
        for (where, method, protocol), group in runs.groupby(["data", "method", "protocol"], sort=False)
        for attack, cell in _cells(group)
    ]


def _cells(group: pd.DataFrame) -> list[tuple[str, tuple[float, float, float, int, int]]]:
    """Mean over seeds by attack, in percent, with its span, seeds and images."""
    made = []
    for attack, cells in group.groupby("attack", sort=False):
        values, one = 100 * cells["accuracy"], len(cells) == 1
        span = (100 * cells["low"].min(), 100 * cells["high"].max()) if one else (values.min(), values.max())
        made.append((str(attack), (values.mean(), *span, len(cells), cells["count"].min())))
    return made


def _samples(source: Records, data: str, model: Model) -> list[Line]:
    """Table 1, of ALP's networks in the records; a cell is a mean over images and has no interval of its own."""
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for name, run in source.runs.items():
        if run.method != "alp" or data not in (run.data, paper_name(run.data)) or is_ablation(name):
            continue
        if (m := source.of(run, "samples", model)) and m.tier == "full":
            for of in paper.TABLE_1[paper_name(data)]:
                if m.values[of]["count"]:
                    found.setdefault((run.data, of, protocols.protocol(run)), []).append(m.values[of])
    return [
        Line(where, name, "ours", protocol, column, *_mean_cell(cells, column))
        for (where, name, protocol), cells in found.items()
        for column in paper.SAMPLE_COLUMNS
    ]


def _mean_cell(cells: Sequence[dict[str, float]], column: str) -> tuple[Any, ...]:
    scale = 1 if column.endswith("_loss") else 100
    values = [scale * cell[column.removeprefix("mean_")] for cell in cells]
    span = (min(values), max(values)) if len(values) > 1 else (None, None)
    return mean(values), *span, len(values), round(mean(cell["count"] for cell in cells))


def shown(table: pd.DataFrame, spans: bool = True) -> pd.DataFrame:
    """`beside_paper` as a reader sees it: a line a row of the paper, ours below it, text in every cell.

    Parameters
    ----------
    table : DataFrame
        Of one data set.
    spans : bool
        Show intervals and ranges behind our numbers.
    """
    names = list(dict.fromkeys(table["column"]))
    lines = []
    for keys, cells in table.groupby(["row", "data", "source", "protocol"], sort=False):
        row, data, source, protocol = map(str, keys)
        by: dict[Any, dict[Any, Any]] = cells.set_index("column").to_dict("index")
        who = "paper" if source == "paper" else f"ours, {protocol}" + f", {title(data)}" * (data != paper_name(data))
        lines.append(
            {
                "Row": label(row) if row in METHODS else str(row).capitalize(),
                "Source": who,
                "Seeds": _counts(cells["seeds"]),
                **{heading(name): _shown(by.get(name), name, spans) for name in names},
            }
        )
    return pd.DataFrame(lines)


def by_set(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """`beside_paper` by the paper's data set, in its order; what was run on a copy stands with its original."""
    return {str(data): rows for data, rows in table.groupby(table["data"].map(paper_name), sort=False)}


def _counts(column: "pd.Series[Any]") -> str:
    counts = sorted({int(n) for n in column.dropna()})
    return "–".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))) if counts else ""


def _shown(cell: dict[Any, Any] | None, name: str, spans: bool) -> str:
    if cell is None:
        return "–"
    loss, ours = name.endswith("_loss"), cell["source"] == "ours"
    digits = (3 if loss else 1) if ours else (4 if loss else 2)
    low, high = (cell["low"], cell["high"]) if spans else (float("nan"), float("nan"))
    return spanned(cell["value"], low, high, cell["seeds"], digits)


# --- other tables ----------------------------------------------------------------------------------------------------


def accuracies(runs: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """Percent right by attack, a line for each method and protocol: mean over seeds with its span.

    Parameters
    ----------
    runs : DataFrame
        Lines of `frame` of one model ("last" or "best") and, where attacks share a name, of one suite.
    columns : iterable of str
        Attacks, in order; one that nothing of `runs` has is left out.
    """
    lines = []
    for (method, protocol), group in runs.groupby(["label", "protocol"], sort=False):
        cells = {attack: spanned(*cell[:4]) for attack, cell in _cells(group)}
        head = {"Method": method, "Protocol": protocol, "Seeds": group["seed"].nunique()}
        lines.append(head | {heading(a): cells.get(a, "–") for a in columns})
    table = pd.DataFrame(lines)
    return table.loc[:, [name for name in table if not (table[name] == "–").all()]]


def measurements(
    source: Records, kind: str, *, data: str | None = None, method: str | None = None
) -> list[Measurement]:
    """`Records.kind`, of the recipe "fast" alone, and of one data set or method where they are named."""
    return [
        m
        for m in source.kind(kind)
        if data in (None, m.subject["data"])
        and method in (None, m.subject["method"])
        and protocols.measured_protocol(m) == "fast"
    ]


def moved(runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """What each change of the attacks moves, in points: a line for each method and change, mean over networks.

    A change that moves no column by more than `LITTLE` has no line.

    Parameters
    ----------
    runs : DataFrame
        Lines of `frame` of the suite "attacks".
    columns : sequence of str
    """
    means = runs.pivot_table(index=["label", "run"], columns="attack", values="accuracy", sort=False)
    lines = []
    for name, of in means.groupby("label", sort=False):
        for word, what in ALTERED.items():
            cells = {c: of[f"{c} {word}"] - of[c] for c in columns if f"{c} {word}" in of}
            said = {heading(c): signed(100 * cells[c].mean()) if c in cells else "–" for c in columns}
            if any(100 * abs(cell.mean()) > LITTLE for cell in cells.values()):
                lines.append({"Method": name, "Networks": len(of), "What is changed": what} | said)
    return pd.DataFrame(lines)


SIGNS = {  # place in the values of a diagnosis -> column, digits, factor
    "restarts.1": ("1 start", 1, 100),
    "restarts.20": ("20 starts", 1, 100),
    "fgsm.accuracy": ("FGSM", 1, 100),
    "margin.accuracy": ("CW", 1, 100),
    "black_box.transfer.accuracy": ("Transfer", 1, 100),
    "black_box.square.accuracy": ("Square", 1, 100),
    "black_box.square.only": ("Square alone, images", 0, 1),
    "zero_gradients.attacked": ("Gradient 0", 1, 100),
    "logits.largest": ("Largest logit", 1, 1),
}


def signs(source: Records, data: str) -> pd.DataFrame:
    """What `diagnose` found on a data set's networks, recipe "fast": a line a row of the paper, means over seeds."""
    found = [m for m in measurements(source, "diagnosis", data=data) if m.subject["method"] in METHODS]
    if not found:
        return pd.DataFrame()
    restarts = [{f"{row['restarts']}": row["accuracy"] for row in m.values["restarts"]} for m in found]
    flat = pd.json_normalize([m.values | {"restarts": of} for m, of in zip(found, restarts, strict=True)])
    by = flat.reindex(columns=["signs", *SIGNS]).groupby([label(m.subject["method"]) for m in found], sort=False)
    made = by.size().rename("Networks").to_frame()
    for place, (name, digits, scale) in SIGNS.items():
        each = [scale * of[place].dropna() for _, of in by]
        made[name] = [f"{mean(values):.{digits}f}" if len(values) else "–" for values in each]
    made["With a sign"] = by["signs"].agg(lambda of: str(of.map(bool).sum()))
    return made.rename_axis("Method").reset_index()


def runs(source: Records, model: Model = "last") -> pd.DataFrame:
    """A line for each training run: what it was, four accuracies in percent, minutes and device."""
    order = [*TITLES]
    lines: list[dict[str, Any]] = []
    for run in sorted(source.runs.values(), key=lambda run: order.index(run.data) if run.data in order else len(order)):
        cells = run.accuracy.get(model, {})
        shares = {c: 100 * cells[c]["accuracy"] if c in cells else float("nan") for c in LISTED}
        lines.append(
            {
                "data": run.data, "method": str(run.config["method"].get("label", label(run.method))),
                "seed": run.seed, "protocol": protocols.protocol(run), "tier": run.tier,
                **{heading(name): round(value, 1) for name, value in shares.items()},
                "minutes": round(sum(run.seconds.values()) / 60, 1), "device": _device(run.environment),
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


def counted(source: Records) -> str:
    """A line that counts the measurements of each kind."""
    kinds = Counter(m.kind for m in source.measurements.values())
    return "measurements: " + (", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none")


def _device(found: Mapping[str, Any]) -> str:
    """The GPU of an environment, or the processor with its threads."""
    if found.get("device") != "cpu":
        return str(found.get("device", "–"))
    return f"{found.get('processor', 'cpu')}, {found.get('threads', '?')} thread" + "s" * (found.get("threads") != 1)


# --- cost ------------------------------------------------------------------------------------------------------------


def cost(run: Record) -> int | None:
    """Gradient evaluations of a run's training, one an image; None where images or method are not known.

    Images × epochs × (attack steps + samples of an image that go through the training step).
    """
    row, attack = ROWS.get(run.method), run.config["attack"] or {"steps": 0, "restarts": 1}
    if row is None or run.data not in IMAGES:
        return None
    images = run.config.get("train_images") or IMAGES[run.data]
    return int(images * run.config["recipe"]["epochs"] * row.gradient_count(attack["steps"] * attack["restarts"]))


def costs(source: Records) -> pd.DataFrame:
    """Minutes and millions of gradients by data set, method and protocol, full tier: means over runs."""
    lines = []
    for name, run in source.runs.items():
        if run.tier == "full" and (spent := cost(run)) and not is_ablation(name):
            lines.append(
                {
                    "Data": title(run.data), "Method": label(run.method), "Protocol": protocols.protocol(run),
                    "Training, min": run.seconds.get("training", 0) / 60,
                    "Evaluation, min": run.seconds.get("evaluation", 0) / 60,
                    "Gradients, training (M)": spent / 1e6,
                }
            )  # fmt: skip
    if not lines:
        return pd.DataFrame()
    of = pd.DataFrame(lines).groupby(["Data", "Method", "Protocol"], sort=False)
    return of.size().rename("Runs").to_frame().join(of.mean().round(1)).reset_index()


# --- comparisons -----------------------------------------------------------------------------------------------------


def bracketed(one: Comparison) -> str:
    """The 95 % t interval of a comparison; empty for one seed."""
    return "" if len(one.seeds) < 2 else f"[{signed(one.low)}, {signed(one.high)}]"


def estimate(one: Comparison) -> str:
    """The mean gain with its interval: "−0.2 [−0.6, +0.3]"."""
    return f"{signed(one.mean)} {bracketed(one)}".strip()


def shown_p(value: float | None) -> str:
    """A p value in three decimals, or as a power of ten below 0.001; empty where there is none."""
    if value is None or pd.isna(value):
        return ""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def paper_gain(one: Comparison, rows: Mapping[str, Mapping[str, float]] | None = None) -> float:
    """The paper's gain in points between the rows that two methods are or come from, NaN where it has none.

    Of Table 2 on the same data, or of other `rows` of the paper.
    """
    rows = paper.TABLE_2.get(paper_name(one.data), {}) if rows is None else rows
    first, second = (name.removesuffix("_averaged") for name in (one.first, one.second))
    cells = [rows.get(name, {}).get(one.attack) for name in (first, second)]
    other = one.first_protocol not in ("", one.protocol)
    return float("nan") if None in cells or first == second or other else cells[1] - cells[0]  # type: ignore[operator]


def gains(
    family: Sequence[Comparison],
    labels: Mapping[str, str] | None = None,
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """A family of comparisons, a line each, as `figures.forest` draws it and `readable` prints it.

    Parameters
    ----------
    family : sequence of Comparison
        As `comparisons.judged` gives it.
    labels : mapping, optional
        Method -> its name in tables, for those that `METHODS` lacks.
    published : mapping, optional
        Rows of the paper to stand beside, by default those of Table 2 on the same data.

    Returns
    -------
    DataFrame
        panel (data set), step ("ALP → AALP"), attack, gain, low, high, gains, paper, seeds, images, p (Holm's), mcnemar
        (McNemar's p of two networks), word.
    """  # fmt: skip
    names = {name: label(name) for name in METHODS} | dict(labels or {})
    lines = [
        {
            "panel": title(one.data),
            "step": f"{_named(names, one.first, one.first_protocol)} → {_named(names, one.second, one.protocol)}",
            "attack": heading(one.attack), "gain": one.mean, "low": one.low, "high": one.high, "gains": one.gains,
            "paper": paper_gain(one, published), "seeds": len(one.seeds), "images": one.images, "p": one.p_holm,
            "mcnemar": one.p_images, "word": one.verdict,
        }
        for one in family
    ]  # fmt: skip
    return pd.DataFrame(lines)


def _named(names: Mapping[str, str], method: str, protocol: str) -> str:
    """A method, and what its protocol has beside the recipe."""
    return ", ".join([names.get(method, method), *protocol.split(", ", 1)[1:]])


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """`gains` as text: a column that says nothing, or the same in every line, is left out."""
    intervals = zip(table["low"], table["high"], strict=True)
    said: dict[str, Any] = {
        "Data": table["panel"],
        "Step": table["step"],
        "Attack": table["attack"],
        "Paper": table["paper"].map(lambda value: "–" if pd.isna(value) else signed(value)),
        "Ours": table["gain"].map(signed),
        "95 % interval": [f"[{signed(a)}, {signed(b)}]" if pd.notna(a) else "–" for a, b in intervals],
        "Seeds": table["seeds"],
        "Images": table["images"],
        "p, Holm": table["p"].map(shown_p),
        "p, McNemar": table["mcnemar"].map(shown_p),
        "Verdict": table["word"],
    }
    texts = ("Paper", "95 % interval", "p, Holm", "p, McNemar")
    empty = [name for name in texts if not any(text.strip("–") for text in said[name])]
    alike = [name for name in ("Data", "Step", "Attack", "Images") if said[name].nunique() == 1]
    return pd.DataFrame(said).drop(columns=[*alike, *empty])
