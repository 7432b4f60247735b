"""Figures of tensors, each a function that returns a matplotlib figure, and one colour a method, everywhere."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from aalp_lib import checkpoints
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


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically; OSError names the path."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    checkpoints.write_atomically(path, content.getvalue())


def _prediction(panel: Axes, logits: Tensor, label: int, classes: Sequence[str]) -> None:
    confidence, predicted = logits.detach().float().cpu().softmax(0).max(0)
    right = int(predicted) == label
    panel.set_title(
        f"{'✓' if right else '✗'} {classes[int(predicted)]}  {100 * float(confidence):.0f} %",
        color=RIGHT if right else WRONG,
        fontsize=9,
    )
