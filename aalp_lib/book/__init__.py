"""What the book's chapters share: graders for the exercises, figures with texts and sliders, the tier and its data."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
