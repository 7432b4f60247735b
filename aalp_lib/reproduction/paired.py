"""Models compared on the same images: AALP against ALP, and variants of a method against it."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aalp_lib.evaluation import TABLE_2_STEPS, paper_name
from aalp_lib.methods import TABLE_2
from aalp_lib.reproduction import paper
from aalp_lib.reproduction.attack_measurements import ALTERED
from aalp_lib.reproduction.collect import (
    UNMEASURED,
    Found,
    Group,
    Which,
    changes,
    csv_text,
    differences_from,
    gradients,
    grid,
    groups,
    half_features,
    is_of,
    measured_sets,
    of_the_paper,
    recipe,
    signed,
    spread,
    title,
)
from aalp_lib.reproduction.comparisons import exact_p as exact_p, mcnemar
from aalp_lib.reproduction.grids import HALF_FEATURES
from aalp_lib.reproduction.schema import HEADINGS, Measurement, Record, label, unpack

PAIRED = ("pgd100", "cw100")  # columns of the order of the methods
WEAKER = ("fgsm", *(f"{kind}{steps}" for kind in ("pgd", "cw") for steps in TABLE_2_STEPS if steps < 100))
ABLATED = ("clean", "pgd40", "pgd100", "cw100")
DECIDING = "pgd100"  # the column at which a variant is compared with its base
STEPS = (
    ("adv", "alp"),
    ("alp", "trades"),
    ("trades", "aalp"),
    ("adv", "trades"),
    ("adv", "aalp"),
    ("alp", "aalp_gd"),
    ("alp", "aalp_sw"),
    ("alp", "aalp"),
    ("aalp_gd", "aalp"),
    ("aalp_sw", "aalp"),
)  # of the paper's order, and what AALP and its halves gain over what they start from
CONTROLLED = (
    ("alp", "aalp_sw_mean"),
    ("aalp_sw_mean", "aalp_sw"),
    ("aalp_shuffled", "aalp"),
    ("aalp_shuffled", "aalp_sw"),
    ("alp-half-features", "aalp_gd"),
    ("aalp_sw-half-features", "aalp"),
)  # what pairing less gains, what pairing less where the network is unsure gains on top; what guidance, what no mask;
# what a mask over the features gains over a network of half of them
STRONGEST = "square"  # the last stage of AutoAttack, which stands for all of it
PAIR_COLUMNS = (
    *("data", "protocol", "seed", "attack", "gradients", "images", "alp", "aalp", "gain"),
    *("only_alp", "only_aalp", "p"),
)
STEP_COLUMNS = (
    *("data", "pairing", "first", "second", "attack", "paper", "gain", "low", "high"),
    *("seeds", "images", "p", "p_seeds", "verdict"),
)
Correct = Mapping[int, Tensor | None]  # seed -> which images are right, bool (N,), where it was measured


# --- AALP against ALP on the same images -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """ALP and AALP of one seed under one attack, on the same `images` images; `only_alp` has only ALP right.

    `lead` is 1 where only AALP is right, -1 where only ALP is, else 0: int64 (images,). `strong` says for
    an attack of measurements "strong" what its gradients were computed in, ALP's first where the two differ.
    """

    data: str
    protocol: str
    seed: int
    attack: str
    images: int
    alp: float
    aalp: float
    only_alp: int
    only_aalp: int
    p: float
    lead: Tensor = field(repr=False, compare=False)
    strong: str = ""

    @property
    def gain(self) -> float:
        """AALP's lead in points."""
        return 100 * (self.aalp - self.alp)


def sign_flip_p(lead: Tensor) -> float:
    """McNemar's test for several pairs of models on the same images: an image counts once, whatever its seeds say.

    An image on which the seeds disagree counts as even, so p may be below that of all counts pooled. How far networks
    of one method lie apart is not in it.

    Parameters
    ----------
    lead : int tensor (N,)
        For each image, how many more models of the one kind than of the other have it right.

    Returns
    -------
    float
        Chance of a sum at least as far from 0 if each image's lead were as likely to have the other sign: exact,
        two-sided, from the sums of all 2^N choices of signs. Of one pair of models it is McNemar's exact p.

    Examples
    --------
    >>> sign_flip_p(torch.tensor([2, 2, 0, -1]))  # of the eight sums, |2 + 2 - 1| is reached or passed by four
    0.5
    """
    from scipy.stats import binom  # slow to import

    sizes, counts = torch.unique(lead[lead != 0].abs(), return_counts=True)
    chances = np.ones(1)  # of each sum, from the lowest to the highest
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, steps)
    reached = len(chances) // 2 + abs(int(lead.sum()))
    return min(1.0, 2 * float(chances[reached:].sum()))


def pairs(found: Found, which: Which = "last") -> list[Pair]:
    """AALP against ALP wherever both have the same data, protocol and seed, full tier.

    So has each pair of variants with the same change, such as the pairing averaged over classes; its `protocol` says
    which. Every column of Table 2 and of "strong" measurements. Those rest on images from the front of the test
    split; where that is not all of it, PGD-100 is compared on the same images too. A measurement belongs to the runs of
    its subject's protocol, the recipe "fast" where it names none.
    """
    made = []
    for data in measured_sets(found):
        for words, alp, aalp in _couples(found, data):
            seeds = {r.seed: r for r in aalp.records}
            for r in alp.records:
                if r.seed in seeds:
                    made += _seed_pairs(found, words, r, seeds[r.seed], which)
    return made


def _couples(found: Found, data: str) -> Iterator[tuple[str, Group, Group]]:
    """What both have in common, in words, and the runs of ALP and of AALP: the paper's rows, then their variants."""
    runs = [g for g in of_the_paper(found.records, data) if g.data == data]
    for alp, aalp in itertools.product(runs, runs):
        if (alp.method, aalp.method, alp.protocol) == ("alp", "aalp", aalp.protocol):
            yield alp.protocol, alp, aalp
    variants = groups(r for r in found.ablations if r.tier == "full" and r.data == data and changes(r))
    for alp, aalp in itertools.product(variants, variants):
        same = differences_from(alp.records[0], "alp") == differences_from(aalp.records[0], "aalp")
        if same and alp.protocol == aalp.protocol:
            words = alp.records[0].config["method"].get("label", alp.method).removeprefix(f"{label('alp')}, ")
            yield f"{alp.protocol}, {words}", alp, aalp


def _seed_pairs(found: Found, words: str, alp: Record, aalp: Record, which: str) -> list[Pair]:
    a, b = outcomes(alp, which), outcomes(aalp, which)
    both = [name for name in HEADINGS if name != "clean" and name in a and name in b and len(a[name]) == len(b[name])]
    made = [_pair(alp, words, name, a[name], b[name]) for name in both]
    c, d = attack_outcomes(found, alp, which), attack_outcomes(found, aalp, which)
    shared = [name for name in c if name != "clean" and name in d and len(c[name]) == len(d[name])]
    both_attacked = [m for m in (attacked(found, alp, which), attacked(found, aalp, which)) if m]
    for name in shared:
        used = dict.fromkeys(gradients(m, name) for m in both_attacked)
        made.append(_pair(alp, words, name, c[name], d[name], strong=", ".join(used)))
    if "pgd100" in both:
        parts = sorted({len(c[name]) for name in shared} - {len(a["pgd100"])})
        made += [_pair(alp, words, "pgd100", a["pgd100"][:count], b["pgd100"][:count]) for count in parts]
    return made


def outcomes(record: Record, which: str) -> dict[str, Tensor]:
    """Which images each column of a record left right, bool (N,)."""
    packed, counts = record.outcomes.get(which, {}), record.accuracy.get(which, {})
    return {name: unpack(text, int(counts[name]["count"])) for name, text in packed.items()}


def attack_outcomes(found: Found, record: Record, which: str, kind: str = "strong") -> dict[str, Tensor]:
    """Which images each attack of a measurement left right, bool (N,)."""
    m = attacked(found, record, which, kind)
    if m is None:
        return {}
    counts = m.values["columns"]
    return {name: unpack(text, int(counts[name]["count"])) for name, text in m.values["outcomes"].items()}


def attacked(found: Found, record: Record, which: str, kind: str = "strong") -> Measurement | None:
    """The measurement "strong" or "attacks" of a run."""
    return next((m for m in found.measurements if m.kind == kind and is_of(m, record, which)), None)


def _pair(of: Record, words: str, name: str, alp: Tensor, aalp: Tensor, *, strong: str = "") -> Pair:
    only_alp, only_aalp, p = mcnemar(alp, aalp)
    shares, lead = (int(alp.sum()) / len(alp), int(aalp.sum()) / len(aalp)), aalp.long() - alp.long()
    return Pair(of.data, words, of.seed, name, len(alp), *shares, only_alp, only_aalp, p, lead, strong)


def standing(found: Sequence[Pair]) -> int:
    """1 if AALP is ahead of ALP, -1 if behind, 0 if neither is shown.

    Ahead or behind is shown if every seed says so and McNemar's exact p, for several seeds that of `sign_flip_p` over
    the images' sums, is below 0.05. It is these networks that are told apart, not the methods: two seeds of one method
    may differ as significantly (see `order_table`).
    """
    return _shown([pair.gain for pair in found], _together([pair.lead for pair in found]))


def _together(leads: Sequence[Tensor]) -> float:
    """`sign_flip_p` of the images' sums over seeds; where a seed has fewer images, the rest counts as even."""
    return sign_flip_p(pad_sequence(list(leads), batch_first=True).sum(0))


def _t_test(gains: Sequence[float]) -> float | None:
    """Two-sided p of the t test on seeds' gains; None where there is no spread to test against."""
    from scipy.stats import ttest_1samp  # slow to import

    return float(ttest_1samp(gains, 0).pvalue) if max(gains) - min(gains) > 1e-9 else None


def _shown(gains: Sequence[float], p: float) -> int:
    """1 or -1 if every seed's gain has that sign and p is below 0.05, else 0."""
    if p >= 0.05 or not (min(gains) > 0 or max(gains) < 0):
        return 0
    return 1 if gains[0] > 0 else -1


def headline(found: Found, which: Which = "last") -> str:
    """What becomes of AALP's gain over ALP at PGD-100 under the strongest attack, a paragraph for each protocol.

    The strongest attack is the one under which the two together keep the fewest images; of equals it is the last, which
    includes the stages before. What is shown at PGD-100 rests
    on all images and seeds. A gain that is shown there "turns over" if AALP is shown to be behind under the strongest
    attack (see `standing`), "vanishes" if neither is shown to be ahead, "shrinks" if AALP is still shown to be ahead
    but by less than at PGD-100 on the same images, and else "holds". Where PGD and CW were started at the image, too,
    what that shows stands in a paragraph of its own.
    """
    by: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs(found, which):
        by.setdefault((pair.data, pair.protocol), []).append(pair)
    said = []
    for data in measured_sets(found):
        for words, alp, aalp in _couples(found, data):
            if of := by.get((data, words)):
                heading = f"{title(data)}, {words}"
                said.append(_judged(heading, of) + _from_the_image(heading, found, alp, aalp, which))
    return "\n".join(said) if said else f"AALP against ALP on the same images: {UNMEASURED}.\n"


_STAGES = {
    "apgd-ce": "AutoAttack: APGD-CE",
    "apgd-t": "AutoAttack: + APGD-T",
    "fab-t": "AutoAttack: + FAB-T",
    "square": "AutoAttack: all, + Square",
}
_ENDS = {1: "AALP is ahead", 0: "neither is shown to be ahead", -1: "AALP is behind"}


def _end(found: Sequence[Pair]) -> str:
    way = standing(found)
    return _ENDS[way] + _on([pair.gain for pair in found]) * (way != 0)


def _on(gains: Sequence[float]) -> str:
    """What a thing shown is bound to: one seed, or these where the t test over them does not show it; else nothing."""
    if len(gains) == 1:
        return " on one seed"
    p = _t_test(gains)
    return "" if p is not None and p < 0.05 else f" on these {len(gains)} seeds"


def _judged(heading: str, found: Sequence[Pair]) -> str:
    images = max(pair.images for pair in found)
    weak = [p for p in found if p.attack == "pgd100" and p.images == images]
    counts = {p.images for p in found if p.attack == "pgd100"}  # elsewhere there is nothing to set it against
    strongest = [p for p in found if p.strong and p.images in counts]
    columns = {p.attack: [q for q in strongest if q.attack == p.attack] for p in strongest}
    by = {name: [p for p in found if p.attack == name and p.images == images] for name in (*WEAKER, "cw100")}
    ahead = {HEADINGS[name]: of for name, of in by.items() if name in WEAKER and of and standing(of) > 0}
    if not weak:
        return f"**{heading}**: PGD-100 {UNMEASURED}.\n"
    text = f"At PGD-100 {_lead(weak)}"
    if by["cw100"]:
        text += f"; at CW-100 {_lead(by['cw100'])}"
    if ahead:
        text += f". Under weaker attacks AALP is ahead at {_listed([_at(name, of) for name, of in ahead.items()])}"
    if not columns:
        return f"**{heading}: at PGD-100 {_end(weak)}; under stronger attacks {UNMEASURED}.** {text}.\n"
    name = min(
        reversed(columns), key=lambda column: mean(p.alp + p.aalp for p in columns[column])
    )  # of equals the last
    strong, count = columns[name], columns[name][0].images
    seeds = {p.seed for p in strong}
    same = [p for p in found if p.attack == "pgd100" and p.images == count and p.seed in seeds]
    shown = [*ahead, HEADINGS["cw100"]] if by["cw100"] and standing(by["cw100"]) > 0 else [*ahead]
    text = f"**{heading}: {_fate(weak, same, strong, shown)}** {text}"
    if count < images:
        text += f". On the first {count:,} test images alone, at PGD-100 {_lead(same)}"
    elif len(same) < len(weak):
        text += f". On the seeds attacked harder alone, at PGD-100 {_lead(same)}"
    change = mean(p.gain for p in strong) - mean(p.gain for p in same)
    return (
        f"{text}. Under {attack_title(name)}, the strongest attack with a record of each image ({count:,} images), "
        f"{_lead(strong)}: a change of {signed(change)} points on the same images.\n"
    )


def _from_the_image(heading: str, found: Found, alp: Group, aalp: Group, which: Which) -> str:
    """What PGD-100 and CW-100 show that start at the image instead of at random; empty where that was not measured."""
    made = {
        name: compare_strong(found, alp.records, aalp.records, f"{name} start", which, "attacks") for name in PAIRED
    }
    steps = {name: step for name, step in made.items() if step}
    if not steps:
        return ""
    ways: dict[str, list[str]] = {}
    for name, step in steps.items():
        if step.standing:
            ways.setdefault(_ENDS[step.standing] + " at {}" + _on(step.gains), []).append(HEADINGS[name])
    said = " and ".join(words.format(_listed(names)) for words, names in ways.items()) or _ENDS[0]
    numbers = [f"at {HEADINGS[name]} AALP stands at {step.over_seeds}" for name, step in steps.items()]
    images = max(step.images for step in steps.values())
    return (
        f"\n**{heading}, PGD and CW started at the image instead of at random: {said}.** On the first {images:,} test "
        f"images, against ALP, {'; '.join(numbers)}.\n"
    )


def _fate(weak: Sequence[Pair], same: Sequence[Pair], strong: Sequence[Pair], ahead: Sequence[str]) -> str:
    before, after, on = standing(weak), standing(strong), _on([pair.gain for pair in weak])
    some = f", on {len(strong)} of these {len(weak)} seeds," if len(strong) < len(weak) else ""
    if before <= 0:
        start = f"AALP is behind ALP at PGD-100{on}"
        if before == 0:
            start = "no gain of AALP over ALP is shown at PGD-100"
        if before == 0 and ahead:
            lone = " on one seed" * (len(weak) == 1)
            start = f"AALP's gain over ALP{lone}, shown at {_listed(ahead)}, is not shown at PGD-100"
        return f"{start}; under the strongest attack{some} {_ENDS[after] if some else _end(strong)}."
    if after == 0 and standing(same) <= 0:
        return f"AALP is ahead of ALP at PGD-100{on}; on the images of the strongest attack{some} at neither."
    if after > 0:
        word = "shrinks" if mean(p.gain for p in strong) < mean(p.gain for p in same) else "holds"
    else:
        word = "vanishes" if after == 0 else "turns over"
    return f"AALP's gain over ALP{on} {word} under the strongest attack{some.removesuffix(',')}."


def _listed(words: Sequence[str]) -> str:
    """In a sentence: "A", "A and B", "A, B and C"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _at(name: str, found: Sequence[Pair]) -> str:
    """A column with AALP's gain there and what shows it."""
    gains, seeds = [pair.gain for pair in found], _t_test([pair.gain for pair in found])
    p = shown_p(_together([pair.lead for pair in found]))
    over = "" if seeds is None else f", over seeds {shown_p(seeds)}"
    return f"{name} ({signed(mean(gains))} points, p {p}{over})"


def _lead(found: Sequence[Pair]) -> str:
    gains = [pair.gain for pair in found]
    count = f"{len(found)} seed" + ("s" if len(found) > 1 else "")
    span = f", {spread(gains)}" if len(found) > 1 else ""
    ps = ", ".join(shown_p(pair.p) for pair in found)
    if len(found) > 1:
        ps += f", by the sign-flip test together {shown_p(_together([pair.lead for pair in found]))}"
        seeds = _t_test(gains)
        ps += "" if seeds is None else f", over seeds {shown_p(seeds)}"
    return f"AALP stands at {signed(mean(gains))} points against ALP ({count}{span}; McNemar's p {ps})"


def shown_p(value: float) -> str:
    """A p value as tables have it."""
    if value < 1e-99:
        return "below 1e-99"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def attack_title(name: str) -> str:
    """The name of an attack in tables; a stage of AutoAttack stands for all up to it.

    >>> attack_title("pgd10 longer")
    'PGD-10, steps three times as long'
    """
    name, _, altered = name.partition(" ")
    title = _STAGES.get(name) or HEADINGS.get(name, name)
    return f"{title}, {ALTERED[altered]}" if altered in ALTERED else title


def mcnemar_table(found: Found, which: Which = "last") -> str:
    """AALP against ALP, a line for each seed and attack."""
    made = pairs(found, which)
    if not made:
        return f"AALP against ALP on the same images: {UNMEASURED}.\n"
    head = ["Data", "Protocol", "Seed", "Attack", "Gradients", "Images", "ALP", "AALP", "Gain"]
    lines = [[*head, "Only ALP", "Only AALP", "p"]]
    for p in made:
        if not p.strong and p.attack not in PAIRED:
            continue  # the CSV has them
        lines.append(
            [
                title(p.data), p.protocol, str(p.seed), attack_title(p.attack), p.strong or "–", str(p.images),
                f"{100 * p.alp:.1f}", f"{100 * p.aalp:.1f}", signed(p.gain), str(p.only_alp), str(p.only_aalp),
                shown_p(p.p),
            ]
        )  # fmt: skip
    return (
        "Correct images in percent; number of images that only one of the two has right; p of McNemar's exact test, "
        'two-sided. "Gradients" are those of the stronger attacks, ALP\'s first where the two differ.'
        "\n\n" + grid(lines)
    )


def mcnemar_csv(found: Found, data: str, which: Which = "last") -> str:
    """`pairs` of one of the paper's data sets and its copies as CSV, a line for each seed and attack; "" if empty."""
    lines = [
        [
            p.data, p.protocol, p.seed, attack_title(p.attack), p.strong, p.images, f"{100 * p.alp:.2f}",
            f"{100 * p.aalp:.2f}", f"{p.gain:.2f}", p.only_alp, p.only_aalp, f"{p.p:.3g}",
        ]
        for p in pairs(found, which)
        if paper_name(p.data) == data
    ]  # fmt: skip
    return csv_text(PAIR_COLUMNS, lines) if lines else ""


# --- any two rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Two rows of training runs in one column, on the same images, paired by seed.

    Attributes
    ----------
    column : str
    images : int
        Test images of each seed; where they differ, of the one that has most.
    gains : tuple of float
        Points by which the second row leads the first, one a seed.
    only_first, only_second : int
        Images that only one of the two has right, over all seeds.
    p : float
        McNemar's exact p; of several seeds that of `sign_flip_p`, in which an image counts once.
    """

    column: str
    images: int
    gains: tuple[float, ...]
    only_first: int
    only_second: int
    p: float

    @property
    def gain(self) -> float:
        """Mean of the gains in points, to one decimal."""
        return round(mean(self.gains), 1) + 0.0  # never -0.0

    @property
    def p_seeds(self) -> float | None:
        """p of the t test on the seeds' gains: whether such gains are of the methods and not of these networks alone.

        None for one seed, or where all gains are the same.
        """
        return _t_test(self.gains)

    @property
    def standing(self) -> int:
        """1 if the second row is shown to be ahead, -1 if behind, 0 if neither; as in `standing`."""
        return _shown(self.gains, self.p)

    def way(self, theirs: float) -> str:
        """Whether the paper's step of `theirs` points holds here, or the reverse does, or neither is shown."""
        word = {0: "not shown", 1 if theirs > 0 else -1: "holds"}.get(self.standing, "the reverse")
        return word + " on one seed" * (len(self.gains) == 1 and self.standing != 0)

    def cell(self, said: str) -> str:
        """The gain with what is said of it, its range over seeds and both p, as a cell of a table."""
        lines = [f"**{signed(self.gain)}** {said}"]
        if len(self.gains) > 1:
            lines.append(f"{len(self.gains)} seeds, {spread(self.gains)}")
        lines.append(f"p {shown_p(self.p)}")
        if self.p_seeds is not None:
            lines.append(f"over seeds {shown_p(self.p_seeds)}")
        return "<br>".join(lines)

    @property
    def over_seeds(self) -> str:
        """The gain with its range and both p, in a sentence."""
        return str(self) if self.p_seeds is None else f"{str(self)[:-1]}, over seeds {shown_p(self.p_seeds)})"

    def __str__(self) -> str:
        span = f", {spread(self.gains)}" if len(self.gains) > 1 else ""
        seeds = f"{len(self.gains)} seed" + "s" * (len(self.gains) > 1)
        return f"{signed(self.gain)} points ({seeds}{span}; p {shown_p(self.p)})"


def compare(
    first: Sequence[Record], second: Sequence[Record], column: str = DECIDING, which: Which = "last"
) -> Comparison | None:
    """Compare two rows of runs in a column on the same images; None if they share no seed in which both have it.

    Examples
    --------
    >>> compare([], []) is None
    True
    """
    theirs, ours = ({record.seed: outcomes(record, which).get(column) for record in row} for row in (first, second))
    return _compared(theirs, ours, column)


def compare_strong(
    found: Found,
    first: Sequence[Record],
    second: Sequence[Record],
    column: str = STRONGEST,
    which: Which = "last",
    kind: Literal["strong", "attacks"] = "strong",
) -> Comparison | None:
    """The same in a column of the measurements "strong", or "attacks", on the images that these attacked."""
    theirs, ours = (
        {record.seed: attack_outcomes(found, record, which, kind).get(column) for record in row}
        for row in (first, second)
    )
    return _compared(theirs, ours, column)


def _compared(first: Correct, second: Correct, column: str) -> Comparison | None:
    leads = []
    for seed, b in second.items():
        a = first.get(seed)
        if a is not None and b is not None and len(a) == len(b):
            leads.append(b.long() - a.long())
    if not leads:
        return None
    gains = tuple(100 * int(lead.sum()) / len(lead) for lead in leads)
    first_alone, second_alone = (sum(int((lead == way).sum()) for lead in leads) for way in (-1, 1))
    return Comparison(column, max(map(len, leads)), gains, first_alone, second_alone, _together(leads))


@dataclass(frozen=True)
class Step:
    """A step of the paper's order in one column: what the row `second` gains over `first`, in the paper and here.

    Attributes
    ----------
    data, pairing : str
        The data set, and how the pairing loss is read, in words.
    first, second : str
        Names of two methods.
    column : str
        "pgd100", "cw100", or "square": all of AutoAttack, of which the paper has no number. There `theirs` is the
        paper's at PGD-100.
    theirs : float
        The paper's gain in points.
    ours : Comparison or None
        Ours; None where it was not measured.
    best : Comparison or None
        The same of the networks that were best on the validation split, in the paper's columns.
    """

    data: str
    pairing: str
    first: str
    second: str
    column: str
    theirs: float
    ours: Comparison | None
    best: Comparison | None = None

    @property
    def verdict(self) -> str:
        """Whether the paper's step holds; and of the best networks, where they say otherwise."""
        if self.ours is None:
            return UNMEASURED
        said, best = self.ours.way(self.theirs), self.best
        if best and best.standing != self.ours.standing and len(best.gains) == len(self.ours.gains):
            said += f" (best: {best.way(self.theirs)})"
        return said

    def __str__(self) -> str:
        return self.ours.cell(self.verdict) if self.ours else UNMEASURED


def order(found: Found, which: Which = "last") -> list[Step]:
    """Each step of the paper's order in each column, by data set and reading of the pairing loss."""
    made = []
    for data in measured_sets(found):
        published = paper.TABLE_2[paper_name(data)]
        for pairing, members in _readings(found, data):
            for first, second in STEPS:
                pair = members.get(first), members.get(second)
                of_eq_1 = members["alp"].method == "alp"
                if pair[0] is None or pair[1] is None or not (of_eq_1 or {first, second} & {"alp", "aalp"}):
                    continue
                runs = pair[0].records, pair[1].records
                for name in PAIRED:
                    theirs = published[second][name] - published[first][name]
                    ours, best = compare(*runs, name, which), compare(*runs, name, "best")
                    made.append(Step(data, pairing, first, second, name, theirs, ours, best))
                theirs = published[second][DECIDING] - published[first][DECIDING]
                ours = compare_strong(found, *runs, which=which)
                made.append(Step(data, pairing, first, second, STRONGEST, theirs, ours))
    return made


def order_table(found: Found, which: Which = "last") -> str:
    """Does the paper's order of the methods hold: each step of it, in the paper and here, on the same images.

    Beside the paper's reading of the pairing loss stand those variants of ALP and AALP that differ from it in the same
    way, and the recipe "paper". A step is shown as in `standing`; where the networks that were best on the validation
    split say otherwise, that is added. As a yardstick, the seeds of one method stand below, in pairs. The last
    column is of the images that were attacked with all of AutoAttack; the paper has no such number, and the step
    "holds" there if it goes as the paper's at PGD-100.
    """
    head = ["Step"]
    for name in PAIRED:
        head += [f"{HEADINGS[name]}, paper", f"{HEADINGS[name]}, ours"]
    head.append("All of AutoAttack, ours")
    made, tables = order(found, which), []
    for data in measured_sets(found):
        mine = [step for step in made if step.data == data]
        for pairing, of in itertools.groupby(mine, key=lambda step: step.pairing):
            lines = [head]
            for (first, second), cells in itertools.groupby(of, key=lambda step: (step.first, step.second)):
                *paired, strong = cells
                line = [f"{label(first)} → {label(second)}"]
                for step in paired:
                    line += [signed(step.theirs), str(step)]
                lines.append([*line, str(strong)])
            tables.append(f"**{title(data)}, pairing {pairing}**\n\n{grid(lines)}")
        if lines := list(_seeds_apart(found, data, which)):
            heading = f"**{title(data)}, seeds of one method beside each other, pairing as in Eq. 1**"
            tables.append(f"{heading}\n\n{grid([['Method', *(HEADINGS[name] for name in PAIRED), head[-1]], *lines])}")
    if not tables:
        return f"The order of the methods: {UNMEASURED}.\n"
    text = (
        "Gains in points on the same images, and their range over seeds; p of McNemar's exact test, or of several "
        'seeds that of the sign-flip test on each image\'s sum, in which an image counts once; "over seeds" that of '
        f"the t test on the seeds' gains. {_by_chance(sum(step.ours is not None for step in made))} "
        '"Best" names the verdict on the networks that were best on the validation split, where it is another.'
    )
    if images := {step.ours.images for step in made if step.column == STRONGEST and step.ours}:
        counts = " or ".join(f"{count:,}" for count in sorted(images))
        text += (
            f" The last column is of the first {counts} test images, and of no others; the paper has no such numbers, "
            "and a step holds there if it goes as the paper's at PGD-100."
        )
    return "\n".join([f"{text}\n", *tables])


def _by_chance(tests: int) -> str:
    count, many = f"{tests} comparison" + "s" * (tests != 1), round(0.05 * tests)
    by_chance = f"about {many}" if 0.05 * tests >= 1 else "fewer than one"
    return f"With {count}, chance alone would bring {by_chance} below 0.05 if no two networks differed."


def order_csv(found: Found, data: str, which: Which = "last") -> str:
    """`order` of one of the paper's data sets and its copies as CSV, a line for each step and column; "" if empty."""
    lines = []
    for step in order(found, which):
        if paper_name(step.data) == data:
            theirs = "" if step.column == STRONGEST else f"{step.theirs:.2f}"
            ours, numbers = step.ours, [""] * 7
            if ours:
                numbers = [f"{gain:.2f}" for gain in (mean(ours.gains), min(ours.gains), max(ours.gains))]
                numbers += [str(len(ours.gains)), str(ours.images), f"{ours.p:.3g}"]
                numbers.append("" if ours.p_seeds is None else f"{ours.p_seeds:.3g}")
            names = [step.data, step.pairing, step.first, step.second, attack_title(step.column)]
            lines.append([*names, theirs, *numbers, step.verdict])
    return csv_text(STEP_COLUMNS, lines) if lines else ""


def _readings(found: Found, data: str) -> Iterator[tuple[str, dict[str, Group]]]:
    """Each reading of the pairing loss in words, with the rows of runs that it has, by method.

    Madry's and TRADES' rows, which have no pairing loss, stand in each; AALP's halves in that of Eq. 1 alone.
    """
    for words, alp, aalp in _couples(found, data):
        if alp.protocol not in ("fast", "paper"):
            continue
        made = (g for g in of_the_paper(found.records, data) if (g.data, g.protocol) == (data, alp.protocol))
        members = {g.method: g for g in made if alp.method == "alp" or g.method in ("adv", "trades")}
        pairing = words.removeprefix(alp.protocol).removeprefix(", ").removeprefix("pairing ") or "as in Eq. 1"
        yield pairing + ", recipe paper" * (alp.protocol == "paper"), members | {"alp": alp, "aalp": aalp}


def _seeds_apart(found: Found, data: str, which: Which) -> Iterator[list[str]]:
    """Lines that have the seeds of one method beside each other, in pairs."""
    for group in of_the_paper(found.records, data):
        if (group.data, group.protocol) != (data, "fast") or group.method not in set(TABLE_2) - {"raw"}:
            continue
        if len(group.records) > 1:
            columns = [[outcomes(record, which).get(name) for record in group.records] for name in PAIRED]
            columns.append([attack_outcomes(found, record, which).get(STRONGEST) for record in group.records])
            yield [label(group.method), *(_apart(right) for right in columns)]


def _apart(right: Sequence[Tensor | None]) -> str:
    """How far networks of one method lie apart, over all twos of them."""
    twos = [_compared({0: a}, {0: b}, "") for a, b in itertools.combinations(right, 2)]
    made = [two for two in twos if two]
    if not made:
        return "–"
    gaps = sorted(abs(two.gains[0]) for two in made)
    shown = sum(two.p < 0.05 for two in made)
    span = f"{gaps[0]:.1f} to {gaps[-1]:.1f}" if len(made) > 1 else f"{gaps[0]:.1f}"
    return f"{span} points apart (p below 0.05 in {shown} of {len(made)} pair{'s' * (len(made) > 1)})"


# --- controls and ablations ------------------------------------------------------------------------------------------


_WAYS = {1: "ahead", 0: "not shown", -1: "behind"}


def controls_table(found: Found, data: str = "mnist", which: Which = "last") -> str:
    """AALP's halves beside their controls (`experiments.controls`), on the same images and shared seeds."""
    variants = [g for g in groups(found.ablations) if g.data == data]
    made = {g.method: g.records for g in variants if g.protocol == "fast"}
    made |= {f"{g.method}-{HALF_FEATURES}": g.records for g in variants if half_features(g.records[0])}
    made |= {g.method: g.records for g in of_the_paper(found.records, data) if (g.data, g.protocol) == (data, "fast")}
    lines, tests = [], 0
    for first, second in CONTROLLED:
        if first in made and second in made:
            runs = made[first], made[second]
            cells = [compare(*runs, column, which) for column in ("clean", *PAIRED)]
            cells.append(compare_strong(found, *runs, which=which))
            tests += sum(one is not None for one in cells)
            names = [run[0].config["method"]["label"] + ", half the features" * half_features(run[0]) for run in runs]
            lines.append([" → ".join(names), *(one.cell(_WAYS[one.standing]) if one else UNMEASURED for one in cells)])
    if not lines:
        return f"The controls on {title(data)}: {UNMEASURED}.\n"
    head = ["Step", "Clean", *(HEADINGS[name] for name in PAIRED), "All of AutoAttack"]
    return (
        "What the second gains over the first in points on the same images; both p as in the table of the order. "
        f"{_by_chance(tests)} The last column is of the images that were attacked with all of AutoAttack.\n\n"
        + grid([head, *lines])
    )


def ablation_table(found: Found, which: Which = "last") -> str:
    """One row a variant: accuracies over seeds, and the difference to its base at PGD-100, paired by seed.

    The base is the row of the paper, of the same data and protocol, from which the variant differs in the fewest
    points; it may be among the ablations or among the other records. Runs of a row of the paper in another setting are
    no variants: `report.tried_table` has them.
    """
    made = groups(found.ablations)
    variants = [group for group in made if changes(group.records[0]) or group.protocol == recipe(group.records[0])]
    if not variants:
        return f"Ablations: {UNMEASURED}.\n"
    among = [group for group in (*made, *groups(found.records)) if not changes(group.records[0])]
    bases = {id(group): _base(group, among) for group in variants}
    rows = [group for group in among if group in variants or any(group is base for base in bases.values())]
    rows += [group for group in variants if group not in rows]
    lines = [["Variant", "Differs from", "Data", "Protocol", "Seeds", *(HEADINGS[name] for name in ABLATED)]]
    lines[0] += [f"Against base, {HEADINGS[DECIDING]}", "McNemar's p by seed"]
    lines += [_ablation_line(group, bases.get(id(group)), which) for group in rows]
    return (
        "Correct test images in percent: mean over seeds with the lowest and the highest in square brackets, or one "
        "seed with its 95 % Wilson interval in round ones; differences in points.\n\n" + grid(lines)
    )


def _base(group: Group, among: Sequence[Group]) -> Group | None:
    """The row that a variant is compared with; None for a row of the paper, or where it was not run."""
    if not changes(group.records[0]):
        return None
    row = nearest(group, [other for other in among if other.data == group.data])
    alike = (other for other in among if (other.data, other.protocol) == (group.data, group.protocol))
    return next((other for other in alike if row and other.method == row.method), None)


def nearest(group: Group, among: Sequence[Group]) -> Group | None:
    """The row from which a variant differs in the fewest points; of two the one whose name its own begins with."""
    return min(
        among,
        key=lambda other: (
            len(differences_from(group.records[0], other.method)),
            not group.method.startswith(f"{other.method}_"),
        ),
        default=None,
    )


def _ablation_line(group: Group, base: Group | None, which: Which) -> list[str]:
    name = str(group.records[0].config["method"].get("label", label(group.method)))
    row = "a row of the paper" if group.protocol == recipe(group.records[0]) else "a row of the paper, but the protocol"
    differs = row if not changes(group.records[0]) else f"base {UNMEASURED}"
    if base is not None:
        differs = f"{label(base.method)}: {', '.join(differences_from(group.records[0], base.method))}"
    cells = [str(group.cell(column, which) or "–") for column in ABLATED]
    numbers = _against(group, base, which) if base is not None else ("", "")
    return [name, differs, title(group.data), group.protocol, str(len(group.records)), *cells, *numbers]


def _against(group: Group, base: Group, which: Which) -> tuple[str, str]:
    """Difference in points at the deciding column, mean and range over shared seeds, and each seed's p."""
    whole = compare(base.records, group.records, DECIDING, which)
    if whole is None:
        return "no seed in common", ""
    gains, alone = whole.gains, (compare(base.records, [record], DECIDING, which) for record in group.records)
    span = f" [{spread(gains)}]" if len(gains) > 1 else ""
    return f"{signed(mean(gains))}{span}", ", ".join(shown_p(one.p) for one in alone if one)
