import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st

import aalp_lib as aalp
from aalp_lib.reproduction import plots_of_records, schema
from aalp_lib.reproduction.schema import Record, load_records, pack, unpack


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
    (tmp_path / "newer.json").write_text(json.dumps({"schema": 99}))
    with pytest.warns(UserWarning, match="record") as caught:
        assert load_records(tmp_path) == [record()]
    said = " ".join(str(w.message) for w in caught)
    assert all(name in said for name in ("broken.json", "newer.json has record schema 99"))


def cell(**changes):
    return {"last": {"pgd40": accuracy(700) | changes}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": "0"}, "Expected `int`, got `str` - at `$.seed`"),
        ({"seed": True}, "Expected `int`, got `bool` - at `$.seed`"),
        ({"extra": 1}, "unknown field `extra`"),
        ({"accuracy": {"last": None}}, "got `null` - at `$.accuracy[...]`"),
        ({"accuracy": cell(accuracy=0.9)}, "accuracy 0.9 is outside its interval - at `$.accuracy.last.pgd40`"),
        ({"accuracy": cell(count=0)}, "700 of 0 images are right - at `$.accuracy.last.pgd40`"),
        ({"accuracy": cell(count=10**300)}, "at `$.accuracy.last.pgd40.count`"),
        ({"outcomes": {"last": {"cw40": "AA=="}}}, "'cw40' has outcomes and no accuracy"),
        ({"outcomes": {"last": {"pgd40": "AA=="}}}, "the outcomes do not add up to the count"),
        ({"config": {}}, "missing required field `method` - at `$.config`"),
        ({"config": {"method": {"label": 1}, "attack": None, "recipe": {}}}, "got `int` - at `$.config.method.label`"),
    ],
)
def test_what_is_wrong_with_a_record_is_said_in_a_sentence_with_file_and_field(tmp_path, changes, said):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(dataclasses.asdict(record(accuracy=cell())) | changes))
    with pytest.raises(aalp.InputError) as error:
        schema.load(path)
    assert f"{path} is not a readable record (" in str(error.value)
    assert said in str(error.value)


def test_a_measurement_lacks_nothing_that_tables_use(tmp_path):
    sound = Path(schema.__file__).parents[2] / "results" / "mnist" / "diagnosis" / "mnist-alp-seed0.json"
    document = json.loads(sound.read_text())
    del document["values"]["black_box"]["square"]["only"]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    with pytest.raises(aalp.InputError, match=r"missing required field `only` - at `\$.values.black_box"):
        schema.load(path)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_outcomes_survive_packing(values):
    correct = torch.tensor(values)
    assert torch.equal(unpack(pack(correct), len(values)), correct)


# --- figures


def drawn(figure):
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_robust_accuracy_figure_draws_each_record_with_its_interval():
    figure = plots_of_records.robust_accuracy([record("raw", pgd=0), record("adv"), record("aalp", pgd=720)])
    texts = drawn(figure)
    assert {"RAW", "Madry", "AALP", "PGD-40", "correct test images (%)"} <= set(texts)
    assert len(figure.axes) == 2  # broken between RAW's 0 % and the others
    bars = figure.axes[0].containers
    assert len(bars) == 3
    assert list(bars[2].lines[0].get_ydata()) == pytest.approx([95, 80, 72])
    assert len(plots_of_records.robust_accuracy([record()]).axes) == 1
    plots_of_records.plt.close(figure)


def test_one_changed_digit_in_a_record_is_noticed(tmp_path):
    path = record(seed=3).save(tmp_path / "a.json")
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 2'))
    with pytest.raises(aalp.InputError, match=r"a\.json is not a readable record \(it is damaged"):
        schema.load(path)
