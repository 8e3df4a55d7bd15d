"""Random numbers of a training step that do not depend on how its batch is split.

Every part of a batch draws the numbers of all samples, in the same order, and takes its own rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchRng:
    """Random numbers of one part of a batch."""

    generator: torch.Generator  # in the same state for every part
    rows: range  # samples of the part
    samples: int  # of the whole batch

    def uniform(self, *shape: int) -> Tensor:
        """Draw numbers in [0, 1); the first axis of `shape` is the rows, else ValueError."""
        drawn = torch.rand(self._whole(shape), generator=self.generator, device=self.generator.device)
        return drawn[self.rows.start : self.rows.stop]

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers; the first axis of `shape` is the rows, else ValueError."""
        drawn = torch.randn(self._whole(shape), generator=self.generator, device=self.generator.device)
        return drawn[self.rows.start : self.rows.stop]

    def shared(self) -> float:
        """Draw one number in [0, 1), the same for every part."""
        return torch.rand(1, generator=self.generator, device=self.generator.device).item()

    def _whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if shape[:1] != (len(self.rows),):
            raise ValueError(f"shape={shape}: expected {len(self.rows)} rows first, those of the part")
        return (self.samples, *shape[1:])


def whole_batch(generator: torch.Generator, samples: int) -> BatchRng:
    """Random numbers of a batch in one part."""
    return BatchRng(generator, range(samples), samples)
