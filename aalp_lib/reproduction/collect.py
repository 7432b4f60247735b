"""What lies in a folder of records: read, selected, and gathered into repetitions of one protocol."""

import csv
import dataclasses
import functools
import io
import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch

from aalp_lib import _checks, methods, models
from aalp_lib._checks import InputError
from aalp_lib.attacks import trades_inner
from aalp_lib.autoattack import VERSIONS
from aalp_lib.evaluation import paper_name, suite_in_ball
from aalp_lib.methods import METHODS, Method
from aalp_lib.reproduction import paper, schema
from aalp_lib.reproduction.attack_measurements import diagnosis_of
from aalp_lib.reproduction.grids import HALF_WIDTH
from aalp_lib.reproduction.plots_of_records import in_table_order
from aalp_lib.reproduction.schema import Measurement, Record, unpack
from aalp_lib.reproduction.settings import SETTINGS, Setting
from aalp_lib.train import RUN
from aalp_lib.zoo import INDEX

Which = Literal["last", "best"]

TITLES = {
    "mnist": "MNIST",
    "svhn": "SVHN",
    "svhn-part": "SVHN, part",
    "cifar10": "CIFAR-10",
    "cifar10-jpeg": "CIFAR-10, JPEG",
}
ABLATIONS = "ablations"  # folder of the training records whose method differs from a row of the paper
UNMEASURED = "not measured yet"

APART = ("runs", "earlier")  # folders of what is beside checkpoints, and of runs that others have taken the place of
_NO_RECORDS = (RUN, "data.json", "progress.json", INDEX)  # what else lies beside checkpoints and weights
_CALLED = {  # in measurements: in tables
    "accuracy": "columns",
    "clean_confidence": "mean_clean_confidence",
    "adversarial_confidence": "mean_adversarial_confidence",
}
_FITTED = ("in_channels", "classes", "image_size", "mean", "std")  # of a network, follow from the data


# --- what lies in a folder -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What `read` found.

    Attributes
    ----------
    records, ablations : list of Record
        Training runs, in the order of the paper's tables, then by seed, the recipe "fast" first; those under
        `ablations/` apart.
    measurements : list of Measurement
    left_out : list of str
        A sentence for each file that is no readable record.
    beside_checkpoints : int
        How many files in folders `runs` were passed over.
    """

    records: list[Record] = field(default_factory=list)
    ablations: list[Record] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    beside_checkpoints: int = 0


def read(folder: str | Path) -> Found:
    """Read every record and measurement in a folder and those below it.

    What is damaged or of another schema, and a second record of the same run, is named in `left_out`. InputError if
    there is no such folder. What lies below it in a folder `runs`, beside checkpoints, is passed over: evaluations and
    diagnoses there are of runs that have records of their own. So is a folder `earlier`: runs whose place others took.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; `aalp reproduce`, `demo` and `evaluate` write records")
    found = Found()
    seen: dict[tuple[Any, ...], Path] = {}
    passed_over = 0
    for path in sorted(folder.rglob("*.json")):
        if path.name in _NO_RECORDS:
            continue
        if apart := {*APART} & {*path.relative_to(folder).parts}:
            passed_over += "runs" in apart
            continue
        try:
            kept = read_one(path)
        except (InputError, OSError) as error:
            found.left_out.append(str(error))
            continue
        if isinstance(kept, Measurement):
            found.measurements.append(kept)
            continue
        run = (kept.data, kept.method, _protocol_key(kept), kept.seed, *kept.accuracy)
        if run in seen:
            found.left_out.append(f"{path} is of the same run as {seen[run]}")
            continue
        seen[run] = path
        ablation = ABLATIONS in (folder.resolve().name, *path.relative_to(folder).parts[:-1])
        (found.ablations if ablation else found.records).append(kept)
    records, ablations = (
        in_table_order(sorted(runs, key=lambda r: recipe(r) != "fast")) for runs in (found.records, found.ablations)
    )
    return dataclasses.replace(found, records=records, ablations=ablations, beside_checkpoints=passed_over)


def read_one(path: Path) -> Record | Measurement:
    """Read a record or a measurement; InputError, naming the file, if it cannot be listed or enter a table."""
    kept = schema.load(path)
    try:
        if isinstance(kept, Record):
            _use(kept)
        else:
            kept = _renamed(kept)
            _use_measurement(kept)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{path} is not a sound record ({type(error).__name__}: {error})") from error
    return kept


def _renamed(kept: Measurement) -> Measurement:
    """A measurement of attacks or of samples under the names that tables use, whichever it came with."""
    if kept.kind not in ("strong", "attacks", "samples"):
        return kept
    values = {_CALLED.get(key, key): value for key, value in kept.values.items()}
    for name in {"consistent", "inconsistent"} & values.keys():
        values[name] = {_CALLED.get(key, key): value for key, value in values[name].items()}
    return dataclasses.replace(kept, values=values)


def _use(record: Record) -> None:
    """Touch what the tables use, so that damage shows here; outcomes must agree with the counts beside them."""
    _protocol_key(record), differences_from(record, "aalp")  # what runs are gathered by and bases are found by
    record.config["method"].get("label", "").removeprefix("")  # refuses what is no text: a cell of a table
    if record.tier == "full":  # others cost nothing that a table says
        epochs, steps, images, _ = effort(record)
        range(epochs * steps * (images or 1))  # refuses what is no whole number: the table of costs counts gradients
    for which in record.accuracy | record.outcomes:
        _use_cells(record.accuracy.get(which, {}), record.outcomes.get(which, {}))


def _use_cells(cells: Mapping[str, Mapping[str, float]], outcomes: Mapping[str, str]) -> None:
    for name, found in cells.items():
        if not 0 <= found["low"] <= found["accuracy"] <= found["high"] <= 1:
            raise ValueError(f"'{name}' has accuracy {found['accuracy']} outside its interval")
        if not 0 <= found["correct"] <= int(found["count"]) or not found["count"]:
            raise ValueError(f"'{name}' has {found['correct']} of {found['count']} images right")
    for name, text in outcomes.items():
        if name not in cells:
            raise ValueError(f"'{name}' has outcomes and no accuracy")
        right, found = unpack(text, int(cells[name]["count"])), cells[name]
        if (len(right), int(right.sum())) != (found["count"], found["correct"]):
            raise ValueError(f"the outcomes of '{name}' do not add up to its count")


def _use_measurement(kept: Measurement) -> None:
    """Likewise: `range` and `operator.index` refuse what is no whole number, `hash` what is no name."""
    # tables look a measurement up by these, and put seeds in order
    hash((kept.subject["data"], kept.subject["method"])), operator.index(kept.subject["seed"])
    if kept.kind == "samples":
        range(kept.config.get("images", 0))  # Table 4 makes as many outcomes
        for cells in (kept.values["consistent"], kept.values["inconsistent"]):
            # Table 1 averages these; of no images there is nothing to average
            [cells[name] / 1 for name in paper.SAMPLE_COLUMNS if round(cells["count"])]
    if kept.kind in ("strong", "attacks"):
        _use_cells(kept.values["columns"], kept.values["outcomes"])
    if kept.kind == "attacks":
        [kept.values["columns"][name] for name in suite_in_ball(1.0, 1.0)], kept.config["images"]
    if kept.kind == "diagnosis":
        found = diagnosis_of(kept)
        repr(found), "; ".join(kept.values["signs"]), kept.config["images"]  # what the tables of diagnoses say
        _use_cells({name: row for group in found.rows for name, row, _ in group}, {})


def select(
    found: Found, data: str | None = None, method: str | None = None, seed: int | None = None, recipe: str | None = None
) -> Found:
    """What is left when data set, method (by name or label), seed and recipe are those given.

    "cifar10" takes what was run on its JPEG copy along, as the tables do.

    Raises
    ------
    InputError
        If a name is neither known nor among the records.
    """
    runs = (*found.records, *found.ablations)
    if method is not None:
        method = methods.named(method, dict.fromkeys((*METHODS, *(r.method for r in runs))))
    if data is not None:
        _checks.known("data set", data, dict.fromkeys((*SETTINGS, *(r.data for r in runs))))
    if recipe is not None:
        _checks.known("recipe", recipe, ("paper", "fast"))
    wanted = {"data": data, "method": method, "seed": seed, "recipe": recipe}
    asked = {key: value for key, value in wanted.items() if value is not None}

    def among(traits: Mapping[str, Any]) -> bool:
        alike = {key: (value, f"{value}-jpeg") if key == "data" else (value,) for key, value in asked.items()}
        return all(traits.get(key) in values for key, values in alike.items())

    return Found(
        [r for r in found.records if among(_traits(r))],
        [r for r in found.ablations if among(_traits(r))],
        [m for m in found.measurements if among(m.subject | {"recipe": measured_protocol(m).split(", ")[0]})],
        found.left_out,
    )


def _traits(record: Record) -> dict[str, Any]:
    return {"data": record.data, "method": record.method, "seed": record.seed, "recipe": recipe(record)}


# --- protocols: which runs are repetitions of one another ------------------------------------------------------------


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
    reduced = record.config.get("reduced")
    parts = [f"reduced: {reduced}"] if reduced else _differences(record)
    return ", ".join([recipe(record), *parts])


def training_protocol(record: Record) -> str:
    """`protocol` without what concerns the evaluation alone: what a measurement on the trained model says of it."""
    reduced = record.config.get("reduced")
    parts = [f"reduced: {reduced}"] if reduced else _training_differences(record)
    return ", ".join([recipe(record), *parts])


def _protocol_key(record: Record) -> tuple[str, ...]:
    method = changes(record) if record.method in METHODS else [str(record.config["method"])]
    setting = [] if _setting(record) else [str(record.config.get(part)) for part in ("model", "attack", "recipe")]
    return (protocol(record), *_differences(record), *method, *setting)


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
        parts = {
            "model": (usual.model, _in_full(json.dumps(usual.model))),
            "attack": (dataclasses.asdict(usual.attack), dataclasses.asdict(attack)),
            "recipe": (dataclasses.asdict(usual.recipe),),
        }
        for part, references in parts.items():
            for key, value in (config.get(part) or {}).items():
                if key not in _FITTED and all(_plain(reference.get(key)) != value for reference in references):
                    found.append(f"{part} {key} {value}")
    if config.get("train_images"):
        found.append(f"{config['train_images']} train images")
    return found


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


def half_features(record: Record) -> bool:
    """Whether a run is one of the controls with half the features (`experiments.controls`)."""
    return (record.config.get("model") or {}).get("width") in (HALF_WIDTH, [*HALF_WIDTH])


def effort(record: Record) -> tuple[int, int, int | None, bool]:
    """Epochs, gradients of a training step for an image, images if not all, and whether the last network is the best.

    Of single images: what `report.cost` rests on.
    """
    config, attack, method = record.config, record.config["attack"], record.config["method"]
    attack_steps = attack["steps"] * attack["restarts"] if attack else 0
    # whichever pairing it is, it costs the same
    steps = Method("", "", method["classify"], "alp" if method["pairing"] else None).gradient_count(attack_steps)
    last = record.history.get("best") == len(record.history.get("epochs", ()))
    return config["recipe"]["epochs"], steps, config.get("train_images"), last


def title(data: str) -> str:
    """The name of a data set in tables."""
    return TITLES.get(data, data)


def gradients(m: Measurement, attack: str = "") -> str:
    """What a measurement's gradients were computed in: "float32", "bfloat16", or "TF32" for a GPU's rounded float32.

    Of one attack, if it is named: AutoAttack's stages are never bfloat16's.
    """
    precision = "float32" if attack in VERSIONS["standard"] else str(m.config.get("precision", "float32"))
    return "TF32" if precision == "float32" and m.environment.get("tf32") else precision


def signed(points: float) -> str:
    """A difference in points with its sign and one decimal, never "-0.0"."""
    return f"{round(points, 1) + 0.0:+.1f}"


def spread(points: Sequence[float]) -> str:
    """The lowest and the highest of several differences in points."""
    return f"{signed(min(points))} to {signed(max(points))}"


def is_of(m: Measurement, record: Record, which: str) -> bool:
    """Whether a measurement is of a run's model, and of the network that this was when the record was made."""
    wanted = {"data": record.data, "method": record.method, "seed": record.seed, "model": which}
    alike = wanted.items() <= m.subject.items() and measured_protocol(m) == training_protocol(record)
    return alike and record.network in (None, m.subject.get("network", record.network))


@dataclass(frozen=True)
class Cell:
    """A number of ours, in the paper's unit.

    Attributes
    ----------
    value : float
        Mean over seeds.
    low, high : float, optional
        With one seed the 95 % Wilson interval, with several the lowest and highest of them.
    seeds, images : int
    digits : int
        Decimals that are shown.
    """

    value: float
    low: float | None
    high: float | None
    seeds: int
    images: int
    digits: int = 1

    @classmethod
    def of(cls, found: Sequence[Mapping[str, float]]) -> "Cell":
        """From the columns of one or several records."""
        values = [100 * f["accuracy"] for f in found]
        images = int(min(f["count"] for f in found))
        if len(found) == 1:
            return cls(values[0], 100 * found[0]["low"], 100 * found[0]["high"], 1, images)
        return cls(mean(values), min(values), max(values), len(found), images)

    def __str__(self) -> str:
        text = f"{self.value:.{self.digits}f}"
        if self.low is None or self.high is None:
            return text
        span = f"{self.low:.{self.digits}f}–{self.high:.{self.digits}f}"
        return f"{text} ({span})" if self.seeds == 1 else f"{text} [{span}]"


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    data: str
    method: str
    protocol: str
    records: list[Record]

    def cell(self, name: str, which: str) -> Cell | None:
        """The column `name` over those seeds that have it."""
        found = [r.accuracy.get(which, {}).get(name) for r in self.records]
        measured = [f for f in found if f is not None]
        return Cell.of(measured) if measured else None

    def cells(self, names: Iterable[str], which: str) -> dict[str, Cell]:
        """All columns among `names` that were measured."""
        return {name: cell for name in names if (cell := self.cell(name, which))}


def groups(records: Iterable[Record]) -> list[Group]:
    """Gather repetitions, in the order in which they first come."""
    gathered: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        gathered.setdefault((record.data, record.method, *_protocol_key(record)), []).append(record)
    return [Group(key[0], key[1], key[2], found) for key, found in gathered.items()]


def of_the_paper(records: Iterable[Record], data: str) -> list[Group]:
    """Full-tier runs of the paper's methods on a data set or, where it is the paper's, on a copy of it."""
    usual = [
        record
        for record in records
        if record.tier == "full" and data in (record.data, paper_name(record.data)) and not changes(record)
    ]
    return groups(usual)


def changes(record: Record) -> list[str]:
    """Where a record's method differs from the row of the paper that has its name; of another name, that it has."""
    return differences_from(record, record.method) if record.method in METHODS else ["another method"]


def differences_from(record: Record, base: str) -> list[str]:
    """Where a record's method differs from a row of `METHODS`, in words; what the record does not name is as usual."""
    usual, found = _flat(dataclasses.asdict(METHODS[base])), _flat(record.config["method"])
    return [f"{k} {v}" for k, v in found.items() if k not in ("name", "label") and usual.get(k) != v]


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    mask = config.get("guided_dropout")
    flat = {key: value for key, value in config.items() if key != "guided_dropout"}
    return flat | {"Guided Dropout": "on" if mask else "off"} | {f"mask {k}": v for k, v in (mask or {}).items()}


def measured_sets(found: Found) -> list[str]:
    """The data sets of the paper, copies included, on which something was measured in full."""
    subjects = [r.data for r in found.records if r.tier == "full"]
    subjects += [str(m.subject.get("data")) for m in found.measurements if m.tier == "full"]
    return [data for data in TITLES if data in subjects]


def measured_protocol(kept: Measurement) -> str:
    """The `training_protocol` of the model that something was measured on; "fast" where the subject names none."""
    subject = kept.subject
    return str(subject.get("recipe", "fast")) + (f", reduced: {subject['reduced']}" if "reduced" in subject else "")


def grid(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the head first, as a Markdown table."""
    head, *rows = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)) + "\n"


def csv_text(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Lines of cells as CSV, below their head."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return text.getvalue()
