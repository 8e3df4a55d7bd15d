"""DVC stage train_denoiser: fit a video denoiser to hops of encoded clips.

Reads   data/latents, data/models/codec; params.yaml: seed, engine, denoiser, diffusion, train_denoiser
Writes  data/models/denoiser
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vdp.data.hop_batches import HopBatch, HopBatches
from vdp.data.latents import LatentClips, Normalisation
from vdp.diffusion.contract import Denoiser
from vdp.diffusion.loss import HopLoss, LevelLoss
from vdp.diffusion.objective import Objective, data_scale
from vdp.diffusion.own_context import OwnContext, sample_frames
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.schedules import make_process
from vdp.models.codecs import Codec, load_frame_codec
from vdp.models.denoisers import build_denoiser
from vdp.models.denoisers.params import DenoiserConfig, DenoiserParams
from vdp.models.store import save_model
from vdp.params import read_section, read_value, run_stage
from vdp.pixels import to_uint8
from vdp.tracking.mlflow_run import project_root, track_stage
from vdp.tracking.samples import sample_columns
from vdp.training.engine import launch
from vdp.training.fit import Training, fit, training_seed
from vdp.training.memory import Knob
from vdp.training.params import EngineParams, TrainDenoiserParams
from vdp.training.read_ahead import first_batches
from vdp.training.resume import states_of
from vdp.training.validate import VALIDATION_SEED, VALIDATION_SIZE, shown_batch

LATENTS = Path("data/latents")
CODEC = Path("data/models/codec")
DENOISER = Path("data/models/denoiser")
DRAWN_STEPS = 10  # sampling steps of what is drawn during the training


def main() -> None:
    denoiser = read_section(DenoiserParams, "denoiser")
    diffusion = read_section(DiffusionParams, "diffusion")
    params = read_section(TrainDenoiserParams, "train_denoiser")
    engine, seed = read_section(EngineParams, "engine"), read_value("seed")

    with track_stage("train_denoiser") as tracker:
        fabric = launch(engine)
        train, val = LatentClips(LATENTS, ["train", "unlabeled"]), LatentClips(LATENTS, ["val"])
        hops = (params.known, params.gaps, params.max_hops, params.targets)
        batches = HopBatches(train, params.batch_size, *hops, reverse=params.reverse, seed=seed)
        held_out = HopBatches(val, VALIDATION_SIZE, *hops, reverse=False, seed=VALIDATION_SEED)
        scale = data_scale(first_batches(batches, seed), diffusion.residual)
        objective = Objective(make_process(diffusion), scale.to(fabric.device), diffusion.residual)
        loss = HopLoss(
            objective=objective,
            min_snr_gamma=diffusion.min_snr_gamma,
            time_shift=diffusion.time_shift,
            draws=params.draws,
            context_noise=params.context_noise,
            drop_context=params.drop_context,
            own_context=OwnContext(
                share=params.own_context,
                frames=params.own_frames,
                steps=params.own_steps,
                temperature=params.own_temperature,
            ),
        )
        codec = load_frame_codec(CODEC).to(fabric.device)
        shown = shown_batch(held_out, fabric.device)
        training_seed(seed)
        training = Training(
            name="train_denoiser",
            network=build_denoiser(denoiser, train.channels),
            loss=loss,
            batches=batches,
            measure=LevelLoss(objective),
            held_out=held_out,
            draw=lambda network: hops_drawn(network, shown, objective, train.normalisation, codec),
            knobs=[width_knob(denoiser), Knob("train_denoiser.known", params.known, power=1, multiple=1)],
        )
        states = states_of("train_denoiser", project_root())
        fitted = fit(training, params, engine, seed, tracker, fabric, states)
        config = DenoiserConfig(
            denoiser=denoiser,
            diffusion=diffusion,
            channels=train.channels,
            known=params.known,
            data_scale=tuple(scale.tolist()),
            latent_mean=train.normalisation.mean,
            latent_std=train.normalisation.std,
        )
        if fabric.is_global_zero:
            save_model(DENOISER, fitted.network, config, fitted.spare)
            states.clear()


def hops_drawn(
    network: Denoiser[object],
    shown: HopBatch,
    objective: Objective,
    normalisation: Normalisation,
    codec: Codec,
) -> NDArray[np.uint8]:
    """A picture of hops: the known frame nearest to the target, the likeliest target, and the true one."""

    def decoded(latents: Tensor) -> NDArray[np.uint8]:
        return to_uint8(codec.decode(normalisation.invert(latents[:, :, :1]))[:, :, 0])

    start = torch.zeros_like(shown.target)  # no noise: the middle of what may come
    hop = (shown.known, shown.index, shown.target_index)
    predicted = sample_frames(network, *hop, objective, DRAWN_STEPS, start)
    return sample_columns(
        {"known": decoded(shown.known), "predicted": decoded(predicted), "true": decoded(shown.target)}
    )


def width_knob(denoiser: DenoiserParams) -> Knob:
    """The width of the network, with which the memory of its activations grows."""
    if denoiser.name == "unet":
        return Knob("denoiser.unet.base_channels", denoiser.unet.base_channels, power=1, multiple=8)
    dit = denoiser.dit
    return Knob("denoiser.dit.hidden_dim", dit.hidden_dim, power=1, multiple=8 * dit.num_heads)


if __name__ == "__main__":
    run_stage(main)
