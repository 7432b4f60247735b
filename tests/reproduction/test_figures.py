import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from test_per_epoch import LOOK, SETTING
from test_schema import drawn, record

import aalp_lib as aalp
from aalp_lib import plots
from aalp_lib.checkpoints import load_model
from aalp_lib.reproduction import analyses, archive, figures, per_epoch, schema, tables
from aalp_lib.reproduction.jobs import Job
from aalp_lib.reproduction.settings import new_model

RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.fixture(scope="module")
def measured(sample, tmp_path_factory):
    """A folder of measurements of tiny networks, as they come back from disk."""
    out = tmp_path_factory.mktemp("measured")
    small = aalp.Dataset(sample.name, sample.classes, sample.train[:200], sample.val[:40], sample.test[:100])
    setting = dataclasses.replace(SETTING, recipe=dataclasses.replace(SETTING.recipe, epochs=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analyses, "paper_attack", lambda dataset: LOOK)
        jobs = {name: Job(small.name, name, setting, out) for name in ("raw", "alp", "aalp")}
        for name in ("alp", "aalp"):
            per_epoch.measure_training(jobs[name], small, images=50)
        model = new_model(setting, 0)
        aalp.fit(model, small, "raw", setting.attack, recipe=setting.recipe, out=jobs["raw"].run)
        for name, job in jobs.items():
            subject = {"data": small.name, "method": name, "seed": 0, "model": "last"}
            analyses.measure_model(load_model(job.run), name, subject, small, out, attack=LOOK, tier="quick")
    for name, weight, pgd in (("aalp_alpha_0", 0.0, 600), ("aalp", 1.0, 800), ("aalp_alpha_5", 5.0, 700)):
        for seed in (0, 1):
            for words in ({}, {"reduced": "one epoch"}):
                made = {"attack": dataclasses.asdict(setting.attack), "recipe": dataclasses.asdict(setting.recipe)}
                config = made | {"method": {"weight": weight}} | words
                found = record(name, seed, config=config, pgd=pgd + 2 * seed if not words else 0)
                found.save(out / f"{weight}-{seed}{'-reduced' * len(words)}.json")
    return out


def kind_of(folder, kind):
    return [*archive.records(folder / kind).measurements.values()]


def every(folder):
    """What `figures.every` makes of a folder's measurements and runs."""
    found = archive.records(folder)
    kinds = {}
    for m in found.measurements.values():
        kinds.setdefault(m.kind, []).append(m)
    return figures.every(kinds, [run for run in found.runs.values() if "reduced" not in run.config])


def test_every_figure_of_the_paper_is_drawn_small_with_title_and_source(measured, tmp_path):
    made = every(measured)
    assert [int(name[7:9]) for name in made] == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    for name, one in made.items():
        path = tmp_path / f"{name}.png"
        one.figure.savefig(path, dpi=plots.DPI)
        width, height = Image.open(path).size
        assert (400 < width <= 1600, 300 < height <= 1200) == (True, True)
        assert path.stat().st_size < 300_000
        assert (one.heading, len(one.claim) > 20, "\n" in one.claim) == (f"Figure {int(name[7:9])}", True, False)
        labelled = [axes for axes in one.figure.axes if axes.get_xlabel() or axes.get_ylabel()]
        assert labelled or name.startswith("figure-10")
    assert made["figure-06-alpha"].drawn_from == "Seeds 0, 1"
    assert made["figure-11-confidences"].drawn_from == "Seed 0, 100 test images"


def test_of_several_seeds_the_lowest_is_drawn(measured):
    others = [
        dataclasses.replace(m, subject=m.subject | {"seed": seed})
        for seed in (9, 10, 11)
        for m in kind_of(measured, "samples")
    ]
    (one,) = figures.every({"samples": others}).values()
    assert one.drawn_from.startswith("Seed 9, ")


def test_figures_without_measurements_are_left_out(measured):
    alp = [m for m in kind_of(measured, "samples") if m.subject["method"] == "alp"]
    assert list(figures.every({"samples": alp})) == ["figure-11-confidences"]
    assert figures.every({}) == {}


# --- comparisons


LINE = {
    "panel": "MNIST",
    "step": "A → B",
    "attack": "PGD-100",
    "gain": 1.0,
    "low": 0.5,
    "high": 1.5,
    "gains": (0.8, 1.2),
    "paper": 2.0,
    "word": "ahead",
}


def gains(**more):
    return LINE | more


def test_a_forest_plot_has_gain_interval_seeds_and_the_papers_gain():
    rows = pd.DataFrame([gains(), gains(attack="CW-100", gain=-1.0, low=-2.0, high=0.0, gains=(-1.5, -0.5),
                                        paper=float("nan"), word="unresolved")])  # fmt: skip
    figure = figures.forest(rows, "A claim")
    (panel,) = figure.axes
    assert [text.get_text() for text in panel.get_yticklabels()] == ["PGD-100", "CW-100"]
    assert (panel.get_title(), panel.get_xlabel(), figure.get_suptitle()) == ("MNIST", "points", "A claim")
    drawn_at = {tuple(line.get_xdata()) for line in panel.lines}
    assert {(2.0,), (1.0,), (0.5, 1.5), (0.8, 1.2), (-1.0,), (-2.0, 0.0)} <= drawn_at
    colours = {tuple(line.get_xdata()): line.get_color() for line in panel.lines}
    assert (colours[1.0,], colours[-1.0,]) == (figures.WORD_COLOURS["ahead"], "0.4")
    figures.plt.close(figure)


def test_a_forest_plot_says_what_was_not_measured_and_what_lies_far_out():
    nothing = dict.fromkeys(("gain", "low", "high"), float("nan")) | {"gains": (), "word": "untested"}
    far = {"gain": -64.5, "low": -65.0, "high": -64.0, "gains": (-64.0, -65.0), "paper": float("nan")}
    more = [gains(attack=f"a{i}") for i in range(5)]
    figure = figures.forest(
        pd.DataFrame([*more, gains(attack="far", **far), gains(panel="SVHN", **nothing)]), "A claim"
    )
    said = [text.get_text() for panel in figure.axes for text in panel.texts]
    assert said == ["-64.5", "untested"]
    figures.plt.close(figure)


def test_a_column_of_table_2_has_the_papers_number_and_ours():
    table = tables.beside_paper(archive.records(), 2, "mnist")
    figure = figures.beside_paper(table, "pgd100")
    (panel,) = figure.axes
    assert [text.get_text() for text in panel.get_yticklabels()][:2] == ["Madry", "ALP"]
    assert panel.get_title() == "PGD-100: widest apart AALP, -3.8 points"
    limits = panel.get_xlim()
    figures.plt.close(figure)
    other = figures.beside_paper(table, "fgsm")
    assert other.axes[0].get_xlim() == limits
    figures.plt.close(other)
    bare = figures.beside_paper(table[table["source"] == "paper"], "pgd100")
    assert bare.axes[0].get_title() == "PGD-100: the paper's rows"
    figures.plt.close(bare)


# --- the paper's figures, one by one


def test_where_no_picture_may_be_stored_the_mean_of_all_maps_is_drawn(measured):
    found = [m for m in kind_of(measured, "activation") if m.subject["method"] != "raw"]
    found = [dataclasses.replace(m, values=m.values | {"pictures": None, "labels": None}) for m in found][::-1]
    figure = figures.every({"activation": found})["figure-08-activation"].figure
    for panel, m in zip(figure.axes, found, strict=False):
        assert (panel.images[0].get_array() == analyses.unpack(m.values["paper"]["mean"]).numpy()).all()


def test_contributions_that_span_little_have_ticks_to_read_and_no_dead_features():
    seen = {}
    for data in ("cifar10-jpeg", "mnist"):
        found = (
            tables.measurements(archive.records(), "contributions", data=data, method=m)[0] for m in ("raw", "aalp")
        )
        figure = figures.contributions([*found])
        drawn(figure)
        ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels() if tick.get_text()]
        figures.plt.close(figure)
        seen[data] = ticks, [text.get_text() for text in figure.axes[2].texts], figure.get_suptitle()
    ticks, notes, claim = seen["cifar10-jpeg"]
    assert {"0.02", "0.05"} <= set(ticks)
    assert notes == []
    assert "Features that carry half" in claim
    assert seen["mnist"][1] == ["dead, or nearly"]
    assert any("10^" in tick for tick in seen["mnist"][0])


def test_contributions_draw_all_features_of_every_method(measured):
    found = kind_of(measured, "contributions")
    figure = figures.contributions(found)
    for panel in figure.axes:
        assert len(panel.patches) == 3
        for patch in panel.patches:
            assert patch.get_data().values.sum() == pytest.approx(100)
    assert any("AALP" in text and "Features that carry half" in text for text in drawn(figure))
    figures.plt.close(figure)


def test_alpha_joins_the_means_over_seeds(measured):
    drawn_ones = [r for r in schema.load_records(measured) if "reduced" not in r.config]
    figure = figures.alpha(drawn_ones)
    assert list(figure.axes[0].lines[4].get_ydata()) == pytest.approx([60.1, 80.1, 70.1])
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["0", "1", "5"]
    assert any("PGD-40 60.1, 80.1, 70.1 % at α = 0, 1, 5" in text for text in drawn(figure))
    figures.plt.close(figure)


def line(epoch, robust, eps=0.3, alp=1.0):
    loss = {"consistent": alp, "inconsistent": 2 * alp, "all": alp}
    values = {"epoch": epoch, "gradients": epoch * 1_000_000, "eps": eps, "clean": 0.9, "robust": robust}
    return values | {"loss_adversarial": 1.0, "alp": loss}


def training(method, lines):
    values = {"epochs": lines, "consistent": 7, "inconsistent": 3}
    return schema.Measurement("over_training", {"method": method, "seed": 0}, "quick", {}, {}, values, 1.0)


def test_convergence_says_from_which_epoch_on_it_is_there():
    slow = training("alp", [line(1, 0.5), line(2, 0.9), line(3, 0.7), line(4, 0.8)])
    fast = training("aalp", [line(1, 0.78), line(2, 0.795), line(3, 0.86), line(4, 0.9)])
    figure = figures.convergence([slow, fast])
    said = "Robust accuracy stays above 79.0 %, a point below the lower end: ALP from epoch 4, AALP from epoch 2"
    assert said in drawn(figure)
    figures.plt.close(figure)


def test_the_alp_losses_are_compared_from_full_radius_on():
    lines = [line(1, 0.1, eps=0.1, alp=50.0), line(2, 0.5, alp=0.5), line(3, 0.8, alp=0.25)]
    figure = figures.pairing_by_set([training("alp", lines)])
    said = drawn(figure)
    assert any("consistent 0.50 → 0.25, inconsistent 1.0 → 0.50" in " ".join(text.split()) for text in said)
    assert {"consistent at the end (7)", "inconsistent at the end (3)"} <= set(said)
    figures.plt.close(figure)


def test_a_set_that_stays_empty_can_be_drawn():
    lines = [line(1, 0.5) | {"alp": {"consistent": 1.0, "inconsistent": None, "all": 1.0}}]
    figure = figures.pairing_by_set([training("alp", lines)])
    said = drawn(figure)
    assert any("consistent 1.0 → 1.0, inconsistent nan → nan" in " ".join(text.split()) for text in said)
    figures.plt.close(figure)


def test_confidences_draw_every_point_and_the_diagonal(measured):
    found = kind_of(measured, "samples")[:1]
    figure = figures.confidences(found)
    lines = figure.axes[0].lines
    for drawn_line, name in zip(lines, analyses.SETS, strict=False):
        kept = [100 * v for v in found[0].values["points"][name]["adversarial"]]
        assert list(drawn_line.get_ydata()) == pytest.approx(kept)
    figures.plt.close(figure)
