"""Adaptive Adversarial Logits Pairing, measured: data, models, attacks, methods, training and evaluation.

Read in the order in which the data flows: data, models, losses, taylor, contributions, attacks, methods, checkpoints,
train, evaluation, autoattack, diagnosis, zoo, plots; seeds, progress, folders and resume serve them. `engine` makes it
fast, `reproduction` is the paper again, `book` serves the chapters. The names are listed in `__init__.pyi`; each is
imported when it is first used, so that the command's help need not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
