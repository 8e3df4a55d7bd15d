import numpy as np
import pytest

from vdp.data.video.detail import NEIGHBOURHOOD, RESTORED_SCALE, SAME_SCALE, keep_detail, transfer_detail


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 190, (count, 12, 16, 3), dtype=np.uint8)


def test_an_unchanged_frame_becomes_the_context_frame():
    context, decoded = pictures(1, 0), pictures(1, 1)
    predicted = np.repeat(decoded, 3, axis=0)
    assert (transfer_detail(predicted, context, decoded, np.ones((3, 1))) == context).all()


def test_only_unchanged_regions_get_detail():
    context, decoded = pictures(1, 0), pictures(1, 1)
    predicted = decoded.copy()
    predicted[:, :, 8:] = 255
    result = transfer_detail(predicted, context, decoded, np.ones((1, 1)))
    assert (result[:, :, :8] == context[:, :, :8]).all() and (result[:, :, 8:] == 255).all()


@pytest.mark.parametrize("change", [0, 4, 8, 16, 60])
def test_detail_decreases_with_the_difference(change):
    decoded = pictures(1, 1)
    result = transfer_detail(decoded + np.uint8(change), decoded + np.uint8(30), decoded, np.ones((1, 1)))
    assert (result.astype(int) - decoded - change == round(30 * np.exp(-((change / SAME_SCALE) ** 2)))).all()


def test_context_frames_count_by_their_weight():
    decoded = np.repeat(pictures(1, 1), 2, axis=0)
    context = decoded + np.array([4, 20], np.uint8)[:, None, None, None]
    weight = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    result = transfer_detail(np.repeat(decoded[:1], 3, axis=0), context, decoded, weight)
    assert [int(n) for n in (result.astype(int) - decoded[:1])[:, 0, 0, 0]] == [4, 12, 20]


def test_a_lossless_codec_changes_nothing():
    context, predicted = pictures(1, 0), pictures(4, 1)
    assert (transfer_detail(predicted, context, context, np.ones((4, 1))) == predicted).all()


def add_lines(frames: np.ndarray) -> np.ndarray:
    """Lines that a codec may lose: a third of the columns, 30 lighter."""
    result = frames.copy()
    result[:, :, ::3] += np.uint8(30)
    return result


@pytest.mark.parametrize("change", [0, 1, 3, 6, 40])
def test_kept_detail_decreases_with_the_restored_change(change):
    decoded = pictures(2, 1)
    result = keep_detail(decoded + np.uint8(change), add_lines(decoded), decoded)
    gained = result.astype(int) - decoded - change
    assert (gained[:, :, ::3] == round(30 * np.exp(-((change / RESTORED_SCALE) ** 2)))).all()
    assert (gained[:, :, 1::3] == 0).all()


def test_an_unchanged_pixel_in_a_restored_neighbourhood_keeps_no_detail():
    decoded = pictures(1, 1)
    restored = decoded + np.uint8(60)
    restored[:, 6, 9] = decoded[:, 6, 9]
    assert (keep_detail(restored, add_lines(decoded), decoded) == restored).all()


def test_detail_is_kept_beside_a_restored_region():
    size, reach = 4 * NEIGHBOURHOOD, NEIGHBOURHOOD // 2
    decoded = np.random.default_rng(2).integers(40, 190, (1, 12, size, 3), dtype=np.uint8)
    restored = decoded.copy()
    restored[:, :, size // 2 :] = 255
    result = keep_detail(restored, add_lines(decoded), decoded)
    assert (result[:, :, : size // 2 - reach] == add_lines(decoded)[:, :, : size // 2 - reach]).all()
    assert (result[:, :, size // 2 :] == 255).all()


def test_the_channel_with_the_largest_change_counts():
    decoded = pictures(1, 1)
    restored = decoded + np.array([0, 9, 0], np.uint8)  # the mean over channels would be RESTORED_SCALE
    assert (keep_detail(restored, add_lines(decoded), decoded) == restored).all()


@pytest.mark.parametrize(("level", "kept"), [(20, 0), (1, 1)])
def test_noise_stays_lost(level, kept):
    """Each frame is judged separately: the first has lines, the second noise nearly everywhere."""
    decoded = pictures(2, 1)
    noise = np.random.default_rng(0).integers(level, level + 2, decoded.shape, dtype=np.uint8)
    noise[0] = 0
    noise[0, :, 0] = 20
    result = keep_detail(decoded, decoded + noise, decoded)
    assert (result[0] == decoded[0] + noise[0]).all()
    assert (result[1] == decoded[1] + kept * noise[1]).all()
