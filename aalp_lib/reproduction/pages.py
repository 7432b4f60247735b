"""The tables of the pages in `results/`, each with what it is called, what it says and its forest plot."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from aalp_lib.reproduction import comparisons, figures, paper, tables
from aalp_lib.reproduction.archive import Records
from aalp_lib.reproduction.comparisons import AUTOATTACK, LEAD, WEAKER, Family, compare, judged
from aalp_lib.reproduction.frames import frame as frame_of

ABOUT = {
    "mnist": "LeNet, ε = 0.3. Ten steps of 0.01 move at most 0.1 in that ball: PGD-10 and CW-10 flatter all networks.",
    "cifar10-jpeg": "ResNet-32, ε = 8/255, thirty epochs, on images that had been saved as JPEG.",
    "ablations": "Runs that differ from a row of the paper in the method or a setting, on the same seeds and images.",
}
STRONG = ("clean", "pgd100x20", "cw100x20", "apgd-ce", "apgd-t", "fab-t", AUTOATTACK)
IMAGE = ", attacks from the image"
STARTED = ("pgd100 start", "cw100 start")  # at the image instead of at a random point
LEADS = (LEAD, WEAKER, STARTED)  # families of AALP against ALP
MOVED = ("fgsm", "pgd10", "pgd20", "pgd40", "pgd100", "cw10", "cw100")
ABLATED = ("clean", "pgd40", "pgd100", "cw100", AUTOATTACK)
GUIDED = {"raw_gd": "raw", "adv_gd": "adv", "aalp_gd": "alp"}  # Table 3: with Guided Dropout, without
READINGS = {"": "", "weight 0.1": ", pairing averaged over classes"}  # of the pairing loss, by `variant`
ORDERS = (
    ("The order of the methods", "order", comparisons.STEPS),
    ("ALP and AALP's halves", "halves", comparisons.HALVES),
    ("Against Madry", "madry", comparisons.OVER_MADRY),
)
GAINS = "Gains in points on the same test images, seed by seed: mean, 95 % t interval, p after Holm's correction over"


@dataclass(frozen=True)
class Section:
    """A table of a page, what it is called and says, and the figure that goes before it with its claim.

    Comparisons have a `name`, and `gains`, the numbers of the table as `tables.gains` makes them.
    """

    heading: str
    caption: str
    table: pd.DataFrame
    name: str = ""
    draw: Callable[[], Figure] | None = None
    claim: str = ""
    gains: pd.DataFrame | None = None

    @functools.cached_property
    def figure(self) -> Figure | None:
        """The figure, drawn when it is first asked for."""
        return figures.closed(self.draw()) if self.draw else None

    @property
    def markdown(self) -> str:
        """The table in Markdown."""
        return tables.markdown(self.table)


def sections(records: Records, data: str) -> Iterator[Section]:
    """The tables of a data set's page: gains first, then the paper's tables, then what the paper does not ask."""
    frame = frame_of(records)
    frame = frame[(frame["data"] == data) & (frame["tier"] == "full")]
    yield from _compared(frame)
    for number in tables.TABLES if data in tables.TITLES else ():  # what the paper has, or a copy of it
        made = tables.beside_paper(records, number, data, measured=True)
        if not made.empty:
            yield Section(f"Table {number}", tables.CAPTIONS[number], tables.shown(made))
    plain = frame[~frame["ablation"] & (frame["model"] == "last")]
    if (strong := plain[plain["suite"] == "strong"]).size:
        caption = f"{tables.SPANS} First 1,000 test images; the stages of AutoAttack build on each other."
        yield Section("Stronger attacks", caption, tables.accuracies(strong, STRONG))
    if (altered := plain[(plain["suite"] == "attacks") & (plain["protocol"] == "fast")]).size:
        caption = "What one change of the attacks moves, in points, mean over networks, first 1,000 test images."
        yield Section("The attacks set otherwise", caption, tables.moved(altered, MOVED))
    if (signs := tables.signs(records, data)).size:
        caption = "Percent right of the first 1,000 test images, PGD-100 but for the names; means over networks."
        yield Section("Signs of gradient masking", caption, signs)


def _compared(frame: pd.DataFrame) -> Iterator[Section]:
    lead = comparisons.lead
    for words, name, attacks in (("", "", LEAD), (", weaker attacks", "-weaker", WEAKER), (IMAGE, "-start", STARTED)):
        yield from _families(f"AALP against ALP{words}", f"aalp-alp{name}", [lead(frame, attacks)], frame, "attack")
    paper_recipe = lead(frame, (*LEAD, *WEAKER), "paper")
    yield from _families("AALP against ALP, recipe paper", "aalp-alp-paper", [paper_recipe], frame, "attack")
    for (heading, name, steps), variant in itertools.product(ORDERS, READINGS):
        families = [of for key, of in comparisons.order(frame, steps).items() if key[1:3] == ("fast", variant)]
        name += "-averaged" * bool(variant)
        yield from _families(f"{heading}{READINGS[variant]}", name, families, frame)
    guided = _guided(frame)
    yield from _families("Guided Dropout added, the paper's on SVHN", "guided", guided, frame, published=paper.TABLE_3)


def ablation_sections(records: Records, data: str) -> Iterator[Section]:
    """The tables of a page of ablations: controls, variants of a method, and other settings."""
    frame = frame_of(records)
    frame = frame[frame["data"] == data]
    yield from _families("Controls", "controls", comparisons.controls(frame, data).values(), frame)
    yield from _families("Variants against their row", "variants", [comparisons.ablations(frame, data)], frame)
    yield from _families("Other settings against the plain run", "settings", [_settings(frame)], frame)
    last = frame[frame["ablation"] & (frame["model"] == "last") & (frame["suite"] != "attacks")]
    columns = last[(last["suite"] == "table2") | (last["attack"] == AUTOATTACK)]
    if columns.size:
        yield Section("Accuracies", tables.SPANS, tables.accuracies(columns, ABLATED))


def _families(
    heading: str, name: str, families: Iterable[Family], frame: pd.DataFrame, line: str = "step",
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> Iterator[Section]:  # fmt: skip
    """A section of families, one an attack or one in all, beside the paper's rows; none where all are empty."""
    families = [family for family in families if family]
    every = list(itertools.chain.from_iterable(families))
    if not every:
        return
    rows = tables.gains(every, dict(zip(frame["method"], frame["label"], strict=True)), published)
    several = rows[rows["seeds"] > 1]
    resolved = several["word"].isin(comparisons.VERDICTS[:2]).sum()
    said = f"{heading}: {resolved} of {len(several)} comparisons over seeds are resolved"
    panel = "panel" if line == "attack" else "attack"
    draw = None if several.empty else functools.partial(figures.forest, several, said, line, panel)
    caption = f"{GAINS} {'the lines of one attack' if len(families) > 1 else 'this table'}."
    yield Section(heading, caption, tables.readable(rows), f"forest-{name}", draw, said, rows)


def _guided(frame: pd.DataFrame) -> list[Family]:
    """What adding Guided Dropout does to RAW, Madry and ALP, in Table 3's columns and under AutoAttack."""
    data = frame["data"].iloc[0] if len(frame) else ""
    made = (
        (compare(frame, without, name, column, data=data) for name, without in GUIDED.items())
        for column in (*paper.TABLE_3["raw"], AUTOATTACK)
    )
    return [judged(family) for family in made]


def _settings(frame: pd.DataFrame) -> Family:
    """Rows of the paper trained in another setting, against the plain run of the same recipe at PGD-100."""
    rows = frame[frame["ablation"] & (frame["variant"] == "") & (frame["protocol"] != frame["recipe"])]
    keys = rows[["data", "method", "protocol", "recipe"]].drop_duplicates().astype(str).to_numpy().tolist()
    return judged(
        compare(frame, method, method, comparisons.DECIDING, data=data, protocol=protocol, first_protocol=recipe)
        for data, method, protocol, recipe in keys
    )
