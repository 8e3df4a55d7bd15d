"""The one training loop, of all networks: AdamW, warm-up and cosine, averaged weights, validation.

A loss is a function of the network, a batch and a random generator. What a step sees depends on the seed and
the step's number alone, so that equal runs are equal, whoever reads the batches, and a run can be taken up
anywhere.
"""

import math
import resource
import sys
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from vdp.device import autocast
from vdp.params import UserError
from vdp.training.params import FitParams
from vdp.training.read_ahead import Batch, BatchOf, read_ahead, rng_of

Network = TypeVar("Network", bound=nn.Module)
Loss = Callable[[Network, Batch, torch.Generator], dict[str, Tensor]]

Weights = tuple[Tensor, ...] | list[Tensor]

COST_STEPS = 10  # steps to time before the cost of the whole training is told
WARM_STEPS = 3  # steps that are not timed: the first ones allocate and choose kernels
VALIDATION_BATCHES = 4  # fixed batches, so that validations compare
# Second words of the seeds: noise must not depend on what a batch drew, nor validation on training.
VALIDATION_STREAM, NOISE_STREAM, VALIDATION_NOISE_STREAM = 1, 2, 3


class Log(Protocol):
    """Where curves go; a tracker of `vdp.tracking` is one."""

    def log(self, metrics: dict[str, float], step: int) -> None: ...


def noise_of(seed: int, step: int, stream: int, device: torch.device) -> torch.Generator:
    """Torch generator of one step: the same whatever ran before it."""
    return torch.Generator(device).manual_seed(int(rng_of(seed, step, stream).integers(2**63)))


def learning_rate(step: int, params: FitParams) -> float:
    """Learning rate of a step (0-based): linear warm-up, then a half cosine to zero (arXiv:1608.03983)."""
    warm = min(1.0, (step + 1) / max(params.warmup_steps, 1))
    return params.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / params.steps))


def averaged_decay(step: int, decay: float) -> float:
    """Decay of the averaged weights with a warm-up: a short run must not be an average of its first guess."""
    return min(decay, (1 + step) / (10 + step))


def make_average(network: nn.Module, decay: float) -> AveragedModel:
    """A running average of the network's weights, by `averaged_decay`."""

    def average(old: Weights, new: Weights, seen: Tensor | int) -> None:
        if old[0].is_floating_point():
            get_ema_multi_avg_fn(averaged_decay(int(seen), decay))(old, new, seen)
        else:  # counters of batch norm
            for mine, theirs in zip(old, new, strict=True):
                mine.copy_(theirs)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def make_optimizer(network: nn.Module, params: FitParams) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels, none on biases and norms."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=params.learning_rate, betas=(0.9, 0.99), fused=True)


def fit(
    network: Network,
    loss: Loss[Network, Batch],
    batch_of: BatchOf[Batch],
    params: FitParams,
    seed: int,
    log: Log,
    device: torch.device,
    validate: Callable[[Network], dict[str, float]],
) -> Network:
    """Train a network and return its averaged weights, in evaluation mode.

    Args:
        network: trained in place, on `device`.
        loss: gives named scalars; 'loss' is minimised, all are logged.
        batch_of: the batch of a step, on the CPU, with all its randomness from the generator it is given;
            picklable where `params.num_workers` is above 0.
        params: the section that rules this training.
        seed: of the run.
        log: where curves go.
        device: where the network is.
        validate: named scalars of the averaged network, for the log.

    Raises:
        UserError: when the loss is no longer finite, naming the step, or a worker process was killed.
        ValueError, OSError: as `batch_of` raised it.
    """
    average = make_average(network, params.ema_decay)
    averaged = average.module
    assert isinstance(averaged, type(network))  # a copy of it
    optimizer = make_optimizer(network, params)
    network.train()
    sums: dict[str, float] = {}
    started = time.perf_counter()
    steps = range(params.steps)
    with (
        read_ahead(batch_of, seed, steps, params.num_workers, pin=device.type == "cuda") as batches,
        tqdm(total=params.steps, desc=log_name(params), unit="step", file=sys.stderr, mininterval=2) as bar,
    ):
        for step, batch in zip(steps, batches, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, params)
            with autocast(device):
                losses = loss(network, batch.to(device), noise_of(seed, step, NOISE_STREAM, device))
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), params.grad_clip)
            if not torch.isfinite(norm):
                raise UserError(
                    f"training: the gradient is not finite at step {step + 1}; "
                    f"lower learning_rate={params.learning_rate} or grad_clip={params.grad_clip}"
                )
            optimizer.step()
            average.update_parameters(network)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.item()
            bar.update()
            if step + 1 == WARM_STEPS:
                started = time.perf_counter()
            if step + 1 == WARM_STEPS + COST_STEPS:
                bar.write(cost(network, params, time.perf_counter() - started), file=sys.stderr)
            if (step + 1) % params.log_every == 0:
                means = {name: total / params.log_every for name, total in sums.items()}
                bar.set_postfix_str(f"loss {means['loss']:.4f}")
                log.log({**means, "learning_rate": learning_rate(step, params)}, step + 1)
                sums.clear()
            if (step + 1) % params.validate_every == 0 or step + 1 == params.steps:
                average.eval()
                with torch.no_grad():
                    log.log({f"val_{name}": v for name, v in validate(averaged).items()}, step + 1)
    return averaged.eval()


def training_seed(seed: int) -> None:
    """Seed the initial weights: the one place where torch's global generator is used."""
    torch.manual_seed(seed)


def fixed_batches(batch_of: BatchOf[Batch], seed: int) -> list[Batch]:
    """The same few batches at every validation, on the CPU."""
    return [batch_of(i, rng_of(seed, i, VALIDATION_STREAM)) for i in range(VALIDATION_BATCHES)]


def mean_losses(
    network: Network, loss: Loss[Network, Batch], batches: list[Batch], seed: int, device: torch.device
) -> dict[str, float]:
    """Losses of a network averaged over fixed batches with fixed noise, so that validations compare."""
    sums: dict[str, float] = {}
    for i, batch in enumerate(batches):
        with autocast(device):
            losses = loss(network, batch.to(device), noise_of(seed, i, VALIDATION_NOISE_STREAM, device))
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value.item() / len(batches)
    return sums


def log_name(params: FitParams) -> str:
    """Name of a training for its progress bar, from the class of its section."""
    return type(params).__name__.removesuffix("Params")


def cost(network: nn.Module, params: FitParams, seconds: float) -> str:
    """One line that states what a training takes, from the time of its first warm steps."""
    per_step = seconds / COST_STEPS
    count = sum(p.numel() for p in network.parameters())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated() / 2**30
    return (
        f"{log_name(params)}: {count / 1e6:.2f} M parameters, {params.steps} steps of {params.batch_size}, "
        f"{params.batch_size / per_step:.0f} samples/s, about {params.steps * per_step / 60:.1f} min, "
        f"{memory:.1f} GB"
    )
