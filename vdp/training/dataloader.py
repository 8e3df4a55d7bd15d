"""Batches in the order of the steps, prefetched by worker processes.

A batch depends on the seed and the number of its step only, not on the number of workers.
"""

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vdp.core.errors import UserError
from vdp.training.seeds import VAL_BATCH_STREAM, step_rng


class Movable(Protocol):
    """Protocol of a batch on the CPU, such as a tensor."""

    def to(self, device: torch.device) -> Self: ...

    def pin_memory(self) -> Self: ...

    def share_memory_(self) -> Self: ...


Batch = TypeVar("Batch", bound=Movable)
BatchT_co = TypeVar("BatchT_co", bound=Movable, covariant=True)
StepRows = tuple[int, range]  # a step and some rows of its batch


class Batches(Protocol[BatchT_co]):
    """The batches of a training by step."""

    @property
    def batch_size(self) -> int: ...

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> BatchT_co:
        """Return some rows of a batch on the CPU; the draws from `rng` do not depend on `rows`."""

    def names(self, step: int) -> list[str]:
        """Return the names of the clips in a batch, for messages."""


def first_batches(batches: Batches[Batch], seed: int, count: int = 4) -> list[Batch]:
    """Return a few whole batches on the CPU, drawn with other random numbers than in the training."""
    rows = range(batches.batch_size)
    return [batches(step, step_rng(seed, step, VAL_BATCH_STREAM), rows) for step in range(count)]


class BatchRows:
    """The rows of each batch that a process computes, in order of the steps.

    A batch is split into `processes * accumulate` equal parts; process r has those from `r * accumulate` on.

    Raises:
        UserError: if the batch of `section` cannot be split into equal parts.
    """

    def __init__(
        self, section: str, steps: range, batch_size: int, accumulate: int, rank: int, processes: int
    ) -> None:
        parts = accumulate * processes
        if batch_size % parts:
            raise UserError(
                f"{section}.batch_size={batch_size}: expected a multiple of {parts}, accumulate={accumulate} "
                f"x {processes} processes; set it to {-(-batch_size // parts) * parts}"
            )
        self.steps, self.accumulate = steps, accumulate
        self.size = batch_size // parts  # samples of a part
        self.first = rank * accumulate * self.size

    def part(self, number: int) -> range:
        """Rows of one of the parts of this process."""
        start = self.first + number * self.size
        return range(start, start + self.size)

    def __len__(self) -> int:
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[StepRows]:
        for step in self.steps:
            for number in range(self.accumulate):
                yield step, self.part(number)


@contextmanager
def prefetch_batches(
    batches: Batches[Batch], seed: int, rows: BatchRows, num_workers: int, pin_memory: bool
) -> Iterator[Iterator[Batch]]:
    """Yield an iterator over the parts of batches in `rows`; the worker processes end with the block.

    With workers, `batches` is pickled, and each worker reads two parts ahead.

    Raises:
        ValueError, OSError: from `batches`, in any process.
        UserError: if a worker process was killed or shared memory is full.
    """
    if num_workers == 0:
        yield (batches(step, step_rng(seed, step), part) for step, part in rows)
        return
    # imported here: a worker needs no Fabric, whose import takes seconds
    from vdp.training.compat import shutdown_workers, start_workers

    # spawn: a fork copies CUDA's state and OpenMP's locks, and may hang
    loader = DataLoader(
        _PartDataset(batches, seed),
        batch_size=None,
        sampler=rows,
        num_workers=num_workers,
        multiprocessing_context="spawn",
        pin_memory=pin_memory,
        worker_init_fn=_ignore_stop_signals,
        generator=torch.Generator(),  # else the loader draws from the global one
    )
    received = start_workers(loader)
    try:
        yield _raise_failures(received, len(rows))
    finally:
        shutdown_workers(received)


@dataclass(frozen=True)
class _Failure:
    """A user error in a worker, returned, as the loader would add a traceback to the message."""

    error: ValueError | OSError


def _ignore_stop_signals(worker: int) -> None:
    """Leave signals to the main process, which ends its workers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class _PartDataset(Dataset[Batch | _Failure], Generic[Batch]):
    def __init__(self, batches: Batches[Batch], seed: int) -> None:
        self.batches, self.seed = batches, seed

    def __getitem__(self, step_rows: StepRows) -> Batch | _Failure:
        step, rows = step_rows
        try:
            batch = self.batches(step, step_rng(self.seed, step), rows)
        except (ValueError, OSError) as error:
            error.add_note(traceback.format_exc())
            return _Failure(error)
        try:
            return batch.share_memory_()  # the loader would do so later, where a failure hangs
        except RuntimeError as error:
            return _Failure(_prefetch_error(str(error)))


def _prefetch_error(reason: str) -> UserError:
    return UserError(
        f"reading batches in workers failed ({' '.join(reason.split()).rstrip('.')}): lower num_workers or "
        "batch_size, or increase the memory (in a container also the shared memory, docker run --shm-size)"
    )


def _raise_failures(received: Iterator[Batch | _Failure], count: int) -> Iterator[Batch]:
    for _ in range(count):
        try:
            batch = next(received)
        except (OSError, EOFError):  # a closed connection to a worker; errors of `batches` are failures
            raise _prefetch_error("a worker process was killed") from None
        except RuntimeError as error:
            if not str(error).startswith(("DataLoader worker", "Pin memory thread")):
                raise
            raise _prefetch_error(str(error)) from None
        if isinstance(batch, _Failure):
            raise batch.error
        yield batch
