import torch

from aalp_lib.book import drawings


def test_a_masked_step_shows_the_mask_once_and_what_is_left_of_the_features():
    features, kept = torch.rand(2, 16) + 0.1, torch.arange(16) % 2 == 0
    figure = drawings.masked_step(torch.rand(2, 1, 8, 8), features, kept, torch.randn(2, 5), 3, "one mask")
    assert any(panel.get_title() == "one mask:\n8 of 16 kept\n(white)" for panel in figure.axes)
    pictures = [panel.images[0].get_array().ravel() for panel in figure.axes if panel.images]
    shown = [torch.tensor(p).float() for p in pictures if len(p) == 16]
    assert sum(torch.equal(p, kept.float()) for p in shown) == 1
    for row in features:
        assert any(torch.allclose(p, row * kept) for p in shown)
    drawings.plt.close(figure)
