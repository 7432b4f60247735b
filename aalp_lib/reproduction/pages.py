"""The tables of the pages in `results/`, each with what it is called, what it says and its forest plot."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from aalp_lib.reproduction import comparisons, figures, paper, tables
from aalp_lib.reproduction.archive import Records
from aalp_lib.reproduction.claims import source
from aalp_lib.reproduction.comparisons import AUTOATTACK, Comparison, compare, judged

STRONG = ("clean", "pgd100x20", "cw100x20", "apgd-ce", "apgd-t", "fab-t", AUTOATTACK)
MOVED = ("fgsm", "pgd10", "pgd20", "pgd40", "pgd100", "cw10", "cw100")
ABLATED = ("clean", "pgd40", "pgd100", "cw100", AUTOATTACK)
GUIDED = {"raw_gd": "raw", "adv_gd": "adv", "aalp_gd": "alp"}  # Table 3: with Guided Dropout, without
READINGS = {"": "", "weight 0.1": ", pairing averaged over classes"}  # of the pairing loss, by `variant`


@dataclass(frozen=True)
class Section:
    """A table of a page, what it is called and says, and the figure that goes before it."""

    heading: str
    caption: str
    table: pd.DataFrame
    name: str = ""
    figure: Figure | None = None
    claim: str = ""

    @property
    def markdown(self) -> str:
        """The table in Markdown."""
        return tables.markdown(self.table)


ABOUT = {
    "mnist": "LeNet, ε = 0.3. Ten steps of 0.01 move at most 0.1 in that ball: PGD-10 and CW-10 flatter all networks.",
    "cifar10-jpeg": "ResNet-32, ε = 8/255, thirty epochs, on images that had been saved as JPEG.",
    "ablations": "Runs that differ from a row of the paper in the method or a setting, on the same seeds and images.",
}
GAINS = (
    "Gains in points on the same test images, seed by seed: mean, 95 % t interval, p after Holm's correction over this "
    "table."
)


def sections(records: Records | None, data: str) -> Iterator[Section]:
    """The tables of a data set's page: gains first, then the paper's tables, then what the paper does not ask."""
    of = source(records)
    frame = of.frame[(of.frame["data"] == data) & (of.frame["tier"] == "full")]
    for protocol in ("fast", "paper"):
        if family := comparisons.lead(frame, protocol):
            name = "forest-aalp-alp" + "-paper" * (protocol == "paper")
            yield _family("AALP against ALP" + ", recipe paper" * (protocol == "paper"), GAINS, name, family, frame)
    for (_, protocol, variant), family in comparisons.order(frame).items():
        if protocol == "fast":
            heading = f"The order of the methods{READINGS.get(variant, f', {variant}')}"
            name = "forest-order-averaged" if variant else "forest-order"
            yield _family(heading, GAINS, name, family, frame, "step", "attack")
    if family := _guided(frame):
        caption = f"{GAINS} The paper's gains are those of its Table 3, on SVHN."
        yield _family("Guided Dropout added", caption, "forest-guided", family, frame, "step", "attack", paper.TABLE_3)
    for number in tables.TABLES:
        made = tables.beside_paper(of.records, number, data, measured=True)
        if not made.empty:
            yield Section(f"Table {number}", tables.CAPTIONS[number], tables.shown(made))
    plain = frame[~frame["ablation"] & (frame["model"] == "last")]
    if (strong := plain[plain["suite"] == "strong"]).size:
        caption = f"{tables.SPANS} First 1,000 test images; the stages of AutoAttack build on each other."
        yield Section("Stronger attacks", caption, tables.accuracies(strong, STRONG))
    if (altered := plain[(plain["suite"] == "attacks") & (plain["protocol"] == "fast")]).size:
        caption = "What one change of the attacks moves, in points, mean over networks, first 1,000 test images."
        yield Section("The attacks set otherwise", caption, tables.moved(altered, MOVED))
    if (signs := tables.signs(of.records, data)).size:
        caption = "Percent right of the first 1,000 test images, PGD-100 but for the names; means over networks."
        yield Section("Signs of gradient masking", caption, signs)


def ablation_sections(records: Records | None, data: str) -> Iterator[Section]:
    """The tables of a page of ablations: controls, variants of a method, and other settings."""
    of = source(records)
    frame = of.frame[of.frame["data"] == data]
    if family := comparisons.controls(frame, data):
        yield _family("Controls", GAINS, "forest-controls", family, frame, "step", "attack")
    if family := comparisons.ablations(frame, data):
        yield _family("Variants against their row", GAINS, "forest-variants", family, frame, "step", "attack")
    if family := _settings(frame):
        yield _family("Other settings against the plain run", GAINS, "forest-settings", family, frame, "step", "attack")
    last = frame[frame["ablation"] & (frame["model"] == "last") & (frame["suite"] != "attacks")]
    columns = last[(last["suite"] == "table2") | (last["attack"] == AUTOATTACK)]
    if columns.size:
        yield Section("Accuracies", tables.SPANS, tables.accuracies(columns, ABLATED))


def _family(
    heading: str, caption: str, name: str, family: Sequence[Comparison], frame: pd.DataFrame, line: str = "attack",
    panel: str = "panel", published: Mapping[str, Mapping[str, float]] | None = None,
) -> Section:  # fmt: skip
    rows = tables.gains(family, dict(zip(frame["method"], frame["label"], strict=True)), published)
    several = rows[rows["seeds"] > 1]
    resolved = several["word"].isin(("ahead", "behind")).sum()
    said = f"{heading}: {resolved} of {len(several)} comparisons over seeds are resolved"
    figure = None if several.empty else figures.closed(figures.forest(several, said, line, panel))
    return Section(heading, caption, tables.readable(rows), name, figure, said)


def _guided(frame: pd.DataFrame) -> list[Comparison]:
    """What adding Guided Dropout does to RAW, Madry and ALP, in Table 3's columns and under AutoAttack."""
    columns = (*paper.TABLE_3["raw"], AUTOATTACK)
    data = frame["data"].iloc[0] if len(frame) else ""
    made = (compare(frame, of, name, column, data=data) for name, of in GUIDED.items() for column in columns)
    return judged(one for one in made if one)


def _settings(frame: pd.DataFrame) -> list[Comparison]:
    """Rows of the paper trained in another setting, against the plain run of the same recipe at PGD-100."""
    rows = frame[frame["ablation"] & (frame["variant"] == "")].drop_duplicates(["method", "protocol"])
    made = (
        compare(
            frame, of["method"], of["method"], comparisons.DECIDING, data=of["data"], protocol=of["protocol"],
            first_protocol=of["recipe"],
        )
        for of in rows.to_dict("records")
        if of["protocol"] != of["recipe"]
    )  # fmt: skip
    return judged(one for one in made if one)
