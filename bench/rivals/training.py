"""Train a network to a budget of arithmetic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vdp.config.read import read_section
from vdp.core.device import autocast
from vdp.core.errors import UserError
from vdp.core.flops import TERA, flop_counter
from vdp.launch.params import EngineParams
from vdp.training.dataloader import Batch, Batches
from vdp.training.definition import Loss, Network, Picture, Training
from vdp.training.engine import launch
from vdp.training.params import TrainDenoiserParams
from vdp.training.seeds import noise_rng, step_rng
from vdp.training.trainer import fit

FORWARD_PASSES = 3  # of a step: the gradients of activations and of weights take as much each
LOG_POINTS = 20  # points of the loss curve
WARMUP_SHARE = 10  # the warm-up is at most this part of the training


@dataclass(frozen=True)
class Budget:
    """The training of a rival."""

    tflop: float  # forward and backward passes
    seed: int
    batch_size: int
    learning_rate: float  # peak


@dataclass(frozen=True)
class Cost:
    """What a training took, and its losses."""

    parameters: int
    steps: int
    tflop: float
    losses: list[float]  # means between the points of the curve
    val_loss: float


class CurveLogger:
    """Keeps the losses of `fit`."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.val_loss = float("nan")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if "loss" in metrics:
            self.losses.append(metrics["loss"])
        self.val_loss = metrics.get("val_loss", self.val_loss)

    def picture(self, name: str, picture: Picture, step: int) -> None: ...

    def film(self, name: str, film: Sequence[Picture], step: int) -> None: ...

    def add_flops(self, flops: float) -> None: ...


def steps_of_budget(tflop: float, step_flops: float) -> int:
    """Number of steps of `step_flops` FLOPs that a budget allows; a UserError if there is none."""
    steps = int(tflop * TERA / step_flops)
    if steps < 1:
        raise UserError(f"--tflop={tflop:g}: expected at least {step_flops / TERA:.2g}, one step; raise it")
    return steps


def count_step_flops(
    network: Network, loss: Loss[Network, Batch], batches: Batches[Batch], seed: int, device: torch.device
) -> float:
    """FLOPs of a training step on a batch: thrice its forward pass.

    torch's count of a backward pass is `groups` times too high for the weights of a grouped convolution.
    """
    size = batches.batch_size
    batch = batches(0, step_rng(seed, 0), range(size)).to(device)
    with flop_counter() as counter, autocast(device), torch.no_grad():
        loss(network, batch, noise_rng(seed, 0, range(size), size, device))
    return float(FORWARD_PASSES * counter.get_total_flops())


def train(
    network: Network,
    loss: Loss[Network, Batch],
    batches: Batches[Batch],
    val_batches: Batches[Batch],
    budget: Budget,
    device: torch.device,
) -> tuple[Network, Cost]:
    """Train to a budget; what it does not name is as in section `train_denoiser` of params.yaml.

    Returns:
        The network with averaged weights, in evaluation mode.
    """
    network = network.to(device)
    step_flops = count_step_flops(network, loss, batches, budget.seed, device)
    steps = steps_of_budget(budget.tflop, step_flops)
    section = read_section(TrainDenoiserParams, "train_denoiser")
    params = section.model_copy(
        update={
            "steps": steps,
            "batch_size": budget.batch_size,
            "accumulate": 1,
            "learning_rate": budget.learning_rate,
            "warmup_steps": min(section.warmup_steps, steps // WARMUP_SHARE),
            "log_every": max(1, steps // LOG_POINTS),
            "validate_every": steps,
            "num_workers": 0,
        }
    )
    engine = read_section(EngineParams, "engine").model_copy(
        update={"devices": 1, "num_nodes": 1, "strategy": "auto"}
    )
    logger = CurveLogger()
    training = Training("train_rival", network, loss, batches, loss, val_batches)
    result = fit(training, params, engine, budget.seed, logger, launch(engine), checkpoints=None)
    parameters = sum(p.numel() for p in network.parameters())
    cost = Cost(parameters, steps, steps * step_flops / TERA, logger.losses, logger.val_loss)
    return result.network, cost
