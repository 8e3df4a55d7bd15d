import cv2
import numpy as np
import pytest

from vdp.core.optical_flow import fit_decay, flow_extrapolation
from vdp.evaluation.frame import frame_score
from vdp.evaluation.hops import ClipFrames, score_hops

SIDE = 12


def texture(rng: np.random.Generator, low: int, high: int, height: int, width: int) -> np.ndarray:
    """A smooth random picture."""
    coarse = rng.integers(low, high, (height // 4, width // 4, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def moving_square(frames: int, velocity: int, height: int = 48, width: int = 72) -> np.ndarray:
    """A textured square that moves to the right over a still ground, (T, H, W, 3)."""
    rng = np.random.default_rng(0)
    clip = np.repeat(texture(rng, 90, 120, height, width)[None], frames, axis=0)
    square = texture(rng, 150, 255, SIDE, SIDE)
    for number, frame in enumerate(clip):
        left = 6 + velocity * number
        frame[18 : 18 + SIDE, left : left + SIDE] = square
    return clip


def psnr(prediction: np.ndarray, truth: np.ndarray) -> float:
    return frame_score([(prediction[None], truth[None])]).psnr


def centre(frame: np.ndarray) -> np.ndarray:
    """Centroid of the bright pixels, (down, right)."""
    return np.argwhere(frame.mean(axis=2) > 140).mean(axis=0)


@pytest.mark.parametrize("velocity", [1, 2, 3])
def test_a_moving_square_is_moved_on(velocity):
    clip = moving_square(14, velocity)
    steps = [1, 4, 8]
    moved = flow_extrapolation(clip[:4], steps)
    for step, frame in zip(steps, moved, strict=True):
        truth = clip[3 + step]
        assert centre(frame) == pytest.approx(centre(truth), abs=1.0)
        assert psnr(frame, truth) > psnr(clip[3], truth) + 4


def test_a_decaying_velocity_covers_the_sum_of_its_steps():
    """2 pixels per frame at a decay of one half: 1, 1.5, 1.75 and, in the end, 2 pixels."""
    clip = moving_square(4, 2)
    start = centre(clip[-1])
    for step, way in ((1, 1.0), (2, 1.5), (3, 1.75), (30, 2.0)):
        moved = flow_extrapolation(clip, [step], decay=0.5)[0]
        assert centre(moved)[1] - start[1] == pytest.approx(way, abs=0.3)
    assert np.array_equal(flow_extrapolation(clip, [3], decay=0.0)[0], clip[-1])


def test_the_decay_is_that_of_the_motion_in_the_clips():
    goes_on, stops = moving_square(12, 2), moving_square(12, 2)
    stops[4:] = stops[3]
    assert fit_decay([goes_on, goes_on], 4) == 1.0
    assert fit_decay([stops, stops], 4) == 0.0
    for decay in (0.5, 0.8):
        slows = np.concatenate([goes_on[:4], flow_extrapolation(goes_on[:4], range(1, 9), decay)])
        assert fit_decay([slows], 4) == decay
    with pytest.raises(ValueError, match="expected some of more than 4 frames"):
        fit_decay([], 4)


def test_the_place_that_an_object_leaves_is_filled_from_its_surroundings():
    """After 8 steps of 3 pixels the square is gone from its old place: no ghost of it, and no black."""
    clip = moving_square(12, 3)
    old = flow_extrapolation(clip[:4], [8])[0][20:28, 17:25].astype(int)
    assert np.abs(old - clip[-1][20:28, 17:25]).max() < 20


def test_a_static_scene_is_unchanged():
    clip = moving_square(3, 0)
    assert np.array_equal(flow_extrapolation(clip, [1, 11]), clip[:2])


def test_a_pan_fills_the_border():
    rng = np.random.default_rng(1)
    wide = texture(rng, 60, 200, 48, 120)
    clip = np.stack([wide[:, 4 * n : 4 * n + 72] for n in range(8)])
    moved = flow_extrapolation(clip[:2], [1, 5])
    for frame, truth in zip(moved, clip[[2, 6]], strict=True):
        assert psnr(frame[:, :48], truth[:, :48]) > 28
        assert frame.min() > 30  # no black band


@pytest.mark.parametrize("size", [(8, 8), (8, 40), (9, 13)])
def test_the_smallest_frames_are_taken(size):
    clip = np.repeat(texture(np.random.default_rng(2), 0, 255, *size)[None], 2, axis=0)
    assert np.array_equal(flow_extrapolation(clip, [3])[0], clip[0])


def test_one_context_frame_is_copied_and_none_is_rejected():
    clip = moving_square(1, 1)
    assert np.array_equal(flow_extrapolation(clip, [1, 2]), clip[[0, 0]])
    with pytest.raises(ValueError, match="known: expected at least one frame"):
        flow_extrapolation(clip[:0], [1])


def test_a_scene_that_leaves_the_frame_is_no_black_frame():
    clip = np.stack(
        [texture(np.random.default_rng(3), 60, 200, 24, 120)[:, 6 * n : 6 * n + 40] for n in range(2)]
    )
    assert flow_extrapolation(clip, [100_000]).min() > 30


def test_the_number_of_threads_changes_nothing():
    clip = moving_square(4, 2, height=150, width=200)
    before = cv2.getNumThreads()
    try:
        results = []
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            results.append(flow_extrapolation(clip, [1, 6]))
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(*results)


def test_hops_are_scored_beside_copy_and_flow():
    clips, numbers = [moving_square(14, velocity) for velocity in (1, 2)], [6, 13]
    truth = [clip[[5, 12]] for clip in clips]
    scores = score_hops(
        (
            ClipFrames(clip[:4], [np.stack([true, true - np.uint8(5)]) for true in future], future)
            for clip, future in zip(clips, truth, strict=True)
        ),
        numbers,
    )
    assert list(scores) == numbers
    for number, target in zip(numbers, (0, 1), strict=True):
        hop = scores[number]
        # two samples, one perfect and one 5 levels off: the mean squared error is 12.5
        assert hop["predicted"].psnr == pytest.approx(10 * np.log10(255**2 / 12.5))
        copies = [(clip[3:4], future[target][None]) for clip, future in zip(clips, truth, strict=True)]
        assert hop["copy"] == frame_score(copies)
        moved = [
            (flow_extrapolation(clip[:4], [number - 4]), copy[1])
            for clip, copy in zip(clips, copies, strict=True)
        ]
        assert hop["flow"] == frame_score(moved)
        assert hop["flow"].psnr > hop["copy"].psnr
        assert set(hop) == {"predicted", "copy", "flow"}


def test_composed_frames_are_scored_where_given_and_no_clips_are_rejected():
    clip = moving_square(6, 1)
    scores = score_hops([ClipFrames(clip[:4], list(clip[4:, None]), clip[4:], composed=clip[4:])], [5, 6])
    assert scores[6]["composed"].psnr == 100
    with pytest.raises(ValueError, match="clips: expected at least one"):
        score_hops([], [5])
