"""Batches in the order of the steps, read ahead of the training by worker processes where asked.

What a step sees depends on the seed and the step's number alone: workers change when a batch is made, not
what is in it.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from vdp.params import UserError


class Movable(Protocol):
    """A batch, made on the CPU; a tensor is one."""

    def to(self, device: torch.device) -> Self: ...

    def pin_memory(self) -> Self: ...

    def share_memory_(self) -> Self: ...


Batch = TypeVar("Batch", bound=Movable)
# The batch of a step, from its number and its randomness.
BatchOf = Callable[[int, np.random.Generator], Batch]


def rng_of(seed: int, step: int, stream: int = 0) -> np.random.Generator:
    """Random generator of one step: the same whatever ran before it."""
    return np.random.default_rng([seed, stream, step])


@contextmanager
def read_ahead(
    batch_of: BatchOf[Batch], seed: int, steps: range, num_workers: int, pin: bool
) -> Iterator[Iterator[Batch]]:
    """An iterator over the batches of some steps, in order; its processes end with the block.

    Args:
        batch_of: makes a batch on the CPU; with workers it is pickled, so it has to open its files lazily.
        seed: of the run.
        steps: whose batches are wanted.
        num_workers: processes that make them, each two batches ahead; 0: this one, when a batch is asked for.
        pin: whether workers' batches are to come in page-locked memory, from which a GPU copies faster.

    Raises:
        ValueError, OSError: as `batch_of` raised it, in whichever process.
        UserError: if a worker process was killed, or the memory that processes share is full.
    """
    if num_workers == 0:
        yield (batch_of(step, rng_of(seed, step)) for step in steps)
        return
    # spawn: a fork would copy CUDA's state and OpenMP's locks, and hang on either
    loader = DataLoader(
        _Steps(batch_of, seed),
        batch_size=None,
        sampler=steps,
        num_workers=num_workers,
        multiprocessing_context="spawn",
        pin_memory=pin,
        generator=torch.Generator(),  # the loader would draw from the global one otherwise
    )
    received = iter(loader)
    assert isinstance(received, _MultiProcessingDataLoaderIter)
    try:
        yield _opened(received, len(steps))
    except RuntimeError as error:
        # a worker's death is raised wherever this process is then, not only where a batch is asked for
        if not str(error).startswith(("DataLoader worker", "Pin memory thread")):
            raise
        raise _too_much(str(error)) from None
    finally:
        # Not left to the garbage collector: for as long as a traceback knows the workers, the death of one
        # would be raised anywhere. The death of one while it is stopped does not matter any more.
        with suppress(RuntimeError):
            received._shutdown_workers()


@dataclass(frozen=True)
class _Failure:
    """A user's mistake on its way from a worker; the loader would put its traceback into its message."""

    error: ValueError | OSError


class _Steps(Dataset[Batch | _Failure], Generic[Batch]):
    """Batches by the number of their step."""

    def __init__(self, batch_of: BatchOf[Batch], seed: int) -> None:
        self.batch_of = batch_of
        self.seed = seed

    def __getitem__(self, step: int) -> Batch | _Failure:
        try:
            batch = self.batch_of(step, rng_of(self.seed, step))
        except (ValueError, OSError) as error:
            error.add_note(traceback.format_exc())
            return _Failure(error)
        try:
            return batch.share_memory_()  # the loader would do it later, where a failure is a hang
        except RuntimeError as error:
            return _Failure(_too_much(str(error)))


def _too_much(reason: str) -> UserError:
    """What a worker that was killed, or found no room for its batch, means for the user."""
    return UserError(
        f"reading batches ahead failed ({' '.join(reason.split()).rstrip('.')}): lower num_workers or "
        "batch_size, or give the machine more memory (a container: more shared memory, docker run --shm-size)"
    )


def _opened(received: Iterator[Batch | _Failure], count: int) -> Iterator[Batch]:
    """The batches, or the error that stands in the place of one, raised."""
    for _ in range(count):
        try:
            batch = next(received)
        except (OSError, EOFError):  # the connection to a worker that is gone; its own errors are failures
            raise _too_much("a process that reads them was killed") from None
        if isinstance(batch, _Failure):
            raise batch.error
        yield batch
