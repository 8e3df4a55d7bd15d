"""Features of an object in a frame, and their latents: clips of objects in place of pixels.

Latents of objects have the axes of other latents, (B, C, T, 1, N): the features of `FEATURES` and, constant
in time, one channel per shape and material of the object's class. Lengths are in frame heights, so that they
do not depend on the resolution; the origin is the frame's centre.
"""

import numpy as np
from numpy.typing import NDArray

from vdp.core.classes import MATERIALS, SHAPES

Labels = NDArray[np.uint8]  # object numbers of pixels, 1..N; 0 is the background
States = NDArray[np.float32]  # (..., F)

X, Y, SEEN, WIDTH, HEIGHT, CUT, AREA = range(7)
FEATURES = ("x", "y", "seen", "width", "height", "cut", "area")
CHANNELS = len(FEATURES) + len(SHAPES) + len(MATERIALS)
DIFFUSED = 3  # channels of the motion that is diffused: x, y and visibility
