"""The denoiser's loss on hops of a rollout.

Shapes: B clips, C channels, K known frames, N targets, R noise draws of each target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from vdp.core.context_frames import Hops
from vdp.core.rng import BatchRng
from vdp.core.tasks import Task
from vdp.diffusion.objective import Objective
from vdp.diffusion.process import Schedule, add_noise, min_snr_weight, predict_x0_eps, target
from vdp.diffusion.protocols import Denoiser
from vdp.diffusion.scheduled_sampling import ScheduledSampling, replace_newest_frames

ContextT = TypeVar("ContextT")

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of noise in a validation, as shares: sigma / (alpha + sigma)
HALVINGS = 20  # of the times between which one is looked for: it is found to a millionth


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Move uniform times towards 1 for shift > 1 (Esser et al. 2024, arXiv:2403.03206, equation 23)."""
    return shift * t / (1 + (shift - 1) * t)


def diffusion_loss(
    denoiser: Denoiser[ContextT],
    hops: Hops,
    objective: Objective,
    min_snr_gamma: float | None,
    t: Tensor,
    noise: Tensor,
    level: Tensor,
    context_noise: Tensor,
    dropped: Tensor,
) -> Tensor:
    """Mean squared error of the network's output, with R noise draws sharing one pass over the context.

    Args:
        denoiser: the network.
        hops: what is known and what is to be predicted.
        objective: the process, and what it noises.
        min_snr_gamma: clamp of the signal-to-noise weight (arXiv:2303.09556); None: all times weigh alike.
        t: diffusion times, (B, N*R).
        noise: standard normal, (B, C, N*R, h, w); the draws of a target stand side by side.
        level: standard deviation of the noise on each known frame, (B, K), which the network is told.
        context_noise: standard normal, the shape of `hops.known`.
        dropped: (B,) bool, True where the pictures of the known frames are withheld from the network.

    Returns:
        A scalar.
    """
    seen = replace(hops, known=hops.known + level[:, None, :, None, None] * context_noise)
    x0, _, output = denoised(denoiser, seen, objective, t, noise, level, dropped)
    error = (output - target(x0, noise, t, objective.process)).square()
    if min_snr_gamma is None:
        return error.mean()
    return (error.mean(dim=(1, 3, 4)) * min_snr_weight(t, objective.process, min_snr_gamma)).mean()


def denoised(
    denoiser: Denoiser[ContextT],
    hops: Hops,
    objective: Objective,
    t: Tensor,
    noise: Tensor,
    level: Tensor,
    dropped: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """What is noised, (B, C, N*R, h, w), what the network sees of it and what it gives, all of that shape.

    Args:
        hops: the known frames as the network sees them, with noise of `level` on them.
        denoiser, objective, t, noise, level, dropped: as of `diffusion_loss`.
    """
    base = objective.base(hops.known, hops.index, hops.target_index)
    draws = t.shape[1] // hops.target_index.shape[1]
    x0 = objective.to_data(hops.target, base).repeat_interleave(draws, dim=2)
    context = denoiser.context(hops.known, hops.index, level, dropped, hops.target_index)
    xt = add_noise(x0, noise, t, objective.process.schedule)
    return x0, xt, denoiser(xt, t, context)


@dataclass(frozen=True)
class HopLoss:
    """How a training step draws its times, its noise and what it makes of the known frames.

    A loss of `vdp.training.trainer`: all batch_rng is that with which it is called.
    """

    objectives: Mapping[Task, Objective]  # what is noised, of each task
    min_snr_gamma: float | None
    time_shift: float  # above 1: more training at high noise
    draws: int  # noise draws of each target
    context_noise: float  # largest standard deviation of noise on known frames; half of the clips have none
    context_dropout: float  # share of clips without pictures of known frames
    scheduled_sampling: ScheduledSampling

    def __call__(self, denoiser: Denoiser[ContextT], hops: Hops, batch_rng: BatchRng) -> dict[str, Tensor]:
        """The loss of a batch of hops, or of a part of one.

        Args:
            denoiser: the network.
            hops: what is known and what is to be predicted.
            batch_rng: random numbers of the hops, on their device.

        Returns:
            'loss', a scalar.
        """
        objective = self.objectives[hops.task]
        batch, channels, targets, height, width = hops.target.shape
        t = batch_rng.uniform(batch, targets * self.draws)
        if denoiser.joint:  # frames that are made together are at one time
            t = t[:, : self.draws].repeat(1, targets)
        t = shift_time(t, self.time_shift)
        level = self.context_noise * batch_rng.uniform(batch, 1) * (batch_rng.uniform(batch, 1) < 0.5)
        noise = batch_rng.normal(batch, channels, targets * self.draws, height, width)
        context_noise = batch_rng.normal(*hops.known.shape)
        dropped = batch_rng.uniform(batch) < self.context_dropout
        level = level * ~dropped[:, None]  # noise that the network cannot see would only blur what it learns
        share = (
            self.scheduled_sampling.share if hops.task == "predict" else 0.0
        )  # the others know no made frames
        if share > 0 and batch_rng.shared() < share:
            hops = replace_newest_frames(denoiser, hops, objective, self.scheduled_sampling, batch_rng)
        loss = diffusion_loss(
            denoiser,
            hops,
            objective,
            self.min_snr_gamma,
            t,
            noise,
            level.expand(-1, hops.index.shape[1]),
            context_noise,
            dropped,
        )
        return {"loss": loss}


def times_of(levels: Sequence[float], schedule: Schedule) -> Tensor:
    """The times at which noise reaches some shares of a schedule, sigma / (alpha + sigma); float64, (L,).

    Args:
        levels: shares, 0..1.
        schedule: one whose noise grows with time.

    Returns:
        Times in [0, 1]; the last one, 1, for levels that the schedule does not reach.
    """
    wanted = torch.tensor(levels, dtype=torch.float64)
    before, after = torch.zeros_like(wanted), torch.ones_like(wanted)
    for _ in range(HALVINGS):
        middle = (before + after) / 2
        alpha, sigma = schedule(middle)
        reached = sigma / (alpha + sigma) >= wanted
        before, after = before.where(reached, middle), middle.where(reached, after)
    return after


@dataclass(frozen=True)
class LevelLoss:
    """How far a network is from the truth at fixed levels of noise, from clean known frames.

    A loss of `vdp.training.trainer` for its validations: all of them see the same levels, so that they compare,
    and the error of the clean frame also between trainings, whatever schedule, prediction or change these
    diffuse.
    """

    objective: Objective

    def __call__(self, denoiser: Denoiser[ContextT], hops: Hops, batch_rng: BatchRng) -> dict[str, Tensor]:
        """The errors of a batch of hops, or of a part of one, in one pass over the known frames.

        Args:
            denoiser: the network.
            hops: what is known and what is to be predicted.
            batch_rng: random numbers of the hops, on their device.

        Returns:
            'loss', the mean squared error of the network's output; 'x0', that of the clean frame that the
            output stands for, in units of the hops' latents, and 'x0_0.1' and so on at each of `LEVELS`.
        """
        batch, channels, targets, height, width = hops.target.shape
        process, draws = self.objective.process, len(LEVELS)
        t = times_of(LEVELS, process.schedule).to(hops.index).repeat(batch, targets)
        noise = batch_rng.normal(batch, channels, targets * draws, height, width)
        clean, seen = torch.zeros_like(hops.index), torch.zeros_like(t[:, 0], dtype=torch.bool)
        x0, xt, output = denoised(denoiser, hops, self.objective, t, noise, clean, seen)
        told, _ = predict_x0_eps(xt, output, t, process)
        miss = self.objective.scale[:, None, None, None] * (told - x0)
        errors = miss.square().unflatten(2, (targets, draws)).mean(dim=(0, 1, 2, 4, 5))
        by_level = {f"x0_{level}": error for level, error in zip(LEVELS, errors, strict=True)}
        loss = (output - target(x0, noise, t, process)).square().mean()
        return {"loss": loss, "x0": errors.mean(), **by_level}


class Parts(Protocol):
    """A batch that has hops of several tasks."""

    @property
    def parts(self) -> Sequence[Hops]: ...


@dataclass(frozen=True)
class TaskLevelLoss:
    """`LevelLoss` of each task that is learnt."""

    objectives: Mapping[Task, Objective]
    shares: Mapping[Task, float]  # of the tasks in the training, relative to their sum

    def __call__(self, denoiser: Denoiser[ContextT], batch: Parts, batch_rng: BatchRng) -> dict[str, Tensor]:
        """The errors of a batch of each task.

        Returns:
            'loss', the mean over the tasks by their shares; what else `LevelLoss` gives, of `predict` under
            its own names and of the others behind theirs, as 'restore_x0'.
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
