"""How attacks and training are made fast and spread: lean private networks, CUDA graphs, precision, several processes.

Its door is `prepared`, a function from images to logits that computes what a network does in evaluation mode. A network
that is given in is read and never changed, so several threads may attack one, and an interrupt leaves nothing behind.
"""

from aalp_lib.engine.copies import private
from aalp_lib.engine.graphs import stepper, wanted
from aalp_lib.engine.network import Forward, Prepared, device_of, laid_out, parts, prepared, usual
from aalp_lib.engine.precision import misread, wrong

__all__ = [
    "Forward", "Prepared", "device_of", "laid_out", "misread", "parts", "prepared", "private", "stepper", "usual",
    "wanted", "wrong",
]  # fmt: skip
