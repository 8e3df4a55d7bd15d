"""Samplers: loops from noise to data over a callable. Randomness is passed in as the starting noise.

`denoise(xt, t)` gives the clean data and the noise that a network sees in `xt`; the process's (alpha, sigma)
are passed as a function, so that one sampler serves every process.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (xt, t) -> (x0, eps)
Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]  # t -> (alpha, sigma)

Sampler = Callable[[Denoise, Tensor, int, Schedule], Tensor]  # (denoise, noise, steps, schedule) -> sample


def ddim(denoise: Denoise, noise: Tensor, steps: int, schedule: Schedule) -> Tensor:
    """Deterministic sampler DDIM; on the flow process it is Euler's method.

    Args:
        denoise: estimates x0 and eps at time t, a scalar tensor in [0, 1].
        noise: what to start from at t = 1; scale it to sample at a lower temperature.
        steps: calls of `denoise`, at times evenly spaced from 1 down, the last one at 1 / steps.
        schedule: the process's alpha and sigma.

    Returns:
        A sample of the shape of `noise`.

    Raises:
        ValueError: if steps < 1.

    Source: Song et al. 2021 (arXiv:2010.02502), equation 12 with sigma = 0.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    times = torch.linspace(1, 0, steps + 1, device=noise.device)
    x = noise
    for t, next_t in zip(times[:-1], times[1:], strict=True):
        x0, eps = denoise(x, t)
        alpha, sigma = schedule(next_t)
        x = alpha * x0 + sigma * eps
    return x


SAMPLERS: dict[str, Sampler] = {"ddim": ddim}  # by their name in params.yaml, predict.sampler
