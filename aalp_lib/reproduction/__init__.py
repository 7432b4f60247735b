"""The paper again: its numbers, our settings and grids, runs and their records, comparisons, tables and figures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
