"""Trainings that start from a trained model (`init_from`), and weights kept by step (`keep_every`)."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from stages import pretrain_vae, train_denoiser
from tests.training.small import MemoryLogger, engine_params, fit_line, fit_params, line_training, regression
from tests.training.test_checkpoint import Killed
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.core.model_files import initial_file, kept_steps
from vdp.data.stores.clips import Clip, write_clips
from vdp.data.stores.latents import EncodedClip, Normalisation, write_latents, write_statistics
from vdp.models.checkpoint import load_weights, save_model
from vdp.models.codecs.factory import load_codec
from vdp.models.codecs.params import CodecConfig, VAEParams
from vdp.models.codecs.vae import VAE
from vdp.models.initial import InitialWeights, config_differences, find_initial
from vdp.training.checkpoint import TrainingCheckpoints, stage_checkpoints
from vdp.training.seeds import seed_weights

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
VAE_SECTION = {
    "spatial_factor": 2, "temporal_factor": 1, "convolutions": "factorised", "latent_channels": 4,
    "base_channels": 8, "num_res_blocks": 1,
}  # fmt: skip
CONFIG = CodecConfig(name="vae", vae=VAEParams.model_validate(VAE_SECTION), has_masks=False)


def vae(has_masks: bool = False, **changes: int) -> VAE:
    return VAE(VAEParams.model_validate(VAE_SECTION | changes), has_masks)


# --- Kept weights ----------------------------------------------------------------------------------------


def averages(steps: int) -> dict[str, torch.Tensor]:
    """The averaged weights of a training of so many steps."""
    seed_weights(0)
    params = fit_params(steps=steps, lr_schedule="constant")
    return fit_line(line_training(), params).network.state_dict()


@pytest.mark.parametrize("with_folder", [True, False])
def test_kept_weights_are_those_of_a_training_that_ends_at_their_step(tmp_path, with_folder):
    seed_weights(0)
    params = fit_params(steps=14, lr_schedule="constant", keep_every=6)
    checkpoints = TrainingCheckpoints(tmp_path / "a_training-0123") if with_folder else None
    result = fit_line(line_training(), params, checkpoints=checkpoints)
    assert list(result.kept) == [6, 12]
    for step, weights in result.kept.items():
        assert all(torch.equal(weights[name], value) for name, value in averages(step).items())
    save_model(tmp_path / "model", result.network, CONFIG, result.other_weights, result.kept)
    assert kept_steps(tmp_path / "model") == [6, 12]
    network = nn.Linear(3, 1)
    load_weights(network, tmp_path / "model", 6)
    assert torch.equal(network.weight, averages(6)["weight"])
    message = r"checkpoint=7: expected one of 6, 12 in .*/model; choose one"
    with pytest.raises(UserError, match=message):
        load_weights(network, tmp_path / "model", 7)


def test_a_resumed_training_has_the_weights_that_were_kept_before_the_kill(tmp_path):
    checkpoints, params = TrainingCheckpoints(tmp_path / "a_training-0123"), fit_params(keep_every=5)
    steps: list[int] = []

    def killed(network, batch, batch_rng):
        steps.append(1)
        if len(steps) == 15:
            raise Killed
        return regression(network, batch, batch_rng)

    engine = engine_params(save_steps=6)
    with pytest.raises(Killed):
        seed_weights(0)
        fit_line(line_training(killed), params, engine=engine, checkpoints=checkpoints)
    resumed = fit_line(line_training(), params, engine=engine, checkpoints=checkpoints).kept
    seed_weights(0)
    whole = fit_line(line_training(), params).kept
    assert list(resumed) == list(whole) == [5, 10, 15, 20]
    for step, weights in whole.items():
        assert all(torch.equal(resumed[step][name], value) for name, value in weights.items())


# --- Starting from a model -------------------------------------------------------------------------------


def test_a_fine_tune_starts_at_the_loss_of_its_source_and_a_resume_does_not_read_it_again(tmp_path):
    seed_weights(0)
    source, logger = (
        fit_line(line_training(), fit_params(), logger=(before := MemoryLogger())),
        MemoryLogger(),
    )
    reads: list[int] = []

    def initial():
        reads.append(1)
        return source.network.state_dict()

    def training(stop_at: int | None = None):
        steps: list[int] = []

        def loss(network, batch, batch_rng):
            steps.append(1)
            if len(steps) == stop_at:
                raise Killed
            return regression(network, batch, batch_rng)

        seed_weights(1)
        whole = line_training(loss)
        return type(whole)(**{**vars(whole), "initial": initial})

    checkpoints = TrainingCheckpoints(tmp_path / "a_training-0123")
    engine = engine_params(save_steps=4)
    with pytest.raises(Killed):
        fit_line(training(stop_at=10), fit_params(), logger=logger, engine=engine, checkpoints=checkpoints)
    assert logger.curve("val_loss")[0] == (0, before.curve("val_loss")[-1][1])
    fit_line(training(), fit_params(), logger=logger, engine=engine, checkpoints=checkpoints)
    assert len(reads) == 1


def test_a_source_is_a_model_folder_a_folder_of_models_or_a_file_in_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = vae()
    save_model(Path("old/codec"), network, CONFIG, kept={3: network.state_dict()})
    output, weights = Path("data/models/codec"), Path("old/codec/model.safetensors")
    assert initial_file("pretrain_vae", None, output) is None
    for named in ("old", "old/codec", str(weights), str(tmp_path / "old")):
        found = initial_file("pretrain_vae", Path(named), output)
        assert found is not None and found.samefile(weights)
    kept = Path("old/codec/step_00000003.safetensors")
    assert initial_file("pretrain_vae", kept, output) == kept
    for missing in ("no", "old/denoiser", "old/codec/step_00000004.safetensors"):
        with pytest.raises(UserError, match=rf"pretrain_vae.init_from={missing}: expected a model folder"):
            initial_file("pretrain_vae", Path(missing), output)
    save_model(output, network, CONFIG)
    for own in ("data/models", "data/models/codec"):
        with pytest.raises(UserError, match=rf"init_from={own}: is replaced by the training; copy"):
            initial_file("pretrain_vae", Path(own), output)


def test_weights_that_do_not_fit_are_named_with_the_params_that_differ(tmp_path):
    save_model(tmp_path / "old", vae(), CONFIG)
    found = find_initial("pretrain_vae", tmp_path / "old", Path("new"))
    assert found is not None
    wider = CodecConfig(
        name="vae", vae=VAEParams.model_validate(VAE_SECTION | {"base_channels": 16}), has_masks=False
    )
    with pytest.raises(UserError) as error:
        found.check(vae(base_channels=16), wider)
    text = str(error.value)
    assert "pretrain_vae.init_from: weights of" in text and "of another shape, such as " in text
    assert "its config differs: vae.base_channels=8 (here 16); train the same network" in text
    deeper = CodecConfig(
        name="vae", vae=VAEParams.model_validate(VAE_SECTION | {"num_res_blocks": 2}), has_masks=False
    )
    with pytest.raises(UserError, match=r"\d+ missing, such as (de|en)coder"):
        found.check(vae(num_res_blocks=2), deeper)
    save_model(tmp_path / "old", vae(num_res_blocks=2), deeper)
    with pytest.raises(UserError, match=r"\d+ unknown, such as (de|en)coder"):
        found.check(vae(), CONFIG)
    (tmp_path / "old/model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="is damaged"):
        found.check(vae(), CONFIG)


def test_a_config_that_differs_is_printed_and_ignored_names_may_be_missing(tmp_path, capsys):
    source = vae()
    save_model(tmp_path / "old", source, CONFIG)
    found = InitialWeights("pretrain_vae", tmp_path / "old/model.safetensors", ("decoder.mask.",))
    found.check(vae(), CONFIG)
    assert capsys.readouterr().err == ""
    found.check(vae(has_masks=True), CONFIG.model_copy(update={"has_masks": True}))
    assert "old: its config differs: has_masks=false (here true)" in capsys.readouterr().err
    there, here = {"a": {"b": 1, "c": [1] * 40}, "d": 2}, {"a": {"b": 2, "c": [2] * 40}, "e": None}
    assert config_differences(there, here) == ["a.b=1 (here 2)", "a.c", "d=2 (here null)"]


def test_other_initial_weights_have_other_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    file = tmp_path / "model.safetensors"
    keys = set()
    for content in (None, b"one", b"other"):
        if content is not None:
            file.write_bytes(content)
        keys.add(stage_checkpoints("pretrain_vae", tmp_path, file if content else None).folder.name)
    assert len(keys) == 3


# --- Stages ----------------------------------------------------------------------------------------------

TRAIN = {"steps": 2, "batch_size": 2, "validate_every": 2, "log_every": 1, "warmup_steps": 0}


@pytest.fixture
def project(tmp_path, monkeypatch) -> MemoryLogger:
    """The current folder has params of small networks, clips and latents; returns the logger of stages."""
    monkeypatch.chdir(tmp_path)
    data = read_file(REPO / "params.yaml")
    data["vae"] |= VAE_SECTION
    data["engine"]["precision"] = 32
    data["pretrain_vae"] |= TRAIN
    data["train_denoiser"] |= TRAIN | {"keep_every": 1}
    data["denoiser"]["unet"] |= {"base_channels": 8, "channel_mults": [1], "num_res_blocks": 1}
    data["denoiser"]["unet"] |= {"attention_levels": [], "head_levels": 1}
    data["diffusion"]["base"] = "nearest"
    data["denoiser"]["unet"]["context_slots"] = 3
    Path("params.yaml").write_text(yaml.safe_dump(data))
    Path("dvc.yaml").write_text((REPO / "dvc.yaml").read_text())
    rng = np.random.default_rng(0)
    for split in ("train", "val", "unlabeled"):
        frames = rng.integers(0, 256, (2, 12, 16, 16, 3), dtype=np.uint8)
        write_clips(Path("data/clips") / split, [Clip(f"{n}", f, None) for n, f in enumerate(frames)], 1)
        latents = rng.standard_normal((2, 1, 12, 4, 8, 8)).astype(np.float16)
        write_latents(Path("data/latents") / split, list(map(EncodedClip, latents)), shard_mb=1, known=0)
    write_statistics(Path("data/latents"), Normalisation((0.0,) * 4, (1.0,) * 4))
    logger = MemoryLogger()
    for stage in (pretrain_vae, train_denoiser):
        logger.is_main = True
        monkeypatch.setattr(stage, "track_stage", lambda name: nullcontext(logger))
    return logger


def set_param(section: str, **changes: object) -> None:
    data = read_file(Path("params.yaml"))
    data[section] |= changes
    Path("params.yaml").write_text(yaml.safe_dump(data))


def test_stages_start_from_another_model_at_its_loss(project, capsys):
    pretrain_vae.main()
    Path("data/models").rename("old")
    assert load_codec(Path("old/codec")).has_masks is False
    last = project.curve("val_loss")[-1]
    project.points.clear()
    set_param("pretrain_vae", init_from="old", steps=4)
    pretrain_vae.main()
    assert last[0] == 2 and project.curve("val_loss")[0] == (0, last[1])
    assert "pretrain_vae: starts from the weights of old/codec/model.safetensors" in capsys.readouterr().err

    project.points.clear()
    train_denoiser.main()
    assert kept_steps(Path("data/models/denoiser")) == [1, 2]
    last = project.curve("val_loss")[-1]
    Path("data/models/denoiser").rename("old/denoiser")
    project.points.clear()
    set_param("train_denoiser", init_from="old/denoiser", learning_rate=1e-3)
    train_denoiser.main()
    assert project.curve("val_loss")[0] == (0, last[1])
    set_param("train_denoiser", init_from="old/denoiser/step_00000001.safetensors")
    project.points.clear()
    train_denoiser.main()
    assert project.curve("val_loss")[0][1] != last[1]
