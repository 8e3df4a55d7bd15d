"""The processor of this machine; loads no torch."""

import functools
import os
import platform
from pathlib import Path
from typing import Literal

PrecisionName = Literal["auto", 32, "bf16", 16]  # of networks

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"amx_bf16", "avx512_bf16"}  # without them bf16 is emulated and slower than fp32


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the instruction set flags of the CPU; empty where the system does not list them."""
    return frozenset(_cpuinfo("flags").split())


def cpu_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> str:
    """Name the CPU and its bf16 support: minutes compare only between equal machines."""
    model = _cpuinfo("model name") or platform.processor() or platform.machine()
    units = [flag.upper().replace("_", "-") for flag in sorted(BF16_FLAGS & cpu_flags(), reverse=True)]
    cores = cpu_cores()
    return f"{model}, {cores} core{'s' * (cores > 1)}, {' and '.join(units) or 'no AVX512-BF16'}"


def _cpuinfo(key: str) -> str:
    """Return a value of the first processor; '' where the system does not list it."""
    if not CPUINFO.is_file():
        return ""
    for line in CPUINFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
