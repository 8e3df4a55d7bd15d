"""The diffusion process: noise schedule and the algebra of its parametrisations, as pure functions.

Time `t` is in [0, 1], 0 clean, 1 pure noise. Two processes share one form, xt = alpha x0 + sigma eps: flow
matching (Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003) with alpha = 1 - t and
sigma = t, and the variance-preserving cosine process (Nichol & Dhariwal 2021, arXiv:2102.09672) with the
network's target v = alpha eps - sigma x0 (Salimans & Ho 2022, arXiv:2202.00512).
Shapes: B clips, C channels, T frames.
"""

import math
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

Kind = Literal["flow", "v"]


def alpha_sigma(t: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Scale of the signal and of the noise at times `t`, each of the shape of `t`."""
    if kind == "flow":
        return 1 - t, t
    return torch.cos(0.5 * math.pi * t), torch.sin(0.5 * math.pi * t)


def _per_frame(t: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    alpha, sigma = alpha_sigma(t, kind)
    return rearrange(alpha, "b t -> b 1 t 1 1"), rearrange(sigma, "b t -> b 1 t 1 1")


def add_noise(x0: Tensor, noise: Tensor, t: Tensor, kind: Kind) -> Tensor:
    """Noise each frame to its own time.

    Args:
        x0: clean data, (B, C, T, H, W), about unit variance.
        noise: standard normal, the shape of `x0`.
        t: diffusion time of each frame, (B, T), in [0, 1].
        kind: which process.

    Returns:
        alpha x0 + sigma noise, the shape of `x0`.

    Raises:
        ValueError: if `t` has not one time for each frame.
    """
    if t.shape != (x0.shape[0], x0.shape[2]):
        raise ValueError(
            f"t: expected one time per frame, shape {(x0.shape[0], x0.shape[2])}, got {tuple(t.shape)}"
        )
    alpha, sigma = _per_frame(t, kind)
    return alpha * x0 + sigma * noise


def target(x0: Tensor, noise: Tensor, t: Tensor, kind: Kind) -> Tensor:
    """What the network is trained to give: the velocity eps - x0 (flow) or alpha eps - sigma x0 (v)."""
    if kind == "flow":
        return noise - x0
    alpha, sigma = _per_frame(t, kind)
    return alpha * noise - sigma * x0


def clean_and_noise(xt: Tensor, output: Tensor, t: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """The x0 and eps that a network's output at `xt` stands for; inverse of `add_noise` and `target`."""
    alpha, sigma = _per_frame(t, kind)
    if kind == "flow":
        return xt - sigma * output, xt + alpha * output
    return alpha * xt - sigma * output, sigma * xt + alpha * output
