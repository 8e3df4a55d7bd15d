"""What `vdp check` finds before any work."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pydantic import JsonValue

from vdp.cli import preflight
from vdp.cli.preflight import check_compiler, check_run
from vdp.config.recipes import merged
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError

REPO = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with videos without masks, `plain`, and with masks, `masked`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("plain", "masked"):
        for number in range(2):
            folder = tmp_path / name / f"v{number}"
            folder.mkdir(parents=True)
            for k in range(3):
                cv2.imwrite(str(folder / f"{k}.png"), np.full((16, 24, 3), 10 * k, np.uint8))
            if name == "masked":
                np.save(folder / "mask.npy", np.zeros((3, 16, 24), np.uint8))
    return tmp_path


def write_params(changes: dict[str, JsonValue], sources: dict[str, JsonValue] | None = None) -> None:
    """The params of the project; other `sources` than the simulated ones."""
    data = merged(read_file(REPO / "params.yaml"), {"clip": {"frames": 3, "known": 2}})
    data = merged(data, changes)
    if sources is not None:
        own: dict[str, JsonValue] = {"train": None, "val": None, "unlabeled": None, "test_sets": {}} | sources
        data["extract_frames"] |= own
    Path("params.yaml").write_text(json.dumps(data))


def refused(changes: dict[str, JsonValue], sources: dict[str, JsonValue] | None = None) -> str:
    write_params(changes, sources)
    with pytest.raises((ValueError, OSError)) as error:  # reported in one line
        check_run()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_params_of_the_project_pass_before_the_data_set_is_simulated():
    write_params({})
    found = check_run()
    assert found.notes == [] and found.labelled


@pytest.mark.parametrize(
    ("known", "says"),
    [
        (11, ["clip.known=11: padded to 13 frames by copies of the first one at the start, 1 + 3 x vae."]),
        (9, []),
    ],
)
def test_padded_context_frames_and_the_base_of_a_codec_that_compresses_time_are_said(known, says):
    hops: list[JsonValue] = [13, 15, 17, 19, 21, 22]
    changes = {"clip": {"frames": 22, "known": known}, "predict": {"hops": [known + 1, *hops]}}
    write_params(changes | {"vae": {"temporal_factor": 4}, "diffusion": {"base": "auto"}})
    says = [*says, "diffusion.base=auto: moved, as only single frames are composed and vae.temporal_factor=4"]
    found = check_run().notes
    assert len(found) == len(says) and all(map(str.startswith, found, says))


@pytest.mark.parametrize(
    ("train", "val", "test", "says"),
    [
        ("plain", None, "plain", ["no training clip has masks: no classifier, segmenter or motion model"]),
        (
            "plain",
            "masked",
            "masked",
            ["masks of extract_frames.val, extract_frames.test_sets.a are not used"],
        ),
        (
            "masked",
            "plain",
            "masked",
            ["extract_frames.val: its clips have no masks: training clips validate"],
        ),
        (
            "masked",
            "masked",
            "plain",
            ["extract_frames.test_sets.a: its clips have no masks: only its frames"],
        ),
        ("masked", None, "masked", []),
    ],
)
def test_masks_in_some_splits_are_said_with_what_follows(train, val, test, says):
    # copies: a folder cannot be both train and val
    for name, source in (("val", val), ("test", test)):
        if source is not None:
            shutil.copytree(source, name)
    sources: dict[str, JsonValue] = {"train": train, "val": val and "val", "test_sets": {"a": "test"}}
    write_params({"extract_frames": {"val_share": 0.5}}, sources)
    found = check_run()
    assert len(found.notes) == len(says) and all(map(str.__contains__, found.notes, says))
    assert found.labelled == (train == "masked")


def test_a_simulated_val_set_leaves_the_training_videos_whole():
    """A source of one video is valid to train on; with val null it would have to be divided."""
    shutil.rmtree("plain/v1")
    write_params({}, {"train": "plain", "val": "data/raw/simulated/val"})
    assert not check_run().labelled


def test_a_source_that_does_not_exist_is_named_by_its_key():
    sources = {"train": "plain", "val": "masked", "test_sets": {"a": "missing"}}
    assert refused({}, sources).startswith("extract_frames.test_sets.a")


def test_an_unreadable_first_video_is_refused_unless_bad_videos_are_skipped():
    Path("plain/v0/0.png").write_bytes(b"no picture")
    sources = {"train": "plain", "val": "masked"}
    assert refused({}, sources).startswith("extract_frames.train: plain/v0/0.png")
    write_params({"extract_frames": {"on_bad_video": "skip"}}, sources)
    assert not check_run().labelled


def test_composed_frames_need_training_clips_with_masks():
    changes: dict[str, JsonValue] = {"diffusion": {"base": "composed"}}
    says = refused(changes, {"train": "plain", "val": "masked"})
    assert says.startswith("params.yaml: diffusion.base=composed: expected training clips with masks")
    write_params(changes, {"train": "masked", "val": "plain"})
    assert check_run().labelled


class Features(torch.nn.Module):
    def forward(self, videos: torch.Tensor) -> torch.Tensor:
        return videos.mean(dim=[2, 3, 4])


@pytest.mark.parametrize("key", ["lpips_weights", "fvd_weights"])
def test_networks_of_score_are_torchscript_files_of_the_project(key):
    says = refused({"score": {key: "w.pt"}})
    assert says.startswith(f"params.yaml: score.{key}=") and "no such file" in says
    Path("w.pt").write_bytes(b"weights")
    assert "is no TorchScript file" in refused({"score": {key: "w.pt"}})
    torch.jit.save(torch.jit.script(Features()), "w.pt")
    check_run()


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ({"precision": 16}, "engine.precision=16: expected a GPU"),
        ({"precision": 16, "strategy": "fsdp", "devices": 2}, "engine.precision=16: not supported with"),
        ({"strategy": "fsdp"}, "engine.strategy=fsdp: expected several processes"),
        ({"num_nodes": 2}, "engine.num_nodes=2: expected 1 with launcher=python"),
        (
            {"devices": 3},
            "pretrain_vae.batch_size=8: expected a multiple of 3, accumulate=1 x 3 processes; set",
        ),
    ],
)
def test_settings_of_the_engine_that_no_training_accepts(monkeypatch, engine, says):
    monkeypatch.delenv("NODE_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert refused({"engine": engine}).startswith(f"params.yaml: {says}")


def test_another_launcher_trains_on_other_machines(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    write_params({"launcher": "srun", "engine": {"precision": 16, "num_nodes": 2, "compile": True}})
    monkeypatch.setenv("CXX", "no-compiler")
    check_run()


def test_compilation_needs_a_compiler(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CXX", "no-compiler")
    says = refused({"engine": {"compile": True}})
    assert says.startswith("params.yaml: engine.compile=true: expected a C++ compiler; install g++")
    monkeypatch.setenv("CXX", "sh")  # any program
    check_run()
    monkeypatch.setattr(preflight, "GPU_COMPILERS", ("no-compiler",))
    with pytest.raises(UserError, match="expected a C compiler"):
        check_compiler({}, gpu=True)
    check_compiler({"CC": "sh"}, gpu=True)


UNETPP: dict[str, JsonValue] = {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}


def test_encoders_that_unetpp_cannot_take(monkeypatch):
    from vdp.models.segmenters import unetpp

    changes: dict[str, JsonValue] = {"train_segmenter": {"pretrained": False}}
    assert "segmenter.encoder=resnet17: expected conv" in refused(
        changes | {"segmenter": UNETPP | {"encoder": "resnet17"}}
    )
    says = refused(changes | {"segmenter": UNETPP | {"encoder": "mit_b0"}})
    assert says.startswith(
        "params.yaml: segmenter.encoder=mit_b0, encoder_depth=3: UNet++ fails with it at 24x24"
    )
    resnet = changes | {"segmenter": UNETPP | {"encoder": "resnet18"}}
    write_params(resnet)
    check_run()
    # without masks no segmenter is trained
    write_params(changes | {"segmenter": UNETPP | {"encoder": "mit_b0"}}, {"train": "plain", "val": "masked"})
    check_run()

    class Half(torch.nn.Module):
        def __init__(self, params: object) -> None:
            super().__init__()

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return frames[..., ::2, ::2]

    monkeypatch.setattr(unetpp, "UNetPlusPlus", Half)
    assert "masks of 24x24 pixels are 12x12" in refused(resnet)


def test_a_model_to_start_from_exists_and_is_not_the_one_that_is_trained():
    message = refused({"train_motion": {"init_from": "old/motion"}})
    assert message.startswith("train_motion.init_from=old/motion: expected a model folder with model.safe")
    Path("data/models").mkdir(parents=True)
    message = refused({"train_denoiser": {"init_from": "data/models"}})
    assert message.startswith("train_denoiser.init_from=data/models: is replaced by the training; copy")
    Path("old/motion").mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        Path("old/motion", name).touch()
    write_params({"train_motion": {"init_from": "old"}})
    check_run()
