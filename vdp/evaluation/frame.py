"""PSNR and SSIM of uint8 frames, as torchmetrics defines them, and LPIPS where its network is given.

torchmetrics itself is not imported: it takes longer to import than torch.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Frames = NDArray[np.uint8]
Distance = Callable[[Frames, Frames], NDArray[np.float64]]  # of pairs of N frames, (N,)

MAX_PSNR = 100.0  # dB, reported for equal frames in place of infinity
SSIM_SIGMA = 1.5  # standard deviation of the SSIM window; pixels
SSIM_RADIUS = 5  # the window has 11x11 pixels
SSIM_STABILITY = (0.01, 0.03)  # K1 and K2
LEVELS = 255.0  # range of the pixels


@dataclass(frozen=True)
class FrameScore:
    """PSNR in dB of the error pooled over all frames; SSIM and LPIPS averaged over frames."""

    psnr: float
    ssim: float
    lpips: float | None = None  # None without its network


class FrameTally:
    """Errors of frames against the truth, added batch by batch.

    PSNR is 10 log10(255^2 / mean squared error over all pixels of all frames), the pooling of torchmetrics:
    a mean of dB per frame would be infinite as soon as one frame is perfect.

    Args:
        lpips: `vdp.evaluation.perceptual.Lpips`, or None.
    """

    def __init__(self, lpips: Distance | None = None) -> None:
        self._distance = lpips
        self._squared = self._ssim = self._lpips = 0.0
        self._pixels = self._frames = 0

    def add(self, prediction: Frames, truth: Frames) -> None:
        """Add uint8 frames, both (N, H, W, 3), H and W at least 6.

        Raises:
            ValueError: if the shapes differ.
        """
        if prediction.shape != truth.shape:
            raise ValueError(
                f"prediction: expected the shape of truth, {truth.shape}, got {prediction.shape}"
            )
        x, y = _channels_first(prediction), _channels_first(truth)
        self._squared += float((x - y).double().square().sum())
        self._ssim += float(ssim(x, y).double().sum())
        if self._distance is not None:
            self._lpips += float(self._distance(prediction, truth).sum())
        self._pixels += x.numel()
        self._frames += len(x)

    def score(self) -> FrameScore:
        """Return the score of all frames so far.

        Raises:
            ValueError: if there are none.
        """
        if not self._frames:
            raise ValueError("frames: expected at least one to score, got none")
        error = self._squared / self._pixels
        psnr = 10 * float(np.log10(LEVELS**2 / error)) if error else MAX_PSNR
        lpips = None if self._distance is None else self._lpips / self._frames
        return FrameScore(psnr=min(psnr, MAX_PSNR), ssim=self._ssim / self._frames, lpips=lpips)


def frame_score(batches: Iterable[tuple[Frames, Frames]]) -> FrameScore:
    """Score pairs (prediction, truth) of uint8 frames, as `FrameTally` does.

    Raises:
        ValueError: if there are no frames, or the shapes of a pair differ.
    """
    tally = FrameTally()
    for prediction, truth in batches:
        tally.add(prediction, truth)
    return tally.score()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of images (N, C, H, W) with levels 0..255, H and W at least 6, to (N,).

    Wang et al., 2004, "Image Quality Assessment", eq. 13, with their Gaussian window; a mean over channels
    and all pixels, the images mirrored at their borders.
    """
    distance = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-(distance**2) / (2 * SSIM_SIGMA**2))
    weights = (weights / weights.sum()).expand(x.shape[1], 1, 1, -1)

    def average(image: Tensor) -> Tensor:
        padded = F.pad(image, [SSIM_RADIUS] * 4, mode="reflect")
        rows = F.conv2d(padded, weights, groups=image.shape[1])
        return F.conv2d(rows, weights.transpose(2, 3), groups=image.shape[1])

    c1, c2 = ((k * LEVELS) ** 2 for k in SSIM_STABILITY)
    mean_x, mean_y = average(x), average(y)
    variance = (average(x * x) - mean_x**2).clamp(min=0) + (average(y * y) - mean_y**2).clamp(min=0)
    covariance = average(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * (2 * covariance + c2) / (variance + c2)).mean((1, 2, 3))


def _channels_first(frames: Frames) -> Tensor:
    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float()
