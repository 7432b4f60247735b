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
    "cifar10": {
        "wide": {"model": {"width": 64}},
        "long": {"attack": {"step": 2 / 255, "steps": 7}, "recipe": {"epochs": 100}},
    },
}
"""Data set -> variant -> part of the setting -> what is changed in it. A run is called "METHOD-VARIANT"."""

# --- grids -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """Methods × seeds on one data set.

    Attributes
    ----------
    data : str
        A name of `SETTINGS`.
    out : Path
        Folder for the records, one a job, and `runs/`, the checkpoints.
    methods : tuple of str
        Names of `ROWS`, with a variant of the data set's after a hyphen: "alp", "alp_averaged", "alp-wide".
    seeds : tuple of int
    columns, best_columns
        As of a `Job`.
    """

    data: str
    out: Path
    methods: tuple[str, ...] = TABLE_2
    seeds: tuple[int, ...] = (0,)
    columns: tuple[str, ...] | None = None
    best_columns: tuple[str, ...] | None = None

    def jobs(
        self, *, recipe: str = "fast", folder: Path | None = None, epochs: int | None = None, **job: Any
    ) -> list[Job]:
        """Independent jobs, all methods of a seed before those of the next.

        Parameters
        ----------
        recipe : "fast" or "paper"
        folder : Path, optional
            Take the images from this folder of the layout `train/CLASS/*`, `test/CLASS/*` instead.
        epochs : int, optional
            A reduced protocol, for want of time; every record says so.
        **job
            Other fields of each `Job`.

        Raises
        ------
        InputError
            If a name is unknown or a number out of range.

        Examples
        --------
        >>> [job.name for job in Grid("mnist", Path("results"), ("alp", "aalp-wide"), seeds=(0, 1)).jobs()]
        ['mnist-alp-seed0', 'mnist-aalp-wide-seed0', 'mnist-alp-seed1', 'mnist-aalp-wide-seed1']
        """
        for seed in self.seeds:
            _checks.seed("a seed", seed)
        for name, number in {"epochs": epochs, "test images": job.get("test_images")}.items():
            if number is not None:
                _checks.count(name, number)
        job |= {"columns": self.columns, "best_columns": self.best_columns}
        rows = [self._row(name, recipe, epochs) for name in self.methods]
        data = str(folder or self.data)
        return [Job(data, out=self.out, seed=seed, **row, **job) for seed in self.seeds for row in rows]

    def _row(self, name: str, recipe: str, epochs: int | None) -> dict[str, Any]:
        """What the jobs of a method and variant have in common."""
        of, _, variant = name.partition("-")
        variants: dict[str, dict[str, Any]] = {"": {}} | VARIANTS.get(self.data, {})
        usual = SETTINGS[_checks.known("data set", self.data, SETTINGS)]
        setting = usual[_checks.known("recipe", recipe, usual)].changed(
            **variants[_checks.known(f"variant on {self.data}", variant, variants)]
        )
        whole = setting.recipe.epochs
        return {
            "method": ROWS[named(of, ROWS)],
            "setting": setting.changed(recipe={"epochs": whole if epochs is None else epochs}),
            "variant": "-".join(filter(None, ("" if recipe == "fast" else recipe, variant))),
            "reduced": f"{epochs} of {whole} epochs" if epochs is not None and epochs < whole else None,
        }


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
    name: str,
    out: Path,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    *,
    quick: bool = False,
    **asked: Any,
) -> list[Job]:
    """The jobs of a grid of `GRIDS`, all of a seed before those of the next; InputError and `asked` as of `Grid.jobs`.

    Parameters
    ----------
    name : str
    out : Path
        The grid's own folder lies below it, for `quick` ones beside the whole's.
    methods, seeds : sequence, optional
        Only these rows; of the paper's grids (named after a data set) any rows. By default those of the grid.
    quick : bool
        One epoch and 100 test images.
    """
    any_rows, jobs = methods is not None and name in SETTINGS, list[Job]()
    for grid in GRIDS[_checks.known("grid", name, GRIDS)]:
        grid = dataclasses.replace(
            grid,
            out=out / grid.out.with_name(grid.out.name + "-quick" * quick),
            methods=tuple(methods or ()) if any_rows else grid.methods,
            seeds=grid.seeds if seeds is None else tuple(seeds),
        )
        jobs += grid.jobs(**((QUICK if quick else {}) | asked))
    if methods is not None and not any_rows:
        wanted = [_checks.known("run of this grid", row, dict.fromkeys(job.label for job in jobs)) for row in methods]
        jobs = [job for job in jobs if job.label in wanted]
    return sorted(jobs, key=lambda job: job.seed)
