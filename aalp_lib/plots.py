"""Figures of tensors, each a function that returns a matplotlib figure, and one colour a method, everywhere."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from aalp_lib.methods import METHODS

# Okabe and Ito's palette, told apart with any colour vision; the two rows of Table 3 share their base method's colour.
COLOURS = {
    "raw": "#7f7f7f",
    "adv": "#0072B2",
    "alp": "#E69F00",
    "trades": "#009E73",
    "aalp_gd": "#56B4E9",
    "aalp_sw": "#CC79A7",
    "aalp": "#D55E00",
    "raw_gd": "#7f7f7f",
    "adv_gd": "#0072B2",
}
MARKERS = dict(zip(METHODS, "ovsD^<P*X", strict=True))
DPI = 120
RIGHT, WRONG = "#0072B2", "#D55E00"


def predictions(rows: Sequence[tuple[str, Tensor, Tensor | None]], labels: Tensor, classes: Sequence[str]) -> Figure:
    """Images with prediction and confidence, a row for each (title, images (N, C, H, W), logits (N, K) or None).

    `labels` (N,) are the true classes. A right prediction is blue with a tick, a wrong one red with a cross.
    """
    count = len(labels)
    figure, axes = plt.subplots(
        len(rows), count, figsize=(1.15 * count + 0.9, 1.6 * len(rows)), layout="constrained", squeeze=False
    )
    for row, (title, images, logits) in zip(axes, rows, strict=True):
        for i, panel in enumerate(row):
            pixels = images[i].detach().cpu().permute(1, 2, 0).numpy()
            panel.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
            if logits is not None:
                _prediction(panel, logits[i], int(labels[i]), classes)
        row[0].set_ylabel(title, fontsize=9)
    return figure


def _prediction(panel: Axes, logits: Tensor, label: int, classes: Sequence[str]) -> None:
    confidence, predicted = logits.detach().float().cpu().softmax(0).max(0)
    right = int(predicted) == label
    panel.set_title(
        f"{'✓' if right else '✗'} {classes[int(predicted)]}  {100 * float(confidence):.0f} %",
        color=RIGHT if right else WRONG,
        fontsize=9,
    )


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
