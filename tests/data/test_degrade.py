"""Degradations of clips, and section `degrade`."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from vdp.config.messages import validate
from vdp.config.read import read_section
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.data.degrade import KINDS, Degradations, degrade, draw_degradation
from vdp.data.params import LIMITS, DegradeParams

REPO = Path(__file__).parents[2]
RISING = {  # strengths of each kind, from weak to strong
    "noise": [0.02, 0.1, 0.3],
    "low_light": [0.8, 0.5, 0.1],
    "blur": [0.5, 1.5, 4.0],
    "compression": [90, 30, 5],
    "dropped": [0.1, 0.4, 0.8],
}
OFF = {"noise": None, "low_light": None, "blur": None, "compression": None, "dropped": None}


def moving_clip(frames: int = 12, height: int = 32, width: int = 48) -> np.ndarray:
    """A bright square that moves steadily over a soft gradient."""
    clip = np.empty((frames, height, width, 3), np.uint8)
    clip[:] = (40 + np.add.outer(np.arange(height), np.arange(width)))[..., None] + [0, 20, 40]
    for t in range(frames):
        clip[t, 8:20, 2 + 2 * t : 14 + 2 * t] = (220, 60, 30)
    return clip


def degraded(kind: str, strength: float, seed: int = 0, frames: np.ndarray | None = None) -> np.ndarray:
    clip = moving_clip() if frames is None else frames
    return degrade(clip, kind, strength, np.random.default_rng(seed))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(one.astype(float) - other).mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_degradation_is_a_pure_function_of_frames_strength_and_seed(kind):
    clip, strength = moving_clip(), RISING[kind][1]
    clip.flags.writeable = False  # as of a memory map
    before = clip.copy()
    result = degraded(kind, strength, 3, clip)
    assert (result.shape, result.dtype) == (clip.shape, np.uint8)
    assert np.array_equal(clip, before) and not np.shares_memory(result, clip)
    assert np.array_equal(result, degraded(kind, strength, 3, clip))
    assert np.array_equal(result, degraded(kind, strength, 4, clip)) == (kind in ("blur", "compression"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stronger_degradation_has_a_lower_psnr(kind):
    clip = moving_clip()
    left = [psnr(degraded(kind, strength), clip) for strength in RISING[kind]]
    assert left == sorted(left, reverse=True) and left[0] > left[-1] + 3


def test_noise_has_the_given_standard_deviation_and_no_bias():
    gray = np.full((4, 64, 64, 3), 128, np.uint8)
    error = degraded("noise", 0.1, frames=gray).astype(float) - 128
    assert error.std() == pytest.approx(25.5, rel=0.01)
    assert abs(error.mean()) < 0.5
    assert degraded("noise", 0.1, frames=np.full((1, 64, 64, 3), 255, np.uint8)).min() > 100


def test_low_light_keeps_its_share_of_the_brightness_in_few_noisy_levels():
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, None, :, None], (2, 64, 1, 3))
    dark = degraded("low_light", 0.1, frames=ramp)
    assert dark[:, :, 50:].mean() == pytest.approx(0.1 * ramp[:, :, 50:].mean(), rel=0.02)
    assert len(np.unique(dark)) < 45
    assert dark[:, :, 250].std() > dark[:, :, 60].std() > 0.5


def test_blur_spreads_a_line_by_its_standard_deviation_in_pixels():
    line = np.zeros((1, 9, 41, 3), np.uint8)
    line[:, :, 20] = 255
    across = degraded("blur", 2.0, frames=line)[0, 4, :, 0].astype(float)
    variance = (across * (np.arange(41) - 20.0) ** 2).sum() / across.sum()
    assert np.sqrt(variance) == pytest.approx(2.0, rel=0.05)
    flat = np.full((2, 8, 8, 3), 77, np.uint8)
    assert np.array_equal(degraded("blur", 3.0, frames=flat), flat)


def test_compression_is_that_of_a_jpeg_file():
    clip = moving_clip(2)
    result = degraded("compression", 20, frames=clip)
    bgr = cv2.cvtColor(clip[1], cv2.COLOR_RGB2BGR)
    file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 20])[1]
    assert np.array_equal(result[1], cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))
    assert psnr(degraded("compression", 100, frames=clip), clip) > 30


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_lost_frame_repeats_the_last_kept_one(share):
    clip = moving_clip()
    for seed in range(5):
        result = degraded("dropped", share, seed)
        assert np.array_equal(result[0], clip[0])
        lost = [t for t in range(12) if not np.array_equal(result[t], clip[t])]
        assert len(lost) == min(round(12 * share), 11)
        for t in lost:
            assert np.array_equal(result[t], result[t - 1])


def test_zero_strength_gives_equal_new_frames():
    clip = moving_clip()
    for kind in ("noise", "blur", "dropped"):
        result = degraded(kind, 0.0, frames=clip)
        assert np.array_equal(result, clip) and not np.shares_memory(result, clip)
    one = moving_clip(1)
    assert np.array_equal(degraded("dropped", 1.0, frames=one), one)


@pytest.mark.parametrize(
    ("frames", "kind", "strength", "message"),
    [
        (moving_clip(), "fog", 0.1, "kind='fog': expected one of noise, low_light, blur,"),
        (moving_clip(), "noise", 1.5, "strength=1.5 of noise: expected 0..1"),
        (moving_clip(), "low_light", 0.0, "strength=0.0 of low_light: expected 0.01..1"),
        (moving_clip(), "compression", float("nan"), "strength=nan of compression: expected 1..100"),
        (moving_clip() / 255, "blur", 1.0, "expected uint8 (T, H, W, 3), got float64 (12, 32, 48, 3)"),
        (moving_clip()[0], "blur", 1.0, "expected uint8 (T, H, W, 3), got uint8 (32, 48, 3)"),
        (moving_clip()[:0], "dropped", 0.5, "expected uint8 (T, H, W, 3), got uint8 (0, 32, 48, 3)"),
    ],
)
def test_invalid_arguments_are_named(frames, kind, strength, message):
    with pytest.raises(ValueError) as caught:
        degrade(frames, kind, strength, np.random.default_rng(0))
    assert message in str(caught.value)


def test_kinds_and_strengths_are_drawn_uniformly():
    params = validate(DegradeParams, OFF | {"noise": [0.1, 0.3], "dropped": [0.5, 0.5]}, "degrade")
    rng = np.random.default_rng(0)
    drawn = [draw_degradation(params, rng) for _ in range(1000)]
    noise = [strength for kind, strength in drawn if kind == "noise"]
    assert 430 < len(noise) < 570
    assert 0.1 <= min(noise) < 0.11 and 0.29 < max(noise) <= 0.3
    assert {entry for entry in drawn if entry[0] != "noise"} == {("dropped", 0.5)}


def test_degradations_depend_on_seed_split_clip_and_number_alone():
    params, clip = validate(DegradeParams, OFF | {"noise": [0.1, 0.3]}, "degrade"), moving_clip(2)
    degradations = Degradations(params, 0, "train")
    first = degradations(clip, 5, 1)
    degradations(clip, 6, 0)
    assert np.array_equal(Degradations(params, 0, "train")(clip, 5, 1), first)
    others = [Degradations(params, 1, "train")(clip, 5, 1), Degradations(params, 0, "val")(clip, 5, 1)]
    for other in [*others, degradations(clip, 4, 1), degradations(clip, 5, 0)]:
        assert not np.array_equal(other, first)


def test_the_default_params_have_every_kind_on(monkeypatch):
    monkeypatch.chdir(REPO)
    assert tuple(read_section(DegradeParams, "degrade").ranges) == KINDS == tuple(LIMITS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": [0.3, 0.1]}, "degrade.noise=[0.3, 0.1]: expected two values in order"),
        ({"compression": [0, 30]}, "degrade.compression=[0, 30]: expected two values in"),
        ({"blur": [1, 65]}, "0 <= low <= high <= 64"),
        ({"dropped": 0.1}, "degrade.dropped=0.1: expected a list of 2, each a number or null"),
        (OFF, "degrade: every kind is off; give one of noise, low_light, blur, compression, dropped"),
    ],
)
def test_an_invalid_range_is_named(changes, message):
    with pytest.raises(UserError) as caught:
        validate(DegradeParams, read_file(REPO / "params.yaml")["degrade"] | changes, "degrade")
    assert message in str(caught.value) and "\n" not in str(caught.value)
