"""The extract_frames stage on a small source of the user's own."""

from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages import extract_frames
from vdp.data.clips import ClipStore

PARAMS = """
clip: {frames: 6, known: 3, height: 16, width: 24}
extract_frames:
  train: raw/train
  val: null
  unlabeled: raw/more
  test_sets: {hidden: raw/hidden, made: raw/train}
  interval: 1
  stride: 6
  fit: crop
  shard_mb: 1
"""


class Recorder:
    """Stands for the tracker."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def summary(self, values) -> None:
        self.values.update(values)


def make_video(folder: Path, frames: int, labelled: bool) -> None:
    folder.mkdir(parents=True)
    for k in range(frames):
        cv2.imwrite(str(folder / f"image_{k}.png"), np.full((32, 48, 3), 10 * k, np.uint8))
    if labelled:
        np.save(folder / "mask.npy", np.zeros((frames, 32, 48), np.uint8))


@pytest.fixture
def tracker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    make_video(Path("raw/train/video_0"), 6, labelled=True)
    make_video(Path("raw/more/video_2000"), 6, labelled=False)
    make_video(Path("raw/hidden/video_15000"), 3, labelled=False)
    recorder = Recorder()

    @contextmanager
    def track_stage(name: str):
        assert name == "extract_frames"
        yield recorder

    monkeypatch.setattr(extract_frames, "track_stage", track_stage)
    return recorder


def test_each_named_split_becomes_a_store(tracker, capsys):
    extract_frames.main()
    stores = {
        p.parent.relative_to("data/clips").as_posix() for p in Path("data/clips").rglob("manifest.json")
    }
    assert stores == {"train", "unlabeled", "test/hidden", "test/made"}
    assert ClipStore(Path("data/clips/test/hidden")).num_frames(0) == 3
    assert sorted(p.name for p in Path("data").iterdir()) == ["clips"]
    assert tracker.values == {f"clips.{split}": 1 for split in stores}
    assert "train: 1 clips of 6 frames, 24x16, 1 with masks" in capsys.readouterr().out


def test_a_second_run_gives_the_same_bytes(tracker):
    extract_frames.main()
    first = {p: p.read_bytes() for p in Path("data/clips").rglob("*") if p.is_file()}
    extract_frames.main()
    assert {p: p.read_bytes() for p in Path("data/clips").rglob("*") if p.is_file()} == first


def test_a_video_of_known_frames_only_is_refused_outside_of_test_sets(tracker):
    make_video(Path("raw/train/video_1"), 3, labelled=False)
    with pytest.raises(ValueError, match="raw/train/video_1: too few frames: 3, expected at least 6"):
        extract_frames.main()
    assert not Path("data/clips").exists() and not list(Path("data").iterdir())


def test_a_missing_folder_is_told_before_any_work(tracker):
    Path("raw/hidden").rename("raw/test")
    with pytest.raises(
        FileNotFoundError, match="extract_frames.test_sets.hidden: folder raw/hidden is not there"
    ):
        extract_frames.main()
    assert not Path("data").exists()
