"""Records as lists and tables: on made-up records whose every number is known, and on the repository's own."""

import csv
import dataclasses
import io
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import aalp_lib as aalp
from aalp_lib import data
from aalp_lib.cli import main
from aalp_lib.methods import METHODS
from aalp_lib.reproduction import collect, comparisons, figures, grids, paired, paper, report, schema, settings
from aalp_lib.reproduction.schema import Measurement, Record, pack

ROOT = Path(__file__).resolve().parents[2]
COUNT = 1000


def right(count, first=0, of=COUNT):
    """`count` images right, from number `first` on."""
    return (torch.arange(of) >= first) & (torch.arange(of) < first + count)


def record(method="aalp", seed=0, *, data_set="mnist", recipe="fast", row=None, best=2, changes=None, **columns):
    """A made-up record; columns are counts of right images of 1,000, or bool tensors."""
    setting = settings.SETTINGS[data_set.removesuffix("-jpeg")][recipe]
    found = {n: right(v) if isinstance(v, int) else v for n, v in ({"clean": 980} | columns).items()}
    outcomes = aalp.Report({n: aalp.Outcome(v) for n, v in found.items()})
    config = {
        "model": setting.model,
        "attack": dataclasses.asdict(setting.attack),
        "recipe": dataclasses.asdict(setting.recipe),
        "method": (row or METHODS[method]).described(),
        "reading": "any",
        "test_images": None,
    } | (changes or {})
    return Record(
        data=data_set,
        method=method,
        seed=seed,
        tier=settings.tier(data_set),
        config=json.loads(json.dumps(config)),
        environment={"device": "cpu", "processor": "X", "threads": 2},
        accuracy=dict.fromkeys(("last", "best"), schema.accuracies(outcomes)),
        outcomes=dict.fromkeys(("last", "best"), schema.outcomes(outcomes)),
        history={"epochs": [{}, {}], "best": best},
        seconds={"training": 600.0, "evaluation": 60.0},
    )


def measured(kind, values, method="alp", seed=0, **subject):
    about = {"data": "mnist", "method": method, "seed": seed, "model": "last"} | subject
    return Measurement(kind, about, "full", {}, {}, values, 1.0)


def strong(method, seed=0, **columns):
    outcomes = aalp.Report({name: aalp.Outcome(correct) for name, correct in columns.items()})
    values = {"columns": schema.accuracies(outcomes), "outcomes": schema.outcomes(outcomes)}
    return measured("strong", values, method, seed)


def found(*records, measurements=()):
    return collect.Found(records=list(records), measurements=list(measurements))


def as_published(method, shift=0.0):
    """A record with the paper's row, shifted by so many points, of 10,000 images."""
    row = {n: min(10_000, round(100 * (v + shift))) for n, v in paper.TABLE_2["mnist"][method].items()}
    return record(method, **{n: right(max(v, 0), of=10_000) for n, v in row.items()})


# --- verdicts and cells


def test_a_row_agrees_within_two_points_in_every_column():
    published = {"clean": 99.0, "pgd40": 94.0, "cw100": 90.0}
    assert report.verdict(published, {"clean": 98.0, "pgd40": 96.0, "cw100": 88.0}) == "agrees; widest +2.00 at PGD-40"
    assert report.verdict(published, {"clean": 99.0, "pgd40": 91.9, "cw100": 80.5}) == (
        "lower by 9.5 at CW-100; off in 2 of 3 columns"
    )
    assert report.verdict(published, {"clean": 99.0, "pgd40": 96.1, "cw100": 90.0}) == (
        "higher by 2.1 at PGD-40; off in 1 of 3 columns"
    )
    both = report.verdict(published, {"clean": 90.0, "pgd40": 97.0, "cw100": 90.0})
    assert both == "lower by 9.0 at Clean; higher by 3.0 at PGD-40; off in 2 of 3 columns"
    assert report.verdict(published, {"clean": 99.0}) == "agrees; widest +0.0 at Clean; 2 columns not measured"
    assert report.verdict(published, {}) == "not measured yet"


def test_a_difference_that_rounds_to_nothing_has_no_minus():
    assert [collect.signed(points) for points in (-0.04, 0.0, -0.06, 1.25)] == ["+0.0", "+0.0", "-0.1", "+1.2"]


def test_losses_are_judged_by_a_tenth_of_the_published_one():
    published = {"mean_clean_confidence": 90.0, "alp_loss": 0.2}
    assert report.verdict(published, {"mean_clean_confidence": 91.0, "alp_loss": 0.215}).startswith("agrees")
    assert report.verdict(published, {"mean_clean_confidence": 90.0, "alp_loss": 0.25}).startswith(
        "higher by 0.05 at ALP loss;"
    )


def test_one_seed_has_its_wilson_interval_and_several_their_mean_and_range():
    one = collect.Cell.of([record(pgd40=700).accuracy["last"]["pgd40"]])
    assert str(one) == "70.0 (67.1–72.8)"  # as Wilson's formula gives it for 700 of 1,000
    three = collect.Cell.of([record(pgd40=n).accuracy["last"]["pgd40"] for n in (700, 730, 709)])
    assert (three.value, three.low, three.high, three.seeds) == (pytest.approx(71.3), 70.0, 73.0, 3)
    assert str(three) == "71.3 [70.0–73.0]"


# --- which runs are repetitions


def test_a_verdict_near_the_limit_shows_on_which_side_it_is():
    assert report.verdict({"pgd40": 96.03}, {"pgd40": 93.99}) == "lower by 2.04 at PGD-40"
    assert report.verdict({"pgd40": 96.03}, {"pgd40": 94.07}) == "agrees; widest -1.96 at PGD-40"


def test_on_a_readers_images_other_settings_are_another_protocol():
    """There is no setting of ours to name the difference from."""
    runs = [record(seed=0), record(seed=1), record(seed=0, changes={"model": {"name": "resnet9"}})]
    theirs = [dataclasses.replace(run, data="pictures") for run in runs]
    assert [len(group.records) for group in collect.groups(theirs)] == [2, 1]


@pytest.mark.parametrize(
    ("method", "recipe"), [("alp", "fast"), ("trades", "fast"), ("aalp", "paper"), ("raw", "paper")]
)
def test_an_evaluation_of_a_trained_run_has_the_protocol_of_a_grids_run(method, recipe):
    """`aalp evaluate` writes down the network in full and the method's own attack, none for RAW."""
    of_a_grid, setting = record(method, recipe=recipe), settings.SETTINGS["mnist"][recipe]
    row = METHODS[method]
    attack = dataclasses.asdict(row.training_attack(setting.attack)) if row.adversarial else None
    changes = {"model": aalp.models.build(setting.model).config, "attack": attack, "evaluation_seed": 0}
    of_a_run = record(method, recipe=recipe, seed=1, changes=changes)
    assert collect.protocol(of_a_run) == recipe
    assert [len(group.records) for group in collect.groups([of_a_grid, of_a_run])] == [2]
    wider = record(method, recipe=recipe, changes=changes | {"model": changes["model"] | {"width": [32, 64, 1024]}})
    assert collect.protocol(wider) == f"{recipe}, model width [32, 64, 1024]"


def test_an_evaluation_with_other_random_starts_is_no_second_record_of_the_run(tmp_path):
    for seed in (0, 1):
        record(pgd40=900 + seed, changes={"evaluation_seed": seed}).save(tmp_path / f"{seed}.json")
    kept = collect.read(tmp_path)
    assert not kept.left_out
    assert sorted(map(collect.protocol, kept.records)) == ["fast", "fast, attacked with seed 1"]


def test_only_runs_of_one_protocol_are_averaged():
    recipe = dataclasses.asdict(settings.SETTINGS["mnist"]["fast"].recipe)
    runs = [
        record(seed=0, pgd40=900),
        record(seed=1, pgd40=920),
        record(seed=0, recipe="paper", pgd40=950),
        record(seed=2, changes={"recipe": recipe | {"epochs": 3}}, pgd40=500),
        record(seed=3, changes={"test_images": 100}, pgd40=100),
        record(seed=4, changes={"reduced": "10,000 images", "train_images": 10_000}, pgd40=300),
        record(seed=5, row=dataclasses.replace(METHODS["aalp"], weight=3.0), pgd40=0),
    ]
    rows = [row for row in report.table_2(found(*runs), "mnist") if row.name == "aalp"]
    assert {row.source: row.ours["pgd40"].value for row in rows} == {
        "ours, fast": pytest.approx(91.0),
        "ours, paper": pytest.approx(95.0),
        "ours, fast, recipe epochs 3": pytest.approx(50.0),
        "ours, fast, 100 test images": pytest.approx(10.0),
        "ours, fast, reduced: 10,000 images": pytest.approx(30.0),
    }
    assert rows[0].count("seeds") == "2"


def test_quick_numbers_enter_no_table_of_the_paper():
    quick = record(data_set="mnist-sample", pgd40=900)
    assert quick.tier == "quick"
    for number, rows in report.TABLES.items():
        assert all(row.verdict == "not measured yet" for row in rows(found(quick), "mnist")), number
    assert report.files(found(quick)) == {}
    assert set(re.findall("not measured yet", report.headline(found(quick))))


def test_jpeg_and_reduced_say_so():
    said = report.table(found(record(data_set="cifar10-jpeg", pgd10=300, changes={"reduced": "5 epochs"})), 2)
    assert "| ours, CIFAR-10, JPEG, fast, reduced: 5 epochs | 1 | 1000 |" in said
    svhn = said.split("**SVHN**")[1].split("**")[0]
    assert svhn.count("not measured yet") == 7


# --- the four tables


def test_table_2_puts_ours_under_the_papers():
    said = report.table(found(as_published("adv"), as_published("alp", -5.0)), 2, data="mnist")
    lines = said.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("| Madry | paper |"))
    assert "| 99.00 | 96.92 | 95.69 |" in lines[at]
    assert "| ours, fast | 1 | 10000 | 99.0 (98.8–99.2) |" in lines[at + 1]
    assert re.search(r"agrees; widest \+0\.0 at \S+ \|$", lines[at + 1])
    assert "lower by 5.0 at" in lines[at + 3]
    assert said.count("not measured yet") == 5
    assert report.table(found(as_published("adv")), 2, data="mnist", measured=True).count("not measured yet") == 0


def test_csv_has_a_line_for_each_published_number():
    lines = list(csv.DictReader(io.StringIO(report.table(found(as_published("adv")), 2, form="csv"))))
    assert len(lines) == 3 * 7 * 10
    (line,) = [r for r in lines if (r["data"], r["row"], r["column"]) == ("mnist", "adv", "pgd40")]
    assert (line["paper"], line["ours"], line["span"], line["seeds"]) == ("94.14", "94.14", "wilson95", "1")


def test_table_1_reads_the_samples_of_alp():
    sets = {
        name: {"count": 900, **dict(zip(paper.SAMPLE_COLUMNS, (0.95, 0.93, 0.33, 0.15), strict=True))}
        for name in ("consistent", "inconsistent")
    }
    run, kept = record("alp"), [measured("samples", sets), measured("samples", sets, "aalp")]
    rows = report.table_1(found(run, measurements=kept), "mnist")
    assert [row.name for row in rows] == ["consistent", "inconsistent"]
    assert rows[0].ours["mean_clean_confidence"].value == pytest.approx(95)
    assert rows[0].count("seeds") == "1"  # AALP's measurement is not ALP's second seed
    assert rows[0].verdict.startswith("agrees")
    assert (
        rows[1].verdict == "lower by 2.09 at ALP loss; higher by 71.1 at Adversarial confidence; off in 4 of 4 columns"
    )
    kept[0].subject["network"] = "0123456789abcdef"
    other = dataclasses.replace(run, network="fedcba9876543210")
    assert report.table_1(found(other, measurements=kept), "mnist")[0].verdict == "not measured yet"


def test_table_3_compares_effects_where_the_data_are_others():
    """On the seeds that both have: Madry's second run, much better, changes nothing."""
    runs = [record("adv", clean=900, pgd10=500, cw10=400), record("adv_gd", clean=950, pgd10=480, cw10=402)]
    runs.append(record("adv", 1, clean=990, pgd10=990, cw10=990))
    rows = {row.name: row for row in report.table_3(found(*runs), "mnist")}
    assert rows["adv"].verdict == "other data: levels not compared"
    said = (
        "effect of gd on the seeds with and without, ours (paper's): Clean +5.0 (+8.7): holds on one seed; "
        "PGD-10 -2.0 (+3.8): the reverse on one seed; CW-10 +0.2 (+10.5): not shown"
    )
    assert rows["adv_gd"].verdict == said
    assert "paper, SVHN" in report.table(found(*runs), 3)
    on_svhn = {row.name: row for row in report.table_3(found(record("adv_gd", data_set="svhn", clean=951)), "svhn")}
    assert on_svhn["adv_gd"].verdict == "agrees; widest +0.0 at Clean; 2 columns not measured"


def test_table_4_is_the_robust_accuracy_at_the_training_attacks_steps():
    run = record("alp", pgd10=990, pgd40=949)
    report_of_it = aalp.Report({n: aalp.Outcome(v) for n, v in paired.outcomes(run, "last").items()})
    (row, missing) = report.table_4(found(run), "mnist")
    assert row.ours["consistent"].value == pytest.approx(100 * report_of_it.consistent("pgd40").float().mean().item())
    assert row.verdict.startswith("agrees")
    assert missing.verdict == "not measured yet"


def test_measurements_are_read_under_either_name(tmp_path):
    empty = {"count": 0} | dict.fromkeys(("clean_confidence", "adversarial_confidence", *paper.SAMPLE_COLUMNS[2:]))
    full = {"count": 9, "clean_confidence": 0.9, "adversarial_confidence": 0.8, "classification_loss": 1, "alp_loss": 2}
    measured("samples", {"images": 9, "consistent": full, "inconsistent": empty}).save(tmp_path / "a.json")
    values = strong("alp", aa=right(700)).values
    measured("strong", {"accuracy": values["columns"], "outcomes": values["outcomes"]}).save(tmp_path / "b.json")
    kept = collect.read(tmp_path)
    assert kept.left_out == []
    runs = dataclasses.replace(kept, records=[record("alp")])
    consistent, inconsistent = report.table_1(runs, "mnist")
    assert consistent.ours["mean_adversarial_confidence"].value == pytest.approx(80)
    assert inconsistent.verdict == "not measured yet"
    assert "| MNIST | ALP | fast | 0 | float32 | 1000 | 70.0 (67.1–72.8) |" in report.strong_table(kept)


def test_telling_how_a_run_was_made_draws_no_random_number():
    collect._in_full.cache_clear()
    before = torch.get_rng_state()
    assert collect.protocol(record()) == "fast"
    assert torch.equal(torch.get_rng_state(), before)


def test_altered_attacks_are_told_by_what_they_move():
    names = [*aalp.table2_suite("mnist")]
    columns = dict.fromkeys(names, right(900)) | {"pgd10 longer": right(850), "fgsm half": right(912)}
    m = dataclasses.replace(strong("adv", **columns), kind="attacks", config={"images": COUNT})
    text = report.attacks_table(found(as_published("adv", 1.5), measurements=[m]))
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    _, nothing, *changes, paper_row = [dict(zip(cells[0], line, strict=True)) for line in cells if "---" not in line]
    assert nothing["Network"] == "MNIST, Madry, seed 0"
    assert (nothing["FGSM"], nothing["PGD-10"], nothing["Images"]) == ("90.0", "90.0", "1000")
    moved = {line["What is changed"]: line for line in changes}
    assert len(moved) == 2  # what was not measured has no line
    assert moved["steps three times as long"]["PGD-10"] == "-5.0"
    assert moved["steps three times as long"]["CW-10"] == moved["steps three times as long"]["FGSM"] == "–"
    assert moved["FGSM of half a step from a random start"]["FGSM"] == "+1.2"
    assert paper_row["PGD-10"] == "*-1.5*"
    start = {"attack": dataclasses.asdict(settings.SETTINGS["mnist"]["fast"].attack) | {"start": "clean"}}
    runs = [record("adv"), record("adv", recipe="paper"), record("adv", changes=start)]
    made = [dataclasses.replace(m, subject=m.subject | {"recipe": collect.training_protocol(r)}) for r in runs]
    said = [
        line.split("|")[1].strip()
        for line in report.attacks_table(found(*runs, measurements=made)).splitlines()
        if "MNIST" in line
    ]
    assert said == ["MNIST, Madry, seed 0", 'MNIST, Madry, seed 0, recipe "paper"']
    bare = report.attacks_table(found(record("adv"), measurements=[m]))
    assert bare.splitlines()[-1].count("–") == len(names)
    assert report.attacks_table(found()) == "Other settings of the attacks: not measured yet.\n"
    lines = report.files(found(*duel(700, 650), measurements=[m]))["mnist/attacks.csv"].splitlines()
    assert 'MNIST,Madry,fast,0,float32,"PGD-10, steps three times as long",85.00,82.65,87.08,850,1000' in lines


def test_starts_are_told_over_the_seeds_beside_twenty_random_ones():
    names, of = [*aalp.table2_suite("mnist")], {"network": "a"}
    rows = [dataclasses.replace(record("alp", seed), network="a") for seed in (0, 1)]
    seeds = []
    for seed, own in ((0, 880), (1, 870)):
        columns = dict.fromkeys(names, right(900)) | {"pgd100 start": right(own), "cw100 start": right(900)}
        m = strong("alp", seed, **columns)
        seeds.append(dataclasses.replace(m, kind="attacks", config={"images": COUNT}, subject=m.subject | of))
    twenty = [strong("alp", seed, pgd100x20=right(890), cw100x20=right(895)) for seed in (0, 1)]
    both = ["| MNIST", "ALP", f"2 × {COUNT:,}", "90.0 [90.0–90.0]", "89.0 [89.0–89.0]"]
    both.append("87.5 [87.0–88.0]<br>**-2.5** [-3.0 to -2.0]")
    cells = report.starts_table(found(*rows, measurements=[*seeds, *twenty])).splitlines()[-1].split(" | ")
    assert cells[:6] == both
    assert cells[-1] == "90.0 [90.0–90.0]<br>**+0.0** [+0.0 to +0.0] |"
    twenty[1].subject["network"] = "b"
    cells = report.starts_table(found(*rows, measurements=[*seeds, *twenty])).splitlines()[-1].split(" | ")
    assert cells[4] == "–"
    assert report.starts_table(found()) == "Attacks from the image itself: not measured yet.\n"


def test_two_rows_are_compared_under_either_kind_of_measurement():
    rows = [record("alp"), record("aalp")]
    own = [
        dataclasses.replace(strong(r.method, **{"pgd100 start": right(n)}), kind="attacks")
        for r, n in zip(rows, (850, 880), strict=True)
    ]
    kept = found(measurements=own)
    step = paired.compare_strong(kept, rows[:1], rows[1:], "pgd100 start", kind="attacks")
    assert step.gains == (3.0,)
    assert paired.compare_strong(kept, rows[:1], rows[1:], "pgd100 start") is None


def test_tables_say_what_gradients_were_computed_in():
    kept = [strong(name, pgd100x20=right(700), square=right(600)) for name in ("adv", "alp", "aalp")]
    kept[1].config["precision"] = "bfloat16"
    kept[2].environment["tf32"] = True
    lines = report.strong_table(found(measurements=kept)).splitlines()[-3:]
    assert [line.split(" | ")[1:5:3] for line in lines] == [["Madry", "float32"], ["ALP", "bfloat16"], ["AALP", "TF32"]]
    files = report.files(found(*duel(700, 650), measurements=kept))
    pgd, square = files["mnist/strong.csv"].splitlines()[3:5]
    assert pgd == 'MNIST,ALP,fast,0,bfloat16,"PGD-100, 20 starts",70.00,67.09,72.76,700,1000'
    assert square.startswith('MNIST,ALP,fast,0,float32,"AutoAttack')
    by = {line["attack"]: line["gradients"] for line in csv.DictReader(io.StringIO(files["mnist/mcnemar.csv"]))}
    used = by["PGD-100, 20 starts"], by["AutoAttack: all, + Square"]
    assert used == ("bfloat16, TF32", "float32, TF32")


def test_strong_attacks_on_another_network_than_the_records_are_not_paired_with_it():
    runs = duel(700, 650)
    kept = [strong(r.method, square=right(600)) for r in runs]
    assert "square" in {pair.attack for pair in paired.pairs(found(*runs, measurements=kept))}
    kept[0].subject["network"] = "0123456789abcdef"
    known = [dataclasses.replace(runs[0], network="fedcba9876543210"), runs[1]]
    assert "square" not in {pair.attack for pair in paired.pairs(found(*known, measurements=kept))}
    same = [dataclasses.replace(runs[0], network="0123456789abcdef"), runs[1]]
    assert "square" in {pair.attack for pair in paired.pairs(found(*same, measurements=kept))}


def test_what_was_not_measured_is_listed_below_the_table():
    runs = [record(name, seed, pgd100=700) for name, seed in (("adv", 0), ("alp", 0), ("alp", 1), ("alp", 2))]
    text = report.strong_table(found(*runs, measurements=[strong("alp", 1, square=right(600))]))
    assert text.endswith("|\n\nNot measured yet, by seed: MNIST Madry 0; MNIST ALP 0, 2.\n")
    whole = [strong(r.method, r.seed, square=right(600)) for r in runs]
    assert "Not measured yet" not in report.strong_table(found(*runs, measurements=whole))


def test_a_diagnosis_is_shown_in_numbers():
    root = Path(__file__).resolve().parents[2]
    kept = collect.read(root / "results")
    (m,) = (m for m in kept.measurements if (m.kind, m.subject["method"], m.subject["seed"]) == ("diagnosis", "adv", 0)
            and m.subject["data"] == "mnist")  # fmt: skip
    (line,) = (
        row for row in report.diagnosis_table(kept).splitlines() if row.startswith("| MNIST | Madry | fast | 0 |")
    )
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    rows = {row["restarts"]: row for row in m.values["restarts"]}
    assert cells[4:9] == ["float32", "1000", *(f"{100 * rows[n]['accuracy']:.1f}" for n in (1, 5, 20))]
    square = m.values["black_box"]["square"]
    assert cells[12:14] == [f"{100 * square['accuracy']:.1f}", str(square["only"])]
    assert len(cells) == len(report.diagnosis_table(kept).split("\n\n")[1].splitlines()[0].split("|")) - 2
    text = report.files(kept)["mnist/diagnosis.csv"].splitlines()
    assert f"MNIST,Madry,fast,0,float32,20 starts,{cells[8]}0," in "\n".join(text)
    assert report.diagnosis_table(found()) == "Diagnosis: not measured yet.\n"


# --- AALP against ALP


def duel(alp, aalp_, name="pgd100", seed=0):
    """Records of ALP and AALP that are right on the first so many images under one attack."""
    return record("alp", seed, **{name: alp}), record("aalp", seed, **{name: aalp_})


@pytest.mark.parametrize(
    ("weak", "tough", "said"),
    [
        ((700, 750), (500, 540), "shrinks"),
        ((700, 750), (500, 560), "holds"),
        ((700, 750), (500, 503), "vanishes"),
        ((700, 750), (540, 500), "turns over"),
        (
            (700, 702),
            (540, 500),
            "no gain of AALP over ALP is shown at PGD-100; under the strongest attack AALP is behind on one",
        ),
        ((750, 700), (500, 501), "AALP is behind ALP at PGD-100 on one seed; under the strongest attack neither is"),
    ],
)
def test_headline_says_what_becomes_of_the_gain(weak, tough, said):
    measurements = [
        strong(method, easy=right(990), autoattack=right(count))
        for method, count in zip(("alp", "aalp"), tough, strict=True)
    ]
    text = report.headline(found(*duel(*weak), measurements=measurements))
    assert said in text
    assert "autoattack, the strongest attack with a record of each image (1,000 images)" in text
    change = (tough[1] - tough[0] - weak[1] + weak[0]) / 10
    assert f"a change of {change:+.1f} points" in text


def test_a_gain_that_few_images_do_not_show_has_not_vanished():
    """Four seeds of all images show it; the one seed and the few images of the strong attack do not, at PGD neither."""
    runs = [run for seed in range(4) for run in duel(700, 706, seed=seed)]
    tough = [strong(name, square=right(count)[:100]) for name, count in (("alp", 60), ("aalp", 62))]
    said = paired.headline(found(*runs, measurements=tough))
    start = "AALP is ahead of ALP at PGD-100 on these 4 seeds; on the images of the strongest attack, on 1 of these 4"
    assert start in said


def test_the_headline_says_at_which_weaker_attacks_aalp_is_ahead():
    columns = {"fgsm": (800, 830), "pgd10": (750, 745), "pgd20": (720, 740), "cw10": (700, 720), "pgd100": (700, 701)}
    columns["cw100"] = (690, 720)
    rows = {name: {column: pair[i] for column, pair in columns.items()} for i, name in enumerate(("alp", "aalp"))}
    runs = [record(name, seed, **rows[name]) for seed in (0, 1) for name in rows]
    tough = [strong(name, square=right(500)) for name in rows]
    one, both = (paired.headline(found(*of, measurements=tough)) for of in (runs[:2], runs))
    assert "AALP's gain over ALP on one seed, shown at FGSM, PGD-20, CW-10 and CW-100, is not shown at PGD-100" in one
    assert "ahead at FGSM (+3.0 points, p 2e-09), PGD-20 (+2.0 points, p 2e-06) and CW-10 (+2.0 points, p 2e-06)" in one
    assert "AALP's gain over ALP, shown at FGSM" in both
    runs[-1] = record("aalp", 1, **rows["aalp"] | {"fgsm": 840, "pgd20": 719})
    said = paired.headline(found(*runs, measurements=tough))
    assert "ahead at FGSM (+3.5 points, p 2e-12, over seeds 0.090) and CW-10 (+2.0 points, p 2e-06)" in said


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ((850, 900), "AALP is ahead at PGD-100 and CW-100 on one seed."),
        ((900, 850), "AALP is behind at PGD-100 and CW-100 on one seed."),
        ((850, 850), "neither is shown to be ahead."),
    ],
)
def test_the_headline_says_what_starts_at_the_image_show(start, said):
    runs = duel(700, 650)
    own = [
        strong(r.method, **{"pgd100 start": right(n), "cw100 start": right(n)})
        for r, n in zip(runs, start, strict=True)
    ]
    attacks = [dataclasses.replace(m, kind="attacks") for m in own]
    plain, text = (paired.headline(found(*runs, measurements=ms)) for ms in ((), attacks))
    assert text.startswith(plain)
    assert text[len(plain) :].startswith(
        f"\n**MNIST, fast, PGD and CW started at the image instead of at random: {said}**"
    )
    assert f"at CW-100 AALP stands at {(start[1] - start[0]) / 10:+.1f} points (1 seed" in text
    assert paired.headline(found(*runs, measurements=attacks[:1])) == plain


def test_starts_at_the_image_bind_a_lead_to_its_seeds_where_the_seeds_do_not_show_it():
    runs = [run for seed in (0, 1) for run in duel(700, 650, seed=seed)]
    own = [
        strong(method, seed, **{"pgd100 start": right(first), "cw100 start": right(second)})
        for method, seed, first, second in (
            ("alp", 0, 800, 800), ("aalp", 0, 820, 850), ("alp", 1, 800, 800), ("aalp", 1, 870, 851),
        )
    ]  # fmt: skip
    text = paired.headline(found(*runs, measurements=[dataclasses.replace(m, kind="attacks") for m in own]))
    assert "instead of at random: AALP is ahead at PGD-100 on these 2 seeds and AALP is ahead at CW-100.**" in text


def test_a_change_under_the_strongest_attack_is_of_the_seeds_that_were_attacked():
    """All images of seed 0 alone were attacked harder; what seed 1 has at PGD-100 is no part of the change."""
    runs = [*duel(700, 750), *duel(700, 710, seed=1)]
    tough = [strong(method, square=right(count)) for method, count in (("alp", 500), ("aalp", 550))]
    text = paired.headline(found(*runs, measurements=tough))
    assert "holds under the strongest attack, on 1 of these 2 seeds." in text
    assert "On the seeds attacked harder alone, at PGD-100 AALP stands at +5.0 points against ALP (1 seed;" in text
    assert "a change of +0.0 points on the same images" in text


def test_of_equally_strong_attacks_the_headline_names_the_last():
    """Stages that take nothing more still belong to AutoAttack."""
    stages = ("apgd-t", "fab-t", "square")
    tough = [strong(method, **dict.fromkeys(stages, right(count))) for method, count in (("alp", 400), ("aalp", 390))]
    said = paired.headline(found(*duel(700, 650), measurements=tough))
    assert "Under AutoAttack: all, + Square, the strongest attack with a record of each image" in said


def test_what_the_headline_says_of_pgd_rests_on_seeds_without_strong_attacks_too():
    """Or it would call AALP behind where the table of the order, by the same rule, shows nothing."""
    alp, parts = right(700, 100), (("alp", right(300, 100)), ("aalp", right(250, 150)))
    tough = [strong(method, seed, autoattack=part[:500]) for seed in (1, 2) for method, part in parts]
    runs = [run for seed in (1, 2) for run in duel(alp, right(650, 150), seed=seed)]
    assert "AALP is behind ALP at PGD-100" in paired.headline(found(*runs, measurements=tough))
    runs += duel(alp, right(710, 100))
    said = paired.headline(found(*runs, measurements=tough))
    assert (
        "no gain of AALP over ALP is shown at PGD-100; under the strongest attack, on 2 of these 3 seeds, AALP is"
        in said
    )
    assert "** not shown<br>" in paired.order_table(found(*runs))


def test_a_lead_needs_every_seed():
    one = found(*duel(700, 750, seed=0), *duel(710, 705, seed=1))
    pairs = paired.pairs(one)
    assert [round(pair.gain, 1) for pair in pairs] == [5.0, -0.5]
    assert paired.standing(pairs) == 0
    assert paired.standing(pairs[:1]) == 1
    assert "at PGD-100 neither is shown to be ahead; under stronger attacks not measured yet" in report.headline(one)


def test_an_image_counts_once_whatever_its_seeds_say():
    """The exact sign-flip test, against all choices of signs, and against McNemar's where there is one seed."""
    leads = torch.tensor([2, 2, 1, 1, 0, -1, 3, -2, 1, 1])
    sums = [abs(sum(a * s for a, s in zip(leads.tolist(), signs, strict=True)))
            for signs in itertools.product((1, -1), repeat=len(leads))]  # fmt: skip
    share = sum(total >= leads.sum() for total in sums) / len(sums)
    assert paired.sign_flip_p(leads) == pytest.approx(float(share))
    one = torch.tensor([1] * 9 + [-1] * 2 + [0] * 4)
    assert paired.sign_flip_p(one) == pytest.approx(comparisons.exact_p(2, 9))
    assert paired.sign_flip_p(torch.zeros(5, dtype=torch.int64)) == 1
    pair = duel(700, 706)
    twins = [dataclasses.replace(r, seed=seed) for seed in (0, 1) for r in pair]
    both = paired.compare(twins[::2], twins[1::2])
    assert both.p == pytest.approx(comparisons.exact_p(0, 6))  # the same six images again are no new evidence
    assert paired.standing(paired.pairs(found(*twins))) == 1
    assert "together 0.031" in paired.headline(found(*twins))


def test_a_pair_says_what_each_was_attacked_in_and_the_order_what_the_best_models_say():
    tough = [strong(name, square=right(count)) for name, count in (("alp", 500), ("aalp", 540))]
    tough[1].environment["tf32"] = True
    runs = duel(700, 750)
    (line,) = [row for row in paired.mcnemar_table(found(*runs, measurements=tough)).splitlines() if "Square" in row]
    assert " | float32, TF32 | 1000 | 50.0 | 54.0 | +4.0 |" in line
    for run in runs:
        run.accuracy["best"], run.outcomes["best"] = dict(run.accuracy["last"]), dict(run.outcomes["last"])
    assert "best:" not in paired.order_table(found(*runs))
    runs[0].outcomes["best"] = runs[1].outcomes["last"]
    assert " holds on one seed (best: not shown)<br>p " in paired.order_table(found(*runs))
    assert "With 1 comparison, chance alone would bring fewer than one below 0.05" in paired.order_table(found(*runs))


def test_part_of_the_images_is_compared_with_pgd_on_that_part():
    alp, other = record("alp", pgd100=right(700, 100)), record("aalp", pgd100=right(800, 100))
    part = [strong(m, aa=right(n, 100)[:500]) for m, n in (("alp", 300), ("aalp", 300))]
    pairs = paired.pairs(found(alp, other, measurements=part))
    assert [(p.attack, p.images, round(p.gain, 1)) for p in pairs] == [
        ("pgd100", 1000, 10.0),
        ("aa", 500, 0.0),
        ("pgd100", 500, 0.0),
    ]
    assert "On the first 500 test images alone, at PGD-100 AALP stands at +0.0 points" in report.headline(
        found(alp, other, measurements=part)
    )


def test_mcnemar_table_has_the_counts_that_unpacking_gives():
    alp, other = record("alp", cw100=right(10)), record("aalp", cw100=right(12, 3))
    (line,) = [line for line in report.mcnemar_table(found(alp, other)).splitlines() if "CW-100" in line]
    assert line == "| MNIST | fast | 0 | CW-100 | – | 1000 | 1.0 | 1.2 | +0.2 | 3 | 5 | 0.727 |"
    made = report.files(found(alp, other, record("alp", data_set="cifar10-jpeg", cw100=right(10))))
    (line,) = csv.DictReader(io.StringIO(made["mnist/mcnemar.csv"]))
    assert [line[name] for name in ("attack", "gain", "only_alp", "only_aalp", "p")] == [
        *("CW-100", "0.20", "3", "5", "0.727")
    ]
    assert "cifar10/mcnemar.csv" not in made  # where nothing is paired there is no file


# --- ablations and cost


def test_ablations_are_compared_with_the_nearest_row_seed_by_seed():
    half = dataclasses.replace(
        METHODS["aalp"], name="aalp_half", label="AALP, half", guided_dropout=aalp.GuidedDropout("half")
    )
    sample = {"data_set": "mnist-sample"}
    everything = collect.Found(
        records=[record("alp", **sample, pgd100=10)] + [record("aalp", s, **sample, pgd100=700) for s in (0, 1)],
        ablations=[record("aalp_half", s, row=half, **sample, pgd100=n) for s, n in ((0, 701), (1, 730), (2, 999))],
    )
    head, _, base, variant = report.ablation_table(everything).split("\n\n")[1].splitlines()
    assert head.startswith("| Variant | Differs from |")
    assert base.startswith("| AALP | a row of the paper | mnist-sample | fast | 2 |")
    assert variant.startswith("| AALP, half | AALP: mask rule half | mnist-sample | fast | 3 |")
    assert variant.endswith("| +1.6 [+0.1 to +3.0] | 1.000, 2e-09 |")  # 2 / 2^30; seed 2 has no base


def test_controls_stand_between_the_rows_that_they_tell_apart():
    rows = grids.ABLATIONS
    made = found(
        *(record(name, seed, pgd100=n) for seed in (0, 1) for name, n in (("alp", 700), ("aalp_sw", 730))),
        measurements=[strong("aalp_sw", square=right(500)), strong("aalp_sw_mean", square=right(520))],
    )
    assert "not measured yet" in paired.controls_table(made)
    mean = [record("aalp_sw_mean", seed, row=rows["aalp_sw_mean"], pgd100=n) for seed, n in ((0, 720), (1, 721))]
    made = dataclasses.replace(made, ablations=[*mean, record("aalp_shuffled", row=rows["aalp_shuffled"], pgd100=1)])
    less, which, mask = paired.controls_table(made).split("\n\n")[1].splitlines()[2:]
    assert less.startswith("| ALP → AALP (sw), the batch's mean weight | **+0.0** not shown<br>2 seeds")
    assert "| **+2.0** ahead<br>2 seeds, +2.0 to +2.1<br>p 1e-06<br>over seeds 0.016 | not measured yet |" in less
    assert "**+0.9** ahead<br>2 seeds, +0.9 to +1.0<br>p " in which
    assert which.endswith("| **-2.0** behind<br>p 2e-06 |")
    assert mask.startswith("| AALP, keep as many, but random ones → AALP (sw) | **+0.0** not shown<br>p 1.000 |")


def with_width(run, width):
    return dataclasses.replace(run, config=run.config | {"model": {"name": "lenet", "width": width}})


def test_a_network_of_half_the_features_is_a_control_and_explains_no_row():
    half, wide = (with_width(record("aalp_sw", pgd100=700), width) for width in ([16, 32, 128], [32, 64, 1024]))
    made = dataclasses.replace(found(*duel(700, 730)), ablations=[half, wide])
    (line,) = paired.controls_table(made).split("\n\n")[1].splitlines()[2:]
    assert line.startswith("| AALP (sw), half the features → AALP | **+0.0** not shown")
    assert "| **+3.0** ahead<br>p " in line
    tried = report.tried_table(made, "mnist")
    assert "model width [32, 64, 1024]" in tried
    assert "128" not in tried


def test_a_variant_in_a_setting_of_its_own_is_not_compared_with_another_row_of_that_setting():
    averaged = dataclasses.replace(METHODS["alp"], name="alp_averaged", label="ALP, averaged", weight=0.1)
    runs = [
        with_width(record("trades"), [32, 64, 1024]),
        with_width(record("alp_averaged", row=averaged), [32, 64, 1024]),
    ]
    assert "| ALP, averaged | base not measured yet |" in paired.ablation_table(
        dataclasses.replace(found(record("alp")), ablations=runs)
    )


def test_cost_counts_attack_steps_and_samples_of_the_training_step():
    epochs = settings.SETTINGS["mnist"]["fast"].recipe.epochs
    columns = dict.fromkeys(("fgsm", "pgd10", "pgd100", "cw100"), 10)
    steps = {"raw": 1, "adv": 6, "alp": 7, "trades": 7, "aalp": 7}
    for method, count in steps.items():
        spent = report.cost(record(method, **columns))
        assert spent.training == 54_000 * epochs * count
        assert spent.evaluation == 6_000 * epochs * 10 + COUNT * 201
    assert report.cost(record(best=1, **columns)).evaluation == 6_000 * epochs * 10 + 2 * COUNT * 201
    assert report.cost(record(changes={"train_images": 9, "reduced": "9"})).training == 9 * epochs * 7
    folder = dataclasses.replace(record(), data="mine")
    assert report.cost(folder) == report.Cost(None, None)


def test_cost_knows_how_many_images_the_data_sets_have(sample):
    assert report.IMAGES["mnist-sample"] == (len(sample.train), len(sample.val))
    assert report.IMAGES["mnist"] == (60_000 - data.MNIST_VAL, data.MNIST_VAL)
    svhn = (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659)  # training images of each digit
    for name, counts in {"svhn": svhn, "cifar10": (5000,) * 10, "cifar10-jpeg": (5000,) * 10}.items():
        labels = torch.arange(10).repeat_interleave(torch.tensor(counts))
        rest, val = data.stratified(labels, data.VAL_FRACTION)
        assert report.IMAGES[name] == (len(rest), len(val))


# --- reading a folder


def test_what_lies_beside_checkpoints_is_no_record_of_a_grid(tmp_path):
    record("alp", pgd100=900).save(tmp_path / "mnist" / "mnist-alp-seed0.json")
    evaluated = record("alp", seed=1, pgd100=900)
    evaluated.save(tmp_path / "mnist" / "runs" / "mnist-alp-seed0" / "evaluations" / "mnist-last.json")
    assert [r.seed for r in collect.read(tmp_path).records] == [0]
    assert [r.seed for r in collect.read(tmp_path / "mnist" / "runs").records] == [1]  # asked for, it is read


def test_where_all_records_lie_beside_checkpoints_the_command_says_so(capsys, tmp_path):
    record(pgd100=900).save(tmp_path / "runs" / "a" / "evaluations" / "mnist-last.json")
    assert main(["results", str(tmp_path)]) == 0
    assert "no records but beside checkpoints, 1 in all; to see them" in capsys.readouterr().err
    assert main(["results", str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().err == ""


def test_what_is_damaged_is_named_and_left_out(tmp_path):
    good = record(pgd40=700)
    good.save(tmp_path / "mnist" / "good.json")
    good.save(tmp_path / "mnist" / "same.json")
    diagnosis = Measurement.load(ROOT / "results" / "mnist" / "diagnosis" / "mnist-alp-seed0.json")
    diagnosis.save(tmp_path / "mnist" / "diagnosis" / "a.json")
    rest = {key: value for key, value in diagnosis.values.items() if key != "signs"}
    dataclasses.replace(diagnosis, values=rest).save(tmp_path / "no-signs.json")
    (tmp_path / "broken.json").write_text('{"data": "mn')
    (tmp_path / "newer.json").write_text(json.dumps({"schema": 99}))
    (tmp_path / "run.json").write_text("{}")  # lies beside checkpoints and is no record
    other = record(seed=1, pgd40=700)
    other.outcomes["last"]["pgd40"] = pack(right(699))
    other.save(tmp_path / "untrue.json")
    dataclasses.replace(record(seed=2), config={}).save(tmp_path / "bare.json")
    dataclasses.replace(record(seed=3), accuracy={"last": None}).save(tmp_path / "empty.json")
    kept = collect.read(tmp_path)
    assert kept.records == [good]
    assert kept.measurements == [diagnosis]
    said = "\n".join(kept.left_out)
    names = ("broken", "newer", "untrue", "bare", "empty", "no-signs", "same")
    assert len(kept.left_out) == len(names)
    assert all(f"{name}.json" in said for name in names)
    assert "newer.json has record schema 99" in said
    assert "the outcomes do not add up to the count - at `$.accuracy.last.pgd40`" in said


def test_command_lists_filters_and_names_what_it_leaves_out(capsys, tmp_path):
    record("alp", pgd100=690, cw100=680).save(tmp_path / "mnist" / "a.json")
    record("aalp", seed=1, pgd100=700).save(tmp_path / "mnist" / "b.json")
    record("aalp", data_set="mnist-sample", pgd100=710).save(tmp_path / "ablations" / "c.json")
    (tmp_path / "broken.json").write_text("{")
    assert main(["results", str(tmp_path)]) == 0
    said = capsys.readouterr()
    lines = [re.split(r"  +", line) for line in said.out.splitlines()]
    assert lines[0][:5] == ["data", "method", "seed", "recipe", "tier"]
    assert lines[1] == ["mnist", "ALP", "0", "fast", "full", "98.0", "–", "69.0", "68.0", "11.0", "X, 2 threads"]
    assert [line[:2] for line in lines[2:]] == [["mnist", "AALP"], ["mnist-sample", "AALP"]]
    assert f"left out: {tmp_path / 'broken.json'} is not a readable record" in said.err
    assert main(["results", str(tmp_path), "--method", "AALP", "--data", "mnist"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["results", str(tmp_path), "--method", "aalp (GD)"]) == 0  # as `aalp train` takes it, too
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["results", str(tmp_path), "--table", "2", "--method", "alp"]) == 0
    said = capsys.readouterr().out
    assert "| ALP | paper |" in said
    assert "Madry" not in said
    assert main(["results", str(tmp_path), "--table", "4", "--form", "csv"]) == 0
    assert capsys.readouterr().out.startswith("table,data,row,")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{tmp}/none",), "there is no folder {tmp}/none"),
        (("{tmp}", "--method", "alpp"), "Did you mean 'alp'"),
        (("{tmp}", "--data", "mnits"), "Did you mean 'mnist'"),
        (("{tmp}", "--recipe", "slow"), "known are paper, fast"),
        (("{tmp}", "--table", "2", "--data", "mnist-sample"), "unknown data set of the paper 'mnist-sample'"),
        (("{tmp}", "--write", "--seed", "0"), "--write remakes every table"),
    ],
)
def test_bad_input_is_one_clear_sentence(capsys, tmp_path, arguments, said):
    assert main(["results", *(a.format(tmp=tmp_path) for a in arguments)]) == 1
    assert said.format(tmp=tmp_path) in capsys.readouterr().err


# --- files and RESULTS.md


def test_parts_are_put_between_their_markers():
    text = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n"
    new = report.refreshed(text, {"x": r"new \1" + "\n"})
    assert new == "a\n<!-- begin x -->\nnew \\1\n<!-- end x -->\nb\n"
    assert report.refreshed(new, {"x": r"new \1" + "\n"}) == new
    with pytest.raises(aalp.InputError, match="unknown generated part 'x'"):
        report.refreshed(text, {"y": ""})
    with pytest.raises(aalp.InputError, match="end x"):
        report.refreshed("<!-- begin x -->\n", {"x": ""})


def test_write_makes_tables_and_refreshes_the_page_beside_the_folder(capsys, tmp_path):
    shutil.copy(ROOT / "RESULTS.md", tmp_path)
    folder = tmp_path / "results"
    as_published("aalp").save(folder / "mnist" / "a.json")
    assert main(["results", str(folder), "--write"]) == 0
    assert (folder / "mnist" / "table2.csv").read_text().splitlines()[0].startswith("table,data,row")
    page = (tmp_path / "RESULTS.md").read_text()
    assert report.table(collect.read(folder), 2, data="mnist") in page
    assert "1 run, 0.2 hours" in page
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert main(["results", str(folder), "--write"]) == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before


def test_a_page_is_refreshed_from_its_own_records_alone(capsys, tmp_path):
    page = Path(shutil.copy(ROOT / "RESULTS.md", tmp_path))
    before = page.read_bytes()
    record(pgd100=900).save(tmp_path / "demo" / "mnist" / "a.json")
    assert main(["results", str(tmp_path / "demo"), "--write"]) == 0
    assert (tmp_path / "demo" / "mnist" / "table2.md").exists()
    assert page.read_bytes() == before
    capsys.readouterr()
    assert main(["results", str(tmp_path / "demo" / "mnist"), "--write"]) == 1
    assert "name the folder above it" in capsys.readouterr().err
    record(data_set="mnist-sample", pgd100=900).save(tmp_path / "sample" / "ablations" / "a.json")
    assert main(["results", str(tmp_path / "sample" / "ablations"), "--write"]) == 1
    assert "name the folder above it" in capsys.readouterr().err
    (tmp_path / "nothing").mkdir()
    assert main(["results", str(tmp_path / "nothing"), "--write"]) == 0
    assert "nothing to write" in capsys.readouterr().out


def test_results_page_has_every_generated_part():
    page = (ROOT / "RESULTS.md").read_text()
    assert sorted(re.findall(r"<!-- begin (\S+) -->", page)) == sorted(report.blocks(collect.Found()))


def test_remaking_the_repositorys_tables_changes_nothing():
    """What `aalp results results --write` would write is what is committed: no number is typed by hand."""
    kept = collect.read(ROOT / "results")
    assert kept.left_out == []
    page = (ROOT / "RESULTS.md").read_text()
    assert report.refreshed(page, report.blocks(kept)) == page
    made = report.files(kept)
    assert {name: (ROOT / "results" / name).read_text() for name in made} == made
    tables = {path.relative_to(ROOT / "results").as_posix() for path in (ROOT / "results").rglob("table*.*")}
    assert {name for name in tables if re.search(r"table\d\.(md|csv)$", name)} <= set(made)


def test_the_pages_own_words_hold_no_measured_number():
    page = (ROOT / "RESULTS.md").read_text()
    prose = re.sub(r"<!-- begin (\S+) -->.*?<!-- end \1 -->", "", page, flags=re.DOTALL)
    assert re.findall(r"\d+(?:\.\d+)? ?(?:%|percent|points|minutes|seconds|hours)", prose) == []


# --- the order of the methods


def variant(base, **columns):
    row = dataclasses.replace(
        METHODS[base], name=f"{base}_averaged", label=f"{METHODS[base].label}, averaged", weight=0.1
    )
    return record(row.name, row=row, **columns)


def order_of(kept):
    """The lines of the tables: heading, cells."""
    heading, lines = "", []
    for line in paired.order_table(kept).splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if line.startswith("**"):
            heading = line.strip("*")
        elif cells and cells[0] not in ("Step", "Method", "---"):
            lines.append([heading, *cells])
    return lines


def test_each_step_of_the_papers_order_is_judged_for_both_readings():
    kept = found(record("adv", pgd100=900), record("alp", pgd100=800), record("aalp", pgd100=803))
    kept.ablations.extend([variant("alp", pgd100=940), variant("aalp", pgd100=950)])
    lines = order_of(kept)
    assert [(line[0], line[1], line[3].split("<br>")[0].split("** ")[1]) for line in lines] == [
        ("MNIST, pairing as in Eq. 1", "Madry → ALP", "the reverse on one seed"),
        ("MNIST, pairing as in Eq. 1", "Madry → AALP", "the reverse on one seed"),
        ("MNIST, pairing as in Eq. 1", "ALP → AALP", "not shown"),
        ("MNIST, pairing averaged", "Madry → ALP", "holds on one seed"),
        ("MNIST, pairing averaged", "Madry → AALP", "holds on one seed"),
        ("MNIST, pairing averaged", "ALP → AALP", "holds on one seed"),
    ]
    # the paper has 92.49 and 94.50
    assert lines[0][2:4] == ["+2.0", "**-10.0** the reverse on one seed<br>p 2e-30"]
    assert {line[5] for line in lines} == {line[6] for line in lines} == {"not measured yet"}  # CW-100, AutoAttack
    assert {p.protocol for p in paired.pairs(kept)} == {"fast", "fast, averaged"}
    assert "not measured yet" in paired.order_table(found(record("alp", pgd100=800)))


def test_beside_the_steps_stand_seeds_autoattack_and_other_recipes_rows_and_data():
    kept = found(record("adv", pgd100=900), record("alp", pgd100=800), record("aalp", pgd100=803))
    kept.ablations.extend([variant("alp", pgd100=940), variant("aalp", pgd100=950)])
    kept.records.append(record("alp", seed=1, pgd100=820))
    heading = "MNIST, seeds of one method beside each other, pairing as in Eq. 1"
    assert order_of(kept)[-1] == [heading, "ALP", "2.0 points apart (p below 0.05 in 1 of 1 pair)", "–", "–"]
    kept.measurements.extend(
        strong(name, square=right(count, of=100)) for name, count in (("adv", 90), ("alp", 60), ("aalp", 75))
    )
    kept.measurements.append(strong("alp", seed=1, square=right(70, of=100)))
    assert order_of(kept)[-1][4] == "10.0 points apart (p below 0.05 in 1 of 1 pair)"
    assert "the first 100 test images" in paired.order_table(kept)
    said = [line[-1] for line in order_of(kept)]
    assert said[0] == "**-30.0** the reverse on one seed<br>p 2e-09"
    assert said[2] == "**+15.0** holds on one seed<br>p 6e-05"
    assert said[3] == "not measured yet"  # the variant is another network
    assert "no seed" not in paired.ablation_table(kept)
    kept.records.extend(record(name, recipe="paper", pgd100=count) for name, count in (("alp", 800), ("aalp", 830)))
    (line,) = (line for line in order_of(kept) if "recipe paper" in line[0])  # Madry was not trained so
    assert line[1:4] == ["ALP → AALP", "+1.8", "**+3.0** holds on one seed<br>p 2e-09"]
    kept.records.extend(record(name, pgd100=count) for name, count in (("trades", 850), ("aalp_gd", 700)))
    kept.records.extend(
        record(name, data_set="cifar10-jpeg", pgd100=count)
        for name, count in (("adv", 400), ("alp", 410), ("aalp", 390))
    )
    steps = [line[:2] for line in order_of(kept)]
    assert ["MNIST, pairing as in Eq. 1", "ALP → AALP (gd)"] in steps
    assert ["MNIST, pairing averaged", "ALP → TRADES"] in steps
    assert ["MNIST, pairing averaged", "ALP → AALP (gd)"] not in steps  # whose pairing is summed
    assert ["MNIST, pairing averaged", "Madry → TRADES"] not in steps  # which have none
    colour = [step for heading, step in steps if heading == "CIFAR-10, JPEG, pairing as in Eq. 1"]
    assert colour == ["Madry → ALP", "Madry → AALP", "ALP → AALP"]


def test_each_step_of_the_order_is_a_line_of_csv_too():
    kept = found(record("alp", pgd100=800), record("aalp", pgd100=830), record("alp", 1, pgd100=800))
    kept.records.append(record("aalp", 1, pgd100=810))
    kept.measurements.extend(strong(name, square=right(count, of=100)) for name, count in (("alp", 60), ("aalp", 75)))
    pgd, cw, strongest = csv.DictReader(io.StringIO(report.files(kept)["mnist/order.csv"]))
    assert [pgd[name] for name in ("paper", "gain", "low", "high", "seeds", "images", "verdict")] == [
        *("1.82", "2.00", "1.00", "3.00", "2", "1000", "holds")
    ]
    assert float(pgd["p_seeds"]) == pytest.approx(0.295, abs=1e-3)  # of t = 2 with one degree of freedom
    shown = "**+2.0** holds<br>2 seeds, +1.0 to +3.0<br>p 2e-09<br>over seeds 0.295 |"
    assert shown in paired.order_table(kept)
    said = paired.headline(kept)
    assert "AALP's gain over ALP on these 2 seeds holds under the strongest attack, on 1 of these 2 seeds." in said
    assert "together 2e-09, over seeds 0.295)" in said
    assert (cw["attack"], cw["gain"], cw["verdict"]) == ("CW-100", "", "not measured yet")
    assert (strongest["paper"], strongest["gain"], strongest["verdict"]) == ("", "15.00", "holds on one seed")


def test_a_variant_that_lies_between_two_rows_is_compared_with_its_namesake():
    row = dataclasses.replace(
        METHODS["aalp"], name="aalp_no_dropout", label="AALP, no Guided Dropout", guided_dropout=None
    )
    kept = found(record("alp", pgd100=800), record("aalp", pgd100=803))
    kept.ablations.append(record(row.name, row=row, pgd100=803))
    (line,) = (of for of in paired.ablation_table(kept).splitlines() if of.startswith("| AALP, no"))
    assert "AALP: Guided Dropout off" in line


def test_runs_on_different_numbers_of_images_are_not_paired():
    """Their protocols may read the same: what is reduced is said in words."""
    words = {"reduced": "5 epochs"}
    runs = record("alp", changes=words, pgd100=900), record("aalp", changes=words, pgd100=right(400, of=500))
    assert paired.pairs(found(*runs)) == []
    assert "not measured yet" in report.blocks(found(*runs))["mcnemar"]


def test_the_stages_of_autoattack_read_as_one_attack_that_goes_on():
    made = [strong(m, square=right(800, of=900), **{"apgd-ce": right(850, of=900)}) for m in ("alp", "aalp")]
    text = report.strong_table(found(measurements=made))
    assert "| AutoAttack: all, + Square | AutoAttack: APGD-CE |" in text.splitlines()[2]


def test_a_data_set_is_selected_with_its_jpeg_copy_and_without_its_sample(capsys, tmp_path):
    for name in ("cifar10-jpeg", "mnist", "mnist-sample"):
        record("alp", data_set=name, pgd100=500).save(tmp_path / f"{name}.json")
    kept = collect.read(tmp_path)
    for asked, names in (("cifar10", ["cifar10-jpeg"]), ("cifar10-jpeg", ["cifar10-jpeg"]), ("mnist", ["mnist"])):
        assert [r.data for r in collect.select(kept, asked).records] == names
    assert main(["results", str(tmp_path), "--table", "2", "--data", "cifar10"]) == 0
    assert "ours, CIFAR-10, JPEG, fast" in capsys.readouterr().out


def test_of_a_data_set_without_records_the_papers_rows_are_shown(capsys, tmp_path):
    record().save(tmp_path / "a.json")
    assert main(["results", str(tmp_path), "--table", "2", "--data", "svhn"]) == 0
    said = capsys.readouterr().out
    assert said.count("not measured yet") == 7
    assert main(["results", str(tmp_path), "--table", "2", "--data", "mnist", "--method", "aalp"]) == 0
    assert "not measured yet" not in capsys.readouterr().out


# --- what was tried


def test_what_was_tried_stands_beside_the_plain_run_and_the_paper():
    recipe = dataclasses.asdict(settings.SETTINGS["mnist"]["fast"].recipe)
    averaged = dataclasses.replace(METHODS["alp"], name="alp_averaged", label="ALP, averaged", weight=0.1)
    runs = [
        record("adv", pgd100=100),
        record("aalp", pgd100=100),
        record("alp", pgd100=900),
        record("alp", seed=1, pgd100=910),
        record("alp", changes={"recipe": recipe | {"epochs": 40}}, pgd100=930),
        record("alp_averaged", row=averaged, pgd100=945),
        record("alp", changes={"reduced": "5 epochs"}, pgd100=100),
        record("alp", data_set="mnist-sample", changes={"recipe": recipe | {"epochs": 3}}, pgd100=100),
    ]
    said = report.tried_table(found(*runs), "mnist")
    assert "100" not in re.findall(r"\d+\.\d \(", said)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("| ALP")]
    assert [(line[0], line[1], line[2]) for line in lines] == [
        ("ALP", "nothing: the plain run", "2"),
        ("ALP", "recipe epochs 40", "1"),
        ("ALP", "averaged", "1"),
    ]
    assert [line[-2] for line in lines] == [  # the plain run of that seed has 90.0
        "–",
        "+3.0 points (1 seed; p 2e-09)",
        "+4.5 points (1 seed; p 6e-14)",
    ]
    assert [line[-1] for line in lines] == ["-4.0", "-1.5", "+0.0"]  # the paper has 94.50


def test_nothing_tried_says_so():
    assert report.tried_table(found(record("alp", pgd100=900)), "mnist").endswith("on MNIST: not measured yet.\n")
    lone = dataclasses.replace(METHODS["alp"], name="alp_wide", label="ALP, wide", weight=2.0)
    said = report.tried_table(found(record("alp_wide", row=lone, pgd100=900)), "mnist")
    assert "| ALP, wide |" in said
    assert said.rstrip().endswith("| – | – |")


# --- Table 2 as a figure


def table_rows():
    columns = {"clean": 980, "pgd40": 900, "pgd100": 890}
    runs = [record("adv", **columns), record("alp", **columns), record("alp", seed=1, **(columns | {"pgd40": 940}))]
    runs.insert(0, record("adv", recipe="paper", **(columns | {"pgd40": 100})))  # not drawn: "fast" is
    return report.table_2(found(*runs), "mnist")


def test_a_column_of_table_2_has_the_papers_number_and_ours():
    figure = figures.beside_paper(table_rows(), "pgd40")
    (panel,) = figure.axes
    assert [text.get_text() for text in panel.get_yticklabels()] == [
        "Madry", "ALP", "TRADES", "AALP (gd)", "AALP (sw)", "AALP",
    ]  # fmt: skip
    assert panel.get_title() == "PGD-40: 0 of 2 rows within 2 points; widest ALP, -4.4"  # 92.0 against 96.37
    assert "RAW: paper 0.6" in panel.get_xlabel()
    assert [text.get_text() for text in panel.texts] == ["ours: not measured yet"] * 4


def test_the_axis_is_that_of_all_columns():
    limits = {figures.beside_paper(table_rows(), name).axes[0].get_xlim() for name in ("clean", "pgd40", "pgd100")}
    assert len(limits) == 1


def test_without_records_the_figure_is_the_papers():
    rows = report.table_2(found(), "svhn")
    assert "nothing of ours was measured yet" in figures.beside_paper(rows, "cw10").axes[0].get_title()


def test_a_brief_table_has_the_columns_asked_for_and_the_verdict_on_all():
    lines = report.brief(table_rows(), ("clean", "pgd100")).splitlines()
    assert lines[0] == "|  | Clean | PGD-100 | Verdict |"
    at = lines.index("| **Madry** | 99.00 | 92.49 |  |")
    assert lines[at + 1].startswith("| ours, paper |")
    assert lines[at + 2].startswith("| ours, fast | 98.0 (96.9–98.7) | 89.0 (86.9–90.8) | lower by 4.1 at PGD-40")
    assert lines[-1] == "| ours | – | – | not measured yet |"
