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


def test_a_masked_step_shows_the_mask_once_and_what_is_left_of_the_features():
    features, kept = torch.rand(2, 16) + 0.1, torch.arange(16) % 2 == 0
    figure = plots.masked_step(torch.rand(2, 1, 8, 8), features, kept, torch.randn(2, 5), 3, "one mask")
    assert any(panel.get_title() == "one mask:\n8 of 16 kept\n(white)" for panel in figure.axes)
    pictures = [panel.images[0].get_array().ravel() for panel in figure.axes if panel.images]
    shown = [torch.tensor(p).float() for p in pictures if len(p) == 16]
    assert sum(torch.equal(p, kept.float()) for p in shown) == 1
    for row in features:
        assert any(torch.allclose(p, row * kept) for p in shown)
    plots.plt.close(figure)
