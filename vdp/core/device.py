"""Device and precision of a run, from what the hardware supports; a timed probe is not deterministic."""

import torch

from vdp.core.machine import BF16_FLAGS, cpu_flags


def pick_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computes_in_bf16(device_type: str) -> bool:
    """Whether the hardware computes in bf16 rather than emulating it."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(BF16_FLAGS & cpu_flags())


def autocast(device: torch.device) -> torch.autocast:
    """Return the autocast context: bf16 where the hardware computes in it, else fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_in_bf16(device.type))
