"""Synthetic degradations of clips, the inputs of restoration: functions of frames and random numbers.

Shapes: T frames of H x W pixels, uint8 RGB.
"""

import zlib
from collections.abc import Callable

import cv2
import numpy as np

from vdp.data.params import LIMITS, DegradeParams
from vdp.data.stores.clips import Pixels

KINDS = ("noise", "low_light", "blur", "compression", "dropped")

SHOT_NOISE = 0.5  # low_light: standard deviation per square root of the remaining brightness, in levels
READ_NOISE = 1.0  # low_light: standard deviation of the sensor's readout noise, in levels


def degrade(frames: Pixels, kind: str, strength: float, rng: np.random.Generator) -> Pixels:
    """Degrade frames; the input is not changed.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        kind: one of `KINDS`.
        strength: depends on the kind.
            noise: standard deviation, a share of the full range of brightness, 0..1.
            low_light: remaining share of the brightness, 0.01..1, with sensor noise and quantisation.
            blur: standard deviation of a Gaussian in pixels, 0..64.
            compression: JPEG quality, 1 (worst)..100.
            dropped: share of lost frames, 0..1, which repeat the last kept one; the first is kept.
        rng: random numbers; with equal seeds, degradations differ in strength only.

    Raises:
        ValueError: for an unknown kind, a strength out of range, or frames of another shape or type.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
    low, high = LIMITS[kind]
    if not low <= strength <= high:
        raise ValueError(f"strength={strength} of {kind}: expected {low:g}..{high:g}")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(f"frames: expected uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    return _DEGRADE[kind](frames, float(strength), rng)


def draw_degradation(params: DegradeParams, rng: np.random.Generator) -> tuple[str, float]:
    """Draw a kind uniformly among those that are on, and a strength uniformly from its range."""
    kind = list(params.ranges)[int(rng.integers(len(params.ranges)))]
    return kind, float(rng.uniform(*params.ranges[kind]))


class Degradations:
    """Random degradations of a split's clips.

    One depends on the seed, the split's name, the clip's index and its number only.
    """

    def __init__(self, params: DegradeParams, seed: int, split: str) -> None:
        self.params = params
        # the prefix: random views of `vdp.data.augment` have the same seed, split and clip
        self._seed = [seed, zlib.crc32(f"degrade {split}".encode())]

    def __call__(self, frames: Pixels, clip: int, number: int) -> Pixels:
        """Return degradation `number` of the frames (T, H, W, 3) of clip `clip`."""
        rng = np.random.default_rng([*self._seed, clip, number])
        return degrade(frames, *draw_degradation(self.params, rng), rng)


def _noise(frames: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    return _quantise(frames + 255 * strength * rng.standard_normal(frames.shape, np.float32))


def _low_light(frames: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Darken, then add shot noise, which grows with the root of the brightness, and readout noise."""
    left = frames * np.float32(strength)
    spread = np.sqrt(SHOT_NOISE**2 * left + READ_NOISE**2)
    return _quantise(left + spread * rng.standard_normal(frames.shape, np.float32))


def _blur(frames: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    if strength == 0:  # OpenCV would choose a default
        return frames.copy()
    blurred = [cv2.GaussianBlur(frame, (0, 0), strength, borderType=cv2.BORDER_REPLICATE) for frame in frames]
    return np.stack(blurred).astype(np.uint8, copy=False)


def _compression(frames: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    return np.stack([_jpeg(frame, round(strength)) for frame in frames])


def _jpeg(frame: Pixels, quality: int) -> Pixels:
    blue_first = np.ascontiguousarray(frame[..., ::-1])
    written, data = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:  # sides of more than 65,500 pixels
        raise ValueError(f"frames of {frame.shape[1]}x{frame.shape[0]} are too large for JPEG")
    read = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    assert read is not None, "it was just written"
    return read.astype(np.uint8, copy=False)


def _dropped(frames: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    last = len(frames) - 1
    lost = 1 + rng.permutation(last)[: min(round(strength * len(frames)), last)]
    shown = np.arange(len(frames))
    shown[lost] = 0
    return frames[np.maximum.accumulate(shown)]


def _quantise(values: np.ndarray) -> Pixels:
    return values.round().clip(0, 255).astype(np.uint8)


_DEGRADE: dict[str, Callable[[Pixels, float, np.random.Generator], Pixels]] = {
    "noise": _noise,
    "low_light": _low_light,
    "blur": _blur,
    "compression": _compression,
    "dropped": _dropped,
}
