"""Training batches of object crops with their classes; they depend on seed and step only."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vdp.core.pixels import to_pixels
from vdp.data.batches.batch import Batch
from vdp.data.batches.shuffle import Shuffled
from vdp.data.crops import crop_frame, crop_side
from vdp.data.stores.clips import ClipStore, Pixels

MIN_PIXELS = 6  # of an object to crop
MAX_TRIES = 8  # frames of a clip in which to look for an object


@dataclass(frozen=True)
class Crops(Batch):
    """Crops of objects."""

    crops: Tensor  # (B, 3, S, S) in [-1, 1]
    classes: Tensor  # class ids, (B,); 0 where the clip showed no object
    weight: Tensor  # of each crop's loss, (B,); 0 where there is no object


class CropBatches:
    """Batches of crops of labelled clips: an epoch has an object of every clip, in shuffled order.

    Args:
        store: clips; those with masks are used.
        batch_size: crops of a whole batch.
        size: side of a crop, in pixels of the network's input.
        scale: side of a crop, fraction of the frame's height.
        jitter: max shift of a crop, fraction of its side; half of the crops are mirrored where it is above 0.

    Raises:
        ValueError: if no clip has masks.
    """

    def __init__(
        self, store: ClipStore, batch_size: int, size: int, scale: float, jitter: float, seed: int
    ) -> None:
        if not store.num_labelled:
            raise ValueError(f"{store.folder}: no clip has masks, from which the classifier learns")
        self.store, self.batch_size, self.size, self.jitter = store, batch_size, size, jitter
        self.side = crop_side(scale, store.height)
        self._order = Shuffled(store.num_labelled, seed)

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Crops:
        """Return rows of the batch of a step; `rng`, of that step, draws everything but the clips."""
        clips = self._clips(step)
        seeds = rng.integers(2**31, size=self.batch_size)
        drawn = [self._draw(clips[row], np.random.default_rng(int(seeds[row]))) for row in rows]
        classes = torch.tensor([label for _, label in drawn])
        return Crops(to_pixels(np.stack([crop for crop, _ in drawn])), classes, (classes > 0).float())

    def names(self, step: int) -> list[str]:
        """Names of the clips in the batch of a step."""
        return [self.store.name(clip) for clip in self._clips(step)]

    def _draw(self, clip: int, rng: np.random.Generator) -> tuple[Pixels, int]:
        masks = self.store.masks(clip)
        shift, mirrored = self.jitter * self.side * rng.uniform(-1, 1, 2), rng.random() < 0.5
        for _ in range(MAX_TRIES):
            frame = int(rng.integers(self.store.num_frames(clip)))
            mask = np.asarray(masks[frame])
            counts = np.bincount(mask.ravel(), minlength=2)
            counts[0] = 0
            found = np.flatnonzero(counts >= MIN_PIXELS)
            if not len(found):
                continue
            label = int(rng.choice(found))
            row, column = np.argwhere(mask == label).mean(axis=0) + shift
            crop = crop_frame(np.asarray(self.store.frames(clip)[frame]), row, column, self.side, self.size)
            return (crop[:, ::-1] if mirrored and self.jitter > 0 else crop), label
        return np.zeros((self.size, self.size, 3), np.uint8), 0

    def _clips(self, step: int) -> list[int]:
        first = step * self.batch_size
        return [self._order[position] for position in range(first, first + self.batch_size)]
