import json
from pathlib import Path

import pytest

from tests.data.sources.source_contract import RULE, make_video_file
from vdp.data.extract.changes import changed_sources
from vdp.data.extract.extract import ExtractJob, ExtractPolicy, extract
from vdp.data.params import ExtractParams
from vdp.data.sources.select import select_videos

PARAMS = {
    "train": "videos", "val": None, "val_share": 0.5, "unlabeled": "more", "test_sets": {}, "interval": 1,
    "fps": None, "offset": 0, "stride": 22, "fit": "crop", "on_bad_video": "error", "max_bad_share": 0.0,
    "on_bad_masks": "error", "group": None, "shard_mb": 256, "workers": 1, "scene_cut": None,
}  # fmt: skip


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExtractParams:
    """Clips have been cut from three videos and two more."""
    monkeypatch.chdir(tmp_path)
    for name in ("videos/a.mp4", "videos/b.mp4", "videos/c.mp4", "more/d.mp4", "more/e.mp4"):
        make_video_file(Path(name), frames=22)
    params = ExtractParams.model_validate_json(json.dumps(PARAMS))
    jobs = {s: ExtractJob(c.source, c.videos, RULE, c.key) for s, c in select_videos(params).items()}
    Path("clips").mkdir()
    extract(jobs, Path("clips"), Path("work"), ExtractPolicy(1, False, 0.0, 1))
    return params


def changed(params: ExtractParams) -> list[str]:
    return changed_sources(params, Path("clips"))


def test_a_moved_project_has_not_changed(params, tmp_path, monkeypatch):
    assert changed(params) == []
    (tmp_path / "new").mkdir()
    for name in ("videos", "more", "clips"):
        Path(name).rename(tmp_path / "new" / name)
    monkeypatch.chdir(tmp_path / "new")
    assert changed(params) == []


def test_a_new_a_missing_and_a_longer_file_are_changes(params):
    make_video_file(Path("more/f.mp4"), frames=22)
    assert changed(params) == ["extract_frames.unlabeled"]
    Path("more/f.mp4").unlink()
    assert changed(params) == []
    make_video_file(Path("more/d.mp4"), frames=44)
    assert changed(params) == ["extract_frames.unlabeled"]
    Path("more/d.mp4").unlink()
    assert changed(params) == ["extract_frames.unlabeled"]


def test_a_new_file_is_a_change_on_either_side_of_the_split(params):
    for name in "fghijk":
        make_video_file(Path(f"videos/{name}.mp4"), frames=22)
        assert changed(params) == ["extract_frames.train"]
        Path(f"videos/{name}.mp4").unlink()


def test_a_missing_source_is_an_error(params):
    Path("more").rename("gone")
    with pytest.raises(FileNotFoundError, match="extract_frames.unlabeled.*more"):
        changed(params)


def test_nothing_has_changed_before_the_first_run(params):
    assert changed_sources(params, Path("no clips yet")) == []
