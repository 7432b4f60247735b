"""What `aalp reproduce` can train: the rows of the paper's tables and their variants, and grids of them, as data."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aalp_lib import _checks
from aalp_lib.methods import METHODS, TABLE_2, GuidedDropout, Method, named
from aalp_lib.reproduction.controls import low, mean_weight_alp, random, shuffled
from aalp_lib.reproduction.jobs import Job
from aalp_lib.reproduction.settings import SETTINGS

# --- methods with a choice changed -----------------------------------------------------------------------------------


def _changed(base: str, suffix: str, words: str, **changes: Any) -> Method:
    """A row of the paper with a choice changed, named after both."""
    row = METHODS[base]
    return dataclasses.replace(row, name=f"{base}_{suffix}", label=f"{row.label}, {words}", **changes)


def _averaged(base: str) -> Method:
    """The row with Eq. 1 averaged over the ten classes instead of summed."""
    return _changed(base, "averaged", "pairing averaged over classes", weight=1 / 10)


def _by_name(*methods: Method) -> dict[str, Method]:
    return {method.name: method for method in methods}


# Where Guided Dropout differs, it differs from "half": the median rule lets all features through once most of them are
# dead, and then nothing about the mask can matter. With "half" the mask goes on dropping, but what it drops is dead by
# then: the two train the same network.
ABLATIONS = _by_name(
    METHODS["alp"],
    METHODS["aalp"],
    *(
        _changed("aalp", suffix, words, guided_dropout=dropout)
        for suffix, words, dropout in (
            ("half", "keep the upper half", GuidedDropout("half")),
            ("branch", "upper half, a mask per branch", GuidedDropout("half", scope="branch")),
            ("sample", "upper half, a mask per sample", GuidedDropout("half", scope="sample")),
            ("rescale", "upper half, rescaled", GuidedDropout("half", rescale=True)),
            ("masked_attack", "upper half, mask in the attack", GuidedDropout("half", in_attack=True)),
            ("random", "keep a random half", GuidedDropout(random)),
            ("shuffled", "keep as many, but random ones", GuidedDropout(shuffled)),
            ("low", "keep the lower half", GuidedDropout(low)),
            ("no_dropout", "no Guided Dropout", None),
        )
    ),
    _changed("aalp_sw", "mean", "the batch's mean weight", pairing=mean_weight_alp),
    _changed("aalp", "attached", "gradient through the weight", detach_weight=False),
    _changed("aalp", "ce_adversarial", "classification loss on adversarial images", classify="adversarial"),
    _changed("aalp", "ce_clean", "classification loss on clean images", classify="clean"),
    _averaged("aalp"),
)
# figure 6; alpha = 1 is "aalp" and stands in ABLATIONS
ALPHAS = _by_name(*(_changed("aalp", f"alpha_{a:g}", f"α = {a:g}", weight=a) for a in (0.0, 0.25, 0.5, 2.0, 5.0)))
ROWS = METHODS | ABLATIONS | ALPHAS
ROWS |= _by_name(
    *map(_averaged, ("alp", "aalp_gd", "aalp_sw")),
    _changed("alp", "ce_adversarial", "classification loss on adversarial images", classify="adversarial"),
)
"""Every method that a grid can train, by its name."""

# --- settings with a choice changed ----------------------------------------------------------------------------------

HALF_FEATURES = "half-features"  # instead of Guided Dropout a network of as many features as it keeps
HALF_WIDTH = (16, 32, 128)
_WIDE = {"width": (32, 64, 1024)}  # of Madry et al. 2018
_SHORTER_STEPS = {"step": 0.05, "steps": 10}
VARIANTS: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
    "mnist": {
        "long": {"recipe": {"epochs": 32}},
        "ramp": {"recipe": {"ramp": 0.6}},
        "steps": {"attack": _SHORTER_STEPS},
        "wide": {"model": _WIDE},
        "wide-steps": {"model": _WIDE, "attack": _SHORTER_STEPS},
        "image-start": {"attack": {"start": "clean"}},
        HALF_FEATURES: {"model": {"width": HALF_WIDTH}},
    },
    "cifar10": {"wide": {"model": {"width": 64}}},
}
"""Data set -> variant -> part of the setting -> what is changed in it. A run is called "METHOD-VARIANT"."""

# --- grids -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """Methods × seeds with one recipe, as independent jobs.

    Attributes
    ----------
    data : "mnist", "svhn", "cifar10" or "mnist-sample"
        Whose settings, and which images.
    out : Path
        Folder for the records, one a job, and `runs/`, the checkpoints.
    methods : tuple of str or Method
        Names of `ROWS`, with a variant of the data set's after a hyphen: "alp", "alp_averaged", "alp-wide".
    seeds : tuple of int
    recipe : "fast" or "paper"
    folder : Path, optional
        Take the images from this folder of the layout `train/CLASS/*`, `test/CLASS/*` instead.
    epochs, train_images : int, optional
        A reduced protocol, for want of time; every record says so.
    root, test_images, columns, best_columns, quick, observe, device
        As of a `Job`.

    Raises
    ------
    InputError
        If a name is unknown or a number out of range.

    Examples
    --------
    >>> [job.name for job in Grid("mnist", Path("results"), ("alp", "aalp-wide"), seeds=(0, 1)).jobs()]
    ['mnist-alp-seed0', 'mnist-aalp-wide-seed0', 'mnist-alp-seed1', 'mnist-aalp-wide-seed1']
    """

    data: str
    out: Path
    methods: tuple[str | Method, ...] = TABLE_2
    seeds: tuple[int, ...] = (0,)
    recipe: str = "fast"
    folder: Path | None = None
    root: Path | None = None
    epochs: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    columns: tuple[str, ...] | None = None
    best_columns: tuple[str, ...] | None = None
    quick: bool = False
    observe: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        _checks.known("data set", self.data, SETTINGS)
        _checks.known("recipe", self.recipe, SETTINGS[self.data])
        for seed in self.seeds:
            _checks.count("a seed", seed, least=0)
        for name in ("epochs", "train_images", "test_images"):
            if getattr(self, name) is not None:
                _checks.count(name.replace("_", " "), getattr(self, name))

    def jobs(self) -> list[Job]:
        """The jobs, all methods of a seed before those of the next."""
        rows = [self._row(name) for name in self.methods]
        return [self._job(*row, seed) for seed in self.seeds for row in rows]

    def _row(self, name: str | Method) -> tuple[Method, str]:
        """A method, and the variant of the setting."""
        if isinstance(name, Method):
            return name, ""
        of, _, variant = name.partition("-")
        if variant:
            _checks.known(f"variant on {self.data}", variant, VARIANTS.get(self.data, {}))
        return ROWS[named(of, ROWS)], variant

    def _job(self, method: Method, variant: str, seed: int) -> Job:
        usual = SETTINGS[self.data][self.recipe]
        setting = usual.changed(**VARIANTS[self.data][variant]) if variant else usual
        whole = setting.recipe.epochs
        if self.epochs is not None:
            setting = setting.changed(recipe={"epochs": self.epochs})
        words = ("" if self.recipe == "fast" else self.recipe, variant)
        same = ("root", "test_images", "train_images", "columns", "best_columns", "quick", "observe", "device")
        return Job(
            str(self.folder or self.data), method, setting, self.out, seed, variant="-".join(filter(None, words)),
            reduced=self._reduced(whole), **{name: getattr(self, name) for name in same},
        )  # fmt: skip

    def _reduced(self, whole: int) -> str | None:
        said = [f"{self.train_images} training images"] if self.train_images else []
        said += [f"{self.epochs} of {whole} epochs"] if self.epochs is not None and self.epochs < whole else []
        return ", ".join(said) or None


QUICK: dict[str, Any] = {"epochs": 1, "test_images": 100, "quick": True}  # of a grid that shows that it runs
CONTROLS = ("aalp_shuffled", "aalp_sw_mean")
_STRONGEST, _PGD40 = ("pgd40", "pgd100", "cw100"), ("pgd40",)
_SCALED = ("alp_averaged", "aalp_averaged", "aalp_gd_averaged", "aalp_sw_averaged")

GRIDS: dict[str, tuple[Grid, ...]] = {data: (Grid(data, Path(data)),) for data in SETTINGS}
GRIDS |= {
    "ablations": (
        Grid("mnist-sample", Path("ablations"), (*ABLATIONS, *ALPHAS), seeds=(0, 1, 2), columns=_STRONGEST),
    ),
    # Suspects for a row's distance from the paper's: one at a time on ALP, and then together those that came closest;
    # what came closest for ALP on AALP and its halves. The paper gives neither the scale of Eq. 1 nor the width of its
    # LeNet, epochs or ramp, nor where the training attack starts.
    "reasons": (
        Grid(
            "mnist", Path("mnist/ablations"),
            (
                *_SCALED, "alp_ce_adversarial", "alp-long", "alp-ramp", "alp-steps", "alp_averaged-steps", "alp-wide",
                *(f"{name}-wide-steps" for name in _SCALED), "alp-image-start", "aalp-image-start",
            ),
            columns=_STRONGEST, best_columns=_PGD40,
        ),
        # whose rows miss the paper's in other columns too
        Grid(
            "mnist", Path("mnist/ablations"), ("raw-wide", "trades-steps", "trades-wide", "trades-wide-steps"),
            best_columns=_PGD40,
        ),
    ),
    "cifar10-reasons": (
        Grid(
            "cifar10", Path("cifar10/ablations"), ("alp_averaged", "aalp_averaged", "adv-wide", "alp_averaged-wide"),
            best_columns=_PGD40,
        ),
    ),
    # AALP's halves without what is to make them work: a mask that keeps as many features, but random ones; one weight
    # for all samples of a step, the mean of theirs; instead of the mask a network of half the features, for AALP (gd)
    # that of ALP, for AALP that of AALP (sw).
    "controls": (
        Grid("mnist", Path("mnist/ablations"), (*CONTROLS, f"alp-{HALF_FEATURES}", f"aalp_sw-{HALF_FEATURES}")),
    ),
}  # fmt: skip
"""Name -> what `aalp reproduce NAME` runs, each into its own folder below `--out`."""


def jobs_of(
    name: str, out: Path, methods: Sequence[str] | None = None, *, quick: bool = False, **changes: Any
) -> list[Job]:
    """The jobs of a grid of `GRIDS`, all of a seed before those of the next.

    Parameters
    ----------
    name : str
    out : Path
        The grid's own folder lies below it, for `quick` ones beside the whole's.
    methods : sequence of str, optional
        Only these rows; of the paper's grids (named after a data set) any rows. By default all of the grid.
    quick : bool
        One epoch and 100 test images.
    **changes
        Fields of the `Grid`; None leaves one as it is.

    Raises
    ------
    InputError
        If a name is unknown or a number out of range.
    """
    given = (QUICK if quick else {}) | {key: value for key, value in changes.items() if value is not None}
    jobs: list[Job] = []
    for grid in GRIDS[_checks.known("grid", name, GRIDS)]:
        folder = out / grid.out.with_name(grid.out.name + "-quick" * quick)
        jobs += dataclasses.replace(grid, out=folder, **_asked(name, methods), **given).jobs()
    if methods is not None and name not in SETTINGS:
        wanted = [_checks.known("run of this grid", row, dict.fromkeys(job.label for job in jobs)) for row in methods]
        jobs = [job for job in jobs if job.label in wanted]
    return sorted(jobs, key=lambda job: job.seed)


def _asked(name: str, methods: Sequence[str] | None) -> dict[str, Any]:
    return {"methods": tuple(methods)} if methods is not None and name in SETTINGS else {}
