"""What a training takes: time, memory, share of the hardware. For telling, never for deciding."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

STATUS = Path("/proc/self/status")
REPEATS = 10  # of a timed matmul, at most
SECONDS = 0.1  # after which it is not repeated any more
# Sides of a square matmul: large enough for full speed, small enough for a fraction of a second.
GPU_SIDE, CPU_SIDE = 8192, 512


def cost_line(
    name: str,
    parameters: int,
    steps_left: int,
    batch_size: int,
    seconds_per_step: float,
    memory_gb: float,
    flops_per_step: float | None,
    peak: float | None,
) -> str:
    """One line that states what a training takes.

    Args:
        name: of the training.
        parameters: of its network.
        steps_left: optimiser steps still to come.
        batch_size: samples of a step.
        seconds_per_step: measured.
        memory_gb: most memory so far; GB of 2^30 bytes.
        flops_per_step: floating point operations of a step, all processes together; None: not counted.
        peak: FLOP/s that all processes' devices reach in large bf16 matmuls; None: not known.
    """
    line = (
        f"{name}: {parameters / 1e6:.2f} M parameters, {steps_left} steps of {batch_size}, "
        f"{batch_size / seconds_per_step:.0f} samples/s, about {_duration(steps_left * seconds_per_step)}, "
        f"{memory_gb:.1f} GB"
    )
    if flops_per_step is None:
        return line
    rate = flops_per_step / seconds_per_step
    line += f", {_teraflops(rate)} TFLOP/s"
    if peak is None:
        return line
    return f"{line}, {100 * rate / peak:.0f} % of the {_teraflops(peak)} that large bf16 matmuls reach here"


def peak_memory_gb(device: torch.device) -> float:
    """Most memory that tensors on a GPU, or on the CPU this process, have taken so far; GB of 2^30 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    # Linux's ru_maxrss survives exec, so that of a small process started by a big one is the big one's
    if STATUS.is_file():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def count_flops(run: Callable[[], None]) -> float:
    """FLOPs of the matmuls, convolutions and fused attention that `run` computes, forward and backward."""
    # compiled parts run uncompiled: one that is first met while a mode counts would never be compiled after
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matmul, the best of a few.

    Takes about 0.1 s and, on a GPU, three matrices of 8192 x 8192.
    """
    side = GPU_SIDE if device.type == "cuda" else CPU_SIDE
    a, b, out = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(3))
    begun, best = time.perf_counter(), float("inf")
    for repeat in range(REPEATS + 1):
        _wait(device)
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        _wait(device)
        now = time.perf_counter()
        if repeat > 0:  # the first one chooses a kernel
            best = min(best, now - started)
            if now - begun > SECONDS:
                break
    return 2 * side**3 / best


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _teraflops(rate: float) -> str:
    """In 10^12, to two or more digits."""
    return f"{rate / 1e12:.2g}" if rate < 1e13 else f"{rate / 1e12:.0f}"
