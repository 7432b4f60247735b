"""What `aalp reproduce` is about to do: the jobs of a grid, which of them are left, and what is in their way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aalp_lib import _checks, data
from aalp_lib.reproduction import grids
from aalp_lib.reproduction.jobs import Job, finished
from aalp_lib.reproduction.workers import cores


def jobs(name: str, out: Path, *, device: str = "auto", elsewhere: bool = False, **asked: Any) -> list[Job]:
    """The jobs of a grid, for this machine or for others.

    Parameters
    ----------
    name, out
        As in `grids.jobs_of`.
    device : str
    elsewhere : bool
        The jobs are for machines that see the same folders: these are named in full, and each finds its device itself.
    **asked
        What else `grids.jobs_of` takes.
    """
    if elsewhere:
        full: dict[str, Any] = {
            key: value.resolve() if isinstance(value, Path) else value for key, value in asked.items()
        }
        return grids.jobs_of(name, out.resolve(), device=device, **full)
    return grids.jobs_of(name, out, device=str(_checks.device(device)), **asked)


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
    return not data.present(jobs[0].data, jobs[0].root)
