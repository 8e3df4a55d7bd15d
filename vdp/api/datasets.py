"""Datasets of the user's own as clips on disk and as batches of a training.

A dataset is an object with a length and integer indices, such as `torch.utils.data.Dataset`, or an iterable,
such as a generator, an `IterableDataset` or a `DataLoader`.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler, IterableDataset

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
END = object()  # of an iterator


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
    _check_whole(dataset, name)
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
    _check_whole(samples, name)
    if isinstance(samples, Indexed) and not isinstance(samples, IterableDataset):
        return DatasetBatches(samples, batch_size, seed, name)
    if isinstance(samples, Iterable):
        return IterableBatches(samples, seed, name)
    if callable(samples):
        return samples
    raise UserError(
        f"{name}: expected a Dataset with a length, or an iterable of batches, got {type(samples).__name__}; "
        "define __len__ or __iter__"
    )


def _check_whole(data: object, name: str) -> None:
    """Raise a UserError for several data sets by name, and for a share of one in each process."""
    if isinstance(data, Mapping):
        raise UserError(
            f"{name}: expected one Dataset, or an iterable, got a mapping of {', '.join(map(str, data))}; "
            "pass one of its values"
        )
    sampler = getattr(data, "sampler", None)
    if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
        raise UserError(
            f"{name}: expected all samples in every process, which computes its rows of each batch, got a "
            "DistributedSampler; leave the sampler out"
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

    Each step takes the next batch. A pass starts with torch's generator seeded by `seed` and its number, from
    which a DataLoader draws its order: it is equal in all processes, of which each takes its rows.

    Raises:
        UserError: if there are no batches, or one has another size than the first.
    """

    def __init__(self, batches: Iterable[Tensor], seed: int, name: str) -> None:
        self.batches, self.seed, self.name = batches, seed, name
        self._passes = 0
        self._batch, self._step = self._checked(self._start()), 0  # the latest batch and its step
        self.batch_size = len(self._batch)

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Tensor:
        """Return rows of the next batch at the next step, of the same batch at any other one.

        Steps are skipped only to count their arithmetic, which is that of any batch.
        """
        if step == self._step + 1:
            self._batch, self._step = self._next(), step
        return self._batch[rows.start : rows.stop]

    def names(self, step: int) -> list[str]:
        """The samples of an iterable have no names."""
        return [f"{self.name}, batch of step {step}"]

    def _next(self) -> Tensor:
        batch = next(self._iterator, END)
        batch = self._checked(self._start() if batch is END else batch)
        if len(batch) != self.batch_size:
            raise UserError(
                f"{self.name}: a batch of {len(batch)} samples: expected {self.batch_size}, as the first "
                "one has; set drop_last=True"
            )
        return batch

    def _start(self) -> object:
        """Start a pass and read its first batch."""
        seeds = np.random.default_rng([self.seed, self._passes])
        self._passes += 1
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(int(seeds.integers(2**62)))
            self._iterator = iter(self.batches)
            return next(self._iterator, END)

    def _checked(self, batch: object) -> Tensor:
        if batch is END:
            raise UserError(f"{self.name}: there are no more batches; pass a DataLoader")
        if not isinstance(batch, Tensor):
            raise UserError(
                f"{self.name}: expected tensors, one for each batch, got {type(batch).__name__}; "
                "join its parts in collate_fn"
            )
        return batch


class FirstBatches:
    """The first batches of an iterable, kept in memory, so that every validation has the same ones."""

    def __init__(self, batches: IterableBatches, count: int) -> None:
        rng, rows = np.random.default_rng(0), range(batches.batch_size)
        self._kept = [batches(step, rng, rows) for step in range(count)]
        self.batch_size, self.names = batches.batch_size, batches.names

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Tensor:
        """Return rows of a batch by its number."""
        return self._kept[step][rows.start : rows.stop]
