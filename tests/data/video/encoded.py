"""Draw frames and encode them with PyAV, in any container and codec."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

CFR = None  # times of a constant rate
FINE = {"qmin": "2", "qmax": "2"}  # options of MPEG-4 and its relatives: the finest quantiser


def drawn(k: int, height: int = 64, width: int = 96) -> np.ndarray:
    """A blue square that stays, a red one that moves right by 2 pixels a frame, on a smooth gray ramp."""
    ramp = 90 + np.add.outer(np.arange(height), np.arange(width)) * 60 // (height + width)
    frame = np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)
    frame[2:14, 2:14] = (40, 60, 210)
    frame[32:48, 2 * k : 2 * k + 16] = (200, 60, 50)
    return frame


def encode(
    path: Path,
    frames: Iterable[np.ndarray],
    codec: str = "mpeg4",
    rate: Fraction | float = 25,
    times: Sequence[int] | None = CFR,
    time_base: Fraction | None = None,
    pix_fmt: str | None = None,
    options: dict[str, str] | None = None,
    muxer: str | None = None,
    aspect: Fraction | None = None,
    rotation: tuple[int, bool] | None = None,
    space: Colorspace | None = None,
    full_range: bool = False,
) -> Path:
    """Encode frames (H, W, 3) or gray (H, W) uint8; return the path.

    `times` are in units of `time_base`, one per frame. `rotation` is in degrees, counterclockwise, and
    whether the picture is mirrored. `space` and `full_range` are written and tagged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(rate).limit_denominator(1001)
    with av.open(str(path.absolute()), "w", format=muxer) as container:
        stream = container.add_stream(codec, rate, options=options or {})
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, "rgb24" if frame.ndim == 3 else "gray")
            if not number:
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = pix_fmt or "yuv420p"
                stream.codec_context.thread_count = 1
                if aspect:
                    stream.codec_context.sample_aspect_ratio = aspect
                if time_base:
                    stream.time_base = stream.codec_context.time_base = time_base
                if rotation:
                    stream.set_display_rotation(rotation[0], hflip=rotation[1])
                if space is not None:
                    stream.codec_context.colorspace = space
                if full_range:
                    stream.codec_context.color_range = ColorRange.JPEG
            if frame.ndim == 3:
                picture = picture.reformat(
                    format=stream.pix_fmt,
                    dst_colorspace=space,
                    dst_color_range=ColorRange.JPEG if full_range else None,
                )
            picture.pts = number if times is None else times[number]
            if time_base:
                picture.time_base = time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def psnr(frame: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((frame.astype(float) - other) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
