"""Training batches of single frames with masks; the seed and the step decide what is in a batch."""

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
    """Frames (B, 3, H, W) in [-1, 1]; class ids (B, H, W) uint8; whether each has them, (B,) bool."""

    frames: Tensor
    masks: Tensor
    labelled: Tensor


class FrameBatches:
    """Single frames of clip stores: each epoch takes one random frame of every clip, in shuffled order.

    Args:
        stores: where the clips are.
        batch_size: frames of a batch.
        labelled_only: whether to leave out clips without masks.
        augment: changes each frame and its mask.
        seed: of the run.

    Raises:
        ValueError: if there is no clip to take.
    """

    def __init__(
        self,
        stores: Sequence[ClipStore],
        batch_size: int,
        labelled_only: bool,
        augment: Augmentation,
        seed: int,
    ) -> None:
        self.stores = stores
        self.batch_size = batch_size
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
        self._order = Shuffled(self._starts[-1], seed)

    def __call__(self, step: int, rng: np.random.Generator) -> Frames:
        """The batch of a step; `rng` is that step's own and draws all but the clips."""
        frames, masks, labelled = [], [], []
        for position in range(step * self.batch_size, (step + 1) * self.batch_size):
            store, clip = self._place(self._order[position])
            t = int(rng.integers(0, store.num_frames(clip)))
            has_mask = clip < store.num_labelled
            pixels = store.frames(clip)[t : t + 1]
            mask = store.masks(clip)[t : t + 1] if has_mask else np.zeros(pixels.shape[:3], np.uint8)
            pixels, mask = self.augment(pixels, mask, int(rng.integers(2**31)))
            frames.append(pixels[0])
            masks.append(mask[0])
            labelled.append(has_mask)
        return Frames(to_pixels(np.stack(frames)), torch.from_numpy(np.stack(masks)), torch.tensor(labelled))

    def _place(self, number: int) -> tuple[ClipStore, int]:
        """The store and the index in it of a clip counted over all stores."""
        store = bisect_right(self._starts, number) - 1
        return self.stores[store], number - self._starts[store]
