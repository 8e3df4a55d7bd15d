"""Appearance of the floor, the lamps and the 8 colours, fitted to the real clips, in linear RGB.

The empty floor is a Legendre series in image coordinates, which includes the camera's vignetting.
"""

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from vdp.core.classes import COLORS

# 1e4 times the coefficient of P_row(2v - 1) P_column(2u - 1), one table per channel R, G, B
FLOOR_SERIES: NDArray[np.float64] = 1e-4 * np.array(
    [
        [
            [2350, -109, -108, 8, -43, 19, 4],
            [213, 8, -6, -22, 83, -42, 0],
            [-69, -288, 51, 99, -75, 0, 0],
            [85, 50, 5, -81, 0, 0, 0],
            [-52, 101, -45, 0, 0, 0, 0],
            [30, -107, 0, 0, 0, 0, 0],
            [-19, 0, 0, 0, 0, 0, 0],
        ],
        [
            [2331, -110, -103, 9, -46, 20, 4],
            [171, 42, -9, -30, 90, -45, 0],
            [-67, -295, 52, 105, -81, 0, 0],
            [88, 47, 6, -84, 0, 0, 0],
            [-56, 108, -49, 0, 0, 0, 0],
            [34, -113, 0, 0, 0, 0, 0],
            [-21, 0, 0, 0, 0, 0, 0],
        ],
        [
            [2318, -132, -92, 17, -55, 24, 5],
            [79, 130, -21, -54, 111, -52, 0],
            [-56, -321, 56, 124, -100, 0, 0],
            [96, 39, 13, -95, 0, 0, 0],
            [-69, 130, -62, 0, 0, 0, 0],
            [45, -135, 0, 0, 0, 0, 0],
            [-28, 0, 0, 0, 0, 0, 0],
        ],
    ]
)

# per lamp: x, y, z, half width; share of the floor's light; strength on rubber; brightness and power of the
# cosine of its highlight on metal
LAMPS: NDArray[np.float64] = np.array(
    [
        [-2.0, -4.2, 4.8, 0.5, 0.20, 0.50, 2.6, 36],
        [4.2, 1.7, 6.5, 0.35, 0.12, 0.16, 0.8, 60],
        [-3.0, 4.0, 2.8, 0.30, 0.05, 0.10, 0.25, 3],
    ]
)

# reflectance of rubber: medians over the real clips' masks
_RUBBER = {
    "gray": (0.100, 0.098, 0.091),
    "red": (0.185, 0.037, 0.036),
    "blue": (0.045, 0.078, 0.218),
    "green": (0.034, 0.114, 0.023),
    "brown": (0.147, 0.083, 0.028),
    "cyan": (0.042, 0.206, 0.202),
    "purple": (0.130, 0.040, 0.187),
    "yellow": (0.252, 0.236, 0.051),
}
_METAL_GAIN = 3.3  # reflectance of metal over that of rubber
_COLORS = np.array([_RUBBER[color] for color in COLORS])
TINTS: NDArray[np.float64] = np.stack([_METAL_GAIN * _COLORS, _COLORS])  # (material, colour, RGB)


def floor_light(height: int, width: int) -> NDArray[np.float64]:
    """Return the empty scene, (height, width, 3), linear RGB."""
    v = (np.arange(height) + 0.5) / height * 2 - 1
    u = (np.arange(width) + 0.5) / width * 2 - 1
    rows, columns = legendre.legvander(v, 6), legendre.legvander(u, 6)
    return np.einsum("vi,uj,cij->vuc", rows, columns, FLOOR_SERIES)


def to_bytes(light: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Convert linear RGB to sRGB bytes."""
    clipped = np.clip(light, 0, 1)
    curve = np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)
    return (curve * 255 + 0.5).astype(np.uint8)
