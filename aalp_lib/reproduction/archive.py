"""All records there are: in a folder, in the clone's `results/`, or in the pack that travels in the wheel."""

import functools
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from aalp_lib import _checks, checkpoints, methods
from aalp_lib._checks import InputError
from aalp_lib.folders import RUN
from aalp_lib.methods import METHODS, TABLE_2
from aalp_lib.reproduction import schema
from aalp_lib.reproduction.protocols import is_of, measured_protocol, recipe, repetition
from aalp_lib.reproduction.schema import Measurement, Record
from aalp_lib.reproduction.settings import SETTINGS
from aalp_lib.zoo import INDEX

Model = Literal["last", "best"]

RESULTS = Path(__file__).resolve().parents[2] / "results"  # of a clone
PACK = Path(__file__).resolve().parents[1] / "assets" / "records.zip"
ABLATIONS = "ablations"  # folder of the training records whose method or setting differs from a row of the paper
APART = ("runs", "earlier")  # folders of what is beside checkpoints, and of runs that others have taken the place of
_NO_RECORDS = (RUN, "data.json", "progress.json", INDEX)  # what else lies beside checkpoints and weights
_SETS = ("mnist", "svhn", "svhn-part", "cifar10", "cifar10-jpeg", "mnist-sample")
_METHODS = (*TABLE_2, *(name for name in METHODS if name not in TABLE_2))
LARGEST = 2**26  # bytes of a record in a pack
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold


@dataclass(frozen=True, eq=False)
class Records:
    """Training runs and measurements, each under its name: its path in the folder without the ending.

    Attributes
    ----------
    runs : dict of Record
        In the order of the paper's tables, then by seed, the recipe "fast" first; ablations last.
    measurements : dict of Measurement
    left_out : tuple of str
        A sentence for each file that is no readable record, or is of the same run as another.
    beside_checkpoints : int
        How many files in folders `runs` were passed over.
    """

    runs: Mapping[str, Record] = field(default_factory=dict)
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    beside_checkpoints: int = 0

    def kind(self, kind: str) -> list[Measurement]:
        """Full-tier measurements of a kind on last models, in the order of the paper's tables."""
        made = [m for m in self.measurements.values() if (m.kind, m.tier) == (kind, "full")]
        return sorted((m for m in made if m.subject.get("model", "last") == "last"), key=_place)

    def of(self, record: Record, kind: str, model: Model = "last") -> Measurement | None:
        """The measurement of a kind on the model of a run; None where there is none."""
        made = self._by_subject.get((kind, record.data, record.method, record.seed), ())
        return next((m for m in made if is_of(m, record, model)), None)

    @functools.cached_property
    def _by_subject(self) -> dict[tuple[Any, ...], list[Measurement]]:
        found: dict[tuple[Any, ...], list[Measurement]] = {}
        for m in self.measurements.values():
            found.setdefault((m.kind, *(m.subject.get(key) for key in ("data", "method", "seed"))), []).append(m)
        return found

    def select(
        self, data: str | None = None, method: str | None = None, seed: int | None = None, recipe: str | None = None
    ) -> "Records":
        """What is left when data set, method (by name or label), seed and recipe are those given.

        "cifar10" takes what was run on its JPEG copy along, as the tables do.

        Raises
        ------
        InputError
            If a name is neither known nor among the records.
        """
        runs = self.runs.values()
        if method is not None:
            method = methods.named(method, dict.fromkeys((*METHODS, *(r.method for r in runs))))
        if data is not None:
            _checks.known("data set", data, dict.fromkeys((*SETTINGS, *(r.data for r in runs))))
        if recipe is not None:
            _checks.known("recipe", recipe, ("paper", "fast"))
        asked = {"data": (data, f"{data}-jpeg"), "method": (method,), "seed": (seed,), "recipe": (recipe,)}
        wanted = {key: values for key, values in asked.items() if values[0] is not None}

        def among(traits: Mapping[str, Any]) -> bool:
            return all(traits.get(key) in values for key, values in wanted.items())

        return Records(
            {name: r for name, r in self.runs.items() if among(_traits(r))},
            {name: m for name, m in self.measurements.items() if among(_traits(m))},
            self.left_out,
        )


def is_ablation(name: str) -> bool:
    """Whether the run of this name lies in a folder `ablations`."""
    return ABLATIONS in PurePosixPath(name).parts[:-1]


def _traits(kept: Record | Measurement) -> Mapping[str, Any]:
    if isinstance(kept, Measurement):
        return kept.subject | {"recipe": measured_protocol(kept).split(", ")[0]}
    return {"data": kept.data, "method": kept.method, "seed": kept.seed, "recipe": recipe(kept)}


def _place(m: Measurement) -> tuple[Any, ...]:
    return *_row(m.subject["data"], m.subject["method"]), measured_protocol(m), m.subject["seed"]


def in_order(records: Iterable[Record]) -> list[Record]:
    """Records as the paper's tables have them, then by seed, the recipe "fast" first; what is in no table is last."""
    return sorted(records, key=_place_of)


def _place_of(record: Record) -> tuple[Any, ...]:
    return *_row(record.data, record.method), record.seed, recipe(record) != "fast"


def _row(data: str, method: str) -> list[int]:
    """Where a data set and a method stand in the paper's tables; what is in none comes last."""
    known = ((_SETS, data), (_METHODS, method))
    return [names.index(name) if name in names else len(names) for names, name in known]


# --- reading ---------------------------------------------------------------------------------------------------------


def records(folder: str | Path | None = None) -> Records:
    """Read all records and measurements.

    Parameters
    ----------
    folder : path, optional
        With the folders below it, but for `runs` (beside checkpoints; their runs have records of their own) and
        `earlier` (runs whose place others took). By default the clone's `results/`, or where the package was installed
        the pack that travels in it; these are read once.

    Raises
    ------
    InputError
        If there is no such folder. A damaged file raises nothing: it is named in `left_out`.
    """
    if folder is None:
        return _own()
    folder = _checks.path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; `aalp reproduce`, `demo` and `evaluate` write records")
    below = f"{ABLATIONS}/" if folder.resolve().name == ABLATIONS else ""
    paths = {below + path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.json"))}
    kept = {name: path for name, path in paths.items() if _is_kept(name)}
    beside = sum("runs" in PurePosixPath(name).parts and _named_as_record(name) for name in paths)
    return _gathered(
        ((name, str(path), functools.partial(checkpoints.content_of, path)) for name, path in kept.items()), beside
    )


@functools.cache
def _own() -> Records:
    return records(RESULTS) if (RESULTS.parent / "pyproject.toml").is_file() and RESULTS.is_dir() else unpacked(PACK)


def unpacked(path: Path) -> Records:
    """Read all records and measurements of a pack; what of it is damaged is named in `left_out`.

    InputError if it is no pack at all.
    """
    try:
        with zipfile.ZipFile(path) as pack:
            members = (
                (of.filename, f"{path}/{of.filename}", functools.partial(_member, pack, of)) for of in pack.infolist()
            )
            if not pack.namelist():
                raise InputError(f"{path} is an empty pack of records")
            return _gathered(members)
    except InputError:
        raise
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is no readable pack of records ({error})") from error


def _member(pack: zipfile.ZipFile, of: zipfile.ZipInfo) -> bytes:
    where = f"{pack.filename}/{of.filename}"
    if of.file_size > LARGEST:
        raise InputError(f"{where} is too large for a record: {of.file_size} bytes")
    try:
        return pack.read(of)
    except Exception as error:  # what damage to a member raises is not documented
        raise InputError(f"{where} cannot be read ({error})") from error


def _named_as_record(name: str) -> bool:
    return PurePosixPath(name).name not in _NO_RECORDS


def _is_kept(name: str) -> bool:
    return _named_as_record(name) and not {*APART} & {*PurePosixPath(name).parts}


def _gathered(files: Iterable[tuple[str, str, Callable[[], bytes]]], beside_checkpoints: int = 0) -> Records:
    runs: dict[str, Record] = {}
    measurements: dict[str, Measurement] = {}
    left_out: list[str] = []
    seen: dict[tuple[Any, ...], str] = {}
    for name, where, read in files:
        try:
            kept = schema.parsed(read(), where)
        except (InputError, OSError) as error:
            left_out.append(str(error))
            continue
        name = name.removesuffix(".json")
        if isinstance(kept, Measurement):
            measurements[name] = kept
            continue
        first = seen.setdefault((*repetition(kept), kept.seed, *kept.accuracy), where)
        if first != where:
            left_out.append(f"{where} is of the same run as {first}")
        else:
            runs[name] = kept
    names = sorted(runs, key=lambda name: (is_ablation(name), *_place_of(runs[name])))
    return Records({name: runs[name] for name in names}, measurements, tuple(left_out), beside_checkpoints)


# --- the pack --------------------------------------------------------------------------------------------------------


def pack(folder: str | Path | None = None, path: str | Path | None = None) -> Path:
    """Write all records and measurements of a folder, but for those that `records` passes over, into one zip file.

    By default those of the checkout, into the package, as `aalp results results --write` does. The same records give
    the same bytes.
    """
    folder, path = _checks.path(folder or RESULTS), _checks.path(path or PACK)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_LZMA) as made:
        for name, file in packable(folder):
            made.writestr(zipfile.ZipInfo(name, _DATE), file.read_bytes(), zipfile.ZIP_LZMA)
    checkpoints.write_atomically(path, content.getvalue())
    return path


def packable(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and paths of the files that `pack` takes."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.json"))
    return ((name, folder / name) for name in names if _is_kept(name))
