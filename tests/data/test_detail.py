import numpy as np

from vdp.data.detail import ALIKE, AROUND, UNTOUCHED, with_detail, with_own_detail


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


def test_restored_frames_that_are_as_they_were_get_back_what_the_codec_lost_of_each():
    given, seen = pictures(3, 0), pictures(3, 1)
    assert (with_own_detail(seen, given, seen) == given).all()


def test_the_more_was_restored_the_less_detail_is_carried():
    seen = pictures(2, 1)
    for change in (0, 1, 3, 6, 40):
        carried = with_own_detail(seen + np.uint8(change), seen + np.uint8(30), seen)
        assert (carried.astype(int) - seen - change == round(30 * np.exp(-((change / UNTOUCHED) ** 2)))).all()


def test_noise_is_not_carried_back_by_pixels_that_it_spares():
    """A pixel that restoring has left alone counts as restored where its surroundings are."""
    seen = pictures(1, 1)
    made = seen + np.uint8(60)
    made[:, 6, 8] = seen[:, 6, 8]
    assert (with_own_detail(made, pictures(1, 0), seen) == made).all()


def test_detail_comes_back_beside_what_was_restored():
    size = 4 * AROUND
    given, seen = np.random.default_rng(2).integers(40, 190, (2, 1, 12, size, 3), dtype=np.uint8)
    made = seen.copy()
    made[:, :, size // 2 :] = 255
    carried, reach = with_own_detail(made, given, seen), AROUND // 2
    assert (carried[:, :, : size // 2 - reach] == given[:, :, : size // 2 - reach]).all()
    assert (carried[:, :, size // 2 :] == 255).all()
