"""What changes weights in a step: AdamW, its learning rate, and the running average of weights."""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vdp.training.params import FitParams
from vdp.training.weights import own_part

BETAS = (0.9, 0.99)  # the second one remembers 100 steps: short runs have few

Weights = tuple[Tensor, ...] | list[Tensor]


def learning_rate(step: int, params: FitParams) -> float:
    """Learning rate of a step (0-based): a linear warm-up, then constant or a half cosine to zero.

    Source: Loshchilov & Hutter 2017 (arXiv:1608.03983), without restarts.
    """
    rate = params.learning_rate * min(1.0, (step + 1) / max(params.warmup_steps, 1))
    if params.lr_schedule == "constant":
        return rate
    return rate * 0.5 * (1 + math.cos(math.pi * step / params.steps))


def averaged_decay(step: int, decay: float) -> float:
    """Decay of the averaged weights with a warm-up: a short run must not be an average of its first guess."""
    return min(decay, (1 + step) / (10 + step))


def make_average(network: nn.Module, decay: float) -> AveragedModel:
    """A running average of the network's weights, by `averaged_decay`."""

    def average(old: Weights, new: Weights, seen: Tensor | int) -> None:
        old, new = [own_part(value) for value in old], [own_part(value) for value in new]
        if old[0].is_floating_point():
            get_ema_multi_avg_fn(averaged_decay(int(seen), decay))(old, new, seen)
        else:  # counters of batch norm
            for mine, theirs in zip(old, new, strict=True):
                mine.copy_(theirs)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def make_optimizer(network: nn.Module, params: FitParams, fused: bool = True) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels, none on biases and norms.

    Args:
        network: whose weights it changes.
        params: rates.
        fused: in one kernel; a scaler of fp16 gradients cannot be had beside that, as they are clipped.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=params.learning_rate, betas=BETAS, fused=fused)
