"""The paper's settings and ours, the variants of the ablations, and grids of runs."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from aalp_lib import _checks, models
from aalp_lib._checks import InputError
from aalp_lib.attacks import PGD
from aalp_lib.data import Dataset
from aalp_lib.methods import METHODS, TABLE_2, GuidedDropout, Method
from aalp_lib.reproduction.controls import low, mean_weight_alp, random, shuffled
from aalp_lib.reproduction.jobs import Job, Setting, Watch, finished, run_jobs
from aalp_lib.reproduction.schema import Record
from aalp_lib.train import Recipe

_LENET = {"name": "lenet"}
_SVHN_NET = {"name": "resnet9", "mean": (0.4377, 0.4438, 0.4728), "std": (0.1980, 0.2010, 0.1970)}
_CIFAR_NET = {"name": "resnet32"}
_MNIST, _SVHN, _CIFAR = (0.3, 0.01), (12 / 255, 3 / 255), (8 / 255, 2 / 255)

# "paper": what section 4.1 gives; batch size, epochs and ramp, which it leaves out, are ours.
# "fast": ours; fewer and longer attack steps, one-cycle learning rate, bfloat16.
SETTINGS: dict[str, dict[str, Setting]] = {
    "mnist-sample": {
        "paper": Setting(_LENET, PGD(*_MNIST, 40), Recipe(100, 50, 1e-4, "constant")),
        "fast": Setting(_LENET, PGD(0.3, 0.1, 5), Recipe(16, 64, 2e-3, "one-cycle")),
    },
    "mnist": {
        "paper": Setting(_LENET, PGD(*_MNIST, 40), Recipe(20, 50, 1e-4, "constant")),
        "fast": Setting(_LENET, PGD(0.3, 0.1, 5), Recipe(16, 128, 2e-3, "one-cycle", precision="bfloat16")),
    },
    "svhn": {
        "paper": Setting(_SVHN_NET, PGD(*_SVHN, 10), Recipe(30, 128, 1e-4, "constant")),
        "fast": Setting(
            _SVHN_NET,
            PGD(12 / 255, 5 / 255, 5),
            Recipe(20, 256, 2e-3, "one-cycle", crop=4, precision="bfloat16"),
        ),
    },
    # of SVHN a part with a quarter of the images, on processors: a narrower network, so that a run takes about an hour
    "svhn-part": {
        "paper": Setting(_SVHN_NET | {"width": 24}, PGD(*_SVHN, 10), Recipe(30, 128, 1e-4, "constant")),
        "fast": Setting(
            _SVHN_NET | {"width": 24},
            PGD(12 / 255, 5 / 255, 5),
            Recipe(20, 128, 2e-3, "one-cycle", crop=4, precision="bfloat16"),
        ),
    },
    "cifar10": {
        "paper": Setting(_CIFAR_NET, PGD(*_CIFAR, 7), Recipe(100, 128, 1e-5, "constant", crop=4, flip=True)),
        "fast": Setting(
            _CIFAR_NET,
            PGD(8 / 255, 4 / 255, 4),
            Recipe(30, 128, 2e-3, "one-cycle", crop=4, flip=True, precision="bfloat16"),
        ),
    },
}


def setting_for(dataset: Dataset, recipe: str = "fast", model: str | None = None) -> Setting:
    """The setting for a data set; for a folder of images, CIFAR-10's with ResNet9, or LeNet where images are grey.

    Parameters
    ----------
    dataset : Dataset
    recipe : "paper" or "fast"
    model : str, optional
        Name of another network; it is fitted to the images' shape and the number of classes.

    Raises
    ------
    InputError
        If the recipe or the network is unknown.
    """
    source = SETTINGS.get(dataset.name.removesuffix("-jpeg"), SETTINGS["cifar10"])
    setting = source[_checks.known("recipe", recipe, source)]
    if dataset.name.removesuffix("-jpeg") in SETTINGS and model in (None, setting.model["name"]):
        return setting
    channels, height, width = dataset.train.images.shape[1:]
    name = _checks.known("model", model or ("lenet" if channels == 1 else "resnet9"), models.MODELS)
    config: dict[str, Any] = {"name": name, "in_channels": channels, "classes": len(dataset.classes)}
    if name == "lenet":
        if height != width:
            raise InputError(f"lenet takes square images, got {height}×{width}; pass an image size or another model")
        config["image_size"] = height
    step = max(1, len(dataset.train) // 1000)  # a folder's images stand class by class
    pixels = dataset.train.images[::step].double() / 255
    config["mean"] = tuple(round(v, 4) for v in pixels.mean((0, 2, 3)).tolist())
    config["std"] = tuple(round(max(v, 0.01), 4) for v in pixels.std((0, 2, 3)).tolist())
    return dataclasses.replace(setting, model=config)


# --- the ablations ---------------------------------------------------------------------------------------------------


def _variants() -> Iterator[Method]:
    """AALP with one choice changed at a time. Where Guided Dropout differs, from "half": the median rule lets all
    features through once most of them are dead, and then nothing about the mask can matter. With "half" the mask goes
    on dropping, but what it drops is dead by then: the two train the same network."""
    aalp, change = METHODS["aalp"], dataclasses.replace
    yield METHODS["alp"]
    yield aalp
    for name, label, dropout in (
        ("half", "keep the upper half", GuidedDropout("half")),
        ("branch", "upper half, a mask per branch", GuidedDropout("half", scope="branch")),
        ("sample", "upper half, a mask per sample", GuidedDropout("half", scope="sample")),
        ("rescale", "upper half, rescaled", GuidedDropout("half", rescale=True)),
        ("masked_attack", "upper half, mask in the attack", GuidedDropout("half", in_attack=True)),
        ("random", "keep a random half", GuidedDropout(random)),
        ("shuffled", "keep as many, but random ones", GuidedDropout(shuffled)),
        ("low", "keep the lower half", GuidedDropout(low)),
        ("no_dropout", "no Guided Dropout", None),
    ):
        yield change(aalp, name=f"aalp_{name}", label=f"AALP, {label}", guided_dropout=dropout)
    yield change(
        METHODS["aalp_sw"], name="aalp_sw_mean", label="AALP (sw), the batch's mean weight", pairing=mean_weight_alp
    )
    yield change(aalp, name="aalp_attached", label="AALP, gradient through the weight", detach_weight=False)
    for classify in ("adversarial", "clean"):
        yield change(
            aalp, name=f"aalp_ce_{classify}", label=f"AALP, classification loss on {classify} images", classify=classify
        )
    yield change(aalp, name="aalp_averaged", label="AALP, pairing averaged over classes", weight=1 / 10)


ABLATIONS = {method.name: method for method in _variants()}
# figure 6; alpha = 1 is "aalp" and stands in ABLATIONS
ALPHAS = {
    method.name: method
    for method in (
        dataclasses.replace(METHODS["aalp"], name=f"aalp_alpha_{alpha:g}", label=f"AALP, α = {alpha:g}", weight=alpha)
        for alpha in (0.0, 0.25, 0.5, 2.0, 5.0)
    )
}


# --- why rows fall short of the paper --------------------------------------------------------------------------------


def _changed(base: str, suffix: str, words: str, **changes: Any) -> Method:
    """A row of the paper with a choice changed, named after both."""
    row = METHODS[base]
    return dataclasses.replace(row, name=f"{base}_{suffix}", label=f"{row.label}, {words}", **changes)


def _averaged(base: str) -> Method:
    """The row with Eq. 1 averaged over the ten classes instead of summed."""
    return _changed(base, "averaged", "pairing averaged over classes", weight=1 / 10)


def reasons(out: Path, root: Path | None = None, device: str = "cpu", seeds: Sequence[int] = (0,)) -> list[Job]:
    """Changes of a run on the full MNIST, each a suspect for its row's distance from the paper's.

    One at a time on ALP, and then together those that came closest; what came closest for ALP on AALP and its halves,
    and on TRADES what its loss, which has no such scale, leaves of it. On RAW the width alone.

    The paper gives neither the scale of Eq. 1 (summed or averaged over classes) nor the width of its LeNet, epochs or
    ramp, nor where the training attack starts.
    """
    change, usual = dataclasses.replace, SETTINGS["mnist"]["fast"]
    shorter_steps = change(usual, attack=PGD(usual.attack.eps, 0.05, 10))
    wide = change(usual, model=_LENET | {"width": (32, 64, 1024)})  # Madry et al. 2018
    both = change(shorter_steps, model=wide.model)
    from_the_image = change(usual, attack=change(usual.attack, start="clean"))
    on_adversarial = _changed(
        "alp", "ce_adversarial", "classification loss on adversarial images", classify="adversarial"
    )
    suspects: list[tuple[str, str | Method, Setting]] = [
        *(("", _averaged(base), usual) for base in ("alp", "aalp", "aalp_gd", "aalp_sw")),
        ("", on_adversarial, usual),
        ("long", "alp", change(usual, recipe=change(usual.recipe, epochs=2 * usual.recipe.epochs))),
        ("ramp", "alp", change(usual, recipe=change(usual.recipe, ramp=0.6))),
        *(("steps", base, shorter_steps) for base in ("alp", _averaged("alp"), "trades")),
        *(("wide", base, wide) for base in ("raw", "alp", "trades")),
        *(("wide-steps", _averaged(base), both) for base in ("alp", "aalp", "aalp_gd", "aalp_sw")),
        ("wide-steps", "trades", both),
        *(("image-start", base, from_the_image) for base in ("alp", "aalp")),
    ]
    columns = ("pgd40", "pgd100", "cw100")
    return [
        Job(
            "mnist", method, setting, out, seed, root, best_columns=("pgd40",),
            columns=None if method in ("raw", "trades") else columns,  # whose rows miss the paper's in others too
            variant=name, device=device,
        )
        for seed in seeds
        for name, method, setting in suspects
    ]  # fmt: skip


def cifar10_reasons(
    out: Path, folder: Path | None = None, root: Path | None = None, device: str = "cpu", seeds: Sequence[int] = (0,)
) -> list[Job]:
    """The same for CIFAR-10: a network four times as wide for Madry, the averaged pairing for ALP and AALP, and both
    for ALP. The paper gives neither. `folder` and `root` are those of a `Grid`."""
    usual = SETTINGS["cifar10"]["fast"]
    wide = dataclasses.replace(usual, model=_CIFAR_NET | {"width": 64})
    suspects: list[tuple[str, str | Method, Setting]] = [
        *(("", _averaged(base), usual) for base in ("alp", "aalp")),
        *(("wide", base, wide) for base in ("adv", _averaged("alp"))),
    ]
    return [
        Job(
            str(folder or "cifar10"), method, setting, out, seed, root, best_columns=("pgd40",), variant=name,
            device=device,
        )
        for seed in seeds
        for name, method, setting in suspects
    ]  # fmt: skip


# --- controls of AALP's halves ---------------------------------------------------------------------------------------


CONTROLS = ("aalp_shuffled", "aalp_sw_mean")
HALF_FEATURES = "half-features"  # variant: instead of Guided Dropout a network of as many features as it keeps
HALF_WIDTH = (16, 32, 128)


def controls(out: Path, root: Path | None = None, device: str = "cpu", seeds: Sequence[int] = (0,)) -> list[Job]:
    """On the full MNIST, AALP's halves without what is to make them work: a mask that keeps as many features, but
    random ones; one weight for all samples of a step, the mean of theirs; and instead of the mask a network of half the
    features, for AALP (gd) that of ALP, for AALP that of AALP (sw)."""
    methods = tuple(ABLATIONS[name] for name in CONTROLS)
    made = Grid("mnist", out, methods, tuple(seeds), root=root, device=device).jobs()
    usual = SETTINGS["mnist"]["fast"]
    half = dataclasses.replace(usual, model=_LENET | {"width": HALF_WIDTH})
    made += [
        Job("mnist", method, half, out, seed, root, variant=HALF_FEATURES, device=device)
        for seed in seeds
        for method in ("alp", "aalp_sw")
    ]
    return made


QUICK = {"epochs": 1, "test_images": 100, "quick": True}  # of a grid that shows that it runs
SEEDS = (0, 1, 2)  # of the ablations


# --- grids -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Grid:
    """Methods × seeds with one setting, as independent jobs.

    Attributes
    ----------
    data : "mnist", "svhn", "cifar10" or "mnist-sample"
        Whose settings, and which images.
    out : Path
        Folder for the records, one a job, and `runs/`, the checkpoints.
    methods : tuple of str or Method
    seeds : tuple of int
    recipe : "fast" or "paper"
    folder : Path, optional
        Take the images from this folder of the layout `train/CLASS/*`, `test/CLASS/*` instead.
    root : Path, optional
        Where the data lies, as `load` takes it.
    epochs, train_images : int, optional
        A reduced protocol, for want of time; every record says so.
    test_images : int, optional
        Attack that many images from the front of the test split.
    quick : bool
        Shows that it runs, no more: the records are of the tier "quick" and enter no table of the paper.
    columns : tuple of str, optional
        Columns of Table 2 to measure; by default all.
    device : str

    Raises
    ------
    InputError
        If a name is unknown or a number out of range.
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
    quick: bool = False
    columns: tuple[str, ...] | None = None
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
        setting = SETTINGS[self.data][self.recipe]
        whole = setting.recipe.epochs
        if self.epochs is not None:
            setting = dataclasses.replace(setting, recipe=dataclasses.replace(setting.recipe, epochs=self.epochs))
        return [
            Job(
                str(self.folder or self.data), method, setting, self.out, seed, self.root,
                columns=self.columns, test_images=self.test_images, train_images=self.train_images,
                reduced=self._reduced(whole), quick=self.quick, variant="" if self.recipe == "fast" else self.recipe,
                device=self.device,
            )
            for seed in self.seeds
            for method in self.methods
        ]  # fmt: skip

    def _reduced(self, whole: int) -> str | None:
        said = [f"{self.train_images} training images"] if self.train_images else []
        said += [f"{self.epochs} of {whole} epochs"] if self.epochs is not None and self.epochs < whole else []
        return ", ".join(said) or None


def ablations(out: Path, seeds: Sequence[int] = SEEDS, quick: bool = False, device: str = "cpu") -> list[Job]:
    """The grid of ablations and of figure 6, on the bundled digits."""
    columns = ("pgd40", "pgd100", "cw100")
    methods = (*ABLATIONS.values(), *ALPHAS.values())
    changes: dict[str, Any] = QUICK if quick else {}
    return Grid("mnist-sample", out, methods, tuple(seeds), columns=columns, device=device, **changes).jobs()


def reproduce(
    grid: Grid, workers: int = 1, watch: Watch | None = None, executor: Executor | None = None
) -> Iterator[Record]:
    """Run what is not done yet of a grid, and yield its records as they come.

    Safe to kill at any moment and to start again: finished jobs are read, interrupted ones go on from their last epoch.
    Arguments but the first, and what is raised, as for `jobs.run_jobs`.

    Examples
    --------
    >>> from pathlib import Path
    >>> [job.name for job in Grid("mnist", Path("results"), ("alp", "aalp"), seeds=(0, 1)).jobs()]
    ['mnist-alp-seed0', 'mnist-aalp-seed0', 'mnist-alp-seed1', 'mnist-aalp-seed1']
    """
    jobs = grid.jobs()
    for job in jobs:
        finished(job)  # one made with other settings is told of before hours are spent
    yield from run_jobs(jobs, workers, watch, executor)
