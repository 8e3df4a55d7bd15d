"""Which frames of a clip, or clips of a set, pictures show."""

import numpy as np


def spread(count: int, most: int) -> list[int]:
    """Places among `count` that are evenly spread; the last one and, of several, the first are among them."""
    return [round(place) for place in np.linspace(count - 1, 0, min(count, most))][::-1]
