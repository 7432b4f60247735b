"""The paper's figures, each drawn from measurements or records alone, so that it can be made again at any time."""

import dataclasses
import io
import itertools
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from aalp_lib import checkpoints
from aalp_lib._checks import InputError
from aalp_lib.evaluation import HEADINGS
from aalp_lib.methods import METHODS, TABLE_2
from aalp_lib.plots import COLOURS, DPI, MARKERS, RIGHT, WRONG
from aalp_lib.reproduction import collect
from aalp_lib.reproduction.analyses import SETS, concentration, unpack
from aalp_lib.reproduction.grids import ALPHAS
from aalp_lib.reproduction.plots_of_records import diagnoses
from aalp_lib.reproduction.report import TOLERANCE, Row
from aalp_lib.reproduction.schema import Measurement, Record, label

SET_COLOURS = dict(zip(SETS, (RIGHT, WRONG), strict=True))
IMAGES = ("clean", "adversarial")
EQUATIONS = {"loss_gradient": "Eq. 5, mean |∂L/∂A|", "scores": "Eq. 7, mean |∂L/∂A · A|"}
EARLIER = "earlier"  # the folder of runs whose place others took
MAP_TITLES = {"paper": "Eq. 6", "grad-cam": "Grad-CAM"}
_Kept = TypeVar("_Kept", Record, Measurement)


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
    lines = _claim_of_contributions(found).split("\n")
    figure.suptitle("\n".join(_filled(line, (9.2, 6.0)) for line in lines), fontsize=10)
    _legend(figure, panels[0, 0])
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


def _claim_of_contributions(found: Sequence[Measurement]) -> str:
    """How large Eq. 5 is, and on how few features half of it rests, in words."""
    kept = [(label(_name(m)), *(m.values[images]["loss_gradient"] for images in IMAGES)) for m in found]
    means = ", ".join(
        _unbroken(f"{name} {_rounded(1000 * clean['mean'])} / {_rounded(1000 * adv['mean'])}")
        for name, clean, adv in kept
    )
    shares = ", ".join(_unbroken(f"{name} {100 * adv['half_share']:.0f} %") for name, _, adv in kept)
    return f"Mean of Eq. 5 on clean / adversarial images (0.001 nats): {means}\n" + (
        f"Features that carry half of it on adversarial images: {shares}"
    )


def _rounded(number: float) -> str:
    """To two figures: 7.0, and 170 where the format .2g alone gives 1.7e+02."""
    return f"{number:#.2g}" if number < 10 else f"{float(f'{number:.2g}'):g}"


def contributions_over_training(found: Measurement) -> Figure:
    """Figure 9: how the contributions on adversarial images are spread over the features, epoch by epoch."""
    figure, panels = plt.subplots(1, len(EQUATIONS) + 1, figsize=(11, 3.9), layout="constrained")
    for panel, (equation, title) in zip(panels, EQUATIONS.items(), strict=False):
        kept = found.values["contributions"][equation]
        counts = np.array(kept["counts"])  # (epochs, bins)
        shares = 100 * counts.T / counts.sum(1)
        epochs = np.arange(len(counts) + 1) + 0.5
        mesh = panel.pcolormesh(epochs, kept["edges"], shares, cmap="viridis", vmax=_top(shares), rasterized=True)
        figure.colorbar(mesh, ax=panel, extend="max").ax.set_title("features (%)", fontsize=8)
        panel.set(xlabel="epoch", ylabel=title)
    for equation, style in zip(EQUATIONS, ("-", "--"), strict=True):
        panels[-1].plot(*_half_shares(found, equation), style, color=COLOURS.get(_name(found)), label=equation)
    panels[-1].set(xlabel="epoch", ylabel="features with half\nof the sum (%)", ylim=(0, 50))
    panels[-1].legend(["Eq. 5", "Eq. 7"], frameon=False)
    panels[-1].grid(color="0.92")
    for panel in panels:
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.suptitle(_claim_of_contributions_over_training(found), fontsize=11)
    return figure


def _top(shares: np.ndarray) -> float:
    """Where the colours end: the many dead features of Eq. 7 must not drown the rest."""
    return float(shares[1:].max())


def _half_shares(found: Measurement, equation: str) -> tuple[list[int], list[float]]:
    lines = found.values["epochs"]
    shares = [100 * line["spread"]["adversarial"][equation]["half_share"] for line in lines]
    return [line["epoch"] for line in lines], shares


def _claim_of_contributions_over_training(found: Measurement) -> str:
    moves = []
    for equation, short in zip(EQUATIONS, ("Eq. 5", "Eq. 7"), strict=True):
        shares = _half_shares(found, equation)[1]
        moves.append(f"{short} {shares[_full_radius(found)]:.0f} → {shares[-1]:.0f} %")
    name = label(_name(found))
    return f"{name}: features that carry half of the sum, from full radius to the end: {', '.join(moves)}"


# --- Figures 2, 8, 10: activation maps -------------------------------------------------------------------------------


def activation_maps(found: Sequence[Measurement], kind: str = "paper", count: int | None = None) -> Figure:
    """Figures 2 and 8: adversarial images, and under them where the evidence lies, after Eq. 6 or Grad-CAM.

    `count` images are shown, by default all that the measurements keep; the title is about all of the test set.
    """
    count = len(found[0].values["labels"][:count])
    size = (0.9 * count + 0.6, 1.82 * len(found) + 0.6)
    figure, panels = plt.subplots(2 * len(found), count, figsize=size, layout="constrained", squeeze=False)
    for i, measured in enumerate(found):
        pictures, maps = (unpack(kept).numpy() for kept in (measured.values["pictures"], measured.values[kind]["maps"]))
        _picture_row(panels[2 * i], pictures[:count], f"{label(_name(measured))}\nattacked")
        _map_row(panels[2 * i + 1], maps[:count], MAP_TITLES[kind])
    figure.suptitle(_claim_of_maps(found, kind, size), fontsize=10)
    return figure


def mean_maps(found: Sequence[Measurement], kind: str = "paper") -> Figure:
    """Figures 2 and 8 where no image may be shown: the mean of the maps of all adversarial images, a panel a model."""
    size = (2.2 * len(found) + 2, 3.7)
    figure, panels = plt.subplots(1, len(found), figsize=size, layout="constrained", squeeze=False)
    means = [unpack(m.values[kind]["mean"]).numpy() for m in found]
    for panel, measured, mean in zip(panels[0], found, means, strict=True):
        shown = panel.imshow(mean, cmap="inferno", vmin=0, vmax=max(map(np.max, means)), interpolation="nearest")
        panel.set(title=label(_name(measured)), xticks=[], yticks=[])
    figure.colorbar(shown, ax=panels[0], label="mean of maps, each\nover its largest value", shrink=0.9)
    where = "Shown: the mean of all maps; it says where they lie, not how concentrated one is"
    figure.suptitle(f"{_claim_of_maps(found, kind, size)}\n{_filled(where, size)}", fontsize=10)
    return figure


def _claim_of_maps(found: Sequence[Measurement], kind: str, size: tuple[float, float]) -> str:
    """How concentrated the maps are, in words."""
    shares = ", ".join(f"{label(_name(m))} {_share(m.values[kind]['top_tenth'])}" for m in found)
    what = f"{MAP_TITLES[kind]}: share of a map on its strongest tenth of positions, "
    what += f"mean of {found[0].config['images']:,} adversarial images:"
    return f"{_filled(what, size)}\n{_filled(shares, size)}"


def maps_over_training(found: Measurement, columns: int = 6, count: int | None = None) -> Figure:
    """Figure 10: Eq. 6 on a few adversarial images as training goes on, a column an epoch, beside the images.

    `count` images are shown, by default all that the measurement keeps; the title is about all that it keeps.
    """
    kept = found.values["activation"]
    maps = np.stack([unpack(m).numpy() for m in kept["maps"]])  # (epochs, images, h, w)
    chosen = np.unique(np.linspace(0, len(maps) - 1, columns).round().astype(int))
    count = len(kept["labels"][:count])
    size = (0.9 * len(chosen) + 1.9, 0.95 * count + 0.6)
    figure, panels = plt.subplots(count, len(chosen) + 1, figsize=size, layout="constrained", squeeze=False)
    for column, epoch in zip(panels.T, chosen, strict=False):
        _map_row(column, maps[epoch][:count])
        column[0].set_title(f"epoch {epoch + 1}", fontsize=9)
    _picture_row(panels[:, -1], unpack(kept["pictures"]).numpy()[:count])
    panels[0, -1].set_title("attacked at\nthe end", fontsize=9)
    ends = (torch.from_numpy(maps[epoch]) for epoch in (_full_radius(found), -1))
    tenth = [concentration(end)["top_tenth"] or 0.0 for end in ends]
    figure.suptitle(
        f"{label(_name(found))}, Eq. 6: a tenth of the positions holds\n{100 * tenth[0]:.0f} % of these maps "
        f"at full radius, {100 * tenth[1]:.0f} % at the end",
        fontsize=10,
    )
    return figure


def _filled(text: str, size: tuple[float, float]) -> str:
    """Text broken into lines that a figure of `size`, in inches, can hold at 10 points."""
    return textwrap.fill(text, int(11.5 * size[0]))


def _unbroken(text: str) -> str:
    """With no-break spaces: a name stays on the line of its number."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _share(value: float | None) -> str:
    return "none, all maps are 0" if value is None else f"{100 * value:.0f} %"


def _picture_row(panels: np.ndarray, pictures: np.ndarray, title: str = "") -> None:
    """Images (N, C, H, W), one in each panel."""
    for panel, picture in zip(panels, pictures, strict=True):
        panel.imshow(picture.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set(xticks=[], yticks=[])
    panels[0].set_ylabel(title, fontsize=8)


def _map_row(panels: np.ndarray, maps: np.ndarray, title: str = "") -> None:
    """Maps (N, h, w), each over its largest value, one in each panel."""
    for panel, layer in zip(panels, maps, strict=True):
        panel.imshow(layer, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
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
            column[top].imshow(unpack(shown[key])[i].permute(1, 2, 0).squeeze().numpy(), cmap="gray", vmin=0, vmax=1)
            _bars(column[top + 1], shown, i, state)
        column[0].set_title(name, fontsize=8, color=SET_COLOURS[name])
    for row, title in zip(panels, ("clean", "%", "attacked", "%"), strict=True):
        row[0].set_ylabel(title, fontsize=9)
        for panel in row:
            panel.set(xticks=[], yticks=[])
    figure.suptitle(
        f"{label(_name(found))}: confidence in the true class (blue) and in the wrong class that the attack favours "
        "(red)\nThe first test digits of each set, under the attack's last iterate",
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
            panel.plot(*_hundreds(points), ".", color=SET_COLOURS[name], markersize=4, alpha=0.6, label=text)
        panel.plot((0, 100), (0, 100), color="0.6", linewidth=0.8, zorder=0)
        panel.set(title=label(_name(measured)), xlabel="confidence, clean image (%)", box_aspect=1)
        panel.legend(fontsize=8, loc="upper left", frameon=False)
    panels[0, 0].set_ylabel("confidence, adversarial image (%)")
    gaps = [f"{label(_name(m))} {100 * m.values['both']['confidence_gap']:.1f}" for m in found]
    figure.suptitle(f"Mean distance of the two confidences, in points: {', '.join(gaps)}", fontsize=11)
    return figure


def _hundreds(points: dict[str, list[float]]) -> tuple[np.ndarray, np.ndarray]:
    return 100 * np.array(points["clean"]), 100 * np.array(points["adversarial"])


# --- Figures 4, 12: over training ------------------------------------------------------------------------------------


def pairing_by_set(found: Sequence[Measurement]) -> Figure:
    """Figure 4: the ALP loss of the images that end consistent and of those that end inconsistent, epoch by epoch."""
    size = (max(6.5, 4.8 * len(found)), 4.2)
    figure, panels = plt.subplots(1, len(found), figsize=size, squeeze=False, layout="constrained", sharey=True)
    for panel, measured in zip(panels[0], found, strict=True):
        lines = measured.values["epochs"]
        for name, marker in zip(SETS, "os", strict=True):
            text = f"{name} at the end ({measured.values[name]:,})"
            series = [np.nan if line["alp"][name] is None else line["alp"][name] for line in lines]
            panel.plot(_epochs(measured), series, color=SET_COLOURS[name], marker=marker, markersize=4, label=text)
        panel.axvspan(0.5, lines[_full_radius(measured)]["epoch"] - 0.5, color="0.94", zorder=0)
        panel.set(title=label(_name(measured)), xlabel="epoch (grey: training's radius still grows)", yscale="log")
        panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        panel.legend(fontsize=8, frameon=False)
        panel.grid(color="0.92")
    panels[0, 0].set_ylabel("ALP loss, mean over test images")
    figure.suptitle("\n".join(map(_claim_of_pairing, found)), fontsize=11)
    return figure


def _claim_of_pairing(found: Measurement) -> str:
    first, last = found.values["epochs"][_full_radius(found)]["alp"], found.values["epochs"][-1]["alp"]
    if None in (*first.values(), *last.values()):
        return "The ALP loss by epoch"
    moves = [f"{name} {first[name]:#.2g} → {last[name]:#.2g}" for name in SETS]
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
        panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        panel.grid(color="0.92")
        rate = found[0].values["epochs"][0]["gradients"] / 1e6
        top = panel.secondary_xaxis("top", functions=(lambda e, r=rate: e * r, lambda g, r=rate: g / r))
        top.set_xlabel("gradients of single images (million)", fontsize=8)
    _legend(figure, panels[0])
    figure.suptitle(_claim_of_convergence(found), fontsize=11)
    return figure


def _late(found: Sequence[Measurement], key: str, scale: float) -> tuple[float, float]:
    """Limits that hold the second half of training: the first epochs would squeeze the rest to a line."""
    values = [scale * line[key] for m in found for line in m.values["epochs"]]
    half = [scale * line[key] for m in found for line in m.values["epochs"][len(m.values["epochs"]) // 2 :]]
    room = 0.5 * (max(values) - min(half)) + 0.2
    return max(min(values), min(half) - room) - 0.1, max(values) + 0.1 * room


def _claim_of_convergence(found: Sequence[Measurement]) -> str:
    """From which epoch on each stays within a point of the lowest final robust accuracy, in words."""
    goal = min(m.values["epochs"][-1]["robust"] for m in found) - 0.01
    arrivals = []
    for measured in found:
        below = [line["epoch"] for line in measured.values["epochs"] if line["robust"] < goal]
        arrivals.append(f"{label(_name(measured))} from epoch {max(below, default=0) + 1}")
    return f"Robust accuracy stays above {100 * goal:.1f} %, a point below the lower end: {', '.join(arrivals)}"


def _epochs(found: Measurement) -> list[int]:
    return [line["epoch"] for line in found.values["epochs"]]


def _full_radius(found: Measurement) -> int:
    """Index of the first epoch that ended with the full radius in training."""
    radii = [line["eps"] for line in found.values["epochs"]]
    return next(i for i, eps in enumerate(radii) if eps >= 0.999 * max(radii))


# --- Figure 5 --------------------------------------------------------------------------------------------------------


def adaptive_pairing(records: Sequence[Record]) -> Figure:
    """Figure 5: how a run's training loss is put together, from the method in its record; it measures nothing.

    For AALP, and for what lies between it and ALP. What AALP adds to ALP is red.
    """
    of = dataclasses.asdict(METHODS[records[0].method]) | records[0].config["method"]
    mask, weighted = of["guided_dropout"], of["pairing"] == "adaptive_alp"
    figure, panel = plt.subplots(figsize=(10.5, 4), layout="constrained")
    panel.set(xlim=(-0.2, 12.2), ylim=(0, 4))
    panel.axis("off")
    term = f"pairing of logits, Eq. 1,\ntimes α = {of['weight']:g}"
    pairing = _box(panel, 9.4, 2, term + ",\ntimes confidence on\nthe clean image, Eq. 9" * weighted, weighted)
    loss = _box(panel, 11.6, 2, "training\nloss")
    _arrow(panel, pairing, loss)
    if mask:
        words = f"Guided Dropout, Eq. 7 and 8:\n{mask['rule']} rule, a mask a {mask['scope']}"
        masking = _box(panel, 3.9, 2, words, True)
    for height, images, which in ((3.5, "clean", "clean"), (0.5, "attacked", "adversarial")):
        names = (f"{images}\nimages", "features", "features\nthat are kept" if mask else "", "logits\nof the head")
        way = [_box(panel, x, height, name) for x, name in zip((0.5, 2.2, 5.6, 7.2), names, strict=True) if name]
        _arrow(panel, way[-1], pairing)
        if mask:
            _arrow(panel, way[1], masking)
            _arrow(panel, masking, way[2])
        if of["classify"] in (which, "joint"):
            way += [_box(panel, 9.4, height, "cross-entropy"), loss]
        for start, end in itertools.pairwise(way):
            _arrow(panel, start, end)
    added = ["a mask on features"] * bool(mask) + ["a weight for each image's pairing"] * weighted
    figure.suptitle(f"{label(records[0].method)} adds to ALP (red): {' and '.join(added) or 'nothing'}", fontsize=11)
    return figure


def _box(panel: Axes, x: float, y: float, words: str, added: bool = False) -> Text:
    frame = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": WRONG if added else "0.4"}
    return panel.text(x, y, words, ha="center", va="center", fontsize=9, bbox=frame)


def _arrow(panel: Axes, start: Text, end: Text) -> None:
    """From the edge of one box to that of another."""
    ends = {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch(), "shrinkA": 1, "shrinkB": 1}
    style = {"arrowstyle": "->", "color": "0.4"}
    panel.annotate("", end.get_position(), start.get_position(), arrowprops=ends | style)


# --- Figure 6 --------------------------------------------------------------------------------------------------------


def alpha(records: Sequence[Record], column: str = "pgd40") -> Figure:
    """Figure 6: clean and robust accuracy against the weight of the pairing loss; lines join the means over seeds."""
    weights = sorted({float(r.config["method"]["weight"]) for r in records})
    found = {
        name: [[100 * r.accuracy["last"][name]["accuracy"] for r in records if _weight(r) == w] for w in weights]
        for name in ("clean", column)
    }
    figure, panel = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for (name, values), colour, marker in zip(found.items(), (RIGHT, WRONG), "os", strict=True):
        panel.plot([np.mean(v) for v in values], color=colour, label=HEADINGS.get(name, name))
        for place, seeds in enumerate(values):
            panel.plot([place] * len(seeds), seeds, marker, color=colour, markersize=4, alpha=0.6)
    panel.set_xticks(range(len(weights)), [f"{w:g}" for w in weights])
    panel.set(xlabel="weight α of the pairing loss (not to scale)", ylabel="correct test images (%)")
    panel.grid(color="0.92")
    _legend(figure, panel)
    places = [i for i, w in enumerate(weights) if w in (weights[0], 1, weights[-1])]
    claims = [
        f"{HEADINGS.get(name, name)} {', '.join(f'{np.mean(values[i]):.1f}' for i in places)} %"
        for name, values in found.items()
    ]
    figure.suptitle(f"{'; '.join(claims)} at α = {', '.join(f'{weights[i]:g}' for i in places)}", fontsize=11)
    return figure


def _weight(record: Record) -> float:
    return float(record.config["method"]["weight"])


# --- Table 2 as a figure ---------------------------------------------------------------------------------------------


def beside_paper(rows: Sequence[Row], column: str) -> Figure:
    """One column of `report.table_2`: the paper's number of each adversarially trained method, and ours with its span.

    Of several protocols of ours the plain recipe "fast" is drawn, else the first. The axis is the same for every column
    of these rows. The undefended row, far below the others, stands in words.
    """
    of: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: not row.source.endswith(", fast")):
        of.setdefault(row.name, row)
    shown = [of[name] for name in TABLE_2 if name in of and METHODS[name].adversarial]
    figure, panel = plt.subplots(figsize=(7, 0.42 * len(shown) + 1.5))
    for place, row in enumerate(shown):
        _beside(panel, row, column, place)
    ends = [v for row in shown for v in (*row.published.values(), *_ends(row))]
    panel.set(xlim=(min(ends) - 0.6, max(ends) + 0.6), ylim=(len(shown) - 0.5, -0.5))
    panel.set_xlabel(_undefended(of.get("raw"), column))
    panel.set_yticks(range(len(shown)), [label(row.name) for row in shown])
    panel.plot([], [], "D", color="0.15", markerfacecolor="white", label="paper")
    panel.plot([], [], "o", color="0.4", label="ours, with its interval or the range of its seeds")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    panel.set_title(_claim_of_column(shown, column))
    return figure


def _beside(panel: Axes, row: Row, column: str, place: int) -> None:
    panel.plot(row.published[column], place - 0.13, "D", color="0.15", markerfacecolor="white", markersize=7)
    cell = row.ours.get(column)
    if cell is None:
        panel.text(row.published[column], place + 0.32, "ours: not measured yet", fontsize=8, color="0.4", ha="center")
        return
    spans = [[max(0.0, cell.value - (cell.low or 0))], [max(0.0, (cell.high or 0) - cell.value)]]
    colour = COLOURS.get(row.name)
    panel.errorbar(cell.value, place + 0.13, xerr=spans, fmt=MARKERS[row.name], color=colour, markersize=8, linewidth=3)


def _ends(row: Row) -> list[float]:
    return [v for cell in row.ours.values() for v in (cell.low, cell.high) if v is not None]


def _undefended(row: Row | None, column: str) -> str:
    said = [f"paper {row.published[column]:.1f}"] if row else []
    said += [f"ours {row.ours[column].value:.1f}"] if row and column in row.ours else []
    return f"{HEADINGS[column]}: correct test images (%)" + (f"   [RAW: {', '.join(said)}]" if said else "")


def _claim_of_column(shown: Sequence[Row], column: str) -> str:
    """How many of our rows lie within what a verdict allows, and the widest difference, in words."""
    apart = {row.name: row.ours[column].value - row.published[column] for row in shown if column in row.ours}
    if not apart:
        return f"{HEADINGS[column]}: nothing of ours was measured yet"
    near = sum(abs(difference) <= TOLERANCE for difference in apart.values())
    widest = max(apart, key=lambda name: abs(apart[name]))
    return (
        f"{HEADINGS[column]}: {near} of {len(apart)} rows within {TOLERANCE:g} points; "
        f"widest {label(widest)}, {collect.signed(apart[widest])}"
    )


# --- all of them -----------------------------------------------------------------------------------------------------


def diagnosis(found: Sequence[Measurement]) -> Figure:
    """No figure of the paper's: accuracy against the radius and loss against the steps of PGD, by method."""
    most = {eps: max(r["accuracy"] for m in found for r in m.values["eps"] if r["eps"] == eps) for eps in (0.5, 1)}
    figure = diagnoses(
        found,
        f"At radius 0.5, where every ball holds a grey image, at most {100 * most[0.5]:.1f} % stay right,\n"
        f"at radius 1, where it holds every image, at most {100 * most[1]:.1f} %",
    )
    against_eps, against_steps = figure.axes
    seen = {r["eps"] for m in found for r in m.values["eps"] if r["accuracy"] >= 0.01}
    last, own = max(seen), float(found[0].config["attack"]["eps"])
    against_eps.set_xscale("symlog", linthresh=last, linscale=3)  # beyond it nothing is left
    against_eps.set_xlim(left=-0.03 * last)
    against_eps.set_xticks([0, own, 0.5, 1], ["0", f"{own:.2g}", "0.5", "1"])
    against_eps.xaxis.set_minor_locator(NullLocator())
    against_steps.set_yscale("log")
    against_steps.yaxis.set_major_formatter("{x:g}")
    against_steps.yaxis.set_minor_formatter(NullFormatter())
    return figure


def draw_all(folder: str | Path, out: str | Path) -> list[Path]:
    """Write every figure that a data set's results allow as `figure-NN-NAME.png`, and a page with all of them.

    Parameters
    ----------
    folder : path
        Measurements in `samples`, `contributions`, `activation`, `examples`, `over_training` and `diagnosis`, and the
        records of Figure 6 beside them. A figure keeps to one protocol, the recipe "fast" where there is one. Of
        several seeds the lowest is drawn, except in Figure 6, which has all. A line under it says which. What is
        damaged or cannot be drawn is named in a warning and left out.
    out : path

    Returns
    -------
    list of Path
        Of the figures, and of `README.md`.
    """
    folder, out = Path(folder), Path(out)
    found = {kind: _lowest_seed(_one_protocol([*_kept(folder / kind, Measurement)], _measured_on)) for kind in _KINDS}
    weights = [r for r in _kept(folder, Record) if r.method in ("aalp", *ALPHAS)]
    weights = _one_protocol(weights, _trained_on)
    plain = sorted((r for r in weights if r.method == "aalp"), key=lambda r: r.seed)[:1]
    weights = weights if len({r.method for r in weights}) > 1 else []
    spread, course = found["contributions"], _told_apart(found["over_training"], folder)
    pictures, maps = _with_pictures(found["activation"]), _with_maps(course)
    shown, draw_maps = (pictures, activation_maps) if pictures else (found["activation"], mean_maps)
    figures: tuple[tuple[str, Callable[[Any], Figure], list[Any]], ...] = (
        ("01-contributions", contributions, _named(spread, "raw", "adv", "alp")),
        ("02-activation", draw_maps, _named(shown, "raw", "adv", "alp")),
        ("03-examples", _of_one(examples), _named(found["examples"], "alp")),
        ("04-alp-loss-by-set", pairing_by_set, _named(course, "alp", "aalp")),
        ("05-adaptive-pairing", adaptive_pairing, plain),
        ("06-alpha", alpha, weights),
        ("07-contributions", contributions, _named(spread, "raw", "adv", "alp", "aalp")),
        ("08-activation", draw_maps, _named(shown, "raw", "adv", "alp", "aalp")),
        ("09-contributions-over-training", _of_one(contributions_over_training), _named(course, "aalp")),
        ("10-activation-over-training", _of_one(maps_over_training), _named(maps, "aalp")),
        ("11-confidences", confidences, _named(found["samples"], "alp", "aalp")),
        ("12-convergence", convergence, _named(course, "alp", "aalp")),
        ("beyond-diagnosis", diagnosis, _named(found["diagnosis"], *TABLE_2)),
    )
    paths, page = [], ["# Figures\n\nMade by `aalp results --write`; numbered as in the paper.\n"]
    for name, draw, kept in figures:
        path = out / f"figure-{name}.png"
        said = _draw_sound(name, draw, kept, path)
        if said is None:
            continue
        paths.append(path)
        claim, under = said
        heading = f"Figure {int(name[:2])}" if name[:2].isdigit() else "Beyond the paper: diagnosis"
        page.append(f"## {heading}\n\n{claim}.\n\n![{heading}]({paths[-1].name})\n\n{under}.\n")
    if paths:
        paths.append(out / "README.md")
        checkpoints.write_atomically(paths[-1], "\n".join(page).encode())
    return paths


def _kept(folder: Path, kind: type[_Kept]) -> Iterator[_Kept]:
    """What a folder holds of a kind, by name; what is damaged is named in a warning and left out."""
    for path in sorted(folder.glob("*.json")):
        try:
            found = collect.read_one(path)
        except (InputError, OSError) as error:
            warnings.warn(str(error), stacklevel=4)
            continue
        if isinstance(found, kind):
            yield found


def _draw_sound(
    name: str, draw: Callable[[Any], Figure], kept: Sequence[Any], target: Path | BinaryIO
) -> tuple[str, str] | None:
    """`_draw` of all that can be drawn, with the rest named in warnings; None if nothing can."""
    if not kept:
        return None
    try:
        return _draw(draw, kept, target)
    except OSError:
        raise
    except Exception as error:  # there is no list of what damage does to numpy and matplotlib
        sound = [one for one in kept if len(kept) > 1 and _draw_sound(name, draw, [one], io.BytesIO())]
        if 1 < len(kept) != len(sound):
            return _draw_sound(name, draw, sound, target)
        whose = " and ".join(f"{label(method)}, seed {seed}" for method, seed in map(_whose, kept))
        said = f"left out of figure {name}: {whose}, {_from(kept[0])}: cannot be drawn"
        warnings.warn(f"{said} ({type(error).__name__}: {error})", stacklevel=3)
        return None


def _draw(draw: Callable[[Any], Figure], kept: Sequence[Any], target: Path | BinaryIO) -> tuple[str, str]:
    """Draw a figure into a file; returns its claim, and what it was drawn from."""
    before = plt.get_fignums()
    try:
        figure, under = draw(kept), _drawn_from(kept)
        _sign(figure, under)
        if isinstance(target, Path):
            target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=DPI)
    finally:
        for number in set(plt.get_fignums()).difference(before):
            plt.close(number)
    claim = re.sub(r"(?<![,:])\n(?=[A-Z])", ". ", figure.get_suptitle())  # lines are broken within sentences, too
    return " ".join(claim.replace("\N{NO-BREAK SPACE}", " ").split()), under


def _sign(figure: Figure, under: str) -> None:
    """Write a line below, over the legend where there is one: both in the same place would cover each other."""
    under = _filled(under, tuple(figure.get_size_inches()))
    if figure.legends:
        figure.legends[0].set_title(under)
        plt.setp(figure.legends[0].get_title(), color="0.3", size=9, multialignment="center")
    else:
        figure.supxlabel(under, fontsize=9, color="0.3")


def _drawn_from(kept: Sequence[Measurement | Record]) -> str:
    """Data, recipe, seeds and number of images, in words; and whose networks or gradients are not as elsewhere."""
    seeds = sorted({str(_whose(k)[1]) for k in kept})
    said = f"{_from(kept[0])}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"
    measured = [k for k in kept if isinstance(k, Measurement)]
    counts = {m.config.get("images") for m in measured} - {None}
    said += "".join(f", {count:,} test images" for count in counts if len(counts) == 1)
    if earlier := [label(_name(m)) for m in measured if EARLIER in m.subject]:
        said += f"; {', '.join(earlier)}: of an earlier training than Table 2's"
    by: dict[str, list[str]] = {}
    for m in measured:
        by.setdefault(collect.gradients(m), []).append(label(_name(m)))
    if set(by) - {"float32"}:
        said += "; gradients in " + "; ".join(f"{kind}: {', '.join(names)}" for kind, names in by.items())
    return said


def _from(kept: Measurement | Record) -> str:
    data, words = _measured_on(kept) if isinstance(kept, Measurement) else _trained_on(kept)
    return f"{collect.title(data)}, recipe {words}"


def _whose(kept: Measurement | Record) -> tuple[str, int]:
    return (_name(kept), kept.subject["seed"]) if isinstance(kept, Measurement) else (kept.method, kept.seed)


_KINDS = ("samples", "contributions", "activation", "examples", "over_training", "diagnosis")
_ByMethod = dict[str, Measurement]


def _one_protocol(found: Sequence[_Kept], of: Callable[[_Kept], tuple[str, str]]) -> list[_Kept]:
    """Those of one data set and protocol, "fast" where there is one."""
    chosen = min((of(kept) for kept in found), key=lambda key: (key[1] != "fast", key), default=("", "fast"))
    return [kept for kept in found if of(kept) == chosen]


def _measured_on(found: Measurement) -> tuple[str, str]:
    return str(found.subject.get("data")), collect.measured_protocol(found)


def _trained_on(record: Record) -> tuple[str, str]:
    return record.data, collect.protocol(record)


def _lowest_seed(found: Sequence[Measurement]) -> _ByMethod:
    ordered = sorted(found, key=lambda m: -int(m.subject["seed"]))
    return {_name(m): m for m in ordered}


def _told_apart(found: _ByMethod, folder: Path) -> _ByMethod:
    """Trainings, those of `earlier` marked: another has their place among the records, made elsewhere or later."""

    def made(kept: Record | Measurement) -> tuple[object, ...]:
        return kept.environment.get("device"), kept.environment.get("commit")

    earlier = {
        (r.data, collect.training_protocol(r), r.method, r.seed, *made(r)) for r in _kept(folder / EARLIER, Record)
    }
    return {
        name: dataclasses.replace(m, subject=m.subject | {EARLIER: True})
        if (*_measured_on(m), *_whose(m), *made(m)) in earlier
        else m
        for name, m in found.items()
    }


def _with_pictures(found: _ByMethod) -> _ByMethod:
    return {name: m for name, m in found.items() if m.values.get("pictures", m)}  # without that key it is damaged


def _with_maps(found: _ByMethod) -> _ByMethod:
    return {name: m for name, m in found.items() if m.values.get("activation", m)}


def _named(found: _ByMethod, *names: str) -> list[Measurement]:
    """Those of the methods that were measured."""
    return [found[name] for name in names if name in found]


def _of_one(draw: Callable[[Measurement], Figure]) -> Callable[[Sequence[Measurement]], Figure]:
    return lambda kept: draw(kept[0])


def _name(found: Measurement) -> str:
    return str(found.subject["method"])


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 7), frameon=False)
