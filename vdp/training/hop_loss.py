"""The training loss of hops and the scale of their data, from sections `diffusion` and `train_denoiser`."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from vdp.core.context_frames import Hops
from vdp.core.tasks import Task
from vdp.diffusion.loss import HopLoss
from vdp.diffusion.objective import Objective, data_scale
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.scheduled_sampling import ScheduledSampling
from vdp.training.params import TrainDenoiserParams

MOVED_SHARE = 0.65  # of the change from the nearest frame that is left after moving it, root mean square


def hop_loss(
    objectives: Mapping[Task, Objective], diffusion: DiffusionParams, params: TrainDenoiserParams
) -> HopLoss:
    """Build the loss of hops of the tasks of `objectives`."""
    return HopLoss(
        objectives=objectives,
        min_snr_gamma=diffusion.min_snr_gamma,
        time_shift=diffusion.time_shift,
        draws=params.draws,
        context_noise=params.context_noise,
        context_dropout=params.context_dropout,
        scheduled_sampling=ScheduledSampling(
            share=params.scheduled_sampling,
            frames=params.scheduled_sampling_frames,
            steps=params.scheduled_sampling_steps,
            temperature=params.scheduled_sampling_temperature,
        ),
    )


def measure_scales(samples: Mapping[Task, Sequence[Hops]], residual: bool, moved: bool) -> dict[Task, Tensor]:
    """Measure the root mean square of each task's diffused data per channel, (C,), on a few batches of hops.

    Args:
        moved: whether the denoiser moves the base.
    """
    share = MOVED_SHARE if moved and residual else 1.0
    return {task: share * data_scale(batches, residual) for task, batches in samples.items()}
