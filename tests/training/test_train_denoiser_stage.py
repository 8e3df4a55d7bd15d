"""The stage train_denoiser: every value of params.yaml arrives where it belongs."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from stages import train_denoiser
from vdp.data.latents import Normalisation, write_latents, write_statistics
from vdp.diffusion.own_context import OwnContext
from vdp.diffusion.params import DiffusionParams
from vdp.models.denoisers import load_denoiser
from vdp.params import read_file
from vdp.training.fit import Fitted

REPO = Path(__file__).parents[2]
SMALL = {
    "base_channels": 8,
    "channel_mults": [1],
    "num_res_blocks": 1,
    "attention_levels": [],
    "head_levels": 1,
}
DIFFUSION = {
    "schedule": "cosine",
    "prediction": "v",
    "min_snr_gamma": 4.0,
    "time_shift": 2.0,
    "residual": False,
}
TRAIN = {
    "batch_size": 5, "known": 3, "gaps": [1, 3], "max_hops": 1, "targets": 2, "draws": 4, "reverse": True,
    "context_noise": 0.11, "drop_context": 0.12,
    "own_context": 0.13, "own_frames": 1, "own_steps": 6, "own_temperature": 0.15,
}  # fmt: skip


class Gray(nn.Module):
    """Stands for the codec: the first channel of latents, as gray."""

    def decode(self, latents):
        return latents[:, :1].expand(-1, 3, -1, -1, -1)


class Stands:
    """Stands for the training; remembers what it was given."""

    def __call__(self, training, params, engine, seed, log, fabric, states):
        self.training, self.params, self.seed, self.states = training, params, seed, states
        self.picture = training.draw(training.network.eval())
        return Fitted(training.network.eval(), {"best": training.network.state_dict()})


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """What the stage trains with, after a run on latents whose second channel is the frame's number."""
    data = read_file(REPO / "params.yaml")
    data["seed"] = 9
    data["denoiser"] = {**data["denoiser"], "name": "unet"}
    data["denoiser"]["unet"] = {**data["denoiser"]["unet"], **SMALL}
    data["diffusion"], data["train_denoiser"] = data["diffusion"] | DIFFUSION, data["train_denoiser"] | TRAIN
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(data))
    for number, split in enumerate(("train", "unlabeled", "val")):
        clips = np.zeros((4, 1, 12, 2, 4, 4), np.float16)
        clips[:, :, :, 0] = 1 + number
        clips[:, :, :, 1] = np.arange(12)[:, None, None]
        write_latents(Path("data/latents") / split, clips, shard_mb=1)
    write_statistics(Path("data/latents"), Normalisation((0.0, 0.0), (1.0, 2.0)))
    Path("dvc.yaml").write_text((REPO / "dvc.yaml").read_text())
    monkeypatch.setattr(train_denoiser, "load_frame_codec", lambda folder: Gray())
    monkeypatch.setattr(train_denoiser, "track_stage", lambda name: nullcontext())
    monkeypatch.setattr(train_denoiser, "fit", stands := Stands())
    train_denoiser.main()
    return stands


def test_the_loss_is_the_one_that_params_ask_for(fitted):
    loss = fitted.training.loss
    assert (loss.min_snr_gamma, loss.time_shift, loss.draws) == (4.0, 2.0, 4)
    assert (loss.context_noise, loss.drop_context) == (0.11, 0.12)
    assert loss.own_context == OwnContext(share=0.13, frames=1, steps=6, temperature=0.15)
    assert (loss.objective.process.prediction, loss.objective.residual) == ("v", False)


def test_hops_are_those_that_params_ask_for_of_labelled_and_unlabelled_clips(fitted):
    batches = fitted.training.batches
    assert (batches.batch_size, batches.known, list(batches.gaps)) == (5, 3, [1, 3])
    assert (batches.max_hops, batches.targets, batches.reverse) == (1, 2, True)
    seen = [batches(step, np.random.default_rng(step), range(5)).known[:, 0] for step in range(4)]
    assert {float(value) for known in seen for value in known.unique()} == {1.0, 2.0}


def test_validation_is_on_clips_of_its_own_played_forwards(fitted):
    assert fitted.training.measure.objective is fitted.training.loss.objective
    held_out = fitted.training.held_out
    for step in range(4):
        hops = held_out(step, np.random.default_rng(step), range(held_out.batch_size))
        assert (hops.known[:, 0] == 3).all()
        assert torch.equal(2 * hops.known[:, 1, :, 0, 0], hops.index)


def test_a_picture_shows_known_predicted_and_true_frames(fitted):
    """The validation clips are lighter than white throughout, and drawn as white."""
    assert fitted.picture.ndim == 3 and (fitted.picture[40:60, 20:80] == 255).all()


def test_the_model_tells_what_it_was_trained_with_and_has_its_spare_weights(fitted):
    trained = load_denoiser(train_denoiser.DENOISER, torch.device("cpu"), DiffusionParams)
    assert trained.known == 3
    assert trained.diffusion.model_dump().items() >= DIFFUSION.items()
    assert (trained.latent_mean, trained.latent_std) == ((0.0, 0.0), (1.0, 2.0))
    assert torch.equal(trained.data_scale, fitted.training.loss.objective.scale)
    assert (train_denoiser.DENOISER / "best.safetensors").is_file()
