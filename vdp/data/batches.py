"""Training batches: random frames with masks, random hops of latents. All randomness comes from the given generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vdp.data.augment import Augment
from vdp.data.clips import ClipStore
from vdp.data.latents import LatentClips
from vdp.data.pixels import to_pixels
from vdp.tasks import Hops, draw_hop

FULL_CONTEXT = 0.85  # share of batches with all known frames; the others have fewer, so that short contexts work too


@dataclass(frozen=True)
class Frames:
    """Frames (B, 3, H, W) in [-1, 1]; class ids (B, H, W) uint8; whether each has them, (B,) bool."""

    frames: Tensor
    masks: Tensor
    labelled: Tensor


class FrameBatches:
    """Random single frames of clip stores, half of them mirrored where `flip`, then augmented where asked."""

    def __init__(
        self,
        stores: Sequence[ClipStore],
        batch_size: int,
        labelled_only: bool,
        flip: bool,
        device: torch.device,
        augment: Augment | None = None,
    ) -> None:
        self.stores = stores
        self.batch_size = batch_size
        self.flip = flip
        self.augment = augment
        self.device = device
        masked = [set(store.labelled.tolist()) for store in stores]
        self.places = [
            (s, i, i in masked[s])
            for s, store in enumerate(stores)
            for i in range(len(store))
            if i in masked[s] or not labelled_only
        ]
        if not self.places:
            raise ValueError("clips: expected some with masks to learn from, found none; give mask.npy files to train")

    def __call__(self, rng: np.random.Generator) -> Frames:
        frames, masks, labelled = [], [], []
        for place in rng.integers(0, len(self.places), self.batch_size):
            store, clip, has_mask = self.places[place]
            frame = int(rng.integers(0, self.stores[store].num_frames(clip)))
            pixels = self.stores[store].frames(clip)[frame]
            mask = self.stores[store].masks(clip)[frame] if has_mask else np.zeros(pixels.shape[:2], np.uint8)
            step = -1 if self.flip and rng.random() < 0.5 else 1
            pixels, mask = pixels[:, ::step], mask[:, ::step]
            if self.augment is not None:
                pixels, mask = self.augment(pixels, mask, int(rng.integers(2**31)))
            frames.append(pixels)
            masks.append(mask)
            labelled.append(has_mask)
        return Frames(
            to_pixels(np.stack(frames)).to(self.device),
            torch.from_numpy(np.stack(masks)).to(self.device),
            torch.tensor(labelled, device=self.device),
        )


class HopBatches:
    """Random hops of a rollout from random places of random clips; one number of known frames in a batch."""

    def __init__(
        self,
        latents: LatentClips,
        batch_size: int,
        known: int,
        gaps: Sequence[int],
        max_hops: int,
        device: torch.device,
    ) -> None:
        draw_hop(np.random.default_rng(0), latents.num_frames, known, gaps, max_hops)  # a bad fit fails at once
        self.latents = latents
        self.batch_size = batch_size
        self.known = known
        self.gaps = gaps
        self.max_hops = max_hops
        self.device = device

    def __call__(self, rng: np.random.Generator) -> Hops:
        known = self.known if rng.random() < FULL_CONTEXT else int(rng.integers(1, self.known + 1))
        drawn = [
            draw_hop(rng, self.latents.num_frames, known, self.gaps, self.max_hops) for _ in range(self.batch_size)
        ]
        clips = rng.integers(0, len(self.latents), self.batch_size)
        views = rng.integers(0, self.latents.views, self.batch_size)
        frames = self.latents.read(list(clips), list(views), [[*before, after] for before, after in drawn])
        frames = frames.to(self.device)
        index = torch.tensor([before for before, _ in drawn], dtype=torch.float32, device=self.device)
        target_index = torch.tensor([[after] for _, after in drawn], dtype=torch.float32, device=self.device)
        return Hops(frames[:, :, :-1], index, frames[:, :, -1:], target_index)
