"""Device and precision of a run, from what the hardware supports; a timed probe is not deterministic."""

import functools
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"amx_bf16", "avx512_bf16"}  # without them bf16 is emulated and slower than fp32


def pick_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the instruction set flags of the CPU; empty where the system does not list them."""
    if not CPUINFO.is_file():
        return frozenset()
    for line in CPUINFO.read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def computes_in_bf16(device_type: str) -> bool:
    """Whether the hardware computes in bf16 rather than emulating it."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(BF16_FLAGS & cpu_flags())


def autocast(device: torch.device) -> torch.autocast:
    """Return the autocast context: bf16 where the hardware computes in it, else fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_in_bf16(device.type))
