from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.data.sources.source_contract import (
    REAL_CLIPS,
    SourceContract,
    clips_of,
    frames_of,
    gray_frames,
    levels,
    mask_stack,
)
from vdp.data.sources.arrays import ArraySource
from vdp.data.sources.protocols import Pace

ITEM = "video_00000"


def pixels_of(video: object) -> np.ndarray:
    return np.stack([frame.pixels for frame in frames_of(ArraySource([video]), ITEM)])


class Loader:
    """Videos that are loaded on access."""

    def __init__(self) -> None:
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> np.ndarray:
        self.loaded.append(index)
        return gray_frames(25, start=index)


class TestList(SourceContract):
    kind = ArraySource
    real = REAL_CLIPS / "train"

    def make(self, folder: Path) -> ArraySource:
        parts = {"frames": gray_frames(24), "masks": mask_stack(24), "conditions": gray_frames(24, start=3)}
        return ArraySource([(gray_frames(), mask_stack()), gray_frames(25), parts])

    def real_source(self, real: Path, tmp_path: Path) -> ArraySource:
        return ArraySource([np.stack([cv2.imread(str(real / f"video_0/image_{k}.png")) for k in range(22)])])

    def test_videos_are_named_by_their_index(self, source):
        assert source.items() == [ITEM, "video_00001", "video_00002"]
        assert source.label("video_00002") == "videos[2]" and source.files("video_00002") == []
        assert [source.count(item) for item in source.items()] == [22, 25, 24]

    def test_masks_and_conditions_go_with_their_frames(self, source):
        pair, plain, full = clips_of(source)
        assert pair.masks[:, 0, 0].tolist() == full.masks[:, 0, 0].tolist() == list(range(1, 23))
        assert levels(full.conditions) == [3 + 10 * k for k in range(22)]
        assert plain.masks is None and plain.conditions is None and pair.conditions is None


class TestLoader(SourceContract):
    kind = ArraySource

    def make(self, folder: Path) -> ArraySource:
        return ArraySource(Loader())

    def test_only_the_video_that_is_read_is_loaded(self, source):
        assert len(source.items()) == 3 and source.count("video_00001") == 0
        frames_of(source, "video_00001")
        assert source.videos.loaded == [1]


class TestOneArray(SourceContract):
    """(N, T, H, W, 3)"""

    kind = ArraySource

    def make(self, folder: Path) -> ArraySource:
        return ArraySource(np.stack([gray_frames(), gray_frames(start=5)]))


# --- Types and shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_level_is_preserved_as_a_float(dtype):
    video = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(pixels_of((video / 255).astype(dtype))[..., 1], video)


def test_floats_are_rounded_not_truncated():
    assert pixels_of(np.full((1, 2, 2), 0.7 / 255)).max() == 1


def test_gray_is_repeated():
    video = np.random.default_rng(0).integers(0, 256, (4, 6, 8), np.uint8)
    np.testing.assert_array_equal(pixels_of(video), np.repeat(video[..., None], 3, axis=3))


def test_a_tensor_is_read_as_an_array():
    video = gray_frames(3)
    channels_first = torch.from_numpy(video).permute(0, 3, 1, 2) / 255
    for tensor in (torch.from_numpy(video), channels_first.permute(0, 2, 3, 1)):
        np.testing.assert_array_equal(pixels_of(tensor), video)


def test_masks_may_be_of_any_integer_type():
    frames = frames_of(ArraySource([(gray_frames(), torch.from_numpy(mask_stack()).long())]), ITEM)
    assert [frame.mask.dtype for frame in frames] == [np.uint8] * 22
    assert [frame.mask.max() for frame in frames] == list(range(1, 23))


def test_later_changes_of_the_array_do_not_change_a_frame():
    video = gray_frames(2)
    frame = frames_of(ArraySource([video]), ITEM)[0]
    video[:] = 99
    assert frame.pixels.max() == 0


FRAMES, MASKS = gray_frames(2), mask_stack(2)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (FRAMES[0], r"frames: expected uint8, .* \(T, H, W\), got uint8 of shape \(64, 96, 3\)"),
        (FRAMES.transpose(0, 3, 1, 2), r"got uint8 of shape \(2, 3, 64, 96\)"),
        (FRAMES[None], r"got uint8 of shape \(1, 2, 64, 96, 3\)"),
        (FRAMES[:0], r"got uint8 of shape \(0, 64, 96, 3\)"),
        (FRAMES.astype(np.int64), "got int64"),
        ("a.mp4", "expected an array, .* got type str"),
        (None, "expected frames and optionally"),
        ([FRAMES[0], FRAMES[1]], "got type list"),
        (torch.zeros(2, 4, 4, requires_grad=True), "cannot be read as an array .*detach"),
        (torch.zeros(2, 4, 4, dtype=torch.bfloat16), "cannot be read as an array .*BFloat16"),
        (FRAMES * 1.0, r"frames\[1\]: expected levels in \[0, 1\], got 10 to 10"),
        (np.full((2, 8, 8), np.nan), r"frames\[0\]: expected levels in \[0, 1\], got nan to nan"),
        ((FRAMES,), r"expected a tuple \(frames, masks\), got 1"),
        ((FRAMES, MASKS[:1]), r"masks: expected .* shape \(2, 64, 96\), got uint8 of shape \(1, 64, 96\)"),
        ((FRAMES, MASKS / 2), "masks: expected class ids >= 0, integers .* got float64"),
        ((FRAMES, MASKS.astype(int) - 2), "masks: expected class ids >= 0"),
        ({"masks": MASKS}, r"expected frames and optionally masks and conditions, got \['masks'\]"),
        ({"frames": FRAMES, "mask": MASKS}, r"got \['frames', 'mask'\]"),
        ({"frames": FRAMES, "conditions": FRAMES[:1]}, r"conditions: expected the frames' \(T, H, W\)"),
        ({"frames": FRAMES, "conditions": FRAMES * 0.5}, r"conditions\[1\]: expected levels in \[0, 1\]"),
    ],
)
def test_an_unusable_video_is_named_by_its_index(video, message):
    source = ArraySource([gray_frames(2), video])
    with pytest.raises(ValueError, match=rf"^videos\[1\].*{message}") as error:
        frames_of(source, "video_00001")
    assert "\n" not in str(error.value)
    assert source.count("video_00001") in (0, 2)


def test_an_object_without_a_length_is_refused():
    with pytest.raises(ValueError, match="videos: expected a sequence of arrays, got type generator"):
        ArraySource(video for video in [FRAMES]).items()


def test_a_sequence_shorter_than_its_length_is_refused():
    class Short(Loader):
        def __getitem__(self, index: int) -> np.ndarray:
            return [FRAMES][index]

    with pytest.raises(ValueError, match=r"videos\[1\]: .* expected indices 0\.\.2"):
        frames_of(ArraySource(Short()), "video_00001")


def test_arrays_have_no_frame_rate():
    with pytest.raises(ValueError, match=r"videos\[0\]: no frame rate"):
        frames_of(ArraySource([FRAMES]), ITEM, Pace(fps=5))
