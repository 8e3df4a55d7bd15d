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
    gray_frame,
    levels,
)
from vdp.data.sources.arrays import ArraySource
from vdp.data.sources.protocols import Pace


def make_frames(frames: int = 22, start: int = 0) -> np.ndarray:
    """Frame k is of gray level start + 10 k."""
    return np.stack([gray_frame(start + 10 * k) for k in range(frames)])


def make_masks(frames: int = 22) -> np.ndarray:
    """Mask k is of class k + 1."""
    return np.stack([np.full((64, 96), k + 1, np.uint8) for k in range(frames)])


def pixels_of(video: object) -> np.ndarray:
    return np.stack([frame.pixels for frame in frames_of(ArraySource([video]), "video_00000")])


class Loader:
    """Videos that are made when they are asked for."""

    def __init__(self, videos: int) -> None:
        self.videos, self.asked = videos, []

    def __len__(self) -> int:
        return self.videos

    def __getitem__(self, index: int) -> np.ndarray:
        self.asked.append(index)
        return make_frames(25, start=index)


class ArrayContract(SourceContract):
    kind = ArraySource
    real = REAL_CLIPS / "train"

    def real_source(self, real: Path, tmp_path: Path) -> ArraySource:
        return ArraySource([np.stack([cv2.imread(str(real / f"video_0/image_{k}.png")) for k in range(22)])])

    def test_there_are_no_files(self, source):
        assert [source.files(item) for item in source.items()] == [[]] * len(source.items())


class TestList(ArrayContract):
    def make(self, folder: Path) -> ArraySource:
        parts = {"frames": make_frames(24), "masks": make_masks(24), "conditions": make_frames(24, start=3)}
        return ArraySource([(make_frames(), make_masks()), make_frames(25), parts])

    def test_videos_are_named_by_their_index(self, source):
        assert source.items() == ["video_00000", "video_00001", "video_00002"]
        assert source.label("video_00002") == "videos[2]"
        assert [source.count(item) for item in source.items()] == [22, 25, 24]

    def test_masks_and_conditions_go_with_their_frames(self, source):
        pair, plain, full = clips_of(source)
        assert pair.masks[:, 0, 0].tolist() == full.masks[:, 0, 0].tolist() == list(range(1, 23))
        assert levels(full.conditions) == [3 + 10 * k for k in range(22)]
        assert plain.masks is None and plain.conditions is None and pair.conditions is None


class TestLoader(ArrayContract):
    def make(self, folder: Path) -> ArraySource:
        return ArraySource(Loader(3))

    def test_only_the_video_that_is_read_is_loaded(self, source):
        assert len(source.items()) == 3 and source.count("video_00001") == 0
        frames_of(source, "video_00001")
        assert source.videos.asked == [1]


class TestOneArray(ArrayContract):
    """(N, T, H, W, 3): a sequence of videos like any other."""

    def make(self, folder: Path) -> ArraySource:
        return ArraySource(np.stack([make_frames(), make_frames(start=5)]))


# --- Types and shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_level_survives_as_a_float(dtype):
    video = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(pixels_of((video / 255).astype(dtype))[..., 1], video)


def test_floats_are_rounded_not_cut_off():
    assert pixels_of(np.full((1, 2, 2), 0.7 / 255)).max() == 1


def test_gray_is_repeated():
    video = np.random.default_rng(0).integers(0, 256, (4, 6, 8), np.uint8)
    for channel in range(3):
        np.testing.assert_array_equal(pixels_of(video)[..., channel], video)


def test_a_tensor_is_read_as_an_array():
    video = make_frames(3)
    np.testing.assert_array_equal(pixels_of(torch.from_numpy(video)), video)
    channels_first = torch.from_numpy(video).permute(0, 3, 1, 2) / 255
    np.testing.assert_array_equal(pixels_of(channels_first.permute(0, 2, 3, 1)), video)


def test_masks_may_be_of_any_integers():
    source = ArraySource([(make_frames(), torch.from_numpy(make_masks()).long())])
    assert [frame.mask.dtype for frame in frames_of(source, "video_00000")] == [np.uint8] * 22
    assert [frame.mask.max() for frame in frames_of(source, "video_00000")] == list(range(1, 23))


def test_the_program_may_go_on_with_its_array():
    video = make_frames(2)
    frame = frames_of(ArraySource([video]), "video_00000")[0]
    video[:] = 99
    assert frame.pixels.max() == 0


FRAMES, MASKS = make_frames(2), make_masks(2)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (FRAMES[0], r"frames: expected uint8, .* \(T, H, W\), got uint8 of shape \(64, 96, 3\)"),
        (FRAMES.transpose(0, 3, 1, 2), r"got uint8 of shape \(2, 3, 64, 96\)"),
        (FRAMES[None], r"got uint8 of shape \(1, 2, 64, 96, 3\)"),
        (FRAMES[:0], r"got uint8 of shape \(0, 64, 96, 3\)"),
        (FRAMES[:, :0], r"got uint8 of shape \(2, 0, 96, 3\)"),
        (np.uint8(3), r"got uint8 of shape \(\)"),
        (FRAMES.astype(np.int64), "got int64"),
        (FRAMES > 0, "got bool"),
        (FRAMES.astype(object), "got object"),
        ("a.mp4", "expected an array, .* got an object of type str"),
        (None, "expected frames and at most"),
        ([FRAMES[0], FRAMES[1]], "got an object of type list"),
        (torch.zeros(2, 4, 4, requires_grad=True), "cannot be read as an array .*detach"),
        (torch.zeros(2, 4, 4, dtype=torch.bfloat16), "cannot be read as an array .*BFloat16"),
        (FRAMES * 1.0, r"frames\[1\]: expected levels in \[0, 1\], got 10 to 10; scale them"),
        (FRAMES - 1.0, r"frames\[0\]: expected levels in \[0, 1\], got -1 to -1"),
        (np.full((2, 8, 8), np.nan), r"frames\[0\]: expected levels in \[0, 1\], got nan to nan"),
        (np.full((2, 8, 8), np.inf), r"frames\[0\]: expected levels in \[0, 1\], got inf to inf"),
        ((FRAMES,), r"a tuple of 1; expected \(frames, masks\)"),
        ((FRAMES, MASKS[:1]), r"masks: expected .* shape \(2, 64, 96\), got uint8 of shape \(1, 64, 96\)"),
        ((FRAMES, MASKS / 2), "masks: expected class ids from 0, integers .* got float64"),
        ((FRAMES, MASKS.astype(int) - 2), "masks: expected class ids from 0"),
        ((FRAMES, MASKS + 48), "masks: class id 50 is over 48"),
        ((FRAMES, MASKS.astype(int) + 256), "masks: class id 255 is over 48"),
        ({"masks": MASKS}, r"expected frames and at most masks and conditions, got \['masks'\]"),
        ({"frames": FRAMES, "mask": MASKS}, r"got \['frames', 'mask'\]"),
        ({"frames": FRAMES, "conditions": FRAMES[:1]}, r"conditions: expected the frames' \(T, H, W\)"),
        ({"frames": FRAMES, "conditions": FRAMES * 0.5}, r"conditions\[1\]: expected levels in \[0, 1\]"),
    ],
)
def test_a_video_that_cannot_be_used_is_named_by_its_index(video, message):
    source = ArraySource([make_frames(2), video])
    with pytest.raises(ValueError, match=rf"^videos\[1\].*{message}") as error:
        frames_of(source, source.items()[1])
    assert "\n" not in str(error.value)
    source.count(source.items()[1])  # a guess never stops


def test_a_sequence_that_is_none_is_refused():
    with pytest.raises(
        ValueError, match="videos: expected a sequence of arrays, got an object of type generator"
    ):
        ArraySource(video for video in [FRAMES]).items()


def test_a_sequence_that_is_shorter_than_it_says_is_told():
    class Short(Loader):
        def __getitem__(self, index: int) -> np.ndarray:
            return [FRAMES][index]

    source = ArraySource(Short(2))
    assert len(frames_of(source, "video_00000")) == 2
    with pytest.raises(ValueError, match=r"videos\[1\]: cannot be taken .* expected indices from 0 to 1"):
        frames_of(source, "video_00001")


def test_arrays_state_no_frame_rate():
    with pytest.raises(ValueError, match=r"videos\[0\]: states no frame rate"):
        frames_of(ArraySource([FRAMES]), "video_00000", Pace(fps=5))
