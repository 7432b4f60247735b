"""The paper's tables with ours beside them, on made-up records whose every number is known."""

import dataclasses
import json

import pytest
import torch

import aalp_lib as aalp
from aalp_lib import data
from aalp_lib.methods import METHODS
from aalp_lib.reproduction import comparisons, frames, grids, jobs, paper, protocols, schema, tables
from aalp_lib.reproduction.archive import Records
from aalp_lib.reproduction.schema import Measurement, Record

COUNT = 1000


def right(count, first=0, of=COUNT):
    """`count` images right, from number `first` on."""
    return (torch.arange(of) >= first) & (torch.arange(of) < first + count)


def record(method="aalp", seed=0, *, data_set="mnist", recipe="fast", row=None, changes=None, **columns):
    """A made-up record; columns are counts of right images of 1,000, or bool tensors."""
    setting = grids.SETTINGS[data_set.removesuffix("-jpeg")][recipe]
    found = {n: right(v) if isinstance(v, int) else v for n, v in ({"clean": 980} | columns).items()}
    outcomes = aalp.Report({n: aalp.Outcome(v) for n, v in found.items()})
    config = {
        "model": setting.model,
        "attack": setting.attack.described(),
        "recipe": dataclasses.asdict(setting.recipe),
        "method": dataclasses.asdict(row or METHODS[method]),
        "reading": "any",
        "test_images": None,
    } | (changes or {})
    return Record(
        data=data_set,
        method=method,
        seed=seed,
        tier=jobs.tier(data_set),
        config=json.loads(json.dumps(config)),
        environment={"device": "cpu", "processor": "X", "threads": 2},
        accuracy=dict.fromkeys(("last", "best"), schema.accuracies(outcomes)),
        outcomes=dict.fromkeys(("last", "best"), schema.outcomes(outcomes)),
        history={"epochs": [{}, {}], "best": 2},
        seconds={"training": 600.0, "evaluation": 60.0},
    )


def measured(kind, values, method="alp", seed=0, **config):
    subject = {"data": "mnist", "method": method, "seed": seed, "model": "last"}
    return Measurement(kind, subject, "full", {"images": COUNT} | config, {}, values, 1.0)


def attacked(kind, method, seed=0, **columns):
    outcomes = aalp.Report({name.replace("__", " "): aalp.Outcome(right(count)) for name, count in columns.items()})
    values = {"accuracy": schema.accuracies(outcomes), "outcomes": schema.outcomes(outcomes)}
    return measured(kind, values, method, seed)


def found(*runs, measurements=(), folder="mnist"):
    return Records(
        {f"{folder}/{i}": run for i, run in enumerate(runs)}, {f"mnist/x/{i}": m for i, m in enumerate(measurements)}
    )


def cells(table, row, source="ours", **more):
    """The lines of a row, by column."""
    for key, value in ({"row": row, "source": source} | more).items():
        table = table[table[key] == value]
    return table.set_index("column")


# --- the paper's tables


def test_table_2_has_the_papers_row_and_ours_with_mean_span_seeds_and_images():
    runs = (record("alp", seed, pgd40=n) for seed, n in enumerate((700, 730, 709)))
    table = tables.beside_paper(found(*runs, record("adv", pgd40=700)), 2, "mnist")
    assert cells(table, "alp", "paper")["value"].to_dict() == paper.TABLE_2["mnist"]["alp"]
    ours = cells(table, "alp").loc["pgd40"]
    assert (ours["value"], ours["low"], ours["high"]) == (pytest.approx(71.3), pytest.approx(70.0), pytest.approx(73.0))
    assert (ours["seeds"], ours["images"], ours["protocol"]) == (3, 1000, "fast")
    one = cells(table, "adv").loc["pgd40"]  # as Wilson's formula gives it for 700 of 1,000
    assert (round(one["low"], 1), round(one["high"], 1)) == (67.1, 72.8)
    said = tables.shown(table).set_index(["Row", "Source"])["PGD-40"]
    assert said.to_dict() | {
        ("ALP", "ours, fast"): "71.3 [70.0–73.0]",
        ("Madry", "ours, fast"): "70.0 (67.1–72.8)",
    } == (said.to_dict())
    assert said["ALP", "paper"] == "96.37"
    assert tables.shown(table, spans=False).set_index(["Row", "Source"])["PGD-40"]["ALP", "ours, fast"] == "71.3"


def test_only_runs_of_one_protocol_are_averaged():
    recipe = dataclasses.asdict(grids.SETTINGS["mnist"]["fast"].recipe)
    runs = [
        record(seed=0, pgd40=900),
        record(seed=1, pgd40=920),
        record(seed=0, recipe="paper", pgd40=950),
        record(seed=2, changes={"recipe": recipe | {"epochs": 3}}, pgd40=500),
        record(seed=3, changes={"test_images": 100}, pgd40=100),
        record(seed=4, changes={"reduced": "10,000 images", "train_images": 10_000}, pgd40=300),
        record(seed=5, row=dataclasses.replace(METHODS["aalp"], weight=3.0), pgd40=0),
    ]
    ours = tables.beside_paper(found(*runs), 2, "mnist", measured=True)
    ours = ours[(ours["source"] == "ours") & (ours["column"] == "pgd40")].set_index("protocol")["value"]
    assert ours.to_dict() == {
        "fast": pytest.approx(91.0),
        "paper": pytest.approx(95.0),
        "fast, recipe epochs 3": pytest.approx(50.0),
        "fast, 100 test images": pytest.approx(10.0),
        "fast, reduced: 10,000 images": pytest.approx(30.0),
    }


def test_quick_numbers_and_ablations_enter_no_table_of_the_paper():
    quick = record(data_set="mnist-sample", pgd40=900)
    assert quick.tier == "quick"
    for number in tables.TABLES:
        assert set(tables.beside_paper(found(quick), number)["source"]) == {"paper"}
        assert tables.beside_paper(found(quick), number, measured=True).empty
    assert tables.beside_paper(found(record(pgd40=900), folder="mnist/ablations"), 2, measured=True).empty


def test_a_copy_stands_beside_its_original_under_its_own_name():
    table = tables.beside_paper(found(record(data_set="cifar10-jpeg", pgd10=300)), 2)
    assert list(tables.by_set(table)) == ["mnist", "svhn", "cifar10"]
    said = tables.shown(tables.by_set(table)["cifar10"])
    assert list(said["Source"][said["PGD-10"] == "30.0 (27.2–32.9)"]) == ["ours, fast, CIFAR-10, JPEG"]
    with pytest.raises(aalp.InputError, match="unknown data set of the paper 'mnist-sample'"):
        tables.beside_paper(found(), 2, "mnist-sample")


def test_table_1_is_the_mean_over_the_networks_of_the_records():
    kept = {"clean_confidence": 0.9, "adversarial_confidence": 0.8, "classification_loss": 0.3, "alp_loss": 0.1}
    values = [
        {"consistent": {"count": 900, **kept}, "inconsistent": {"count": 0}},
        {"consistent": {"count": 800, **kept, "alp_loss": 0.2}, "inconsistent": {"count": 0}},
    ]
    made = [measured("samples", v, seed=seed) for seed, v in enumerate(values)]
    stray = measured("samples", values[0], seed=7)  # of no run
    table = tables.beside_paper(found(record("alp"), record("alp", 1), measurements=(*made, stray)), 1, "mnist")
    ours = cells(table, "consistent")
    assert ours.loc["mean_clean_confidence", "value"] == pytest.approx(90)
    assert tuple(ours.loc["alp_loss", ["value", "low", "high"]]) == (pytest.approx(0.15), 0.1, 0.2)
    assert set(ours["images"]) == {850}
    assert cells(table, "inconsistent").empty


# --- other tables


def test_accuracies_are_means_over_seeds_and_empty_columns_go():
    runs = frames.frame(found(record("alp", 0, pgd100=900), record("alp", 1, pgd100=920)))
    table = tables.accuracies(runs[runs["model"] == "last"], ("pgd100", "cw100"))
    assert table.to_dict("records") == [
        {"Method": "ALP", "Protocol": "fast", "Seeds": 2, "PGD-100": "91.0 [90.0–92.0]"}
    ]


def test_a_change_of_the_attacks_is_told_by_what_it_moves():
    kept = found(
        record("alp"), record("alp", 1),
        measurements=[
            attacked("attacks", "alp", 0, pgd100=900, pgd100__start=880, pgd100__last=900),
            attacked("attacks", "alp", 1, pgd100=910, pgd100__start=880, pgd100__last=910),
        ],
    )  # fmt: skip
    frame = frames.frame(kept)
    (line,) = tables.moved(frame[frame["suite"] == "attacks"], ["pgd100"]).to_dict("records")
    assert (line["Method"], line["Networks"], line["PGD-100"]) == ("ALP", 2, "−2.5")


def test_a_comparison_reads_as_gain_interval_paper_and_verdict():
    frame = frames.frame(found(*(record("alp", s, pgd100=900) for s in range(3)),
                               *(record("aalp", s, pgd100=900 + n) for s, n in enumerate((10, 20, 30)))))  # fmt: skip
    family = comparisons.judged([comparisons.compare(frame, "alp", "aalp", "pgd100", data="mnist")])
    (line,) = tables.gains(family).to_dict("records")
    assert (line["step"], line["attack"], line["panel"]) == ("ALP → AALP", "PGD-100", "MNIST")
    assert (line["gain"], line["paper"]) == (pytest.approx(2.0), pytest.approx(96.32 - 94.50))
    assert tables.estimate(family[0]) == "+2.0 [−0.5, +4.5]"  # 2 ± 4.303 / √3
    (said,) = tables.readable(tables.gains(family)).to_dict("records")
    assert said == {
        "Paper": "+1.8", "Ours": "+2.0", "95 % interval": "[−0.5, +4.5]", "Seeds": 3, "p, Holm": "0.074",
        "Verdict": "unresolved",
    }  # fmt: skip


# --- cost


def test_cost_counts_attack_steps_and_samples_of_the_training_step():
    epochs = grids.SETTINGS["mnist"]["fast"].recipe.epochs
    for method, count in {"raw": 1, "adv": 6, "alp": 7, "trades": 7, "aalp": 7}.items():
        assert tables.cost(record(method)) == 54_000 * epochs * count
    assert tables.cost(record(changes={"train_images": 9, "reduced": "9"})) == 9 * epochs * 7
    assert tables.cost(dataclasses.replace(record(), data="mine")) is None


def test_cost_knows_how_many_images_the_data_sets_have(sample):
    assert tables.IMAGES["mnist-sample"] == len(sample.train)
    assert tables.IMAGES["mnist"] == 60_000 - data.MNIST_VAL
    svhn = (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659)  # training images of each digit
    for name, counts in {"svhn": svhn, "cifar10": (5000,) * 10, "cifar10-jpeg": (5000,) * 10}.items():
        labels = torch.arange(10).repeat_interleave(torch.tensor(counts))
        assert tables.IMAGES[name] == len(data.stratified(labels, data.VAL_FRACTION)[0])


# --- which runs are repetitions


@pytest.mark.parametrize(
    ("method", "recipe"), [("alp", "fast"), ("trades", "fast"), ("aalp", "paper"), ("raw", "paper")]
)
def test_an_evaluation_of_a_trained_run_has_the_protocol_of_a_grids_run(method, recipe):
    """`aalp evaluate` writes down the network in full and the method's own attack, none for RAW."""
    of_a_grid, setting, row = record(method, recipe=recipe), grids.SETTINGS["mnist"][recipe], METHODS[method]
    attack = row.training_attack(setting.attack).described() if row.adversarial else None
    changes = {"model": aalp.models.build(setting.model).config, "attack": attack, "evaluation_seed": 0}
    of_a_run = record(method, recipe=recipe, seed=1, changes=changes)
    assert protocols.protocol(of_a_run) == recipe
    assert protocols.repetition(of_a_grid) == protocols.repetition(of_a_run)
    wider = record(method, recipe=recipe, changes=changes | {"model": changes["model"] | {"width": [32, 64, 1024]}})
    assert protocols.protocol(wider) == f"{recipe}, model width [32, 64, 1024]"


def test_on_a_readers_images_other_settings_are_another_protocol():
    """There is no setting of ours to name the difference from."""
    runs = [record(seed=0), record(seed=1), record(seed=0, changes={"model": {"name": "resnet9"}})]
    theirs = [protocols.repetition(dataclasses.replace(run, data="pictures")) for run in runs]
    assert theirs[0] == theirs[1] != theirs[2]
