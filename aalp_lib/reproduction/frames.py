"""The one frame: every accuracy of every run, a line each, from which tables, figures and chapters come."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aalp_lib._checks import InputError
from aalp_lib.methods import METHODS
from aalp_lib.reproduction import protocols, schema
from aalp_lib.reproduction.archive import Model, Records, is_ablation, records
from aalp_lib.reproduction.schema import Record

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    *("data", "method", "label", "recipe", "protocol", "base", "variant", "seed", "tier", "model", "suite", "attack"),
    *("accuracy", "low", "high", "correct", "count", "right", "precision", "ablation", "run", "group"),
)
MODELS: tuple[Model, ...] = ("last", "best")
SUITES = ("table2", "strong", "attacks")


def frame(source: str | Path | Records | None = None) -> "pandas.DataFrame":
    """Every accuracy, a line for each run × model × attack.

    Parameters
    ----------
    source : path or Records, optional
        As `records` takes it.

    Returns
    -------
    DataFrame
        data, method : as in `load` and `METHODS`; label : the method's name in tables.
        recipe : "fast" or "paper"; protocol : in words, how the run was made. Runs of one method and protocol are
        repetitions of one another; where the words cannot tell, as for a reader's own images, `group` (int) does.
        base : the row of `METHODS` that the method is or comes nearest to; variant : where it differs, in words.
        seed, tier, model ("last" or "best").
        suite : "table2" (all test images), or a measurement on images from the front of the test split: "strong"
        (restarts and AutoAttack) or "attacks" (settings of the attacks). attack : its name in that suite; "square" of
        "strong" is all of AutoAttack.
        accuracy, low, high : fractions, with the 95 % Wilson interval; correct, count : images.
        right : which images, bool (count,), or None.
        precision : of the attack's gradients; ablation : whether the run lies in a folder `ablations`; run : its name.

    Raises
    ------
    InputError
        If there is no such folder, or pandas, of the extra [reproduction], is not installed.
    """
    return _made(source if isinstance(source, Records) else records(source)).copy(deep=False)


@functools.lru_cache(maxsize=4)
def _made(found: Records) -> "pandas.DataFrame":
    try:
        import pandas  # slow to import, and an extra
    except ImportError as error:
        raise InputError(
            f"the frame of records needs pandas ({error}): pip install 'aalp_lib[reproduction]'"
        ) from error
    return pandas.DataFrame(_lines(found), columns=list(COLUMNS))


def _lines(found: Records) -> Iterator[dict[str, Any]]:
    rows: dict[str, set[str]] = {}  # of the paper, by data set
    for record in found.runs.values():
        if record.method in METHODS:
            rows.setdefault(record.data, set()).add(record.method)
    groups: dict[tuple[str, ...], int] = {}
    for name, record in found.runs.items():
        group = groups.setdefault(protocols.repetition(record), len(groups))
        run = _traits(name, record, rows.get(record.data, set())) | {"group": group}
        for model, cells in record.accuracy.items():
            precision = dict.fromkeys(cells, protocols.evaluated_in(record))
            yield from _cells(run, model, "table2", cells, record.outcomes.get(model, {}), precision)
        for model in MODELS:
            for suite in SUITES[1:]:
                if m := found.of(record, suite, model):
                    cells = m.values["accuracy"]
                    precision = {attack: protocols.gradients(m, attack) for attack in cells}
                    yield from _cells(run, model, suite, cells, m.values["outcomes"], precision)


def _traits(name: str, record: Record, rows: set[str]) -> dict[str, Any]:
    base = record.method
    if base not in METHODS:
        base = protocols.nearest(record, [row for row in METHODS if row in rows] or METHODS)
    label = str(record.config["method"].get("label") or schema.label(record.method))
    return {
        "data": record.data,
        "method": record.method,
        "label": label,
        "recipe": protocols.recipe(record),
        "protocol": protocols.protocol(record),
        "base": base,
        "variant": ", ".join(protocols.differences_from(record, base)) or ("" if base == record.method else label),
        "seed": record.seed,
        "tier": record.tier,
        "ablation": is_ablation(name),
        "run": name,
    }


def _cells(
    run: Mapping[str, Any],
    model: str,
    suite: str,
    cells: Mapping[str, Mapping[str, float]],
    outcomes: Mapping[str, str],
    precision: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    for attack, cell in cells.items():
        count = int(cell["count"])
        yield {
            **run, "model": model, "suite": suite, "attack": attack, "precision": precision[attack],
            **{key: float(cell[key]) for key in ("accuracy", "low", "high")},
            "correct": int(cell["correct"]), "count": count,
            "right": schema.unpack(outcomes[attack], count).numpy() if attack in outcomes else None,
        }  # fmt: skip
