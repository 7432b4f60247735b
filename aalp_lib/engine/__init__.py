"""How attacks and training are made fast and spread: lean private networks, CUDA graphs, precision, several processes.

Its door is `prepared`, a function from images to logits that computes what a network does in evaluation mode. A network
that is given in is read and never changed, so several threads may attack one, and an interrupt leaves nothing behind.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
