"""Two rows of runs compared seed by seed, and measurements by method."""

import pytest
import torch
from test_schema import record

from aalp_lib.reproduction import comparisons, paired, report, schema
from aalp_lib.reproduction.collect import Found
from aalp_lib.reproduction.schema import Measurement


def run(right, seed=0, column="pgd100", method="aalp"):
    """A record whose `column` has these images right, given as a string of 0 and 1."""
    found = torch.tensor([digit == "1" for digit in right])
    cell = {"accuracy": found.double().mean().item(), "low": 0.0, "high": 1.0, "count": len(found)}
    last = {column: cell | {"correct": int(found.sum())}}
    packed = {"last": {column: schema.pack(found)}}
    return record(method, seed, accuracy={"last": last}, outcomes=packed)


def test_the_gain_is_that_of_the_second_row_on_the_same_images():
    found = paired.compare([run("1100")], [run("1011")])
    assert (found.images, found.gains, found.only_first, found.only_second) == (4, (25.0,), 1, 2)
    assert found.p == pytest.approx(comparisons.exact_p(1, 2))
    assert str(found) == "+25.0 points (1 seed; p 1.000)"


def test_seeds_are_paired_and_those_without_a_partner_left_out():
    first = [run("1100", seed) for seed in (0, 1, 5)]
    second = [run("1110", 1), run("0100", 0), run("1111", 7)]
    found = paired.compare(first, second)
    assert found.gains == (25.0, -25.0)
    assert (found.only_first, found.only_second) == (1, 1)
    assert "2 seeds, -25.0 to +25.0" in str(found)


@pytest.mark.parametrize("second", [[], [run("11", 0)], [run("1100", 3)], [run("1100", 0, "pgd40")]])
def test_nothing_in_common_is_no_comparison(second):
    assert paired.compare([run("1100", 0)], second) is None


@pytest.mark.parametrize(
    ("second", "standing"),
    [("1" * 40, 1), ("1" * 10 + "0" * 30, -1), ("1" * 21 + "0" * 19, 0), ("1" * 20 + "0" * 20, 0)],
)
def test_standing_needs_more_than_a_few_images(second, standing):
    base = "1" * 20 + "0" * 20
    assert paired.compare([run(base)], [run(second)]).standing == standing


def test_standing_needs_every_seed():
    base, more, fewer = "1" * 20 + "0" * 40, "1" * 60, "1" * 19 + "0" * 41
    found = paired.compare([run(base, 0), run(base, 1)], [run(more, 0), run(fewer, 1)])
    assert found.p < 0.05
    assert found.standing == 0


def measured(method, seed=0, **subject):
    whose = {"data": "mnist", "method": method, "seed": seed, "model": "last"} | subject
    return Measurement("samples", whose, "full", {}, {}, {}, 1.0)


def test_measurements_by_method_are_of_the_lowest_seed_and_the_fast_recipe():
    kept = [measured("alp", 2), measured("alp", 1), measured("aalp", 0, recipe="paper"), measured("aalp", 3)]
    kept += [measured("raw", data="cifar10"), measured("adv", model="best")]
    found = report.by_method(Found(measurements=kept), "samples")
    assert {name: m.subject["seed"] for name, m in found.items()} == {"alp": 1, "aalp": 3}
