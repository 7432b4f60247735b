"""The rule of comparison: what a gain is, its interval over seeds, Holm's correction, and the three words."""

import math

import numpy as np
import pandas
import pytest
import torch

import aalp_lib as aalp
from aalp_lib.reproduction import comparisons, frame
from aalp_lib.reproduction.comparisons import compare, holm, interval, judged, t_test


def lines(method, *rights, suite="table2", attack="pgd100", protocol="fast"):
    """A line for each seed, of whom these images are right, given as strings of 0 and 1."""
    rows = [
        {
            "data": "mnist",
            "method": method,
            "protocol": protocol,
            "model": "last",
            "suite": suite,
            "attack": attack,
            "seed": seed,
            "right": np.array([digit == "1" for digit in right]),
        }
        for seed, right in enumerate(rights)
    ]
    return pandas.DataFrame(rows)


def between(*parts, **options):
    return compare(pandas.concat(parts), "alp", "aalp", "pgd100", data="mnist", **options)


def test_the_gain_is_that_of_the_second_on_the_same_images():
    found = between(lines("alp", "1100"), lines("aalp", "1011"))
    assert (found.images, found.gains, found.only_first, found.only_second) == (4, (25.0,), 1, 2)


def test_seeds_are_paired_and_those_without_a_partner_left_out():
    found = between(lines("alp", "1100", "1100", "1111"), lines("aalp", "0100", "1110"))
    assert (found.seeds, found.gains) == ((0, 1), (-25.0, 25.0))
    assert found.mean == 0


def test_runs_of_another_protocol_are_compared_only_when_named():
    parts = lines("alp", "1100", protocol="fast, recipe epochs 32"), lines("aalp", "1110")
    assert between(*parts) is None
    assert between(*parts, first_protocol="fast, recipe epochs 32").gains == (25.0,)


def test_an_attack_is_looked_up_in_table_2_first():
    parts = lines("alp", "1100"), lines("aalp", "1111"), lines("alp", "10", suite="attacks")
    parts += (lines("aalp", "11", suite="attacks"),)
    assert between(*parts).images == 4
    assert between(*parts, suite="attacks").images == 2


@pytest.mark.parametrize("second", ["11", ""])
def test_other_images_are_no_comparison(second):
    assert between(lines("alp", "1100"), lines("aalp", second)) is None


def test_the_interval_is_students_over_seeds():
    gains = [0.2, 0.9, 0.4, 0.5]
    half = 3.182446 * np.std(gains, ddof=1) / 2  # 97.5 % point of t with three degrees of freedom
    assert interval(gains) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-4)
    assert t_test(gains) < 0.05  # as the interval does not hold 0
    assert t_test([0.2, 0.9, -0.4, 0.5]) > 0.05
    assert all(map(math.isnan, (*interval([1.0]), t_test([1.0]))))


def test_seeds_that_agree_exactly_leave_no_spread_to_test_against():
    assert t_test([0.3, 0.3]) == 1


def test_holm_multiplies_the_smallest_p_by_the_size_of_the_family_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


def gained(*shares):
    """A comparison whose second method has so many of 100 images more right, one number a seed."""
    rights = ["1" * (50 + share) + "0" * (50 - share) for share in shares]
    return between(lines("alp", *["1" * 50 + "0" * 50] * len(shares)), lines("aalp", *rights))


def test_a_verdict_is_one_of_three_words_after_the_correction_within_the_family():
    ahead, behind, open_ = gained(9, 10, 11, 10), gained(-9, -10, -11, -10), gained(9, -8, 2, 1)
    assert [one.verdict for one in judged([ahead, behind, open_])] == ["ahead", "behind", "unresolved"]
    slight = gained(2, 3, 4, 7)
    assert 0.01 < slight.p < 0.05
    assert judged([slight])[0].verdict == "ahead"
    assert judged([slight] + [open_] * 4)[0].verdict == "unresolved"  # one of five is found so by chance


def test_seven_seeds_clear_of_nothing_are_ahead_also_if_one_of_them_is_behind():
    (found,) = judged([gained(5, 4, 6, 5, 5, 4, -1)])
    assert found.low > 0
    assert found.verdict == "ahead"


def test_one_seed_speaks_of_two_networks_and_has_mcnemars_p_and_no_verdict():
    one, several = judged([gained(10), gained(9, 10, 11)])
    assert (one.verdict, one.p_holm) == (comparisons.TWO_NETWORKS, None)
    assert one.p_images == comparisons.exact_p(0, 10)
    assert several.p_images is None
    assert several.p_holm == several.p  # the other does not count in the family


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


# --- families of the repository's own records


@pytest.fixture(scope="module")
def everything():
    return frame()


def test_the_forest_plots_family_has_each_data_set_under_each_attack(everything):
    family = comparisons.lead(everything)
    asked = {(one.data, one.attack) for one in family}
    assert asked >= {(data, attack) for data in ("mnist", "cifar10-jpeg") for attack in comparisons.LEAD}
    assert {one.verdict for one in family} <= {*comparisons.VERDICTS, comparisons.TWO_NETWORKS}
    clean = next(one for one in family if (one.data, one.attack) == ("mnist", "clean"))
    assert (len(clean.seeds), clean.images) == (7, 10_000)


def test_the_order_is_read_for_each_reading_of_the_pairing_loss(everything):
    families = comparisons.order(everything)
    assert len(families["mnist", "fast", "", "pgd100"]) == len(comparisons.STEPS)
    averaged = families["mnist", "fast", "weight 0.1", "pgd100"]
    assert {"alp_averaged", "aalp_averaged", "adv", "trades"} == {
        m for one in averaged for m in (one.first, one.second)
    }


def test_controls_and_ablations_are_compared_with_what_they_come_from(everything):
    half = [
        one for one in comparisons.controls(everything)["square"] if one.first_protocol == comparisons.HALF_FEATURES
    ]
    assert {(one.first, one.second) for one in half} == {("alp", "aalp_gd"), ("aalp_sw", "aalp")}
    found = comparisons.ablations(everything, "mnist-sample")
    assert {one.first for one in found} <= {"alp", "aalp"}
    assert len(found) == 19
