"""One process of trainings in tests: python -m tests.training.process jobs.json.

Fabric or torchrun starts the others. Each process writes the results of its jobs to `<jobs>.<rank>.json`.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.training.networks import BATCH, make_training
from tests.training.small import MemoryLogger, engine_params, fit_params, line_training
from vdp.config.read import run_stage
from vdp.core.rng import BatchRng
from vdp.training.checkpoint import TrainingCheckpoints
from vdp.training.definition import Training
from vdp.training.engine import launch
from vdp.training.seeds import seed_weights
from vdp.training.trainer import fit

LEARNING_RATE = 1e-3  # of the networks: rounding errors of many steps stay small


class Left(Exception):
    """Raised in all processes in the same step, so that the next job starts in step."""


@dataclass(frozen=True)
class Job:
    """A training."""

    name: str  # of `tests.training.networks.make_training`, or 'line'
    engine: dict[str, object] = field(default_factory=dict)  # changes of `engine_params`
    params: dict[str, object] = field(default_factory=dict)  # changes of `fit_params`
    checkpoints: str | None = None  # folder
    fault: str | None = None  # a name in `FAULTS`, for the process `rank` (-1: all) in a step, counted from 1
    rank: int = -1
    step: int = 6
    rising_val_loss: bool = False


def leave() -> None:
    raise Left


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def fail() -> None:
    raise ValueError("clip 7: cannot be read")


FAULTS = {fault.__name__: fault for fault in (leave, terminate, fail)}


class ReadOnlyCheckpoints(TrainingCheckpoints):
    """Checkpoints of the processes that must not write."""

    def save(self, step: int, tensors: Mapping[str, Tensor], notes: dict[str, object]) -> None:
        raise AssertionError("another process than the main one has saved a checkpoint")

    def lock(self) -> AbstractContextManager[None]:
        raise AssertionError("another process than the main one has locked the checkpoints")


def run(job: Job) -> dict[str, object]:
    """Train; return the curves, a hash of the weights and their names; the curves alone after `leave`."""
    engine = engine_params(**job.engine)
    fabric = launch(engine)
    of_networks = {"batch_size": BATCH, "learning_rate": LEARNING_RATE, "grad_clip": 1.0, "log_every": 1}
    params = fit_params(**({} if job.name == "line" else of_networks) | job.params)
    seed_weights(0)
    training = line_training() if job.name == "line" else make_training(job.name)
    if job.fault is not None and job.rank in (-1, fabric.global_rank):
        training = with_fault(training, FAULTS[job.fault], job.step)
    if job.rising_val_loss:
        training = with_rising_val_loss(training)
    logger, checkpoints = MemoryLogger(), None
    if job.checkpoints is not None:
        cls = TrainingCheckpoints if fabric.is_global_zero else ReadOnlyCheckpoints
        checkpoints = cls(Path(job.checkpoints))
    try:
        result = fit(training, params, engine, 0, logger, fabric, checkpoints)
    except Left:
        return {"curves": logger.points}
    digest, state = hashlib.sha256(), result.network.state_dict()
    for values in (state, result.other_weights["best"]):
        for name in sorted(values):
            digest.update(values[name].numpy().tobytes())
    weights = {"names": list(state), "hash": digest.hexdigest()}
    return {"curves": logger.points, "flops": logger.flops, **weights}


def with_fault(training: Training, fault: Callable[[], None], step: int) -> Training:
    """Call `fault` in a step."""
    seeds: list[int] = []  # one for each step

    def loss(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        seed = batch_rng.generator.initial_seed()
        if batch_rng.samples == training.batches.batch_size and seed not in seeds:
            seeds.append(seed)
            if len(seeds) == step:
                fault()
        return training.loss(network, batch, batch_rng)

    return replace(training, loss=loss)


def with_rising_val_loss(training: Training) -> Training:
    calls: list[int] = []

    def val_loss(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        calls.append(1)
        return {"loss": training.val_loss(network, batch, batch_rng)["loss"] * 0 + len(calls)}

    return replace(training, val_loss=val_loss)


def main() -> None:
    jobs = Path(sys.argv[1])
    results: list[dict[str, object]] = []
    for job in json.loads(jobs.read_text()):
        results.append(run(Job(**job)))
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        jobs.with_suffix(f".{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    run_stage(main)
