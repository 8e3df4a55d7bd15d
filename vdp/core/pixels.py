"""Conversion of frames: uint8, channels last, on disk; [-1, 1], channels first, in networks."""

import numpy as np
import torch
from torch import Tensor


def to_pixels(frames: np.ndarray) -> Tensor:
    """Convert uint8 (..., H, W, 3) to float (..., 3, H, W) in [-1, 1]."""
    # copied: torch warns of, and may write through, a view of a read-only memory map
    return torch.from_numpy(np.array(frames)).movedim(-1, -3).float().div_(127.5).sub_(1)


def to_uint8(pixels: Tensor) -> np.ndarray:
    """Convert (..., 3, H, W) in [-1, 1] to uint8 (..., H, W, 3), clamped and rounded."""
    scaled = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.movedim(-3, -1).contiguous().cpu().numpy()
