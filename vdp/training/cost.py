"""The cost of a training, for messages: time, memory, share of the hardware's peak."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

COST_STEPS = 10  # steps timed before the cost is printed
WARM_STEPS = 3  # steps before these: the first ones allocate memory and choose kernels
STATUS = Path("/proc/self/status")
REPEATS, SECONDS = 10, 0.1  # max repeats and time of a timed matmul
GPU_SIDE, CPU_SIDE = 8192, 512  # of a square matmul: large enough for full speed


class CostReport:
    """Times the first warm steps and prints the cost of the others; `accumulate` parts make a step."""

    def __init__(
        self, name: str, network: nn.Module, batch_size: int, accumulate: int, fabric: Fabric
    ) -> None:
        self.name, self.batch_size, self.accumulate, self.fabric = name, batch_size, accumulate, fabric
        self.parameters = sum(p.numel() for p in network.parameters())
        self.flops: float | None = None  # of a step, in all processes
        self.steps, self.started = 0, time.perf_counter()

    @contextmanager
    def count_flops(self) -> Iterator[None]:
        """Count the FLOPs of the block, one part of a step; only on a GPU and the first time."""
        if self.fabric.device.type != "cuda" or self.flops is not None:
            yield
            return
        with flop_counter() as counter:
            yield
        self.flops = float(counter.get_total_flops()) * self.accumulate * self.fabric.world_size

    def step_done(self, steps_left: int, bar: tqdm) -> None:
        """Count a step; print the cost once enough of them are timed."""
        self.steps += 1
        if self.steps == WARM_STEPS:
            self.started = _now(self.fabric.device)
        if self.steps == WARM_STEPS + COST_STEPS and self.fabric.is_global_zero:
            seconds = (_now(self.fabric.device) - self.started) / COST_STEPS
            memory_gb, peak = peak_memory_gb(self.fabric.device), None
            if self.flops is not None:
                peak = matmul_rate(self.fabric.device, torch.bfloat16) * self.fabric.world_size
            bar.write(self.line(steps_left, seconds, memory_gb, peak), file=sys.stderr)

    def line(self, steps_left: int, seconds: float, memory_gb: float, peak: float | None) -> str:
        """Return the message; `seconds` of a step, `peak` FLOP/s of all devices in large bf16 matmuls."""
        size, duration = self.batch_size, _duration(steps_left * seconds)
        line = f"{self.name}: {self.parameters / 1e6:.2f} M parameters, {steps_left} steps of {size}, "
        line += f"{size / seconds:.0f} samples/s, about {duration}, {memory_gb:.1f} GB"
        if self.flops is None:
            return line
        rate = self.flops / seconds
        line += f", {_teraflops(rate)} TFLOP/s"
        if peak is None:
            return line
        return f"{line}, {100 * rate / peak:.0f} % of the {_teraflops(peak)} TFLOP/s of large bf16 matmuls"


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak memory of the tensors on a GPU, or of this process on a CPU; GB of 2^30 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    # Linux's ru_maxrss survives exec: a small process started by a large one would report the large one's
    if STATUS.is_file():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


@contextmanager
def flop_counter() -> Iterator[FlopCounterMode]:
    """Count the FLOPs of matmuls, convolutions and fused attention in the block, forward and backward."""
    # eager: a part that is first called while a mode is active would never be compiled
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        yield counter


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large square matmul, the best of a few; takes about 0.1 s."""
    side = GPU_SIDE if device.type == "cuda" else CPU_SIDE
    a, b, out = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(3))
    first_start, best = time.perf_counter(), float("inf")
    for repeat in range(REPEATS + 1):
        started = _now(device)
        torch.mm(a, b, out=out)
        ended = _now(device)
        if repeat > 0:  # the first one chooses a kernel
            best = min(best, ended - started)
            if ended - first_start > SECONDS:
                break
    return 2 * side**3 / best


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _teraflops(rate: float) -> str:
    return f"{rate / 1e12:.2g}" if rate < 1e13 else f"{rate / 1e12:.0f}"
