import math

import pytest
import torch
from torch import Tensor

from tests.processes import NOISE_AT_END, every_schedule, every_table, schedule_of
from vdp.diffusion.schedules import cosine_betas, linear_betas, sigmoid_betas, zero_terminal_snr

BETAS = {
    "linear": linear_betas(1000, 1e-4, 0.02),
    "cosine": cosine_betas(1000),
    "sigmoid": sigmoid_betas(1000, 1e-4, 0.02),
}
every_kind_of_betas = pytest.mark.parametrize("betas", BETAS.values(), ids=BETAS.keys())


def levels(num_timesteps: int) -> Tensor:
    """Times of all noise levels."""
    return torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps


# --- Betas -----------------------------------------------------------------------------------------------


@every_kind_of_betas
def test_betas_increase_within_0_and_1(betas):
    assert betas.dtype == torch.float64
    assert betas.shape == (1000,)
    assert (betas > 0).all() and (betas < 1).all()
    assert (betas.diff() >= 0).all() and betas[-1] > betas[0]


def test_linear_betas_are_evenly_spaced():
    expected = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
    torch.testing.assert_close(linear_betas(5, 0.1, 0.5), expected)


def test_sigmoid_betas_are_symmetric():
    betas = sigmoid_betas(1001, 0.1, 0.5)
    torch.testing.assert_close(betas + betas.flip(0), torch.full_like(betas, 0.6))
    assert betas[0].item() == pytest.approx(0.1 + 0.4 / (1 + math.exp(6)))
    assert betas[500].item() == pytest.approx(0.3)


def test_cosine_betas_give_a_squared_cosine():
    betas = cosine_betas(1000)
    assert betas.max() == 0.999
    power = (1 - betas).cumprod(0)
    for k in (0, 249, 499, 989):
        angles = [((k + 1) / 1000 + 0.008) / 1.008 * math.pi / 2, 0.008 / 1.008 * math.pi / 2]
        assert power[k].item() == pytest.approx((math.cos(angles[0]) / math.cos(angles[1])) ** 2, rel=1e-9)


@every_kind_of_betas
def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_first_level(betas):
    scaled = zero_terminal_snr(betas)
    power = (1 - scaled).cumprod(0)
    assert power[-1] == 0
    assert scaled[0].item() == pytest.approx(betas[0].item(), rel=1e-9)
    assert (scaled[:-1] > 0).all() and (scaled[:-1] < 1).all() and scaled[-1] == 1


@every_kind_of_betas
def test_zero_terminal_snr_shifts_and_scales_the_signal(betas):
    before, after = ((1 - b).cumprod(0).sqrt() for b in (betas, zero_terminal_snr(betas)))
    torch.testing.assert_close(after / after[0], (before - before[-1]) / (before[0] - before[-1]))


# --- Schedules -------------------------------------------------------------------------------------------


@every_table
def test_tables_preserve_variance(name):
    alpha, sigma = schedule_of(name)(levels(1000))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1001, dtype=torch.float64))


def test_flow_is_linear_in_time():
    t = torch.rand(50, generator=torch.Generator().manual_seed(0))
    alpha, sigma = schedule_of("flow")(t)
    assert torch.equal(alpha, 1 - t)
    assert torch.equal(sigma, t)


@every_schedule
def test_signal_to_noise_decreases_at_every_level(name):
    alpha, sigma = schedule_of(name)(levels(1000))
    assert ((alpha / sigma).diff() < 0).all()


@every_schedule
def test_level_zero_is_clean(name):
    alpha, sigma = schedule_of(name)(torch.zeros(1))
    assert (alpha.item(), sigma.item()) == (1, 0)


@pytest.mark.parametrize("name", NOISE_AT_END)
def test_the_last_level_is_pure_noise_with_flow_or_zero_terminal_snr(name):
    alpha, sigma = schedule_of(name)(torch.ones(1))
    assert (alpha.item(), sigma.item()) == (0, 1)


@pytest.mark.parametrize("name", BETAS)
def test_level_k_accumulates_the_first_k_betas(name):
    _, sigma = schedule_of(name)(torch.tensor([0.001, 0.002, 1.0], dtype=torch.float64))
    betas = BETAS[name]
    kept = torch.stack([1 - betas[0], (1 - betas[0]) * (1 - betas[1]), (1 - betas).prod()])
    torch.testing.assert_close(sigma**2, 1 - kept)


@every_table
@pytest.mark.parametrize("num_timesteps", [2, 7, 1000, 100_000])
def test_every_level_is_reached_in_single_precision(name, num_timesteps):
    schedule, t = schedule_of(name, num_timesteps), levels(num_timesteps)
    exact, single = schedule(t), schedule(t.float())
    assert torch.equal(single[0], exact[0].float())
    assert torch.equal(single[1], exact[1].float())
    assert all(s.isfinite().all() for s in exact)


@every_table
def test_a_time_between_levels_is_rounded_to_the_nearest(name):
    schedule = schedule_of(name, 10)
    near, exact = torch.tensor([0.04, 0.06, 0.34, 0.36, 0.96]), torch.tensor([0.0, 0.1, 0.3, 0.4, 1.0])
    assert torch.equal(torch.stack(schedule(near)), torch.stack(schedule(exact)))


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_alpha_and_sigma_have_the_shape_dtype_and_device_of_the_times(name, dtype, shape):
    for scale in schedule_of(name)(torch.full(shape, 0.5, dtype=dtype)):
        assert (scale.shape, scale.dtype, scale.device.type) == (shape, dtype, "cpu")
    for scale in schedule_of(name)(torch.full((2, 3), 0.5, device="meta")):
        assert scale.device.type == "meta"
