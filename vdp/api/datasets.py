"""Datasets of the user's own as clips on disk and as batches of a training.

A dataset is an object with a length and integer indices, such as `torch.utils.data.Dataset`, or an iterable,
such as a generator, an `IterableDataset` or a `DataLoader`.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from vdp.core.errors import UserError
from vdp.data.batches.shuffle import Shuffled
from vdp.data.sources.arrays import ArraySource, Video
from vdp.data.sources.protocols import Pace
from vdp.data.stores.clips import Clip, ClipStore, write_clips
from vdp.training.dataloader import Batches

Item = TypeVar("Item", covariant=True)
Clips: TypeAlias = Iterable[Video] | Dataset[Video]
Samples: TypeAlias = Batches[Tensor] | Iterable[Tensor] | Dataset[ArrayLike]

SHARD_MB = 256  # max size of a file


@runtime_checkable
class Indexed(Protocol[Item]):
    """A dataset with a length and integer indices."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item: ...


def store_clips(clips: Clips, folder: Path, name: str) -> ClipStore:
    """Write clips to a clip store, one at a time in memory.

    Args:
        clips: items as of `ArraySource`: frames (T, H, W, 3) in uint8, or float in [0, 1]; a tuple with class
            ids (T, H, W); or a mapping with `frames`, `masks` and `conditions`. A `DataLoader` of frames
            gives several clips at once, (B, T, H, W, 3).
        name: of the argument, for messages.

    Raises:
        UserError: if there are no clips, or one has another shape or type.
    """
    try:
        return write_clips(folder, _clips(clips, name), SHARD_MB)
    except ValueError as error:
        raise UserError(str(error)) from None


def _clips(clips: Clips, name: str) -> Iterator[Clip]:
    number = -1
    for number, video in enumerate(_unbatched(clips, name)):
        source = ArraySource([video])
        try:
            frames = list(source.frames(source.items()[0], Pace()))
        except ValueError as error:
            raise UserError(str(error).replace("videos[0]", f"{name}[{number}]")) from None
        masks = [frame.mask for frame in frames if frame.mask is not None]
        conditions = [frame.condition for frame in frames if frame.condition is not None]
        yield Clip(
            f"clip_{number:06d}",
            np.stack([frame.pixels for frame in frames]),
            np.stack(masks) if masks else None,
            np.stack(conditions) if conditions else None,
        )
    if number < 0:
        raise UserError(f"{name}: expected at least one clip, got none")


def _unbatched(clips: Clips, name: str) -> Iterator[Video]:
    """Yield the clips, those of a batch (B, T, H, W, 3) one by one."""
    for item in _iterate(clips, name):
        if isinstance(item, np.ndarray | Tensor) and item.ndim == 5:
            yield from item
        else:
            yield item


def _iterate(dataset: Iterable[Item] | Dataset[Item], name: str) -> Iterator[Item]:
    if isinstance(dataset, Indexed) and not isinstance(dataset, IterableDataset):
        return (dataset[index] for index in range(len(dataset)))
    if isinstance(dataset, Iterable):
        return iter(dataset)
    raise UserError(
        f"{name}: expected a Dataset with a length, or an iterable, got {type(dataset).__name__}; "
        "define __len__ or __iter__"
    )


def as_batches(samples: Samples, batch_size: int, seed: int, name: str) -> Batches[Tensor]:
    """Return the batches of a training.

    Args:
        samples: a Dataset of tensors or arrays, of which each epoch has every item once, shuffled; or an
            iterable of whole batches; or `Batches`.
        batch_size: of a Dataset; ignored for batches.
        name: of the argument, for messages.
    """
    if isinstance(samples, Indexed) and not isinstance(samples, IterableDataset):
        return DatasetBatches(samples, batch_size, seed, name)
    if isinstance(samples, Iterable):
        return IterableBatches(samples, name)
    if callable(samples):
        return samples
    raise UserError(
        f"{name}: expected a Dataset with a length, or an iterable of batches, got {type(samples).__name__}; "
        "define __len__ or __iter__"
    )


class DatasetBatches:
    """Batches of a dataset's items; they depend on the step only. Implements `Batches`."""

    def __init__(self, dataset: Indexed[ArrayLike], batch_size: int, seed: int, name: str) -> None:
        if len(dataset) == 0:
            raise UserError(f"{name}: expected at least one item, got none")
        self.dataset, self.batch_size, self.name = dataset, batch_size, name
        self._order = Shuffled(len(dataset), seed)

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Tensor:
        """Stack rows of the batch of a step."""
        return torch.stack([self._read(item) for item in self._items(step)[rows.start : rows.stop]])

    def names(self, step: int) -> list[str]:
        """Items in the batch of a step."""
        return [f"{self.name}[{item}]" for item in self._items(step)]

    def _read(self, item: int) -> Tensor:
        value = self.dataset[item]
        if not isinstance(value, Tensor | np.ndarray | np.generic | float | int):
            raise UserError(
                f"{self.name}[{item}]: expected a tensor or an array, got {type(value).__name__}; "
                "join its parts"
            )
        return torch.as_tensor(value)

    def _items(self, step: int) -> list[int]:
        return [self._order[step * self.batch_size + row] for row in range(self.batch_size)]


class IterableBatches:
    """Whole batches in the order of an iterable, again from its start when it ends; implements `Batches`.

    Each step takes the next batch. The first few are also read once to count the arithmetic of a step.

    Raises:
        UserError: if there are no batches, or one has another size than the first.
    """

    def __init__(self, batches: Iterable[Tensor], name: str) -> None:
        self.batches, self.name = batches, name
        self._iterator = iter(batches)
        self._latest: tuple[int | None, Tensor] = (None, self._next(again=False))  # step and its batch
        self.batch_size = len(self._latest[1])

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Tensor:
        """Return rows of the next batch, or of the same one at the same step."""
        read, batch = self._latest
        if read not in (None, step):
            batch = self._next(again=True)
            if len(batch) != self.batch_size:
                raise UserError(
                    f"{self.name}: a batch of {len(batch)} samples: expected {self.batch_size}, as the first "
                    "one has; set drop_last=True"
                )
        self._latest = step, batch
        return batch[rows.start : rows.stop]

    def names(self, step: int) -> list[str]:
        """The samples of an iterable have no names."""
        return [f"{self.name}, batch of step {step}"]

    def _next(self, again: bool) -> Tensor:
        for start_again in (False, again):
            if start_again:
                self._iterator = iter(self.batches)
            for batch in self._iterator:
                if not isinstance(batch, Tensor):
                    raise UserError(
                        f"{self.name}: expected tensors, one for each batch, got {type(batch).__name__}; "
                        "join its parts in collate_fn"
                    )
                return batch
        raise UserError(f"{self.name}: there are no more batches; pass a DataLoader")


class FirstBatches:
    """The first batches of an iterable, kept in memory, so that every validation has the same ones."""

    def __init__(self, batches: IterableBatches, count: int) -> None:
        rng, rows = np.random.default_rng(0), range(batches.batch_size)
        self._kept = [batches(step, rng, rows) for step in range(count)]
        self.batch_size, self.names = batches.batch_size, batches.names

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Tensor:
        """Return rows of a batch by its number."""
        return self._kept[step][rows.start : rows.stop]
