import pytest
import torch
from torch import Tensor

from vdp.diffusion.process import Kind, alpha_sigma
from vdp.sampling.samplers import Schedule, ddim

both_processes = pytest.mark.parametrize("kind", ["flow", "v"])


def schedule_of(kind: Kind) -> Schedule:
    return lambda t: alpha_sigma(t, kind)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@both_processes
@pytest.mark.parametrize("s", [0.5, 2.0])
def test_ddim_recovers_the_mean_and_the_spread_of_gaussian_data(kind, s):
    """For x0 ~ N(m, s^2) the ideal denoiser is linear, so the right answer is known exactly."""
    m = 3.0

    def ideal(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = alpha_sigma(t, kind)
        x0 = m + alpha * s**2 / (alpha**2 * s**2 + sigma**2) * (x - alpha * m)
        return x0, (x - alpha * x0) / sigma

    noise = normal(10_000)
    sample = ddim(ideal, noise, 1000, schedule_of(kind))
    assert (sample.std() / noise.std()).item() == pytest.approx(s, rel=0.005)
    assert (sample - s * noise).mean().item() == pytest.approx(m, abs=0.01)


@both_processes
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_data_that_is_one_point_is_found_in_any_number_of_steps(kind, steps):
    point = normal(5, 3)

    def ideal(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = alpha_sigma(t, kind)
        return point, (x - alpha * point) / sigma

    torch.testing.assert_close(ddim(ideal, 2 * normal(5, 3), steps, schedule_of(kind)), point)


def test_one_step_of_flow_is_the_noise_less_the_velocity_at_time_one():
    noise, velocity = normal(4), torch.tensor([1.0, -2.0, 3.0, 0.5])

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        assert t == 1
        return x - t * velocity, x + (1 - t) * velocity

    torch.testing.assert_close(ddim(denoise, noise, 1, schedule_of("flow")), noise - velocity)


def test_on_flow_ddim_is_the_method_of_euler():
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(3 * x) + t

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x - t * velocity(x, t), x + (1 - t) * velocity(x, t)

    x = noise = normal(50)
    for step in range(8):
        x = x - velocity(x, torch.tensor(1 - step / 8)) / 8
    torch.testing.assert_close(ddim(denoise, noise, 8, schedule_of("flow")), x)


@both_processes
def test_the_network_is_called_once_a_step_at_even_times_from_one_down(kind):
    times: list[float] = []

    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        times.append(t.item())
        return x, x

    ddim(denoise, normal(2), 4, schedule_of(kind))
    assert times == [1.0, 0.75, 0.5, 0.25]


@both_processes
def test_the_sample_is_a_function_of_the_noise_alone(kind):
    def denoise(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(x) * (1 - t), torch.sin(x)

    noise = normal(20)
    kept = noise.clone()
    first = ddim(denoise, noise, 5, schedule_of(kind))
    torch.manual_seed(123)
    assert torch.equal(ddim(denoise, noise, 5, schedule_of(kind)), first)
    assert torch.equal(noise, kept)


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps: expected at least 1, got {steps}"):
        ddim(lambda x, t: (x, x), normal(1), steps, schedule_of("flow"))
