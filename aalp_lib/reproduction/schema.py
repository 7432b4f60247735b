"""Records of runs on disk, and tables out of them."""

import base64
import csv
import dataclasses
import functools
import hashlib
import io
import json
import platform
import subprocess
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

from aalp_lib import _checks, checkpoints
from aalp_lib._checks import InputError
from aalp_lib.engine.precision import tf32
from aalp_lib.evaluation import HEADINGS, Report
from aalp_lib.methods import METHODS

SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """One run, with everything that a number taken from it must be able to show.

    Attributes
    ----------
    data, method : str
    seed : int
    tier : str
        "quick" for the bundled data, "full" for a whole data set; a quick number never enters a paper table.
    config : dict
        Network, training attack, recipe, method, and what of the evaluation may differ: reading, images, precision,
        seed. The attacks of the columns follow from the data and the training attack, see `evaluate.suite_for`.
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
        `pretrained.fingerprint` of the last model's weights; None where nobody took it.
    schema : int
    """

    data: str
    method: str
    seed: int
    tier: str
    config: dict[str, Any]
    environment: dict[str, Any]
    accuracy: dict[str, dict[str, dict[str, float]]]
    outcomes: dict[str, dict[str, str]]
    history: dict[str, Any]
    seconds: dict[str, float]
    network: str | None = None
    schema: int = field(default=SCHEMA)

    def save(self, path: str | Path) -> Path:
        """Write the record as JSON, atomically; makes the folder."""
        return _save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> "Record":
        """Read a record; a damaged one, or one of another schema, raises InputError naming it."""
        return _load(cls, Path(path))


@dataclass(frozen=True)
class Measurement:
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

    def save(self, path: str | Path) -> Path:
        """Write the measurement as JSON, atomically; makes the folder."""
        return _save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> "Measurement":
        """Read a measurement; a damaged one, or one of another schema, raises InputError naming it."""
        return _load(cls, Path(path))


_Kept = TypeVar("_Kept", Record, Measurement)


def _save(kept: Record | Measurement, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_atomically(path, (json.dumps(dataclasses.asdict(kept), indent=1) + "\n").encode())
    return path


def load(path: str | Path) -> Record | Measurement:
    """Read whichever of the two a file holds: a measurement says of what "kind" it is; errors as in `Record.load`."""
    path = Path(path)
    found = _parsed(path)
    return _made(Measurement, found, path) if "kind" in found else _made(Record, found, path)


def _load(kind: type[_Kept], path: Path) -> _Kept:
    return _made(kind, _parsed(path), path)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        schema = found.get("schema")
    except (ValueError, RecursionError, AttributeError) as error:
        raise InputError(f"{path} is not a readable record ({error})") from error
    if schema != SCHEMA:
        raise InputError(f"{path} has record schema {schema}; this version reads {SCHEMA}")
    return found


def _made(kind: type[_Kept], found: dict[str, Any], path: Path) -> _Kept:
    """The values of a file as what they are of, each of the type that its field is annotated with."""
    try:
        kept = kind(**found)
    except TypeError as error:
        raise InputError(f"{path} is not a readable {kind.__name__.lower()} ({error})") from error
    for of in dataclasses.fields(kept):
        if not _fits(getattr(kept, of.name), of.type):
            wanted = of.type if get_args(of.type) else getattr(of.type, "__name__", of.type)
            raise InputError(f"{path} is not a readable {kind.__name__.lower()} ('{of.name}' is not of type {wanted})")
    return kept


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of a type, down to the values of dicts; a bool is no number, an int is a float."""
    of = get_args(kind)
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in of)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(one, of[1]) for one in value.values())
    allowed = (int, float) if kind is float else kind
    return kind is Any or (isinstance(value, allowed) and not isinstance(value, bool))


def load_records(folder: str | Path) -> list[Record]:
    """Read every `*.json` of a folder, by name; what is no readable record is named in a warning and left out."""
    return list(_load_all(Record, Path(folder)).values())


def named_records(folder: str | Path) -> dict[str, Record]:
    """Likewise, each under its file's name without the ending: the name of its run."""
    return _load_all(Record, Path(folder))


def load_measurements(folder: str | Path) -> list[Measurement]:
    """Read every `*.json` of a folder, by name, likewise."""
    return list(_load_all(Measurement, Path(folder)).values())


def _load_all(kind: type[_Kept], folder: Path) -> dict[str, _Kept]:
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = _load(kind, path)
        except InputError as error:
            warnings.warn(str(error), stacklevel=3)
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


def mcnemar(a: Tensor, b: Tensor) -> tuple[int, int, float]:
    """Compare two models on the same images with McNemar's exact test.

    Parameters
    ----------
    a, b : bool tensor (N,)
        Which images each model has right.

    Returns
    -------
    only_a, only_b : int
        Images that only one of them has right.
    p : float
        Chance of a split at least as uneven if each of these images were as likely to fall to either model: two-sided
        binomial test of `only_a` out of `only_a + only_b` against 1/2; 1 where no image tells them apart.

    Raises
    ------
    InputError
        If the two are not bool tensors of the same length.

    Examples
    --------
    >>> right = torch.tensor([True, True, True, False])
    >>> mcnemar(right, ~right)
    (3, 1, 0.625)
    """
    if a.dtype != torch.bool or b.dtype != torch.bool or a.shape != b.shape or a.ndim != 1:
        kinds = " and ".join(f"{t.dtype} {tuple(t.shape)}" for t in (a, b))
        raise InputError(f"McNemar's test takes two bool tensors (N,) on the same images, got {kinds}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return only_a, only_b, exact_p(only_a, only_b)


def exact_p(only_a: int, only_b: int) -> float:
    """The p of McNemar's exact test for two counts of images that only one of two models has right."""
    from scipy.stats import binomtest  # slow to import

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


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


def table(
    records: Iterable[Record],
    *,
    which: Literal["last", "best"] = "last",
    form: Literal["markdown", "csv"] = "markdown",
) -> str:
    """Make a table in the shape of Table 2, a row a record, accuracies in percent.

    Parameters
    ----------
    records : iterable of Record
    which : "last" or "best"
        The model after the last epoch, or the best on the validation split.
    form : "markdown" or "csv"
        Markdown gives `96.3 (95.0–97.3)`, with the 95 % interval; CSV has a line for each accuracy, with counts.
    """
    _checks.known("table form", form, ("markdown", "csv"))
    _checks.known("model", which, ("last", "best"))
    records = list(records)
    return _csv(records, which) if form == "csv" else _markdown(records, which)


def columns(records: Sequence[Record], which: str) -> list[str]:
    """The columns that any of the records has, in order."""
    return list(dict.fromkeys(name for record in records for name in record.accuracy.get(which, {})))


def label(method: str) -> str:
    """The name of a method in tables and figures."""
    return METHODS[method].label if method in METHODS else method


def _markdown(records: list[Record], which: str) -> str:
    names = columns(records, which)
    head = ["Method", "Seed", *(HEADINGS.get(name, name) for name in names)]
    rows = [
        [label(r.method), str(r.seed), *(_cell(r.accuracy.get(which, {}).get(name)) for name in names)] for r in records
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def _cell(found: dict[str, float] | None) -> str:
    if found is None:
        return "not measured"
    return f"{100 * found['accuracy']:.1f} ({100 * found['low']:.1f}–{100 * found['high']:.1f})"


def _csv(records: list[Record], which: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["data", "method", "seed", "tier", "model", "attack", "accuracy", "low", "high", "correct", "count"]
    )
    for r in records:
        for name, found in r.accuracy.get(which, {}).items():
            percent = [f"{100 * found[key]:.2f}" for key in ("accuracy", "low", "high")]
            writer.writerow(
                [
                    r.data,
                    r.method,
                    r.seed,
                    r.tier,
                    which,
                    name,
                    *percent,
                    int(found["correct"]),
                    int(found["count"]),
                ]
            )
    return text.getvalue()


def environment(device: torch.device) -> dict[str, Any]:
    """Device, processor, threads, versions and commit, as a record keeps them.

    Asked for where a run begins: "commit" and "code" (the first 12 hexadecimal digits of the SHA-256 of this package's
    source files) are what they were when a process asked first, since the checkout may go on while it runs.
    """
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor(),
        # whether float32 convolutions round what they multiply to 10 bits, which is torch's default on a GPU
        **({"tf32": tf32()} if device.type == "cuda" else {}),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "torchvision": version("torchvision"),
        "aalp_lib": version("aalp_lib"),
        "commit": _commit(),
        "code": _code(),
        "system": platform.system(),
    }


@functools.cache
def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def _code() -> str:
    """What tells this package's source from any other, also where a commit does not: of a changed or installed one."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that this package is run from, "+" for local changes; None for an installed one."""
    home = Path(__file__).resolve().parents[2]
    if not (home / ".git").exists():
        return None
    try:
        run = functools.partial(subprocess.run, cwd=home, capture_output=True, text=True, timeout=10)
        commit = run(["git", "rev-parse", "--short=12", "HEAD"])
        changes = run(["git", "status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.SubprocessError):
        return None
    return (commit.stdout.strip() + ("+" if changes.stdout.strip() else "")) if commit.returncode == 0 else None
