"""One process of trainings that tests start: python -m tests.training.process jobs.json.

Fabric starts the others, or torchrun has. A job is a training; each process notes what came of it in
`<jobs>.<rank>.json`, after each of its jobs.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.training.networks import BATCH, training_named
from tests.training.small import Notes, engine_of, params_of, training_of
from vdp.config.read import run_stage
from vdp.core.rng import BatchRng
from vdp.training.checkpoint import States
from vdp.training.engine import launch
from vdp.training.trainer import Fitted, Training, fit, training_seed

LEARNING_RATE = 1e-3  # of the networks: rounding errors of many steps stay small


class Left(Exception):
    """All processes have left a training in the same step; the next job finds them at one place."""


@dataclass(frozen=True)
class Job:
    """A training.

    Attributes:
        name: of `tests.training.networks.training_named`, or 'line' for that of `tests.training.small`.
        engine: what differs from `engine_of`.
        params: what differs from `params_of`.
        states: folder of its states; none.
        harm: what happens in the middle, a name in `HARMS`, to the process of a rank (-1: all) in a step.
        worsens: whether validations are told worse from one to the next.
    """

    name: str
    engine: dict[str, object] = field(default_factory=dict)
    params: dict[str, object] = field(default_factory=dict)
    states: str | None = None
    harm: str | None = None
    rank: int = -1
    step: int = 6
    worsens: bool = False


def leave() -> None:
    raise Left


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_all() -> None:
    """As Ctrl-C in a terminal does."""
    os.killpg(0, signal.SIGINT)


def fail() -> None:
    raise ValueError("clip 7: cannot be read")


def crash() -> None:
    raise RuntimeError("a fault of the program")


def vanish() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


HARMS = {harm.__name__: harm for harm in (leave, terminate, interrupt, interrupt_all, fail, crash, vanish)}


class OthersStates(States):
    """States as processes have them that are not to write."""

    def save(self, step: int, tensors: Mapping[str, Tensor], notes: dict[str, object]) -> None:
        raise AssertionError("another process than the main one has saved a state")

    @contextmanager
    def held(self) -> Iterator[None]:
        raise AssertionError("another process than the main one holds the states")


def run(job: Job) -> dict[str, object]:
    """Train; curves, a hash of the weights and their names; nothing of them where all have left."""
    fabric = launch(engine_of(**job.engine))
    of_networks = {"batch_size": BATCH, "learning_rate": LEARNING_RATE, "grad_clip": 1.0, "log_every": 1}
    params = params_of(**({} if job.name == "line" else of_networks) | job.params)
    training = _training(job)
    if job.harm is not None and job.rank in (-1, fabric.global_rank):
        training = _harmed(training, job.harm, job.step)
    if job.worsens:
        training = _worsening(training)
    notes, states = Notes(), None
    if job.states is not None:
        states = (States if fabric.is_global_zero else OthersStates)(Path(job.states))
    try:
        fitted = fit(training, params, engine_of(**job.engine), 0, notes, fabric, states)
    except Left:
        return {"curves": notes.lines}
    return {"curves": notes.lines, **of_weights(fitted)}


def of_weights(fitted: Fitted[nn.Module]) -> dict[str, object]:
    """Names of a network's weights, and a hash of these and the best ones."""
    digest = hashlib.sha256()
    state = fitted.network.state_dict()
    for values in (state, fitted.spare["best"]):
        for name in sorted(values):
            digest.update(values[name].numpy().tobytes())
    return {"names": list(state), "hash": digest.hexdigest()}


def _training(job: Job) -> Training:
    if job.name != "line":
        return training_named(job.name)
    training_seed(0)
    return training_of()


def _harmed(training: Training, harm: str, step: int) -> Training:
    """The same, and in a step of it, counted from 1, a harm is done."""
    seen: list[int] = []

    def loss(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        if (
            batch_rng.samples == training.batches.batch_size
            and batch_rng.generator.initial_seed() not in seen
        ):
            seen.append(batch_rng.generator.initial_seed())
            if len(seen) == step:
                HARMS[harm]()
        return training.loss(network, batch, batch_rng)

    return replace(training, loss=loss)


def _worsening(training: Training) -> Training:
    calls: list[int] = []

    def measure(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        calls.append(1)
        return {"loss": training.measure(network, batch, batch_rng)["loss"] * 0 + len(calls)}

    return replace(training, measure=measure)


def main() -> None:
    jobs = Path(sys.argv[1])
    results: list[dict[str, object]] = []
    for job in json.loads(jobs.read_text()):
        results.append(run(Job(**job)))
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        jobs.with_suffix(f".{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    run_stage(main)
