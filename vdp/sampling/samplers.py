"""Samplers: loops from noise to data over a callable.

`denoise(xt, t)` predicts x0 and eps at xt; `schedule` gives alpha and sigma of any process. Each sampler
starts from `noise` as the data at times[0] and steps to times[-1] = 0 along xt = alpha x0 + sigma eps.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vdp.config.choices import SamplerName, Spacing, sampling_levels
from vdp.diffusion.process import Schedule, ddim_step

Denoise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (xt, t scalar tensor) -> (x0, eps)
Draw = Callable[[], Tensor]  # fresh normal noise of the sample's shape, scaled by the temperature
Sampler = Callable[[Denoise, Tensor, Tensor, Schedule, Draw], Tensor]
# (denoise, noise, times, schedule, draw) -> sample of the shape and dtype of noise; times descend to 0


def time_grid(steps: int, spacing: Spacing, num_timesteps: int) -> Tensor:
    """Compute the sampling times of `sampling_levels`, float64, (steps + 1,), descending to 0."""
    return torch.tensor(sampling_levels(steps, spacing, num_timesteps), dtype=torch.float64) / num_timesteps


@dataclass(frozen=True)
class _Step:
    t: Tensor
    alpha: float
    sigma: float
    next_t: Tensor
    next_alpha: float
    next_sigma: float

    @property
    def noise_ratio(self) -> float:
        """Ratio of noise to signal after the step over that before it, in [0, 1]."""
        if self.next_alpha == 0:  # both are pure noise
            return 1.0
        return self.alpha * self.next_sigma / (self.next_alpha * self.sigma)


def _steps(times: Tensor, schedule: Schedule, noise: Tensor) -> Iterator[_Step]:
    # coefficients are Python floats in the precision of `times`, so no tensor changes dtype or device
    alpha, sigma = (s.tolist() for s in schedule(times))
    t = times.to(noise.dtype).to(noise.device)
    for i in range(len(times) - 1):
        yield _Step(t[i], alpha[i], sigma[i], t[i + 1], alpha[i + 1], sigma[i + 1])


def ddim(eta: float) -> Sampler:
    """Build a DDIM sampler; at each step a share of eps is replaced by fresh noise.

    At eta 0 it is deterministic; at 1 each step is the posterior of x at the next time given x0 and xt.

    Source: Song et al. 2021 (arXiv:2010.02502), equations 12 and 16, for any alpha and sigma.
    """

    def sample(denoise: Denoise, noise: Tensor, times: Tensor, schedule: Schedule, draw: Draw) -> Tensor:
        x = noise
        for step in _steps(times, schedule, noise):
            x0, eps = denoise(x, step.t)
            fresh = eta * math.sqrt(max(0.0, 1 - step.noise_ratio**2))
            fresh_noise = draw() if fresh > 0 and step.next_sigma > 0 else None
            x = ddim_step(x0, eps, step.next_alpha, step.next_sigma, fresh_noise, fresh)
        return x

    return sample


ddpm: Sampler = ddim(1.0)
"""Ancestral sampling with the posterior's variance: Ho et al. 2020 (arXiv:2006.11239), equations 6 and 7."""


def dpmpp(denoise: Denoise, noise: Tensor, times: Tensor, schedule: Schedule, draw: Draw) -> Tensor:
    """DPM-Solver++ 2M: second order in the log of the signal-to-noise ratio, one network call per step.

    The first step, without an earlier x0, and the last step, where the ratio is infinite, are first order.

    Source: Lu et al. 2022 (arXiv:2211.01095), algorithm 2, midpoint.
    """
    x, earlier, earlier_h = noise, noise, 0.0
    for step in _steps(times, schedule, noise):
        x0, _ = denoise(x, step.t)
        h = -math.log(step.noise_ratio) if step.noise_ratio > 0 else math.inf
        extrapolated = x0
        if earlier_h > 0 and step.next_sigma > 0:
            extrapolated = x0 + h / (2 * earlier_h) * (x0 - earlier)
        decay = step.next_sigma / step.sigma
        x = decay * x + (step.next_alpha - step.alpha * decay) * extrapolated
        earlier, earlier_h = x0, h
    return x


def euler(denoise: Denoise, noise: Tensor, times: Tensor, schedule: Schedule, draw: Draw) -> Tensor:
    """Euler's method on y = x / (alpha + sigma) over tau = sigma / (alpha + sigma), where dy/dtau = eps - x0.

    On the flow process y and tau are x and t.

    Source: Liu et al. 2023 (arXiv:2209.03003), equation 1; Karras et al. 2022 (arXiv:2206.00364), section 2.
    """
    x = noise
    for step in _steps(times, schedule, noise):
        x = _euler_step(x, step, _slope(denoise, x, step.t))
    return x


def heun(denoise: Denoise, noise: Tensor, times: Tensor, schedule: Schedule, draw: Draw) -> Tensor:
    """`euler` with the mean of the slopes at both ends of each step: second order, two calls per step.

    The last step is Euler's, as eps is undefined without noise.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 1, in the coordinates of `euler`.
    """
    x = noise
    for step in _steps(times, schedule, noise):
        slope = _slope(denoise, x, step.t)
        if step.next_sigma > 0:
            slope = (slope + _slope(denoise, _euler_step(x, step, slope), step.next_t)) / 2
        x = _euler_step(x, step, slope)
    return x


def _slope(denoise: Denoise, x: Tensor, t: Tensor) -> Tensor:
    x0, eps = denoise(x, t)
    return eps - x0


def _euler_step(x: Tensor, step: _Step, slope: Tensor) -> Tensor:
    both, next_both = step.alpha + step.sigma, step.next_alpha + step.next_sigma
    return next_both * (x / both + (step.next_sigma / next_both - step.sigma / both) * slope)


def make_sampler(name: SamplerName, eta: float) -> Sampler:
    """Build the sampler that predict.sampler names; `eta` applies to ddim only."""
    return {"ddpm": ddpm, "ddim": ddim(eta), "dpmpp": dpmpp, "euler": euler, "heun": heun}[name]
