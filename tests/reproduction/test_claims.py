"""Every sentence of RESULTS.md and of the hand-written words on the pages, held by the records.

Numbers come through the templates; here is what the words around them say. Should further records take the ground away
from a sentence, a test here says so, and the sentence is rewritten. Claims of the chapters, which say
some of it too, are held in tests/book.
"""

from types import SimpleNamespace

import pytest

from aalp_lib.diagnosis import NOISE
from aalp_lib.methods import METHODS, TABLE_2
from aalp_lib.reproduction import archive, claims, comparisons, frames, paper, report, tables

PUBLISHED = paper.TABLE_2["mnist"]


@pytest.fixture(scope="module")
def of():
    return SimpleNamespace(records=archive.records(), frame=frames.frame())


@pytest.fixture(scope="module")
def say():
    return report.context()


def means(of, data, protocol="fast"):
    """Percent right of the last network, mean over seeds, by method and attack of Table 2."""
    frame = of.frame
    frame = frame[(frame["data"] == data) & (frame["protocol"] == protocol) & (frame["model"] == "last")]
    frame = frame[(frame["suite"] == "table2") & (frame["variant"] == "")]
    return (100 * frame.groupby(["method", "attack"])["accuracy"].mean()).to_dict()


# --- the scorecard and its figure


def test_the_scorecards_words_are_the_verdicts():
    said = {(one.claim.words.split(" (")[0], one.claim.on): one.verdict for one in claims.scorecard()}
    assert {key for key, verdict in said.items() if verdict == "reversed"} == {
        ("Guided Dropout alone improves ALP at PGD-100", "MNIST")
    }
    assert {key for key, verdict in said.items() if verdict == "held"} == {
        ("Consistent images are surer than inconsistent ones", "MNIST")
    }
    assert {key for key, verdict in said.items() if verdict == "untested"} == {
        ("Guided Dropout raises Madry's clean accuracy", "SVHN"),
        ("A larger α makes AALP more robust", "SVHN"),
    }


def test_clean_digits_of_mnist_tell_aalp_from_alp_and_no_attack_does(of):
    family = comparisons.lead(of.frame)
    assert {(one.data, one.attack) for one in family if one.verdict in ("ahead", "behind")} == {("mnist", "clean")}
    weaker = comparisons.lead(of.frame, comparisons.WEAKER)
    assert {one.verdict for one in weaker} == {"unresolved", "two networks"}  # of SVHN there is one seed


# --- what was found


def test_2_guided_dropout_costs_half_a_point_and_weights_gain_under_autoattack(say):
    guided, weights = say["step"]("alp", "aalp_gd", "pgd100"), say["step"]("alp", "aalp_sw", "square")
    assert (guided.verdict, weights.verdict) == ("behind", "ahead")
    assert -0.6 < guided.mean < -0.4


def test_3_alp_keeps_fewer_images_than_madry_under_autoattack_where_the_paper_ranks_it_above(of):
    against = comparisons.order(of.frame, comparisons.OVER_MADRY)["mnist", "fast", "", "square"]
    (alp,) = (one for one in against if one.second == "alp")
    assert (alp.verdict, max(alp.gains) < 0) == ("behind", True)
    assert all(PUBLISHED["alp"][c] > PUBLISHED["adv"][c] for c in PUBLISHED["adv"] if c != "clean")


def test_4_what_the_paper_leaves_open_decides_more(say):
    assert (say["step"]("adv", "alp_averaged", "pgd100").verdict, say["step"]("adv", "alp", "pgd100").verdict) == (
        "ahead",
        "unresolved",
    )
    start, random = say["lead"]("cw100 start"), say["lead"]("cw100")
    assert (start.verdict, random.verdict) == ("ahead", "unresolved")
    assert start.mean > abs(random.mean)


# --- what is open


def test_on_a_part_of_svhn_there_are_two_networks_far_below_the_papers(of):
    ours = of.frame[of.frame["data"] == "svhn-part"]
    assert not (of.frame["data"] == "svhn").any()
    assert set(zip(ours["method"], ours["seed"], strict=True)) == {("alp", 0), ("aalp", 0)}
    found = means(of, "svhn-part")
    for name in ("alp", "aalp"):
        assert all(
            found[name, column] < paper.TABLE_2["svhn"][name][column] - 8 for column in ("clean", "pgd100", "cw100")
        )


def test_rows_of_mnist_with_pairing_lie_below_the_papers_and_the_runs_that_do_not_have_one_seed(of):
    ours = means(of, "mnist")
    rows = [name for name in TABLE_2 if METHODS[name].pairing]
    assert all(ours[name, c] < PUBLISHED[name][c] - 1 for name in rows for c in ("pgd100", "cw100"))
    wide = of.frame[of.frame["protocol"].str.contains("width.*steps 10") & (of.frame["method"] == "aalp_averaged")]
    assert wide["seed"].nunique() == 1


def test_some_records_were_made_by_code_that_was_not_committed(of):
    commits = [str(run.environment.get("commit", "")) for run in of.records.runs.values()]
    assert any(commit.endswith("+") for commit in commits)


# --- words on the pages of results/


def test_ten_steps_flatter_all_networks_of_mnist(of):
    """They move at most 0.1 inside a ball of 0.3."""
    ours = means(of, "mnist")
    assert all(ours[name, f"{kind}10"] > ours[name, f"{kind}100"] for name in TABLE_2 for kind in ("pgd", "cw"))


def test_figures_of_trainings_are_of_two_of_the_earlier_runs(of):
    seen = tables.measurements(of.records, "over_training", data="mnist")
    earlier = report.archive.records(report.archive.RESULTS / "mnist" / "earlier").runs.values()
    made = {(run.method, run.seed, run.environment["device"], run.environment["commit"]) for run in earlier}
    for m in seen:
        kept = (m.subject["method"], m.subject["seed"], m.environment["device"], m.environment["commit"])
        assert kept in made
    assert len(seen) == 2


def test_strong_attacks_are_on_the_first_thousand_images(of):
    frame = of.frame[(of.frame["suite"] != "table2") & ~of.frame["ablation"]]
    assert set(frame["count"]) == {1000}


def test_square_is_the_sign_of_masking_in_every_network_of_mnist_trained_on_attacked_images(of):
    """The table "Signs of gradient masking" counts them; a sign is more than NOISE of the images."""
    made = [
        m for m in of.records.kind("diagnosis") if m.subject["data"] == "mnist" and m.subject["method"] in TABLE_2[1:]
    ]
    assert all(m.values["black_box"]["square"]["only"] > NOISE * m.config["images"] for m in made)
