"""Training batches of crops around objects, with classes and masks; they depend on seed and step only."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vdp.core.pixels import to_pixels
from vdp.data.batches.batch import Batch
from vdp.data.batches.frames import Augmentation
from vdp.data.batches.shuffle import Shuffled
from vdp.data.crops import crop_frame, crop_mask, crop_side
from vdp.data.stores.clips import ClipStore, Pixels

MIN_PIXELS = 6  # of an object to crop
MAX_TRIES = 8  # frames of a clip in which to look for an object


@dataclass(frozen=True)
class Crops(Batch):
    """Crops of frames."""

    frames: Tensor  # (B, 3, S, S) in [-1, 1]
    masks: Tensor  # class ids, (B, S, S) uint8
    classes: Tensor  # class ids of the objects in the middle, (B,); 0 where there is none
    weight: Tensor  # of each crop's loss of its class, (B,); 0 where there is no object


class CropBatches:
    """Batches of crops of labelled clips: an epoch has an object of every clip, in shuffled order.

    Args:
        store: clips; those with masks are used.
        batch_size: crops of a whole batch.
        scale: side of a crop, fraction of the frame's height.
        size: side of a crop in the batch, in pixels; None: as in the frame.
        jitter: max shift of a crop, fraction of its side.
        background: share of the crops that are anywhere in a frame.
        augment: of each crop and its mask.

    Raises:
        ValueError: if no clip has masks.
    """

    def __init__(
        self,
        store: ClipStore,
        batch_size: int,
        scale: float,
        size: int | None,
        jitter: float,
        background: float,
        augment: Augmentation,
        seed: int,
    ) -> None:
        if not store.num_labelled:
            raise ValueError(f"{store.folder}: no clip has masks to train on")
        self.store, self.batch_size, self.augment = store, batch_size, augment
        self.side = crop_side(scale, store.height)
        self.size = size or self.side
        self.jitter, self.background = jitter, background
        self._order = Shuffled(store.num_labelled, seed)

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Crops:
        """Return rows of the batch of a step; `rng`, of that step, draws everything but the clips."""
        clips = self._clips(step)
        seeds = rng.integers(2**31, size=self.batch_size)
        drawn = [self._draw(clips[row], np.random.default_rng(int(seeds[row]))) for row in rows]
        classes = torch.tensor([label for _, _, label in drawn])
        return Crops(
            to_pixels(np.stack([crop for crop, _, _ in drawn])),
            torch.from_numpy(np.stack([mask for _, mask, _ in drawn])),
            classes,
            (classes > 0).float(),
        )

    @property
    def epoch_clips(self) -> int:
        """Clips of an epoch."""
        return self._order.count

    def names(self, step: int) -> list[str]:
        """Names of the clips in the batch of a step."""
        return [self.store.name(clip) for clip in self._clips(step)]

    def _draw(self, clip: int, rng: np.random.Generator) -> tuple[Pixels, Pixels, int]:
        """A crop, its mask and the class of its object; 0 for a crop anywhere in a frame."""
        masks = self.store.masks(clip)
        tries = 0 if rng.random() < self.background else MAX_TRIES
        shift = self.jitter * self.side * rng.uniform(-1, 1, 2)
        frame, label, centre = int(rng.integers(len(masks))), 0, rng.uniform(0, masks.shape[1:])
        for _ in range(tries):
            mask = np.asarray(masks[frame])
            counts = np.bincount(mask.ravel(), minlength=2)
            counts[0] = 0
            found = np.flatnonzero(counts >= MIN_PIXELS)
            if len(found):
                label = int(rng.choice(found))
                centre = np.argwhere(mask == label).mean(axis=0) + shift
                break
            frame = int(rng.integers(len(masks)))
        window = (*centre, self.side, self.size)
        crop = crop_frame(np.asarray(self.store.frames(clip)[frame]), *window)
        crops, masks = self.augment(
            crop[None], crop_mask(np.asarray(masks[frame]), *window)[None], int(rng.integers(2**31))
        )
        return crops[0], masks[0], label

    def _clips(self, step: int) -> list[int]:
        first = step * self.batch_size
        return [self._order[position] for position in range(first, first + self.batch_size)]


def mirror_half(frames: Pixels, masks: Pixels, seed: int) -> tuple[Pixels, Pixels]:
    """Mirror frames (T, H, W, 3) and masks (T, H, W) with probability 0.5."""
    if np.random.default_rng(seed).random() < 0.5:
        return frames[:, :, ::-1], masks[:, :, ::-1]
    return frames, masks


def keep(frames: Pixels, masks: Pixels, seed: int) -> tuple[Pixels, Pixels]:
    """Return frames and masks as they are."""
    return frames, masks
