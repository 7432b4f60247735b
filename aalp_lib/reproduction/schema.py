"""Records of runs and measurements: what they hold, how they are written, and what is refused when they are read."""

import base64
import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec
import numpy as np
import torch
from torch import Tensor

from aalp_lib import _checks, checkpoints
from aalp_lib._checks import InputError
from aalp_lib.attacks import Attack
from aalp_lib.evaluation import TABLE_2_STEPS, Report
from aalp_lib.methods import METHODS

HEADINGS = {"clean": "Clean", "fgsm": "FGSM"} | {
    f"{kind}{steps}": f"{kind.upper()}-{steps}" for kind in ("pgd", "cw") for steps in TABLE_2_STEPS
}
# of stronger attacks; those of AutoAttack say what its stages so far have left
HEADINGS |= {"pgd100x20": "PGD-100, 20 starts", "cw100x20": "CW-100, 20 starts"}
HEADINGS |= {"apgd-ce": "APGD-CE", "apgd-t": "APGD-T", "fab-t": "FAB-T", "square": "Square"}
SCHEMA = 1


@dataclass(frozen=True)
class _Kept:
    """What a record and a measurement share: they are files."""

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, with a checksum, atomically; makes the folder."""
        path = _checks.path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoints.write_atomically(path, checkpoints.sealed(dataclasses.asdict(self)))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read one; InputError, which names the file, if it is damaged, of another schema or of the other class."""
        kept = load(path)
        if not isinstance(kept, cls):
            raise InputError(f"{path} is not a readable {cls.__name__.lower()} but a {type(kept).__name__.lower()}")
        return kept


@dataclass(frozen=True)
class Record(_Kept):
    """One run, with everything that a number taken from it must be able to show.

    Attributes
    ----------
    data, method : str
    seed : int
    tier : str
        "quick" for the bundled data, "full" for a whole data set; a quick number never enters a paper table.
    config : dict
        Network, training attack, recipe, method, and what of the evaluation may differ: reading, images, precision,
        seed. The attacks of the columns follow from the data and the training attack, see `settings.suite_for`.
    environment : dict
        Device, processor, threads, versions, commit and code. On a GPU "tf32": whether convolutions in float32 were
        TF32 in training, and "evaluation_tf32", whether in evaluation; without the second, the first is of both.
    accuracy : dict
        "last" and "best" (on the validation split), each {column: {accuracy, low, high, correct, count}}; accuracies
        are fractions, low and high the ends of the 95 % Wilson interval.
    outcomes : dict
        "last" and "best", each {column: packed bits}, one for each test image; see `unpack`.
    history : dict
        "epochs": one line each; "best": number of the best one.
    seconds : dict
        Wall time of "training" and "evaluation".
    network : str, optional
        `packing.fingerprint` of the last model's weights; None where nobody took it.
    schema : int
    """

    data: str
    method: str
    seed: int
    tier: str
    config: dict[str, Any]
    environment: dict[str, Any]
    accuracy: dict[str, dict[str, dict[str, Any]]]
    outcomes: dict[str, dict[str, str]]
    history: dict[str, Any]
    seconds: dict[str, float]
    network: str | None = None
    schema: int = field(default=SCHEMA)


@dataclass(frozen=True)
class Measurement(_Kept):
    """Anything measured other than a training with its accuracies, on a trained model.

    Attributes
    ----------
    kind : str
        What was measured: "diagnosis", "samples" and so on; measurements of one kind have the same `values`.
    subject : dict
        What it was measured on: data, method and seed; model ("last" or "best") unless it is of a whole training.
    tier : str
        As in a `Record`.
    config : dict
        Settings of the measurement: attacks, number of images, seed.
    environment : dict
        Device, processor, threads, versions, commit and code.
    values : dict
        The result; what it holds is said by the function that measures it.
    seconds : float
        Wall time.
    schema : int
    """

    kind: str
    subject: dict[str, Any]
    tier: str
    config: dict[str, Any]
    environment: dict[str, Any]
    values: dict[str, Any]
    seconds: float
    schema: int = field(default=SCHEMA)


def load(path: str | Path) -> Record | Measurement:
    """Read whichever of the two a file holds: a measurement says of what "kind" it is; errors as in `Record.load`."""
    return parsed(checkpoints.content_of(_checks.path(path)), str(path))


def parsed(content: bytes, where: str) -> Record | Measurement:
    """Read a record or a measurement from the bytes of a file; `where` is what an InputError calls the file.

    Refused are wrong types, keys that are missing or that nobody knows, numbers out of range, and accuracies that do
    not fit their interval, their count or their outcomes: what is not refused can be listed and tabulated.
    """
    try:
        found = checkpoints.unsealed(content)
        if found.get("schema") != SCHEMA:
            raise InputError(f"{where} has record schema {found.get('schema')}; this version reads {SCHEMA}")
        kind: type[Record] | type[Measurement] = Measurement if "kind" in found else Record
        if unknown := found.keys() - {of.name for of in dataclasses.fields(kind)}:
            raise ValueError(f"Object contains unknown field `{min(unknown)}`")
        kept: Record | Measurement = msgspec.convert(found, kind)
        _check(kept)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{where} is not a readable record ({error})") from error
    return kept


# --- what must hold of a record --------------------------------------------------------------------------------------

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]


class _Cell(msgspec.Struct):
    accuracy: _Share
    low: _Share
    high: _Share
    correct: _Count
    count: _Count

    def __post_init__(self) -> None:
        if not self.low <= self.accuracy <= self.high:
            raise ValueError(f"accuracy {self.accuracy} is outside its interval")
        if self.correct > self.count or not self.count:
            raise ValueError(f"{self.correct} of {self.count} images are right")


class _Column(_Cell):
    outcomes: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outcomes is not None:
            right = unpack(self.outcomes, self.count)
            if (len(right), int(right.sum())) != (self.count, self.correct):
                raise ValueError("the outcomes do not add up to the count")


class _Method(msgspec.Struct):
    classify: str = "joint"
    pairing: str | None = None
    label: str = ""
    guided_dropout: dict[str, Any] | None = None


class _Attack(msgspec.Struct):
    eps: float
    step: float
    steps: _Count
    restarts: _Count


class _Recipe(msgspec.Struct):
    lr: float
    epochs: _Count


class Config(msgspec.Struct):
    """What must be there of the settings of a run."""

    method: _Method
    attack: _Attack | None
    recipe: _Recipe
    model: dict[str, Any] | None = None
    train_images: _Count | None = None


class _Subject(msgspec.Struct):
    data: str
    method: str
    seed: int
    model: str = "last"


class _MaybeCounted(msgspec.Struct):
    images: _Count | None = None


class _Counted(msgspec.Struct):
    images: _Count


class _Set(msgspec.Struct):
    count: _Count
    clean_confidence: float | None = None
    adversarial_confidence: float | None = None
    classification_loss: float | None = None
    alp_loss: float | None = None

    def __post_init__(self) -> None:
        if self.count and None in msgspec.structs.astuple(self):
            raise ValueError(f"a set of {self.count} images lacks a mean")


class _Samples(msgspec.Struct):
    consistent: _Set
    inconsistent: _Set


class _OfEps(_Cell):
    eps: float
    most: float


class _OfSteps(_Cell):
    steps: _Count
    cross_entropy: float
    margin: float


class _OfRestarts(_Cell):
    restarts: _Count


class _Alone(_Cell):
    only: _Count


class _ZeroGradients(msgspec.Struct):
    clean: float
    attacked: float


class _Logits(msgspec.Struct):
    largest: float
    margin: float
    certain: float


class _Diagnosis(msgspec.Struct, forbid_unknown_fields=True):
    attack: dict[str, Any]
    seed: int
    eps: list[_OfEps]
    steps: list[_OfSteps]
    restarts: list[_OfRestarts]
    fgsm: _Alone
    margin: _Alone
    black_box: dict[Literal["transfer", "square"], _Alone]
    zero_gradients: _ZeroGradients
    logits: _Logits
    signs: list[str]
    nan_gradients: dict[str, float] = {}


class _Attacked(msgspec.Struct, forbid_unknown_fields=True):
    accuracy: dict[str, dict[str, Any]]
    outcomes: dict[str, str]


_PARTS: dict[str, dict[str, type]] = {  # of measurements, by kind
    "samples": {"config": _MaybeCounted, "values": _Samples},
    "strong": {"config": _MaybeCounted, "values": _Attacked},
    "attacks": {"config": _Counted, "values": _Attacked},
    "diagnosis": {"config": _Counted, "values": _Diagnosis},
}


def _check(kept: Record | Measurement) -> None:
    """Raise ValueError unless what lists and tables use of it is there and of its type."""
    if isinstance(kept, Record):
        _of("config", kept.config, Config)
        for model in kept.accuracy | kept.outcomes:
            _columns(f"accuracy.{model}", kept.accuracy.get(model, {}), kept.outcomes.get(model, {}))
        return
    _of("subject", kept.subject, _Subject)
    parts = _PARTS.get(kept.kind, {})
    for part, kind in parts.items():
        _of(part, getattr(kept, part), kind)
    if parts.get("values") is _Attacked:
        _columns("values.accuracy", kept.values["accuracy"], kept.values["outcomes"])


def _columns(where: str, cells: Mapping[str, Mapping[str, Any]], outcomes: Mapping[str, str]) -> None:
    if lonely := outcomes.keys() - cells.keys():
        raise ValueError(f"'{min(lonely)}' has outcomes and no accuracy - at `$.{where}`")
    for name, cell in cells.items():
        _of(f"{where}.{name}", {**cell, "outcomes": outcomes.get(name)}, _Column)


def _of(where: str, value: Any, kind: Any) -> Any:
    """The value as one of its type; ValueError names the place in the file."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        said, at, path = str(error).partition(" - at `$")
        raise ValueError(f"{said} - at `$.{where}{path if at else '`'}") from error


def attack_of(described: Mapping[str, Any], where: str) -> Attack:
    """The attack that a file describes; InputError says in which there is one that cannot be made."""
    try:
        return Attack(**described)
    except (TypeError, InputError) as error:
        raise InputError(f"{where} describes an attack that cannot be made ({error})") from error


def load_records(folder: str | Path) -> list[Record]:
    """Read every `*.json` of a folder, by name; what is no readable record is named in a warning and left out."""
    return list(named_records(folder).values())


def named_records(folder: str | Path) -> dict[str, Record]:
    """Likewise, each under its file's name without the ending: the name of its run."""
    found = {}
    for path in sorted(_checks.path(folder).glob("*.json")):
        try:
            found[path.stem] = Record.load(path)
        except InputError as error:
            warnings.warn(str(error), stacklevel=2)
    return found


def accuracies(report: Report) -> dict[str, dict[str, float]]:
    """What a record keeps of a report, for each column."""
    return {name: outcome.numbers for name, outcome in report.items()}


def outcomes(report: Report) -> dict[str, str]:
    """Which images each column of a report left right, packed."""
    return {name: pack(outcome.correct) for name, outcome in report.items()}


def pack(correct: Tensor) -> str:
    """Turn a bool tensor (N,) into text, eight images a byte, base64."""
    return base64.b64encode(np.packbits(correct.cpu().numpy()).tobytes()).decode()


def unpack(text: str, count: int) -> Tensor:
    """Turn the text of `pack` back into a bool tensor (count,)."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8))[:count]
    return torch.from_numpy(bits.astype(bool))


def label(method: str) -> str:
    """The name of a method in tables and figures."""
    return METHODS[method].label if method in METHODS else method
