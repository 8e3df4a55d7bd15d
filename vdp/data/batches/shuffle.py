"""An endless sequence of shuffled epochs."""

import numpy as np
from numpy.typing import NDArray

STREAM = 2**16  # second word of the seeds of the orders, which no training step shares


class Shuffled:
    """Clip index at each position of an endless sequence of epochs; an epoch has every clip once.

    The order depends on the seed only, not on earlier reads. One epoch is in memory at a time, 4 bytes per
    clip (at most 2**32 - 1); pickling drops it.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self._seed = seed
        self._epoch = -1
        self._order: NDArray[np.uint32] = np.zeros(0, np.uint32)

    def __getitem__(self, position: int) -> int:
        """Return the clip, 0 .. count - 1, at a position >= 0."""
        epoch, place = divmod(position, self.count)
        if epoch != self._epoch:
            self._order = np.zeros(0, np.uint32)  # free the old order first
            order = np.arange(self.count, dtype=np.uint32)
            np.random.default_rng([self._seed, STREAM, epoch]).shuffle(order)
            self._order, self._epoch = order, epoch
        return int(self._order[place])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_epoch": -1, "_order": np.zeros(0, np.uint32)}
