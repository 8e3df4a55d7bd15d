"""Rivals that predict without diffusion: SimVP from masks to a mask, and from frames to a frame."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.rivals.clips import (
    SEGMENTED,
    TRACKED,
    TRUE,
    Pixels,
    Targets,
    TestClip,
    frame_batches,
    mask_batches,
    split_stores,
)
from bench.rivals.run import FinishedRun
from bench.rivals.scoring import Answers, pooled_jaccard
from bench.rivals.simvp import GROUPS, SimVP
from bench.rivals.training import Budget, Cost, train
from vdp.config.schema import ClipParams
from vdp.core.classes import NUM_CLASSES, factor_indices
from vdp.core.device import autocast
from vdp.core.pixels import to_pixels, to_uint8
from vdp.core.rng import BatchRng
from vdp.models.factored_classes import NUM_LOGITS, SPLITS, class_log_probs, factor_loss
from vdp.models.segmenters.masks import probs_to_masks
from vdp.training.validation import VALIDATION_SEED, VALIDATION_SIZE

WIDTH, DEPTH = 16, 2  # of SimVP: features of a frame, half of the translator's blocks
HIDDEN = 6  # features of the translator, relative to those of a frame
THRESHOLDS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)  # of objects, chosen on val clips
COPY_LOGIT = 2.0  # of the factors of the last known mask
INFERENCE_BATCH = 16


def build_simvp(clip: ClipParams, channels: int, out: int, width: int) -> SimVP:
    """SimVP of a width; its translator is wider by `HIDDEN`, rounded to whole groups."""
    hidden = max(1, HIDDEN * width // (2 * GROUPS)) * 2 * GROUPS
    return SimVP(clip.known, channels, out, width, hidden, DEPTH)


def factor_table() -> Tensor:
    """Factors of each class as indicators in the order of the logits, (49, 14); zeros for the background."""
    table = torch.zeros(NUM_CLASSES, NUM_LOGITS)
    table[1:, 0] = 1
    starts = np.cumsum(SPLITS)[:-1]
    for start, factor in zip(starts, factor_indices(torch.arange(1, NUM_CLASSES)), strict=True):
        table[torch.arange(1, NUM_CLASSES), int(start) + factor] = 1
    return table


class MaskSimVP(nn.Module):
    """SimVP from class ids (B, K, H, W) to the logits by factor of a later mask, (B, 14, H, W).

    It adds to logits of the last known mask: from nothing, a short training does not reach a copy.
    """

    factors: Tensor  # of each class, (49, 14)

    def __init__(self, clip: ClipParams, width: int) -> None:
        super().__init__()
        self.register_buffer("factors", factor_table(), persistent=False)
        self.net = build_simvp(clip, NUM_LOGITS, NUM_LOGITS, width)

    def forward(self, masks: Tensor) -> Tensor:
        factors = F.embedding(masks.long(), self.factors).movedim(-1, 1)  # (B, 14, K, H, W)
        return self.net(factors) + COPY_LOGIT * (2 * factors[:, :, -1] - 1)


def mask_loss(network: MaskSimVP, batch: Targets, batch_rng: BatchRng) -> dict[str, Tensor]:
    """The segmenter's loss: cross-entropy of the factors, and Dice."""
    return {"loss": factor_loss(network(batch.known), batch.target).mean()}


def frame_loss(network: SimVP, batch: Targets, batch_rng: BatchRng) -> dict[str, Tensor]:
    """Mean squared error of the frame, as the paper."""
    return {"loss": (predict_frame(network, batch.known).float() - batch.target).square().mean()}


def predict_frame(network: SimVP, known: Tensor) -> Tensor:
    """The last known frame and a change of it, as in `MaskSimVP`."""
    return known[:, :, -1] + network(known)


@torch.inference_mode()
def class_shares(network: MaskSimVP, known: Sequence[Pixels], device: torch.device) -> Tensor:
    """Class probabilities of the target by known masks (K, H, W) of N clips, (N, 49, H, W).

    Only classes among the known masks have any, as in the stage segment.
    """
    parts = []
    for first in range(0, len(known), INFERENCE_BATCH):
        masks = np.stack(known[first : first + INFERENCE_BATCH])
        with autocast(device):
            logits = network(torch.from_numpy(masks).to(device))
        seen = np.stack([np.bincount(mask.ravel(), minlength=NUM_CLASSES) > 0 for mask in masks])
        parts.append(class_log_probs(logits).exp().cpu() * torch.from_numpy(seen)[:, :, None, None])
    return torch.cat(parts)


def decide(shares: Tensor, threshold: float) -> list[Pixels]:
    """Masks (H, W) of class probabilities (N, 49, H, W)."""
    return list(probs_to_masks(shares, threshold, None).numpy())


def choose_threshold(shares: Tensor, clips: Sequence[TestClip]) -> float:
    """The threshold of the best Jaccard index, the lowest of equals."""
    return max(THRESHOLDS, key=lambda threshold: pooled_jaccard(decide(shares, threshold), clips))


def val_clips(run: FinishedRun) -> list[TestClip]:
    """The labelled validation clips, with their true masks only."""
    stores = split_stores(run.data, ["val"])
    numbered = [(store, n) for store in stores for n in store.labelled if store.num_frames(n) > run.target]
    found = []
    for store, number in numbered:
        frames, masks = np.asarray(store.frames(number)), np.asarray(store.masks(number))
        known = run.clip.known
        found.append(
            TestClip(
                store.name(number),
                frames[:known],
                frames[run.target],
                masks[run.target],
                {TRUE: masks[:known]},
            )
        )
    return found


def simvp_masks(run: FinishedRun, budget: Budget, width: int) -> tuple[Cost, list[Answers]]:
    """Train on true masks; answer from tracked and from true known masks."""
    known, target = run.clip.known, run.target
    batches = mask_batches(split_stores(run.data, ["train"]), known, target, budget.batch_size, budget.seed)
    val_stores = split_stores(run.data, ["val"])
    val_batches = mask_batches(val_stores, known, target, VALIDATION_SIZE, VALIDATION_SEED)
    torch.manual_seed(budget.seed)
    network, cost = train(MaskSimVP(run.clip, width), mask_loss, batches, val_batches, budget, run.device)

    def shares(clips: Sequence[TestClip], kind: str) -> Tensor:
        return class_shares(network, [clip.known_masks[kind] for clip in clips], run.device)

    val = val_clips(run)
    threshold = choose_threshold(shares(val, TRUE), val)
    answers = [Answers(kind, decide(shares(run.clips, kind), threshold)) for kind in (TRACKED, TRUE)]
    return cost, answers


def simvp_frames(run: FinishedRun, budget: Budget, width: int) -> tuple[Cost, list[Answers]]:
    """Train on frames; segment the predicted frame as the stage segment does."""
    known, target, device = run.clip.known, run.target, run.device
    stores = split_stores(run.data, ["train", "unlabeled"])
    batches = frame_batches(stores, known, target, budget.batch_size, budget.seed)
    val_stores = split_stores(run.data, ["val"])
    val_batches = frame_batches(val_stores, known, target, VALIDATION_SIZE, VALIDATION_SEED)
    torch.manual_seed(budget.seed)
    network, cost = train(
        build_simvp(run.clip, 3, 3, width), frame_loss, batches, val_batches, budget, device
    )
    frames, masks = [], []
    for clip in run.clips:
        with torch.inference_mode(), autocast(device):
            pixels = to_pixels(clip.known).transpose(0, 1)[None].to(device)
            predicted = to_uint8(predict_frame(network, pixels))
        latents = run.predictor.encode(predicted).float().cpu().numpy()
        allowed = run.predictor.allowed_classes(clip.known_masks[SEGMENTED])
        frames.append(predicted[0])
        masks.append(run.predictor.prediction(predicted, latents, allowed, None))
    return cost, [Answers(SEGMENTED, masks, frames)]
