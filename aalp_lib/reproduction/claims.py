"""What the paper claims and whether our records bear it out: the scorecard."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from aalp_lib.reproduction import figures, paper, tables
from aalp_lib.reproduction.analyses import SETS
from aalp_lib.reproduction.archive import Records, records
from aalp_lib.reproduction.comparisons import Comparison, compare, judged
from aalp_lib.reproduction.frames import frame

WORDS = {"ahead": "held", "behind": "reversed"}  # of a claim, by the verdict on its difference; else unresolved
UNTESTED = "untested"
Finder = Callable[[Records], Comparison | None]
COPIES = {"svhn": ("svhn-part",), "cifar10": ("cifar10-jpeg",)}


@dataclass(frozen=True)
class Claim:
    """Something that the paper says, as a difference whose sign decides it.

    Attributes
    ----------
    words, on : str
        The claim, and the data that it is tested on, as a reader sees them.
    paper : float
        The paper's difference in `unit`; NaN where it gives no number.
    ours : callable
        From the records to a Comparison, or None where nothing was measured. Its gain is counted in `unit`, and is
        positive if the claim holds.
    unit : str
    """

    words: str
    on: str
    paper: float
    ours: Finder
    unit: str = "points"


def _gain(
    data: str, first: str, second: str, attack: str, rows: Mapping[str, Mapping[str, float]] | None = None
) -> tuple[float, Finder]:
    """The paper's gain of `second` over `first` in its Table 2 or in other `rows`, and how ours is found.

    Ours is that on the data set itself, or else on the copy or part of it that was there.
    """
    rows = rows or paper.TABLE_2[data]

    def found(of: Records) -> Comparison | None:
        made = (compare(frame(of), first, second, attack, data=name) for name in (data, *COPIES.get(data, ())))
        return next(filter(None, made), None)

    return rows[second][attack] - rows[first][attack], found


def _measured(kind: str, value: Callable[[Mapping[str, Any]], float], first: str = "", second: str = "alp") -> Finder:
    """How a value of measurements on MNIST is found: in `second`'s networks, less that in `first`'s of equal seed."""

    def found(of: Records) -> Comparison | None:
        made = {
            name: {m.subject["seed"]: value(m.values) for m in tables.measurements(of, kind, data="mnist", method=name)}
            for name in (first, second)
            if name
        }
        seeds = sorted(set.intersection(*map(set, made.values())))
        gains = [made[second][seed] - (made[first][seed] if first else 0) for seed in seeds]
        if not seeds:
            return None
        return Comparison("mnist", "fast", first, second, kind, tuple(seeds), tuple(gains), 0, 0, 0)

    return found


def _surer(values: Mapping[str, Any]) -> float:
    return 100 * float(values["consistent"]["clean_confidence"] - values["inconsistent"]["clean_confidence"])


def _paired_share(values: Mapping[str, Any]) -> float:
    """By how many points more of the loss is pairing on inconsistent images."""
    shares = [of["alp_loss"] / (of["alp_loss"] + of["classification_loss"]) for of in (values[n] for n in SETS)]
    return 100 * float(shares[1] - shares[0])


def _grown(values: Mapping[str, Any]) -> float:
    """By how much the pairing loss of inconsistent images grows from full radius on."""
    losses = [line["alp"]["inconsistent"] for line in values["epochs"]]
    return float(losses[-1] - losses[figures.full_radius(values["epochs"])])


def _fewer(values: Mapping[str, Any]) -> float:
    return -100 * float(values["adversarial"]["loss_gradient"]["half_share"])


_MNIST_1 = paper.TABLE_1["mnist"]
CLAIMS = (
    Claim("AALP beats ALP at PGD-100", "MNIST", *_gain("mnist", "alp", "aalp", "pgd100")),
    Claim("AALP beats ALP at PGD-100", "SVHN", *_gain("svhn", "alp", "aalp", "pgd100")),
    Claim("AALP beats ALP at PGD-100", "CIFAR-10", *_gain("cifar10", "alp", "aalp", "pgd100")),
    Claim("ALP beats Madry at PGD-100", "MNIST", *_gain("mnist", "adv", "alp", "pgd100")),
    Claim("TRADES beats ALP at PGD-100", "MNIST", *_gain("mnist", "alp", "trades", "pgd100")),
    Claim("AALP beats TRADES at PGD-100", "MNIST", *_gain("mnist", "trades", "aalp", "pgd100")),
    Claim("Guided Dropout alone improves ALP at PGD-100", "MNIST", *_gain("mnist", "alp", "aalp_gd", "pgd100")),
    Claim("Sample weights alone improve ALP at PGD-100", "MNIST", *_gain("mnist", "alp", "aalp_sw", "pgd100")),
    Claim(
        "Guided Dropout raises Madry's clean accuracy (Table 3)", "SVHN",
        *_gain("svhn", "adv", "adv_gd", "clean", rows=paper.TABLE_3),
    ),
    Claim(
        "AALP has more consistent images than ALP (Table 4)", "MNIST",
        *_gain("mnist", "alp", "aalp", "pgd40", rows={m: {"pgd40": v} for m, v in paper.TABLE_4["mnist"].items()}),
    ),
    Claim(
        "Consistent images are surer than inconsistent ones (Table 1)", "MNIST", _surer(
            {name: {"clean_confidence": row["mean_clean_confidence"] / 100} for name, row in _MNIST_1.items()}
        ), _measured("samples", _surer),
    ),
    Claim(
        "Pairing takes more of an inconsistent image's loss (Table 1)", "MNIST", _paired_share(_MNIST_1),
        _measured("samples", _paired_share),
    ),
    Claim(
        "ALP's pairing loss on inconsistent images grows in training (Figure 4)", "MNIST", float("nan"),
        _measured("over_training", _grown), "nats",
    ),
    Claim(
        "AALP rests on fewer features than ALP (Figure 7)", "MNIST", float("nan"),
        _measured("contributions", _fewer, "alp", "aalp"),
    ),
    Claim(
        "AALP's confidences move less under attack than ALP's (Figure 11)", "MNIST", float("nan"),
        _measured("samples", lambda v: -100 * float(v["both"]["confidence_gap"]), "alp", "aalp"),
    ),
    Claim("A larger α makes AALP more robust (Figure 6)", "SVHN", float("nan"), lambda _: None),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A claim, our difference, and "held", "reversed", "unresolved" or "untested"."""

    claim: Claim
    ours: Comparison | None
    verdict: str


@functools.lru_cache(maxsize=2)
def scorecard(found: Records | None = None) -> tuple[Finding, ...]:
    """Each claim with its verdict, by `comparisons.judged` with all that were tested as the family.

    Parameters
    ----------
    found : Records, optional
        The repository's by default.
    """
    of = found or records()
    made = {claim: ours for claim in CLAIMS if (ours := claim.ours(of))}
    said = dict(zip(made, judged(made.values()), strict=True))
    return tuple(
        Finding(claim, said.get(claim), WORDS.get(said[claim].verdict, "unresolved") if claim in said else UNTESTED)
        for claim in CLAIMS
    )


def card(findings: Sequence[Finding]) -> pd.DataFrame:
    """The scorecard as a table."""
    return pd.DataFrame(
        {
            "The paper's claim": one.claim.words,
            "On": one.claim.on,
            "Paper": "–" if pd.isna(one.claim.paper) else tables.signed(one.claim.paper),
            "Ours": tables.estimate(one.ours) if one.ours else "–",
            "Seeds": str(len(one.ours.seeds)) if one.ours else "–",
            "Verdict": f"**{one.verdict}**" if one.verdict in WORDS.values() else one.verdict,
        }
        for one in findings
    )
