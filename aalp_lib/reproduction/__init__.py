"""The paper again: its numbers, our settings and grids, runs and their records, comparisons, tables and figures."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aalp_lib.reproduction import (
        analyses,
        archive,
        attack_measurements,
        bench,
        beyond,
        collect,
        comparisons,
        controls,
        demo,
        figures,
        frames,
        grids,
        jobs,
        machine,
        measurements,
        paired,
        paper,
        per_epoch,
        plots_of_records,
        protocols,
        report,
        schema,
        settings,
        throughput,
        workers,
    )
    from aalp_lib.reproduction.archive import records
    from aalp_lib.reproduction.frames import frame
else:
    _FUNCTIONS = {"records": "archive", "frame": "frames"}

    def __getattr__(name: str):
        if name in _FUNCTIONS:
            return getattr(importlib.import_module(f"aalp_lib.reproduction.{_FUNCTIONS[name]}"), name)
        if name in __all__:
            return importlib.import_module(f"aalp_lib.reproduction.{name}")
        raise AttributeError(f"module 'aalp_lib.reproduction' has no attribute '{name}'")


__all__ = [
    "analyses",
    "archive",
    "attack_measurements",
    "bench",
    "beyond",
    "collect",
    "comparisons",
    "controls",
    "demo",
    "figures",
    "frame",
    "frames",
    "grids",
    "jobs",
    "machine",
    "measurements",
    "paired",
    "paper",
    "per_epoch",
    "plots_of_records",
    "protocols",
    "records",
    "report",
    "schema",
    "settings",
    "throughput",
    "workers",
]
