"""The camera: one fixed view, the same at every image size.

Fitted to the real clips: the size of spheres against their height in the image gives the horizon, the lean of
upright cylinders the vanishing point below, and both together the tilt and the focal length.

World units: floor at z = 0, the half width of an object is `RADIUS`.
Image coordinates: u, v in [0, 1] from the left and from the top.
"""

import math

import numpy as np
from numpy.typing import NDArray

RADIUS = 0.2  # half width of every object
ASPECT = 1.5  # width over height
FOCAL_LENGTH = 1.125  # focal length in image widths
TILT = math.radians(30.0)  # below the horizontal
DISTANCE = 4.95  # from the camera to the floor point at the image centre

EYE_POINT: NDArray[np.float64] = DISTANCE * np.array([0.0, -math.cos(TILT), math.sin(TILT)])
# rows: right, up, forward
BASIS: NDArray[np.float64] = np.array(
    [[1.0, 0.0, 0.0], [0.0, math.sin(TILT), math.cos(TILT)], [0.0, math.cos(TILT), -math.sin(TILT)]]
)


def floor_point(u: float, v: float) -> NDArray[np.float64]:
    """Return the floor position (x, y) at image coordinates (u, v), which may lie outside the image.

    Raises:
        ValueError: if the point lies at or above the horizon.
    """
    ray = BASIS.T @ np.array([(u - 0.5) / FOCAL_LENGTH, (0.5 - v) / (FOCAL_LENGTH * ASPECT), 1.0])
    if ray[2] >= 0:
        raise ValueError(f"image point (u, v) = {(u, v)} is above the horizon; expected a larger v")
    return (EYE_POINT - ray * (EYE_POINT[2] / ray[2]))[:2]


def image_point(position: NDArray[np.float64]) -> tuple[float, float]:
    """Return the image coordinates (u, v) of a world point (x, y, z) in front of the camera."""
    right, up, forward = BASIS @ (position - EYE_POINT)
    return float(0.5 + FOCAL_LENGTH * right / forward), float(0.5 - FOCAL_LENGTH * ASPECT * up / forward)
