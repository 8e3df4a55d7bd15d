import cv2
import numpy as np
import pytest

from vdp.core.classes import COLORS, class_id
from vdp.tracking.figures import ClipPicture, class_colors, clip_strip, encode_png, mask_tile, sample_sheet
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


def test_every_class_has_a_colour_of_its_own():
    assert len(np.unique(class_colors(), axis=0)) == 49


@pytest.mark.parametrize("color", COLORS)
def test_a_class_is_drawn_in_its_objects_own_hue(color):
    hues = {"red": 0, "yellow": 26, "green": 60, "cyan": 90, "blue": 113, "purple": 139, "brown": 14}
    for shape in range(3):
        for material in range(2):
            rgb = class_colors()[class_id(shape, material, COLORS.index(color))]
            hue, saturation, _ = cv2.cvtColor(rgb[None, None], cv2.COLOR_RGB2HSV)[0, 0]
            if color == "gray":
                assert saturation < 10
            else:
                assert abs(int(hue) - hues[color]) <= 3 and saturation > 60


@pytest.mark.parametrize(("height", "width"), [(32, 48), (160, 240), (48, 20), (300, 500)])
def test_a_strip_shows_frames_of_any_size(height, width):
    strip = clip_strip(picture(height, width))
    assert strip.dtype == np.uint8 and strip.ndim == 3
    assert strip.shape[0] > 3 * height and strip.shape[1] >= 7 * width


def test_a_hidden_clip_is_shown_without_truth():
    assert clip_strip(picture(hidden=True)).shape[0] < clip_strip(picture()).shape[0]


def test_a_mask_tile_keeps_the_class_colour_and_adds_a_label():
    mask = np.full((40, 60), 5, np.uint8)
    shown = mask_tile(mask, "mask")
    same = (shown == class_colors()[5]).all(-1).mean()
    assert 0.6 < same < 0.95


def test_equal_strips_are_equal_files():
    assert encode_png(clip_strip(picture())) == encode_png(clip_strip(picture()))


def test_what_a_user_names_cannot_break_the_report():
    section = Section("a<b", "fine & well", False, [Table("t", ("x",), [("<script>",)])], [])
    page = html_report("r", [], [section])
    assert "<script>" not in page and "a&lt;b" in page and "fine &amp; well" in page


def frame_of(level: int) -> np.ndarray:
    return np.full((20, 90, 3), (level, 0, 0), np.uint8)


def test_a_sheet_of_samples_shows_frames_and_masks_row_by_row():
    mask = np.full((20, 90), 5, np.uint8)
    shown = sample_sheet(
        [
            [("frame", frame_of(101)), ("reconstruction", frame_of(102)), ("mask", mask)],
            [("frame", frame_of(103))],
        ]
    )

    def places(color: np.ndarray) -> np.ndarray:
        return np.argwhere((shown == color).all(axis=-1))

    first, second, below = (places(np.array([level, 0, 0])) for level in (101, 102, 103))
    assert len(first) == len(second) == len(below) == 40 * 180  # each twice its size
    assert (first[:, 0] == second[:, 0]).all() and first[:, 1].max() < second[:, 1].min()
    assert below[:, 0].min() > first[:, 0].max() and below[:, 1].min() == first[:, 1].min()
    masked = places(class_colors()[5])
    assert len(masked) > 0.6 * 40 * 180 and masked[:, 1].min() > second[:, 1].max()


@pytest.mark.parametrize("rows", [[], [[("frame", frame_of(0))], []]])
def test_a_sheet_of_nothing_is_refused(rows):
    with pytest.raises(ValueError, match="expected a picture"):
        sample_sheet(rows)


def test_a_picture_that_is_neither_frame_nor_mask_is_refused_by_its_caption():
    with pytest.raises(ValueError, match=r"true: expected a frame.*\(1, 20, 90, 3\)"):
        sample_sheet([[("true", frame_of(0)[None])]])
