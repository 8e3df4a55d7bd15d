"""Exponential moving average of the weights of a network."""

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vdp.training.weights import local_tensor

Weights = tuple[Tensor, ...] | list[Tensor]


def ema_decay_at(step: int, decay: float) -> float:
    """Return the decay of a step: it warms up, so that short runs forget the initial weights."""
    return min(decay, (1 + step) / (10 + step))


def make_ema(network: nn.Module, decay: float) -> AveragedModel:
    """Return a moving average of the weights and buffers of a network, by `ema_decay_at`."""

    def average(old: Weights, new: Weights, step: Tensor | int) -> None:
        old, new = [local_tensor(value) for value in old], [local_tensor(value) for value in new]
        if old[0].is_floating_point():
            get_ema_multi_avg_fn(ema_decay_at(int(step), decay))(old, new, step)
        else:  # counters of batch norm
            for averaged, latest in zip(old, new, strict=True):
                averaged.copy_(latest)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
