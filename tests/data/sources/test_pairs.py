import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.data.sources.source_contract import (
    REAL_VIDEOS,
    SourceContract,
    clips_of,
    frames_of,
    levels,
    make_picture_folder,
    make_video_file,
)
from vdp.data.sources.pairs import PairSource
from vdp.data.sources.protocols import Pace

TENS = [10 * k for k in range(25)]


def make_list(path: Path, *pairs: tuple[str, ...]) -> Path:
    """A list of pairs (input, target) or (input, target, mask), YAML or CSV by suffix."""
    names = ("input", "target", "mask")
    if path.suffix.lower() == ".csv":
        rows = [names, *(pair if len(pair) == 3 else (*pair, "") for pair in pairs)]
        path.write_text("".join(",".join(row) + "\n" for row in rows))
    else:
        path.write_text("".join(f"- {json.dumps(dict(zip(names, pair, strict=False)))}\n" for pair in pairs))
    return path


def levels_of(source: PairSource, item: str) -> tuple[list[int], list[int]]:
    """Mean level of each frame of the input and of the target."""
    frames = frames_of(source, item)
    inputs, targets = [frame.condition for frame in frames], [frame.pixels for frame in frames]
    return levels(np.stack(inputs)), levels(np.stack(targets))


def numbered_masks(frames: int) -> np.ndarray:
    return np.arange(frames, dtype=np.uint8)[:, None, None] * np.ones((frames, 64, 96), np.uint8)


class TestFoldersOfPairs(SourceContract):
    kind = PairSource
    real = REAL_VIDEOS

    def make(self, folder: Path) -> PairSource:
        make_picture_folder(folder / "input" / "clip 10", 25, start=5)
        make_picture_folder(folder / "target" / "clip 10", 25)
        make_video_file(folder / "input" / "deep" / "clip 2.avi", frames=22)
        make_video_file(folder / "target" / "deep" / "clip 2.mp4", frames=22)
        (folder / "target" / "deep" / "notes.txt").touch()
        make_video_file(folder / "input" / "clip 9.mp4", frames=25, height=32, width=48)
        make_picture_folder(folder / "target" / "clip 9", 25)
        return PairSource(folder)

    def real_source(self, real: Path, tmp_path: Path) -> PairSource:
        for side in ("input", "target"):
            (tmp_path / "real" / side).mkdir(parents=True)
            os.symlink(real / "bikes.mp4", tmp_path / "real" / side / "bikes.mp4")
        return PairSource(tmp_path / "real")

    def test_names_match_without_the_suffix(self, source):
        assert source.items() == ["clip 9", "clip 10", "deep/clip 2"]
        assert source.label("deep/clip 2") == str(source.folder / "target/deep/clip 2.mp4")
        names = [path.relative_to(source.folder).as_posix() for path in source.files("deep/clip 2")]
        assert names == ["input/deep/clip 2.avi", "target/deep/clip 2.mp4"]
        assert len(source.files("clip 10")) == 50

    def test_pixels_are_the_target_and_conditions_the_input(self, source):
        assert levels_of(source, "clip 10") == ([level + 5 for level in TENS], TENS)
        clip = next(clip for clip in clips_of(source) if clip.name == "clip 10_000000")
        assert levels(clip.conditions)[:3] == [5, 15, 25] and levels(clip.frames)[:3] == [0, 10, 20]

    def test_an_input_is_resized_to_its_target(self, source):
        for frame in frames_of(source, "clip 9"):
            assert frame.condition.shape == frame.pixels.shape == (64, 96, 3)

    def test_masks_beside_the_pictures_of_a_target_are_read(self, source):
        assert frames_of(source, "clip 10")[0].mask is None
        np.save(source.folder / "target" / "clip 10" / "mask.npy", numbered_masks(25))
        assert [frame.mask.max() for frame in frames_of(source, "clip 10", Pace(interval=10))] == [0, 10, 20]


class TestYamlOfPairs(SourceContract):
    kind = PairSource

    def make(self, folder: Path) -> PairSource:
        make_video_file(folder / "noisy" / "b.avi", frames=23)
        make_picture_folder(folder / "noisy" / "a", 25, start=5)
        make_picture_folder(folder / "clean" / "a", 25)
        make_video_file(folder / "clean" / "b.mp4", frames=23)
        np.save(folder / "b.npy", numbered_masks(23))
        pairs = ("noisy/b.avi", "clean/b.mp4", "b.npy"), ("noisy/a", "./clean/a")
        return PairSource(make_list(folder / "pairs.yaml", *pairs))

    def test_items_are_the_inputs_in_the_order_of_the_list(self, source):
        assert source.items() == ["noisy/b.avi", "noisy/a"]
        names = [path.relative_to(source.folder).as_posix() for path in source.files("noisy/b.avi")]
        assert names == ["noisy/b.avi", "clean/b.mp4", "b.npy"]
        assert levels_of(source, "noisy/a") == ([level + 5 for level in TENS], TENS)

    def test_masks_go_with_their_frames(self, source):
        frames = frames_of(source, "noisy/b.avi", Pace(interval=9, offset=2))
        assert [frame.mask.max() for frame in frames] == [2, 11, 20]
        assert frames_of(source, "noisy/a")[0].mask is None

    def test_masks_of_another_length_are_refused(self, source):
        np.save(source.folder / "b.npy", numbered_masks(22))
        with pytest.raises(ValueError, match=r"b.npy: expected uint8 masks of shape \(23, 64, 96\)"):
            frames_of(source, "noisy/b.avi", Pace(interval=5))


class TestCsvOfPairs(TestYamlOfPairs):
    def make(self, folder: Path) -> PairSource:
        super().make(folder)
        (folder / "Pairs.CSV").write_text(
            '\ufefftarget, mask, input\r\nclean/b.mp4,b.npy,noisy/b.avi\r\n\r\n"clean/a",,noisy/a\r\n'
        )
        return PairSource(folder / "Pairs.CSV")


# --- Rate and length -------------------------------------------------------------------------------------


def test_the_rate_is_the_targets_or_else_the_inputs(tmp_path):
    make_video_file(tmp_path / "input" / "a.mp4", frames=50, fps=25)
    make_video_file(tmp_path / "target" / "a.mp4", frames=50, fps=50)
    numbers = [frame.number for frame in frames_of(PairSource(tmp_path), "a", Pace(fps=10))]
    assert numbers == list(range(0, 50, 5))
    (tmp_path / "target" / "a.mp4").unlink()
    make_picture_folder(tmp_path / "target" / "a", frames=50)
    assert [x.number for x in frames_of(PairSource(tmp_path), "a", Pace(fps=5))] == list(range(0, 50, 5))
    (tmp_path / "input" / "a.mp4").unlink()
    make_picture_folder(tmp_path / "input" / "a", frames=50)
    with pytest.raises(ValueError, match="target/a: no frame rate; set fps to null"):
        frames_of(PairSource(tmp_path), "a", Pace(fps=5))


@pytest.mark.parametrize(("inputs", "targets"), [(24, 25), (25, 24), (1, 25)])
@pytest.mark.parametrize("pace", [Pace(), Pace(interval=20)])
def test_videos_of_different_length_are_refused_at_any_pace(tmp_path, inputs, targets, pace):
    make_picture_folder(tmp_path / "noisy", inputs)
    make_picture_folder(tmp_path / "clean", targets)
    source = PairSource(make_list(tmp_path / "pairs.yml", ("noisy", "clean")))
    message = f"noisy: has {inputs} frames, its target .*clean has {targets}"
    with pytest.raises(ValueError, match=message) as error:
        frames_of(source, "noisy", pace)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("side", ["input", "target"])
def test_an_unreadable_video_is_named(tmp_path, side):
    for name in ("input", "target"):
        make_video_file(tmp_path / name / "a.mp4", frames=22)
    (tmp_path / side / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=f"{side}/a.mp4: not a readable video"):
        frames_of(PairSource(tmp_path), "a")


# --- Invalid folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["input/a.mp4"], "input/a.mp4: no video of the same name in .*/target; .*remove this input"),
        (["target/b/0.png"], "target/b: no video of the same name in .*/input; .*remove this target"),
        (["input/a2.mp4", "input/a10.mp4"], r"input/a2.mp4: no video .* \(2 such videos\)"),
        (["input/a.mp4", "input/a.avi", "target/a.mp4"], "input/a.avi and .*input/a.mp4: two videos"),
        (["input/a.mp4", "target/a.mp4", "target/a/0.png"], "target/a.mp4 and .*target/a: two videos"),
    ],
)
def test_videos_without_exactly_one_partner_are_refused(tmp_path, files, message):
    for name in ["input/x", "target/x", *files]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=message) as error:
        PairSource(tmp_path)
    assert "\n" not in str(error.value)


def test_pictures_directly_in_the_two_folders_are_one_pair(tmp_path):
    make_picture_folder(tmp_path / "my clip" / "input", 25, start=5)
    make_picture_folder(tmp_path / "my clip" / "target", 25)
    source = PairSource(tmp_path / "my clip")
    assert source.items() == ["my clip"]
    assert levels_of(source, "my clip") == ([level + 5 for level in TENS], TENS)


def test_other_folders_and_files_have_no_items(tmp_path):
    for name in ("input", "target"):
        (tmp_path / name).mkdir()
        assert PairSource(tmp_path).items() == []
    assert PairSource(make_video_file(tmp_path / "a.mp4", frames=1)).items() == []


# --- Invalid lists ---------------------------------------------------------------------------------------

ENTRY = "{input: a.mp4, target: b.mp4}"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.yaml", "", r"p.yaml: expected a list of \{input: path, target: path\}, got None"),
        ("p.yaml", "[]", "p.yaml: no pairs"),
        ("p.yaml", ENTRY, "p.yaml: expected a list of .*, got {'input': 'a.mp4'"),
        ("p.yaml", f"- {ENTRY}\n- [", r"p.yaml: not readable YAML \(line 2\)"),
        ("p.yaml", b"- {input: \xff}", "p.yaml: not readable YAML"),
        ("p.yaml", "- 2020-13-45", "p.yaml: not readable YAML"),
        ("p.yaml", "- !!bool x", "p.yaml: not readable YAML"),
        ("p.yaml", "- !!python/object/apply:os.system [true]", "p.yaml: not readable YAML"),
        ("p.yaml", "- a.mp4", "entry 1: expected input, target and optionally mask, got 'a.mp4'"),
        ("p.yaml", "- {input: a.mp4, target: b.mp4, masks: c}", "entry 1: expected input, target"),
        ("p.yaml", "- {input: 7, target: b.mp4}", "entry 1: input=7: expected a path; quote it"),
        ("p.yaml", "- {input: a.mp4, target: }", "entry 1: target=None: expected a path"),
        ("p.yaml", "- {input: ' ', target: b.mp4}", "entry 1: input=' ': expected a path"),
        ("p.yaml", "- {input: c.mp4, target: b.mp4}", "entry 1: input '.*/c.mp4' not found"),
        ("p.yaml", '- {input: "a\\n.mp4", target: b.mp4}', r"entry 1: input '.*/a\\n.mp4' not found"),
        ("p.yaml", '- {input: "a\\0", target: b.mp4}', "entry 1: input '.*' not found"),
        ("p.yaml", "- {input: a.mp4, target: b.mp4, mask: m.npy}", "entry 1: mask '.*/m.npy' not found"),
        ("p.yaml", "- {input: p.yaml, target: b.mp4}", "entry 1: input .*: expected a video file"),
        ("p.yaml", f"- {ENTRY}\n- {ENTRY}", "entry 2: has the same input as entry 1"),
        ("p.yaml", f"- {ENTRY}\n- {{input: ./a.mp4, target: a.mp4}}", "entry 2: has the same input"),
        ("p.yaml", "- &a [*a]", "entry 1: expected input, target"),
        ("p.csv", "", "p.csv: expected the header input,target or input,target,mask, got ''"),
        ("p.csv", "input,target\n", "p.csv: no pairs"),
        ("p.csv", "a.mp4,b.mp4\n", "p.csv: expected the header input,target .*, got 'a.mp4,b.mp4'"),
        ("p.csv", "input,target,target\n", "p.csv: expected the header"),
        ("p.csv", b"input,target\n\xff,b.mp4\n", "p.csv: not readable CSV in UTF-8"),
        ("p.csv", 'input,target\n"a.mp4,b.mp4\n', "p.csv: not readable CSV"),
        ("p.csv", "input,target\n\na.mp4\n", "line 3: expected 2 values, .* got 1"),
        ("p.csv", "input,target\na.mp4,b.mp4,b.npy\n", "line 2: expected 2 values, .* got 3; quote"),
        ("p.csv", "input,target\na.mp4,\n", "line 2: target='': expected a path"),
        ("p.csv", "input,target\na.mp4,b.mp4\na.mp4,b.mp4\n", "line 3: has the same input as line 2"),
    ],
)
def test_an_invalid_list_is_refused_when_it_is_opened(tmp_path, name, text, message):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").touch()
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        PairSource(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 2 * len(str(tmp_path)) + 250


def test_a_missing_list_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.yaml"):
        PairSource(tmp_path / "gone.yaml")


def test_a_target_may_have_several_inputs_and_a_mask_may_be_null(tmp_path):
    for name, start in (("weak", 2), ("strong", 5), ("clean", 0)):
        make_picture_folder(tmp_path / name, start=start)
    text = "- {input: weak, target: clean, mask: null}\n- {input: strong, target: clean}\n"
    (tmp_path / "pairs.yaml").write_text(text)
    source = PairSource(tmp_path / "pairs.yaml")
    assert [levels_of(source, item)[0][0] for item in source.items()] == [2, 5]
    assert frames_of(source, "weak")[0].mask is None
