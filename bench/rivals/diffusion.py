"""Rivals that denoise the change of the target frame from the last known one, in this project's latents.

The process, the number of sampling steps and of samples, and the temperature are those of params.yaml. The
target frame is predicted in one hop, without a rollout.
Shapes: B clips, S samples, C channels, K known frames, h x w latent positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from bench.rivals.clips import SEGMENTED, Targets, latent_batches
from bench.rivals.denoisers import MCVD, FrameDenoiser, Unet3D
from bench.rivals.run import FinishedRun
from bench.rivals.scoring import Answers
from bench.rivals.training import Budget, Cost, train
from vdp.config.read import read_section
from vdp.core.device import autocast
from vdp.core.rng import BatchRng
from vdp.data.encode import encode_frames
from vdp.data.stores.latents import LatentClips
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.process import Process, add_noise, predict_x0_eps, target
from vdp.diffusion.schedules import make_process
from vdp.sampling.params import PredictParams
from vdp.sampling.samplers import ddim, time_grid
from vdp.training.dataloader import first_batches
from vdp.training.validation import VALIDATION_SEED, VALIDATION_SIZE

NETWORKS: dict[str, Callable[[int, int, int, tuple[int, ...]], FrameDenoiser]] = {
    "unet3d": Unet3D,
    "mcvd": MCVD,
}
WIDTHS = {"unet3d": 32, "mcvd": 64}
MULTS = (1, 2, 3)  # of the width, by resolution


@dataclass(frozen=True)
class ChangeLoss:
    """Mean squared error of the network's output at uniform times."""

    process: Process
    scale: Tensor  # root mean square of the change per channel, (C,)

    def __call__(self, network: FrameDenoiser, batch: Targets, batch_rng: BatchRng) -> dict[str, Tensor]:
        size = len(batch.target)
        x0 = self.to_data(batch.target, batch.known)[:, :, None]
        t, noise = batch_rng.uniform(size, 1), batch_rng.normal(*x0.shape)
        xt = add_noise(x0, noise, t, self.process.schedule)
        output = network(xt[:, :, 0], t[:, 0], batch.known, self.scale)[:, :, None]
        return {"loss": (output.float() - target(x0, noise, t, self.process)).square().mean()}

    def to_data(self, frames: Tensor, known: Tensor) -> Tensor:
        """Change from the last known frame in units of `scale`, (B, C, h, w)."""
        return (frames - known[:, :, -1]) / self.scale[:, None, None]

    def to_frames(self, x0: Tensor, known: Tensor) -> Tensor:
        """Invert `to_data`."""
        return known[:, :, -1] + self.scale[:, None, None] * x0


def change_scale(batches: Sequence[Targets]) -> Tensor:
    """Root mean square per channel of the change from the last known frame to the target, (C,)."""
    changes = torch.cat([batch.target - batch.known[:, :, -1] for batch in batches])
    return changes.square().mean(dim=(0, 2, 3)).sqrt()


@torch.inference_mode()
def sample(network: FrameDenoiser, loss: ChangeLoss, known: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """Sample target frames by deterministic DDIM, (B, C, h, w) like the noise.

    Args:
        known: normalised latents, (B, C, K, h, w).
        times: of the sampler, descending to 0.
    """

    def denoise(xt: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        at = t.expand(len(xt), 1)
        output = network(xt, at[:, 0], known, loss.scale).float()
        x0, eps = predict_x0_eps(xt[:, :, None], output[:, :, None], at, loss.process)
        return x0[:, :, 0], eps[:, :, 0]

    x0 = ddim(0.0)(denoise, noise, times, loss.process.schedule, lambda: torch.zeros_like(noise))
    return loss.to_frames(x0, known)


def clip_noise(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal noise that depends on the name of a clip and the seed only."""
    number = np.random.default_rng([seed, crc32(name.encode())]).integers(2**62)
    generator = torch.Generator().manual_seed(int(number))
    return torch.randn(*shape, generator=generator)


def diffusion_rival(kind: str, run: FinishedRun, budget: Budget, width: int) -> tuple[Cost, list[Answers]]:
    """Train a denoiser on latents; sample, decode and segment as the stages predict and segment do."""
    diffusion, sampling = read_section(DiffusionParams, "diffusion"), read_section(PredictParams, "predict")
    known, target_at = run.clip.known, run.target
    latents = LatentClips(run.data / "latents", ["train", "unlabeled"])
    val = LatentClips(run.data / "latents", ["val"])
    batches = latent_batches(latents, known, target_at, budget.batch_size, budget.seed)
    val_batches = latent_batches(val, known, target_at, VALIDATION_SIZE, VALIDATION_SEED)
    scale = change_scale(first_batches(batches, budget.seed)).to(run.device)
    loss = ChangeLoss(make_process(diffusion), scale)
    torch.manual_seed(budget.seed)
    untrained = NETWORKS[kind](known, latents.channels, width, MULTS)
    network, cost = train(untrained, loss, batches, val_batches, budget, run.device)
    times = time_grid(sampling.steps, sampling.spacing, diffusion.num_timesteps)
    frames, masks = [], []
    for clip in run.clips:
        codec = run.predictor.codec
        context = latents.normalisation.apply(
            encode_frames(codec.encode, clip.known, len(clip.known), run.device)[None]
        )
        noise = clip_noise(
            clip.name, (sampling.samples, *context.shape[1:2], *context.shape[3:]), budget.seed
        )
        context = context.expand(sampling.samples, -1, -1, -1, -1)
        start = sampling.temperature * noise.to(run.device)
        with autocast(run.device):
            codes = sample(network, loss, context, start, times)
        raw = latents.normalisation.invert(codes.float()[:, :, None])[:, :, 0]
        predicted = run.predictor.decode(raw)
        allowed = run.predictor.allowed_classes(clip.known_masks[SEGMENTED])
        frames.append(predicted[0])  # the first sample, as in the stage score
        masks.append(run.predictor.prediction(predicted, raw.cpu().numpy(), allowed, None))
    return cost, [Answers(SEGMENTED, masks, frames)]
