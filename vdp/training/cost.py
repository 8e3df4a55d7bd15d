"""The cost of a training, for messages and the ledger: arithmetic, time, memory, share of the peak."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vdp.core.flops import TERA, flop_counter, format_tflop

if TYPE_CHECKING:
    from lightning_fabric import Fabric  # its import takes seconds

COUNTED_STEPS, COUNTED_SHARE = 8, 0.01  # max steps, and share of the steps, whose FLOPs are counted
COST_STEPS = 10  # steps timed before the cost is printed
WARM_STEPS = 3  # steps before these: the first ones allocate memory and choose kernels
STATUS = Path("/proc/self/status")
REPEATS, SECONDS = 10, 0.1  # max repeats and time of a timed matmul
GPU_SIDE, CPU_SIDE = 8192, 512  # of a square matmul: large enough for full speed


def counted_steps(steps: int) -> range:
    """Return the steps whose FLOPs are counted: they differ where a step draws its task or its context."""
    count = min(max(int(steps * COUNTED_SHARE), 1), COUNTED_STEPS, steps)
    return range(0, steps, -(-steps // count))


class CostReport:
    """Prints the arithmetic of a training before it starts, and the time and memory after a few steps."""

    def __init__(
        self, name: str, network: nn.Module, batch_size: int, steps: range, fabric: "Fabric"
    ) -> None:
        self.name, self.batch_size, self.steps, self.fabric = name, batch_size, steps, fabric
        self.parameters = sum(p.numel() for p in network.parameters())
        self.flops = 0.0  # of a step, in all processes
        self.timed, self.started = 0, time.perf_counter()

    def count_flops(self, add_gradients: Callable[[int], None], optimizer_flops: float, bar: tqdm) -> float:
        """Count and print the FLOPs of the whole training, forward and backward; also where it resumes.

        Args:
            add_gradients: compute the gradients of a step in this process; called for a few steps.
            optimizer_flops: of the update of a step; its repetition in other processes does not count.
            bar: under which the line is printed.
        """
        steps = counted_steps(self.steps.stop)
        with flop_counter() as counter:
            for step in steps:
                add_gradients(step)
        own = torch.tensor(counter.get_total_flops() / len(steps), dtype=torch.float64)
        flops = self.fabric.all_reduce(own.to(self.fabric.device), reduce_op="sum")
        assert isinstance(flops, Tensor)
        self.flops = flops.item() + optimizer_flops
        if self.fabric.is_global_zero:
            bar.write(self.size_line(), file=sys.stderr)
        return self.flops * self.steps.stop

    def step_done(self, steps_left: int, bar: tqdm) -> None:
        """Count a step; print the time of the others once enough of them are timed."""
        self.timed += 1
        if self.timed == WARM_STEPS:
            self.started = _now(self.fabric.device)
        if self.timed == WARM_STEPS + COST_STEPS and self.fabric.is_global_zero:
            seconds = (_now(self.fabric.device) - self.started) / COST_STEPS
            memory_gb, peak = peak_memory_gb(self.fabric.device), None
            if self.fabric.device.type == "cuda":
                peak = matmul_rate(self.fabric.device, torch.bfloat16) * self.fabric.world_size
            bar.write(self.speed_line(steps_left, seconds, memory_gb, peak), file=sys.stderr)

    def size_line(self) -> str:
        """Return the message before the training: its size, and the share that is done."""
        line = f"{self.name}: {self.parameters / 1e6:.2f} M parameters, {self.steps.stop} steps of "
        line += f"{self.batch_size}, {format_tflop(self.flops * self.steps.stop / TERA)} TFLOP"
        if (done := self.steps.start) == 0:
            return line
        share = 100 * done / self.steps.stop
        return f"{line}, of which {format_tflop(self.flops * done / TERA)} ({share:.0f} %) are done"

    def speed_line(self, steps_left: int, seconds: float, memory_gb: float, peak: float | None) -> str:
        """Return the message; `seconds` of a step, `peak` FLOP/s of all devices in large bf16 matmuls."""
        line = f"{self.name}: {self.batch_size / seconds:.0f} samples/s, about "
        line += f"{_duration(steps_left * seconds)} for {steps_left} steps, {memory_gb:.1f} GB"
        rate = self.flops / seconds
        line += f", {format_tflop(rate / TERA)} TFLOP/s"
        if peak is None:
            return line
        share, of = 100 * rate / peak, format_tflop(peak / TERA)
        return f"{line}, {share:.0f} % of the {of} TFLOP/s of large bf16 matmuls"


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
