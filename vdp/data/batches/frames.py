"""Training batches of frames, or of short runs of frames, with masks; they depend on seed and step only.

Random numbers are drawn for the whole batch, of which any rows can be read separately.
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
    """Augment frames (T, H, W, 3) and masks (T, H, W), both uint8, all frames of a call the same way."""

    def __call__(self, frames: np.ndarray, masks: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Frames(Batch):
    """Single frames, or runs of T > 1 consecutive frames with an axis for time."""

    frames: Tensor  # (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1]
    masks: Tensor  # class ids, (B, H, W) or (B, T, H, W) uint8
    labelled: Tensor  # (B,) bool, whether a sample has masks
    weight: Tensor  # of the mask loss, (B,): the mean over the whole batch is that over labelled samples

    def clips(self) -> tuple[Tensor, Tensor]:
        """Frames (B, 3, T, H, W) and masks (B, T, H, W); T is 1 for single frames."""
        if self.frames.ndim == 4:
            return self.frames[:, :, None], self.masks[:, None]
        return self.frames, self.masks


class FrameBatches:
    """Batches of frames of clip stores: an epoch has one random sample of every clip, in shuffled order.

    A sample has `length` consecutive frames; clips without masks are left out where `labelled_only`.

    Raises:
        ValueError: if there are no clips, or one is shorter than a sample.
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
                "clips: no clips with masks to train on; put mask.npy beside the frames of the videos of "
                "extract_frames.train and extract_frames.val"
                if labelled_only
                else "clips: no clips to train on; run `dvc repro extract_frames`"
            )
        for store, size in zip(stores, sizes, strict=True):
            _check_lengths(store, size, length)
        self._order = Shuffled(self._starts[-1], seed)

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Frames:
        """Return rows of the batch of a step; `rng`, of that step, draws everything but the clips."""
        clips = self._clips(step)
        drawn = [
            (int(rng.integers(0, store.num_frames(clip) - self.length + 1)), int(rng.integers(2**31)))
            for store, clip in clips
        ]
        samples = [self._read(*clips[row], *drawn[row]) for row in rows]
        pictures = to_pixels(np.stack([frames for frames, _ in samples]))
        if self.length > 1:
            pictures = pictures.transpose(1, 2)  # (B, 3, T, H, W)
        masks = torch.from_numpy(np.stack([mask for _, mask in samples]))
        labelled = torch.tensor([clip < store.num_labelled for store, clip in clips])
        weight = labelled * (self.batch_size / labelled.sum().clamp(min=1))
        taken = slice(rows.start, rows.stop)
        return Frames(pictures, masks, labelled[taken], weight[taken])

    @property
    def epoch_clips(self) -> int:
        """Clips of an epoch."""
        return self._order.count

    def names(self, step: int) -> list[str]:
        """Names of the clips in the batch of a step."""
        return [store.name(clip) for store, clip in self._clips(step)]

    def _read(self, store: ClipStore, clip: int, start: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Read and augment a sample; masks are zeros for an unlabelled clip."""
        taken = slice(start, start + self.length)
        frames = np.asarray(store.frames(clip)[taken])  # each operation on an np.memmap is slower
        labelled = clip < store.num_labelled
        masks = np.asarray(store.masks(clip)[taken]) if labelled else np.zeros(frames.shape[:3], np.uint8)
        frames, masks = self.augment(frames, masks, seed)
        return (frames[0], masks[0]) if self.length == 1 else (frames, masks)

    def _clips(self, step: int) -> list[tuple[ClipStore, int]]:
        """Store and index of each clip of a whole batch."""
        first = step * self.batch_size
        return [self._locate(self._order[position]) for position in range(first, first + self.batch_size)]

    def _locate(self, number: int) -> tuple[ClipStore, int]:
        """Store and index of a clip numbered over all stores."""
        store = bisect_right(self._starts, number) - 1
        return self.stores[store], number - self._starts[store]


def _check_lengths(store: ClipStore, size: int, length: int) -> None:
    """Require `length` frames of the first `size` clips of a store."""
    if all(frames >= length for frames in store.lengths()):
        return
    for clip in range(size):  # the short ones may be unlabelled clips, which are left out
        if store.num_frames(clip) < length:
            raise ValueError(
                f"{store.folder}: expected clips of {length} frames or more, 1 + 2 x vae.temporal_factor, "
                f"got {store.num_frames(clip)} in {store.name(clip)}; lower vae.temporal_factor or raise "
                "clip.frames"
            )
