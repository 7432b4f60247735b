"""What the figures draw. Which there are, their claims and their sizes are held by the pages, in test_report."""

import pandas as pd
import pytest
from test_schema import drawn

from aalp_lib.reproduction import analyses, archive, figures, schema, tables


@pytest.fixture(autouse=True)
def _closed():
    yield
    figures.plt.close("all")


def measured(kind, *methods, data="mnist"):
    """Of the repository's records, the first seed of each method."""
    return [tables.measurements(archive.records(), kind, data=data, method=method)[0] for method in methods]


# --- comparisons


def gain(**more):
    line = {"panel": "MNIST", "step": "A → B", "attack": "PGD-100", "gain": 1.0, "low": 0.5, "high": 1.5}
    return line | {"gains": (0.8, 1.2), "paper": 2.0, "word": "ahead"} | more


def test_a_forest_plot_has_gain_interval_seeds_and_the_papers_gain():
    behind = {"gain": -1.0, "low": -2.0, "high": 0.0, "gains": (-1.5, -0.5), "paper": float("nan")}
    figure = figures.forest(pd.DataFrame([gain(), gain(attack="CW-100", word="unresolved", **behind)]), "A claim")
    (panel,) = figure.axes
    assert [text.get_text() for text in panel.get_yticklabels()] == ["PGD-100", "CW-100"]
    assert (panel.get_title(), panel.get_xlabel(), figure.get_suptitle()) == ("MNIST", "points", "A claim")
    colours = {tuple(line.get_xdata()): line.get_color() for line in panel.lines}
    assert {(2.0,), (1.0,), (0.5, 1.5), (0.8, 1.2), (-1.0,), (-2.0, 0.0)} <= colours.keys()
    assert (colours[1.0,], colours[-1.0,]) == (figures.WORD_COLOURS["ahead"], "0.4")


def test_a_forest_plot_says_what_was_not_measured_and_what_lies_far_out():
    nothing = dict.fromkeys(("gain", "low", "high"), float("nan")) | {"gains": (), "word": "untested"}
    far = {"gain": -64.5, "low": -65.0, "high": -64.0, "gains": (-64.0, -65.0), "paper": float("nan")}
    more = [gain(attack=f"a{i}") for i in range(5)]
    figure = figures.forest(pd.DataFrame([*more, gain(attack="far", **far), gain(panel="SVHN", **nothing)]), "A claim")
    assert [text.get_text() for panel in figure.axes for text in panel.texts] == ["-64.5", "untested"]


def test_a_column_of_table_2_has_the_papers_number_and_ours_on_one_axis_for_all():
    table = tables.beside_paper(archive.records(), 2, "mnist")
    (panel,), (other,) = (figures.beside_paper(table, column).axes for column in ("pgd100", "fgsm"))
    assert [text.get_text() for text in panel.get_yticklabels()][:2] == ["Madry", "ALP"]
    assert panel.get_title() == "PGD-100: widest apart AALP, -3.8 points"
    assert other.get_xlim() == panel.get_xlim()
    (bare,) = figures.beside_paper(table[table["source"] == "paper"], "pgd100").axes
    assert bare.get_title() == "PGD-100: the paper's rows"


# --- the paper's figures


def test_where_no_picture_may_be_stored_the_mean_of_all_maps_is_drawn():
    found = measured("activation", "raw", "alp", data="cifar10-jpeg")
    for panel, m in zip(figures.mean_maps(found).axes, found, strict=False):
        assert (panel.images[0].get_array() == analyses.unpack(m.values["paper"]["mean"]).numpy()).all()


@pytest.mark.parametrize(
    ("data", "notes", "tick"), [("cifar10-jpeg", [], "0.02"), ("mnist", ["dead, or nearly"], "10^")]
)
def test_contributions_draw_all_features_with_ticks_to_read_and_name_the_dead(data, notes, tick):
    figure = figures.contributions(measured("contributions", "raw", "aalp", data=data))
    assert any("Features that carry half" in text for text in drawn(figure))
    assert any(tick in label.get_text() for label in figure.axes[0].get_xticklabels())
    assert [text.get_text() for text in figure.axes[2].texts] == notes
    for patch in (patch for panel in figure.axes for patch in panel.patches):
        assert patch.get_data().values.sum() == pytest.approx(100)


def training(*robust, **alp):
    line = {"eps": 0.3, "clean": 0.9, "loss_adversarial": 1.0, "alp": {"consistent": 1.0, "inconsistent": None} | alp}
    epochs = [line | {"epoch": n, "gradients": n * 10**6, "robust": share} for n, share in enumerate(robust, 1)]
    values = {"epochs": epochs, "consistent": 7, "inconsistent": 3}
    return schema.Measurement("over_training", {"method": "alp", "seed": 0}, "quick", {}, {}, values, 1.0)


def test_convergence_says_from_which_epoch_on_it_stays_there():
    slow, fast = training(0.5, 0.9, 0.7, 0.8), training(0.78, 0.795, 0.86, 0.9)
    assert [figures.settled(of, 0.79) for of in (slow, fast)] == [4, 2]
    assert any("stays above 79.0 %, a point below the lower end" in text for text in drawn(figures.convergence([slow])))


def test_a_set_that_stays_empty_can_be_drawn():
    (claim,) = (text for text in drawn(figures.pairing_by_set([training(0.5)])) if "full radius" in text)
    assert "consistent 1.0 → 1.0, inconsistent nan → nan" in " ".join(claim.split())


def test_confidences_draw_every_point():
    found = measured("samples", "alp")
    for line, name in zip(figures.confidences(found).axes[0].lines, analyses.SETS, strict=False):
        assert list(line.get_ydata()) == pytest.approx(
            [100 * v for v in found[0].values["points"][name]["adversarial"]]
        )
