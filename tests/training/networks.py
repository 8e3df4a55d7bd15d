"""Trainings of small networks on random batches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, get_args

import numpy as np
import torch
from torch import Tensor, nn

from stages import train_classifier
from tests.models.denoiser_cases import denoiser_params
from tests.processes import objective_of
from vdp.config.choices import MotionName
from vdp.core.classes import NUM_CLASSES
from vdp.core.ground import Ground
from vdp.core.objects import FEATURES, SEEN, X, Y
from vdp.core.rng import BatchRng
from vdp.data.batches.crops import Crops
from vdp.data.batches.frames import Frames
from vdp.data.batches.hops import HopBatch
from vdp.data.batches.motion import MotionBatch, object_latents
from vdp.diffusion.loss import HopLoss, LevelLoss
from vdp.diffusion.motion import MotionLevelLoss, MotionLoss, MotionObjective, motion_process
from vdp.diffusion.scheduled_sampling import ScheduledSampling
from vdp.models.classifiers.crops import CropClassifier
from vdp.models.classifiers.params import ClassifierParams
from vdp.models.codecs.params import VAEParams
from vdp.models.codecs.vae import VAE, vae_loss
from vdp.models.denoisers.factory import build_denoiser
from vdp.models.factored_classes import factor_loss
from vdp.models.motion.factory import MotionModel, build_motion
from vdp.models.motion.params import MotionParams
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
    "spatial_factor": 4, "temporal_factor": 1, "convolutions": "factorised",
    "latent_channels": CHANNELS, "base_channels": 8, "num_res_blocks": 1,
}  # fmt: skip
SEGMENTER = {
    "encoder": "resnet18", "encoder_depth": 3, "decoder_channels": [8, 8, 8], "upsample": 1, "size": None,
    "weights": None,
}  # fmt: skip
CLASSIFIER = {"crop": 12, "crop_scale": 0.5, "base_channels": 8}
MOTION = {
    "schedule": "cosine", "prediction": "v", "hidden_dim": 16, "pair_dim": 8, "depth": 1, "head_depth": 1,
    "num_heads": 2, "context_slots": 4, "target_slots": 2,
}  # fmt: skip
OBJECTS, TARGETS = 4, 2  # of a clip of objects


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
    network = build_denoiser(params, CHANNELS, moved=False)
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


def draw_objects(rng: np.random.Generator, size: int) -> MotionBatch:
    """Clips of objects that slide past each other; of some clips few objects are visible."""
    frames = MOTION["context_slots"] + TARGETS
    states = rng.uniform(0, 0.2, (size, OBJECTS, frames, len(FEATURES))).astype(np.float32)
    start, step = rng.uniform(-0.4, 0.4, (2, size, OBJECTS, 1, 2))
    states[..., [X, Y]] = start + 0.1 * step * np.arange(frames)[:, None]
    states[..., SEEN] = rng.random((size, OBJECTS, frames)) < rng.uniform(0.3, 1, (size, 1, 1))
    states *= states[..., SEEN : SEEN + 1]
    latents = object_latents(states, rng.integers(1, NUM_CLASSES, (size, OBJECTS)).astype(np.uint8))
    index, known = torch.arange(float(frames)).expand(size, -1), MOTION["context_slots"]
    return MotionBatch(latents[:, :, :known], index[:, :known], latents[:, :, known:], index[:, known:])


def take_objects(batch: MotionBatch, rows: slice) -> MotionBatch:
    return MotionBatch(batch.known[rows], batch.index[rows], batch.target[rows], batch.target_index[rows])


def draw_crops(rng: np.random.Generator, size: int) -> Crops:
    """Noise around the level of one of two classes; a few crops have no object."""
    classes = torch.from_numpy(rng.choice([0, 5, 40], size, p=[0.1, 0.45, 0.45]))
    noise = rng.uniform(-0.2, 0.2, (size, 3, CLASSIFIER["crop"], CLASSIFIER["crop"]))
    crops = torch.from_numpy(noise.astype(np.float32)) + (classes / NUM_CLASSES - 0.5)[:, None, None, None]
    masks = classes[:, None, None].expand(-1, *crops.shape[2:]).byte()
    return Crops(crops, masks, classes, (classes > 0).float())


def take_crops(batch: Crops, rows: slice) -> Crops:
    return Crops(batch.frames[rows], batch.masks[rows], batch.classes[rows], batch.weight[rows])


def motion_training(name: str) -> Training[MotionModel, MotionBatch, MotionBatch]:
    """A motion model that predicts some of its own context frames."""
    ground = Ground(0.2, 0.1, 2.0, (0.03, 0.02, 0.03), diameter=1.0, restitution=0.7)
    objective = MotionObjective(motion_process("cosine", "v"), ground, torch.tensor([1.5, 0.7]))
    settings = (objective, 1.0, 2, 0.5)
    network = build_motion(MotionParams.model_validate({"name": name, **MOTION}), ground)
    loss = MotionLoss(*settings, unroll=2, hop_frames=TARGETS)
    batches = RandomBatches(draw_objects, take_objects)
    val_batches = RandomBatches(draw_objects, take_objects, VALIDATION_SIZE)
    return Training("train_motion", network, loss, batches, MotionLevelLoss(*settings), val_batches)


def classifier_training() -> Training[CropClassifier, Crops, Crops]:
    """The training of the stage on other batches."""
    return Training(
        "train_classifier",
        CropClassifier(ClassifierParams.model_validate(CLASSIFIER)),
        train_classifier.loss,
        RandomBatches(draw_crops, take_crops),
        train_classifier.val_loss,
        RandomBatches(draw_crops, take_crops, VALIDATION_SIZE),
    )


def make_training(name: str) -> Training:
    """Return a training by name.

    'vae', 'segmenter', 'classifier', a motion model, or a denoiser, with '+scheduled' by scheduled sampling.
    """
    if name == "vae":
        return vae_training()
    if name == "segmenter":
        return segmenter_training()
    if name == "classifier":
        return classifier_training()
    if name in get_args(MotionName):
        return motion_training(name)
    return denoiser_training(name.removesuffix("+scheduled"), 0.5 if name.endswith("+scheduled") else 0.0)
