"""Find and read input clips; write frames without overwriting other files."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from vdp.core.errors import UserError
from vdp.data.sources.input_clips import find_clip, find_clips
from vdp.data.sources.protocols import Pace
from vdp.data.video.decode import count_frames, decode_frames, frame_rate
from vdp.data.video.write import atomic_outputs, check_outputs, write_frames, write_masks, write_picture

GRAY = [np.full((12, 20, 3), level, np.uint8) for level in (0, 60, 120, 180, 240)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pictures(folder: str, frames: list[np.ndarray] = GRAY, name: str = "image_{}.png") -> None:
    Path(folder).mkdir(parents=True)
    for number, frame in enumerate(frames):
        write_picture(Path(folder) / name.format(number), frame)


def levels(word: str, interval: int = 1) -> list[int]:
    return [int(frame.mean().round()) for frame in find_clip(word).frames(interval)]


def test_a_folder_a_glob_and_a_video_give_the_same_frames():
    pictures("a[1]/video_3")
    write_frames(Path("b.mp4"), iter(GRAY), 25)
    for word in ("a[1]/video_3", "a[1]", "a*/video_3/*.png", "a*/*/image_?.png", "b.mp4", "b*"):
        assert levels(word) == pytest.approx([0, 60, 120, 180, 240], abs=4), word
    assert levels("a[1]", interval=2) == [0, 120, 240]
    assert (find_clip("a[1]").count(2), find_clip("b.mp4").count(2)) == (3, 3)
    assert (find_clip("a[1]").rate(), find_clip("b.mp4").rate(2)) == (10, 12.5)


def test_pictures_are_in_natural_order():
    pictures("a", [np.full((2, 2, 3), level, np.uint8) for level in range(12)])
    assert levels("a") == levels("a/*.png") == list(range(12))


def test_pictures_of_each_folder_are_one_clip_without_repetition():
    pictures("a/1"), pictures("a/2", GRAY[:2])
    clips = find_clips(["a/*/*.png", "a/2/image_0.png"])
    assert [(clip.name, clip.count()) for clip in clips] == [("a/1", 5), ("a/2", 2)]
    assert [clip.name for clip in find_clips(["a/*", "a/1"])] == ["a/1", "a/2"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("film.mpg", r"film.mpg: no such file or folder \(did you mean film.mp4\?\)"),
        ("*.avi", r"\*.avi: matches nothing"),
        ("", "'': an empty name"),
        ("empty", "empty: no pictures and no video"),
        ("two", "two: holds 2 clips; name one of them: two/1, two/2"),
        ("both", "both: holds both pictures and video files; name one of them: both/film.mp4"),
        ("two/*", "2 clips, expected one"),
        ("double", "double/a_01.png and a_1.png: two pictures at the same position"),
        ("film.mp4", "film.mp4: not a readable video"),
        ("text.png", "text.png: not a readable picture"),
        ("sizes", "sizes/b.png: expected the size of the first frame, 20x12, got 20x10"),
    ],
)
def test_an_unusable_name_is_refused_in_one_line(word, message):
    Path("film.mp4").write_text("no film")
    Path("text.png").write_text("no picture")
    Path("empty").mkdir()
    pictures("two/1"), pictures("two/2"), pictures("both"), pictures("sizes", GRAY[:1], "a.png")
    write_frames(Path("both/film.mp4"), iter(GRAY), 10)
    write_picture(Path("sizes/b.png"), GRAY[0][2:])
    pictures("double", GRAY[:1], "a_1.png")
    write_picture(Path("double/a_01.png"), GRAY[0])
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        list(find_clip(word).frames())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(1, 1), (1, 33), (63, 95), (64, 96)])
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_every_frame_of_every_size_is_written(size, suffix):
    frames = [np.full((*size, 3), level, np.uint8) for level in (20, 20, 130, 240)]
    path = Path(f"film{suffix}")
    write_frames(path, iter(frames), 25)
    back = [frame for _, frame in decode_frames(path, Pace())]
    even = tuple(side + side % 2 if suffix == ".mp4" else side for side in size)
    assert [frame.shape for frame in back] == [(*even, 3)] * 4
    assert [frame.mean() for frame in back] == pytest.approx([20, 20, 130, 240], abs=20)
    assert frame_rate(path) == 25 and count_frames(path) in (0, 4)


def test_a_gif_keeps_its_colors_and_repeats():
    ramp = np.linspace(0, 255, 40 * 60 * 3).reshape(40, 60, 3).astype(np.uint8)
    write_frames(Path("a.gif"), iter([ramp, ramp[::-1]]), 10)
    _, read = cv2.imreadanimation("a.gif")
    first = cv2.cvtColor(read.frames[0][..., :3], cv2.COLOR_BGR2RGB)
    assert (len(read.frames), read.loop_count, read.durations[0]) == (2, 0, 100)
    assert np.abs(first.astype(int) - ramp).mean() < 6


def test_pictures_and_masks_are_written_without_loss():
    write_frames(Path("out"), iter(GRAY), 10)
    assert [path.name for path in sorted(Path("out").iterdir())] == [f"frame_0000{n}.png" for n in range(5)]
    assert levels("out") == [0, 60, 120, 180, 240]
    masks = np.random.default_rng(0).integers(0, 49, (3, 5, 7), np.uint8)
    write_masks(Path("masks.npy"), iter(masks), masks.shape)
    assert np.array_equal(np.load("masks.npy"), masks)


def test_frames_too_large_for_mp4_are_refused():
    with pytest.raises(UserError, match="film.mp4: .*16386x2"):
        write_frames(Path("film.mp4"), iter([np.zeros((2, 16386, 3), np.uint8)]), 10)


def test_outputs_are_replaced_only_when_all_are_written():
    Path("a.png").write_text("old")
    outputs = atomic_outputs([Path("a.png"), Path("b.png")], force=True)
    with pytest.raises(OSError, match="full"), outputs as parts:
        parts[0].write_text("new")
        raise OSError("full")
    assert [path.read_text() for path in Path().iterdir()] == ["old"]
    with atomic_outputs([Path("new/a.png")], force=False) as parts:
        parts[0].write_text("new")
    assert [str(path) for path in Path("new").rglob("*")] == ["new/a.png"]


def test_a_file_that_appeared_during_writing_is_not_replaced():
    outputs = atomic_outputs([Path("a.png"), Path("b.png")], force=False)
    with pytest.raises(UserError, match="a.png"), outputs as parts:
        parts[0].write_text("new")
        parts[1].write_text("new")
        Path("a.png").write_text("user's")
    assert [path.read_text() for path in Path().iterdir()] == ["user's"]


@pytest.mark.parametrize(
    ("output", "force"),
    [
        ("film.mp4", True),
        ("out/../film.mp4", True),
        ("in", True),
        ("in/strip.png", True),
        ("made", False),
        ("mine", True),
        ("a\udcff.mp4", False),
        ("out/../film.mp4/a", False),
    ],
)
def test_outputs_that_would_destroy_files_are_refused(output, force):
    pictures("in"), pictures("mine")
    write_frames(Path("made"), iter(GRAY), 10)
    Path("film.mp4").touch()
    Path("out").mkdir()
    inputs = [find_clip("in").files, [Path("film.mp4")], [Path("one.png")]]
    with pytest.raises(UserError):
        check_outputs([Path(output)], inputs, force)
    check_outputs([Path("made"), Path("strip.png"), Path("x/y/z.mp4")], inputs, force=True)
    with atomic_outputs([Path("made")], force=True) as parts:
        write_frames(parts[0], iter(GRAY[:1]), 10)
    assert len(list(Path("made").iterdir())) == 1
