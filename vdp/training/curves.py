"""Loss curves, means of the losses between two points, and the progress bar."""

import sys
import time
from collections.abc import Iterator, Mapping

import torch
from lightning_fabric import Fabric
from tqdm import tqdm

from vdp.training.dataloader import Batch
from vdp.training.definition import Logger
from vdp.training.engine import mean_over_processes
from vdp.training.state import Progress


class LossCurves:
    """Collects losses and logs their means; `progress` keeps them for a checkpoint."""

    def __init__(self, progress: Progress, logger: Logger, fabric: Fabric) -> None:
        self.progress, self.logger, self.fabric = progress, logger, fabric
        self.wait_seconds = 0.0  # for batches, since the last point
        for step, point in progress.curve:  # of a resumed training
            logger.log(point, step)

    def next_batch(self, batches: Iterator[Batch]) -> Batch:
        """Return the next batch and time the wait for it."""
        started = time.perf_counter()
        batch = next(batches)
        self.wait_seconds += time.perf_counter() - started
        return batch

    def add(self, losses: Mapping[str, float]) -> None:
        """Add the losses of a step that was not skipped."""
        self.progress.in_a_row = 0
        self.progress.counted += 1
        for name, value in losses.items():
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value

    def log_means(self, learning_rate: float, log_every: int) -> str:
        """Log the means since the last point; return a text for the progress bar."""
        progress = self.progress
        count = max(progress.counted, 1)
        means = {name: total / count for name, total in progress.sums.items()}
        if self.fabric.world_size > 1:
            means = mean_over_processes({name: torch.tensor(v) for name, v in means.items()}, self.fabric)
        point = {**means, "learning_rate": learning_rate, "skipped_steps": float(progress.skipped)}
        self.log_point(point)
        self.logger.log({"data_wait_seconds": self.wait_seconds / log_every}, progress.step)
        progress.sums, progress.counted, self.wait_seconds = {}, 0, 0.0
        return f"loss {means['loss']:.4f}" if means else "all steps skipped"

    def log_point(self, point: dict[str, float]) -> None:
        """Log a point of the current step and keep it for a checkpoint."""
        self.progress.curve.append((self.progress.step, point))
        self.logger.log(point, self.progress.step)


def progress_bar(name: str, steps: range, fabric: Fabric) -> tqdm:
    """Return the progress bar of the steps; the main process shows it."""
    return tqdm(
        total=steps.stop, initial=steps.start, desc=name, unit="step", file=sys.stderr, mininterval=2,
        disable=not fabric.is_global_zero,
    )  # fmt: skip
