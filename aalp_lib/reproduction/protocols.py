"""How runs were made, in words: recipe and protocol, which runs are repetitions, where a method departs from a row."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from aalp_lib import models
from aalp_lib.attacks import trades_inner
from aalp_lib.autoattack import VERSIONS
from aalp_lib.evaluation import paper_name
from aalp_lib.methods import METHODS
from aalp_lib.reproduction import paper
from aalp_lib.reproduction.schema import Measurement, Record
from aalp_lib.reproduction.settings import SETTINGS, Setting

_FITTED = ("in_channels", "classes", "image_size", "mean", "std")  # of a network, follow from the data


def recipe(record: Record) -> str:
    """Return "paper" where learning rate and training attack are section 4.1's, else "fast"."""
    said = paper.SETTINGS.get(paper_name(record.data))
    if said is None or record.config["recipe"]["lr"] != said.lr:
        return "fast"
    attack = record.config["attack"]  # None where `aalp train` trained on clean images alone
    alike = attack is None or all(attack.get(key) == getattr(said, key) for key in ("eps", "step", "steps"))
    return "paper" if alike else "fast"


def protocol(record: Record) -> str:
    """In words, how a run was made: its recipe, how it is reduced, or where it differs from `SETTINGS`.

    Runs whose words are the same are repetitions of one another; only such are averaged.
    """
    return _worded(record, _differences(record))


def training_protocol(record: Record) -> str:
    """`protocol` without what concerns the evaluation alone: what a measurement on the trained model says of it."""
    return _worded(record, _training_differences(record))


def measured_protocol(m: Measurement) -> str:
    """The `training_protocol` of the model that something was measured on; "fast" where the subject names none."""
    reduced = m.subject.get("reduced")
    return str(m.subject.get("recipe", "fast")) + (f", reduced: {reduced}" if reduced else "")


def is_of(m: Measurement, record: Record, model: str) -> bool:
    """Whether a measurement is of a run's model, and of the network that this was when the record was made."""
    wanted = {"data": record.data, "method": record.method, "seed": record.seed, "model": model}
    alike = wanted.items() <= m.subject.items() and measured_protocol(m) == training_protocol(record)
    return alike and record.network in (None, m.subject.get("network", record.network))


def repetition(record: Record) -> tuple[str, ...]:
    """What runs share that differ in their seed alone: data, method, protocol, and what its words leave out."""
    method = changes(record) if record.method in METHODS else [str(record.config["method"])]
    known = [] if _setting(record) else [str(record.config.get(part)) for part in ("model", "attack", "recipe")]
    return (record.data, record.method, protocol(record), *_differences(record), *method, *known)


def _worded(record: Record, differences: list[str]) -> str:
    reduced = record.config.get("reduced")
    return ", ".join([recipe(record), *([f"reduced: {reduced}"] if reduced else differences)])


def _differences(record: Record) -> list[str]:
    """Where network, attack, recipe and evaluation differ from the setting of that recipe for the data set."""
    config, found = record.config, _training_differences(record)
    if config.get("reading", "any") != "any":
        found.append("last iterate alone")
    if config.get("evaluation_precision", "float32") != "float32":
        found.append(f"evaluated in {config['evaluation_precision']}")
    if config.get("evaluation_seed"):
        found.append(f"attacked with seed {config['evaluation_seed']}")
    if config.get("test_images"):
        found.append(f"{config['test_images']} test images")
    return found


def _training_differences(record: Record) -> list[str]:
    config, found = record.config, []
    if setting := _setting(record):
        usual = setting[recipe(record)]
        attack = trades_inner(usual.attack) if config["method"].get("pairing") == "trades_kl" else usual.attack
        # a grid's record has the setting, one of `aalp evaluate` the network in full and the method's own attack
        found += _apart("model", config, usual.model, lambda: _in_full(json.dumps(usual.model)))
        found += _apart("attack", config, usual.attack.described(), lambda: attack.described())
        found += _apart("recipe", config, dataclasses.asdict(usual.recipe), dict)
    if config.get("train_images"):
        found.append(f"{config['train_images']} train images")
    return found


def _apart(
    part: str, config: Mapping[str, Any], usual: Mapping[str, Any], other: Callable[[], Mapping[str, Any]]
) -> list[str]:
    """What of a part of a config is neither as usual nor as in the other, which is made only if it is needed."""
    made = {key: value for key, value in (config.get(part) or {}).items() if key not in _FITTED}
    apart = {key: value for key, value in made.items() if _plain(usual.get(key)) != value}
    alike = other() if apart else {}
    return [f"{part} {key} {value}" for key, value in apart.items() if key not in alike or _plain(alike[key]) != value]


@functools.cache
def _in_full(model: str) -> Mapping[str, Any]:
    """The whole config of the network that a setting's, as JSON, describes."""
    with torch.device("meta"):  # without memory, and without a draw from the global generator
        return models.build(json.loads(model)).config


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return list(value) if isinstance(value, tuple) else value


def _setting(record: Record) -> Mapping[str, Setting] | None:
    """The settings for a record's data set by recipe; None where there are none, as for a reader's own images."""
    return SETTINGS.get(record.data) or SETTINGS.get(paper_name(record.data))


# --- methods ---------------------------------------------------------------------------------------------------------


def changes(record: Record) -> list[str]:
    """Where a record's method differs from the row of the paper that has its name; of another name, that it has."""
    return differences_from(record, record.method) if record.method in METHODS else ["another method"]


def differences_from(record: Record, base: str) -> list[str]:
    """Where a record's method differs from a row of `METHODS`, in words; what the record does not name is as usual."""
    usual, found = _flat(dataclasses.asdict(METHODS[base])), _flat(record.config["method"])
    return [f"{k} {v}" for k, v in found.items() if k not in ("name", "label") and usual.get(k) != v]


def nearest(record: Record, rows: Iterable[str]) -> str:
    """The row from which a method differs in the fewest points; of two the one whose name its own begins with."""
    return min(
        rows, key=lambda row: (len(differences_from(record, row)), not f"{record.method}_".startswith(f"{row}_"))
    )


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    mask = config.get("guided_dropout")
    flat = {key: value for key, value in config.items() if key != "guided_dropout"}
    return flat | {"Guided Dropout": "on" if mask else "off"} | {f"mask {k}": v for k, v in (mask or {}).items()}


# --- precision -------------------------------------------------------------------------------------------------------


def gradients(m: Measurement, attack: str = "") -> str:
    """What a measurement's gradients were computed in: "float32", "bfloat16", or "TF32" for a GPU's rounded float32.

    Of one attack, if it is named: AutoAttack's stages are never bfloat16's.
    """
    precision = "float32" if attack in VERSIONS["standard"] else m.config.get("precision", "float32")
    return _rounded(precision, m.environment.get("tf32"))


def evaluated_in(record: Record) -> str:
    """The same of the attacks of a training record."""
    rounded = record.environment.get("evaluation_tf32", record.environment.get("tf32"))
    return _rounded(record.config.get("evaluation_precision", "float32"), rounded)


def _rounded(precision: str, tf32: bool | None) -> str:
    return "TF32" if precision == "float32" and tf32 else precision
