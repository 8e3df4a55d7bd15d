import numpy as np

from vdp.data.video.detail import ALIKE, AROUND, UNTOUCHED, with_detail, with_own_detail


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 190, (count, 12, 16, 3), dtype=np.uint8)


def test_where_nothing_has_changed_the_known_frame_comes_back_as_it_is():
    known, seen = pictures(1, 0), pictures(1, 1)
    made = np.repeat(seen, 3, axis=0)
    assert (with_detail(made, known, seen, np.ones((3, 1))) == known).all()


def test_what_shows_something_else_is_left_alone():
    known, seen = pictures(1, 0), pictures(1, 1)
    made = np.where(seen < 128, seen + 100, seen - 100).astype(np.uint8)
    assert (with_detail(made, known, seen, np.ones((1, 1))) == made).all()


def test_the_less_alike_two_frames_are_the_less_detail_is_carried():
    seen = pictures(1, 1)
    for change in (0, 4, 8, 16, 60):
        carried = with_detail(seen + np.uint8(change), seen + np.uint8(30), seen, np.ones((1, 1)))
        gained = carried.astype(int) - seen - change
        assert (gained == round(30 * np.exp(-((change / ALIKE) ** 2)))).all()


def test_detail_stays_where_it_was_and_moves_nothing_else():
    known, seen = pictures(1, 0), pictures(1, 1)
    made = seen.copy()
    made[:, :, 8:] = 255
    carried = with_detail(made, known, seen, np.ones((1, 1)))
    assert (carried[:, :, :8] == known[:, :, :8]).all() and (carried[:, :, 8:] == 255).all()


def test_a_known_frame_counts_by_its_weight_and_not_at_all_without():
    seen = np.repeat(pictures(1, 1), 2, axis=0)
    known = seen + np.array([4, 20], np.uint8)[:, None, None, None]
    weight = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    carried = with_detail(np.repeat(seen[:1], 3, axis=0), known, seen, weight)
    assert [int(n) for n in (carried.astype(int) - seen[:1])[:, 0, 0, 0]] == [4, 12, 20]


def test_a_codec_that_loses_nothing_leaves_made_frames_as_they_are():
    known, made = pictures(1, 0), pictures(4, 1)
    assert (with_detail(made, known, known, np.ones((4, 1))) == made).all()


def edged(frames: np.ndarray) -> np.ndarray:
    """Frames with lines that a codec may lose, in a third of their columns, 30 lighter."""
    given = frames.copy()
    given[:, :, ::3] += np.uint8(30)
    return given


def test_restored_frames_that_are_as_they_were_get_back_what_the_codec_lost_of_each():
    seen = pictures(3, 1)
    assert (with_own_detail(seen, edged(seen), seen) == edged(seen)).all()


def test_the_more_was_restored_the_less_detail_is_carried():
    seen = pictures(2, 1)
    for change in (0, 1, 3, 6, 40):
        carried = with_own_detail(seen + np.uint8(change), edged(seen), seen)
        gained = carried.astype(int) - seen - change
        assert (gained[:, :, ::3] == round(30 * np.exp(-((change / UNTOUCHED) ** 2)))).all()
        assert (gained[:, :, 1::3] == 0).all()


def test_a_pixel_left_alone_counts_as_restored_where_its_surroundings_are():
    seen = pictures(1, 1)
    made = seen + np.uint8(60)
    made[:, 6, 9] = seen[:, 6, 9]
    assert (with_own_detail(made, edged(seen), seen) == made).all()


def test_detail_comes_back_beside_what_was_restored():
    size = 4 * AROUND
    seen = np.random.default_rng(2).integers(40, 190, (1, 12, size, 3), dtype=np.uint8)
    made = seen.copy()
    made[:, :, size // 2 :] = 255
    carried, reach = with_own_detail(made, edged(seen), seen), AROUND // 2
    assert (carried[:, :, : size // 2 - reach] == edged(seen)[:, :, : size // 2 - reach]).all()
    assert (carried[:, :, size // 2 :] == 255).all()


def test_the_channel_that_was_restored_most_tells_how_much_was():
    seen = pictures(1, 1)
    made = seen + np.array([0, 9, 0], np.uint8)  # a mean over the channels would be as little as UNTOUCHED
    assert (with_own_detail(made, edged(seen), seen) == made).all()


def test_what_is_lost_nearly_everywhere_is_noise_and_stays_lost():
    """Noise that codec and restoring take away alike."""
    seen = pictures(2, 1)
    for least, kept in ((20, 0), (1, 1)):
        noise = np.random.default_rng(0).integers(least, least + 2, seen.shape, dtype=np.uint8)
        noise[0] = 0  # each frame is judged by itself
        noise[0, :, 0] = 20
        carried = with_own_detail(seen, seen + noise, seen)
        assert (carried[0] == seen[0] + noise[0]).all()
        assert (carried[1] == seen[1] + kept * noise[1]).all()
