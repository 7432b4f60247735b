"""The paper again: its numbers, our settings and grids, runs and their records, comparisons, tables and figures."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aalp_lib.reproduction import (
        analyses,
        bench,
        beyond,
        collect,
        comparisons,
        demo,
        figures,
        grids,
        jobs,
        measurements,
        paper,
        per_epoch,
        report,
        schema,
        settings,
        throughput,
        workers,
    )
else:

    def __getattr__(name: str):
        if name in __all__:
            return importlib.import_module(f"aalp_lib.reproduction.{name}")
        raise AttributeError(f"module 'aalp_lib.reproduction' has no attribute '{name}'")


__all__ = [
    "analyses",
    "bench",
    "beyond",
    "collect",
    "comparisons",
    "demo",
    "figures",
    "grids",
    "jobs",
    "measurements",
    "paper",
    "per_epoch",
    "report",
    "schema",
    "settings",
    "throughput",
    "workers",
]
