"""The stage train_denoiser passes the values of params.yaml on."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from stages import train_denoiser
from tests.oracle import Oracle
from tests.processes import objective_of
from vdp.config.messages import validate
from vdp.config.yaml_file import read_file
from vdp.data.batches.hops import HopRule
from vdp.data.stores.latents import EncodedClip, LatentClips, Normalisation, write_latents, write_statistics
from vdp.diffusion.objective import data_scale
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.scheduled_sampling import ScheduledSampling
from vdp.models.denoisers.factory import load_denoiser
from vdp.training.dataloader import first_batches
from vdp.training.definition import TrainingResult
from vdp.training.params import TrainDenoiserParams

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
SMALL = {
    "base_channels": 8, "channel_mults": [1], "num_res_blocks": 1, "attention_levels": [], "head_levels": 1,
}  # fmt: skip
DIFFUSION = {
    "schedule": "cosine", "prediction": "v", "min_snr_gamma": 4.0, "time_shift": 2.0, "residual": False,
    "base": "nearest",
}  # fmt: skip
SHARES = {"predict": 0.65, "interpolate": 0.1, "generate": 0.075, "restore": 0.175}
TRAIN = {
    "batch_size": 5, "context_frames": 3, "given_frames": 1, "target_offsets": [1, 3], "max_hops": 1,
    "targets": 2, "draws": 4,
    "reverse": True, "context_noise": 0.11, "context_dropout": 0.12, "tasks": SHARES, "max_span": 5,
    "scheduled_sampling": 0.13, "scheduled_sampling_frames": 1, "scheduled_sampling_steps": 6,
    "scheduled_sampling_temperature": 0.15,
}  # fmt: skip


class GrayCodec(nn.Module):
    """Decodes the first channel of latents to gray."""

    factor, temporal_factor = 2, 1

    def decode(self, latents):
        pixels = latents[:, :1].expand(-1, 3, -1, -1, -1)
        return pixels.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)


class FakeFit:
    """Stands for `fit` and keeps its arguments."""

    def __call__(self, training, params, engine, seed, logger, fabric, checkpoints):
        self.training, self.params, self.seed = training, params, seed
        self.samples = training.plot(training.network.eval())
        return TrainingResult(training.network.eval(), {"best": training.network.state_dict()})


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """Run the stage on latents whose second channel is the frame number."""
    data = read_file(REPO / "params.yaml")
    data["seed"] = 9
    data["denoiser"] = {**data["denoiser"], "name": "unet"}
    data["denoiser"]["unet"] = {**data["denoiser"]["unet"], **SMALL}
    data["encode_latents"]["degraded"] = 2
    data["diffusion"], data["train_denoiser"] = data["diffusion"] | DIFFUSION, data["train_denoiser"] | TRAIN
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path_factory.mktemp("stage"))
        Path("params.yaml").write_text(yaml.safe_dump(data))
        for number, split in enumerate(("train", "unlabeled", "val")):
            clips = np.zeros((4, 1, 12, 2, 4, 4), np.float16)
            clips[:, :, :, 0] = 1 + number
            clips[:, :, :, 1] = np.arange(12)[:, None, None]
            encoded = [EncodedClip(clip, degraded=clip[[0, 0]]) for clip in clips]
            write_latents(Path("data/latents") / split, encoded, shard_mb=1, known=0)
        write_statistics(Path("data/latents"), Normalisation((0.0, 0.0), (1.0, 2.0)))
        Path("dvc.yaml").write_text((REPO / "dvc.yaml").read_text())
        monkeypatch.setattr(train_denoiser, "load_codec", lambda folder: GrayCodec())
        monkeypatch.setattr(train_denoiser, "track_stage", lambda name: nullcontext())
        monkeypatch.setattr(train_denoiser, "fit", fake := FakeFit())
        train_denoiser.main()
        yield fake


def test_the_loss_follows_params(fit):
    loss = fit.training.loss
    assert (loss.min_snr_gamma, loss.time_shift, loss.draws) == (4.0, 2.0, 4)
    assert (loss.context_noise, loss.context_dropout) == (0.11, 0.12)
    assert loss.scheduled_sampling == ScheduledSampling(share=0.13, frames=1, steps=6, temperature=0.15)
    for objective in loss.objectives.values():
        assert (objective.process.prediction, objective.residual) == ("v", False)


def test_hops_follow_params_and_are_of_train_and_unlabeled_clips(fit):
    batches = fit.training.batches
    assert (batches.batch_size, batches.reverse) == (5, True)
    assert batches.rule == HopRule(
        context_frames=3, target_offsets=[1, 3], max_hops=1, targets=2, max_span=5, given_frames=1
    )
    assert batches.tasks == ("predict", "interpolate", "generate", "restore")
    hops = [batches(step, np.random.default_rng(step), range(5)) for step in range(40)]
    drawn = [batch.task for batch in hops]
    assert 16 < drawn.count("predict") < 36 and drawn.count("restore") > 0  # of 40: 26 and 7 are expected
    seen = [batch.target[:, 0] for batch in hops]
    assert {float(value) for target in seen for value in target.unique()} == {1.0, 2.0}


def test_each_task_has_a_scale_of_its_hops(fit):
    batches, objectives = fit.training.batches, fit.training.loss.objectives
    assert set(objectives) == set(SHARES)
    for task, objective in objectives.items():
        assert objective.task == task
        scale = data_scale(first_batches(batches.for_task(task), 9), residual=False)
        assert torch.equal(objective.scale, scale)


def test_validation_is_on_val_clips_played_forwards(fit):
    val_loss = fit.training.val_loss
    assert val_loss.objectives is fit.training.loss.objectives
    assert dict(val_loss.shares) == SHARES
    val_batches = fit.training.val_batches
    for step in range(4):
        batch = val_batches(step, np.random.default_rng(step), range(val_batches.batch_size))
        assert [hops.task for hops in batch.parts] == ["predict", "interpolate", "generate", "restore"]
        for hops in batch.parts:
            assert (hops.target[:, 0] == 3).all()
            assert torch.equal(2 * hops.target[:, 1, :, 0, 0], hops.target_index)


def test_the_picture_shows_context_predicted_and_true_frames(fit):
    """The validation clips are lighter than white, and clipped to white."""
    picture = fit.samples.picture
    assert picture.ndim == 3 and (picture[40:60, 20:80] == 255).all()


def test_sampled_targets_of_each_task_are_scored_and_the_first_is_a_clip_beside_the_truth(fit):
    """Every true frame is white; the network's own are not."""
    scores = fit.samples.scores
    assert set(scores) == {f"{name}_{task}" for name in ("psnr", "ssim") for task in SHARES}
    assert all(np.isfinite(value) for value in scores.values())
    film = fit.samples.film
    assert 3 <= len(film) <= 6 and len({frame.shape for frame in film}) == 1  # context frames and 2 targets
    assert (film[-1][40:60, -80:-20] == 255).all()


def test_the_saved_model_has_its_params_and_the_other_weights(fit):
    trained = load_denoiser(train_denoiser.DENOISER, torch.device("cpu"), DiffusionParams)
    config = trained.config
    hops = (config.context_frames, config.target_offsets, config.targets, config.max_span)
    assert hops == (3, [1, 3], 2, 5)
    assert (config.base, config.given_frames, config.known) == ("nearest", 1, 0)
    assert (config.height, config.width, config.context_dropout) == (8, 8, 0.12)
    assert config.tasks == SHARES
    assert config.diffusion.model_dump().items() >= DIFFUSION.items()
    assert (config.latent_mean, config.latent_std) == ((0.0, 0.0), (1.0, 2.0))
    for task, objective in fit.training.loss.objectives.items():
        assert torch.equal(trained.data_scale(task), objective.scale)
    assert (train_denoiser.DENOISER / "best.safetensors").is_file()


@pytest.mark.parametrize(("decay", "expected"), [(None, "composed"), (0.9, "optical_flow")])
def test_the_base_is_the_one_for_which_frames_are_encoded(tmp_path, decay, expected):
    frames = np.ones((1, 12, 2, 4, 4), np.float16)
    clip = EncodedClip(frames, composed=frames[:, 5:])
    write_latents(tmp_path / "train", [clip], shard_mb=1, known=5, flow_decay=decay)
    write_statistics(tmp_path, Normalisation((0.0, 0.0), (1.0, 2.0)))
    clips = LatentClips(tmp_path, ["train"])
    assert train_denoiser.resolve_base("auto", clips, predicts=True) == expected
    for base in ("nearest", "moved", "composed", "optical_flow"):
        assert train_denoiser.resolve_base(base, clips, predicts=True) == base
        nearest = "moved" if base == "moved" else "nearest"
        assert train_denoiser.resolve_base(base, clips, predicts=False) == nearest
    assert train_denoiser.resolve_base("auto", clips, predicts=False) == "nearest"


def test_gains_are_measured_on_the_composed_frames_of_val(tmp_path, capsys):
    """Each composed frame lacks 2 of its number; the network adds 4: half of its change is true."""
    known, context_frames = 5, 3
    frames = np.zeros((1, 9, 1, 4, 4), np.float16) + np.arange(9)[:, None, None, None]
    for split, composed in (("train", frames[:, known:]), ("val", frames[:, known:] - 2)):
        clips = [EncodedClip(frames.astype(np.float16), composed=composed.astype(np.float16))] * 3
        write_latents(tmp_path / split, clips, shard_mb=1, known=known, flow_decay=0.9)
    write_statistics(tmp_path, Normalisation((0.0,), (1.0,)))
    objective = objective_of("flow", "flow", torch.ones(1), True)
    oracle = Oracle(
        lambda index: (index + known - context_frames + 2)[:, None, :, None, None].expand(-1, 1, -1, 4, 4),
        objective,
    )
    data = read_file(REPO / "params.yaml")["train_denoiser"]
    params = validate(
        TrainDenoiserParams, data | {"context_frames": context_frames, "given_frames": 1}, "train_denoiser"
    )
    val = LatentClips(tmp_path, ["val"])
    assert train_denoiser.measure_gains(oracle, val, objective, params) == pytest.approx([0.5] * 4, abs=1e-3)
    skips = params.model_copy(update={"target_offsets": [2]})
    assert train_denoiser.measure_gains(oracle, val, objective, skips) is None
    # of eight clips the second half, which lacks nothing, is kept for scores
    changed = [frames[:, known:] - 2 * (row < 4) for row in range(8)]
    clips = [EncodedClip(frames, composed=composed.astype(np.float16)) for composed in changed]
    write_latents(tmp_path / "more" / "val", clips, shard_mb=1, known=known, flow_decay=0.9)
    write_statistics(tmp_path / "more", Normalisation((0.0,), (1.0,)))
    more = LatentClips(tmp_path / "more", ["val"])
    assert train_denoiser.measure_gains(oracle, more, objective, params) == pytest.approx([0.5] * 4, abs=1e-3)
    broken = Oracle(lambda index: oracle.truth(index).mul(torch.nan), objective)
    assert train_denoiser.measure_gains(broken, val, objective, params) is None
    assert capsys.readouterr().err == "train_denoiser: no gains: predicted frames of val are not finite\n"
