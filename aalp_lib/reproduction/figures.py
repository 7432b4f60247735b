"""The paper's figures, and the forest plot that goes before every table of comparisons."""

import math
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from aalp_lib.methods import METHODS, TABLE_2
from aalp_lib.plots import COLOURS, MARKERS, RIGHT, WRONG
from aalp_lib.reproduction import escaping
from aalp_lib.reproduction.analyses import SETS, concentration, unpack
from aalp_lib.reproduction.grids import ALPHAS
from aalp_lib.reproduction.plots_of_records import legend, whole
from aalp_lib.reproduction.schema import HEADINGS, Measurement, Record, label

SET_COLOURS = dict(zip(SETS, (RIGHT, WRONG), strict=True))
WORD_COLOURS = {"ahead": RIGHT, "behind": WRONG}  # what is neither is grey
IMAGES = ("clean", "adversarial")
EQUATIONS = {"loss_gradient": "Eq. 5, mean |∂L/∂A|", "scores": "Eq. 7, mean |∂L/∂A · A|"}


# --- comparisons -----------------------------------------------------------------------------------------------------


def forest(
    rows: pd.DataFrame, title: str, line: str = "attack", panel_of: str = "panel", columns: int | None = None
) -> Figure:
    """Gains with their intervals over seeds, a line each, beside the paper's.

    Parameters
    ----------
    rows : DataFrame
        As `tables.gains` makes it; a gain may be NaN where nothing was measured, its `word` then says why.
    title : str
        The claim that the lines support.
    line, panel_of : str
        The columns that name a line and the panel in which it stands.
    columns : int, optional
        Panels side by side; by default all.
    """
    names, lines = (list(dict.fromkeys(rows[column])) for column in (panel_of, line))
    wide = columns or len(names)
    high = math.ceil(len(names) / wide)
    size = (3.1 * wide + 0.6 + 0.075 * max(map(len, lines)), (0.42 * len(lines) + 0.9) * high + 0.9)
    figure, axes = plt.subplots(high, wide, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for panel in axes.flat[len(names) :]:
        panel.remove()
    for panel, name in zip(axes.flat, names, strict=False):
        panel.axvline(0, color="0.3", linewidth=1)
        of = rows[rows[panel_of] == name]
        ends = of[["gain", "low", "high", "paper"]].astype(float).abs().stack().dropna()
        reach = 1.1 * min(ends.max(), 6 * ends.median()) or 1.0  # one that lies far out must not squeeze the rest
        for row in of.to_dict("records"):
            _gain(panel, row, lines.index(row[line]), reach)
        panel.set(title=escaping.figure(name), xlabel="points", ylim=(len(lines) - 0.5, -0.5))
        panel.set_yticks(range(len(lines)), map(escaping.figure, lines))
        panel.grid(axis="x", color="0.92")
        panel.set_axisbelow(True)
        panel.set_xlim(-reach, reach)
    keys = max(1, min(6, int(size[0] / 1.8)))  # that fit beside one another
    figure.legend(handles=_keys(rows), loc="outside lower center", ncols=keys, frameon=False, fontsize=8)
    figure.suptitle(_filled(title, size), fontsize=11)
    return figure


def _keys(rows: pd.DataFrame) -> list[Line2D]:
    keys = [Line2D([], [], color="0.4", marker="o", label="mean, 95 % interval over seeds")]
    keys.append(Line2D([], [], color="0.4", marker="|", linestyle="", label="each seed"))
    if rows["paper"].notna().any():
        keys.append(Line2D([], [], color="0.15", marker="D", linestyle="", mfc="white", label="paper"))
    for word, colour in WORD_COLOURS.items():
        if (rows["word"] == word).any():
            keys.append(Line2D([], [], color=colour, marker="o", label=word))
    return keys


def _gain(panel: Axes, row: Mapping[str, Any], place: int, reach: float) -> None:
    if pd.notna(row.get("paper")) and abs(row["paper"]) < reach:
        panel.plot(row["paper"], place, "D", color="0.15", markerfacecolor="white", markersize=6, zorder=2)
    elif pd.notna(row.get("paper")):
        _at_edge(panel, row["paper"], place, reach, "0.15", "paper ")
    if pd.isna(row["gain"]):
        where = ("axes fraction", "data")
        panel.annotate(row["word"], (0.03, place), xycoords=where, ha="left", va="center", fontsize=8, color="0.4")
        return
    colour = WORD_COLOURS.get(row["word"], "0.4")
    if abs(row["gain"]) > reach:
        _at_edge(panel, row["gain"], place, reach, colour)
        return
    panel.plot(row["gains"], [place + 0.22] * len(row["gains"]), "|", color=colour, markersize=6)
    if pd.notna(row["low"]):
        panel.plot((row["low"], row["high"]), (place, place), color=colour, linewidth=2, solid_capstyle="butt")
    panel.plot(row["gain"], place, "o", color=colour, markersize=7, zorder=3)


def _at_edge(panel: Axes, value: float, place: float, reach: float, colour: str, whose: str = "") -> None:
    """A gain that lies outside, as a number at the edge."""
    edge = 0.97 * np.sign(value) * reach
    side = "left" if edge < 0 else "right"
    panel.text(edge, place - 0.2, f"{whose}{value:+.1f}", ha=side, va="center", color=colour, fontsize=8)


def beside_paper(table: pd.DataFrame, column: str) -> Figure:
    """One column of Table 2: the paper's number of each adversarially trained method, and ours with its span.

    Parameters
    ----------
    table : DataFrame
        `tables.beside_paper` of Table 2 and one data set; of our protocols "fast" is drawn. The axis is the same for
        every column.
    column : str
        Such as "pgd100".
    """
    names = [name for name in TABLE_2 if METHODS[name].adversarial]
    table = table[table["row"].isin(names) & table["protocol"].isin(("", "fast"))]
    figure, panel = plt.subplots(figsize=(7, 0.42 * len(names) + 1.5))
    apart = {}
    for place, name in enumerate(names):
        of = table[(table["row"] == name) & (table["column"] == column)]
        theirs, ours = float(of["value"].iloc[0]), of[of["source"] == "ours"].to_dict("records")
        panel.plot(theirs, place - 0.13, "D", color="0.15", markerfacecolor="white", markersize=7)
        if ours:
            value, low, high = (float(ours[0][key]) for key in ("value", "low", "high"))
            panel.errorbar(
                value, place + 0.13, xerr=[[value - low], [high - value]], fmt=MARKERS[name], color=COLOURS[name],
                markersize=8, linewidth=3,
            )  # fmt: skip
            apart[name] = value - theirs
    ends = table[["value", "low", "high"]].to_numpy(float)
    panel.set(xlim=(np.nanmin(ends) - 0.6, np.nanmax(ends) + 0.6), ylim=(len(names) - 0.5, -0.5))
    panel.set_xlabel(f"{HEADINGS[column]}: correct test images (%)")
    panel.set_yticks(range(len(names)), [label(name) for name in names])
    panel.plot([], [], "D", color="0.15", markerfacecolor="white", label="paper")
    panel.plot([], [], "o", color="0.4", label="ours, with its interval or the range of its seeds")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    widest = max(apart, key=lambda name: abs(apart[name]), default="")
    said = f"widest apart {label(widest)}, {apart[widest]:+.1f} points" if widest else "the paper's rows"
    panel.set_title(f"{HEADINGS[column]}: {said}")
    return figure


# --- Figures 1, 7, 9: contributions ----------------------------------------------------------------------------------


def contributions(found: Sequence[Measurement]) -> Figure:
    """Figures 1 and 7: how many features contribute how much, by method, on clean and on adversarial images."""
    figure, panels = plt.subplots(len(EQUATIONS), len(IMAGES), figsize=(10, 6.6), layout="constrained")
    for row, (equation, title) in zip(panels, EQUATIONS.items(), strict=True):
        for panel, images in zip(row, IMAGES, strict=True):
            low = _histograms(panel, found, images, equation)
            panel.set(xlabel=f"{title}, {images} images (nats)", ylabel="features (%)")
            if low and panel is panels[1, 0]:
                panel.annotate("dead, or nearly", (0.085, 0.93), xycoords="axes fraction", fontsize=8)
    shares = ", ".join(
        f"{label(_name(m))} {100 * m.values['adversarial']['loss_gradient']['half_share']:.0f} %" for m in found
    )
    figure.suptitle(f"Features that carry half of Eq. 5 on adversarial images: {shares}", fontsize=10)
    legend(figure, panels[0, 0])
    return figure


def _histograms(panel: Axes, found: Sequence[Measurement], images: str, equation: str) -> bool:
    """One step line a method over bins that are even in the logarithm; what is below the first is counted there.

    Returns whether anything is.
    """
    vectors = {_name(m): np.array(m.values[images][equation]["sorted"]) for m in found}
    alive = np.concatenate([v[v > 0] for v in vectors.values()])
    edges = np.geomspace(max(alive.min() * 0.8, alive.max() * 1e-3), alive.max() * 1.001, 36)
    for name, vector in vectors.items():
        counts, _ = np.histogram(vector.clip(edges[0], edges[-1]), edges)
        panel.stairs(100 * counts / len(vector), edges, color=COLOURS.get(name), linewidth=1.6, label=label(name))
    panel.set_xscale("log")
    if edges[-1] < 100 * edges[0]:  # two powers of ten are too few to read values by
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_axisbelow(True)
    panel.grid(color="0.92")
    return any((vector < edges[0]).any() for vector in vectors.values())


def contributions_over_training(found: Measurement) -> Figure:
    """Figure 9: how the contributions on adversarial images are spread over the features, epoch by epoch."""
    figure, panels = plt.subplots(1, len(EQUATIONS) + 1, figsize=(11, 3.9), layout="constrained")
    moves = []
    for panel, style, (equation, title) in zip(panels, ("-", "--"), EQUATIONS.items(), strict=False):
        kept = found.values["contributions"][equation]
        counts = np.array(kept["counts"])  # (epochs, bins)
        shares = 100 * counts.T / counts.sum(1)
        epochs = np.arange(len(counts) + 1) + 0.5
        top = shares[1:].max()  # the many dead features of Eq. 7 must not drown the rest
        mesh = panel.pcolormesh(epochs, kept["edges"], shares, cmap="viridis", vmax=top, rasterized=True)
        figure.colorbar(mesh, ax=panel, extend="max").ax.set_title("features (%)", fontsize=8)
        panel.set(xlabel="epoch", ylabel=title)
        halves, full = half_shares(found, equation), full_radius(found.values["epochs"])
        panels[-1].plot(_epochs(found), halves, style, color=COLOURS.get(_name(found)), label=title[:5])
        moves.append(f"{title[:5]} {halves[full]:.0f} → {halves[-1]:.0f} %")
    panels[-1].set(xlabel="epoch", ylabel="features with half\nof the sum (%)", ylim=(0, 50))
    panels[-1].legend(frameon=False)
    panels[-1].grid(color="0.92")
    for panel in panels:
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    said = f"{label(_name(found))}: features that carry half of the sum, from full radius to the end: "
    figure.suptitle(said + ", ".join(moves), fontsize=11)
    return figure


def half_shares(found: Measurement, equation: str) -> list[float]:
    """Features that carry half of the sum on adversarial images, in percent, epoch by epoch."""
    return [100 * line["spread"]["adversarial"][equation]["half_share"] for line in found.values["epochs"]]


# --- Figures 2, 8, 10: activation maps -------------------------------------------------------------------------------


def activation_maps(found: Sequence[Measurement]) -> Figure:
    """Figures 2 and 8: adversarial images and, after Eq. 6, where the evidence lies; the title is about all of them."""
    count = len(found[0].values["labels"])
    size = (0.9 * count + 0.6, 1.82 * len(found) + 0.6)
    figure, panels = plt.subplots(2 * len(found), count, figsize=size, layout="constrained", squeeze=False)
    for i, measured in enumerate(found):
        _images(panels[2 * i], _pictures(measured.values["pictures"]), f"{label(_name(measured))}\nattacked")
        _images(panels[2 * i + 1], unpack(measured.values["paper"]["maps"]).numpy(), "Eq. 6", "inferno")
    figure.suptitle(_filled(_claim_of_maps(found), size), fontsize=10)
    return figure


def mean_maps(found: Sequence[Measurement]) -> Figure:
    """Figures 2 and 8 where no image may be shown: the mean of the maps of all adversarial images, a panel a model."""
    size = (2.2 * len(found) + 2, 3.7)
    figure, panels = plt.subplots(1, len(found), figsize=size, layout="constrained", squeeze=False)
    means = [unpack(m.values["paper"]["mean"]).numpy() for m in found]
    for panel, measured, mean in zip(panels[0], found, means, strict=True):
        shown = panel.imshow(mean, cmap="inferno", vmin=0, vmax=max(map(np.max, means)), interpolation="nearest")
        panel.set(title=label(_name(measured)), xticks=[], yticks=[])
    figure.colorbar(shown, ax=panels[0], label="mean of maps, each\nover its largest value", shrink=0.9)
    figure.suptitle(_filled(_claim_of_maps(found), size), fontsize=10)
    return figure


def _claim_of_maps(found: Sequence[Measurement]) -> str:
    """How concentrated the maps are, in words."""
    shares = ", ".join(f"{label(_name(m))} {100 * (m.values['paper']['top_tenth'] or 0):.0f} %" for m in found)
    return f"Eq. 6: share of an attacked image's map on its strongest tenth of positions: {shares}"


def maps_over_training(found: Measurement) -> Figure:
    """Figure 10: Eq. 6 on a few adversarial images as training goes on, a column an epoch, beside the images."""
    kept = found.values["activation"]
    maps = np.stack([unpack(m).numpy() for m in kept["maps"]])  # (epochs, images, h, w)
    chosen = np.unique(np.linspace(0, len(maps) - 1, 6).round().astype(int))
    count = len(kept["labels"])
    size = (0.9 * len(chosen) + 1.9, 0.95 * count + 0.6)
    figure, panels = plt.subplots(count, len(chosen) + 1, figsize=size, layout="constrained", squeeze=False)
    for column, epoch in zip(panels.T, chosen, strict=False):
        _images(column, maps[epoch], cmap="inferno")
        column[0].set_title(f"epoch {epoch + 1}", fontsize=9)
    _images(panels[:, -1], _pictures(kept["pictures"]))
    panels[0, -1].set_title("attacked at\nthe end", fontsize=9)
    ends = (torch.from_numpy(maps[epoch]) for epoch in (full_radius(found.values["epochs"]), -1))
    tenth = [concentration(end)["top_tenth"] or 0.0 for end in ends]
    figure.suptitle(
        f"{label(_name(found))}, Eq. 6: a tenth of the positions holds\n{100 * tenth[0]:.0f} % of these maps "
        f"at full radius, {100 * tenth[1]:.0f} % at the end",
        fontsize=10,
    )
    return figure


def _pictures(kept: dict[str, Any]) -> np.ndarray:
    """Kept images (N, C, H, W) as matplotlib shows them, (N, H, W, C) or of one channel (N, H, W)."""
    images = unpack(kept).numpy().transpose(0, 2, 3, 1)
    return images[..., 0] if images.shape[-1] == 1 else images


def _images(panels: np.ndarray, images: np.ndarray, title: str = "", cmap: str = "gray") -> None:
    """Images or maps, one in each panel."""
    for panel, image in zip(panels, images, strict=True):
        panel.imshow(image, cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
        panel.set(xticks=[], yticks=[])
    panels[0].set_ylabel(title, fontsize=8)


# --- Figures 3, 11: two kinds of samples -----------------------------------------------------------------------------


def examples(found: Measurement) -> Figure:
    """Figure 3: images that an attack leaves right and images that it fools, with the confidences before and after."""
    kept = [(name, i) for name in SETS for i in range(len(found.values[name]["index"]))]
    figure, panels = plt.subplots(
        4, len(kept), figsize=(1.02 * len(kept) + 0.8, 4.7), height_ratios=[3, 1, 3, 1], layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for column, (name, i) in zip(panels.T, kept, strict=True):
        shown = found.values[name]
        for top, (key, state) in zip((0, 2), (("images", "clean"), ("adversarial_images", "adversarial")), strict=True):
            column[top].imshow(_pictures(shown[key])[i], cmap="gray", vmin=0, vmax=1)
            _bars(column[top + 1], shown, i, state)
        column[0].set_title(name, fontsize=8, color=SET_COLOURS[name])
    for row, title in zip(panels, ("clean", "%", "attacked", "%"), strict=True):
        row[0].set_ylabel(title, fontsize=9)
        for panel in row:
            panel.set(xticks=[], yticks=[])
    figure.suptitle(
        f"{label(_name(found))}: confidence in the true class (blue) and in the wrong class that the attack favours "
        "(red)\nThe first test images of each set, under the attack's last iterate",
        fontsize=10,
    )
    return figure


def _bars(panel: Axes, shown: dict[str, Any], i: int, state: str) -> None:
    names = (shown["label"][i], shown["target"][i])
    values = [100 * shown[state][kind][i] for kind in ("true", "target")]
    panel.barh([1, 0], values, color=(RIGHT, WRONG), height=0.8)
    for place, name, value in zip((1, 0), names, values, strict=True):
        panel.text(102, place, f"{name}: {value:.0f}", fontsize=7, va="center")
    panel.set(xlim=(0, 175))
    panel.spines[:].set_visible(False)


def confidences(found: Sequence[Measurement]) -> Figure:
    """Figure 11: confidence in the true class on clean and on adversarial images, a point an image, a panel a model."""
    size = (4.4 * len(found) + 0.4, 5.2)
    figure, panels = plt.subplots(1, len(found), figsize=size, squeeze=False, layout="constrained", sharey=True)
    for panel, measured in zip(panels[0], found, strict=True):
        for name in SETS:
            points, count = measured.values["points"][name], measured.values[name]["count"]
            text = f"{name}: {len(points['clean']):,} of {count:,}"
            values = (100 * np.array(points[images]) for images in IMAGES)
            panel.plot(*values, ".", color=SET_COLOURS[name], markersize=4, alpha=0.6, label=text)
        panel.plot((0, 100), (0, 100), color="0.6", linewidth=0.8, zorder=0)
        panel.set(title=label(_name(measured)), xlabel="confidence, clean image (%)", box_aspect=1)
        panel.legend(fontsize=8, loc="upper left", frameon=False)
    panels[0, 0].set_ylabel("confidence, adversarial image (%)")
    gaps = [f"{label(_name(m))} {100 * m.values['both']['confidence_gap']:.1f}" for m in found]
    figure.suptitle(f"Mean distance of the two confidences, in points: {', '.join(gaps)}", fontsize=11)
    return figure


# --- Figures 4, 12: over training ------------------------------------------------------------------------------------


def pairing_by_set(found: Sequence[Measurement]) -> Figure:
    """Figure 4: the ALP loss of the images that end consistent and of those that end inconsistent, epoch by epoch."""
    size = (max(6.5, 4.8 * len(found)), 4.2)
    figure, panels = plt.subplots(1, len(found), figsize=size, squeeze=False, layout="constrained", sharey=True)
    for panel, measured in zip(panels[0], found, strict=True):
        lines = measured.values["epochs"]
        for name, marker in zip(SETS, "os", strict=True):
            text = f"{name} at the end ({measured.values[name]:,})"
            panel.plot(_epochs(measured), _pairing(measured, name), color=SET_COLOURS[name], marker=marker,
                       markersize=4, label=text)  # fmt: skip
        panel.axvspan(0.5, lines[full_radius(measured.values["epochs"])]["epoch"] - 0.5, color="0.94", zorder=0)
        panel.set(title=label(_name(measured)), xlabel="epoch (grey: training's radius still grows)", yscale="log")
        whole(panel)
        panel.legend(fontsize=8, frameon=False)
    panels[0, 0].set_ylabel("ALP loss, mean over test images")
    figure.suptitle("\n".join(_filled(_claim_of_pairing(measured), size) for measured in found), fontsize=10)
    return figure


def _pairing(found: Measurement, name: str) -> list[float]:
    """The ALP loss of a set epoch by epoch, NaN where it is empty."""
    return [np.nan if line["alp"][name] is None else line["alp"][name] for line in found.values["epochs"]]


def _claim_of_pairing(found: Measurement) -> str:
    losses = {name: np.array(_pairing(found, name))[[full_radius(found.values["epochs"]), -1]] for name in SETS}
    moves = [f"{name} {first:#.2g} → {last:#.2g}" for name, (first, last) in losses.items()]
    return f"{label(_name(found))}'s ALP loss from full radius to the end: {', '.join(moves)}"


def convergence(found: Sequence[Measurement]) -> Figure:
    """Figure 12: test loss, clean and robust accuracy against epochs and gradient evaluations, a line a method."""
    panels_of = (
        ("loss_adversarial", 1, "cross-entropy, adversarial (nats)"),
        ("clean", 100, "correct, clean (%)"),
        ("robust", 100, "correct, adversarial (%)"),
    )
    figure, panels = plt.subplots(1, len(panels_of), figsize=(11, 4.2), layout="constrained")
    for panel, (key, scale, title) in zip(panels, panels_of, strict=True):
        for measured in found:
            name, values = _name(measured), [scale * line[key] for line in measured.values["epochs"]]
            style = {"color": COLOURS.get(name), "marker": MARKERS.get(name, "o"), "markersize": 4}
            panel.plot(_epochs(measured), values, label=label(name), **style)
        panel.set(xlabel="epoch", ylabel=title)
        if key != "loss_adversarial":
            panel.set_ylim(*_late(found, key, scale))
        whole(panel)
        rate = found[0].values["epochs"][0]["gradients"] / 1e6
        top = panel.secondary_xaxis("top", functions=(lambda e, r=rate: e * r, lambda g, r=rate: g / r))
        top.set_xlabel("gradients of single images (million)", fontsize=8)
    legend(figure, panels[0])
    goal = min(m.values["epochs"][-1]["robust"] for m in found) - 0.01
    arrivals = ", ".join(f"{label(_name(m))} from epoch {settled(m, goal)}" for m in found)
    said = f"Robust accuracy stays above {100 * goal:.1f} %, a point below the lower end: {arrivals}"
    figure.suptitle(said, fontsize=11)
    return figure


def settled(found: Measurement, goal: float) -> int:
    """The epoch from which on a training's robust accuracy stays at or above `goal`, a fraction."""
    return max((line["epoch"] for line in found.values["epochs"] if line["robust"] < goal), default=0) + 1


def _late(found: Sequence[Measurement], key: str, scale: float) -> tuple[float, float]:
    """Limits that hold the second half of training: the first epochs would squeeze the rest to a line."""
    values = [scale * line[key] for m in found for line in m.values["epochs"]]
    half = [scale * line[key] for m in found for line in m.values["epochs"][len(m.values["epochs"]) // 2 :]]
    room = 0.5 * (max(values) - min(half)) + 0.2
    return max(min(values), min(half) - room) - 0.1, max(values) + 0.1 * room


def _epochs(found: Measurement) -> list[int]:
    return [line["epoch"] for line in found.values["epochs"]]


def full_radius(epochs: Sequence[Mapping[str, Any]]) -> int:
    """Index of the first epoch of a training that ended with the full radius."""
    radii = [line["eps"] for line in epochs]
    return next(i for i, eps in enumerate(radii) if eps >= 0.999 * max(radii))


# --- Figure 6: the weight of pairing --------------------------------------------------------------------------------


def alpha(records: Sequence[Record]) -> Figure:
    """Figure 6: clean and PGD-40 accuracy against the weight of the pairing loss; lines join the means over seeds."""
    runs = sorted((float(r.config["method"]["weight"]), r.seed, r.accuracy["last"]) for r in records)
    weights = sorted({weight for weight, *_ in runs})
    figure, panel = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    claims = []
    for name, colour, marker in zip(("clean", "pgd40"), (RIGHT, WRONG), "os", strict=True):
        values = [[100 * cells[name]["accuracy"] for w, _, cells in runs if w == weight] for weight in weights]
        means = [np.mean(v) for v in values]
        panel.plot(means, color=colour, label=HEADINGS[name])
        for place, seeds in enumerate(values):
            panel.plot([place] * len(seeds), seeds, marker, color=colour, markersize=4, alpha=0.6)
        ends = [means[i] for i, w in enumerate(weights) if w in (weights[0], 1, weights[-1])]
        claims.append(f"{HEADINGS[name]} {', '.join(f'{mean:.1f}' for mean in ends)} %")
    panel.set_xticks(range(len(weights)), [f"{w:g}" for w in weights])
    panel.set(xlabel="weight α of the pairing loss (not to scale)", ylabel="correct test images (%)")
    panel.grid(color="0.92")
    legend(figure, panel)
    at = ", ".join(f"{w:g}" for w in weights if w in (weights[0], 1, weights[-1]))
    figure.suptitle(f"{'; '.join(claims)} at α = {at}", fontsize=11)
    return figure


# --- all of a data set's ---------------------------------------------------------------------------------------------


def _of_one(draw: Callable[[Measurement], Figure]) -> Callable[[Sequence[Measurement]], Figure]:
    return lambda kept: draw(kept[0])


def _maps(found: Sequence[Measurement]) -> Figure:
    return (activation_maps if all(m.values["pictures"] for m in found) else mean_maps)(found)


FOUR = ("raw", "adv", "alp", "aalp")
DRAWINGS: dict[str, tuple[str, Callable[[Any], Figure], str, tuple[str, ...]]] = {
    "07-contributions": ("Figures 1 and 7", contributions, "contributions", FOUR),
    "08-activation": ("Figures 2 and 8", _maps, "activation", FOUR),
    "03-examples": ("Figure 3", _of_one(examples), "examples", ("alp",)),
    "04-alp-loss-by-set": ("Figure 4", pairing_by_set, "over_training", ("alp", "aalp")),
    "06-alpha": ("Figure 6", alpha, "", ()),
    "09-contributions-over-training": ("Figure 9", _of_one(contributions_over_training), "over_training", ("aalp",)),
    "10-activation-over-training": ("Figure 10", _of_one(maps_over_training), "over_training", ("aalp",)),
    "11-confidences": ("Figure 11", confidences, "samples", ("alp", "aalp")),
    "12-convergence": ("Figure 12", convergence, "over_training", ("alp", "aalp")),
}
"""Name -> heading, what draws it, and from what kind of measurement of which methods; of runs where there is none."""


@dataclass(frozen=True)
class Drawn:
    """A figure of a page, its heading, what it claims in one line, and what it was drawn from, in words."""

    heading: str
    figure: Figure
    drawn_from: str

    @property
    def claim(self) -> str:
        """What stands above the figure, in one line."""
        text = re.sub(r"(?<![,:])\n(?=[A-Z])", ". ", self.figure.get_suptitle())  # lines are broken within sentences
        return " ".join(text.split())


def every(found: Mapping[str, Sequence[Measurement]], runs: Sequence[Record] = ()) -> dict[str, Drawn]:
    """Every figure of the paper's that the measurements and runs of one protocol allow, by its file's name.

    Parameters
    ----------
    found : mapping
        Kind -> measurements, in order of seed; of several seeds of a method the lowest is drawn.
    runs : sequence of Record
        For figure 6.

    Warns
    -----
    UserWarning
        Of measurements that cannot be drawn.
    """
    weights = [r for r in runs if r.method in ("aalp", *ALPHAS)]
    several = {r.method for r in weights} - {"aalp"}
    made = {}
    for name, (heading, draw, kind, methods) in DRAWINGS.items():
        lowest = {_name(m): m for m in reversed(found.get(kind, ()))}
        of: list[Any] = [lowest[method] for method in methods if method in lowest]
        if not kind and several:
            of = weights
        try:
            if of:
                made[f"figure-{name}"] = Drawn(heading, closed(draw(of)), drawn_from(of))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            warnings.warn(f"left out: figure {name} ({type(error).__name__}: {error})", stacklevel=2)
    return made


def closed(figure: Figure) -> Figure:
    """The same figure, which pyplot no longer holds: it can be saved, and is freed with its last name."""
    plt.close(figure)
    return figure


def drawn_from(kept: Sequence[Measurement | Record]) -> str:
    """Seeds and number of images, in words."""
    seeds = sorted({k.subject["seed"] if isinstance(k, Measurement) else k.seed for k in kept})
    said = f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    counts = {k.config.get("images") for k in kept} - {None}
    return said + "".join(f", {count:,} test images" for count in counts if len(counts) == 1)


def _filled(text: str, size: tuple[float, float]) -> str:
    """Text broken into lines that a figure of `size`, in inches, can hold at 10 points."""
    return textwrap.fill(text, int(11.5 * size[0]))


def _name(found: Measurement) -> str:
    return str(found.subject["method"])
