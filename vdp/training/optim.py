"""The optimizer, AdamW or Muon, its learning rate and gradient clipping."""

import math

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vdp.training.compat import FabricOptimizer, unscale_gradients
from vdp.training.muon import Muon
from vdp.training.params import FitParams

BETAS = (0.9, 0.99)  # the second one averages over 100 steps: short runs have few


def learning_rate(step: int, params: FitParams) -> float:
    """Return the learning rate of a step (0-based): linear warm-up, then constant or a half cosine to zero.

    Source: Loshchilov & Hutter 2017 (arXiv:1608.03983), without restarts.
    """
    rate = params.learning_rate * min(1.0, (step + 1) / max(params.warmup_steps, 1))
    if params.lr_schedule == "constant":
        return rate
    return rate * 0.5 * (1 + math.cos(math.pi * step / params.total_steps))


def make_optimizer(network: nn.Module, params: FitParams, fused: bool = True) -> torch.optim.AdamW | Muon:
    """Return the optimizer of the trained weights, with weight decay on matrices and kernels alone.

    `fused` does not go with clipped fp16 gradients of a scaler.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    matrices, others = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    rate, decay = params.learning_rate, params.weight_decay
    if params.optimizer == "muon":
        return Muon(matrices, others, rate, decay, BETAS, fused)
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=fused)


def clip_gradients(network: nn.Module, optimizer: FabricOptimizer, max_norm: float, fabric: Fabric) -> float:
    """Clip the norm of the gradient and return the norm before clipping."""
    unscale_gradients(fabric, optimizer)
    parameters = [p for p in network.parameters() if p.grad is not None]
    total = get_total_norm([p.grad for p in parameters if p.grad is not None])
    norm = float(total.full_tensor() if isinstance(total, DTensor) else total)
    if norm > max_norm:  # else the product with 1 would cost more than the norm
        clip_grads_with_norm_(parameters, max_norm, total)
    return norm
