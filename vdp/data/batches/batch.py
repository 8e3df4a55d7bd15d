"""Base class of training batches: tensors that move between devices and processes."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A dataclass of tensors and tuples of batches; fields of other types are copied unchanged."""

    def to(self, device: torch.device) -> Self:
        """Move to a device; from pinned memory the copy is asynchronous."""
        return self._map(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Copy to pinned memory."""
        return self._map(Tensor.pin_memory)

    def share_memory_(self) -> Self:
        """Move to shared memory."""
        return self._map(Tensor.share_memory_)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        def moved(value: object) -> object:
            if isinstance(value, tuple):
                return tuple(part._map(function) for part in value)
            return function(value) if isinstance(value, Tensor) else value

        return type(self)(**{field.name: moved(getattr(self, field.name)) for field in fields(self)})
