"""Seeds that follow from several numbers."""

import numpy as np


def seed_of(*numbers: int) -> int:
    """A 32-bit seed from numbers of at least 0, such as a run's seed and the count of something in it.

    torch's generator on the CPU takes the low 32 bits of a seed and forgets the rest, so numbers may not simply be
    written side by side into 64.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
