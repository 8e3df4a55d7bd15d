"""The extract_frames stage on small sources."""

from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages import extract_frames
from vdp.data.stores.clips import ClipStore

pytestmark = pytest.mark.slow

PARAMS = """
clip: {frames: 6, known: 3, height: 16, width: 24}
extract_frames:
  train: raw/train
  val: null
  val_share: 0.0
  unlabeled: raw/more
  test_sets: {hidden: raw/hidden, made: raw/train}
  interval: 1
  fps: null
  offset: 0
  stride: 6
  scene_cut: null
  fit: crop
  on_bad_video: error
  on_bad_masks: error
  group: null
  max_bad_share: 0.5
  shard_mb: 1
  workers: 1
"""


class Recorder:
    """A fake tracker."""

    is_main = True

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
    def track_stage(name: str, workers: int):
        assert (name, workers) == ("extract_frames", 1)
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
    counts = {f"clips.{split}": 1 for split in stores} | {f"skipped.{split}": 0 for split in stores}
    assert tracker.values == counts
    assert "train: 1 clips of 6 frames, 24x16, 1 with masks" in capsys.readouterr().out


def test_a_video_of_context_frames_only_is_refused_outside_of_test_sets(tracker):
    make_video(Path("raw/train/video_1"), 3, labelled=False)
    with pytest.raises(ValueError, match="raw/train/video_1: .*expected at least 6"):
        extract_frames.main()
    assert not Path("data").exists()


def test_a_missing_folder_stops_before_any_work(tracker):
    Path("raw/hidden").rename("raw/test")
    with pytest.raises(FileNotFoundError, match="extract_frames.test_sets.hidden.*raw/hidden"):
        extract_frames.main()
    assert not Path("data").exists()


def test_skipped_videos_are_counted_and_printed(tracker, capsys):
    make_video(Path("raw/more/video_2001"), 2, labelled=False)
    Path("params.yaml").write_text(PARAMS.replace("on_bad_video: error", "on_bad_video: skip"))
    extract_frames.main()
    assert tracker.values["skipped.unlabeled"] == 1 and tracker.values["clips.unlabeled"] == 1
    out = capsys.readouterr()
    assert "unlabeled: 1 clips of 6 frames, 24x16, 0 with masks, 1 videos skipped" in out.out
    assert "skipped: raw/more/video_2001: " in out.err


def test_a_stop_leaves_no_clips_and_the_next_run_resumes(tracker, monkeypatch):
    make_video(Path("raw/more/video_2001"), 2, labelled=False)
    with pytest.raises(ValueError, match="extract_frames.unlabeled: raw/more/video_2001: "):
        extract_frames.main()
    assert not Path("data").exists() and list(Path(".resume/extract_frames").glob("train-*"))
    make_video(Path("raw/fixed"), 6, labelled=False)
    Path("raw/more/video_2001").rename("raw/short")
    Path("raw/fixed").rename("raw/more/video_2001")
    extract_frames.main()
    assert len(ClipStore(Path("data/clips/unlabeled"))) == 2
    assert [path.name for path in Path(".resume/extract_frames").iterdir()] == ["lock"]


def test_val_may_be_a_share_of_train(tracker):
    for number in range(1, 9):
        make_video(Path(f"raw/train/video_{number}"), 6, labelled=True)
    Path("params.yaml").write_text(PARAMS.replace("val_share: 0.0", "val_share: 0.3"))
    extract_frames.main()
    train, val = (set(ClipStore(Path("data/clips") / split).names) for split in ("train", "val"))
    assert train and val and not train & val and len(train | val) == 9
