"""Training batches of frames, or of short runs of them, with masks; seed and step decide all of it."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vdp.data.batch import Batch
from vdp.data.clips import ClipStore
from vdp.data.shuffle import Shuffled
from vdp.pixels import to_pixels


class Augmentation(Protocol):
    """Changes frames (T, H, W, 3) and masks (T, H, W), both uint8, alike, with the randomness of a seed."""

    def __call__(self, frames: np.ndarray, masks: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Frames(Batch):
    """Frames (B, 3, H, W) in [-1, 1]; class ids (B, H, W) uint8; whether each has them, (B,) bool.

    Samples of T > 1 consecutive frames have an axis more: (B, 3, T, H, W) and (B, T, H, W).
    """

    frames: Tensor
    masks: Tensor
    labelled: Tensor

    def clips(self) -> tuple[Tensor, Tensor]:
        """Frames (B, 3, T, H, W) and masks (B, T, H, W), whatever the length; T is 1 for single frames."""
        if self.frames.ndim == 4:
            return self.frames[:, :, None], self.masks[:, None]
        return self.frames, self.masks


class FrameBatches:
    """Frames of clip stores: each epoch takes one random sample of every clip, in shuffled order.

    Args:
        stores: where the clips are.
        batch_size: samples of a batch.
        labelled_only: whether to leave out clips without masks.
        augment: changes the frames and masks of a sample, all alike.
        seed: of the run.
        length: consecutive frames of a sample.

    Raises:
        ValueError: if there is no clip to take, or one is shorter than a sample.
    """

    def __init__(
        self,
        stores: Sequence[ClipStore],
        batch_size: int,
        labelled_only: bool,
        augment: Augmentation,
        seed: int,
        length: int = 1,
    ) -> None:
        self.stores = stores
        self.batch_size = batch_size
        self.length = length
        self.augment = augment
        sizes = [store.num_labelled if labelled_only else len(store) for store in stores]
        self._starts = list(accumulate(sizes, initial=0))
        if not self._starts[-1]:
            raise ValueError(
                "clips: expected some with masks to learn from, found none; put mask.npy beside the frames "
                "of the videos of extract_frames.train and extract_frames.val"
                if labelled_only
                else "clips: expected some to learn from, found none; run `dvc repro extract_frames`"
            )
        for store, size in zip(stores, sizes, strict=True):
            check_lengths(store, size, length)
        self._order = Shuffled(self._starts[-1], seed)

    def __call__(self, step: int, rng: np.random.Generator) -> Frames:
        """The batch of a step; `rng` is that step's own and draws all but the clips."""
        frames, masks, labelled = [], [], []
        for position in range(step * self.batch_size, (step + 1) * self.batch_size):
            store, clip = self._place(self._order[position])
            start = int(rng.integers(0, store.num_frames(clip) - self.length + 1))
            taken = slice(start, start + self.length)
            has_mask = clip < store.num_labelled
            pixels = store.frames(clip)[taken]
            mask = store.masks(clip)[taken] if has_mask else np.zeros(pixels.shape[:3], np.uint8)
            pixels, mask = self.augment(pixels, mask, int(rng.integers(2**31)))
            frames.append(pixels[0] if self.length == 1 else pixels)
            masks.append(mask[0] if self.length == 1 else mask)
            labelled.append(has_mask)
        pictures = to_pixels(np.stack(frames))
        if self.length > 1:
            pictures = pictures.transpose(1, 2)  # (B, 3, T, H, W)
        return Frames(pictures, torch.from_numpy(np.stack(masks)), torch.tensor(labelled))

    def _place(self, number: int) -> tuple[ClipStore, int]:
        """The store and the index in it of a clip counted over all stores."""
        store = bisect_right(self._starts, number) - 1
        return self.stores[store], number - self._starts[store]


def check_lengths(store: ClipStore, size: int, length: int) -> None:
    """ValueError if one of the first `size` clips of a store has fewer than `length` frames."""
    if all(frames >= length for frames in store.lengths()):
        return
    for clip in range(size):  # the short ones may be among those that are left out
        if store.num_frames(clip) < length:
            raise ValueError(
                f"{store.folder}: expected clips of {length} frames or more, 1 + 2 x vae.temporal_factor, "
                f"got {store.num_frames(clip)} in {store.name(clip)}; lower vae.temporal_factor or raise "
                "clip.frames"
            )
