"""The trainer of the pipeline for networks, losses, datasets and optimizers of the user's own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from vdp.api.datasets import FirstBatches, IterableBatches, Samples, as_batches
from vdp.api.params import params
from vdp.core.errors import UserError
from vdp.core.rng import BatchRng
from vdp.launch.params import EngineParams
from vdp.training.dataloader import Batch
from vdp.training.definition import Logger, Loss, Network, Training, ValBatch
from vdp.training.engine import launch
from vdp.training.params import FitParams, TrainDenoiserParams
from vdp.training.trainer import fit
from vdp.training.validation import VALIDATION_BATCHES, VALIDATION_SEED, VALIDATION_SIZE

MAX_SEED = 2**31 - 1


@dataclass
class Curve:
    """A logger that keeps the curves of a training in memory; implements `Logger`."""

    points: list[tuple[int, dict[str, float]]] = field(default_factory=list)  # steps done, values by name

    def __getitem__(self, name: str) -> list[tuple[int, float]]:
        """Steps and values of one curve, such as 'loss', 'val_loss' or 'learning_rate'."""
        return [(step, point[name]) for step, point in self.points if name in point]

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Keep a point."""
        self.points.append((step, dict(metrics)))

    def picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Ignore a picture of samples."""

    def film(self, name: str, film: Sequence[NDArray[np.uint8]], step: int) -> None:
        """Ignore a clip of samples."""

    def add_flops(self, flops: float) -> None:
        """Keep the arithmetic of the whole training, FLOPs."""
        self.points.append((0, {"flops": flops}))


@dataclass(frozen=True)
class Trainer:
    """Trains one network: averaged weights, precision and devices, validation, gradient clipping.

    Raises:
        UserError: if the scheduler has no optimizer or that of another, or the optimizer requires a closure.
    """

    optimizer: Optimizer | None = None  # of some or all weights, the others are frozen; None: of the params
    scheduler: LRScheduler | None = None  # stepped after each step, ReduceLROnPlateau after each validation
    logger: Logger = field(default_factory=Curve)  # of the curves
    engine: EngineParams | None = None  # precision and devices; None: section `engine`
    seed: int = 0  # of the order of the data and of all noise

    def __post_init__(self) -> None:
        if self.scheduler is not None and self.scheduler.optimizer is not self.optimizer:
            raise UserError(
                "scheduler: expected one of the optimizer; pass the optimizer that it was built with"
            )
        if isinstance(self.optimizer, LBFGS):
            raise UserError("optimizer=LBFGS: expected one without a closure, such as AdamW or SGD")
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"seed={self.seed}: expected an integer 0..{MAX_SEED}")

    def fit(
        self,
        network: Network,
        loss: Loss[Network, Tensor],
        train: Samples,
        val: Samples,
        training: FitParams | None = None,
    ) -> Network:
        """Train any network with any loss.

        Args:
            network: trained in place.
            loss: function of the network, a batch and its random numbers (`BatchRng`) that returns named
                scalars, means over the samples; 'loss' is minimised, and on `val` selects the best weights.
            train: a Dataset of tensors or arrays, of which batches of `training.batch_size` are stacked; an
                iterable of whole batches, such as a DataLoader; or `Batches`.
            val: the same, to validate on.
            training: steps and the like; None for the values of section `train_denoiser`.

        Returns:
            A copy of the network with the averaged (EMA) weights, in evaluation mode.

        Raises:
            UserError: if the data, the loss or the optimizer do not fit, or gradients are not finite.
        """
        chosen = training or params(TrainDenoiserParams)
        batches = as_batches(train, chosen.batch_size, self.seed, "train")
        val_batches = as_batches(val, VALIDATION_SIZE, VALIDATION_SEED, "val")
        if isinstance(val_batches, IterableBatches):
            val_batches = FirstBatches(val_batches, VALIDATION_BATCHES)
        if isinstance(batches, IterableBatches) and chosen.num_workers:
            raise UserError(
                f"num_workers={chosen.num_workers}: expected 0 with an iterable of batches; give the "
                "workers to the DataLoader"
            )
        if chosen.epochs is not None:
            length = _length(train)
            if length is None:
                raise UserError(f"epochs={chosen.epochs}: expected data with a length; set steps instead")
            size = batches.batch_size
            samples = size * length if isinstance(batches, IterableBatches) else length
            chosen = chosen.model_copy(update={"batch_size": size}).in_steps(samples)
        checked = _checked(loss)
        return self.run(Training("train", network, checked, batches, checked, val_batches), chosen)

    def launch(self) -> Fabric:
        """Launch the processes of the engine, unless they run; `device` is the one of this process."""
        return launch(self._engine())

    def run(self, training: Training[Network, Batch, ValBatch], steps: FitParams) -> Network:
        """Run a training with this optimizer; see `fit`."""
        engine = self._engine()
        _check_unused(steps)
        _check_length(self.scheduler, steps.total_steps)
        if self.optimizer is not None and engine.strategy == "fsdp":
            raise UserError(
                "engine.strategy=fsdp: expected ddp with an optimizer of your own, as FSDP replaces the "
                "weights that it has; set strategy to ddp, or leave the optimizer to the params"
            )
        own = replace(training, optimizer=self.optimizer, scheduler=self.scheduler)
        with _frozen_others(self.optimizer, training.network) as frozen:
            fabric = self.launch()
            trained = fit(own, steps, engine, self.seed, self.logger, fabric, checkpoints=None).network
        for name, weight in trained.named_parameters():
            weight.requires_grad_(weight.requires_grad or name in frozen)
        return trained

    def _engine(self) -> EngineParams:
        return params(EngineParams) if self.engine is None else self.engine


@contextmanager
def _frozen_others(optimizer: Optimizer | None, network: nn.Module) -> Iterator[set[str]]:
    """Freeze the weights that an optimizer lacks, whose gradients it does not clear; yield their names.

    Raises:
        UserError: if the optimizer has weights of another network.
    """
    if optimizer is None:
        yield set()
        return
    _check_weights(optimizer, network)
    own = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    others = {name: weight for name, weight in network.named_parameters() if id(weight) not in own}
    frozen = {name for name, weight in others.items() if weight.requires_grad}
    for weight in others.values():
        weight.requires_grad_(False).grad = None
    try:
        yield frozen
    finally:
        for name in frozen:
            others[name].requires_grad_(True)


def _length(data: object) -> int | None:
    """Return the length of data; None without, as of a DataLoader of an IterableDataset."""
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        return None


def _checked(loss: Loss[Network, Tensor]) -> Loss[Network, Tensor]:
    """Return a loss of which the result is checked at each call."""

    def checked(network: Network, batch: Tensor, rng: BatchRng) -> dict[str, Tensor]:
        losses = loss(network, batch, rng)
        named = isinstance(losses, Mapping)
        if not named or "loss" not in losses or any(not _is_scalar(value) for value in losses.values()):
            got = {name: _described(value) for name, value in losses.items()} if named else _described(losses)
            raise UserError(f"loss: expected named scalar tensors, with one named 'loss', got {got}")
        return dict(losses)

    return checked


def _is_scalar(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


def _described(value: object) -> str:
    return f"Tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _check_unused(steps: FitParams) -> None:
    """Raise a UserError for params that only the stages of the pipeline use."""
    if steps.init_from is not None:
        raise UserError(
            f"init_from={steps.init_from}: expected null in vdp.parts; load the weights into the network "
            "before, by load_state_dict or vdp.load"
        )
    if steps.keep_every is not None:
        raise UserError(
            f"keep_every={steps.keep_every}: expected null in vdp.parts, which returns one network; set keep "
            "to best, or train again from the network that is returned"
        )


def _check_length(scheduler: LRScheduler | None, steps: int) -> None:
    """Raise a UserError if a scheduler ends before the training."""
    if isinstance(scheduler, OneCycleLR) and (left := scheduler.total_steps - scheduler.last_epoch) < steps:
        raise UserError(
            f"scheduler: {left} steps are left of OneCycleLR, expected {steps}, those of the training; build "
            f"a new one with total_steps={steps}"
        )


def _check_weights(optimizer: Optimizer, network: nn.Module) -> None:
    """Raise a UserError if the optimizer has weights of another network."""
    own = {id(weight) for weight in network.parameters()}
    if any(id(weight) not in own for group in optimizer.param_groups for weight in group["params"]):
        raise UserError(
            f"optimizer: has weights that are not of this {type(network).__name__}; build it with "
            "network.parameters()"
        )
