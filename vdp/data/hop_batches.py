"""Training batches of hops: known frames and targets from random places; all chance is passed in."""

from collections.abc import Sequence

import numpy as np
import torch

from vdp.data.latents import LatentClips
from vdp.tasks import Hops, draw_hop

FULL_CONTEXT = 0.85  # share of batches with all known frames; fewer in the others, so that these work too


class HopBatches:
    """Random hops of a rollout from random places of random clips; one number of known frames in a batch."""

    def __init__(
        self,
        latents: LatentClips,
        batch_size: int,
        known: int,
        gaps: Sequence[int],
        max_hops: int,
        targets: int,
        device: torch.device,
    ) -> None:
        # hops that do not fit into the clips fail here, at once
        draw_hop(np.random.default_rng(0), latents.num_frames, known, gaps, max_hops, targets)
        self.latents = latents
        self.batch_size = batch_size
        self.known = known
        self.gaps = gaps
        self.max_hops = max_hops
        self.targets = targets
        self.device = device

    def __call__(self, rng: np.random.Generator) -> Hops:
        """A batch, drawn by `rng`."""
        known = self.known if rng.random() < FULL_CONTEXT else int(rng.integers(1, self.known + 1))
        rule = (self.latents.num_frames, known, self.gaps, self.max_hops, self.targets)
        drawn = [draw_hop(rng, *rule) for _ in range(self.batch_size)]
        clips = rng.integers(0, len(self.latents), self.batch_size)
        views = rng.integers(0, self.latents.views, self.batch_size)
        frames = self.latents.read(list(clips), list(views), [[*before, *after] for before, after in drawn])
        frames = frames.to(self.device)
        index = torch.tensor([before for before, _ in drawn], dtype=torch.float32, device=self.device)
        target_index = torch.tensor([after for _, after in drawn], dtype=torch.float32, device=self.device)
        return Hops(frames[:, :, :known], index, frames[:, :, known:], target_index)
