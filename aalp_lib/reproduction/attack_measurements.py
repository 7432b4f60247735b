"""A model diagnosed or attacked strongly, as a measurement that can be saved."""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from aalp_lib import _checks, engine, resume
from aalp_lib.attacks import Attack, derived
from aalp_lib.autoattack import QUERIES, VERSIONS, auto_attack, installed
from aalp_lib.data import Split
from aalp_lib.diagnosis import Diagnosis, diagnose
from aalp_lib.engine.precision import Precision, without_tf32
from aalp_lib.evaluation import (
    Report,
    chosen_precision,
    evaluate,
    gradient_count,
    in_ball,
    strong_suite,
    suite_in_ball,
)  # fmt: skip
from aalp_lib.models import Classifier
from aalp_lib.progress import Tell, shown, stages
from aalp_lib.reproduction import machine, schema
from aalp_lib.reproduction.schema import Measurement

Kind = Literal["diagnosis", "strong", "attacks"]


@without_tf32()
def measure_attacks(
    model: Classifier,
    split: Split,
    ball: str | Attack,
    *,
    kind: Kind = "diagnosis",
    subject: Mapping[str, Any],
    tier: str,
    seed: int = 0,
    source: Classifier | None = None,
    source_subject: Mapping[str, Any] | None = None,
    queries: int = QUERIES,
    batch_size: int = 500,
    precision: Precision = "float32",
    parts: Path | None = None,
    progress: bool | Tell | None = None,
) -> Measurement:
    """Diagnose a model or attack it strongly, as a measurement that can be saved.

    Parameters
    ----------
    model, split, seed, queries, batch_size, precision, progress
        As in `diagnose` and `evaluate`; AutoAttack's gradients are always float32.
    ball : str or Attack
        As in `strong_suite`.
    kind : "diagnosis", "strong" or "attacks"
        Values of a diagnosis are those of `Diagnosis`, and "signs". Those of the others are "accuracy" and "outcomes",
        as in a record, of the columns of `strong` or `altered`.
    subject, tier
        As in a `Measurement`.
    source, source_subject
        Another model, for transfer, in a diagnosis; and what it is, for the record.
    parts : path, optional
        Folder for what is done so far: after a kill, the same call with the same package on the same device goes on
        from there. To be deleted once the measurement is saved.
    """
    _checks.known("measurement", kind, get_args(Kind))
    attack, began = in_ball(ball), time.perf_counter()
    environment = machine.environment(engine.device_of(model))
    source = source if kind == "diagnosis" else None
    precision = chosen_precision(model, split, precision, batch_size)  # a record says which it was
    settings: dict[str, Any] = {"seed": seed, "queries": queries, "batch_size": batch_size, "precision": precision}
    config: dict[str, Any] = {
        "attack": attack.described(),
        "images": len(split),
        **settings,
        "pyautoattack": version("pyautoattack") if installed() else None,
        **({"source": dict(source_subject)} if source is not None and source_subject is not None else {}),
    }
    depends_on = [kind, config, machine.alike(environment), source is not None]
    with resume.resumable(parts, depends_on, *tensors_of(split, model, source)) as earlier:
        if kind == "diagnosis":
            found = diagnose(model, split, attack, source=source, progress=progress, **settings)
            values = dataclasses.asdict(found) | {"signs": found.signs}
        else:
            report = (strong if kind == "strong" else altered)(model, split, attack, progress=progress, **settings)
            values = {"accuracy": schema.accuracies(report), "outcomes": schema.outcomes(report)}
    seconds = time.perf_counter() - began + earlier.seconds
    return Measurement(kind, dict(subject), tier, config, environment, values, seconds)


def diagnosis_of(measurement: Measurement) -> Diagnosis:
    """The diagnosis that a measurement of that kind keeps."""
    return Diagnosis(**{key: value for key, value in measurement.values.items() if key != "signs"})


def tensors_of(split: Split, *models: Classifier | None) -> Iterator[Tensor]:
    """All tensors that attacks on these images and models depend on."""
    states = [model.state_dict().values() for model in models if model is not None]
    return itertools.chain([split.images, split.labels], *states)


def strong(
    model: Classifier,
    split: Split,
    attack: Attack,
    *,
    queries: int = QUERIES,
    progress: bool | Tell | None = None,
    precision: Precision = "float32",
    **how: Any,
) -> Report:
    """The strong suite and, where the extra [autoattack] is installed, AutoAttack's stages; one report of both.

    `how` is the seed and batch size of both; AutoAttack starts from all clean images again.
    """
    suite = strong_suite(attack)
    with shown(progress, "attacking") as tell:
        tells = stages(tell, suite=gradient_count(suite), auto=1900 + queries / 2 if installed() else 0)
        report = evaluate(model, split, suite, precision=precision, progress=tells["suite"], **how)
        if not installed():
            return report
        found = auto_attack(model, split, attack.eps, queries=queries, progress=tells["auto"], **how)
    return Report({**report, **{name: found[name] for name in VERSIONS["standard"] if name in found}})


ALTERED = {  # what may be read otherwise in Table 2's attacks, by the word that names it behind a column's
    "longer": "steps three times as long",
    "start": "FGSM from a random start, PGD and CW from the image itself",
    "half": "FGSM of half a step from a random start",
    "exact": "FGSM on the cross-entropy without rounding",
    "last": "the last iterate alone counts",
}


def altered_suite(eps: float, step: float) -> dict[str, Attack]:
    """Table 2's nine attacks, and each with another step or start: "pgd10", "pgd10 longer", ... (`ALTERED`).

    What the paper leaves open of its attacks, tried one at a time; `altered` adds the other reading. "fgsm exact" is
    no reading of the paper: it tells what of that column is rounding.
    """
    plain, longer = suite_in_ball(eps, step), suite_in_ball(eps, 3 * step)
    one_step = {"fgsm start": derived(plain["fgsm"], start="uniform")}
    one_step["fgsm half"] = derived(one_step["fgsm start"], step=eps / 2)
    one_step["fgsm exact"] = derived(plain["fgsm"], loss="exact_cross_entropy")
    several = plain.keys() - {"fgsm"}
    altered = {f"{name} longer": longer[name] for name in plain if name in several}
    altered |= {f"{name} start": derived(plain[name], start="clean") for name in plain if name in several}
    return plain | one_step | altered


def altered(
    model: Classifier,
    split: Split,
    attack: Attack,
    *,
    queries: int = 0,
    progress: bool | Tell | None = None,
    **how: Any,
) -> Report:
    """Table 2's attacks with the radius and step of `attack`, and those that the paper's text allows as well.

    The columns are "clean", those of `altered_suite`, and "pgd10 last", ... "cw100 last", where only iterate k counts;
    `how` is passed to `evaluate`, `queries` is for `strong` alone.
    """
    suite, plain = altered_suite(attack.eps, attack.step), suite_in_ball(attack.eps, attack.step)
    iterated = {name: one for name, one in plain.items() if one.steps > 1}
    with shown(progress, "attacking") as tell:
        tells = stages(tell, any=gradient_count(suite), last=gradient_count(iterated))
        found = evaluate(model, split, suite, progress=tells["any"], **how)
        last = evaluate(model, split, iterated, reading="last", progress=tells["last"], **how)
    return Report({**found, **{f"{name} last": last[name] for name in iterated}})
