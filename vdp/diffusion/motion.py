"""Diffusion of the motion of objects: their places and visibility in the target frames.

The base of a place is the object's last visible place, moved on over the floor with its velocity, which
friction slows down. What is diffused is the inverse hyperbolic sine of the change from the base on the floor:
changes have heavy tails, as most objects stay or slide and some are hit. Visibility is diffused as -1 or 1.
Shapes: B clips, C = vdp.core.objects.CHANNELS, K context frames, T target frames, N objects.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vdp.config.choices import MotionPrediction, MotionSchedule
from vdp.core.anchor import find_anchor
from vdp.core.collisions import roll_out
from vdp.core.context_frames import Hops
from vdp.core.ground import Ground
from vdp.core.objects import DIFFUSED, SEEN, X, Y
from vdp.core.rng import BatchRng
from vdp.diffusion.loss import LEVELS, ContextT, DenoisedHops, denoise_hops, shift_time, times_at_levels
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.process import Process, alpha_sigma, predict_x0_eps, target
from vdp.diffusion.protocols import Denoiser
from vdp.diffusion.scheduled_sampling import sample_frames
from vdp.diffusion.schedules import make_process

TAIL = 0.1  # change of a place, in sizes of an object, from which on the logarithm rules
NUM_TIMESTEPS = 1000  # noise levels
LOW_NOISE = 0.05  # squared noise under which an error in x0 weighs no more
UNROLL_STEPS = 2  # sampling steps of a context frame that the network predicts
MIN_GIVEN = 2  # context frames that are not predicted: a velocity needs two
MAX_ARGUMENT = 7.0  # bounds sinh of a sample that has left the data: 55 sizes


def motion_process(schedule: MotionSchedule, prediction: MotionPrediction) -> Process:
    """Build the diffusion process that section `motion` names."""
    params = DiffusionParams(
        schedule=schedule,
        prediction=prediction,
        num_timesteps=NUM_TIMESTEPS,
        beta_start=1e-4,  # not of these schedules
        beta_end=0.02,
        zero_terminal_snr=False,
        min_snr_gamma=None,
        time_shift=1.0,
        residual=True,
        base="nearest",
    )
    return make_process(params)


@dataclass(frozen=True)
class MotionObjective:
    """The process, and the mapping between states of objects and its data; implements `DiffusedData`."""

    process: Process
    ground: Ground
    scale: Tensor  # root mean square of the diffused changes across and along the floor, (2,)

    def channels(self, frame_channels: int) -> int:
        """Places and visibility are diffused; the other features are those of the base."""
        return DIFFUSED

    def base(self, known: Tensor, index: Tensor, target_index: Tensor) -> Tensor:
        """Move the last visible states on: (B, C, K, 1, N), (B, K), (B, T) -> (B, C, T, 1, N).

        Target frames follow the last context frame at whole numbers of frames.
        """
        found, last = find_anchor(known, index, self.ground), index.amax(dim=1, keepdim=True)
        frames = found.frame[:, :, None].expand(-1, -1, target_index.shape[1], -1).clone()
        ahead = (target_index - last).round().long()
        rolled = roll_out(found, last, int(ahead.max()), self.ground)
        floor = rolled.gather(2, (ahead - 1)[:, None, :, None].expand(-1, 2, -1, rolled.shape[3]))
        frames[:, X], frames[:, Y] = self.ground.to_frame(floor[:, 0], floor[:, 1])
        return frames[:, :, :, None]

    def to_data(self, frames: Tensor, base: Tensor) -> Tensor:
        """Convert states to clean data, (B, C, T, 1, N) -> (B, DIFFUSED, T, 1, N)."""
        change = torch.asinh((self._floor(frames) - self._floor(base)) / TAIL) / self._column()
        return torch.cat([change, 2 * frames[:, SEEN : SEEN + 1] - 1], dim=1)

    def to_frames(self, x0: Tensor, base: Tensor) -> Tensor:
        """Invert `to_data`; the other features are those of the base. Visibility is about 0 to 1."""
        change = TAIL * torch.sinh((x0[:, :2] * self._column()).clamp(-MAX_ARGUMENT, MAX_ARGUMENT))
        across, along = (self._floor(base) + change).unbind(1)
        frames = base.clone()
        frames[:, X], frames[:, Y] = self.ground.to_frame(across, along)
        frames[:, SEEN] = (x0[:, 2] + 1) / 2
        return frames

    def _floor(self, frames: Tensor) -> Tensor:
        return torch.stack(self.ground.to_floor(frames[:, X], frames[:, Y]), dim=1)

    def _column(self) -> Tensor:
        return self.scale[:, None, None, None]


def motion_scale(hops: Hops, process: Process, ground: Ground) -> Tensor:
    """Compute the root mean square of the diffused changes of places, (2,); ValueError if nothing moves."""
    raw = MotionObjective(process, ground, torch.ones(2, device=hops.known.device))
    change = raw.to_data(hops.target, raw.base(hops.known, hops.index, hops.target_index))[:, :2]
    weight = visible_weight(hops)[:, None]
    scale = (change.square() * weight).sum(dim=(0, 2, 3, 4)).div(weight.sum()).sqrt()
    if not bool((scale > 0).all()):
        raise ValueError("tracks: no object moves; expected clips with motion")
    return scale


def visible_weight(hops: Hops) -> Tensor:
    """1 where an object of the context is visible in the target frame, else 0, (B, T, 1, N)."""
    present = (hops.known[:, SEEN] > 0.5).any(dim=1, keepdim=True)
    return ((hops.target[:, SEEN] > 0.5) & present).to(hops.target)


@dataclass(frozen=True)
class MotionLoss:
    """Loss of hops of objects; implements the loss protocol of `vdp.training.trainer`.

    Only objects that are visible in the context count, and places only where the object is visible. It is the
    mean over clips of the mean in each, so that the parts of a batch add up to the loss of the whole.
    """

    objective: MotionObjective
    time_shift: float
    draws: int  # noise draws per hop, sharing one pass over the context
    seen_weight: float  # of visibility beside each coordinate
    unroll: int = 0  # max newest context frames that the network predicts itself, as in a rollout
    hop_frames: int = 1  # frames of a hop of that rollout

    def __call__(self, denoiser: Denoiser[ContextT], hops: Hops, batch_rng: BatchRng) -> dict[str, Tensor]:
        """Return 'loss', 'place' and 'seen', scalars."""
        batch, _, targets, _, objects = hops.target.shape
        if self.unroll > 0:
            hops = self._unrolled(denoiser, hops, batch_rng)
        t = shift_time(batch_rng.uniform(batch, self.draws), self.time_shift).repeat(1, targets)
        noise = batch_rng.normal(batch, DIFFUSED, targets * self.draws, 1, objects)
        denoised = self._denoise(denoiser, hops, t, noise)
        process = self.objective.process
        error = (denoised.output - target(denoised.x0, noise, t, process)).square()
        if process.prediction == "x0":  # as the other predictions weigh the error in x0: more at low noise
            _, sigma = alpha_sigma(t, process.schedule)
            error = error / (sigma.square() + LOW_NOISE)
        return self._losses(error, hops)

    def _unrolled(self, denoiser: Denoiser[ContextT], hops: Hops, batch_rng: BatchRng) -> Hops:
        """Replace the newest context frames by the network's predictions, hop by hop; without gradients."""
        frames, (batch, _, count, _, objects) = hops.known, hops.known.shape
        start = count - int(batch_rng.shared() * (min(self.unroll, count - MIN_GIVEN) + 1))
        for first in range(start, count, self.hop_frames):
            hop = slice(first, min(first + self.hop_frames, count))
            noise = batch_rng.normal(batch, DIFFUSED, hop.stop - first, 1, objects)
            given = (frames[:, :, :first], hops.index[:, :first], hops.index[:, hop])
            predicted = sample_frames(denoiser, *given, self.objective, UNROLL_STEPS, noise)
            frames = torch.cat([frames[:, :, :first], predicted, frames[:, :, hop.stop :]], dim=2)
        return replace(hops, known=frames)

    def _denoise(self, denoiser: Denoiser[ContextT], hops: Hops, t: Tensor, noise: Tensor) -> DenoisedHops:
        dropped = torch.zeros(len(t), dtype=torch.bool, device=t.device)
        return denoise_hops(denoiser, hops, self.objective, t, noise, torch.zeros_like(hops.index), dropped)

    def _losses(self, error: Tensor, hops: Hops) -> dict[str, Tensor]:
        draws = error.shape[2] // hops.target.shape[2]
        visible = visible_weight(hops).repeat_interleave(draws, dim=1)[:, None]
        present = (hops.known[:, SEEN] > 0.5).any(dim=1)[:, None, None].expand_as(visible).to(error)
        place, seen = _clip_mean(error[:, :2], visible), _clip_mean(error[:, 2:], present)
        return {"loss": place + self.seen_weight * seen, "place": place, "seen": seen}


def _clip_mean(error: Tensor, weight: Tensor) -> Tensor:
    """Mean over clips of the weighted mean in each; 0 for a clip without weight, (B, C, T, 1, N) each."""
    weight = weight.expand_as(error)
    return ((error * weight).flatten(1).sum(dim=1) / weight.flatten(1).sum(dim=1).clamp(min=1)).mean()


@dataclass(frozen=True)
class MotionLevelLoss(MotionLoss):
    """Validation loss at fixed noise levels, and the distance of the most likely place from the true one."""

    def __call__(self, denoiser: Denoiser[ContextT], hops: Hops, batch_rng: BatchRng) -> dict[str, Tensor]:
        """Return the losses of `MotionLoss` and 'distance', the mean error at the last frame in heights."""
        batch, _, targets, _, objects = hops.target.shape
        process, draws = self.objective.process, len(LEVELS) + 1
        levels = torch.cat([times_at_levels(LEVELS, process.schedule), torch.ones(1, dtype=torch.float64)])
        t = levels.to(hops.index).repeat(batch, targets)
        noise = batch_rng.normal(batch, DIFFUSED, targets * draws, 1, objects)
        found = self._denoise(denoiser, hops, t, noise)
        losses = self._losses((found.output - target(found.x0, noise, t, process)).square(), hops)
        predicted, _ = predict_x0_eps(found.xt, found.output, t, process)
        base = self.objective.base(hops.known, hops.index, hops.target_index)
        frames = self.objective.to_frames(predicted[:, :, draws - 1 :: draws], base)
        distance = (frames[:, [X, Y], -1] - hops.target[:, [X, Y], -1]).norm(dim=1)
        weight = visible_weight(hops)[:, -1]
        return {**losses, "distance": (distance * weight).sum() / weight.sum().clamp(min=1)}
