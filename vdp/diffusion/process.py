"""The diffusion process: the algebra of noised data and of the networks' parametrisations, as pure functions.

All processes share one form, xt = alpha x0 + sigma eps, at times `t` in [0, 1], 0 clean, 1 noise. A schedule
gives alpha and sigma; a prediction is what the network gives, and means the same on every schedule: eps or x0
themselves, the velocity eps - x0 of the straight path (Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023,
arXiv:2209.03003) or v = alpha eps - sigma x0 (Salimans & Ho 2022, arXiv:2202.00512).
Shapes: B clips, C channels, T frames.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

Prediction = Literal["flow", "v", "eps", "x0"]
Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]  # t in [0, 1] -> (alpha, sigma), like t in all but value


@dataclass(frozen=True)
class Process:
    """How data is noised and what a network says of it."""

    schedule: Schedule
    prediction: Prediction


def _per_frame(t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    alpha, sigma = schedule(t)
    return rearrange(alpha, "b t -> b 1 t 1 1"), rearrange(sigma, "b t -> b 1 t 1 1")


def add_noise(x0: Tensor, noise: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """Noise each frame to its own time.

    Args:
        x0: clean data, (B, C, T, H, W), about unit variance.
        noise: standard normal, the shape of `x0`.
        t: diffusion time of each frame, (B, T), in [0, 1].
        schedule: alpha and sigma at each time.

    Returns:
        alpha x0 + sigma noise, the shape of `x0`.

    Raises:
        ValueError: if `t` has not one time for each frame.
    """
    if t.shape != (x0.shape[0], x0.shape[2]):
        raise ValueError(
            f"t: expected one time per frame, shape {(x0.shape[0], x0.shape[2])}, got {tuple(t.shape)}"
        )
    alpha, sigma = _per_frame(t, schedule)
    return alpha * x0 + sigma * noise


def target(x0: Tensor, noise: Tensor, t: Tensor, process: Process) -> Tensor:
    """What the network is trained to give, of the shape of `x0`; arguments as of `add_noise`."""
    if process.prediction == "flow":
        return noise - x0
    if process.prediction == "eps":
        return noise
    if process.prediction == "x0":
        return x0
    alpha, sigma = _per_frame(t, process.schedule)
    return alpha * noise - sigma * x0


def predict_x0_eps(xt: Tensor, output: Tensor, t: Tensor, process: Process) -> tuple[Tensor, Tensor]:
    """The x0 and eps that a network's output at `xt` stands for: the inverse of `add_noise` and `target`.

    What the pair (xt, output) does not tell cannot be had from it. At sigma = 0 an x0 says nothing of the
    noise, which is returned as zeros. At alpha = 0 an eps says nothing of the data, and x0 is not finite:
    `DiffusionParams` refuses that prediction on schedules that end in pure noise.

    Args:
        xt: noised data, (B, C, T, H, W).
        output: what `process.prediction` names, the shape of `xt`.
        t: diffusion time of each frame, (B, T), in [0, 1].
        process: schedule and prediction.

    Returns:
        (x0, eps), each of the shape of `xt`, with alpha x0 + sigma eps = xt.
    """
    alpha, sigma = _per_frame(t, process.schedule)
    # The divisors are 1 for flow on its own schedule and for v where variance is kept, but not crosswise.
    if process.prediction == "flow":
        both = alpha + sigma
        return (xt - sigma * output) / both, (xt + alpha * output) / both
    if process.prediction == "v":
        power = alpha.square() + sigma.square()
        return (alpha * xt - sigma * output) / power, (sigma * xt + alpha * output) / power
    if process.prediction == "eps":
        return (xt - sigma * output) / alpha, output
    noisy = sigma > 0
    eps = (xt - alpha * output) / torch.where(noisy, sigma, 1)  # no division by 0: its gradient would be nan
    return output, torch.where(noisy, eps, 0)


def min_snr_weight(t: Tensor, process: Process, gamma: float) -> Tensor:
    """Weight of the squared error of a network's output that weighs its error in x0 by min(SNR, gamma).

    Args:
        t: diffusion times, (B, T), in [0, 1].
        process: schedule and prediction.
        gamma: clamp of the signal-to-noise ratio alpha^2 / sigma^2.

    Returns:
        Weights, (B, T), finite at all times.

    Source: Hang et al. 2023 (arXiv:2303.09556), section 3.4. The weight of an output is that of x0 times
    (dx0/doutput)^2, which `predict_x0_eps` gives for each prediction.
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
