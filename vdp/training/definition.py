"""The definition of a training, its result and its logger."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vdp.core.rng import BatchRng
from vdp.launch.out_of_memory import MemoryParam
from vdp.training.dataloader import Batch, Batches, Movable

Network = TypeVar("Network", bound=nn.Module)
ValBatch = TypeVar("ValBatch", bound=Movable)
Loss = Callable[[Network, Batch, BatchRng], dict[str, Tensor]]  # named scalars, means over the samples
Picture = NDArray[np.uint8]  # (H, W, 3), RGB


@dataclass(frozen=True)
class Samples:
    """Outputs of a network for fixed validation samples."""

    picture: Picture
    scores: Mapping[str, float] = field(default_factory=dict)  # points of curves, equal in all processes
    film: Sequence[Picture] = ()  # frames of a short clip, of one size


class Logger(Protocol):
    """Protocol of a logger of curves, pictures and FLOPs, such as `vdp.tracking.mlflow_run.Tracker`."""

    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def picture(self, name: str, picture: Picture, step: int) -> None: ...

    def film(self, name: str, film: Sequence[Picture], step: int) -> None: ...

    def add_flops(self, flops: float) -> None: ...


@dataclass(frozen=True)
class Training(Generic[Network, Batch, ValBatch]):
    """A network with its data and losses."""

    name: str  # section of params.yaml
    network: Network  # trained in place
    loss: Loss[Network, Batch]  # 'loss' is minimised, all scalars are logged
    batches: Batches[Batch]
    val_loss: Loss[Network, ValBatch]  # 'loss' selects the best weights
    val_batches: Batches[ValBatch]  # of `vdp.training.validation.VALIDATION_SIZE` samples
    plot: Callable[[Network], Samples] | None = None  # called in every process, logged by the main one
    memory_params: Sequence[MemoryParam] = ()  # params to lower if memory is full, beside the batch size
    initial: Callable[[], Mapping[str, Tensor]] | None = None  # read weights to start from; not in a resume
    optimizer: Optimizer | None = None  # of the network's weights; None: that of the params
    scheduler: LRScheduler | None = None  # of `optimizer`, after each step; None: its learning rate stays


@dataclass(frozen=True)
class TrainingResult(Generic[Network]):
    """The averaged weights of a training."""

    network: Network  # with the weights that `keep` names, last or best, in evaluation mode
    other_weights: dict[str, dict[str, Tensor]]  # the other state dict, by name
    kept: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)  # of `keep_every`, by step
