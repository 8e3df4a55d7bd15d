"""The diffusion process as pure functions: noising, predictions of the network, and the DDIM step.

All processes have the form xt = alpha x0 + sigma eps at times `t` in [0, 1], 0 clean, 1 noise. A schedule
gives alpha and sigma. A prediction is what the network outputs, the same on every schedule: eps, x0, the
velocity eps - x0 of the straight path (Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023,
arXiv:2209.03003) or v = alpha eps - sigma x0 (Salimans & Ho 2022, arXiv:2202.00512).
Shapes: B clips, C channels, T frames.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from vdp.config.choices import Prediction

Schedule = Callable[
    [Tensor], tuple[Tensor, Tensor]
]  # t in [0, 1] -> (alpha, sigma) of t's shape, dtype, device


@dataclass(frozen=True)
class Process:
    """Noise schedule and parametrisation of the network's output."""

    schedule: Schedule
    prediction: Prediction


def alpha_sigma(t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Evaluate the schedule at times of frames, (B, T), broadcastable to clips: two of (B, 1, T, 1, 1)."""
    alpha, sigma = schedule(t)
    return rearrange(alpha, "b t -> b 1 t 1 1"), rearrange(sigma, "b t -> b 1 t 1 1")


def add_noise(x0: Tensor, noise: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """Noise each frame to its own time: alpha x0 + sigma noise.

    Args:
        x0: clean data, (B, C, T, H, W), about unit variance.
        noise: standard normal, the shape of `x0`.
        t: diffusion time of each frame, (B, T), in [0, 1].

    Raises:
        ValueError: if the shape of `t` is not (B, T).
    """
    if t.shape != (x0.shape[0], x0.shape[2]):
        raise ValueError(
            f"t: expected one time per frame, shape {(x0.shape[0], x0.shape[2])}, got {tuple(t.shape)}"
        )
    alpha, sigma = alpha_sigma(t, schedule)
    return alpha * x0 + sigma * noise


def target(x0: Tensor, noise: Tensor, t: Tensor, process: Process) -> Tensor:
    """Compute the training target of the network, of the shape of `x0`; arguments as of `add_noise`."""
    if process.prediction == "flow":
        return noise - x0
    if process.prediction == "eps":
        return noise
    if process.prediction == "x0":
        return x0
    alpha, sigma = alpha_sigma(t, process.schedule)
    return alpha * noise - sigma * x0


def predict_x0_eps(xt: Tensor, output: Tensor, t: Tensor, process: Process) -> tuple[Tensor, Tensor]:
    """Convert the network's output at `xt` to x0 and eps: the inverse of `add_noise` and `target`.

    With prediction x0, eps is undetermined at sigma = 0 and returned as zeros. With prediction eps, x0 is not
    finite at alpha = 0; `DiffusionParams` rejects eps on schedules that end in pure noise.

    Shapes: xt and output (B, C, T, H, W), t (B, T).
    """
    alpha, sigma = alpha_sigma(t, process.schedule)
    # The divisors differ from 1 only off the schedule that a prediction was defined for.
    if process.prediction == "flow":
        both = alpha + sigma
        return (xt - sigma * output) / both, (xt + alpha * output) / both
    if process.prediction == "v":
        power = alpha.square() + sigma.square()
        return (alpha * xt - sigma * output) / power, (sigma * xt + alpha * output) / power
    if process.prediction == "eps":
        return (xt - sigma * output) / alpha, output
    noisy = sigma > 0
    eps = (xt - alpha * output) / torch.where(noisy, sigma, 1)  # a division by 0 has a nan gradient
    return output, torch.where(noisy, eps, 0)


def ddim_step(
    x0: Tensor,
    eps: Tensor,
    alpha: Tensor | float,
    sigma: Tensor | float,
    fresh_noise: Tensor | None = None,
    fresh_share: float = 0.0,
) -> Tensor:
    """Noise the predicted x0 to the next time along the predicted eps.

    Args:
        x0, eps: from `predict_x0_eps`.
        alpha, sigma: of the next time, broadcastable to `x0`.
        fresh_noise: standard normal noise that replaces a share of `eps`.
        fresh_share: standard deviation of that share, in [0, 1].

    Source: Song et al. 2021 (arXiv:2010.02502), equation 12, for any alpha and sigma.
    """
    if fresh_noise is not None:
        eps = math.sqrt(1 - fresh_share**2) * eps + fresh_share * fresh_noise
    return alpha * x0 + sigma * eps


def min_snr_weight(t: Tensor, process: Process, gamma: float) -> Tensor:
    """Weight the squared error of the network's output such that its error in x0 has weight min(SNR, gamma).

    SNR is alpha^2 / sigma^2. The weights, of the shape of t, are finite at all times.

    Source: Hang et al. 2023 (arXiv:2303.09556), section 3.4. The weight of an output is that of x0 times
    (dx0/doutput)^2 from `predict_x0_eps`.
    """
    alpha, sigma = process.schedule(t)
    signal, noise = alpha.square(), sigma.square()
    if process.prediction == "x0":
        return (signal / noise).clamp(max=gamma)
    if process.prediction == "eps":
        return (gamma * noise / signal).clamp(max=1)
    clamped = torch.minimum(signal, gamma * noise)
    if process.prediction == "v":
        return clamped / (signal + noise).square()
    return clamped / (alpha + sigma).square()
