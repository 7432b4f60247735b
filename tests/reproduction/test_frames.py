"""The one frame, held to the records that it comes from."""

import pytest

from aalp_lib.reproduction import frame, frames, records, schema


@pytest.fixture(scope="module")
def everything():
    return frame()


def test_each_accuracy_of_a_run_is_a_line_with_its_images(everything):
    run = records().runs["mnist/mnist-alp-seed0"]
    lines = everything[(everything["run"] == "mnist/mnist-alp-seed0") & (everything["suite"] == "table2")]
    assert len(lines) == sum(map(len, run.accuracy.values()))
    for _, line in lines.iterrows():
        cell = run.accuracy[line["model"]][line["attack"]]
        assert {key: line[key] for key in cell} == cell
        packed = run.outcomes[line["model"]][line["attack"]]
        assert line["right"].tolist() == schema.unpack(packed, cell["count"]).tolist()
        assert line["right"].sum() == line["correct"]
    assert {*lines["label"], *lines["protocol"], *lines["precision"]} == {"ALP", "fast", "float32"}


def test_measurements_of_attacks_stand_with_the_run_whose_network_they_attacked(everything):
    (line,) = everything[
        (everything["run"] == "mnist/mnist-aalp-seed0") & (everything["attack"] == "square")
    ].itertuples()
    measured = records().measurements["mnist/strong/mnist-aalp-seed0"]
    assert (line.suite, line.correct) == ("strong", measured.values["accuracy"]["square"]["correct"])
    assert line.count == 1000
    both = everything[(everything["run"] == "mnist/mnist-aalp-seed0") & (everything["attack"] == "pgd100")]
    assert sorted(both["suite"].unique()) == ["attacks", "table2"]


def test_no_line_stands_twice(everything):
    assert list(everything.columns) == list(frames.COLUMNS)
    assert not everything.duplicated(["run", "model", "suite", "attack"]).any()
    assert not everything.duplicated(["group", "seed", "model", "suite", "attack"]).any()


def test_a_variant_is_told_by_where_it_differs_from_the_row_it_comes_from(everything):
    runs = everything.drop_duplicates(["data", "method", "protocol"])
    told = {(r.method, r.base, r.variant) for r in runs.itertuples() if r.data == "mnist"}
    assert {("alp", "alp", ""), ("alp_averaged", "alp", "weight 0.1"), ("aalp_averaged", "aalp", "weight 0.1")} <= told
    assert ("aalp_sw_mean", "aalp_sw", "pairing mean_weight_alp") in told
    changed = runs[(runs["method"] == "alp") & (runs["data"] == "mnist")]["protocol"]
    assert {"fast", "paper", "fast, recipe epochs 32", "fast, attack start clean"} <= {*changed}


def test_the_frame_is_ones_own_to_change(everything):
    mine = frame()
    mine["accuracy"] = 0.0
    assert frame()["accuracy"].equals(everything["accuracy"])
