"""Figures of records and of the bench, each a function that returns a matplotlib figure."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aalp_lib.plots import COLOURS, MARKERS
from aalp_lib.reproduction.schema import HEADINGS, Record, label

SPEED_STYLES = {
    "torchattacks": ("#7f7f7f", "o"),
    "aalp_lib, float32": ("#56B4E9", "s"),
    "aalp_lib, bfloat16": ("#D55E00", "^"),
}


def robust_accuracy(records: Sequence[Record], which: str = "last") -> Figure:
    """Accuracy with its 95 % interval by method and attack, one marker a record.

    The axis is broken where more than 20 points lie empty between the records.
    """
    names = list(dict.fromkeys(name for record in records for name in record.accuracy[which]))
    found = [[record.accuracy[which].get(name) for name in names] for record in records]
    parts = _occupied([100 * f[end] for row in found for f in row if f for end in ("low", "high")])
    figure, panels = plt.subplots(
        len(parts), 1, figsize=(9, 5), sharex=True, squeeze=False, layout="constrained",
        height_ratios=[3, 2][: len(parts)],
    )  # fmt: skip
    for panel, limits in zip(panels[:, 0], parts, strict=True):
        for index, (record, row) in enumerate(zip(records, found, strict=True)):
            offset = (index - (len(records) - 1) / 2) * 0.8 / len(records)
            style: dict[str, Any] = {"fmt": MARKERS.get(record.method, "o"), "color": COLOURS.get(record.method)}
            _intervals(
                panel, [i + offset for i, f in enumerate(row) if f], [f for f in row if f], markersize=5, elinewidth=1,
                label=label(record.method), **style,
            )  # fmt: skip
        for boundary in range(1, len(names)):
            panel.axvline(boundary - 0.5, color="0.9", linewidth=0.8, zorder=0)
        panel.set(ylim=limits, xlim=(-0.5, len(names) - 0.5))
        panel.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    panels[-1, 0].set_xticks(range(len(names)), [HEADINGS.get(name, name) for name in names])
    figure.supylabel("correct test images (%)", fontsize=10)
    figure.suptitle("Accuracy by method and attack, 95 % intervals", fontsize=11)
    legend(figure, panels[0, 0])
    return figure


def _occupied(values: Sequence[float]) -> list[tuple[float, float]]:
    """Ranges of the axis that cover the values, the upper one first: one range, or two around the widest gap."""
    ordered = sorted(values)
    gap, lower, upper = max(((b - a, a, b) for a, b in itertools.pairwise(ordered)), default=(0, 0, 0))
    if gap <= 20:
        return [(ordered[0] - 3, ordered[-1] + 3)]
    return [(upper - 3, ordered[-1] + 3), (ordered[0] - 3, lower + 3)]


def _intervals(
    axes: Axes,
    places: Sequence[float],
    found: Sequence[Mapping[str, float]],
    scale: float = 100,
    middle: str = "accuracy",
    **style: Any,
) -> None:
    """A marker at each place, with the interval from "low" to "high"."""
    values = scale * np.array([[one[key] for key in (middle, "low", "high")] for one in found]).T
    spans = np.clip([values[0] - values[1], values[2] - values[0]], 0, None)
    axes.errorbar(places, values[0], yerr=spans, **style)


def training_curves(records: Sequence[Record]) -> Figure:
    """Classification loss, clean and robust validation accuracy against epochs, one line a record."""
    panels = (
        ("classification", 1, "classification loss (nats)"),
        ("clean", 100, "validation, clean (%)"),
        ("robust", 100, "validation, 10 steps of ε / 4 (%)"),
    )
    longest = max(len(record.history["epochs"]) for record in records)
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 3.8), layout="constrained")
    for panel, (name, scale, title) in zip(axes, panels, strict=True):
        for record in records:
            lines = [line for line in record.history["epochs"] if line[name] is not None]
            panel.plot(
                [line["epoch"] for line in lines],
                [scale * line[name] for line in lines],
                color=COLOURS.get(record.method),
                marker="." if longest < 30 else None,
                label=label(record.method),
            )
        panel.set(xlabel="epoch", ylabel=title, xlim=(0.5, longest + 0.5))
        whole(panel)
    axes[0].set_yscale("log")
    figure.suptitle("Losses and accuracies on the validation split by epoch", fontsize=11)
    legend(figure, axes[0])
    return figure


def speed(bench: dict[str, Any]) -> Figure:
    """Time of PGD on LeNet against steps, batch and threads, from what `bench.run` returns; medians and extremes."""
    titles = {"steps": "steps (batch 128)", "batch": "images a batch (10 steps)", "threads": "threads (batch 256)"}
    figure, axes = plt.subplots(1, len(titles), figsize=(11, 3.8), layout="constrained")
    for panel, (curve, title) in zip(axes, titles.items(), strict=True):
        points = bench["curves"][curve]
        for name, (colour, marker) in SPEED_STYLES.items():
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "label": name}
            _intervals(panel, [p["at"] for p in points], [p["seconds"][name] for p in points], 1e3, "median", **style)
        panel.set(xlabel=title, ylabel="milliseconds", ylim=(0, None))
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        panel.grid(color="0.92")
    figure.suptitle("The time of an attack grows in proportion to steps and images", fontsize=11)
    legend(figure, axes[0])
    return figure


def whole(panel: Axes) -> None:
    """A grid, and whole numbers below."""
    panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    panel.grid(color="0.92")


def legend(figure: Figure, axes: Axes) -> None:
    """One legend for all panels, of what `axes` names, below them."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 7), frameon=False)
