"""PSNR and SSIM of uint8 frames, as torchmetrics defines them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

Frames = NDArray[np.uint8]

MAX_PSNR = 100.0  # dB, reported for equal frames in place of infinity


@dataclass(frozen=True)
class FrameScore:
    """PSNR in dB of the error pooled over all frames, and SSIM averaged over frames."""

    psnr: float
    ssim: float


class FrameTally:
    """Errors of frames against the truth, added batch by batch.

    PSNR is 10 log10(255^2 / mean squared error over all pixels of all frames), the pooling of torchmetrics:
    a mean of dB per frame would be infinite as soon as one frame is perfect.
    """

    def __init__(self) -> None:
        self._squared = self._ssim = 0.0
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
        each = structural_similarity_index_measure(x, y, data_range=255.0, reduction="none")
        self._ssim += float(torch.as_tensor(each).double().sum())
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
        psnr = 10 * float(np.log10(255.0**2 / error)) if error else MAX_PSNR
        return FrameScore(psnr=min(psnr, MAX_PSNR), ssim=self._ssim / self._frames)


def frame_score(batches: Iterable[tuple[Frames, Frames]]) -> FrameScore:
    """Score pairs (prediction, truth) of uint8 frames, as `FrameTally` does.

    Raises:
        ValueError: if there are no frames, or the shapes of a pair differ.
    """
    tally = FrameTally()
    for prediction, truth in batches:
        tally.add(prediction, truth)
    return tally.score()


def _channels_first(frames: Frames) -> Tensor:
    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float()
