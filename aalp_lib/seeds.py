"""Seeds for the parts of a run, derived from its one seed."""

import zlib

import numpy as np

from aalp_lib import _checks


def derive(seed: int, part: str, number: int = 0) -> int:
    """A 32-bit seed for one numbered part of a run, unrelated to those of other parts, numbers and seeds.

    32 bits, since torch's CPU generator drops all others. A negative seed raises InputError.

    Examples
    --------
    >>> derive(0, "step", 1) != derive(1, "step", 1) != derive(0, "step", 2)
    True
    """
    _checks.count("the seed", seed, least=0)
    return int(np.random.SeedSequence((seed, zlib.crc32(part.encode()), number)).generate_state(1)[0])
