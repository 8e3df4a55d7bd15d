"""DVC stage train_denoiser: fit a video denoiser to hops of encoded clips.

Reads   data/latents; params.yaml: seed, denoiser, diffusion, train_denoiser
Writes  data/models/denoiser
"""

from dataclasses import replace
from pathlib import Path

from vdp.data.hop_batches import HopBatches
from vdp.data.latents import LatentClips
from vdp.device import pick_device
from vdp.diffusion.loss import HopLoss
from vdp.diffusion.objective import Objective, data_scale
from vdp.diffusion.own_context import OwnContext
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.schedules import make_process
from vdp.models.denoisers import build_denoiser
from vdp.models.denoisers.params import DenoiserConfig, DenoiserParams
from vdp.models.store import save_model
from vdp.params import read_section, read_value, run_stage
from vdp.tracking.mlflow_run import track_stage
from vdp.training.fit import fit, fixed_batches, mean_losses, training_seed
from vdp.training.params import TrainDenoiserParams

LATENTS = Path("data/latents")
DENOISER = Path("data/models/denoiser")


def main() -> None:
    denoiser = read_section(DenoiserParams, "denoiser")
    diffusion = read_section(DiffusionParams, "diffusion")
    params = read_section(TrainDenoiserParams, "train_denoiser")
    seed, device = read_value("seed"), pick_device()

    train, val = LatentClips(LATENTS, ["train", "unlabeled"]), LatentClips(LATENTS, ["val"])
    hops = (params.batch_size, params.known, params.gaps, params.max_hops, params.targets)
    batch_of = HopBatches(train, *hops, reverse=params.reverse, seed=seed)
    fixed = fixed_batches(HopBatches(val, *hops, reverse=False, seed=seed), seed)
    scale = data_scale(fixed_batches(batch_of, seed), diffusion.residual).to(device)
    objective = Objective(make_process(diffusion), scale, diffusion.residual)
    own = OwnContext(
        share=params.own_context,
        frames=params.own_frames,
        steps=params.own_steps,
        temperature=params.own_temperature,
    )
    loss = HopLoss(
        objective=objective,
        min_snr_gamma=diffusion.min_snr_gamma,
        time_shift=diffusion.time_shift,
        draws=params.draws,
        context_noise=params.context_noise,
        drop_context=params.drop_context,
        own_context=own,
    )
    # without what only makes learning harder, validations of different trainings compare
    measured = replace(loss, min_snr_gamma=None, drop_context=0.0, own_context=replace(own, share=0.0))
    training_seed(seed)
    network = build_denoiser(denoiser, train.channels).to(device)

    with track_stage("train_denoiser") as tracker:
        average = fit(
            network, loss, batch_of, params, seed, tracker, device,
            lambda net: mean_losses(net, measured, fixed, seed, device),
        )  # fmt: skip
        config = DenoiserConfig(
            denoiser=denoiser,
            diffusion=diffusion,
            channels=train.channels,
            known=params.known,
            data_scale=tuple(scale.tolist()),
            latent_mean=train.normalisation.mean,
            latent_std=train.normalisation.std,
        )
        save_model(DENOISER, average, config)


if __name__ == "__main__":
    run_stage(main)
