"""Private names of torch and Lightning Fabric that the trainings need, each with its reason."""

import signal
import threading
from collections.abc import Iterator
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

BatchT = TypeVar("BatchT")

FabricModule = _FabricModule  # returned by Fabric.setup_module; has no public name
FabricOptimizer = _FabricOptimizer  # returned by Fabric.setup_optimizers; has no public name
BatchNorm = _BatchNorm  # base class of BatchNorm1d, 2d, 3d and SyncBatchNorm; has no public name


def grad_scaler(fabric: Fabric) -> torch.amp.GradScaler | None:
    """Return the scaler of fp16 gradients: a checkpoint holds its state, and Fabric has no accessor."""
    return getattr(fabric.strategy.precision, "scaler", None)


def unscale_gradients(fabric: Fabric, optimizer: FabricOptimizer) -> None:
    """Unscale fp16 gradients; Fabric's public clip_gradients also sums their norm in another order."""
    fabric.strategy.precision.unscale_gradients(optimizer.optimizer)


def start_workers(loader: DataLoader[BatchT]) -> Iterator[BatchT]:
    """Start the workers of a DataLoader; a killed one is reported by `next` alone.

    torch also handles SIGCHLD and raises that error wherever the process is, even in handling another one.
    """
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)  # signals are handled in the main thread only
    handler = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if handler is not None:  # None: one that was not set from Python, as by a launcher, cannot be put back
        signal.signal(signal.SIGCHLD, handler)
    return batches


def shutdown_workers(batches: Iterator[object]) -> None:
    """End the workers of an iterator over a DataLoader now; torch leaves it to the garbage collector."""
    assert isinstance(batches, _MultiProcessingDataLoaderIter)
    batches._shutdown_workers()
