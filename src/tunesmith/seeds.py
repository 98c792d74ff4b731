"""Seeds made of numbers, so that whatever is drawn at random depends on them and on nothing else."""

import numpy as np


def mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers, different for every different list."""
    state = np.random.SeedSequence([number & 0xFFFFFFFFFFFFFFFF for number in numbers])
    return int(state.generate_state(1, np.uint64)[0] >> np.uint64(1))
