"""A small training for tests: a line through points in space."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from vdp.core.rng import BatchRng
from vdp.training.checkpoint import States
from vdp.training.engine import launch
from vdp.training.params import EngineParams, FitParams
from vdp.training.trainer import Fitted, Training, fit, training_seed
from vdp.training.validation import VALIDATION_SIZE

SLOPE, OFFSET = torch.tensor([[2.0, -1.0, 0.5]]), 0.25


def engine_of(**changes: object) -> EngineParams:
    values = {
        "precision": 32, "devices": 1, "num_nodes": 1, "strategy": "auto", "compile": False,
        "checkpointing": False, "save_minutes": 60.0, "save_steps": None, "max_skipped": 3,
    }  # fmt: skip
    return EngineParams.model_validate(values | changes)


def params_of(**changes: object) -> FitParams:
    values = {
        "steps": 20, "batch_size": 16, "accumulate": 1, "learning_rate": 0.05, "schedule": "cosine",
        "warmup_steps": 5, "weight_decay": 0.0, "grad_clip": 100.0, "ema_decay": 0.9, "log_every": 5,
        "validate_every": 10, "num_workers": 0, "keep": "last",
    }  # fmt: skip
    return FitParams.model_validate(values | changes)


class Notes:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[tuple[str, np.ndarray, int]] = []

    def log(self, metrics: dict[str, float], step: int) -> None:
        if "data_wait_seconds" not in metrics:  # a time, which equal runs differ in
            self.lines.append((step, metrics))

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        self.pictures.append((name, picture, step))

    def curve(self, name: str) -> list[tuple[int, float]]:
        return [(step, line[name]) for step, line in self.lines if name in line]


class Points:
    """Batches of points in space; a draw of 0 or more numbers comes before them."""

    def __init__(self, batch_size: int = 16, draws: int = 0) -> None:
        self.batch_size = batch_size
        self.draws = draws
        self.seen: list[int] = []

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Tensor:
        rng.random(self.draws)
        self.seen.append(step)
        points = rng.standard_normal((self.batch_size, 3)).astype(np.float32)
        return torch.from_numpy(points[rows.start : rows.stop])

    def names(self, step: int) -> list[str]:
        return [f"point {step * self.batch_size + i}" for i in range(self.batch_size)]


Regression = Callable[[nn.Linear, Tensor, BatchRng], dict[str, Tensor]]


def regression(network: nn.Linear, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
    """Squared error on a line with a little noise."""
    truth = batch @ SLOPE.T + OFFSET + 0.01 * batch_rng.normal(len(batch), 1)
    return {"loss": (network(batch) - truth).square().mean()}


def training_of(
    loss: Regression = regression, batches: Points | None = None, network: nn.Linear | None = None
) -> Training[nn.Linear, Tensor, Tensor]:
    return Training(
        name="a_training",
        network=nn.Linear(3, 1) if network is None else network,
        loss=loss,
        batches=Points() if batches is None else batches,
        measure=regression,
        held_out=Points(VALIDATION_SIZE),
    )


def fitted(
    training: Training[nn.Linear, Tensor, Tensor],
    params: FitParams,
    seed: int = 0,
    notes: Notes | None = None,
    engine: EngineParams | None = None,
    states: States | None = None,
) -> Fitted[nn.Linear]:
    engine = engine or engine_of()
    return fit(training, params, engine, seed, notes or Notes(), launch(engine), states)


def train(params: FitParams, seed: int = 0) -> tuple[nn.Linear, Notes]:
    training_seed(seed)
    notes = Notes()
    return fitted(training_of(), params, seed, notes).network, notes
