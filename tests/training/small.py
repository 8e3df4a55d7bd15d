"""A small training for tests: fit a line to points."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vdp.core.rng import BatchRng
from vdp.launch.params import EngineParams
from vdp.training.checkpoint import TrainingCheckpoints
from vdp.training.definition import Loss, Training, TrainingResult
from vdp.training.engine import launch
from vdp.training.params import FitParams
from vdp.training.seeds import seed_weights
from vdp.training.trainer import fit
from vdp.training.validation import VALIDATION_SIZE

SLOPE, OFFSET = torch.tensor([[2.0, -1.0, 0.5]]), 0.25
LineTraining = Training[nn.Module, Tensor, Tensor]


def engine_params(**changes: object) -> EngineParams:
    values = {
        "precision": 32, "devices": 1, "num_nodes": 1, "strategy": "auto", "compile": False,
        "checkpointing": False, "save_minutes": 60.0, "save_steps": None, "batch_clips": 2, "max_skipped": 3,
    }  # fmt: skip
    return EngineParams.model_validate(values | changes)


def fit_params(**changes: object) -> FitParams:
    values = {
        "steps": 20, "epochs": None, "batch_size": 16, "accumulate": 1, "optimizer": "adamw",
        "learning_rate": 0.05, "lr_schedule": "cosine", "warmup_steps": 5, "weight_decay": 0.0,
        "grad_clip": 100.0, "ema_decay": 0.9, "log_every": 5, "validate_every": 10, "num_workers": 0,
        "keep": "last", "keep_every": None, "init_from": None,
    }  # fmt: skip
    return FitParams.model_validate(values | changes)


class MemoryLogger:
    """Keeps points and pictures in memory."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[tuple[str, np.ndarray, int]] = []
        self.films: list[tuple[str, int, int]] = []  # name, frames, step
        self.flops = 0.0

    def log(self, metrics: dict[str, float], step: int) -> None:
        if "data_wait_seconds" not in metrics:  # differs between equal runs
            self.points.append((step, metrics))

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        self.pictures.append((name, picture, step))

    def film(self, name: str, film: Sequence[np.ndarray], step: int) -> None:
        self.films.append((name, len(film), step))

    def add_flops(self, flops: float) -> None:
        self.flops += flops

    def curve(self, name: str) -> list[tuple[int, float]]:
        return [(step, point[name]) for step, point in self.points if name in point]


class Points:
    """Batches of points in space, drawn after `draws` other numbers."""

    def __init__(self, batch_size: int = 16, draws: int = 0) -> None:
        self.batch_size, self.draws = batch_size, draws
        self.steps: list[int] = []

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Tensor:
        rng.random(self.draws)
        self.steps.append(step)
        points = rng.standard_normal((self.batch_size, 3)).astype(np.float32)
        return torch.from_numpy(points[rows.start : rows.stop])

    def names(self, step: int) -> list[str]:
        return [f"point {step * self.batch_size + i}" for i in range(self.batch_size)]


def regression(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
    """Squared error on a line with a little noise."""
    truth = batch @ SLOPE.T + OFFSET + 0.01 * batch_rng.normal(len(batch), 1)
    return {"loss": (network(batch) - truth).square().mean()}


def line_training(
    loss: Loss[nn.Module, Tensor] = regression,
    batches: Points | None = None,
    network: nn.Module | None = None,
    val_loss: Loss[nn.Module, Tensor] = regression,
) -> LineTraining:
    return Training(
        name="a_training",
        network=nn.Linear(3, 1) if network is None else network,
        loss=loss,
        batches=Points() if batches is None else batches,
        val_loss=val_loss,
        val_batches=Points(VALIDATION_SIZE),
    )


def fit_line(
    training: LineTraining,
    params: FitParams,
    seed: int = 0,
    logger: MemoryLogger | None = None,
    engine: EngineParams | None = None,
    checkpoints: TrainingCheckpoints | None = None,
) -> TrainingResult[nn.Module]:
    engine = engine or engine_params()
    return fit(training, params, engine, seed, logger or MemoryLogger(), launch(engine), checkpoints)


def train(params: FitParams, seed: int = 0) -> tuple[nn.Module, MemoryLogger]:
    seed_weights(seed)
    logger = MemoryLogger()
    return fit_line(line_training(), params, seed, logger).network, logger
