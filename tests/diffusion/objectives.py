"""Objectives for tests, by the names that params.yaml gives to schedules and predictions."""

import pytest
import torch
from torch import Tensor

from vdp.diffusion.objective import Objective
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.schedules import make_process

EVERY_PAIR = [
    (schedule, prediction)
    for schedule in ("flow", "linear", "cosine", "sigmoid")
    for prediction in ("flow", "v", "eps", "x0")
    if (schedule, prediction) != ("flow", "eps")
]
every_process = pytest.mark.parametrize(("schedule", "prediction"), EVERY_PAIR)


def diffusion_params(schedule: str, prediction: str, residual: bool) -> DiffusionParams:
    return DiffusionParams.model_validate(
        {
            "schedule": schedule,
            "prediction": prediction,
            "num_timesteps": 1000,
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "zero_terminal_snr": False,
            "min_snr_gamma": None,
            "time_shift": 1.0,
            "residual": residual,
        }
    )


def objective_of(schedule: str, prediction: str, scale: Tensor, residual: bool) -> Objective:
    return Objective(make_process(diffusion_params(schedule, prediction, residual)), scale, residual)


FLOW = make_process(diffusion_params("flow", "flow", True))
UNIT = torch.ones(1)
