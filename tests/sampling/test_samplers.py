import itertools
import math

import pytest
import torch
from torch import Tensor

from tests.processes import every_schedule, schedule_of
from vdp.diffusion.process import Schedule
from vdp.sampling.samplers import Draw, make_sampler, time_grid

pytestmark = pytest.mark.slow

SAMPLERS = {
    "ddpm": make_sampler("ddpm", 0.0),
    "ddim": make_sampler("ddim", 0.0),
    "ddim-half": make_sampler("ddim", 0.5),
    "ddim-full": make_sampler("ddim", 1.0),
    "dpmpp": make_sampler("dpmpp", 0.0),
    "euler": make_sampler("euler", 0.0),
    "heun": make_sampler("heun", 0.0),
}
STOCHASTIC = ["ddpm", "ddim-half", "ddim-full"]
DETERMINISTIC = ["ddim", "dpmpp", "euler", "heun"]

every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
every_stochastic = pytest.mark.parametrize("sampler", [SAMPLERS[n] for n in STOCHASTIC], ids=STOCHASTIC)
every_deterministic = pytest.mark.parametrize(
    "sampler", [SAMPLERS[n] for n in DETERMINISTIC], ids=DETERMINISTIC
)
both_spacings = pytest.mark.parametrize("spacing", ["trailing", "leading"])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fresh(*shape: int, seed: int = 1) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator, dtype=torch.float64)


def no_draw() -> Tensor:
    raise AssertionError("noise was drawn")


def grid(steps: int) -> Tensor:
    return time_grid(steps, "trailing", 1000)


def circle(t: Tensor) -> tuple[Tensor, Tensor]:
    """A smooth schedule without a table: alpha^2 + sigma^2 = 1."""
    return torch.cos(0.5 * math.pi * t), torch.sin(0.5 * math.pi * t)


def curved(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """A nonlinear function of both inputs."""
    return torch.tanh(x) * (1 - t), torch.sin(3 * x) + t


# --- Known answers ---------------------------------------------------------------------------------------


class Gaussian:
    """Data N(m, s^2), with a linear ideal denoiser and a known probability flow."""

    def __init__(self, m: float, s: float, schedule: Schedule) -> None:
        self.m, self.s, self.schedule = m, s, schedule

    def denoise(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(t)
        unexplained = (x - alpha * self.m) / (alpha**2 * self.s**2 + sigma**2)
        return self.m + alpha * self.s**2 * unexplained, sigma * unexplained

    def noised(self, score: Tensor, t: float) -> Tensor:
        """Data at time t of a standard score, which the probability flow preserves."""
        alpha, sigma = self.schedule(torch.tensor(t, dtype=torch.float64))
        return alpha * self.m + (alpha**2 * self.s**2 + sigma**2).sqrt() * score


@every_schedule
@every_sampler
@pytest.mark.parametrize("s", [0.5, 2.0])
def test_samples_have_the_mean_and_deviation_of_gaussian_data(name, sampler, s):
    data, count = Gaussian(3.0, s, schedule_of(name)), 10_000
    start = data.noised(normal(count), 1.0)
    sample = sampler(data.denoise, start, grid(200), data.schedule, fresh(count))
    assert sample.std().item() == pytest.approx(s, rel=0.05)
    assert sample.mean().item() == pytest.approx(3.0, abs=0.04 * s)


@every_schedule
@every_deterministic
def test_deterministic_samplers_follow_the_probability_flow_of_gaussian_data(name, sampler):
    data, score = Gaussian(3.0, 0.5, schedule_of(name)), normal(50)
    sample = sampler(data.denoise, data.noised(score, 1.0), grid(500), data.schedule, no_draw)
    torch.testing.assert_close(sample, 3.0 + 0.5 * score, atol=0.01, rtol=0)


@every_schedule
@every_sampler
@both_spacings
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_single_data_point_is_reached_in_any_number_of_steps(name, sampler, spacing, steps):
    schedule, point = schedule_of(name), normal(5, 3, seed=2)

    def ideal(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(t)
        return point, (x - alpha * point) / sigma

    times = time_grid(steps, spacing, 1000)
    sample = sampler(ideal, 2 * normal(5, 3), times, schedule, fresh(5, 3))
    torch.testing.assert_close(sample, point, atol=1e-10, rtol=0)


@every_sampler
def test_one_step_of_flow_subtracts_the_velocity(sampler):
    noise, velocity = normal(4), torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        assert t == 1
        return x - t * velocity, x + (1 - t) * velocity

    sample = sampler(denoise, noise, grid(1), schedule_of("flow"), no_draw)
    torch.testing.assert_close(sample, noise - velocity)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp", 2)])
@pytest.mark.parametrize("schedule", [schedule_of("flow"), circle], ids=["flow", "circle"])
@pytest.mark.parametrize("s", [0.5, 1.5])
def test_order_of_convergence(name, order, schedule, s):
    """Between times with a smooth log-SNR, along which dpmpp steps; it is unbounded at 0 and 1."""
    data, score = Gaussian(1.0, s, schedule), normal(50)

    def error(steps: int) -> float:
        times = torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64)
        sample = SAMPLERS[name](data.denoise, data.noised(score, 0.9), times, schedule, no_draw)
        return (sample - data.noised(score, 0.1)).norm().item()

    assert error(200) / error(400) == pytest.approx(2**order, rel=0.05)


@pytest.mark.parametrize("name", ["heun", "dpmpp"])
@pytest.mark.parametrize("schedule", [schedule_of("flow"), circle], ids=["flow", "circle"])
def test_second_order_samplers_have_a_fifth_of_the_error_of_ddim(name, schedule):
    data, score = Gaussian(1.0, 0.5, schedule), normal(50)

    def error(sampler: str, steps: int) -> float:
        start = data.noised(score, 1.0)
        sample = SAMPLERS[sampler](data.denoise, start, grid(steps), schedule, no_draw)
        return (sample - data.noised(score, 0.0)).norm().item()

    assert error(name, 50) < 0.2 * error("ddim", 50)


# --- Identities between samplers -------------------------------------------------------------------------


@every_schedule
@both_spacings
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_euler_equals_ddim_without_fresh_noise(name, spacing, steps):
    schedule = schedule_of(name)

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(t)
        x0 = torch.sin(3 * x) + t
        return x0, (x - alpha * x0) / sigma

    runs = [
        SAMPLERS[sampler](denoise, normal(50), time_grid(steps, spacing, 1000), schedule, no_draw)
        for sampler in ("euler", "ddim")
    ]
    torch.testing.assert_close(runs[0], runs[1], atol=1e-9, rtol=1e-9)


def test_on_flow_heun_is_heun_s_method():
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(3 * x) + t

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x - t * velocity(x, t), x + (1 - t) * velocity(x, t)

    x, t = normal(50), torch.ones((), dtype=torch.float64)
    for _ in range(4):
        slope, t = velocity(x, t), t - 0.2
        x = x - 0.2 * (slope + velocity(x - 0.2 * slope, t)) / 2
    sample = SAMPLERS["heun"](denoise, normal(50), grid(5), schedule_of("flow"), no_draw)
    torch.testing.assert_close(sample, x - 0.2 * velocity(x, t))


# --- Calls of the network and draws of noise -------------------------------------------------------------


@every_schedule
@every_sampler
@both_spacings
@pytest.mark.parametrize("steps", [1, 4])
def test_the_network_is_called_once_per_step_and_twice_by_heun(name, sampler, spacing, steps):
    times = time_grid(steps, spacing, 1000)
    calls: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(t)
        return curved(x, t)

    sampler(denoise, normal(2), times, schedule_of(name), fresh(2))
    expected = times[:-1].tolist()
    if sampler is SAMPLERS["heun"]:  # at both ends of each step but the last
        expected = [t for step in itertools.pairwise(expected) for t in step] + expected[-1:]
    assert [t.item() for t in calls] == expected
    assert all(t.shape == () for t in calls)


@every_schedule
@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_stochastic_samplers_draw_noise_in_every_step_but_the_last(name, sampler, steps):
    draw, drawn = fresh(3), []
    sampler(curved, normal(3), grid(steps), schedule_of(name), lambda: drawn.append(draw()) or drawn[-1])
    stochastic = any(sampler is SAMPLERS[name] for name in STOCHASTIC)
    assert len(drawn) == (steps - 1 if stochastic else 0)


@every_schedule
@every_sampler
def test_the_sample_is_deterministic_in_noise_and_draws(name, sampler):
    noise = normal(20)
    kept = noise.clone()
    first = sampler(curved, noise, grid(5), schedule_of(name), fresh(20))
    torch.manual_seed(123)
    assert torch.equal(sampler(curved, noise, grid(5), schedule_of(name), fresh(20)), first)
    assert torch.equal(noise, kept)


@every_schedule
@every_stochastic
def test_other_draws_give_other_samples(name, sampler):
    one, other = (
        sampler(curved, normal(20), grid(5), schedule_of(name), fresh(20, seed=seed)) for seed in (1, 2)
    )
    assert (one - other).abs().max() > 0.01


@every_stochastic
def test_zero_noise_gives_the_mean_of_gaussian_data(sampler):
    data = Gaussian(3.0, 0.5, schedule_of("flow"))
    sample = sampler(data.denoise, torch.zeros(4), grid(50), data.schedule, lambda: torch.zeros(4))
    torch.testing.assert_close(sample, torch.full((4,), 3.0))


@every_schedule
@every_sampler
def test_single_precision_is_kept(name, sampler):
    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        assert x.dtype == t.dtype == torch.float32
        assert t.device == x.device
        return curved(x, t)

    exact = sampler(curved, normal(20), grid(5), schedule_of(name), fresh(20))
    draw = fresh(20)
    sample = sampler(denoise, normal(20).float(), grid(5), schedule_of(name), lambda: draw().float())
    assert sample.dtype == torch.float32
    torch.testing.assert_close(sample.double(), exact, atol=1e-3, rtol=1e-3)


@every_sampler
def test_schedules_may_reach_pure_noise_before_the_last_level(sampler):

    def early(t: Tensor) -> tuple[Tensor, Tensor]:
        alpha = (1 - t / 0.75).clamp(min=0)
        return alpha, (1 - alpha.square()).sqrt()

    data, count = Gaussian(3.0, 0.5, early), 2000
    sample = sampler(data.denoise, normal(count), grid(200), early, fresh(count))
    assert sample.mean().item() == pytest.approx(3.0, abs=0.05)
    assert sample.std().item() == pytest.approx(0.5, rel=0.1)


# --- Times -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "spacing", "levels", "num_timesteps"),
    [
        (1, "trailing", [1000, 0], 1000),
        (4, "trailing", [1000, 750, 500, 250, 0], 1000),
        (3, "trailing", [10, 7, 3, 0], 10),
        (5, "trailing", [5, 4, 3, 2, 1, 0], 5),
        (1, "leading", [1, 0], 1000),
        (4, "leading", [751, 501, 251, 1, 0], 1000),
        (3, "leading", [7, 4, 1, 0], 10),
        (5, "leading", [5, 4, 3, 2, 1, 0], 5),
    ],
)
def test_times_of_each_spacing(steps, spacing, levels, num_timesteps):
    times = time_grid(steps, spacing, num_timesteps)
    assert times.dtype == torch.float64
    assert times.tolist() == [level / num_timesteps for level in levels]


@both_spacings
@pytest.mark.parametrize("num_timesteps", [2, 10, 97, 1000])
def test_times_descend_over_noise_levels_to_zero_for_every_number_of_steps(spacing, num_timesteps):
    for steps in range(1, num_timesteps + 1, max(1, num_timesteps // 60)):
        times = time_grid(steps, spacing, num_timesteps)
        assert times.shape == (steps + 1,)
        levels = times * num_timesteps
        assert (levels - levels.round()).abs().max() < 1e-9
        assert (times.diff() < 0).all()
        assert times[-1] == 0
        assert times[0] == 1 if spacing == "trailing" else times[-2] == 1 / num_timesteps


@both_spacings
@pytest.mark.parametrize("steps", [0, -1, 51])
def test_numbers_of_steps_out_of_range_are_rejected(spacing, steps):
    with pytest.raises(ValueError, match=rf"steps={steps}: expected 1\.\.num_timesteps=50"):
        time_grid(steps, spacing, 50)
