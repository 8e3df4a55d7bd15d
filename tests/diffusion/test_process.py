import math

import pytest
import torch
from torch import Tensor

from vdp.diffusion.process import add_noise, alpha_sigma, clean_and_noise, target

both_processes = pytest.mark.parametrize("kind", ["flow", "v"])


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@both_processes
def test_the_clean_data_and_the_noise_are_recovered_from_what_the_network_should_give(kind):
    x0, noise = normal(0, 2, 3, 5, 4, 6), normal(1, 2, 3, 5, 4, 6)
    t = torch.rand((2, 5), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    t[0, 0], t[1, 1] = 0, 1
    xt = add_noise(x0, noise, t, kind)
    clean, eps = clean_and_noise(xt, target(x0, noise, t, kind), t, kind)
    torch.testing.assert_close(clean, x0, atol=1e-6, rtol=0)
    torch.testing.assert_close(eps, noise, atol=1e-6, rtol=0)


@both_processes
def test_time_zero_is_the_data_and_time_one_is_the_noise(kind):
    x0, noise = normal(0, 1, 1, 2, 2, 2), normal(1, 1, 1, 2, 2, 2)
    torch.testing.assert_close(add_noise(x0, noise, torch.zeros(1, 2), kind), x0)
    torch.testing.assert_close(add_noise(x0, noise, torch.ones(1, 2), kind), noise, atol=1e-6, rtol=0)


def test_flow_is_a_straight_line_whose_velocity_is_the_same_at_all_times():
    x0, noise = normal(0, 1, 1, 1, 2, 2), normal(1, 1, 1, 1, 2, 2)
    for t in (0.0, 0.3, 1.0):
        time = torch.full((1, 1), t, dtype=torch.float64)
        torch.testing.assert_close(add_noise(x0, noise, time, "flow"), x0 + t * (noise - x0))
        assert torch.equal(target(x0, noise, time, "flow"), noise - x0)


def test_the_cosine_process_keeps_the_variance():
    alpha, sigma = alpha_sigma(torch.linspace(0, 1, 101, dtype=torch.float64), "v")
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(101, dtype=torch.float64))
    assert (alpha.diff() < 0).all() and (sigma.diff() > 0).all()


@pytest.mark.parametrize(
    ("t", "of_data", "of_noise"), [(0.0, 0.0, 1.0), (1.0, -1.0, 0.0), (0.5, -math.sqrt(0.5), math.sqrt(0.5))]
)
def test_v_is_the_noise_at_time_zero_and_minus_the_data_at_time_one(t, of_data, of_noise):
    x0, noise = normal(0, 1, 1, 1, 2, 2), normal(1, 1, 1, 1, 2, 2)
    v = target(x0, noise, torch.full((1, 1), t, dtype=torch.float64), "v")
    torch.testing.assert_close(v, of_data * x0 + of_noise * noise, atol=1e-12, rtol=0)


@both_processes
def test_each_frame_of_each_clip_is_noised_to_its_own_time(kind):
    x0, noise = normal(0, 2, 3, 4, 2, 2), normal(1, 2, 3, 4, 2, 2)
    t = torch.rand((2, 4), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    xt = add_noise(x0, noise, t, kind)
    for clip in range(2):
        for frame in range(4):
            at = (slice(clip, clip + 1), slice(None), slice(frame, frame + 1))
            alone = add_noise(x0[at], noise[at], t[clip : clip + 1, frame : frame + 1], kind)
            torch.testing.assert_close(alone, xt[at])


@pytest.mark.parametrize("shape", [(2, 4), (3, 5), (2,), (2, 1)])
def test_times_that_do_not_match_the_frames_are_refused(shape):
    x0 = torch.zeros(2, 3, 5, 4, 6)
    with pytest.raises(ValueError, match=r"t: expected one time per frame, shape \(2, 5\), got"):
        add_noise(x0, x0, torch.zeros(shape), "flow")
