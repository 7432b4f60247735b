"""What the book's chapters share: graders for the exercises, figures with texts and sliders, the tier and its data."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aalp_lib.book import chapter, graders, interactive
else:

    def __getattr__(name: str):
        if name in __all__:
            return importlib.import_module(f"aalp_lib.book.{name}")
        raise AttributeError(f"module 'aalp_lib.book' has no attribute '{name}'")


__all__ = ["chapter", "graders", "interactive"]
