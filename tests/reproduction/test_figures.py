import dataclasses
import re
from pathlib import Path

import pytest
from PIL import Image
from test_per_epoch import LOOK, SETTING
from test_schema import drawn, record

import aalp_lib as aalp
from aalp_lib.checkpoints import load_model
from aalp_lib.reproduction import analyses, collect, figures, per_epoch, report, schema
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
                config = {"attack": {}, "recipe": {"lr": 2e-3}, "method": {"weight": weight}, **words}
                found = record(name, seed, config=config, pgd=pgd + 2 * seed if not words else 0)
                found.save(out / f"{weight}-{seed}{'-reduced' * len(words)}.json")
    return out


def kind_of(folder, kind):
    return schema.load_measurements(folder / kind)


def test_every_figure_is_drawn_from_what_is_on_disk(measured, tmp_path):
    *paths, page = figures.draw_all(measured, tmp_path)
    assert [int(path.name[7:9]) for path in paths] == [*range(1, 13)]
    for path in paths:
        width, height = Image.open(path).size
        assert 400 < width <= 1600
        assert 300 < height <= 1200
        assert path.stat().st_size < 300_000
    said = page.read_text()
    assert page.name == "README.md"
    assert re.findall(r"!\[Figure (\d+)\]\((.*)\)", said) == [(str(int(path.name[7:9])), path.name) for path in paths]
    assert "## Figure 11\n\nMean distance of the two confidences, in points: ALP " in said
    assert "\n\nmnist-sample, recipe fast, seeds 0, 1.\n" in said  # figure 6 has all seeds


@pytest.mark.parametrize("folder", sorted(RESULTS.glob("*/figures")), ids=lambda folder: folder.parent.name)
def test_the_committed_pages_of_figures_say_what_the_records_do(folder, tmp_path, monkeypatch):
    """Of the pictures only that they are there: saving them takes long, and their bytes are their matplotlib's."""
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, target, **_: None)
    *paths, page = figures.draw_all(folder.parent, tmp_path)
    assert page.read_text() == (folder / "README.md").read_text()
    assert [path.name for path in paths] == sorted(path.name for path in folder.glob("*.png"))


def test_the_diagnosis_is_drawn_with_its_bound(tmp_path):
    """Its claim are the largest accuracies at radius 0.5 and 1, whichever network has them."""
    root = RESULTS / "mnist" / "diagnosis"
    found = [schema.Measurement.load(root / f"mnist-{name}-seed0.json") for name in ("raw", "alp")]
    found[1].values["eps"][-1] |= {"accuracy": 0.125, "low": 0.1, "high": 0.15, "correct": 125}
    for m in found:
        m.save(tmp_path / "diagnosis" / f"{m.subject['method']}.json")
    path, page = figures.draw_all(tmp_path, tmp_path / "out")
    assert path.name == "figure-beyond-diagnosis.png"
    said = page.read_text()
    assert "## Beyond the paper: diagnosis\n\nAt radius 0.5, where every ball holds a grey image, at most 0.0 %" in said
    assert "at radius 1, where it holds every image, at most 12.5 %.\n" in said


def test_a_figure_of_gradients_that_differ_says_whose_are_which(measured, tmp_path):
    (tmp_path / "samples").mkdir()
    for m in kind_of(measured, "samples"):
        tf32 = {"tf32": m.subject["method"] == "aalp"}
        dataclasses.replace(m, environment=m.environment | tf32).save(
            tmp_path / "samples" / f"{m.subject['method']}.json"
        )
    page = figures.draw_all(tmp_path, tmp_path / "out")[-1].read_text()
    assert "100 test images; gradients in float32: ALP; TF32: AALP.\n" in page
    assert "gradients in" not in figures.draw_all(measured, tmp_path / "other")[-1].read_text()


def test_a_training_whose_place_another_took_is_named(measured, tmp_path):
    """It is one of the folder `earlier` if the record there says that it was made where and by what this was."""
    alp, aalp_ = sorted(kind_of(measured, "over_training"), key=lambda m: m.subject["method"], reverse=True)
    made = record("alp", 0, environment=alp.environment, config={"attack": {}, "recipe": {"lr": 2e-3}, "method": {}})
    for folder, run in (("", dataclasses.replace(made, environment={"device": "cuda"})), ("earlier", made)):
        run.save(tmp_path / folder / "alp.json")
    for m in (alp, aalp_):
        m.save(tmp_path / "over_training" / f"{m.subject['method']}.json")
    page = figures.draw_all(tmp_path, tmp_path / "out")[-1].read_text()
    assert page.count("50 test images; ALP: of an earlier training than Table 2's.\n") == 2  # figures 4 and 12
    (tmp_path / "earlier" / "alp.json").unlink()
    assert "earlier" not in figures.draw_all(tmp_path, tmp_path / "out")[-1].read_text()


def test_figure_5_has_what_the_method_has():
    words = {"mask": "Guided Dropout, Eq. 7 and 8:\nmedian rule, a mask a batch", "kept": "features\nthat are kept"}
    for name in ("alp", "aalp_gd", "aalp_sw", "aalp"):
        config = {"method": dataclasses.asdict(aalp.METHODS[name])}
        figure = figures.adaptive_pairing([record(name, config=config)])
        texts = [text.get_text() for text in figure.axes[0].texts]
        figures.plt.close(figure)
        assert ({*words.values()} <= {*texts}) == ("gd" in name or name == "aalp")
        assert any("confidence" in text for text in texts) == (name in ("aalp_sw", "aalp"))
        assert texts.count("cross-entropy") == 2
    config["method"] |= {"classify": "clean", "weight": 0.5}
    figure = figures.adaptive_pairing([record("aalp", config=config)])
    texts = [text.get_text() for text in figure.axes[0].texts]
    figures.plt.close(figure)
    assert texts.count("cross-entropy") == 1
    assert any("α = 0.5" in text for text in texts)


def test_where_no_picture_may_be_stored_the_mean_of_all_maps_is_drawn(measured, tmp_path):
    found = [m for m in kind_of(measured, "activation") if m.subject["method"] != "raw"]
    for m in found:
        values = m.values | {"pictures": None, "labels": None}
        dataclasses.replace(m, values=values).save(tmp_path / "activation" / f"{m.subject['method']}.json")
    assert [path.name for path in figures.draw_all(tmp_path, tmp_path / "out")][:2] == [
        "figure-02-activation.png", "figure-08-activation.png",
    ]  # fmt: skip
    figure = figures.mean_maps(found)
    for panel, m in zip(figure.axes, found, strict=False):
        assert (panel.images[0].get_array() == analyses.unpack(m.values["paper"]["mean"]).numpy()).all()
    figures.plt.close(figure)


def test_figures_without_measurements_are_left_out(measured, tmp_path):
    (tmp_path / "samples").mkdir()
    for path in (measured / "samples").glob("alp.json"):
        (tmp_path / "samples" / path.name).write_bytes(path.read_bytes())
    made = [path.name for path in figures.draw_all(tmp_path, tmp_path / "out")]
    assert made == ["figure-11-confidences.png", "README.md"]
    assert figures.draw_all(tmp_path / "nothing", tmp_path / "out") == []


def test_of_several_seeds_the_lowest_is_drawn(measured):
    first = kind_of(measured, "samples")[0]
    others = [dataclasses.replace(first, subject=first.subject | {"seed": seed}) for seed in (10, 9, 11)]
    assert figures._lowest_seed(others)["aalp"].subject["seed"] == 9


def test_a_figure_keeps_to_one_protocol_and_says_which(measured, tmp_path, monkeypatch):
    drawn_of, written = {}, {}
    monkeypatch.setattr(figures, "confidences", lambda found: drawn_of.setdefault("samples", found) and plain())
    monkeypatch.setattr(figures, "alpha", lambda found: drawn_of.setdefault("alpha", found) and plain())
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, path, **_: written.update({path.name: drawn(figure)}))

    def plain():
        return figures.plt.figure()

    (tmp_path / "samples").mkdir()
    for m in kind_of(measured, "samples"):
        if m.subject["method"] == "aalp":
            dataclasses.replace(m, subject=m.subject | {"recipe": "paper"}).save(tmp_path / "samples" / "a.json")
            dataclasses.replace(m, subject=m.subject | {"seed": 7}).save(tmp_path / "samples" / "b.json")
    figures.draw_all(tmp_path, tmp_path / "out")
    assert [m.subject["seed"] for m in drawn_of.pop("samples")] == [7]
    (said,) = written["figure-11-confidences.png"]
    assert said.startswith("mnist-sample, recipe fast, seed 7, ")
    (tmp_path / "samples" / "b.json").unlink()
    figures.draw_all(tmp_path, tmp_path / "out")
    assert [m.subject["recipe"] for m in drawn_of.pop("samples")] == ["paper"]
    (said,) = written["figure-11-confidences.png"]
    assert said.startswith("mnist-sample, recipe paper, seed 0, ")
    figures.draw_all(measured, tmp_path / "out")
    assert len(drawn_of["alpha"]) == 6
    assert not any("reduced" in r.config for r in drawn_of["alpha"])


def test_contributions_that_span_little_have_ticks_to_read_and_no_dead_features():
    root = Path(__file__).resolve().parents[2] / "results"
    seen = {}
    for data in ("cifar10-jpeg", "mnist"):
        kept = report.by_method(collect.read(root / data.removesuffix("-jpeg")), "contributions", data)
        figure = figures.contributions([kept["raw"], kept["aalp"]])
        drawn(figure)
        ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels() if tick.get_text()]
        figures.plt.close(figure)
        seen[data] = ticks, [text.get_text() for text in figure.axes[2].texts], figure.get_suptitle()
    ticks, notes, claim = seen["cifar10-jpeg"]
    assert {"0.02", "0.05"} <= set(ticks)
    assert notes == []
    assert "e+" not in claim
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
    assert any("consistent 0.50 → 0.25, inconsistent 1.0 → 0.50" in text for text in said)
    assert {"consistent at the end (7)", "inconsistent at the end (3)"} <= set(said)
    figures.plt.close(figure)


def test_a_set_that_stays_empty_can_be_drawn():
    lines = [line(1, 0.5) | {"alp": {"consistent": 1.0, "inconsistent": None, "all": 1.0}}]
    figure = figures.pairing_by_set([training("alp", lines)])
    assert "The ALP loss by epoch" in drawn(figure)
    figures.plt.close(figure)


def test_confidences_draw_every_point_and_the_diagonal(measured):
    found = kind_of(measured, "samples")[:1]
    figure = figures.confidences(found)
    lines = figure.axes[0].lines
    for drawn_line, name in zip(lines, analyses.SETS, strict=False):
        kept = [100 * v for v in found[0].values["points"][name]["adversarial"]]
        assert list(drawn_line.get_ydata()) == pytest.approx(kept)
    figures.plt.close(figure)
