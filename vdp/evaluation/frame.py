"""PSNR and SSIM of uint8 frames, by torchmetrics."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

Frames = NDArray[np.uint8]

PSNR_OF_EQUALS = 100.0  # dB; the true value is infinite and no number in a table


@dataclass(frozen=True)
class FrameScore:
    """PSNR in dB of the error pooled over all frames, and SSIM as the mean over frames."""

    psnr: float
    ssim: float


def frame_score(batches: Iterable[tuple[Frames, Frames]]) -> FrameScore:
    """Score frames against the truth, batch by batch.

    PSNR is 10 log10(255^2 / mean squared error over all pixels of all frames), as torchmetrics pools it: a
    mean of each frame's own dB would be infinite as soon as one frame is perfect (a clip at rest, copied).

    Args:
        batches: pairs (prediction, truth) of uint8 frames, both (N, H, W, 3), H and W at least 6.

    Raises:
        ValueError: if there are no frames, or the shapes of a pair differ.
    """
    squared = ssim = 0.0
    pixels = frames = 0
    for prediction, truth in batches:
        if prediction.shape != truth.shape:
            raise ValueError(
                f"prediction: expected the shape of truth, {truth.shape}, got {prediction.shape}"
            )
        x, y = _channels_first(prediction), _channels_first(truth)
        squared += float((x - y).double().square().sum())
        each = structural_similarity_index_measure(x, y, data_range=255.0, reduction="none")
        ssim += float(torch.as_tensor(each).double().sum())
        pixels += x.numel()
        frames += len(x)
    if not frames:
        raise ValueError("frames: expected at least one to score, got none")
    error = squared / pixels
    psnr = 10 * float(np.log10(255.0**2 / error)) if error else PSNR_OF_EQUALS
    return FrameScore(psnr=min(psnr, PSNR_OF_EQUALS), ssim=ssim / frames)


def _channels_first(frames: Frames) -> Tensor:
    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float()
