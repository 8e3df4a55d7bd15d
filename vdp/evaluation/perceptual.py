"""LPIPS and the features of FVD by networks of the user's: TorchScript files, which need no code of theirs.

Shapes: N frames or videos, T frames, H x W pixels, F features.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vdp.core.errors import UserError, printable
from vdp.core.pixels import to_pixels

Frames = NDArray[np.uint8]

BATCH_FRAMES = 64  # frames of one call
VIDEO_SIDE = 224  # pixels; of the videos that the network of FVD takes
RETURN_FEATURES = "return_features"  # argument of common I3D files, which else return class scores


class Lpips:
    """Learned perceptual distance of frames (Zhang et al. 2018, arXiv:1801.03924); lower is nearer.

    The network takes two tensors (N, 3, H, W) in [-1, 1] and returns N distances, as the package lpips does.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self._network = _Network(path, "score.lpips_weights", device)

    def __call__(self, prediction: Frames, truth: Frames) -> NDArray[np.float64]:
        """Distances of frames (N, H, W, 3), (N,)."""
        parts = []
        for first in range(0, len(prediction), BATCH_FRAMES):
            part = slice(first, first + BATCH_FRAMES)
            x, y = (to_pixels(frames[part]) for frames in (prediction, truth))
            distances = self._network(x, y)
            if distances.numel() != len(x):
                raise self._network.error(
                    f"returned {tuple(distances.shape)} for {len(x)} frames; expected one distance per frame"
                )
            parts.append(distances.double().cpu().numpy().reshape(len(x)))
        return np.concatenate(parts)


class VideoFeatures:
    """Features of videos for FVD (Unterthiner et al. 2018, arXiv:1812.01717).

    The network takes (N, 3, T, 224, 224) in [-1, 1] and returns (N, F); it is called with
    `return_features=True` if it has this argument.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self._network = _Network(path, "score.fvd_weights", device)

    def __call__(self, videos: Frames) -> NDArray[np.float64]:
        """Features of videos (N, T, H, W, 3) of one length, (N, F)."""
        return np.concatenate([self._features(video) for video in videos])

    def _features(self, video: Frames) -> NDArray[np.float64]:
        size = (VIDEO_SIDE, VIDEO_SIDE)
        pixels = F.interpolate(to_pixels(video), size=size, mode="bilinear", align_corners=False)
        features = self._network(pixels.transpose(0, 1)[None])
        if features.ndim != 2 or len(features) != 1:
            raise self._network.error(
                f"returned {tuple(features.shape)} for one video; expected (1, features)"
            )
        return features.double().cpu().numpy()


class _Network:
    """A TorchScript file; its errors are the user's and name its key."""

    def __init__(self, path: Path, key: str, device: torch.device) -> None:
        self._where, self._device = f"{key}={path}", device
        if not path.is_file():
            raise self.error("no such file; expected a TorchScript file, or null")
        try:
            self._module = torch.jit.load(str(path), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise self.error(
                f"is no TorchScript file ({_first_line(error)}); write it by torch.jit.save"
            ) from None
        names = {argument.name for argument in self._module.forward.schema.arguments}
        self._options = {RETURN_FEATURES: True} if RETURN_FEATURES in names else {}

    def error(self, problem: str) -> UserError:
        return UserError(f"{self._where}: {problem}")

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> Tensor:
        try:
            result = self._module(*(x.to(self._device) for x in inputs), **self._options)
        except RuntimeError as error:
            shapes = " and ".join(str(tuple(x.shape)) for x in inputs)
            raise self.error(f"failed on {shapes}: {_first_line(error)}") from None
        if not isinstance(result, Tensor):
            raise self.error(f"returned {type(result).__name__}; expected a tensor")
        return result


def _first_line(error: Exception) -> str:
    """The last line of TorchScript's message is the cause, below its own traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = next(
        (line for line in reversed(lines) if line.startswith("RuntimeError")), lines[0] if lines else ""
    )
    return printable(cause)[:200]


def frechet_distance(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Frechet distance of normal distributions fitted to two sets of features, (N, F) and (M, F).

    |mx - my|^2 + tr(Cx) + tr(Cy) - 2 tr((Cx Cy)^(1/2)) (Dowson & Landau 1982). The eigenvalues of Cx Cy are
    the squared singular values of the product of the centred features: no root of a singular matrix.

    Raises:
        ValueError: if a set has fewer than two rows, which have no covariance.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"features: expected at least 2 videos in each set, got {len(x)} and {len(y)}")
    centred = [part - part.mean(axis=0) for part in (x, y)]
    left, right = (part / np.sqrt(len(part) - 1) for part in centred)
    cross = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    means = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    return float(max(means + np.square(left).sum() + np.square(right).sum() - 2 * cross, 0.0))
