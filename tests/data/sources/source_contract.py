"""The contract test of sources: the test class of a source is a subclass that makes a small one."""

import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.video.encoded import FINE, encode
from vdp.data.extract.cut import cut_clips
from vdp.data.sources.protocols import ClipRule, Frame, Pace, Source
from vdp.data.stores.clips import Clip

SHARED = Path(__file__).resolve().parents[4] / "shared"
REAL_CLIPS = SHARED / "real_clips"
REAL_VIDEOS = SHARED / "videos"

RULE = ClipRule(frames=22, min_frames=22, height=32, width=48, fit="crop", pace=Pace(), stride=22)


def gray_frame(level: int, height: int = 64, width: int = 96) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def gray_frames(frames: int = 22, start: int = 0, height: int = 64, width: int = 96) -> np.ndarray:
    """Frame k has gray level start + 10 (k mod 25)."""
    return np.stack([gray_frame(start + 10 * (k % 25), height, width) for k in range(frames)])


def mask_stack(frames: int = 22) -> np.ndarray:
    """Mask k has class (k + 1) mod 49."""
    return np.stack([np.full((64, 96), (k + 1) % 49, np.uint8) for k in range(frames)])


def make_picture_folder(
    folder: Path, frames: int = 22, pattern: str = "image_{}.png", masks: bool = False, start: int = 0
) -> Path:
    """`gray_frames` and `mask_stack`."""
    folder.mkdir(parents=True)
    for k, frame in enumerate(gray_frames(frames, start)):
        assert cv2.imwrite(str(folder / pattern.format(k)), frame)
    if masks:
        np.save(folder / "mask.npy", mask_stack(frames))
    return folder


def make_video_file(path: Path, frames: int = 50, height: int = 64, width: int = 96, fps: float = 25) -> Path:
    """Frame k has gray level 4 (k mod 60)."""
    return encode(
        path, (gray_frame(4 * (k % 60), height, width) for k in range(frames)), rate=fps, options=FINE
    )


def clips_of(source: Source, rule: ClipRule = RULE) -> list[Clip]:
    return [clip for item in source.items() for clip in cut_clips(source, item, rule)]


def frames_of(source: Source, item: str, pace: Pace | None = None) -> list[Frame]:
    return list(source.frames(item, pace or Pace()))


def levels(frames: np.ndarray) -> list[int]:
    """Mean level of each frame (T, H, W, 3)."""
    return frames.mean((1, 2, 3)).round().astype(int).tolist()


def check_refused(
    source: Source, item: str, message: str, good: int = 0, kind: type[Exception] = ValueError
) -> None:
    """Check that the frame after `good` ones raises a one-line error about the video."""
    frames = source.frames(item, Pace())
    for _ in range(good):
        next(frames)
    with pytest.raises(kind, match=message) as error:
        next(frames)
    assert source.label(item) in str(error.value) and "\n" not in str(error.value)


class SourceContract:
    """The contract test of a source.

    `make` fills a folder that does not exist yet with two or more videos of 22 or more frames and returns the
    source over it.
    """

    kind: type[Source]
    real: Path | None = None  # a folder of real data of this kind, which may be missing

    def make(self, folder: Path) -> Source:
        raise NotImplementedError

    def real_source(self, real: Path, tmp_path: Path) -> Source:
        """The source over real data; a subclass may convert it under `tmp_path` first."""
        return self.kind(real)  # type: ignore[call-arg]

    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        return self.make(tmp_path / "source")

    def test_items_have_a_fixed_order_and_are_unique(self, source):
        items = source.items()
        assert type(source) is self.kind
        assert items == source.items() and len(set(items)) == len(items) >= 2
        assert pickle.loads(pickle.dumps(source)).items() == items

    def test_files_exist_and_the_count_is_right_or_0(self, source):
        for item in source.items():
            assert all(path.is_file() for path in source.files(item))
            assert source.count(item) in (0, len(frames_of(source, item)))

    def test_frames_are_rgb_of_one_size_with_their_numbers(self, source):
        for item in source.items():
            frames = frames_of(source, item)
            assert [frame.number for frame in frames] == list(range(len(frames)))
            assert {frame.pixels.dtype for frame in frames} == {np.dtype(np.uint8)}
            assert len({frame.pixels.shape for frame in frames}) == 1 and frames[0].pixels.shape[2] == 3
            for part in ("mask", "condition"):
                arrays = [getattr(frame, part) for frame in frames]
                assert len({array is None for array in arrays}) == 1
                if arrays[0] is not None:
                    assert {a.shape[:2] for a in arrays} == {frames[0].pixels.shape[:2]}
                    assert {a.dtype for a in arrays} == {np.dtype(np.uint8)}

    def test_a_pace_selects_frames_by_their_numbers(self, source):
        item = source.items()[0]
        every = frames_of(source, item)
        selected = frames_of(source, item, Pace(interval=3, offset=2))
        assert [frame.number for frame in selected] == list(range(2, len(every), 3))
        for frame in selected:
            for part in ("pixels", "mask", "condition"):
                np.testing.assert_array_equal(getattr(frame, part), getattr(every[frame.number], part))

    def test_clips_have_the_length_and_size_of_the_rule(self, source):
        for clip in clips_of(source, replace(RULE, frames=10, min_frames=10, height=24, width=20)):
            assert clip.frames.shape == (10, 24, 20, 3) and clip.frames.dtype == np.uint8
            assert clip.masks is None or clip.masks.shape == (10, 24, 20)
            assert clip.conditions is None or clip.conditions.shape == (10, 24, 20, 3)

    def test_a_pickled_source_gives_the_same_clips_of_unique_names(self, source):
        clips = clips_of(source)
        assert len({clip.name for clip in clips if "/" not in clip.name}) == len(clips) > 0
        for a, b in zip(clips, clips_of(pickle.loads(pickle.dumps(source))), strict=True):
            assert a.name == b.name
            np.testing.assert_array_equal(a.frames, b.frames)

    def test_a_clip_in_the_middle_is_the_same_frames(self, source):
        if source.precut:
            return
        item = source.items()[0]
        every = np.stack([frame.pixels for frame in frames_of(source, item)])
        rule = replace(RULE, frames=5, min_frames=5, stride=3, height=every.shape[1], width=every.shape[2])
        clips = list(cut_clips(source, item, rule))
        assert len(clips) == (len(every) - 5) // 3 + 1
        for k, clip in enumerate(clips):
            np.testing.assert_array_equal(clip.frames, every[3 * k : 3 * k + 5])

    def test_too_few_frames_name_the_video(self, source):
        item = source.items()[0]
        with pytest.raises(ValueError, match="too few frames: .* expected at least 999") as error:
            list(cut_clips(source, item, replace(RULE, frames=999, min_frames=999)))
        assert source.label(item) in str(error.value) and "\n" not in str(error.value)

    def test_a_clip_without_targets_may_be_shorter(self, source):
        item = source.items()[0]
        (clip,) = cut_clips(source, item, replace(RULE, frames=999, min_frames=11))
        whole = next(cut_clips(source, item, replace(RULE, frames=11, min_frames=11)))
        np.testing.assert_array_equal(clip.frames, whole.frames)

    def test_real_data_is_read(self, tmp_path):
        if self.real is None or not self.real.is_dir():
            pytest.skip(f"no real data at {self.real}")
        source = self.real_source(self.real, tmp_path)
        clip = next(cut_clips(source, source.items()[0], replace(RULE, height=64, width=96)))
        assert clip.frames.shape == (22, 64, 96, 3)
        assert 20 < clip.frames.mean() < 235 and clip.frames.std() > 5
