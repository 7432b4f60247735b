"""Seeds for the parts of a run, derived from its one seed."""

import zlib
from contextlib import AbstractContextManager

import numpy as np
import torch

from aalp_lib import _checks


def derive(seed: int, part: str, number: int = 0) -> int:
    """A 32-bit seed for one numbered part of a run, unrelated to those of other parts, numbers and seeds.

    32 bits, since torch's CPU generator drops all others. A seed below 0 or above 2**63 - 1 raises InputError.

    Examples
    --------
    >>> derive(0, "step", 1) != derive(1, "step", 1) != derive(0, "step", 2)
    True
    """
    _checks.seed("the seed", seed)
    return int(np.random.SeedSequence((seed, zlib.crc32(part.encode()), number)).generate_state(1)[0])


def restored() -> AbstractContextManager[None]:
    """What is drawn inside is as if not drawn: torch's global generators, every device's, have their state back."""
    devices = range(torch.cuda.device_count())  # named, since fork_rng warns where it has to find several by itself
    return torch.random.fork_rng(devices)
