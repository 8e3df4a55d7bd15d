"""What every training batch can do: it is made on the CPU, maybe by another process, and moved from there."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Tensors that belong together; a field of a subclass that is no tensor is plain, and stays as it is."""

    def to(self, device: torch.device) -> Self:
        """The same batch on a device; from page-locked memory a GPU copies while it computes."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def share_memory_(self) -> Self:
        """The same batch in memory that other processes can open."""
        return self._each(Tensor.share_memory_)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: change(v) if isinstance(v, Tensor) else v for name, v in values.items()}
        return type(self)(**moved)
