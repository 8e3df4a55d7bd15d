"""Training batches of object motion: known and future states of the objects of clips, by seed and step only.

Shapes: B clips, N objects, T frames, C channels of `vdp.core.objects`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vdp.core.borders import whole_places
from vdp.core.classes import MATERIALS, SHAPES, factor_indices
from vdp.core.context_frames import Hops
from vdp.core.ground import Ground
from vdp.core.objects import FEATURES, SEEN, X, Y
from vdp.data.batches.batch import Batch
from vdp.data.batches.shuffle import Shuffled
from vdp.data.stores.tracks import TrackStore

FULL_SHARE = 0.5  # share of batches with the context of a test clip; the others end at a random frame
MIN_CONTEXT, MIN_TARGETS = 4, 3  # frames of the others


@dataclass(frozen=True)
class MotionBatch(Batch, Hops):
    """Hops of objects as a training batch."""


def object_latents(states: NDArray[np.float32], classes: NDArray[np.uint8]) -> Tensor:
    """Convert states (B, N, T, F) and class ids (B, N), 0 for absent, to latents (B, C, T, 1, N)."""
    features = torch.from_numpy(np.array(states, np.float32))  # copied: a memory map is read-only
    ids = torch.from_numpy(np.array(classes, np.int64))
    shape, material, _ = factor_indices(ids.clamp(min=1))
    kind = torch.cat([torch.eye(len(SHAPES))[shape], torch.eye(len(MATERIALS))[material]], dim=-1)
    static = kind * (ids > 0)[..., None]
    latents = torch.cat([features, static[:, :, None].expand(-1, -1, features.shape[2], -1)], dim=-1)
    return latents.permute(0, 3, 2, 1)[:, :, :, None].contiguous()


class MotionBatches:
    """Batches of clips of several stores: an epoch has every clip once, shuffled.

    Args:
        stores: tracks; their clips may differ in length.
        batch_size: clips of a whole batch.
        context_frames: frames of a test clip's context, and the maximum number.
        max_targets: maximum number of target frames.
        augment: mirror half of the clips, end the context at random frames, and move places by `jitter`.
        jitter: standard deviation, in frame heights.
        ground: gives the places of whole objects where the border cuts them.

    Raises:
        ValueError: if there are no clips, or one is too short.
    """

    def __init__(
        self,
        stores: Sequence[TrackStore],
        batch_size: int,
        context_frames: int,
        max_targets: int,
        augment: bool,
        jitter: float,
        seed: int,
        ground: Ground,
    ) -> None:
        self.stores = [store for store in stores if len(store)]
        if not self.stores:
            raise ValueError("tracks: no clips to train on; set simulate.tracks above 0, or label some clips")
        self.frames = min(store.frames for store in self.stores)
        if self.frames <= context_frames:
            raise ValueError(
                f"tracks: clips of {self.frames} frames, expected more than clip.known={context_frames}"
            )
        self.batch_size = batch_size
        self.context_frames, self.max_targets = context_frames, max_targets
        self.augment, self.jitter, self.ground = augment, jitter, ground
        self.objects = max(store.classes.shape[1] for store in self.stores)
        self._starts = np.cumsum([0, *(len(store) for store in self.stores)])
        self._order = Shuffled(int(self._starts[-1]), seed)

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> MotionBatch:
        """Return rows of the batch of a step; `rng`, of that step, draws everything but the clips."""
        last = self.context_frames  # number of the first target frame
        if self.augment and rng.random() >= FULL_SHARE:
            earliest = min(MIN_CONTEXT, self.context_frames)
            last = int(rng.integers(earliest, max(earliest, self.frames - MIN_TARGETS) + 1))
        first = max(0, last - self.context_frames)
        stop = min(self.frames, last + self.max_targets)
        mirrored = self.augment & (rng.random(self.batch_size) < 0.5)
        shift = self.jitter * rng.standard_normal(
            (self.batch_size, 2, last - first, 1, self.objects), np.float32
        )
        taken = slice(rows.start, rows.stop)
        latents = self._read(self._clips(step)[taken], first, stop)
        latents[mirrored[taken], X] *= -1
        index = torch.arange(first, stop, dtype=torch.float32).expand(len(latents), -1)
        count = last - first
        known = latents[:, :, :count].clone()
        if self.augment:
            known[:, [X, Y]] += torch.from_numpy(shift[taken]) * known[:, SEEN : SEEN + 1]
        return MotionBatch(known, index[:, :count], latents[:, :, count:], index[:, count:], "predict")

    @property
    def epoch_clips(self) -> int:
        """Clips of an epoch."""
        return self._order.count

    def names(self, step: int) -> list[str]:
        """Names of the clips in the batch of a step."""
        located = [self._locate(clip) for clip in self._clips(step)]
        return [self.stores[store].names[row] for store, row in located]

    def _read(self, clips: list[int], first: int, stop: int) -> Tensor:
        states = np.zeros((len(clips), self.objects, stop - first, len(FEATURES)), np.float32)
        classes = np.zeros((len(clips), self.objects), np.uint8)
        for row, clip in enumerate(clips):
            store, place = self._locate(clip)
            count = self.stores[store].classes.shape[1]
            states[row, :count] = self.stores[store].states[place, :, first:stop]
            classes[row, :count] = self.stores[store].classes[place]
        return whole_places(object_latents(states, classes), self.ground)

    def _clips(self, step: int) -> list[int]:
        first = step * self.batch_size
        return [self._order[position] for position in range(first, first + self.batch_size)]

    def _locate(self, clip: int) -> tuple[int, int]:
        store = int(np.searchsorted(self._starts, clip, side="right")) - 1
        return store, clip - int(self._starts[store])
