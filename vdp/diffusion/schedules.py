"""Noise schedules: the straight path of flow matching, and tables of betas (variance added by each step).

They agree with `diffusers`, whose timestep k of N is t = (k + 1) / N here, as t = 0 is clean data.
"""

import math

import torch
from torch import Tensor

from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.process import Process, Schedule


def linear_betas(num: int, start: float, end: float) -> Tensor:
    """Return linear betas, float64, (num,): Ho et al. 2020 (arXiv:2006.11239)."""
    return torch.linspace(start, end, num, dtype=torch.float64)


def cosine_betas(num: int) -> Tensor:
    """Return betas of a squared-cosine signal power, float64, (num,), at most 0.999.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), equation 17.
    """
    steps = torch.arange(num + 1, dtype=torch.float64) / num
    power = torch.cos((steps + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - power[1:] / power[:-1]).clamp(max=0.999)


def sigmoid_betas(num: int, start: float, end: float) -> Tensor:
    """Return sigmoid betas, float64, (num,): Xu et al. 2022 (arXiv:2203.02923)."""
    steps = torch.linspace(-6, 6, num, dtype=torch.float64)
    return start + (end - start) * torch.sigmoid(steps)


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """Rescale betas so that the last level is pure noise and the first one is unchanged, (num,).

    Source: Lin et al. 2023 (arXiv:2305.08891), algorithm 1: shift and scale the amplitude of the signal.
    """
    alpha = (1 - betas).cumprod(0).sqrt()
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    power = alpha.square()
    kept = (power[1:] / power[:-1]).nan_to_num(0.0)  # long schedules are pure noise, 0 / 0, before their end
    return 1 - torch.cat([power[:1], kept])


def make_process(params: DiffusionParams) -> Process:
    """Build the diffusion process."""
    return Process(_schedule(params), params.prediction)


def _schedule(params: DiffusionParams) -> Schedule:
    if params.schedule == "flow":
        return _straight
    if params.schedule == "cosine":
        betas = cosine_betas(params.num_timesteps)
    elif params.schedule == "linear":
        betas = linear_betas(params.num_timesteps, params.beta_start, params.beta_end)
    else:
        betas = sigmoid_betas(params.num_timesteps, params.beta_start, params.beta_end)
    return _table(zero_terminal_snr(betas) if params.zero_terminal_snr else betas)


def _straight(t: Tensor) -> tuple[Tensor, Tensor]:
    return 1 - t, t


def _table(betas: Tensor) -> Schedule:
    """Tabulate levels 0 (clean) to N of N betas; a time takes the nearest level."""
    power = torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])
    exact = torch.stack([power.sqrt(), (1 - power).sqrt()])
    tables: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def schedule(t: Tensor) -> tuple[Tensor, Tensor]:
        key = (t.dtype, t.device)
        if key not in tables:
            tables[key] = exact.to(t.dtype).to(t.device)  # cast first: not every accelerator has float64
        alpha, sigma = tables[key][:, (t * len(betas)).round().long()]
        return alpha, sigma

    return schedule
