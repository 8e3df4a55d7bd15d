"""Training on arrays: what is refused, before any work; tests/test_docs.py runs a whole training."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from vdp.api import train as learn
from vdp.api.train import train
from vdp.core.errors import UserError
from vdp.data.stores.clips import ClipStore


def video(seed: int, masks: bool = False, count: int = 22):
    rng = np.random.default_rng(seed)
    clip = rng.integers(0, 256, (count, 64, 96, 3), dtype=np.uint8)
    return (clip, rng.integers(0, 49, clip.shape[:3], dtype=np.uint8)) if masks else clip


@pytest.fixture
def ran(monkeypatch, tmp_path) -> list[str]:
    """The stages that would have run, none of which does; the folder is tmp_path / 'new'."""
    stages: list[str] = []
    monkeypatch.setattr(learn, "_run", lambda folder, stage, made: stages.append(stage))
    monkeypatch.setattr(learn, "load", lambda folder: folder)
    return stages


def test_videos_become_clips_params_and_stages(ran, tmp_path):
    folder = train([video(n) for n in range(12)], tmp_path / "new", recipe="smoke", changes={"seed": 5})
    assert folder == tmp_path / "new/data/models"
    assert ran == ["pretrain_vae", "encode_latents", "train_denoiser"]
    sizes = [len(ClipStore(tmp_path / "new/data/clips" / split)) for split in ("train", "val")]
    assert sizes == [11, 1]
    params = yaml.safe_load((tmp_path / "new/params.yaml").read_text())
    assert (params["seed"], params["pretrain_vae"]["steps"], params["pretrain_vae"]["mask_weight"]) == (
        5,
        6,
        0,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_masks_are_learnt_from_where_both_splits_have_them(ran, tmp_path):
    labelled, plain = [video(n, masks=True) for n in range(2)], [video(9)]
    train(labelled, tmp_path / "a", held_out=labelled[:1])
    assert ran[-1] == "train_segmenter"
    params = yaml.safe_load((tmp_path / "a/params.yaml").read_text())
    assert params["pretrain_vae"]["mask_weight"] > 0
    train(labelled, tmp_path / "b", held_out=plain)
    assert ran[-1] == "train_denoiser"


def test_a_stopped_training_goes_on_with_its_clips(ran, tmp_path):
    train([video(0), video(1)], tmp_path / "new")
    clips = (tmp_path / "new/data/clips/train/manifest.json").stat().st_mtime_ns
    train([], tmp_path / "new", resume=True)
    assert (tmp_path / "new/data/clips/train/manifest.json").stat().st_mtime_ns == clips
    with pytest.raises(UserError, match="leave recipe and changes out"):
        train([], tmp_path / "new", resume=True, changes={"seed": 1})


BAD = {
    "expected two or more, one of them to validate on, got 1": {"videos": [video(0)]},
    "videos: expected a sequence of one video or more": {"videos": []},
    "videos: expected a sequence": {"videos": (video(n) for n in range(3))},
    "held_out: expected a sequence of one video": {"held_out": []},
    "recipe='tiny' is not there: known: .*smoke": {"recipe": "tiny"},
    "seed=-1: expected": {"changes": {"seed": -1}},
    "steps is not a known key|train_denoiser.stepz is not": {"changes": {"train_denoiser.stepz": 1}},
    "changes: seed=.* expected a plain value": {"changes": {"seed": np.int64(3)}},
    "temporal_factor=2: expected 1": {"changes": {"vae.temporal_factor": 2}},
    "too few frames: 5": {"videos": [video(0, count=5), video(1)]},
    "there is no training to resume": {"resume": True},
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_train_is_refused_and_leaves_nothing(ran, tmp_path, message):
    with pytest.raises(ValueError, match=message):
        train(**({"videos": [video(0), video(1)], "folder": tmp_path / "new"} | BAD[message]))
    assert ran == [] and list(tmp_path.iterdir()) == []


def test_nothing_of_a_users_is_lost(ran, tmp_path, monkeypatch):
    (tmp_path / "new").mkdir()
    for name in ("new/kept.txt", "other.part", "file"):
        (tmp_path / name).write_text("mine")
    for folder, message in (("new", "exists already: name another"), ("file/x", "cannot be made")):
        with pytest.raises(UserError, match=message):
            train([video(0), video(1)], tmp_path / folder)
    train([video(0), video(1)], tmp_path / "other")
    assert all((tmp_path / name).read_text() == "mine" for name in ("new/kept.txt", "other.part", "file"))


def test_a_folder_that_comes_up_meanwhile_is_left_alone(ran, tmp_path, monkeypatch):
    extract = learn.extract

    def slow(*given):
        (tmp_path / "new").mkdir()
        (tmp_path / "new/kept.txt").write_text("mine")
        return extract(*given)

    monkeypatch.setattr(learn, "extract", slow)
    with pytest.raises(UserError, match="exists by now"):
        train([video(0), video(1)], tmp_path / "new")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["new", "new/kept.txt"]


def test_a_stage_that_fails_says_how_to_go_on(tmp_path, capfd):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/broken.py").write_text("import sys; sys.exit('no disk')")
    with pytest.raises(UserError, match="broken ended with exit code 1, .* go on by resume=True"):
        learn._run(tmp_path, "broken", Path("made"))
    assert "no disk" in capfd.readouterr().err
