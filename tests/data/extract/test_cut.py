import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdp.data.extract.cut import BETWEEN, MAX_STEM, NOT_SELECTED, REST, UNKNOWN_CLASS, clip_stem, cut_clips
from vdp.data.sources.protocols import ClipRule, Frame, Pace

pytestmark = pytest.mark.slow

quick = settings(derandomize=True, database=None, deadline=None, max_examples=50)

RULE = ClipRule(frames=5, min_frames=5, height=4, width=6, fit="crop", pace=Pace(), stride=5)


class CountedSource:
    """One video in which frame k is of level k, its mask of class k and its condition of level k + 100."""

    layout = "nothing"

    def __init__(
        self, length: int, parts: bool = False, precut: bool = False, fps: float | None = None
    ) -> None:
        self.length, self.parts, self.precut, self.fps = length, parts, precut, fps
        self.read = 0  # frames given so far
        self.closed = False

    def items(self) -> list[str]:
        return ["v"]

    def label(self, item: str) -> str:
        return f"somewhere/{item}"

    def files(self, item: str) -> list[Path]:
        return []

    def count(self, item: str) -> int:
        return self.length

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        try:
            pace = pace.within(self.fps, self.label(item))
            rate = self.fps or 1.0
            for number in pace.select(range(self.length), lambda number: number / rate):
                self.read += 1
                pixels, mask = np.full((8, 12, 3), number, np.uint8), np.full((8, 12), number, np.uint8)
                yield Frame(number, pixels, mask, pixels + 100) if self.parts else Frame(number, pixels)
        finally:
            self.closed = True


@quick
@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 15))
def test_whole_clips_start_a_stride_apart(length, frames, stride):
    length = max(length, frames)
    rule = replace(RULE, frames=frames, min_frames=frames, stride=stride)
    clips = list(cut_clips(CountedSource(length), "v", rule))
    starts = [int(clip.frames[0, 0, 0, 0]) for clip in clips]
    assert starts == list(range(0, length - frames + 1, stride))
    for clip in clips:
        assert np.diff(clip.frames[:, 0, 0, 0]).tolist() == [1] * (frames - 1)


class SceneSource(CountedSource):
    """One video of scenes of given lengths, each of one level and 60 levels from the one before."""

    def __init__(self, *scenes: int, precut: bool = False) -> None:
        super().__init__(sum(scenes), precut=precut)
        self.levels = np.repeat(np.arange(len(scenes)) * 60, scenes)

    def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
        for frame in super().frames(item, pace):
            yield replace(frame, pixels=np.full_like(frame.pixels, self.levels[frame.number]))


def test_no_clip_crosses_a_scene_cut():
    rule = replace(RULE, stride=2, scene_cut=0.2)
    clips = list(cut_clips(SceneSource(8, 3, 5, 7), "v", rule))
    assert [clip.name for clip in clips] == ["v_000000", "v_000002", "v_000011", "v_000016", "v_000018"]
    assert all(len(np.unique(clip.frames)) == 1 for clip in clips)
    for kept in (replace(rule, scene_cut=0.25), replace(rule, scene_cut=None)):  # 60 of 255 are 0.235
        assert len(list(cut_clips(SceneSource(8, 3, 5, 7), "v", kept))) == 10


def test_a_clip_that_is_cut_already_may_have_a_scene_cut():
    assert len(list(cut_clips(SceneSource(2, 3, precut=True), "v", replace(RULE, scene_cut=0.2)))) == 1


def test_a_video_of_short_scenes_is_refused():
    with pytest.raises(ValueError, match=r"somewhere/v: no 5 frames in a row without a scene cut \(2 cuts\)"):
        list(cut_clips(SceneSource(4, 4, 4), "v", replace(RULE, scene_cut=0.2)))


def test_stride_counts_selected_frames():
    rule = replace(RULE, frames=3, min_frames=3, stride=2, pace=Pace(interval=4, offset=1))
    clips = list(cut_clips(CountedSource(30), "v", rule))
    assert [clip.name for clip in clips] == ["v_000001", "v_000009", "v_000017"]
    assert clips[1].frames[:, 0, 0, 0].tolist() == [9, 13, 17]


def test_fps_selects_frames():
    clip = next(cut_clips(CountedSource(40, fps=25), "v", replace(RULE, pace=Pace(fps=10))))
    assert clip.frames[:, 0, 0, 0].tolist() == [0, 2, 5, 7, 10]


def test_a_precut_video_is_one_clip_named_after_it():
    source = CountedSource(40, precut=True)
    (clip,) = cut_clips(source, "v", replace(RULE, stride=1, pace=Pace(interval=3, offset=2)))
    assert clip.name == "v" and clip.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert source.read == 5


def test_masks_and_conditions_match_their_frames_in_number_and_size():
    (clip,) = cut_clips(CountedSource(5, parts=True), "v", RULE)
    assert clip.frames.shape == clip.conditions.shape == (5, 4, 6, 3) and clip.masks.shape == (5, 4, 6)
    assert clip.masks[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert clip.conditions[:, 0, 0, 0].tolist() == [100, 101, 102, 103, 104]
    (clip,) = cut_clips(CountedSource(5), "v", RULE)
    assert clip.masks is None and clip.conditions is None


def test_clips_are_yielded_as_they_are_read_and_closing_closes_the_video():
    source = CountedSource(1000)
    clips = cut_clips(source, "v", RULE)
    assert [source.read for _ in islice(clips, 3)] == [5, 10, 15]
    clips.close()
    assert source.closed


@pytest.mark.parametrize(("length", "lengths"), [(10, [5, 5]), (9, [5]), (4, [3]), (3, [3])])
def test_a_video_without_a_whole_clip_gives_one_of_min_frames(length, lengths):
    clips = cut_clips(CountedSource(length), "v", replace(RULE, min_frames=3))
    assert [len(clip.frames) for clip in clips] == lengths


@pytest.mark.parametrize("pace", [Pace(), Pace(interval=2), Pace(fps=5), Pace(offset=9)], ids=str)
def test_a_video_that_is_too_short_is_named(pace):
    with pytest.raises(ValueError, match="somewhere/v: .*expected at least 5") as error:
        list(cut_clips(CountedSource(2, fps=25), "v", replace(RULE, pace=pace)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("item", "stem"),
    [
        ("video_0", "video_0"),
        ("train/video_0", "train_video_0"),
        ("a.mp4", "a"),
        ("deep/two words.AVI", "deep_two words"),
        ("ünï/日本.mkv", "ünï_日本"),
        ("1.5x/v1.2", "1.5x_v1.2"),
        ("mp4", "mp4"),
        ("a" * MAX_STEM, "a" * MAX_STEM),
    ],
)
def test_a_clip_is_named_after_its_video_without_the_suffix(item, stem):
    assert clip_stem(item) == stem


@quick
@given(st.text("ab/ é日" + os.fsdecode(b"\xe9"), min_size=1, max_size=200))
def test_a_name_is_valid_text_that_fits_in_a_file_name(item):
    stem = clip_stem(item)
    assert 0 < len(stem.encode("utf-8", "strict")) <= MAX_STEM
    assert "/" not in stem


@pytest.mark.parametrize("letter", ["a", "é", "日", os.fsdecode(b"\xe9")])
def test_long_names_with_different_ends_stay_different(letter):
    one, other = clip_stem(letter * 120 + "1"), clip_stem(letter * 120 + "2")
    assert one != other and one == clip_stem(letter * 120 + "1")


def selected(pace: Pace, fps: float | None, frames: int) -> list[int]:
    pace = pace.within(fps, "v")
    rate = fps or 1.0
    return list(islice(pace.select(count(), lambda number: number / rate), frames))


def test_interval_and_offset_select_frames():
    assert selected(Pace(interval=3, offset=2), None, 4) == [2, 5, 8, 11]


def test_the_rate_of_the_video_selects_every_frame():
    assert selected(Pace(fps=25, offset=3), 25, 4) == [3, 4, 5, 6]
    assert selected(Pace(fps=30), 30 / 1.001, 1000) == list(range(1000)), "29.97 is called 30"


@quick
@given(st.floats(0.5, 240), st.floats(0.1, 1))
def test_fps_selects_the_nearest_frames_and_none_twice(video_fps, share):
    fps = video_fps * share
    numbers = selected(Pace(fps=fps), video_fps, 200)
    assert all(a < b for a, b in zip(numbers, numbers[1:], strict=False))
    np.testing.assert_allclose(numbers, np.arange(200) * video_fps / fps, atol=0.5 + 1e-3)


def test_clips_that_start_with_one_repeated_frame_have_different_names():
    class Uneven(CountedSource):
        def frames(self, item: str, pace: Pace) -> Iterator[Frame]:
            times = [0, 1, 2, 30, 31]
            for number in pace.select(range(5), lambda number: times[number] / 10):
                yield Frame(number, np.full((8, 12, 3), number, np.uint8))

    rule = replace(RULE, frames=2, min_frames=2, stride=1, pace=Pace(fps=2))
    names = [clip.name for clip in cut_clips(Uneven(5), "v", rule)]
    assert names == ["v_000000", "v_000002", "v_000002r1", "v_000002r2", "v_000003", "v_000003r1"]


@pytest.mark.parametrize("video_fps", [None, 0.0, float("nan"), -1.0, 24.0])
def test_a_rate_above_that_of_the_video_is_refused(video_fps):
    with pytest.raises(ValueError, match="v: .*fps"):
        Pace(fps=25).within(video_fps, "v")


# --- What is in no clip ----------------------------------------------------------------------------------


def left_out_of(source: CountedSource, rule: ClipRule) -> dict[str, int]:
    cut = cut_clips(source, "v", rule)
    while True:
        try:
            next(cut)
        except StopIteration as end:
            assert {entry.name for entry in end.value} <= {"v"}
            return {entry.reason: entry.frames for entry in end.value}


@quick
@given(st.integers(5, 60), st.integers(1, 12), st.integers(1, 4), st.integers(0, 3))
def test_every_frame_up_to_the_last_selected_one_is_in_a_clip_or_listed(length, stride, interval, offset):
    rule = replace(RULE, frames=2, min_frames=2, stride=stride, pace=Pace(interval, offset=offset))
    selected = range(offset, length, interval)
    if len(selected) < 2:
        return
    starts = [n for n in range(len(selected) - 1) if n % stride == 0]
    inside = {selected[n + k] for n in starts for k in (0, 1)}
    last = starts[-1] + 1
    expected = {
        NOT_SELECTED: selected[-1] + 1 - len(selected),
        BETWEEN: len([n for n in selected[:last] if n not in inside]),
        REST: len(selected) - 1 - last,
    }
    found = left_out_of(CountedSource(length), rule)
    assert found == {reason: count for reason, count in expected.items() if count}


def test_pictures_after_a_precut_clip_are_listed():
    assert left_out_of(CountedSource(9, precut=True), RULE) == {REST: 4}


def test_a_shorter_clip_of_a_test_set_leaves_out_the_frames_after_it():
    assert left_out_of(CountedSource(4), replace(RULE, min_frames=3)) == {REST: 1}


def test_unknown_class_ids_are_an_error_or_background_and_counted():
    source = CountedSource(55, parts=True)
    with pytest.raises(ValueError, match="v: mask of frame 49: class id 49 is over 48.*on_bad_masks"):
        list(cut_clips(source, "v", RULE))
    repaired = replace(RULE, repair_masks=True)
    clips = list(cut_clips(source, "v", repaired))
    assert [int(mask.max()) for mask in clips[9].masks] == [45, 46, 47, 48, 0]
    assert left_out_of(source, repaired) == {UNKNOWN_CLASS: 6}
