from dataclasses import replace

import cv2
import numpy as np
import pytest

from vdp.core.classes import COLORS, class_id
from vdp.tracking.figures import (
    CAPTION,
    GAP,
    PATH_SHADE,
    ClipPicture,
    ObjectPath,
    class_colors,
    clip_strip,
    encode_png,
    evenly_spaced,
    mask_tile,
    path_tile,
    sample_sheet,
    tile,
)
from vdp.tracking.report import Section, Table, html_report


def picture(height: int = 32, width: int = 48, hidden: bool = False) -> ClipPicture:
    rng = np.random.default_rng(0)

    def frame() -> np.ndarray:
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)

    mask = np.zeros((height, width), np.uint8)
    mask[5:15, 5:25] = 5
    return ClipPicture(
        title="video_0",
        target=22,
        known={n: frame() for n in (1, 6, 11)},
        predicted={n: frame() for n in (13, 22)},
        true={} if hidden else {n: frame() for n in (13, 22)},
        predicted_mask=mask,
        true_mask=None if hidden else mask,
    )


def colored(level: int) -> np.ndarray:
    return np.full((20, 90, 3), (level, 0, 0), np.uint8)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 11, 100])
@pytest.mark.parametrize("max_count", [1, 2, 6, 12])
def test_indices_are_evenly_spaced_with_both_ends(count, max_count):
    indices = evenly_spaced(count, max_count)
    assert len(indices) == min(count, max_count) and indices == sorted(set(indices))
    if indices:
        assert indices[-1] == count - 1 and (len(indices) == 1 or indices[0] == 0)
        steps = np.diff(indices)
        assert not steps.size or steps.max() - steps.min() <= 1


@pytest.mark.parametrize("color", COLORS)
def test_classes_are_drawn_in_distinct_colours_of_their_objects_hue(color):
    hues = {"red": 0, "yellow": 26, "green": 60, "cyan": 90, "blue": 113, "purple": 139, "brown": 14}
    assert len(np.unique(class_colors(), axis=0)) == 49
    for shape in range(3):
        for material in range(2):
            rgb = class_colors()[class_id(shape, material, COLORS.index(color))]
            hue, saturation, _ = cv2.cvtColor(rgb[None, None], cv2.COLOR_RGB2HSV)[0, 0]
            if color == "gray":
                assert saturation < 10
            else:
                assert abs(int(hue) - hues[color]) <= 3 and saturation > 60


@pytest.mark.parametrize(("height", "width"), [(32, 48), (160, 240), (48, 20), (300, 500)])
def test_a_strip_shows_frames_of_any_size_with_and_without_truth(height, width):
    strip, hidden = clip_strip(picture(height, width)), clip_strip(picture(height, width, hidden=True))
    assert strip.dtype == np.uint8 and strip.ndim == 3
    assert strip.shape[0] > 3 * height and strip.shape[1] >= 7 * width
    assert hidden.shape[0] < strip.shape[0]
    assert encode_png(strip) == encode_png(clip_strip(picture(height, width)))


def test_a_mask_tile_shows_the_class_colour_under_a_label():
    shown = mask_tile(np.full((40, 60), 5, np.uint8), "mask")
    assert 0.6 < (shown == class_colors()[5]).all(-1).mean() < 0.95


def path(label: int, samples: list[list[tuple[int, int]]]) -> ObjectPath:
    known = np.array([(2, 4), (10, 4)], np.float32)  # column, row
    return ObjectPath(label, known, np.array(samples, np.float32))


def path_frame(*paths: ObjectPath) -> np.ndarray:
    """A tile of a black frame, without its caption, at one pixel of the frame per pixel."""
    shown = path_tile(np.zeros((20, 180, 3), np.uint8), paths, "paths")
    assert shown.shape == (CAPTION + 20, 180, 3)
    return shown[CAPTION:]


def test_a_path_tile_shows_known_places_in_white_and_samples_in_the_colour_of_the_class():
    shown = path_frame(path(5, [[(50, 4), (90, 4)]]))
    assert (shown[4, 6] > 220).all()  # an antialiased line
    color = PATH_SHADE * class_colors()[5].astype(int)
    assert abs(shown[4, 30] - color).max() <= 0.15 * color.max()  # from the last known place to the first hop
    assert abs(shown[4, 70] - color).max() <= 0.15 * color.max()
    assert not shown[12:].any() and not shown[:, 95:].any()


def test_sampled_paths_add_up_where_they_agree():
    shown = path_frame(path(5, [[(50, 4), (90, 4)], [(50, 4), (50, 16)]]))
    agreed, alone = shown[4, 30].astype(int), shown[4, 70].astype(int)
    assert (agreed > alone)[class_colors()[5] > 20].all() and alone.any()
    assert shown[10, 50].any()


def test_a_strip_has_a_tile_of_sampled_paths_and_a_row_of_composed_frames():
    plain = picture()
    paths = [path(5, [[(20, 10)]])]
    moved = replace(plain, composed={n: frame for n, frame in plain.predicted.items()}, paths=paths)
    before, after = clip_strip(plain), clip_strip(moved)
    rows = after.shape[0] - before.shape[0]
    assert rows == tile(plain.known[1], "").shape[0] + GAP
    assert after.shape[1] > before.shape[1]


def test_the_report_escapes_html():
    table = Table("t", ("x",), [("<script>",)])
    page = html_report("r", [], [Section("a<b", "fine & well", False, ["<script> & more"], [table], [])])
    assert "<script>" not in page and "a&lt;b" in page and "fine &amp; well" in page
    assert "&lt;script&gt; &amp; more" in page


def test_a_sample_sheet_has_a_row_for_each_sample():
    mask = np.full((20, 90), 5, np.uint8)
    shown = sample_sheet(
        [
            [("frame", colored(101)), ("reconstruction", colored(102)), ("mask", mask)],
            [("frame", colored(103))],
        ]
    )

    def pixels(color: np.ndarray) -> np.ndarray:
        return np.argwhere((shown == color).all(axis=-1))

    first, second, below = (pixels(np.array([level, 0, 0])) for level in (101, 102, 103))
    assert len(first) == len(second) == len(below) == 40 * 180  # enlarged by 2
    assert (first[:, 0] == second[:, 0]).all() and first[:, 1].max() < second[:, 1].min()
    assert below[:, 0].min() > first[:, 0].max() and below[:, 1].min() == first[:, 1].min()
    masked = pixels(class_colors()[5])
    assert len(masked) > 0.6 * 40 * 180 and masked[:, 1].min() > second[:, 1].max()


@pytest.mark.parametrize("rows", [[], [[("frame", colored(0))], []]])
def test_empty_sheets_and_pictures_of_other_shapes_are_rejected(rows):
    with pytest.raises(ValueError, match="rows: expected at least one picture"):
        sample_sheet(rows)
    with pytest.raises(ValueError, match=r"true: expected a frame.*\(1, 20, 90, 3\)"):
        sample_sheet([[("true", colored(0)[None])]])
