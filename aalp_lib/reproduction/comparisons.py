"""Methods compared on the same images, by the one rule: a t interval over seeds, Holm's correction, three words."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from aalp_lib._checks import InputError
from aalp_lib.reproduction.frames import SUITES
from aalp_lib.reproduction.grids import HALF_WIDTH

if TYPE_CHECKING:
    from pandas import DataFrame

AUTOATTACK = "square"  # the last stage of AutoAttack, which stands for all of it
LEAD = ("clean", "pgd100", "cw100", AUTOATTACK)  # columns of the one table
WEAKER = ("fgsm", "pgd10", "pgd20", "pgd40", "cw10", "cw20", "cw40")
ORDERED = LEAD[1:]
DECIDING = "pgd100"  # the column at which a variant is compared with its base
STEPS = (("adv", "alp"), ("alp", "trades"), ("trades", "aalp"), ("alp", "aalp"))  # the paper's order; AALP's gain
HALVES = (("alp", "aalp_gd"), ("alp", "aalp_sw"), ("aalp_gd", "aalp"), ("aalp_sw", "aalp"))
OVER_MADRY = (("adv", "alp"), ("adv", "trades"), ("adv", "aalp_gd"), ("adv", "aalp_sw"), ("adv", "aalp"))
HALF_FEATURES = f"fast, model width {[*HALF_WIDTH]}"
CONTROLLED = (
    ("alp", "fast", "aalp_sw_mean"),
    ("aalp_sw_mean", "fast", "aalp_sw"),
    ("aalp_shuffled", "fast", "aalp"),
    ("aalp_shuffled", "fast", "aalp_sw"),
    ("alp", HALF_FEATURES, "aalp_gd"),
    ("aalp_sw", HALF_FEATURES, "aalp"),
)  # what pairing less gains, what pairing less where the network is unsure gains on top; what guidance, what no mask;
# what a mask over the features gains over a network of half of them
VERDICTS = ("ahead", "behind", "unresolved")
TWO_NETWORKS = "two networks"  # of one seed: nothing is said of methods
LEVEL = 0.05


# --- one comparison --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """What the method `second` gains over `first` under one attack, on the same images, seed by seed.

    Attributes
    ----------
    data, protocol : str
    first, second : str
        Methods. `first_protocol` is the first's, where it is another.
    attack : str
    seeds : tuple of int
    gains : tuple of float
        Points, one a seed.
    images : int
        Test images of each seed; where they differ, of the one that has most.
    only_first, only_second : int
        Images that only one of the two has right, over all seeds.
    p_holm : float or None
        `p` after Holm's correction within a family; None before `judged`, and for one seed.
    verdict : str
        One of `VERDICTS`, or `TWO_NETWORKS` for one seed; "" before `judged`.
    """

    data: str
    protocol: str
    first: str
    second: str
    attack: str
    seeds: tuple[int, ...]
    gains: tuple[float, ...]
    images: int
    only_first: int
    only_second: int
    first_protocol: str = ""
    p_holm: float | None = None
    verdict: str = ""

    @property
    def mean(self) -> float:
        """The estimate: the mean of the gains in points."""
        return mean(self.gains)

    @property
    def low(self) -> float:
        """Lower end of the 95 % t interval over seeds, in points; nan for one seed."""
        return interval(self.gains)[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % t interval over seeds, in points; nan for one seed."""
        return interval(self.gains)[1]

    @property
    def p(self) -> float:
        """Two-sided p of the t test over seeds; nan for one seed."""
        return t_test(self.gains)

    @property
    def p_images(self) -> float | None:
        """McNemar's exact p, where two networks are compared; None for several seeds."""
        return exact_p(self.only_first, self.only_second) if len(self.seeds) == 1 else None


def compare(
    frame: "DataFrame",
    first: str,
    second: str,
    attack: str,
    *,
    data: str,
    protocol: str = "fast",
    first_protocol: str | None = None,
    suite: str | None = None,
) -> Comparison | None:
    """Compare two methods' last models under an attack on the same images, in pairs of runs of equal seed.

    Parameters
    ----------
    frame : DataFrame
        As `frame` makes it.
    first, second : str
        Methods; the gain is that of the second.
    attack : str
        Name in the suite: "clean", "pgd100", "square" for all of AutoAttack, "pgd100 start" and so on.
    data, protocol : str
    first_protocol : str, optional
        That of `first`, where it is another than `protocol`.
    suite : "table2", "strong" or "attacks", optional
        By default the first of these that has the attack.

    Returns
    -------
    Comparison or None
        None where the two share no seed in which both have the attack on as many images.
    """
    of = frame[(frame["data"] == data) & (frame["model"] == "last") & (frame["attack"] == attack)]
    suite = suite or next((name for name in SUITES if (of["suite"] == name).any()), SUITES[0])
    of = of[of["suite"] == suite]
    theirs, ours = _right(of, first, first_protocol or protocol), _right(of, second, protocol)
    pairs = {seed: (theirs[seed], ours[seed]) for seed in sorted(theirs.keys() & ours.keys())}
    leads = {seed: b.astype(int) - a for seed, (a, b) in pairs.items() if len(a) == len(b)}
    if not leads:
        return None
    return Comparison(
        data, protocol, first, second, attack, tuple(leads),
        gains=tuple(100 * int(lead.sum()) / len(lead) for lead in leads.values()),
        images=max(len(lead) for lead in leads.values()),
        only_first=sum(int((lead < 0).sum()) for lead in leads.values()),
        only_second=sum(int((lead > 0).sum()) for lead in leads.values()),
        first_protocol=first_protocol or protocol,
    )  # fmt: skip


def _right(of: "DataFrame", method: str, protocol: str) -> dict[int, np.ndarray]:
    """Which images each seed has right."""
    rows = of[(of["method"] == method) & (of["protocol"] == protocol)]
    return {int(seed): right for seed, right in zip(rows["seed"], rows["right"], strict=True) if right is not None}


def judged(family: Iterable[Comparison | None]) -> list[Comparison]:
    """Each with its verdict, after Holm's correction within the family: the comparisons that a table shows.

    "ahead" or "behind" where the corrected p is below 0.05, else "unresolved". One seed speaks of two networks and not
    of methods: it gets no verdict and does not count in the family. None, what was not measured, is left out.
    """
    made = [one for one in family if one]
    corrected = iter(holm([one.p for one in made if len(one.seeds) > 1]))
    found = []
    for one in made:
        p = next(corrected) if len(one.seeds) > 1 else None
        word = TWO_NETWORKS if p is None else _word(one.mean, p)
        found.append(dataclasses.replace(one, p_holm=p, verdict=word))
    return found


def _word(gain: float, p: float) -> str:
    return "unresolved" if p >= LEVEL else "ahead" if gain > 0 else "behind"


# --- statistics ------------------------------------------------------------------------------------------------------


def interval(gains: Sequence[float]) -> tuple[float, float]:
    """The 95 % t interval over seeds of the mean; nan for one seed.

    Examples
    --------
    >>> [round(end, 3) for end in interval([1.0, 2.0, 3.0])]  # 2 ± 4.303 / √3
    [-0.484, 4.484]
    """
    from scipy.stats import t  # slow to import

    if len(gains) < 2:
        return math.nan, math.nan
    half = float(t.ppf(1 - LEVEL / 2, len(gains) - 1)) * float(np.std(gains, ddof=1)) / math.sqrt(len(gains))
    return mean(gains) - half, mean(gains) + half


def t_test(gains: Sequence[float]) -> float:
    """Two-sided p of the t test of the mean against 0: below 0.05 where the 95 % interval does not hold 0.

    1 where all gains are the same, which leaves no spread to test against; nan for one seed.
    """
    from scipy.stats import ttest_1samp  # slow to import

    if len(gains) < 2:
        return math.nan
    return float(ttest_1samp(gains, 0).pvalue) if max(gains) - min(gains) > 1e-9 else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for their number, as Holm (1979) does: the smallest times n, the next times n − 1, and so on.

    Examples
    --------
    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    steps = itertools.accumulate((ps[i] * (len(ps) - rank) for rank, i in enumerate(order)), max)
    corrected = dict(zip(order, steps, strict=True))
    return [min(1.0, corrected[i]) for i in range(len(ps))]


def mcnemar(a: Tensor, b: Tensor) -> tuple[int, int, float]:
    """McNemar's exact test of two models on the same images.

    Parameters
    ----------
    a, b : bool tensor (N,)
        Which images each model has right; anything else raises InputError.

    Returns
    -------
    only_a, only_b : int
        Images that only one of them has right.
    p : float
        As `exact_p` has it.

    Examples
    --------
    >>> right = torch.tensor([True, True, True, False])
    >>> mcnemar(right, ~right)
    (3, 1, 0.625)
    """
    if a.dtype != torch.bool or b.dtype != torch.bool or a.shape != b.shape or a.ndim != 1:
        kinds = " and ".join(f"{t.dtype} {tuple(t.shape)}" for t in (a, b))
        raise InputError(f"McNemar's test takes two bool tensors (N,) on the same images, got {kinds}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return only_a, only_b, exact_p(only_a, only_b)


def exact_p(only_a: int, only_b: int) -> float:
    """Two-sided p of McNemar's exact test, for counts of images that only one of two models has right.

    The chance of a split at least as uneven if each were as likely to fall to either model; 1 where there are none.
    """
    from scipy.stats import binomtest  # slow to import

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


# --- families: the comparisons that a table shows -------------------------------------------------------------------

Family = list[Comparison]


def lead(frame: "DataFrame", attacks: Sequence[str] = LEAD, protocol: str = "fast") -> Family:
    """AALP against ALP, over data sets × attacks, of the full tier; judged."""
    full = frame[(frame["tier"] == "full") & (frame["protocol"] == protocol)]
    pairs = itertools.product(full["data"].unique(), attacks)
    return judged(compare(full, "alp", "aalp", attack, data=data, protocol=protocol) for data, attack in pairs)


def order(frame: "DataFrame", steps: Sequence[tuple[str, str]] = STEPS) -> dict[tuple[str, str, str, str], Family]:
    """Steps from a method to another, judged: a family for each data set, protocol, reading and attack of `ORDERED`.

    The reading, of the pairing loss, is "" for the paper's, or how ALP's and AALP's runs differ from it, in words.
    Madry's and TRADES' rows, which have no pairing loss, stand in each.
    """
    made = {}
    for data, protocol, variant, names in readings(frame):
        mine = [(names[a], names[b]) for a, b in steps if a in names and b in names]
        mine = [step for step in mine if not variant or {*step} & {names["alp"], names["aalp"]}]
        for attack in ORDERED:
            made[data, protocol, variant, attack] = judged(
                compare(frame, *step, attack, data=data, protocol=protocol) for step in mine
            )
    return {key: family for key, family in made.items() if family}


def readings(frame: "DataFrame") -> Iterator[tuple[str, str, str, Mapping[str, str]]]:
    """Data set, protocol, reading of the pairing loss, and the method of each row of the paper under that reading."""
    runs = frame[frame["tier"] == "full"].drop_duplicates(["data", "protocol", "method"])
    for (data, protocol), of in runs.groupby(["data", "protocol"], sort=False):
        plain = of["method"][of["variant"] == ""]
        for variant, same in of[of["base"].isin(("alp", "aalp"))].groupby("variant", sort=False):
            pair = dict(zip(same["base"], same["method"], strict=True))
            if {"alp", "aalp"} <= pair.keys():
                rows = plain[plain.isin(("adv", "trades"))] if variant else plain
                yield str(data), str(protocol), str(variant), dict(zip(rows, rows, strict=True)) | pair


def controls(frame: "DataFrame", data: str = "mnist") -> dict[str, Family]:
    """`CONTROLLED`, judged: a family for each attack of `LEAD`."""
    return {
        attack: judged(
            compare(frame, first, second, attack, data=data, first_protocol=protocol)
            for first, protocol, second in CONTROLLED
        )
        for attack in LEAD
    }


def ablations(frame: "DataFrame", data: str) -> Family:
    """Each variant of a method against the row that it comes from, at `DECIDING`; judged."""
    variants = frame[(frame["data"] == data) & (frame["variant"] != "")].drop_duplicates(["method", "protocol"])
    return judged(
        compare(frame, str(of.base), str(of.method), DECIDING, data=data, protocol=str(of.protocol))
        for of in variants.itertuples()
    )
