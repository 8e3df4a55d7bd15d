"""Schedules, processes and objectives by the names of params.yaml."""

import pytest
from torch import Tensor

from vdp.config.choices import Prediction
from vdp.diffusion.objective import Objective
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.process import Process, Schedule
from vdp.diffusion.schedules import make_process

PREDICTIONS: list[Prediction] = ["flow", "v", "eps", "x0"]
ZERO_TERMINAL = ["linear+zero", "cosine+zero", "sigmoid+zero"]  # with zero terminal SNR
TABLES = ["linear", "cosine", "sigmoid", *ZERO_TERMINAL]
SCHEDULES = ["flow", *TABLES]
NOISE_AT_END = ["flow", *ZERO_TERMINAL]

# params.yaml rejects eps on schedules that end in pure noise
EVERY_PAIR = [
    (name, prediction)
    for name in SCHEDULES
    for prediction in PREDICTIONS
    if prediction != "eps" or name not in NOISE_AT_END
]

every_process = pytest.mark.parametrize(("schedule", "prediction"), EVERY_PAIR)
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_table = pytest.mark.parametrize("name", TABLES)
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)


def diffusion_params(
    name: str, prediction: str, residual: bool, num_timesteps: int = 1000
) -> DiffusionParams:
    schedule, _, zero = name.partition("+")
    return DiffusionParams.model_validate(
        {
            "schedule": schedule,
            "prediction": prediction,
            "num_timesteps": num_timesteps,
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "zero_terminal_snr": bool(zero),
            "min_snr_gamma": None,
            "time_shift": 1.0,
            "residual": residual,
            "base": "nearest",
        }
    )


def schedule_of(name: str, num_timesteps: int = 1000) -> Schedule:
    return make_process(diffusion_params(name, "v", True, num_timesteps)).schedule


def process_of(name: str, prediction: Prediction) -> Process:
    return Process(schedule_of(name), prediction)


def objective_of(name: str, prediction: str, scale: Tensor, residual: bool) -> Objective:
    return Objective(make_process(diffusion_params(name, prediction, residual)), scale, residual)
