import csv
import io
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import aalp_lib as aalp
from aalp_lib.reproduction import comparisons, machine, plots_of_records, schema
from aalp_lib.reproduction.schema import Record, load_records, pack, table, unpack


def accuracy(correct, count=1000):
    outcome = aalp.Outcome(torch.arange(count) < correct)
    return schema.accuracies(aalp.Report({"x": outcome}))["x"]


def record(method="aalp", seed=0, pgd=700, **changes):
    line = aalp.Epoch(1, 2.0, 1.5, 0.5, 0.5, 0.1, 1e-3, 0.9, 0.4, 3.0)
    found = {"clean": accuracy(950), "fgsm": accuracy(800), "pgd40": accuracy(pgd)}
    values = {
        "data": "mnist-sample",
        "method": method,
        "seed": seed,
        "tier": "quick",
        "config": {"recipe": {"ramp": 0.3, "lr": 1e-3, "epochs": 2}, "method": {"name": method}, "attack": None},
        "environment": {},
        "accuracy": {"last": found, "best": {"pgd40": accuracy(710)}},
        "outcomes": {},
        "history": {"epochs": [line.__dict__, line.__dict__ | {"epoch": 2, "robust": 0.6}], "best": 2},
        "seconds": {"training": 1.0, "evaluation": 2.0},
    }
    return Record(**(values | changes))


def test_record_comes_back_from_disk_as_it_was(tmp_path):
    assert Record.load(record().save(tmp_path / "a" / "r.json")) == record()


def test_damaged_and_foreign_records_are_named_and_left_out(tmp_path):
    record().save(tmp_path / "good.json")
    (tmp_path / "broken.json").write_text('{"data": "mn')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "other.json").write_text(json.dumps({"schema": 1, "data": "mnist"}))
    (tmp_path / "newer.json").write_text(json.dumps({"schema": 99}))
    with pytest.warns(UserWarning, match="record") as caught:
        assert load_records(tmp_path) == [record()]
    said = " ".join(str(w.message) for w in caught)
    assert all(name in said for name in ("broken.json", "list.json", "other.json", "newer.json has record schema 99"))


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_outcomes_survive_packing(values):
    correct = torch.tensor(values)
    assert torch.equal(unpack(pack(correct), len(values)), correct)


def test_mcnemar_is_the_binomial_test_on_images_that_one_model_alone_has_right():
    a = torch.tensor([True] * 5 + [True] * 8 + [False] * 2 + [False] * 5)  # both, only a, only b, neither
    b = torch.tensor([True] * 5 + [False] * 8 + [True] * 2 + [False] * 5)
    two_sided = 2 * (1 + 10 + 45) / 2**10  # splits of 10 into 0, 1 or 2 against the rest, both ways
    assert comparisons.mcnemar(a, b) == (8, 2, pytest.approx(two_sided))
    assert comparisons.mcnemar(b, a) == (2, 8, pytest.approx(two_sided))
    assert comparisons.mcnemar(a, a) == (0, 0, 1.0)
    with pytest.raises(aalp.InputError, match="same images"):
        comparisons.mcnemar(a, b[:3])
    with pytest.raises(aalp.InputError, match="bool"):
        comparisons.mcnemar(a, b.long())


def test_markdown_table_shows_the_interval():
    text = table([record(), record("raw", pgd=0)])
    head, rule, first, second = text.splitlines()
    assert head == "| Method | Seed | Clean | FGSM | PGD-40 |"
    assert set(rule) == set("|- ")
    assert first == "| AALP | 0 | 95.0 (93.5–96.2) | 80.0 (77.4–82.4) | 70.0 (67.1–72.8) |"
    assert "0.0 (0.0–0.4)" in second
    assert "71.0" in table([record()], which="best")
    of_one_model = record(accuracy={"last": record().accuracy["last"]})  # as `aalp evaluate` writes it
    assert table([of_one_model], which="best").count("not measured") == 0
    assert table([record(), of_one_model], which="best").count("not measured") == 1


def test_csv_table_has_a_line_for_each_accuracy():
    lines = list(csv.DictReader(io.StringIO(table([record()], form="csv"))))
    assert len(lines) == 3
    assert lines[2]["attack"] == "pgd40"
    assert (lines[2]["correct"], lines[2]["count"], lines[2]["accuracy"]) == ("700", "1000", "70.00")


def test_unknown_form():
    with pytest.raises(aalp.InputError, match="known are markdown, csv"):
        table([record()], form="html")
    with pytest.raises(aalp.InputError, match="known are last, best"):
        table([], which="lats")


def test_environment_names_device_threads_and_versions():
    found = machine.environment(torch.device("cpu"))
    assert found["threads"] == torch.get_num_threads()
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert found["aalp_lib"] == aalp.__version__
    assert found["processor"]


# --- figures


def drawn(figure):
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_robust_accuracy_figure_draws_each_record_with_its_interval():
    figure = plots_of_records.robust_accuracy([record("raw", pgd=0), record("adv"), record("aalp", pgd=720)])
    texts = drawn(figure)
    assert {"RAW", "Madry", "AALP", "PGD-40", "correct test images (%)"} <= set(texts)
    assert any("keeps 70 to 72 % correct; without it, 0 %" in text for text in texts)
    assert len(figure.axes) == 2  # broken between RAW's 0 % and the others
    bars = figure.axes[0].containers
    assert len(bars) == 3
    assert list(bars[2].lines[0].get_ydata()) == pytest.approx([95, 80, 72])
    assert len(plots_of_records.robust_accuracy([record()]).axes) == 1
    plots_of_records.plt.close(figure)


def test_training_curves_draw_every_epoch():
    figure = plots_of_records.training_curves([record("adv"), record("aalp")])
    texts = drawn(figure)
    assert {"epoch", "validation accuracy, clean (%)"} <= set(texts)
    line = figure.axes[2].lines[0]
    assert list(line.get_xdata()) == [1, 2]
    assert list(line.get_ydata()) == [40, 60]
    plots_of_records.plt.close(figure)


def test_records_come_in_table_order():
    mixed = [record("aalp"), record("alp", seed=1), record("alp"), record("raw")]
    mixed.insert(0, record("aalp_half"))
    assert [(r.method, r.seed) for r in plots_of_records.in_table_order(mixed)] == [
        ("raw", 0),
        ("alp", 0),
        ("alp", 1),
        ("aalp", 0),
        ("aalp_half", 0),
    ]
