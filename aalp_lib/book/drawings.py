"""Figures of chapters 6, 8 and 9: a mask, the frame of records, published numbers; AALP in a diagram."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from aalp_lib import _checks
from aalp_lib.book.interactive import Page
from aalp_lib.methods import TABLE_2
from aalp_lib.plots import COLOURS, MARKERS, RIGHT
from aalp_lib.reproduction import paper
from aalp_lib.reproduction.schema import label

if TYPE_CHECKING:
    from pandas import DataFrame

STEPS = (("alp", "trades"), ("trades", "aalp"), ("alp", "aalp"))  # of the paper's order, drawn as lengths
STARTS = {"one run from the image": "pgd100 start", "twenty random starts": "pgd100x20"}
ROWS = {"adv": "Madry", "trades": "TRADES", "alp": "ALP", "aalp": "AALP", "alp_averaged": "ALP, averaged pairing"}


def masked_step(images: Tensor, features: Tensor, kept: Tensor, logits: Tensor, label: int, title: str) -> Figure:
    """The paper's figure 5 with real tensors: an image, clean and attacked, on its way through one mask to the logits.

    Parameters
    ----------
    images : (2, C, H, W)
        The clean image and the adversarial one, in [0, 1].
    features : (2, F)
        Before the mask; drawn as a square, row by row.
    kept : (F,)
        The mask.
    logits : (2, K)
        Of the masked features.
    label : int
        The true class; its logit is blue.
    title : str
        The claim.
    """
    figure = plt.figure(figsize=(7, 3.3), layout="constrained")
    cells = figure.add_gridspec(2, 5, width_ratios=(1, 1, 1, 1, 1.25))
    mask = figure.add_subplot(cells[:, 2])
    top = float(features.max())
    _square(mask, kept.float(), "gray", 1.0)
    mask.set_title(f"one mask:\n{int(kept.sum())} of {len(kept)} kept\n(white)", fontsize=9)
    for row, name in enumerate(("clean", "attacked")):
        panels = [figure.add_subplot(cells[row, column]) for column in (0, 1, 3, 4)]
        panels[0].imshow(images[row].permute(1, 2, 0).squeeze().cpu().numpy(), cmap="gray", vmin=0, vmax=1)
        panels[0].set(xticks=[], yticks=[])
        panels[0].set_ylabel(name, fontsize=9)
        _square(panels[1], features[row], "viridis", top)
        _square(panels[2], features[row] * kept, "viridis", top)
        colours = [RIGHT if k == label else "0.6" for k in range(logits.shape[1])]
        panels[3].bar(range(logits.shape[1]), logits[row].cpu().numpy(), color=colours)
        panels[3].set(xticks=range(logits.shape[1]), ylim=(float(logits.min()) - 0.5, float(logits.max()) + 0.5))
        panels[3].tick_params(labelsize=7)
        for panel, heading in zip(panels, ("image", "features", "masked", "logits"), strict=True):
            panel.set_title(heading if row == 0 else "", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _square(panel: Axes, values: Tensor, cmap: str, top: float) -> None:
    """A vector as a square picture, row by row, black where it is 0."""
    side = math.ceil(math.sqrt(len(values)))
    picture = np.zeros(side * side)
    picture[: len(values)] = values.cpu().numpy()
    panel.imshow(picture.reshape(side, side), cmap=cmap, vmin=0, vmax=top)
    panel.set(xticks=[], yticks=[])


def networks(frame: "DataFrame", attack: str = "pgd100") -> Figure:
    """Every network's accuracy under an attack, a line a method, and the lengths of the paper's steps below them.

    Parameters
    ----------
    frame : DataFrame
        Lines of `reproduction.frame` on MNIST, of one protocol, model and suite.
    attack : str
    """
    frame = frame[frame["attack"] == attack].assign(percent=lambda of: 100 * of["accuracy"])
    names = [name for name in TABLE_2 if name != "raw"]
    figure, axes = plt.subplots(figsize=(7, 3.2))
    for place, name in enumerate(names):
        values = frame["percent"][frame["method"] == name]
        axes.plot(values, [place] * len(values), MARKERS[name], color=COLOURS[name], alpha=0.7)
    left, published = np.floor(frame["percent"][frame["method"].isin(names)].min()), paper.TABLE_2["mnist"]
    for place, (first, second) in enumerate(STEPS, len(names)):
        right = left + published[second][attack] - published[first][attack]
        axes.plot((left, right), (place, place), color="0.2", marker="|", markersize=8)
        axes.text(right + 0.1, place, f"the paper's step {label(first)} → {label(second)}", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), map(label, names))
    axes.set(xlabel="correct test digits under PGD-100 (%), a marker a network", ylim=(len(names) + 2.6, -0.6))
    apart = frame.groupby("method")["percent"].agg(lambda of: of.max() - of.min())
    others = apart[[name for name in names if name != "trades"]]
    span = f"{others.min():.1f} to {others.max():.1f} points apart, TRADES' {apart['trades']:.1f}"
    axes.set_title(f"Networks of one method lie {span}", fontsize=10)
    return figure


def waterfall(left: Mapping[str, Sequence[float]], stages: Sequence[str], title: str) -> Figure:
    """What each stage of an evaluation takes of what the ones before have left, a panel a method.

    Parameters
    ----------
    left : mapping
        Method -> percent of images right after each stage.
    stages : sequence of str
        The first is drawn in grey, from the top.
    title : str
        The data set; what the last stage takes is said behind it.
    """
    figure, panels = plt.subplots(1, len(left), figsize=(7.6, 2.9), sharey=True)
    for panel, (name, of) in zip(panels, left.items(), strict=True):
        colours = ["0.85", *[COLOURS[name]] * (len(stages) - 1)]
        panel.bar(range(len(stages)), -np.diff(of, prepend=100), bottom=of, color=colours)
        panel.set_xticks(range(len(stages)), stages, rotation=90)
        panel.set_title(label(name), fontsize=10)
        panel.text(len(stages) - 1, of[-1] - 0.1, f"{of[-1]:.1f}", ha="center", va="top", fontsize=9)
    ends = [end for of in left.values() for end in (of[0], of[-1])]
    panels[0].set(ylim=(min(ends) - 1.5, max(ends) + 1), ylabel="images still right (%)")
    taken = ", ".join(f"{label(name)} {of[-2] - of[-1]:.1f}" for name, of in left.items())
    figure.suptitle(f"{title}: points that {stages[-1]} takes of what gradients have left: {taken}", fontsize=10)
    return figure


def starts(frame: "DataFrame") -> Figure:
    """What PGD-100 from the image, and from twenty random starts, takes beyond one random start, a marker a network.

    Parameters
    ----------
    frame : DataFrame
        Lines of `reproduction.frame` on MNIST, of one protocol and model, of the suites "strong" and "attacks".
    """
    cells = 100 * frame.pivot_table(index=["method", "seed"], columns="attack", values="accuracy")
    figure, axes = plt.subplots(figsize=(7, 2.7))
    for shift, marker, filled, (words, attack) in zip((-0.12, 0.12), "os", (True, False), STARTS.items(), strict=True):
        fill = None if filled else "none"
        for place, name in enumerate(ROWS):
            values = (cells["pgd100"] - cells[attack])[name].dropna()
            axes.plot(values, [place + shift] * len(values), marker, color=COLOURS.get(name, "0.4"), mfc=fill)
        axes.plot([], [], marker, color="0.4", mfc=fill, label=words)
    axes.set_yticks(range(len(ROWS)), ROWS.values())
    axes.set(xlabel="points taken beyond PGD-100 from one random start", ylim=(len(ROWS) - 0.5, -0.5))
    axes.legend(fontsize=8)
    taken = cells["pgd100"] - cells["pgd100 start"]
    others = taken[["adv", "trades"]].max()
    span = f"{taken['alp'].min():.1f} to {taken['alp'].max():.1f} points of ALP"
    figure.suptitle(f"One run from the image takes {span}, at most {others:.1f} of Madry and TRADES", fontsize=10)
    return figure


def afterwards() -> Figure:
    """What adding ALP gained in others' hands, under a weaker and under a stronger attack, as published."""
    found = {(of.data, of.network): of for of in reversed(paper.AFTERWARDS)}  # of ImageNet the first, targeted one
    bases = [(data, base) for data in ("MNIST", "CIFAR-10") for base in ("half AT", "AT")]
    figure, axes = plt.subplots(figsize=(7, 2.3))
    for attack, fill in (("weak", "none"), ("strong", COLOURS["alp"])):
        gains = [getattr(found[d, f"{b} + ALP"], attack) - getattr(found[d, b], attack) for d, b in bases]
        axes.plot(gains, range(len(bases)), "o", color=COLOURS["alp"], mfc=fill, ms=9, label=f"{attack}er attack")
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks(range(len(bases)), [f"{data}, over {base}" for data, base in bases])
    axes.set(xlabel="what adding ALP gains (points), as published", ylim=(len(bases) - 0.5, -0.5))
    axes.legend(fontsize=8)
    claim = found["ImageNet", "ALP"]
    said = f"On ImageNet {claim.weak} % became {claim.strong} %"
    figure.suptitle(f"{said}; elsewhere three of ALP's four gains shrink or turn over", fontsize=10)
    return figure


DIAGRAM = (
    "AALP in training. A clean image and its attacked copy pass one network, which gives features of each. One mask "
    "keeps those that contribute most to the classification loss, by Eq. 7 and 8. The head makes logits of both. The "
    "squared distance between them is the pairing loss of Eq. 1, times the probability of the true class on the clean "
    "image, the weight of Eq. 9. The sum with the cross-entropy of both is the loss of Eq. 10."
)


def diagram(*lit: str) -> Page:
    """AALP as a diagram that takes the colours of the page around it, with some of its parts lit.

    Parameters
    ----------
    *lit : str
        "images", "network", "features", "mask", "head", "logits", "pairing", "weight", "classification" or "loss".

    Raises
    ------
    InputError
        If there is no such part.
    """
    drawn = resources.files("aalp_lib").joinpath("assets/aalp.svg").read_text(encoding="utf-8")
    parts = re.findall(r'data-part="(\w+)"', drawn)
    for name in lit:
        _checks.known("part of the diagram", name, parts)
        drawn = drawn.replace(f'class="part" data-part="{name}"', f'class="part lit" data-part="{name}"')
    words = f"{DIAGRAM} Lit here: {' and '.join(lit)}." if lit else DIAGRAM
    return Page(f'<figure style="margin:0">{drawn.replace("ALT", html.escape(words))}</figure>', words)
