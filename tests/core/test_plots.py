import torch

import aalp_lib as aalp
from aalp_lib import plots
from aalp_lib.methods import TABLE_2


def test_every_method_has_a_colour_and_a_marker():
    assert set(plots.COLOURS) == set(plots.MARKERS) == set(aalp.METHODS)
    assert len({plots.COLOURS[name] for name in TABLE_2}) == len(TABLE_2)


def test_predictions_mark_right_and_wrong(digits):
    x, y = digits[0][:3], torch.tensor([0, 1, 2])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 2, 2]), 10) * 5.0
    figure = plots.predictions([("clean", x, logits)], y, "abcdefghij")
    titles = [axes.get_title() for axes in figure.axes]
    assert [t[:3] for t in titles] == ["✓ a", "✗ c", "✓ c"]
    assert "94 %" in titles[0]
    plots.plt.close(figure)
