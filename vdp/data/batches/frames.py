"""Training batches of frames, or of short runs of them, with masks; seed and step decide all of it.

All that is random is drawn for a whole batch, of which any rows can be read alone.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vdp.core.pixels import to_pixels
from vdp.data.batches.batch import Batch
from vdp.data.batches.shuffle import Shuffled
from vdp.data.stores.clips import ClipStore


class Augmentation(Protocol):
    """Changes frames (T, H, W, 3) and masks (T, H, W), both uint8, alike, with the randomness of a seed."""

    def __call__(self, frames: np.ndarray, masks: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Frames(Batch):
    """Frames (B, 3, H, W) in [-1, 1]; class ids (B, H, W) uint8; whether each has them, (B,) bool.

    Samples of T > 1 consecutive frames have an axis more: (B, 3, T, H, W) and (B, T, H, W).
    The weight of a sample's mask loss, (B,), makes the mean over the whole batch one over those with masks.
    """

    frames: Tensor
    masks: Tensor
    labelled: Tensor
    weight: Tensor

    def clips(self) -> tuple[Tensor, Tensor]:
        """Frames (B, 3, T, H, W) and masks (B, T, H, W), whatever the length; T is 1 for single frames."""
        if self.frames.ndim == 4:
            return self.frames[:, :, None], self.masks[:, None]
        return self.frames, self.masks


class FrameBatches:
    """Frames of clip stores: each epoch takes one random sample of every clip, in shuffled order.

    Args:
        stores: where the clips are.
        batch_size: samples of a whole batch.
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

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Frames:
        """Rows of the batch of a step; `rng` is that step's own and draws all but the clips."""
        places = self._places(step)
        drawn = [
            (int(rng.integers(0, store.num_frames(clip) - self.length + 1)), int(rng.integers(2**31)))
            for store, clip in places
        ]
        samples = [self._read(*places[row], *drawn[row]) for row in rows]
        pictures = to_pixels(np.stack([frames for frames, _ in samples]))
        if self.length > 1:
            pictures = pictures.transpose(1, 2)  # (B, 3, T, H, W)
        masks = torch.from_numpy(np.stack([mask for _, mask in samples]))
        labelled = torch.tensor([clip < store.num_labelled for store, clip in places])
        weight = labelled * (self.batch_size / labelled.sum().clamp(min=1))
        taken = slice(rows.start, rows.stop)
        return Frames(pictures, masks, labelled[taken], weight[taken])

    def names(self, step: int) -> list[str]:
        """Names of the clips in the batch of a step."""
        return [store.name(clip) for store, clip in self._places(step)]

    def _read(self, store: ClipStore, clip: int, start: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """A changed sample of a clip and its masks, empty ones if it has none; single frames without time."""
        taken = slice(start, start + self.length)
        frames = np.asarray(store.frames(clip)[taken])  # numpy's class of maps makes each step on it slower
        has_mask = clip < store.num_labelled
        masks = np.asarray(store.masks(clip)[taken]) if has_mask else np.zeros(frames.shape[:3], np.uint8)
        frames, masks = self.augment(frames, masks, seed)
        return (frames[0], masks[0]) if self.length == 1 else (frames, masks)

    def _places(self, step: int) -> list[tuple[ClipStore, int]]:
        """The clips of a whole batch."""
        first = step * self.batch_size
        return [self._place(self._order[place]) for place in range(first, first + self.batch_size)]

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
