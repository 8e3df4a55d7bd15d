"""Validation: the same batches and noise in every run, so that runs compare."""

from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from vdp.core.rng import whole_batch
from vdp.training.curves import LossCurves
from vdp.training.dataloader import Batch, Batches
from vdp.training.definition import Loss, Network, Samples, Training, ValBatch
from vdp.training.engine import mean_over_processes
from vdp.training.seeds import VAL_BATCH_STREAM, VAL_NOISE_STREAM, step_generator, step_rng
from vdp.training.state import TrainingState
from vdp.training.weights import gather_state_dict

VALIDATION_BATCHES, VALIDATION_SIZE, VALIDATION_SEED = 4, 16, 0  # independent of the params
PLOT_SAMPLES = 4


def plot_batch(val_batches: Batches[Batch], device: torch.device) -> Batch:
    """Return a few samples of the first validation batch, to plot the outputs of a network."""
    return val_batches(0, step_rng(VALIDATION_SEED, 0, VAL_BATCH_STREAM), range(PLOT_SAMPLES)).to(device)


def validate(
    training: Training[Network, Batch, ValBatch],
    state: TrainingState[Network],
    curves: LossCurves,
    fabric: Fabric,
) -> float:
    """Log the losses and samples of the averaged weights; keep the weights of the lowest loss.

    Returns the validation loss.
    """
    state.ema.eval()
    losses = validation_losses(state.ema_model, training.val_loss, training.val_batches, fabric)
    curves.log_point({f"val_{name}": value for name, value in losses.items()})
    if losses["loss"] < state.progress.best_loss:
        state.progress.best_loss = losses["loss"]
        state.best = gather_state_dict(state.ema.module)
    if training.plot is not None:
        _log_samples(training.plot, state, curves, fabric)
    return losses["loss"]


def _log_samples(
    plot: Callable[[Network], Samples], state: TrainingState[Network], curves: LossCurves, fabric: Fabric
) -> None:
    drawn: list[Samples] = []

    def append_samples(network: Network) -> dict[str, Tensor]:
        drawn.append(plot(network))
        return {}

    with torch.no_grad(), fabric.autocast():
        state.ema_model(append_samples)
    (samples,) = drawn
    if samples.scores:
        curves.log_point({f"val_{name}": value for name, value in samples.scores.items()})
    if fabric.is_global_zero:
        curves.logger.picture("samples", samples.picture, state.progress.step)
        if samples.film:
            curves.logger.film("samples", samples.film, state.progress.step)


def validation_losses(
    model: nn.Module, loss: Loss[Network, Batch], batches: Batches[Batch], fabric: Fabric
) -> dict[str, float]:
    """Average losses over fixed batches with fixed noise, split over the processes; equal in all of them.

    Args:
        model: a `vdp.training.engine.ForwardWrapper` in evaluation mode.
        loss: named scalars, means over the samples of a batch.
    """
    sums: dict[str, Tensor] = {}
    for first in range(0, VALIDATION_BATCHES, fabric.world_size):
        number = first + fabric.global_rank
        counts = number < VALIDATION_BATCHES  # sharded weights need all processes at each call
        number = min(number, VALIDATION_BATCHES - 1)
        rng = step_rng(VALIDATION_SEED, number, VAL_BATCH_STREAM)
        batch = batches(number, rng, range(batches.batch_size)).to(fabric.device)
        generator = step_generator(VALIDATION_SEED, number, VAL_NOISE_STREAM, fabric.device)
        batch_rng = whole_batch(generator, batches.batch_size)
        with torch.no_grad(), fabric.autocast():
            losses = model(lambda network, batch=batch, batch_rng=batch_rng: loss(network, batch, batch_rng))
        for name, value in losses.items():
            share = value.float() * counts / VALIDATION_BATCHES * fabric.world_size
            sums[name] = sums[name] + share if name in sums else share
    return mean_over_processes(sums, fabric)
