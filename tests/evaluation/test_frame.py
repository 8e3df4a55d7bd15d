import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vdp.evaluation.frame import MAX_PSNR, frame_score


def random_frames(seed: int, count: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)


def test_psnr_of_a_constant_error_is_known():
    """An error of 5 levels everywhere: 20 log10(255 / 5)."""
    truth = np.full((2, 16, 24, 3), 100, np.uint8)
    assert frame_score([(truth + np.uint8(5), truth)]).psnr == pytest.approx(20 * math.log10(255 / 5))


def mirrored_ssim(prediction: np.ndarray, truth: np.ndarray) -> float:
    """SSIM of a frame, averaged over all its pixels; scikit-image by itself leaves out the border."""
    x, y = (np.pad(frame, ((5, 5), (5, 5), (0, 0)), mode="reflect") for frame in (prediction, truth))
    _, each = structural_similarity(
        x, y, data_range=255, channel_axis=2, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    return float(each[5:-5, 5:-5].mean())


def test_scores_equal_those_of_scikit_image_for_any_batches():
    truth = random_frames(0)
    noise = np.random.default_rng(1).normal(0, 20, truth.shape) * np.arange(1, 5)[:, None, None, None]
    prediction = np.clip(truth + noise, 0, 255).astype(np.uint8)
    psnr = peak_signal_noise_ratio(truth, prediction, data_range=255)
    ssim = np.mean([mirrored_ssim(x, y) for x, y in zip(prediction, truth, strict=True)])
    for batches in ([(prediction, truth)], [(prediction[:1], truth[:1]), (prediction[1:], truth[1:])]):
        score = frame_score(batches)
        assert score.psnr == pytest.approx(psnr, rel=1e-5)
        assert score.ssim == pytest.approx(ssim, rel=1e-5)


def test_equal_frames_have_a_finite_score():
    frames = random_frames(2)
    score = frame_score([(frames, frames)])
    assert score.psnr == MAX_PSNR
    assert score.ssim == pytest.approx(1)


def test_frames_of_different_shapes_and_no_frames_are_rejected():
    with pytest.raises(ValueError, match="prediction: expected the shape of truth"):
        frame_score([(random_frames(0, 2), random_frames(0, 3))])
    with pytest.raises(ValueError, match="frames: expected at least one"):
        frame_score([])
