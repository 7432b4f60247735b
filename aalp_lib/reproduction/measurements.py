"""What is measured on the trained models of a grid, beyond Table 2: Table 1, the figures, stronger attacks."""

import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from aalp_lib import _checks, checkpoints
from aalp_lib._checks import InputError
from aalp_lib.attacks import Attack
from aalp_lib.data import SOURCES as KNOWN_DATA, Dataset
from aalp_lib.engine.precision import Precision
from aalp_lib.methods import named
from aalp_lib.models import Classifier
from aalp_lib.progress import Tell, stages
from aalp_lib.reproduction import analyses
from aalp_lib.reproduction.attack_measurements import measure_attacks
from aalp_lib.reproduction.jobs import Origin
from aalp_lib.reproduction.packing import beside_records, fingerprint, packaged
from aalp_lib.reproduction.protocols import changes, recipe, training_protocol
from aalp_lib.reproduction.schema import Record, attack_of, named_records
from aalp_lib.reproduction.settings import suite_for
from aalp_lib.zoo import weights

Kind = Literal["samples", "diagnosis", "strong", "attacks"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # "samples" brings contributions, activation and examples along
SOURCES = ("alp", "aalp")  # whose adversarial images are tried on the others, where there are such


@dataclass(frozen=True)
class Trained:
    """A run that is done: its record, the folder of its checkpoints, and the file of its weights after the last epoch.

    Where the checkpoints are not at hand, `weights` is a file in half precision: kept beside the records, or one that
    comes with the package.
    """

    record: Record
    run: Path
    weights: Path

    @property
    def half(self) -> bool:
        """Whether only weights in half precision are at hand."""
        return self.weights.parent != self.run

    @property
    def attack(self) -> Attack:
        """What the network was trained against."""
        return attack_of(self.record.config["attack"], f"the record of {self.run}")

    @functools.cached_property
    def subject(self) -> dict[str, object]:
        """What a measurement says it was made on."""
        found = {"data": self.record.data, "method": self.record.method, "seed": self.record.seed, "model": "last"}
        if self.half:
            found["weights"] = "in half precision" + ", as packaged" * self.weights.is_relative_to(weights())
        return found | self.about | {"network": fingerprint(self.weights)}

    @property
    def about(self) -> dict[str, str]:
        """In words, where the run departs from the recipe "fast", and how it fell short of the full protocol."""
        words = self.record.config.get("reduced")
        made = recipe(self.record) if words else training_protocol(self.record)
        return ({"recipe": made} if made != "fast" else {}) | ({"reduced": words} if words else {})


def trained(folder: str | Path) -> list[Trained]:
    """The runs of a grid's folder with a record and weights, by name.

    Weights are the run's own checkpoints; else those that `packing` kept beside the records, or, for seed 0 of the
    recipe "fast", those that it packed there or in the package. Weights of another network than the record's are none
    of its own.
    """
    folder, found = _checks.path(folder), []
    for name, record in named_records(folder).items():
        run = folder / "runs" / name
        files = [run / checkpoints.LAST, beside_records(run)]
        if record.seed == 0 and training_protocol(record) == "fast" and not changes(record):
            name = f"{record.data}/{record.method}"
            files += filter(None, (packaged(name, folder=folder / "weights"), packaged(name)))
        there = (file for file in files if file.exists() and record.network in (None, fingerprint(file)))
        if file := next(there, None):
            found.append(Trained(record, run, file))
    return found


def measure(
    folder: str | Path,
    dataset: Dataset,
    *,
    kinds: Sequence[Kind] = KINDS,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    images: int = 1000,
    seed: int = 0,
    precision: Precision = "float32",
    progress: Tell | None = None,
) -> list[Path]:
    """Write the measurements that are missing of a grid's trained models to `folder/KIND/RUN.json`.

    What is done of a diagnosis or of the strong attacks is kept meanwhile in `folder/runs`: after a kill, the same call
    with the same versions on the same device goes on from there.

    Parameters
    ----------
    folder : path
        Where the grid put its records and runs; for the variants of a grid, the folder `ablations` in it.
    dataset : Dataset
        What the grid was trained on.
    kinds : sequence of str
        "samples" (on the whole test split: with "contributions", "activation", "examples"), "diagnosis", "strong",
        "attacks" (Table 2's, and what else its settings may be read as).
    methods, seeds : sequence, optional
        Only models of these methods, variants by their name in code, that were trained with these seeds.
    images : int
        Test images, from the front of the split, for a diagnosis and for attacks.
    seed, precision
        Of the attacks, as in `evaluate`. What is there is kept, whatever its precision.
    progress : callable, optional

    Returns
    -------
    list of Path
        Of all measurements, old and new.

    Raises
    ------
    InputError
        If no run on that data set is finished, or none of a method or a seed; a kind is unknown, or a measurement that
        is there was made with other settings, or on another network of that name.
    """
    folder = _checks.path(folder)
    runs = [one for one in trained(folder) if one.record.data == dataset.name]
    if not runs:
        raise InputError(
            f"{folder} holds no finished run on {dataset.name} with its checkpoints; aalp reproduce makes them"
        )
    for kind in kinds:
        _checks.known("kind of measurement", kind, KINDS)
    work = {f"{one.run.name} {kind}": (one, kind) for one in _chosen(runs, methods, seeds) for kind in kinds}
    tells = stages(progress, **dict.fromkeys(work, 1000.0))  # thousandths
    paths: list[Path] = []
    for name, (one, kind) in work.items():
        if kind == "samples":
            attack = analyses.attack_for(dataset, one.attack)
            paths += analyses.measure_model(
                _model(one, dataset.test.images.device), one.run.name, one.subject, dataset, folder, attack=attack,
                seed=seed, tier=one.record.tier,
            )  # fmt: skip
        else:
            path, how = folder / kind / f"{one.run.name}.json", {"images": images, "seed": seed, "precision": precision}
            paths.append(_measure_attacks(one, runs, dataset, path, kind, progress=tells[name], **how))
        if tell := tells[name]:
            tell(1, 1, f"{one.run.name}, {kind} done")
    return paths


def _chosen(runs: Sequence[Trained], methods: Sequence[str] | None, seeds: Sequence[int] | None) -> list[Trained]:
    """Runs of these methods, those of the paper named in code or as in its tables, and of these training seeds."""
    known = sorted({one.record.method for one in runs})
    wanted = known if methods is None else [named(name, known) for name in methods]
    chosen = [one for one in runs if one.record.method in wanted]
    if not chosen:
        raise InputError("name at least one method, or leave them out for all")
    there = sorted({one.record.seed for one in chosen})
    for asked in seeds or ():
        _checks.known("training seed", str(asked), map(str, there))
    return [one for one in chosen if seeds is None or one.record.seed in seeds]


def _measure_attacks(
    one: Trained, runs: Sequence[Trained], dataset: Dataset, path: Path, kind: Any, **how: Any
) -> Path:
    test, parts = dataset.test[: how.pop("images")], one.run.with_name(f"{one.run.name}-{kind}")
    if not analyses.present(path, one.subject, {"images": len(test), "seed": how["seed"]}):
        source, device = _source(one, runs) if kind == "diagnosis" else None, test.images.device
        measure_attacks(
            _model(one, device), test, suite_for(dataset.name, one.attack)["pgd100"], kind=kind,
            subject=one.subject, tier=one.record.tier, parts=parts,
            source=_model(source, device) if source else None, source_subject=source.subject if source else None, **how,
        ).save(path)  # fmt: skip
    shutil.rmtree(parts, ignore_errors=True)  # also of an attempt that was killed once it had written the measurement
    return path


def _model(one: Trained, device: torch.device) -> Classifier:
    return checkpoints.load_model(one.weights).to(device)


def _source(one: Trained, runs: Sequence[Trained]) -> Trained | None:
    """Another model of the same seed and recipe, whose adversarial images are tried on this one."""
    alike = [r for r in runs if (r.record.seed, r.about) == (one.record.seed, one.about) and r is not one]
    others = {r.record.method: r for r in alike}
    return next((others[name] for name in (*SOURCES, *others) if name in others), None)


def origin(runs: Sequence[Trained]) -> Origin:
    """Where the data of a grid's runs came from: as a run noted it beside its checkpoints, or by its name.

    Raises
    ------
    InputError
        If all that is left of a grid on a folder of images are its weights.
    """
    whole = next((one for one in runs if not one.half), None)
    found = Origin.read(whole.run) if whole else Origin(runs[0].record.data)
    if whole is None and found.data not in KNOWN_DATA:
        raise InputError(
            f"these were trained on the images of a folder, '{found.data}': say where it is with --data FOLDER"
        )
    return found
