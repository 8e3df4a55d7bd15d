"""Trainings of small networks on random batches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch
from torch import Tensor, nn

from tests.models.denoiser_cases import denoiser_params
from tests.processes import objective_of
from vdp.core.rng import BatchRng
from vdp.data.batches.frames import Frames
from vdp.data.batches.hops import HopBatch
from vdp.diffusion.loss import HopLoss, LevelLoss
from vdp.diffusion.scheduled_sampling import ScheduledSampling
from vdp.models.codecs.params import VAEParams
from vdp.models.codecs.vae import VAE, vae_loss
from vdp.models.denoisers.factory import build_denoiser
from vdp.models.factored_classes import factor_loss
from vdp.models.segmenters.params import SegmenterParams
from vdp.models.segmenters.unetpp import UNetPlusPlus
from vdp.training.dataloader import Batch
from vdp.training.definition import Training
from vdp.training.validation import VALIDATION_SIZE

BATCH = 8  # samples of a step
CHANNELS = 3  # of a latent
SIDE = 16  # pixels of a frame
KNOWN = 3  # frames of a hop's context
VAE_SECTION = {
    "spatial_factor": 4, "temporal_factor": 1, "latent_channels": CHANNELS, "base_channels": 8,
    "num_res_blocks": 1,
}  # fmt: skip
SEGMENTER = {
    "encoder": "resnet18", "encoder_depth": 3, "decoder_channels": [8, 8, 8], "upsample": 1,
}  # fmt: skip


@dataclass(frozen=True)
class RandomBatches(Generic[Batch]):
    """Batches drawn whole; `take` selects the rows."""

    draw: Callable[[np.random.Generator, int], Batch]
    take: Callable[[Batch, slice], Batch]
    batch_size: int = BATCH

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Batch:
        return self.take(self.draw(rng, self.batch_size), slice(rows.start, rows.stop))

    def names(self, step: int) -> list[str]:
        return [f"clip {step * self.batch_size + i}" for i in range(self.batch_size)]


def draw_frames(rng: np.random.Generator, size: int) -> Frames:
    """Noise with squares of a class; a third of the frames have no masks."""
    frames = torch.from_numpy(rng.uniform(-1, 1, (size, 3, SIDE, SIDE)).astype(np.float32))
    masks = torch.zeros((size, SIDE, SIDE), dtype=torch.uint8)
    for mask in masks:
        x, y, side = (int(n) for n in rng.integers(1, SIDE // 2, 3))
        mask[y : y + side, x : x + side] = int(rng.integers(1, 49))
    labelled = torch.from_numpy(rng.random(size) < 0.67)
    weight = labelled * (size / labelled.sum().clamp(min=1))
    return Frames(frames, masks * labelled[:, None, None], labelled, weight)


def take_frames(batch: Frames, rows: slice) -> Frames:
    return Frames(batch.frames[rows], batch.masks[rows], batch.labelled[rows], batch.weight[rows])


def draw_hops(rng: np.random.Generator, size: int) -> HopBatch:
    """Frames that drift: two targets after three context frames, in one of five batches after two."""
    known = KNOWN if rng.random() < 0.8 else KNOWN - 1
    start, drift = (
        torch.from_numpy(rng.standard_normal((size, CHANNELS, 1, 5, 6))).float() for _ in range(2)
    )
    index = torch.arange(known).flip(0).float().expand(size, -1)
    target_index = torch.tensor([known, known + 1.0]).expand(size, -1)
    at = torch.cat([index, target_index], dim=1)[:, None, :, None, None]
    frames = start + 0.3 * drift * at
    return HopBatch(frames[:, :, :known], index, frames[:, :, known:], target_index)


def take_hops(batch: HopBatch, rows: slice) -> HopBatch:
    return HopBatch(batch.known[rows], batch.index[rows], batch.target[rows], batch.target_index[rows])


def vae_training() -> Training[VAE, Frames, Frames]:
    def loss(network: VAE, batch: Frames, batch_rng: BatchRng) -> dict[str, Tensor]:
        clips, masks = batch.clips()
        noise = batch_rng.normal(len(clips), CHANNELS, 1, SIDE // 4, SIDE // 4)
        return vae_loss(network, clips, masks, batch.weight, noise, 1e-4, 5.0, 0.3)

    network = VAE(VAEParams.model_validate(VAE_SECTION), has_masks=True)
    batches = RandomBatches(draw_frames, take_frames)
    val_batches = RandomBatches(draw_frames, take_frames, VALIDATION_SIZE)
    return Training("pretrain_vae", network, loss, batches, loss, val_batches)


def denoiser_training(name: str, scheduled_sampling: float) -> Training[nn.Module, HopBatch, HopBatch]:
    params = denoiser_params(name)
    objective = objective_of("flow", "flow", torch.ones(CHANNELS), residual=True)
    sampling = ScheduledSampling(share=scheduled_sampling, frames=1, steps=2, temperature=0.7)
    loss = HopLoss({"predict": objective}, None, 1.0, 2, 0.1, 0.2, sampling)
    network = build_denoiser(params, CHANNELS)
    batches = RandomBatches(draw_hops, take_hops)
    val_batches = RandomBatches(draw_hops, take_hops, VALIDATION_SIZE)
    return Training("train_denoiser", network, loss, batches, LevelLoss(objective), val_batches)


def segmenter_training() -> Training[UNetPlusPlus, Frames, Frames]:
    def loss(network: UNetPlusPlus, batch: Frames, batch_rng: BatchRng) -> dict[str, Tensor]:
        return {"loss": factor_loss(network(batch.frames), batch.masks).mean()}

    network = UNetPlusPlus(SegmenterParams.model_validate(SEGMENTER))
    batches, val_batches = (
        RandomBatches(draw_frames, take_frames),
        RandomBatches(draw_frames, take_frames, VALIDATION_SIZE),
    )
    return Training("train_segmenter", network, loss, batches, loss, val_batches)


def make_training(name: str) -> Training:
    """Return a training: 'vae', 'segmenter' or a denoiser, with '+scheduled' by scheduled sampling."""
    if name == "vae":
        return vae_training()
    if name == "segmenter":
        return segmenter_training()
    return denoiser_training(name.removesuffix("+scheduled"), 0.5 if name.endswith("+scheduled") else 0.0)
