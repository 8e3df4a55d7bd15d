"""Batches in the order of the steps, read ahead of the training by worker processes where asked.

What a step sees depends on the seed and the step's number alone: workers change when a batch is made, not
what is in it.
"""

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from vdp.core.errors import UserError


class Movable(Protocol):
    """A batch, made on the CPU; a tensor is one."""

    def to(self, device: torch.device) -> Self: ...

    def pin_memory(self) -> Self: ...

    def share_memory_(self) -> Self: ...


Batch = TypeVar("Batch", bound=Movable)
BatchT_co = TypeVar("BatchT_co", bound=Movable, covariant=True)
Place = tuple[int, range]  # a step, and which samples of its batch


class Batches(Protocol[BatchT_co]):
    """The batches of a training; what is in them depends on the step's number and its randomness alone."""

    @property
    def batch_size(self) -> int:
        """Samples of a whole batch."""
        ...

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> BatchT_co:
        """Some samples of the batch of a step, on the CPU; `rng` draws the same whichever they are."""
        ...

    def names(self, step: int) -> list[str]:
        """Names of the clips in the batch of a step, for messages."""
        ...


def rng_of(seed: int, step: int, stream: int = 0) -> np.random.Generator:
    """Random generator of one step: the same whatever ran before it."""
    return np.random.default_rng([seed, stream, step])


def noise_of(seed: int, step: int, stream: int, device: torch.device) -> torch.Generator:
    """Torch generator of one step: the same whatever ran before it."""
    return torch.Generator(device).manual_seed(int(rng_of(seed, step, stream).integers(2**63)))


def first_batches(batches: Batches[Batch], seed: int, count: int = 4) -> list[Batch]:
    """A few whole batches, as a training with this seed would start with if it drew anew, on the CPU."""
    rows = range(batches.batch_size)
    return [batches(step, rng_of(seed, step, stream=1), rows) for step in range(count)]


class Places:
    """Which parts of which batches a process computes, in order.

    A batch is cut into `processes * accumulate` equal parts; process r has those from `r * accumulate` on.

    Args:
        steps: whose batches are wanted.
        batch_size: samples of a whole batch.
        accumulate: parts that one process computes, one after the other.
        rank: of this process.
        processes: how many there are.

    Raises:
        UserError: if the batch cannot be cut into so many.
    """

    def __init__(self, steps: range, batch_size: int, accumulate: int, rank: int, processes: int) -> None:
        parts = accumulate * processes
        if batch_size % parts:
            fits = -(-batch_size // parts) * parts
            raise UserError(
                f"batch_size={batch_size} cannot be cut into {parts} equal parts, accumulate={accumulate} "
                f"for each of {processes} processes: expected a multiple of {parts}, as {fits}"
            )
        self.steps = steps
        self.accumulate = accumulate
        self.size = batch_size // parts  # samples of a part
        self.first = rank * accumulate * self.size

    def __len__(self) -> int:
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[Place]:
        for step in self.steps:
            for part in range(self.accumulate):
                start = self.first + part * self.size
                yield step, range(start, start + self.size)


@contextmanager
def read_ahead(
    batches: Batches[Batch], seed: int, places: Places, num_workers: int, pin: bool
) -> Iterator[Iterator[Batch]]:
    """An iterator over parts of the batches of some steps, in order; its processes end with the block.

    Args:
        batches: makes a part on the CPU; with workers it is pickled, so it has to open its files lazily.
        seed: of the run.
        places: which parts of which batches are wanted.
        num_workers: processes that make them, each two batches ahead; 0: this one, when a batch is asked for.
        pin: whether workers' batches are to come in page-locked memory, from which a GPU copies faster.

    Raises:
        ValueError, OSError: as `batches` raised it, in whichever process.
        UserError: if a worker process was killed, or the memory that processes share is full.
    """
    if num_workers == 0:
        yield (batches(step, rng_of(seed, step), rows) for step, rows in places)
        return
    # spawn: a fork would copy CUDA's state and OpenMP's locks, and hang on either
    loader = DataLoader(
        _Parts(batches, seed),
        batch_size=None,
        sampler=places,
        num_workers=num_workers,
        multiprocessing_context="spawn",
        pin_memory=pin,
        worker_init_fn=_left_to_the_training,
        generator=torch.Generator(),  # the loader would draw from the global one otherwise
    )
    received = iter(loader)
    assert isinstance(received, _MultiProcessingDataLoaderIter)
    try:
        yield _opened(received, len(places))
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


def _left_to_the_training(worker: int) -> None:
    """A signal that asks all processes to stop is the training's to hear; its end ends the workers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class _Parts(Dataset[Batch | _Failure], Generic[Batch]):
    """Parts of batches by their place."""

    def __init__(self, batches: Batches[Batch], seed: int) -> None:
        self.batches = batches
        self.seed = seed

    def __getitem__(self, place: Place) -> Batch | _Failure:
        step, rows = place
        try:
            batch = self.batches(step, rng_of(self.seed, step), rows)
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
