"""The trainer of the pipeline for networks, losses, datasets and optimizers of the user's own."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vdp.api.datasets import FirstBatches, IterableBatches, Samples, as_batches
from vdp.api.params import params
from vdp.core.errors import UserError
from vdp.launch.params import EngineParams
from vdp.training.dataloader import Batch
from vdp.training.definition import Logger, Loss, Network, Training, ValBatch
from vdp.training.engine import launch
from vdp.training.params import FitParams, TrainDenoiserParams
from vdp.training.trainer import fit
from vdp.training.validation import VALIDATION_BATCHES, VALIDATION_SEED, VALIDATION_SIZE


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

    optimizer: Optimizer | None = None  # of the network's weights; None: the one of the training's params
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
            UserError: if the data or the optimizer do not fit, or gradients are not finite.
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
            if not isinstance(train, Sized):
                raise UserError(f"epochs={chosen.epochs}: expected data with a length; set steps instead")
            size = batches.batch_size
            samples = size * len(train) if isinstance(batches, IterableBatches) else len(train)
            chosen = chosen.model_copy(update={"batch_size": size}).in_steps(samples)
        return self.run(Training("train", network, loss, batches, loss, val_batches), chosen)

    def run(self, training: Training[Network, Batch, ValBatch], steps: FitParams) -> Network:
        """Run a training with this optimizer; see `fit`."""
        if self.optimizer is not None:
            _check_weights(self.optimizer, training.network)
        fabric = launch(self._engine())
        own = replace(training, optimizer=self.optimizer, scheduler=self.scheduler)
        return fit(own, steps, self._engine(), self.seed, self.logger, fabric, checkpoints=None).network

    def _engine(self) -> EngineParams:
        return params(EngineParams) if self.engine is None else self.engine


def _check_weights(optimizer: Optimizer, network: nn.Module) -> None:
    """Raise a UserError if the optimizer has weights of another network."""
    own = {id(weight) for weight in network.parameters()}
    if any(id(weight) not in own for group in optimizer.param_groups for weight in group["params"]):
        raise UserError(
            f"optimizer: has weights that are not of this {type(network).__name__}; build it with "
            "network.parameters()"
        )
