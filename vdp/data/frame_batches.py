"""Training batches of single frames with masks; all chance comes from the given generator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vdp.data.clips import ClipStore
from vdp.pixels import to_pixels


class Augmentation(Protocol):
    """Changes a frame (H, W, 3) and its mask (H, W), both uint8, alike, with the randomness of a seed."""

    def __call__(self, frame: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]: ...


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
        augment: Augmentation | None = None,
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
            raise ValueError(
                "clips: expected some with masks to learn from, found none; put mask.npy beside the frames "
                "of the videos of extract_frames.train and extract_frames.val"
            )

    def __call__(self, rng: np.random.Generator) -> Frames:
        """A batch, drawn by `rng`."""
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
