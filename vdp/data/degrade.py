"""Made degradations of clips: what a network that restores videos sees. Pure functions of frames and batch_rng.

Shapes: T frames of H x W pixels, uint8 RGB.
"""

import zlib
from collections.abc import Callable

import cv2
import numpy as np

from vdp.data.params import LIMITS, DegradeParams
from vdp.data.stores.clips import Pixels

KINDS = ("noise", "low_light", "blur", "compression", "dropped")

SHOT_NOISE = (
    0.5  # of low light: standard deviation of a pixel's noise per root of its brightness left, in levels
)
READ_NOISE = 1.0  # of low light: standard deviation of the noise of reading a pixel out, in levels


def degrade(frames: Pixels, kind: str, strength: float, rng: np.random.Generator) -> Pixels:
    """Degraded frames; those given stay as they are.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        kind: one of `KINDS`.
        strength: of noise the standard deviation, as a share of the full range of brightness, 0..1; of
            low_light the share of the brightness that is left, 0.01..1, with the noise of a sensor and whole
            levels, so that what is dark is lost; of blur the standard deviation of a Gaussian in pixels,
            0..64; of compression the quality of JPEG, 1 (worst)..100; of dropped the share of the frames that
            are lost, 0..1: never the first one, and each shows the last one before it that was not.
        rng: what is random is drawn from it; for one seed a stronger degradation differs in strength alone.

    Returns:
        New frames, of the shape and type of `frames`.

    Raises:
        ValueError: for another kind, a strength out of range, or frames of another shape or type.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
    least, most = LIMITS[kind]
    if not least <= strength <= most:
        raise ValueError(f"strength={strength} of {kind}: expected {least:g}..{most:g}")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(f"frames: expected uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    return _DEGRADE[kind](frames, float(strength), rng)


def draw(params: DegradeParams, rng: np.random.Generator) -> tuple[str, float]:
    """A kind, each that is on as likely as another, and a strength, evenly from its range."""
    kind = list(params.ranges)[int(rng.integers(len(params.ranges)))]
    return kind, float(rng.uniform(*params.ranges[kind]))


class Degradations:
    """The made degradations of a split's clips.

    What one looks like depends on the seed, the split's name, the clip's index and its own number alone.
    """

    def __init__(self, params: DegradeParams, seed: int, split: str) -> None:
        self.params = params
        # a word beside the split's name, for random views have the same seed, split and clip
        self._seed = [seed, zlib.crc32(f"degrade {split}".encode())]

    def __call__(self, frames: Pixels, clip: int, number: int) -> Pixels:
        """Degradation `number` of frames (T, H, W, 3) of clip `clip`."""
        rng = np.random.default_rng([*self._seed, clip, number])
        return degrade(frames, *draw(self.params, rng), rng)


def _noise(frames: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    return _levels(frames + 255 * strength * rng.standard_normal(frames.shape, np.float32))


def _low_light(frames: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Light that is left comes in photons, whose count varies as its root; a sensor adds noise of its own."""
    left = frames * np.float32(strength)
    spread = np.sqrt(SHOT_NOISE**2 * left + READ_NOISE**2)
    return _levels(left + spread * rng.standard_normal(frames.shape, np.float32))


def _blur(frames: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    if strength == 0:  # OpenCV would take its own choice
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


def _levels(values: np.ndarray) -> Pixels:
    """Whole levels of brightness, as a sensor gives them."""
    return values.round().clip(0, 255).astype(np.uint8)


_DEGRADE: dict[str, Callable[[Pixels, float, np.random.Generator], Pixels]] = {
    "noise": _noise,
    "low_light": _low_light,
    "blur": _blur,
    "compression": _compression,
    "dropped": _dropped,
}
