"""`vdp.train`: its folder and the inputs that it refuses; tests/test_docs.py runs a training."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from vdp.api import train as module
from vdp.api.train import train
from vdp.core.errors import UserError
from vdp.data.stores.clips import ClipStore

pytestmark = pytest.mark.slow


def video(seed: int, masks: bool = False, count: int = 22):
    rng = np.random.default_rng(seed)
    clip = rng.integers(0, 256, (count, 64, 96, 3), dtype=np.uint8)
    return (clip, rng.integers(0, 49, clip.shape[:3], dtype=np.uint8)) if masks else clip


def params(folder: Path) -> dict[str, dict[str, object]]:
    return yaml.safe_load((folder / "params.yaml").read_text())


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that a training would run; none runs."""
    stages: list[str] = []
    monkeypatch.setattr(module, "_run", lambda folder, stage, output: stages.append(stage))
    monkeypatch.setattr(module, "load", lambda folder: folder)
    return stages


def test_a_training_has_clips_params_and_stages(stages, tmp_path):
    folder = train([video(n) for n in range(12)], tmp_path / "new", recipe="smoke", changes={"seed": 5})
    assert folder == tmp_path / "new/data/models"
    assert stages == ["pretrain_vae", "encode_latents", "train_denoiser"]
    sizes = [len(ClipStore(tmp_path / "new/data/clips" / split)) for split in ("train", "val")]
    assert sizes == [11, 1]
    written = params(tmp_path / "new")
    assert (written["seed"], written["pretrain_vae"]["steps"], written["pretrain_vae"]["mask_weight"]) == (
        5,
        6,
        0,
    )
    assert (tmp_path / "new/stages/pretrain_vae.py").is_file() and (
        tmp_path / "new/vdp/__init__.py"
    ).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_segmenter_is_trained_if_both_splits_have_masks(stages, tmp_path):
    labelled = [video(n, masks=True) for n in range(2)]
    train(labelled, tmp_path / "a", val=labelled[:1])
    assert stages[-2:] == ["train_classifier", "train_segmenter"]  # the encoder is the classifier's
    assert params(tmp_path / "a")["pretrain_vae"]["mask_weight"] > 0
    train(labelled, tmp_path / "b", val=[video(9)])
    assert stages[-1] == "train_denoiser"
    stages.clear()
    train(labelled, tmp_path / "c", val=labelled[:1], changes={"train_segmenter.pretrained": False})
    assert stages[-2:] == ["train_denoiser", "train_segmenter"]


def test_resume_continues_with_the_clips_of_the_folder(stages, tmp_path):
    train([video(0), video(1)], tmp_path / "new")
    manifest = tmp_path / "new/data/clips/train/manifest.json"
    written = manifest.stat().st_mtime_ns
    train([], tmp_path / "new", resume=True)
    assert manifest.stat().st_mtime_ns == written
    with pytest.raises(UserError, match="resume=True: expected no recipe and no changes"):
        train([], tmp_path / "new", resume=True, changes={"seed": 1})


INVALID = {
    "videos: expected at least 2 without val, got 1": {"videos": [video(0)]},
    "videos: expected a sequence of at least one video": {"videos": []},
    "videos: expected a sequence": {"videos": (video(n) for n in range(3))},
    "val: expected a sequence of at least one video": {"val": []},
    "recipe='tiny': expected one of .*smoke": {"recipe": "tiny"},
    "seed=-1: expected": {"changes": {"seed": -1}},
    "train_denoiser.stepz": {"changes": {"train_denoiser.stepz": 1}},
    "changes: seed=.* expected a plain value": {"changes": {"seed": np.int64(3)}},
    "temporal_factor=2": {"changes": {"vae.temporal_factor": 2}},
    r"videos\[0\].* 5": {"videos": [video(0, count=5), video(1)]},
    "no training to resume": {"resume": True},
}


@pytest.mark.parametrize("message", INVALID)
def test_an_invalid_input_is_refused_and_leaves_nothing(stages, tmp_path, message):
    with pytest.raises(ValueError, match=message):
        train(**({"videos": [video(0), video(1)], "folder": tmp_path / "new"} | INVALID[message]))
    assert stages == [] and list(tmp_path.iterdir()) == []


def test_existing_files_are_kept(stages, tmp_path, monkeypatch):
    (tmp_path / "new").mkdir()
    names = ("new/kept.txt", "other.part", "file")
    for name in names:
        (tmp_path / name).write_text("mine")
    for folder, message in (("new", "new: exists"), ("file/x", "cannot be created")):
        with pytest.raises(UserError, match=message):
            train([video(0), video(1)], tmp_path / folder)
    train([video(0), video(1)], tmp_path / "other")
    assert all((tmp_path / name).read_text() == "mine" for name in names)


def test_a_folder_created_meanwhile_is_kept(stages, tmp_path, monkeypatch):
    extract = module.extract

    def slow_extract(*given):
        (tmp_path / "new").mkdir()
        (tmp_path / "new/kept.txt").write_text("mine")
        return extract(*given)

    monkeypatch.setattr(module, "extract", slow_extract)
    with pytest.raises(UserError, match="was created meanwhile"):
        train([video(0), video(1)], tmp_path / "new")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["new", "new/kept.txt"]


def test_a_failed_stage_is_reported_with_how_to_continue(tmp_path, capfd):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/broken.py").write_text("import sys; sys.exit('no disk')")
    with pytest.raises(UserError, match="broken: exit code 1.*resume=True"):
        module._run(tmp_path, "broken", Path("output"))
    assert "no disk" in capfd.readouterr().err
