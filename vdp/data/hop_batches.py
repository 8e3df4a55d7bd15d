"""Training batches of hops: known frames and targets; the seed and the step decide what is in a batch.

All that is random is drawn for a whole batch, of which any rows can be read alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vdp.data.batch import Batch
from vdp.data.latents import LatentClips
from vdp.data.shuffle import Shuffled
from vdp.tasks import Hops, draw_hop

FULL_CONTEXT = 0.85  # share of batches with all known frames; fewer in the others, so that these work too


@dataclass(frozen=True)
class HopBatch(Batch, Hops):
    """Hops that move between devices together."""


class HopBatches:
    """Hops of a rollout: an epoch takes every clip once, shuffled, at a random place of a random view.

    A batch has one number of known frames.

    Args:
        latents: where the clips are.
        batch_size: hops of a whole batch.
        known: known frames of a hop, at most.
        gaps: frames from the last known one to a target; a hop draws among them.
        max_hops: frames that the rollout may have made before a hop.
        targets: frames to predict from one context.
        reverse: whether to play half of the hops backwards: frames from the clip's last to its first, while
            the times that the network is told still run forwards.
        seed: of the run.

    Raises:
        ValueError: if such a hop does not fit into the clips.
    """

    def __init__(
        self,
        latents: LatentClips,
        batch_size: int,
        known: int,
        gaps: Sequence[int],
        max_hops: int,
        targets: int,
        reverse: bool,
        seed: int,
    ) -> None:
        # hops that do not fit into the clips fail here, at once
        draw_hop(np.random.default_rng(0), latents.num_frames, known, gaps, max_hops, targets)
        self.latents = latents
        self.batch_size = batch_size
        self.known = known
        self.gaps = gaps
        self.max_hops = max_hops
        self.targets = targets
        self.reverse = reverse
        self._order = Shuffled(len(latents), seed)

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> HopBatch:
        """Rows of the batch of a step; `rng` is that step's own and draws all but the clips."""
        known = self.known if rng.random() < FULL_CONTEXT else int(rng.integers(1, self.known + 1))
        rule = (self.latents.num_frames, known, self.gaps, self.max_hops, self.targets)
        drawn = [draw_hop(rng, *rule) for _ in range(self.batch_size)]
        views = rng.integers(0, self.latents.views, self.batch_size)
        times = np.array([[*before, *after] for before, after in drawn])
        backwards = self.reverse & (rng.random(self.batch_size) < 0.5)
        played = np.where(backwards[:, None], self.latents.num_frames - 1 - times, times)
        taken, clips = slice(rows.start, rows.stop), self._clips(step)
        frames = self.latents.read(clips[taken], views[taken].tolist(), played[taken].tolist())
        index = torch.from_numpy(times[taken]).float()
        return HopBatch(frames[:, :, :known], index[:, :known], frames[:, :, known:], index[:, known:])

    def names(self, step: int) -> list[str]:
        """The clips in the batch of a step, in words."""
        return [self.latents.name(clip) for clip in self._clips(step)]

    def _clips(self, step: int) -> list[int]:
        """The clips of a whole batch."""
        first = step * self.batch_size
        return [self._order[place] for place in range(first, first + self.batch_size)]
