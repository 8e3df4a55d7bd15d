"""Trajectories of the samplers against those of the `diffusers` library, in double precision, to 1e-6.

diffusers computes its tables, and the samples of two schedulers, in single precision. Here its modules use a
`torch` and a `numpy` whose float32 is float64. Clipping and thresholding are off.

diffusers' timestep k is t = (k + 1) / N. Its schedulers use different times:
- leading: DPMSolverMultistepScheduler omits the last of its steps + 1 times; here it uses those of vdp.
- trailing: DDIMScheduler always steps by N // steps, so it is compared where steps divides N.
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
    SchedulerMixin,
)
from diffusers.schedulers import (
    scheduling_ddim,
    scheduling_ddpm,
    scheduling_dpmsolver_multistep,
    scheduling_flow_match_euler_discrete,
)
from torch import Tensor

from tests.processes import process_of
from vdp.config.choices import Prediction
from vdp.diffusion.process import Process, Schedule, add_noise, predict_x0_eps, target
from vdp.sampling.samplers import Draw, Sampler, make_sampler, time_grid

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # of diffusers, with new numpy
]

LEVELS = 1000
SHAPE = (2, 3, 4, 2, 2)
DIFFUSERS_PREDICTION = {"eps": "epsilon", "x0": "sample", "v": "v_prediction", "flow": "flow_prediction"}
DIFFUSERS_SCHEDULE = {"linear": "linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}

# with eps both divide by 0 at pure noise
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
    """A nonlinear function of both inputs that mixes elements."""
    return torch.sin(2 * x) + torch.cos(5 * t) * torch.tanh(x.roll(1, dims=-1)) - 0.3 * t


def betas_of(name: str, prediction: Prediction, spacing: str) -> dict[str, object]:
    """Settings of diffusers' schedulers of betas."""
    schedule, _, zero = name.partition("+")
    return {
        "num_train_timesteps": LEVELS,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": DIFFUSERS_SCHEDULE[schedule],
        "prediction_type": DIFFUSERS_PREDICTION[prediction],
        "timestep_spacing": spacing,
        "rescale_betas_zero_snr": bool(zero),
        "thresholding": False,
    }


def assert_same_trajectory(
    process: Process,
    sampler: Sampler,
    times: Tensor,
    step: Callable[[Tensor, Tensor, Tensor], Tensor],
    timesteps: Tensor,
    offset: int = 1,
    draw: Draw | None = None,
) -> None:
    """Compare the inputs of the network and the sample with those of a scheduler of diffusers.

    Its steps are (output, timestep, x) -> x at timesteps t * N - offset.
    """
    states, expected = [], [normal(*SHAPE)]

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        states.append(x)
        return predict_x0_eps(x, network(x, t), t.expand(SHAPE[0], SHAPE[2]), process)

    states.append(sampler(denoise, normal(*SHAPE), times, process.schedule, draw or no_draw))
    for timestep in timesteps:
        output = network(expected[-1], (timestep + offset).double() / LEVELS)
        expected.append(step(output, timestep, expected[-1]))
    for state, other in zip(states, expected, strict=True):
        assert state.dtype == other.dtype == torch.float64
        torch.testing.assert_close(state, other, atol=1e-6, rtol=1e-6)


def fresh(generator: torch.Generator) -> Draw:
    return lambda: torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def no_draw() -> Tensor:
    raise AssertionError("noise was drawn")


# --- Schedules and targets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["linear", "cosine", "sigmoid", "linear+zero", "cosine+zero", "sigmoid+zero"]
)
def test_noised_data_and_velocities_match_diffusers_at_every_timestep(name):
    scheduler, process = DDPMScheduler(**betas_of(name, "v", "trailing")), process_of(name, "v")
    timesteps = torch.arange(LEVELS)
    x0, noise = normal(LEVELS, 1, 1, 2, 2), normal(LEVELS, 1, 1, 2, 2, seed=1)
    t = ((timesteps + 1) / LEVELS)[:, None]
    for ours, theirs in (
        (add_noise(x0, noise, t, process.schedule), scheduler.add_noise(x0, noise, timesteps)),
        (target(x0, noise, t, process), scheduler.get_velocity(x0, noise, timesteps)),
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


def test_noised_data_of_flow_matches_diffusers():
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
def test_ddim_matches_diffusers(name, prediction, spacing, eta, steps):
    scheduler = DDIMScheduler(**betas_of(name, prediction, spacing), clip_sample=False)
    scheduler.set_timesteps(steps)
    ours, theirs = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)

    def step(output: Tensor, timestep: Tensor, x: Tensor) -> Tensor:
        generator = theirs if eta else None
        return scheduler.step(output, timestep, x, eta=eta, generator=generator).prev_sample

    times, draw = time_grid(steps, spacing, LEVELS), fresh(ours) if eta else None
    sampler = make_sampler("ddim", eta)
    assert_same_trajectory(process_of(name, prediction), sampler, times, step, scheduler.timesteps, draw=draw)


@pytest.mark.parametrize("steps", [3, 7, 30])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_matches_diffusers_in_leading_steps_that_do_not_divide_the_levels(steps, eta):
    test_ddim_matches_diffusers("linear", "v", "leading", eta, steps)


@pytest.mark.parametrize(("name", "prediction"), PAIRS + ZERO_PAIRS + SIGMOID_PAIRS)
@both_spacings
@pytest.mark.parametrize("steps", [1, 2, 7, 10, 30])
def test_ddpm_matches_diffusers(name, prediction, spacing, steps):
    """The last step of diffusers adds noise with a standard deviation of 1e-10."""
    scheduler = DDPMScheduler(**betas_of(name, prediction, spacing), clip_sample=False)
    scheduler.set_timesteps(steps)
    ours, theirs = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)

    def step(output: Tensor, timestep: Tensor, x: Tensor) -> Tensor:
        return scheduler.step(output, timestep, x, generator=theirs).prev_sample

    times, sampler = time_grid(steps, spacing, LEVELS), make_sampler("ddpm", 0.0)
    assert_same_trajectory(
        process_of(name, prediction), sampler, times, step, scheduler.timesteps, draw=fresh(ours)
    )


def nearly_zero_snr(schedule: Schedule) -> Schedule:
    """DPMSolverMultistepScheduler keeps a signal power of 2^-24 at the last level of zero terminal SNR."""

    def nearly_zero(t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(t)
        return torch.where(t == 1, 2**-12, alpha), torch.where(t == 1, (1 - 2**-24) ** 0.5, sigma)

    return nearly_zero


def dpmpp_scheduler(**settings: object) -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        **settings,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )


def deterministic_step(scheduler: SchedulerMixin) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda output, timestep, x: scheduler.step(output, timestep, x).prev_sample


@pytest.mark.parametrize(("name", "prediction"), PAIRS + ZERO_PAIRS)
@both_spacings
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 14, 15, 30])
def test_dpmpp_matches_diffusers(name, prediction, spacing, steps):
    process = process_of(name, prediction)
    if name.endswith("+zero"):
        process = Process(nearly_zero_snr(process.schedule), prediction)
    times = time_grid(steps, spacing, LEVELS)
    scheduler = dpmpp_scheduler(**betas_of(name, prediction, spacing))
    if spacing == "trailing":
        scheduler.set_timesteps(steps)
    else:
        scheduler.set_timesteps(timesteps=[round(t * LEVELS) - 1 for t in times[:-1].tolist()])
    sampler, step = make_sampler("dpmpp", 0.0), deterministic_step(scheduler)
    assert_same_trajectory(process, sampler, times, step, scheduler.timesteps)


# --- Samplers of flow ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["flow", "eps", "x0"])
@pytest.mark.parametrize("vdp_times", [True, False], ids=["vdp", "diffusers"])
@pytest.mark.parametrize("steps", [2, 3, 10, 14, 15, 40])
def test_dpmpp_on_flow_matches_diffusers(prediction, vdp_times, steps):
    """The times of diffusers start below pure noise, those of vdp at it (except for eps)."""
    scheduler = dpmpp_scheduler(
        num_train_timesteps=LEVELS, prediction_type=DIFFUSERS_PREDICTION[prediction], use_flow_sigmas=True
    )
    scheduler.set_timesteps(steps)
    if vdp_times:
        scheduler.sigmas = time_grid(steps, "leading" if prediction == "eps" else "trailing", LEVELS)
    scheduler.set_begin_index(0)  # by index, as timesteps are rounded
    sampler, step, times = make_sampler("dpmpp", 0.0), deterministic_step(scheduler), scheduler.sigmas
    assert_same_trajectory(process_of("flow", prediction), sampler, times, step, times[:-1] * LEVELS, 0)


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "diffusers"])
@some_steps
def test_euler_on_flow_matches_diffusers(sampler, spacing, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=LEVELS)
    if spacing == "diffusers":
        scheduler.set_timesteps(steps)
        times = scheduler.sigmas
    else:
        times = time_grid(steps, spacing, LEVELS)
        scheduler.set_timesteps(sigmas=times[:-1].tolist())
    own, step = make_sampler(sampler, 0.0), deterministic_step(scheduler)
    assert_same_trajectory(process_of("flow", "flow"), own, times, step, scheduler.timesteps, 0)
