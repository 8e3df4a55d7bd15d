"""Random numbers of a training step that do not depend on how its batch is parted.

A batch is computed in parts, by several processes or one after the other. What is random in it is drawn for
all of its samples, and a part takes the rows of its own: so every part draws the same, in the same order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchRng:
    """Random numbers of one step, drawn for all samples of its batch, of which a part takes its rows.

    Attributes:
        generator: in the same state for each part; its device is where the numbers are made.
        rows: the samples of the part, of step 1.
        samples: how many the whole batch has.
    """

    generator: torch.Generator
    rows: range
    samples: int

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1) of a shape whose first axis is the rows.

        Raises:
            ValueError: if it is not.
        """
        return self._taken(torch.rand(self._all(shape), generator=self.generator, device=self._device))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers of a shape whose first axis is the rows.

        Raises:
            ValueError: if it is not.
        """
        return self._taken(torch.randn(self._all(shape), generator=self.generator, device=self._device))

    def shared(self) -> float:
        """One number in [0, 1) for the whole batch, the same for every part."""
        return torch.rand(1, generator=self.generator, device=self._device).item()

    @property
    def _device(self) -> torch.device:
        return self.generator.device

    def _all(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if shape[:1] != (len(self.rows),):
            raise ValueError(
                f"random numbers: expected {len(self.rows)} rows, those of the part, got the shape {shape}"
            )
        return (self.samples, *shape[1:])

    def _taken(self, drawn: Tensor) -> Tensor:
        return drawn[self.rows.start : self.rows.stop]


def whole(generator: torch.Generator, samples: int) -> BatchRng:
    """The batch_rng of a batch that is not parted."""
    return BatchRng(generator, range(samples), samples)
