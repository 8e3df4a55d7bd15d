"""What a validation measures: the same batches and noise whatever the run, so that runs compare."""

from collections.abc import Callable
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from vdp.core.rng import BatchRng, whole
from vdp.training.dataloader import Batch, Batches, noise_of, rng_of
from vdp.training.engine import mean_over_processes

Network = TypeVar("Network", bound=nn.Module)
Loss = Callable[[Network, Batch, BatchRng], dict[str, Tensor]]

# The seed and the sizes are those of no run.
VALIDATION_BATCHES, VALIDATION_SIZE, VALIDATION_SEED = 4, 16, 0
SHOWN = 4  # samples in a picture
# Second words of the seeds: noise must not depend on what a batch drew, nor validation on training.
BATCH_STREAM, NOISE_STREAM = 1, 3


def shown_batch(held_out: Batches[Batch], device: torch.device) -> Batch:
    """A few samples of the first batch of a validation, to draw what a network makes of them."""
    return held_out(0, rng_of(VALIDATION_SEED, 0, BATCH_STREAM), range(SHOWN)).to(device)


def validation_losses(
    trained: nn.Module, measure: Loss[Network, Batch], held_out: Batches[Batch], fabric: Fabric
) -> dict[str, float]:
    """Losses averaged over fixed batches with fixed noise, which the processes share.

    Args:
        trained: a `vdp.training.engine.Trained` in evaluation mode.
        measure: named scalars, means over the samples of a batch.
        held_out: batches to measure.
        fabric: whose processes share the batches and get the same result.
    """
    sums: dict[str, Tensor] = {}
    for first in range(0, VALIDATION_BATCHES, fabric.world_size):
        number = first + fabric.global_rank
        counts = number < VALIDATION_BATCHES  # sharded weights need all processes at each call
        number = min(number, VALIDATION_BATCHES - 1)
        rng = rng_of(VALIDATION_SEED, number, BATCH_STREAM)
        batch = held_out(number, rng, range(held_out.batch_size)).to(fabric.device)
        generator = noise_of(VALIDATION_SEED, number, NOISE_STREAM, fabric.device)
        batch_rng = whole(generator, held_out.batch_size)
        with torch.no_grad(), fabric.autocast():
            losses = trained(
                lambda network, batch=batch, batch_rng=batch_rng: measure(network, batch, batch_rng)
            )
        for name, value in losses.items():
            share = value.float() * counts / VALIDATION_BATCHES * fabric.world_size
            sums[name] = sums[name] + share if name in sums else share
    return mean_over_processes(sums, fabric)
