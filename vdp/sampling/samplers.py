"""Samplers: loops from noise to data over a callable. Randomness is passed in: starting noise, and a draw.

`denoise(xt, t)` gives the clean data and the noise that a network sees in `xt`; the process's (alpha, sigma)
are passed as a function, so that one sampler serves every process. Each sampler starts from `noise` as the
data at times[0] and walks down to times[-1] = 0; between them it moves along xt = alpha x0 + sigma eps.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vdp.diffusion.process import Schedule

Denoise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (xt, t scalar tensor) -> (x0, eps)
Draw = Callable[[], Tensor]  # fresh normal noise of the sample's shape, at the temperature wished for
Sampler = Callable[[Denoise, Tensor, Tensor, Schedule, Draw], Tensor]
# (denoise, noise, times, schedule, draw) -> sample of the shape and dtype of noise; times descend to 0


def time_grid(steps: int, spacing: Literal["trailing", "leading"], num_timesteps: int) -> Tensor:
    """Times of sampling, float64, (steps + 1,), descending to 0, each one of the process's noise levels.

    Args:
        steps: of the sampler.
        spacing: trailing starts at 1, pure noise; leading ends at the level above 0 and starts below 1, where
            starting from pure noise is a little wrong (Lin et al. 2023, arXiv:2305.08891, table 2).
        num_timesteps: noise levels of the process.

    Raises:
        ValueError: if there are no steps, or more than noise levels.
    """
    if not 1 <= steps <= num_timesteps:
        raise ValueError(
            f"steps: expected 1 to num_timesteps={num_timesteps}, got {steps}; "
            "take fewer steps or a process of more noise levels"
        )
    down = torch.arange(steps, -1, -1, dtype=torch.float64)
    if spacing == "trailing":
        return (down * num_timesteps / steps).round() / num_timesteps
    levels = (down - 1) * (num_timesteps // steps) + 1
    levels[-1] = 0
    return levels / num_timesteps


@dataclass(frozen=True)
class _Step:
    """From time `t` and its alpha and sigma to those of the next time."""

    t: Tensor
    alpha: float
    sigma: float
    next_t: Tensor
    next_alpha: float
    next_sigma: float

    @property
    def kept(self) -> float:
        """Ratio of noise to signal after the step over that before it, in [0, 1]."""
        if self.next_alpha == 0:  # both are pure noise
            return 1.0
        return self.alpha * self.next_sigma / (self.next_alpha * self.sigma)


def _steps(times: Tensor, schedule: Schedule, noise: Tensor) -> Iterator[_Step]:
    """Coefficients are Python numbers in the precision of `times`: no tensor changes its dtype or device."""
    alpha, sigma = (s.tolist() for s in schedule(times))
    t = times.to(noise.dtype).to(noise.device)
    for i in range(len(times) - 1):
        yield _Step(t[i], alpha[i], sigma[i], t[i + 1], alpha[i + 1], sigma[i + 1])


def ddim(eta: float) -> Sampler:
    """Keep the predicted x0 and eps from step to step, with a share of eps drawn anew.

    Args:
        eta: 0 draws nothing; at 1 the step is the posterior of x at the next time given x0 and xt.

    Source: Song et al. 2021 (arXiv:2010.02502), equations 12 and 16, written for any alpha and sigma.
    """

    def sample(denoise: Denoise, noise: Tensor, times: Tensor, schedule: Schedule, draw: Draw) -> Tensor:
        x = noise
        for step in _steps(times, schedule, noise):
            x0, eps = denoise(x, step.t)
            fresh = eta * math.sqrt(max(0.0, 1 - step.kept**2))
            if fresh > 0 and step.next_sigma > 0:
                eps = math.sqrt(1 - fresh**2) * eps + fresh * draw()
            x = step.next_alpha * x0 + step.next_sigma * eps
        return x

    return sample


ddpm: Sampler = ddim(1.0)
"""Ancestral sampling with the posterior's variance: Ho et al. 2020 (arXiv:2006.11239), equations 6 and 7."""


def dpmpp(denoise: Denoise, noise: Tensor, times: Tensor, schedule: Schedule, draw: Draw) -> Tensor:
    """DPM-Solver++ 2M: second order in the log of the signal-to-noise ratio, with one call a step.

    First order at the first step, which has no earlier x0 to extrapolate from, and at the last one, whose
    ratio has no end.

    Source: Lu et al. 2022 (arXiv:2211.01095), algorithm 2, midpoint.
    """
    x, earlier, earlier_h = noise, noise, 0.0
    for step in _steps(times, schedule, noise):
        x0, _ = denoise(x, step.t)
        h = -math.log(step.kept) if step.kept > 0 else math.inf
        ahead = x0
        if earlier_h > 0 and step.next_sigma > 0:
            ahead = x0 + h / (2 * earlier_h) * (x0 - earlier)
        shrink = step.next_sigma / step.sigma
        x = shrink * x + (step.next_alpha - step.alpha * shrink) * ahead
        earlier, earlier_h = x0, h
    return x


def euler(denoise: Denoise, noise: Tensor, times: Tensor, schedule: Schedule, draw: Draw) -> Tensor:
    """Euler's method where paths are straight: on y = x / (alpha + sigma), tau = sigma / (alpha + sigma).

    There dy/dtau = eps - x0 on every schedule; on the flow process y and tau are x and t themselves.

    Source: Liu et al. 2023 (arXiv:2209.03003), equation 1; Karras et al. 2022 (arXiv:2206.00364), section 2.
    """
    x = noise
    for step in _steps(times, schedule, noise):
        x = _along(x, step, _slope(denoise, x, step.t))
    return x


def heun(denoise: Denoise, noise: Tensor, times: Tensor, schedule: Schedule, draw: Draw) -> Tensor:
    """`euler` with the mean of the slopes at both ends of each step: second order, two calls a step but one.

    The last step is Euler's, as there is no noise to be seen at its end.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 1, in the coordinates of `euler`.
    """
    x = noise
    for step in _steps(times, schedule, noise):
        slope = _slope(denoise, x, step.t)
        if step.next_sigma > 0:
            slope = (slope + _slope(denoise, _along(x, step, slope), step.next_t)) / 2
        x = _along(x, step, slope)
    return x


def _slope(denoise: Denoise, x: Tensor, t: Tensor) -> Tensor:
    x0, eps = denoise(x, t)
    return eps - x0


def _along(x: Tensor, step: _Step, slope: Tensor) -> Tensor:
    """x at the next time, moved along dy/dtau = slope."""
    both, next_both = step.alpha + step.sigma, step.next_alpha + step.next_sigma
    return next_both * (x / both + (step.next_sigma / next_both - step.sigma / both) * slope)


def make_sampler(name: Literal["ddpm", "ddim", "dpmpp", "euler", "heun"], eta: float) -> Sampler:
    """The sampler that predict.sampler names; `eta` is of ddim alone."""
    return {"ddpm": ddpm, "ddim": ddim(eta), "dpmpp": dpmpp, "euler": euler, "heun": heun}[name]
