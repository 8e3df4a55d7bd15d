import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.sources.source_contract import (
    REAL_VIDEOS,
    SourceContract,
    clips_of,
    frames_of,
    gray_frame,
    levels,
    make_picture_folder,
    make_video_file,
)
from vdp.data.sources.pairs import PairSource
from vdp.data.sources.protocols import Pace
from vdp.data.video.decode import decode_frames


def make_pictures(folder: Path, frames: int = 25, size: tuple[int, int] = (64, 96), above: int = 0) -> Path:
    """Frame k is of gray level 10 k + above."""
    folder.mkdir(parents=True)
    for k in range(frames):
        assert cv2.imwrite(str(folder / f"{k}.png"), gray_frame(10 * k + above, *size))
    return folder


def make_list(path: Path, *pairs: tuple[str, ...]) -> Path:
    """A list of pairs, (input, target) or (input, target, mask), as YAML or CSV by the suffix of its name."""
    names = ("input", "target", "mask")
    if path.suffix.lower() == ".csv":
        rows = [names, *(pair if len(pair) == 3 else (*pair, "") for pair in pairs)]
        path.write_text("".join(",".join(row) + "\n" for row in rows))
    else:
        path.write_text("".join(f"- {json.dumps(dict(zip(names, pair, strict=False)))}\n" for pair in pairs))
    return path


def side_by_side(source: PairSource, item: str) -> tuple[list[int], list[int]]:
    """Mean level of each frame of the input and of the target."""
    frames = frames_of(source, item)
    inputs, targets = [frame.condition for frame in frames], [frame.pixels for frame in frames]
    return levels(np.stack(inputs)), levels(np.stack(targets))


class TestFoldersOfPairs(SourceContract):
    kind = PairSource
    real = REAL_VIDEOS

    def make(self, folder: Path) -> PairSource:
        make_pictures(folder / "input" / "clip 10", above=5)
        make_pictures(folder / "target" / "clip 10")
        make_video_file(folder / "input" / "deep" / "clip 2.avi", frames=22)
        make_video_file(folder / "target" / "deep" / "clip 2.mp4", frames=22)
        (folder / "target" / "deep" / "notes.txt").touch()
        make_video_file(folder / "input" / "clip 9.mp4", frames=25, height=32, width=48)
        make_pictures(folder / "target" / "clip 9")
        return PairSource(folder)

    def real_source(self, real: Path, tmp_path: Path) -> PairSource:
        for side in ("input", "target"):
            (tmp_path / "real" / side).mkdir(parents=True)
            os.symlink(real / "bikes.mp4", tmp_path / "real" / side / "bikes.mp4")
        return PairSource(tmp_path / "real")

    def test_names_are_matched_without_the_suffix(self, source):
        assert source.items() == ["clip 9", "clip 10", "deep/clip 2"]
        assert source.label("deep/clip 2") == str(source.folder / "target/deep/clip 2.mp4")
        names = [path.relative_to(source.folder).as_posix() for path in source.files("deep/clip 2")]
        assert names == ["input/deep/clip 2.avi", "target/deep/clip 2.mp4"]
        assert len(source.files("clip 10")) == 50

    def test_pixels_are_the_targets_and_conditions_the_inputs(self, source):
        inputs, targets = side_by_side(source, "clip 10")
        assert targets == [10 * k for k in range(25)]
        assert inputs == [10 * k + 5 for k in range(25)]
        clip = next(clip for clip in clips_of(source) if clip.name == "clip 10_000000")
        assert levels(clip.conditions)[:3] == [5, 15, 25] and levels(clip.frames)[:3] == [0, 10, 20]

    def test_an_input_of_another_size_is_brought_to_its_targets(self, source):
        for frame in frames_of(source, "clip 9"):
            assert frame.condition.shape == frame.pixels.shape == (64, 96, 3)

    def test_there_are_no_masks_unless_they_lie_beside_the_targets_pictures(self, source):
        assert frames_of(source, "clip 10")[0].mask is None
        masks = np.arange(25, dtype=np.uint8)[:, None, None] * np.ones((25, 64, 96), np.uint8)
        np.save(source.folder / "target" / "clip 10" / "mask.npy", masks)
        assert [frame.mask.max() for frame in frames_of(source, "clip 10", Pace(interval=10))] == [0, 10, 20]


class TestYamlOfPairs(SourceContract):
    kind = PairSource
    list_name = "pairs.yaml"

    def make(self, folder: Path) -> PairSource:
        make_video_file(folder / "noisy" / "b.avi", frames=23)
        make_pictures(folder / "noisy" / "a", above=5)
        make_picture_folder(folder / "clean" / "a", frames=25)
        make_video_file(folder / "clean" / "b.mp4", frames=23)
        np.save(
            folder / "b.npy", np.arange(23, dtype=np.uint8)[:, None, None] * np.ones((23, 64, 96), np.uint8)
        )
        return PairSource(
            make_list(
                folder / self.list_name, ("noisy/b.avi", "clean/b.mp4", "b.npy"), ("noisy/a", "./clean/a")
            )
        )

    def test_items_are_the_inputs_in_the_order_of_the_list(self, source):
        assert source.items() == ["noisy/b.avi", "noisy/a"]
        names = [path.relative_to(source.folder).as_posix() for path in source.files("noisy/b.avi")]
        assert names == ["noisy/b.avi", "clean/b.mp4", "b.npy"]

    def test_the_two_sides_go_together(self, source):
        inputs, targets = side_by_side(source, "noisy/a")
        assert inputs == [10 * k + 5 for k in range(25)] and targets == [10 * k for k in range(25)]

    def test_masks_of_the_list_go_with_their_frames(self, source):
        frames = frames_of(source, "noisy/b.avi", Pace(interval=9, offset=2))
        assert [frame.mask.max() for frame in frames] == [2, 11, 20]
        assert frames_of(source, "noisy/a")[0].mask is None

    @pytest.mark.parametrize(
        ("masks", "message"),
        [
            (np.zeros((22, 64, 96), np.uint8), r"expected uint8 masks of shape \(23, 64, 96\)"),
            (np.zeros((23, 32, 96), np.uint8), r"expected uint8 masks of shape \(23, 64, 96\)"),
            (np.full((23, 64, 96), 49, np.uint8), "class id 49 is over 48"),
        ],
    )
    def test_masks_that_do_not_fit_are_told(self, source, masks, message):
        np.save(source.folder / "b.npy", masks)
        with pytest.raises(ValueError, match=f"b.npy: {message}"):
            frames_of(source, "noisy/b.avi", Pace(interval=5))


class TestCsvOfPairs(TestYamlOfPairs):
    list_name = "Pairs.CSV"

    def make(self, folder: Path) -> PairSource:
        source = super().make(folder)
        (folder / "pairs.csv").write_text(
            '\ufefftarget, mask, input\r\nclean/b.mp4,b.npy,noisy/b.avi\r\n\r\n"clean/a",,noisy/a\r\n'
        )
        assert source.items() == PairSource(folder / "pairs.csv").items()
        return PairSource(folder / "pairs.csv")


# --- Pace and length -------------------------------------------------------------------------------------


def test_the_rate_is_the_targets_or_else_the_inputs(tmp_path):
    make_video_file(tmp_path / "input" / "a.mp4", frames=50, fps=25)
    make_video_file(tmp_path / "target" / "a.mp4", frames=50, fps=50)
    assert [frame.number for frame in frames_of(PairSource(tmp_path), "a", Pace(fps=10))] == [
        *range(0, 50, 5)
    ]
    (tmp_path / "target" / "a.mp4").unlink()
    make_picture_folder(tmp_path / "target" / "a", frames=50)
    assert [frame.number for frame in frames_of(PairSource(tmp_path), "a", Pace(fps=5))] == [*range(0, 50, 5)]


def test_two_folders_of_pictures_have_no_rate(tmp_path):
    make_pictures(tmp_path / "input" / "a")
    make_pictures(tmp_path / "target" / "a")
    with pytest.raises(ValueError, match="target/a: states no frame rate; set fps to null"):
        frames_of(PairSource(tmp_path), "a", Pace(fps=5))


@pytest.mark.parametrize(("inputs", "targets"), [(24, 25), (25, 24), (0, 25)])
@pytest.mark.parametrize("pace", [Pace(), Pace(interval=20)])
def test_videos_of_different_length_are_told_whatever_is_taken(tmp_path, inputs, targets, pace):
    make_pictures(tmp_path / "noisy", inputs)
    make_pictures(tmp_path / "clean", targets)
    source = PairSource(make_list(tmp_path / "pairs.yml", ("noisy", "clean")))
    with pytest.raises(
        ValueError, match=f"noisy: has {inputs} frames, its target .*clean has {targets}"
    ) as error:
        frames_of(source, "noisy", pace)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("side", ["input", "target"])
def test_an_unreadable_video_is_named(tmp_path, side):
    for name in ("input", "target"):
        make_video_file(tmp_path / name / "a.mp4", frames=22)
    (tmp_path / side / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=f"{side}/a.mp4: not a readable video"):
        frames_of(PairSource(tmp_path), "a")


def test_real_videos_are_paired_frame_by_frame(tmp_path):
    path = REAL_VIDEOS / "carphone_pristine.mp4"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    noisy = tmp_path / "noisy"
    noisy.mkdir()
    for number, pixels in decode_frames(path, Pace()):
        assert cv2.imwrite(str(noisy / f"{number}.bmp"), 255 - pixels[..., ::-1])
    source = PairSource(make_list(tmp_path / "pairs.csv", ("noisy", str(path))))
    frames = frames_of(source, "noisy")
    assert len(frames) == 120
    for frame in frames:
        np.testing.assert_array_equal(frame.condition, 255 - frame.pixels)


# --- Folders that are wrong ------------------------------------------------------------------------------


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["input/a.mp4"],
            "input/a.mp4: has no partner of its name in .*/target; add it, or remove this input",
        ),
        (["target/b/0.png"], "target/b: has no partner of its name in .*/input; .*remove this target"),
        (["input/a2.mp4", "input/a10.mp4"], r"input/a2.mp4: has no partner .* \(2 such videos\)"),
        (["input/a.mp4", "target/A.mp4"], "input/a.mp4: has no partner"),
        (
            ["input/a.mp4", "input/a.avi", "target/a.mp4"],
            "input/a.avi and .*input/a.mp4: two videos of one name",
        ),
        (
            ["input/a.mp4", "target/a.mp4", "target/a/0.png"],
            "target/a.mp4 and .*target/a: two videos of one name",
        ),
    ],
)
def test_videos_that_cannot_be_paired_are_told_at_once(tmp_path, files, message):
    for name in ("input", "target"):
        (tmp_path / name).mkdir()
    for name in files:
        touch(tmp_path / name)
    with pytest.raises(ValueError, match=message) as error:
        PairSource(tmp_path)
    assert "\n" not in str(error.value)


def test_pictures_right_in_the_two_folders_are_one_pair(tmp_path):
    make_pictures(tmp_path / "my clip" / "input", above=5)
    make_pictures(tmp_path / "my clip" / "target")
    source = PairSource(tmp_path / "my clip")
    assert source.items() == ["my clip"]
    assert side_by_side(source, "my clip")[0] == [10 * k + 5 for k in range(25)]


def test_what_holds_no_pairs_has_no_items(tmp_path):
    (tmp_path / "input").mkdir()
    assert PairSource(tmp_path).items() == []
    (tmp_path / "target").mkdir()
    assert PairSource(tmp_path).items() == []
    assert PairSource(make_video_file(tmp_path / "a.mp4", frames=1)).items() == []


# --- Lists that are wrong --------------------------------------------------------------------------------

ENTRY = "{input: a.mp4, target: b.mp4}"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.yaml", "", r"p.yaml: expected a list of \{input: path, target: path\}, got None"),
        ("p.yaml", "[]", "p.yaml: names no pairs"),
        ("p.yaml", ENTRY, "p.yaml: expected a list of .*, got {'input': 'a.mp4'"),
        ("p.yaml", f"- {ENTRY}\n- [", r"p.yaml: not readable YAML \(line 2\)"),
        ("p.yaml", b"- {input: \xff}", "p.yaml: not readable YAML"),
        ("p.yaml", "[" * 1000, "p.yaml: not readable YAML"),
        ("p.yaml", "- 2020-13-45", "p.yaml: not readable YAML"),
        ("p.yaml", "- !!bool x", "p.yaml: not readable YAML"),
        ("p.yaml", "- !!timestamp x", "p.yaml: not readable YAML"),
        ("p.yaml", "- !!python/object/apply:os.system [true]", "p.yaml: not readable YAML"),
        (
            "p.yaml",
            "- a.mp4",
            "p.yaml: entry 1: expected input, target and, if there is one, mask, got 'a.mp4'",
        ),
        ("p.yaml", f"- {ENTRY}\n- {{input: b.mp4}}", "p.yaml: entry 2: expected input, target"),
        ("p.yaml", "- {input: a.mp4, target: b.mp4, masks: c}", "p.yaml: entry 1: expected input, target"),
        (
            "p.yaml",
            "- {input: 7, target: b.mp4}",
            "p.yaml: entry 1: expected input to be a path, got 7; quote it",
        ),
        ("p.yaml", "- {input: a.mp4, target: }", "p.yaml: entry 1: expected target to be a path, got None"),
        ("p.yaml", "- {input: ' ', target: b.mp4}", "p.yaml: entry 1: expected input to be a path, got ' '"),
        ("p.yaml", "- {input: a.mp4, target: [b.mp4]}", "p.yaml: entry 1: expected target to be a path"),
        (
            "p.yaml",
            "- {input: c.mp4, target: b.mp4}",
            "p.yaml: entry 1: input '.*/c.mp4' is not there; correct",
        ),
        (
            "p.yaml",
            '- {input: "a\\n.mp4", target: b.mp4}',
            r"p.yaml: entry 1: input '.*/a\\n.mp4' is not there",
        ),
        ("p.yaml", '- {input: "a\\0", target: b.mp4}', "p.yaml: entry 1: input '.*' is not there"),
        ("p.yaml", "- {input: a.mp4, target: b.mp4, mask: m.npy}", "p.yaml: entry 1: mask '.*/m.npy' is not"),
        ("p.yaml", "- {input: p.yaml, target: b.mp4}", "p.yaml: entry 1: expected input to be a video file"),
        ("p.yaml", f"- {ENTRY}\n- {ENTRY}", "p.yaml: entry 2: has the same input as entry 1; remove one"),
        ("p.yaml", f"- {ENTRY}\n- {{input: ./a.mp4, target: a.mp4}}", "p.yaml: entry 2: has the same input"),
        ("p.yaml", "- &a [*a]", "p.yaml: entry 1: expected input, target"),
        ("p.yaml", f"&a [{ENTRY}, *a]", "p.yaml: entry 2: expected input, target"),
        ("p.csv", "", "p.csv: expected the header input,target or input,target,mask, got ''"),
        ("p.csv", "input,target\n", "p.csv: names no pairs"),
        ("p.csv", "a.mp4,b.mp4\n", "p.csv: expected the header input,target .*, got 'a.mp4,b.mp4'"),
        ("p.csv", "input;target\na.mp4;b.mp4\n", "p.csv: expected the header"),
        ("p.csv", "input,target,target\n", "p.csv: expected the header"),
        ("p.csv", b"input,target\n\xff,b.mp4\n", "p.csv: not readable CSV in UTF-8"),
        ("p.csv", 'input,target\n"a.mp4,b.mp4\n', "p.csv: not readable CSV"),
        ("p.csv", b"input,target\na\0,b\n", "p.csv: "),
        ("p.csv", "input,target\n\na.mp4\n", "p.csv: line 3: expected 2 values, as in the header, got 1"),
        (
            "p.csv",
            "input,target\na.mp4,b.mp4,b.npy\n",
            "p.csv: line 2: expected 2 values, .* got 3; quote a path",
        ),
        ("p.csv", "input,target\na.mp4,\n", "p.csv: line 2: expected target to be a path, got ''"),
        ("p.csv", "input,target\na.mp4,c.mp4\n", "p.csv: line 2: target '.*/c.mp4' is not there"),
        ("p.csv", "input,target\na.mp4,b.mp4\na.mp4,b.mp4\n", "p.csv: line 3: has the same input as line 2"),
    ],
)
def test_a_list_that_cannot_be_used_is_told_at_once(tmp_path, name, text, message):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").touch()
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        PairSource(tmp_path / name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 2 * len(str(tmp_path)) + 250


def test_a_missing_list_is_an_error_of_its_own(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.yaml"):
        PairSource(tmp_path / "gone.yaml")


def test_a_mask_may_be_null(tmp_path):
    make_pictures(tmp_path / "noisy")
    make_pictures(tmp_path / "clean")
    (tmp_path / "pairs.yaml").write_text("- {input: noisy, target: clean, mask: null}\n")
    assert frames_of(PairSource(tmp_path / "pairs.yaml"), "noisy")[0].mask is None


def test_one_target_may_have_several_inputs(tmp_path):
    for name, above in (("weak", 2), ("strong", 5), ("clean", 0)):
        make_pictures(tmp_path / name, above=above)
    source = PairSource(make_list(tmp_path / "pairs.csv", ("weak", "clean"), ("strong", "clean")))
    assert [side_by_side(source, item)[0][0] for item in source.items()] == [2, 5]
