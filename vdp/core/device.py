"""Device and precision of a run, from what the hardware supports; a timed probe is not deterministic."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from vdp.core.machine import BF16_FLAGS, PrecisionName, cpu_flags

_precision: ContextVar[PrecisionName] = ContextVar("precision", default="auto")


def pick_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computes_in_bf16(device_type: str) -> bool:
    """Whether the hardware computes in bf16 rather than emulating it."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(BF16_FLAGS & cpu_flags())


@contextmanager
def use_precision(name: PrecisionName) -> Iterator[None]:
    """Set the precision of `autocast` in the block; `auto` is bf16 where the hardware computes in it."""
    token = _precision.set(name)
    try:
        yield
    finally:
        _precision.reset(token)


def autocast(device: torch.device) -> torch.autocast:
    """Return the autocast context of networks without training, by `use_precision`."""
    name = _precision.get()
    dtype = torch.float16 if name == 16 else torch.bfloat16
    enabled = computes_in_bf16(device.type) if name == "auto" else name != 32
    return torch.autocast(device.type, dtype=dtype, enabled=enabled)
