"""Losses of the denoiser on hops of a rollout.

Shapes: B clips, C channels, K context frames, N target frames, R noise draws per target frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from vdp.core.context_frames import Hops
from vdp.core.rng import BatchRng
from vdp.core.tasks import Task
from vdp.diffusion.moved import with_moved
from vdp.diffusion.objective import Objective
from vdp.diffusion.process import Schedule, add_noise, min_snr_weight, predict_x0_eps, target
from vdp.diffusion.protocols import Denoiser, DiffusedData
from vdp.diffusion.scheduled_sampling import ScheduledSampling, replace_newest_frames

ContextT = TypeVar("ContextT")

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # noise levels of validation, as sigma / (alpha + sigma)
BISECTIONS = 20  # resolve a time to 1e-6


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Move uniform times towards 1 for shift > 1 (Esser et al. 2024, arXiv:2403.03206, equation 23)."""
    return shift * t / (1 + (shift - 1) * t)


def diffusion_loss(
    denoiser: Denoiser[ContextT],
    hops: Hops,
    objective: DiffusedData,
    min_snr_gamma: float | None,
    t: Tensor,
    noise: Tensor,
    level: Tensor,
    context_noise: Tensor,
    dropped: Tensor,
) -> dict[str, Tensor]:
    """Compute the mean squared error of the network's output; the R noise draws share one context encoding.

    The mean squared error of frames that the denoiser moves is added, and returned as 'moved'.

    Args:
        min_snr_gamma: clamp of the signal-to-noise weight (arXiv:2303.09556); None weights all times equally.
        t: diffusion times, (B, N*R).
        noise: standard normal, (B, C, N*R, h, w); the draws of one target frame are adjacent.
        level: standard deviation of the noise on each context frame, (B, K); an input of the network.
        context_noise: standard normal, the shape of `hops.known`.
        dropped: (B,) bool, True where the context frames are masked.
    """
    noised = replace(hops, known=hops.known + level[:, None, :, None, None] * context_noise)
    denoised = denoise_hops(denoiser, noised, objective, t, noise, level, dropped)
    error = (denoised.output - target(denoised.x0, noise, t, objective.process)).square()
    if min_snr_gamma is None:
        loss = error.mean()
    else:
        loss = (error.mean(dim=(1, 3, 4)) * min_snr_weight(t, objective.process, min_snr_gamma)).mean()
    if denoised.moved is None:
        return {"loss": loss}
    moved = objective.to_data(hops.target, denoised.moved).square().mean()
    return {"loss": loss + moved, "moved": moved}


@dataclass(frozen=True)
class DenoisedHops:
    """Clean and noised data of a batch of hops and the network's output, (B, C, N*R, h, w) each."""

    x0: Tensor
    xt: Tensor
    output: Tensor
    moved: Tensor | None  # frames that the denoiser moved to the targets, (B, C, N, h, w)


def denoise_hops(
    denoiser: Denoiser[ContextT],
    hops: Hops,
    objective: DiffusedData,
    t: Tensor,
    noise: Tensor,
    level: Tensor,
    dropped: Tensor,
) -> DenoisedHops:
    """Noise the targets of hops and denoise them.

    Arguments as of `diffusion_loss`, except that the noise of `level` is already added to `hops.known`.
    """
    given = with_moved(denoiser, hops.known, hops.index, level, hops.target_index)
    base = objective.base(given.frames, given.index, hops.target_index)
    draws = t.shape[1] // hops.target_index.shape[1]
    x0 = objective.to_data(hops.target, base).repeat_interleave(draws, dim=2)
    context = denoiser.context(given.frames, given.index, given.level, dropped, hops.target_index)
    xt = add_noise(x0, noise, t, objective.process.schedule)
    return DenoisedHops(x0, xt, denoiser(xt, t, context), given.moved)


@dataclass(frozen=True)
class HopLoss:
    """Training loss of a batch of hops; implements the loss protocol of `vdp.training.trainer`."""

    objectives: Mapping[Task, Objective]
    min_snr_gamma: float | None
    time_shift: float  # above 1: more training at high noise
    draws: int  # noise draws per target frame
    context_noise: float  # max standard deviation of noise on context frames; half of the clips have none
    context_dropout: float  # share of clips with masked context frames
    scheduled_sampling: ScheduledSampling

    def __call__(self, denoiser: Denoiser[ContextT], hops: Hops, batch_rng: BatchRng) -> dict[str, Tensor]:
        """Return 'loss' and, of a denoiser that moves frames, 'moved', scalars of a batch or of a part of it.

        `batch_rng` is on the hops' device.
        """
        objective = self.objectives[hops.task]
        batch, channels, targets, height, width = hops.target.shape
        t = batch_rng.uniform(batch, targets * self.draws)
        if denoiser.joint:  # jointly denoised target frames share their time
            t = t[:, : self.draws].repeat(1, targets)
        t = shift_time(t, self.time_shift)
        level = self.context_noise * batch_rng.uniform(batch, 1) * (batch_rng.uniform(batch, 1) < 0.5)
        noise = batch_rng.normal(batch, channels, targets * self.draws, height, width)
        context_noise = batch_rng.normal(*hops.known.shape)
        dropped = batch_rng.uniform(batch) < self.context_dropout
        level = level * ~dropped[:, None]  # noise of masked frames would enter the base only
        share = self.scheduled_sampling.share if hops.task == "predict" else 0.0
        if share > 0 and batch_rng.shared() < share:
            hops = replace_newest_frames(denoiser, hops, objective, self.scheduled_sampling, batch_rng)
        level = level.expand(-1, hops.index.shape[1])
        return diffusion_loss(
            denoiser, hops, objective, self.min_snr_gamma, t, noise, level, context_noise, dropped
        )


def times_at_levels(levels: Sequence[float], schedule: Schedule) -> Tensor:
    """Find the times at which sigma / (alpha + sigma) reaches `levels`, float64, (L,).

    The noise increases in time; the time of a level that the schedule does not reach is 1.
    """
    level = torch.tensor(levels, dtype=torch.float64)
    before, after = torch.zeros_like(level), torch.ones_like(level)
    for _ in range(BISECTIONS):
        middle = (before + after) / 2
        alpha, sigma = schedule(middle)
        reached = sigma / (alpha + sigma) >= level
        before, after = before.where(reached, middle), middle.where(reached, after)
    return after


@dataclass(frozen=True)
class LevelLoss:
    """Validation loss at fixed noise levels with clean context frames.

    The error in x0 is comparable across validations, schedules, predictions and residuals.
    """

    objective: Objective

    def __call__(self, denoiser: Denoiser[ContextT], hops: Hops, batch_rng: BatchRng) -> dict[str, Tensor]:
        """Compute the errors of a batch or of a part of it with one context encoding.

        Returns:
            'loss', the mean squared error of the network's output; 'x0', that of the predicted clean frame in
            units of the latents; 'x0_0.1' etc. at each of `LEVELS`; and 'base', that of the base.
        """
        batch, channels, targets, height, width = hops.target.shape
        process, draws = self.objective.process, len(LEVELS)
        t = times_at_levels(LEVELS, process.schedule).to(hops.index).repeat(batch, targets)
        noise = batch_rng.normal(batch, channels, targets * draws, height, width)
        clean, dropped = torch.zeros_like(hops.index), torch.zeros_like(t[:, 0], dtype=torch.bool)
        found = denoise_hops(denoiser, hops, self.objective, t, noise, clean, dropped)
        predicted_x0, _ = predict_x0_eps(found.xt, found.output, t, process)
        scale = self.objective.scale[:, None, None, None]
        error = scale * (predicted_x0 - found.x0)
        errors = error.square().unflatten(2, (targets, draws)).mean(dim=(0, 1, 2, 4, 5))
        by_level = {f"x0_{level}": error for level, error in zip(LEVELS, errors, strict=True)}
        loss = (found.output - target(found.x0, noise, t, process)).square().mean()
        base = (scale * found.x0).square().mean()
        return {"loss": loss, "x0": errors.mean(), "base": base, **by_level}


class TaskBatch(Protocol):
    """A batch with hops of several tasks."""

    @property
    def parts(self) -> Sequence[Hops]: ...


@dataclass(frozen=True)
class TaskLevelLoss:
    """`LevelLoss` of each trained task."""

    objectives: Mapping[Task, Objective]
    shares: Mapping[Task, float]  # of the tasks in the training, relative to their sum

    def __call__(
        self, denoiser: Denoiser[ContextT], batch: TaskBatch, batch_rng: BatchRng
    ) -> dict[str, Tensor]:
        """Compute the errors of each task.

        Returns:
            'loss', the mean over the tasks weighted by their shares, and the other items of `LevelLoss`,
            prefixed for tasks other than `predict`, as 'restore_x0'.
        """
        total = sum(self.shares[hops.task] for hops in batch.parts)
        losses: dict[str, Tensor] = {}
        for hops in batch.parts:
            measured = LevelLoss(self.objectives[hops.task])(denoiser, hops, batch_rng)
            share = self.shares[hops.task] / total * measured.pop("loss")
            losses["loss"] = losses["loss"] + share if "loss" in losses else share
            prefix = "" if hops.task == "predict" else f"{hops.task}_"
            losses |= {prefix + name: value for name, value in measured.items()}
        return losses
