import numpy as np
import pytest
import torch

from vdp.core.errors import UserError
from vdp.evaluation.perceptual import Lpips, VideoFeatures, frechet_distance

CPU = torch.device("cpu")


class TwoPerFrame(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, y]).mean(dim=[1, 2, 3])


class FirstPixel(torch.nn.Module):
    """Features: the red channel of the first pixel of each frame; takes no options."""

    def forward(self, videos: torch.Tensor) -> torch.Tensor:
        return videos[:, 0, :, 0, 0]


class NoBatch(torch.nn.Module):
    def forward(self, videos: torch.Tensor) -> torch.Tensor:
        return videos.mean()


def saved(tmp_path, module: torch.nn.Module):
    path = tmp_path / "network.pt"
    torch.jit.save(torch.jit.script(module), path)
    return path


def test_the_frechet_distance_of_shifted_and_scaled_normal_samples_is_known():
    """Means d apart: |d|^2; the same samples scaled by s about their mean: (s - 1)^2 tr C."""
    x = np.random.default_rng(0).normal(size=(500, 6))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + np.arange(6)) == pytest.approx(np.square(np.arange(6)).sum())
    mean = x.mean(axis=0)
    trace = np.trace(np.cov(x, rowvar=False))
    assert frechet_distance(x, mean + 3 * (x - mean)) == pytest.approx(4 * trace)


def test_the_frechet_distance_equals_that_by_the_root_of_the_covariances():
    """Also with fewer videos than features, whose covariance is singular."""
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    for count in (40, 4):
        x, y = rng.normal(size=(count, 8)), rng.normal(1.0, 2.0, size=(count + 3, 8))
        cx, cy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
        root = sqrtm((cx @ cy).astype(complex)).real
        means = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
        assert frechet_distance(x, y) == pytest.approx(means + np.trace(cx + cy - 2 * root), rel=1e-4)


def test_one_video_has_no_covariance():
    with pytest.raises(ValueError, match="expected at least 2 videos"):
        frechet_distance(np.zeros((1, 3)), np.zeros((4, 3)))


def test_video_features_are_of_every_frame_in_order(tmp_path):
    videos = np.zeros((2, 3, 8, 8, 3), np.uint8)
    videos[1, 2] = 255
    features = VideoFeatures(saved(tmp_path, FirstPixel()), CPU)(videos)
    np.testing.assert_array_equal(features, [[-1, -1, -1], [-1, -1, 1]])


def test_networks_of_the_wrong_kind_are_rejected_by_their_key(tmp_path):
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(UserError, match=r"score.lpips_weights=.*returned \(4,\) for 2 frames"):
        Lpips(saved(tmp_path, TwoPerFrame()), CPU)(frames, frames)
    with pytest.raises(UserError, match=r"score.fvd_weights=.*returned \(\) for one video"):
        VideoFeatures(saved(tmp_path, NoBatch()), CPU)(frames[None])
