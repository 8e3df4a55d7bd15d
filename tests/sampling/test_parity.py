"""Whole trajectories beside those of the `diffusers` library, in double precision, to 1e-6.

diffusers keeps its tables, and the samples of two of its schedulers, in single precision, whatever it is
given. Here its modules see a `torch` and a `numpy` whose float32 is float64, so that its own code computes
its own formulas in double precision, and what differs is not rounding. Clipping and thresholding are off.

diffusers' timestep k is t = (k + 1) / N. Its schedulers do not agree with one another on the times:
- leading: DPMSolverMultistepScheduler leaves out the last of its steps + 1 times; here it is given ours.
- trailing: DDIMScheduler takes N // steps for each step, also where its own times are further apart;
  compared where steps divides N. DDPMScheduler and DPMSolverMultistepScheduler look up the next time.
"""

from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers import (
    scheduling_ddim,
    scheduling_ddpm,
    scheduling_dpmsolver_multistep,
    scheduling_flow_match_euler_discrete,
)
from torch import Tensor

from tests.processes import process_of
from vdp.diffusion.process import Prediction, Process, Schedule, add_noise, predict_x0_eps, target
from vdp.sampling.samplers import Draw, Sampler, make_sampler, time_grid

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # of diffusers, with new numpy

LEVELS = 1000
SHAPE = (2, 3, 4, 2, 2)
THEIR_PREDICTION = {"eps": "epsilon", "x0": "sample", "v": "v_prediction", "flow": "flow_prediction"}
THEIR_SCHEDULE = {"linear": "linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}

# eps does not go with pure noise: both divide by 0 there.
PAIRS = [(name, prediction) for name in ("linear", "cosine") for prediction in ("eps", "x0", "v")]
ZERO_PAIRS = [(f"{name}+zero", prediction) for name in ("linear", "cosine") for prediction in ("x0", "v")]
SIGMOID_PAIRS = [("sigmoid", prediction) for prediction in ("eps", "x0", "v")] + [("sigmoid+zero", "v")]

both_spacings = pytest.mark.parametrize("spacing", ["trailing", "leading"])
some_steps = pytest.mark.parametrize("steps", [1, 2, 10, 40])


class InDouble:
    """A module whose float32 is float64."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.float32 = module.float64

    def __getattr__(self, name: str) -> object:
        return getattr(self.module, name)


@pytest.fixture(autouse=True)
def diffusers_in_double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (
        scheduling_ddim,
        scheduling_ddpm,
        scheduling_dpmsolver_multistep,
        scheduling_flow_match_euler_discrete,
    ):
        monkeypatch.setattr(module, "torch", InDouble(torch))
        monkeypatch.setattr(module, "np", InDouble(np))
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(x: Tensor, t: Tensor) -> Tensor:
    """No linear function of what it is given, and different for every element."""
    return torch.sin(2 * x) + torch.cos(5 * t) * torch.tanh(x.roll(1, dims=-1)) - 0.3 * t


def betas_of(name: str, prediction: Prediction, spacing: str) -> dict[str, object]:
    """The settings of their schedulers of betas that stand for ours."""
    schedule, _, zero = name.partition("+")
    return {
        "num_train_timesteps": LEVELS,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": THEIR_SCHEDULE[schedule],
        "prediction_type": THEIR_PREDICTION[prediction],
        "timestep_spacing": spacing,
        "rescale_betas_zero_snr": bool(zero),
        "thresholding": False,
    }


def trajectory(
    process: Process, schedule: Schedule, sampler: Sampler, times: Tensor, draw: Draw
) -> list[Tensor]:
    """All that our sampler shows the network, then its sample."""
    states = []

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        states.append(x)
        per_frame = t.expand(SHAPE[0], SHAPE[2])
        return predict_x0_eps(x, network(x, t), per_frame, Process(schedule, process.prediction))

    sample = sampler(denoise, normal(*SHAPE), times, schedule, draw)
    return [*states, sample]


def their_trajectory(
    step: Callable[[Tensor, Tensor, Tensor], Tensor], timesteps: Tensor, offset: int
) -> list[Tensor]:
    """The same of a scheduler's steps, (output, timestep, x) -> x, of timesteps t * N - offset."""
    states = [normal(*SHAPE)]
    for timestep in timesteps:
        output = network(states[-1], (timestep + offset).double() / LEVELS)
        states.append(step(output, timestep, states[-1]))
    return states


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype == torch.float64
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)


def fresh(generator: torch.Generator) -> Draw:
    return lambda: torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def no_draw() -> Tensor:
    raise AssertionError("noise was drawn")


# --- Schedules and targets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["linear", "cosine", "sigmoid", "linear+zero", "cosine+zero", "sigmoid+zero"]
)
def test_noised_data_and_velocities_are_those_of_diffusers_at_every_timestep(name):
    scheduler, process = DDPMScheduler(**betas_of(name, "v", "trailing")), process_of(name, "v")
    timesteps = torch.arange(LEVELS)
    x0, noise = normal(LEVELS, 1, 1, 2, 2), normal(LEVELS, 1, 1, 2, 2, seed=1)
    t = ((timesteps + 1) / LEVELS)[:, None]
    for ours, theirs in (
        (add_noise(x0, noise, t, process.schedule), scheduler.add_noise(x0, noise, timesteps)),
        (target(x0, noise, t, process), scheduler.get_velocity(x0, noise, timesteps)),
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


def test_noised_data_of_flow_is_that_of_diffusers():
    scheduler, process = (
        FlowMatchEulerDiscreteScheduler(num_train_timesteps=LEVELS),
        process_of("flow", "flow"),
    )
    x0, noise = normal(LEVELS, 1, 1, 2, 2), normal(LEVELS, 1, 1, 2, 2, seed=1)
    t = (scheduler.timesteps / LEVELS)[:, None]
    theirs = scheduler.scale_noise(x0, scheduler.timesteps, noise)
    torch.testing.assert_close(add_noise(x0, noise, t, process.schedule), theirs, atol=1e-9, rtol=0)


# --- Samplers of betas -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "prediction"), PAIRS + ZERO_PAIRS)
@both_spacings
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.9])
@some_steps
def test_ddim_is_that_of_diffusers(name, prediction, spacing, eta, steps):
    process = process_of(name, prediction)
    scheduler = DDIMScheduler(**betas_of(name, prediction, spacing), clip_sample=False)
    scheduler.set_timesteps(steps)
    ours, theirs = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    assert_same(
        trajectory(
            process,
            process.schedule,
            make_sampler("ddim", eta),
            time_grid(steps, spacing, LEVELS),
            fresh(ours) if eta else no_draw,
        ),
        their_trajectory(
            lambda output, timestep, x: (
                scheduler.step(output, timestep, x, eta=eta, generator=theirs if eta else None).prev_sample
            ),
            scheduler.timesteps,
            1,
        ),
    )


@pytest.mark.parametrize("steps", [3, 7, 30])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_is_that_of_diffusers_in_leading_steps_that_do_not_divide_the_levels(steps, eta):
    test_ddim_is_that_of_diffusers("linear", "v", "leading", eta, steps)


@pytest.mark.parametrize(("name", "prediction"), PAIRS + ZERO_PAIRS + SIGMOID_PAIRS)
@both_spacings
@pytest.mark.parametrize("steps", [1, 2, 7, 10, 30])
def test_ddpm_is_that_of_diffusers(name, prediction, spacing, steps):
    """Their last step adds noise too, of a standard deviation of 1e-10."""
    process = process_of(name, prediction)
    scheduler = DDPMScheduler(**betas_of(name, prediction, spacing), clip_sample=False)
    scheduler.set_timesteps(steps)
    ours, theirs = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    times = time_grid(steps, spacing, LEVELS)
    assert_same(
        trajectory(process, process.schedule, make_sampler("ddpm", 0.0), times, fresh(ours)),
        their_trajectory(
            lambda output, timestep, x: scheduler.step(output, timestep, x, generator=theirs).prev_sample,
            scheduler.timesteps,
            1,
        ),
    )


def nearly_zero(schedule: Schedule) -> Schedule:
    """Their DPMSolver has no zero terminal SNR: its last level keeps a signal of power 2^-24 there."""

    def kept(t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(t)
        return torch.where(t == 1, 2**-12, alpha), torch.where(t == 1, (1 - 2**-24) ** 0.5, sigma)

    return kept


@pytest.mark.parametrize(("name", "prediction"), PAIRS + ZERO_PAIRS)
@both_spacings
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 14, 15, 30])
def test_dpmpp_is_that_of_diffusers(name, prediction, spacing, steps):
    process = process_of(name, prediction)
    schedule = nearly_zero(process.schedule) if name.endswith("+zero") else process.schedule
    times = time_grid(steps, spacing, LEVELS)
    scheduler = DPMSolverMultistepScheduler(
        **betas_of(name, prediction, spacing),
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    if spacing == "trailing":
        scheduler.set_timesteps(steps)
    else:
        scheduler.set_timesteps(timesteps=[round(t * LEVELS) - 1 for t in times[:-1].tolist()])
    assert_same(
        trajectory(process, schedule, make_sampler("dpmpp", 0.0), times, no_draw),
        their_trajectory(
            lambda output, timestep, x: scheduler.step(output, timestep, x).prev_sample,
            scheduler.timesteps,
            1,
        ),
    )


# --- Samplers of flow ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["flow", "eps", "x0"])
@pytest.mark.parametrize("own_times", [True, False], ids=["our-times", "their-times"])
@pytest.mark.parametrize("steps", [2, 3, 10, 14, 15, 40])
def test_dpmpp_on_flow_is_that_of_diffusers(prediction, own_times, steps):
    """Their own times start a little under pure noise; ours, put in their place, at it (but for eps)."""
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=LEVELS,
        prediction_type=THEIR_PREDICTION[prediction],
        use_flow_sigmas=True,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    if own_times:
        scheduler.sigmas = time_grid(steps, "leading" if prediction == "eps" else "trailing", LEVELS)
    scheduler.set_begin_index(0)  # by place: their timesteps are rounded
    process = process_of("flow", prediction)
    assert_same(
        trajectory(process, process.schedule, make_sampler("dpmpp", 0.0), scheduler.sigmas, no_draw),
        their_trajectory(
            lambda output, timestep, x: scheduler.step(output, timestep, x).prev_sample,
            scheduler.sigmas[:-1] * LEVELS,
            0,
        ),
    )


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "their-own"])
@some_steps
def test_euler_on_flow_is_that_of_diffusers(sampler, spacing, steps):
    scheduler, process = (
        FlowMatchEulerDiscreteScheduler(num_train_timesteps=LEVELS),
        process_of("flow", "flow"),
    )
    if spacing == "their-own":
        scheduler.set_timesteps(steps)
        times = scheduler.sigmas
    else:
        times = time_grid(steps, spacing, LEVELS)
        scheduler.set_timesteps(sigmas=times[:-1].tolist())
    assert_same(
        trajectory(process, process.schedule, make_sampler(sampler, 0.0), times, no_draw),
        their_trajectory(
            lambda output, timestep, x: scheduler.step(output, timestep, x).prev_sample,
            scheduler.timesteps,
            0,
        ),
    )
