"""The grids that `aalp reproduce` knows by name, as jobs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aalp_lib import _checks, data, methods
from aalp_lib._checks import InputError
from aalp_lib.reproduction import grids, per_epoch
from aalp_lib.reproduction.jobs import Job, cores, finished

# grids with settings of their own: what makes them, the folder of their records, and the options that they take
LAID_DOWN: dict[str, tuple[Callable[..., list[Job]], str, tuple[str, ...]]] = {
    "ablations": (grids.ablations, "ablations", ("methods", "seeds", "quick")),
    "reasons": (grids.reasons, "mnist/ablations", ("methods", "seeds", "root")),
    "controls": (grids.controls, "mnist/ablations", ("methods", "seeds", "root")),
    "cifar10-reasons": (grids.cifar10_reasons, "cifar10/ablations", ("methods", "seeds", "root", "folder")),
}


def jobs(name: str, out: Path, *, device: str = "auto", elsewhere: bool = False, **asked: Any) -> list[Job]:
    """The jobs of a grid.

    Parameters
    ----------
    name : str
        A data set with settings in `grids.SETTINGS`, or one of `LAID_DOWN`.
    out : path
        The records go to a folder in it.
    device : str
    elsewhere : bool
        The jobs are for machines that see the same folders: these are named in full, and each finds its device itself.
    **asked
        Fields of `grids.Grid`, and "observe" for a look at the network after every epoch. Those of `LAID_DOWN` take the
        options named there; of them, "methods" names the jobs by method and variant.

    Raises
    ------
    InputError
        If a name is unknown, a number out of range, or an option would change what is laid down.
    """
    if elsewhere:
        out = out.resolve()
        asked = {key: value.resolve() if isinstance(value, Path) else value for key, value in asked.items()}
    else:
        device = str(_checks.device(device))
    make = _laid_down if name in LAID_DOWN else _of_data
    return make(name, out, device, asked)


def _laid_down(name: str, out: Path, device: str, asked: Mapping[str, Any]) -> list[Job]:
    make, folder, takes = LAID_DOWN[name]
    for option in asked:
        if option not in takes:
            raise InputError(f"the {name} take no --{option.replace('_', '-')}: what they run is laid down")
    settings = {key: value for key, value in asked.items() if key != "methods"}
    made = make(out / f"{folder}{_quick(asked)}", device=device, **settings)
    rows = dict.fromkeys(job.label for job in made)
    wanted = [_checks.known("run of this grid", row, rows) for row in asked.get("methods", rows)]
    return [job for job in made if job.label in wanted]


def _of_data(name: str, out: Path, device: str, asked: Mapping[str, Any]) -> list[Job]:
    given = {key: value for key, value in asked.items() if key != "observe"}
    if "methods" in given:
        given["methods"] = tuple(methods.method(row).name for row in given["methods"])
    reduced = grids.QUICK if given.get("quick") else {}
    grid = grids.Grid(name, out / f"{name}{_quick(asked)}", device=device, **(reduced | given))
    observer = per_epoch.job if asked.get("observe") else None
    return [dataclasses.replace(job, observer=observer) for job in grid.jobs()]


def _quick(asked: Mapping[str, Any]) -> str:
    return "-quick" * asked.get("quick", False)


def workers(jobs: Sequence[Job]) -> int:
    """How many of the jobs to run at a time on this machine: one a core, or one on a GPU."""
    return cores() if jobs[0].device == "cpu" else 1


def left(jobs: Sequence[Job]) -> list[Job]:
    """Those that are not done; InputError if a record there is of other settings."""
    return [job for job in jobs if finished(job) is None]


def copies(jobs: Sequence[Job]) -> list[Path]:
    """Records of the JPEG copy of a data set in the folder of jobs on the data set itself."""
    return [*jobs[0].out.glob(f"{jobs[0].data}-jpeg-*.json")] if jobs[0].data in data.SOURCES else []


def needs_download(jobs: Sequence[Job]) -> bool:
    """Whether the first job would download its data; InputError if a folder that was named is not there."""
    return bool(jobs) and not data.present(jobs[0].data, jobs[0].root)
