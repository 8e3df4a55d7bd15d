"""Training batches of hops: known frames and targets; the seed and the step decide what is in a batch.

All that is random is drawn for a whole batch, of which any rows can be read alone. A batch is of one task.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vdp.core.context_frames import Hops
from vdp.core.tasks import TASKS, Task, draw_between, draw_degraded, draw_free, draw_hop
from vdp.data.batches.batch import Batch
from vdp.data.batches.shuffle import Shuffled
from vdp.data.stores.latents import LatentClips

FULL_CONTEXT = 0.85  # share of batches with all known frames; fewer in the others, so that these work too


@dataclass(frozen=True)
class HopBatch(Batch, Hops):
    """Hops that move between devices together."""


@dataclass(frozen=True)
class TaskBatches:
    """A batch of each of some tasks, which move together."""

    parts: tuple[HopBatch, ...]

    def to(self, device: torch.device) -> Self:
        """The same batches on a device."""
        return self._each(lambda part: part.to(device))

    def pin_memory(self) -> Self:
        """The same batches in page-locked memory."""
        return self._each(HopBatch.pin_memory)

    def share_memory_(self) -> Self:
        """The same batches in memory that other processes can open."""
        return self._each(HopBatch.share_memory_)

    def _each(self, change: Callable[[HopBatch], HopBatch]) -> Self:
        return type(self)(tuple(change(part) for part in self.parts))


@dataclass(frozen=True)
class HopRule:
    """Which frames hops know and which are their targets; section `train_denoiser` has them."""

    known: int  # known frames of a hop, at most
    gaps: Sequence[int]  # predict: frames from the last known one to a target; a hop draws among them
    max_hops: int  # predict: frames that the rollout may have made before a hop
    targets: int  # frames to predict from one context
    span: int  # interpolate: frames from the last known one before a gap to the first after it, at most

    def draw(
        self, task: Task, rng: np.random.Generator, frames: int, known: int
    ) -> tuple[list[int], list[int]]:
        """Positions of known frames and of targets of a hop in a clip of some frames, with so many known.

        Raises:
            ValueError: if such a hop does not fit into the clip.
        """
        if task == "interpolate":
            return draw_between(rng, frames, max(known, 2), self.span, self.targets)
        if task == "generate":
            return draw_free(rng, frames, self.targets)
        if task == "restore":
            return draw_degraded(rng, frames, known, self.targets)
        return draw_hop(rng, frames, known, self.gaps, self.max_hops, self.targets)


class HopBatches:
    """Hops of the tasks: an epoch takes every clip once, shuffled, at a random place of a random view.

    A batch has one task and one number of known frames.

    Args:
        latents: where the clips are.
        batch_size: hops of a whole batch.
        tasks: share of the batches of each task, relative to their sum.
        rule: of the hops.
        reverse: whether to play half of the hops backwards: frames from the clip's last to its first, while
            the times that the network is told still run forwards.
        seed: of the run.

    Raises:
        ValueError: if such hops do not fit into the clips, or nothing degraded was encoded for restore.
    """

    def __init__(
        self,
        latents: LatentClips,
        batch_size: int,
        tasks: Mapping[Task, float],
        rule: HopRule,
        reverse: bool,
        seed: int,
    ) -> None:
        self.tasks = tuple(task for task in TASKS if tasks.get(task, 0) > 0)
        if "restore" in self.tasks and latents.degraded == 0:
            raise ValueError(
                "train_denoiser.tasks: restore needs degraded clips, and none are encoded: set "
                "encode_latents.degraded to 1 or more"
            )
        for task in self.tasks:  # hops that do not fit into the clips fail here, at once
            rule.draw(task, np.random.default_rng(0), latents.num_frames, rule.known)
        self.latents = latents
        self.batch_size = batch_size
        self.rule = rule
        self.reverse = reverse
        self._shares = np.array([tasks[task] for task in self.tasks]) / sum(tasks[t] for t in self.tasks)
        self._seed = seed
        self._order = Shuffled(len(latents), seed)

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> HopBatch:
        """Rows of the batch of a step; `rng` is that step's own and draws all but the clips."""
        task = self._task(rng)
        most = self.rule.known
        known = most if rng.random() < FULL_CONTEXT else int(rng.integers(1, most + 1))
        frames = self.latents.num_frames
        drawn = [self.rule.draw(task, rng, frames, known) for _ in range(self.batch_size)]
        numbers = rng.integers(0, self._choices(task), self.batch_size)
        times = np.array([[*before, *after] for before, after in drawn])
        backwards = self.reverse & (rng.random(self.batch_size) < 0.5)
        played = np.where(backwards[:, None], frames - 1 - times, times)
        taken, clips = slice(rows.start, rows.stop), self._clips(step)
        count = len(drawn[0][0])
        before, after = self._read(task, clips[taken], numbers[taken].tolist(), played[taken], count)
        index = torch.from_numpy(times[taken]).float()
        return HopBatch(before, index[:, :count], after, index[:, count:], task)

    def of(self, task: Task) -> "HopBatches":
        """Batches of one of the tasks alone."""
        return HopBatches(self.latents, self.batch_size, {task: 1.0}, self.rule, self.reverse, self._seed)

    def names(self, step: int) -> list[str]:
        """The clips in the batch of a step, in words."""
        return [self.latents.name(clip) for clip in self._clips(step)]

    def _task(self, rng: np.random.Generator) -> Task:
        """The task of a batch; nothing is drawn where there is one alone."""
        if len(self.tasks) == 1:
            return self.tasks[0]
        return self.tasks[rng.choice(len(self.tasks), p=self._shares)]

    def _read(
        self, task: Task, clips: list[int], numbers: list[int], played: NDArray[np.int64], count: int
    ) -> tuple[Tensor, Tensor]:
        """The first `count` frames and the others; for restore, the first ones degraded."""
        if task != "restore":
            frames = self.latents.read(clips, numbers, played.tolist())
            return frames[:, :, :count], frames[:, :, count:]
        views = [number % self.latents.views for number in numbers]
        degraded = self.latents.read_conditions(clips, numbers, played[:, :count].tolist())
        return degraded, self.latents.read(clips, views, played[:, count:].tolist())

    def _choices(self, task: Task) -> int:
        """Views of a clip to choose among, or encodings of it degraded."""
        return self.latents.degraded if task == "restore" else self.latents.views

    def _clips(self, step: int) -> list[int]:
        """The clips of a whole batch."""
        first = step * self.batch_size
        return [self._order[place] for place in range(first, first + self.batch_size)]


class EachTask:
    """Hops of every task of `batches` at each step, so that validations measure all of them alike."""

    def __init__(self, batches: HopBatches) -> None:
        self.batch_size = batches.batch_size
        self._tasks = [batches.of(task) for task in batches.tasks]

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> TaskBatches:
        """Rows of a batch of each task."""
        return TaskBatches(tuple(batches(step, rng, rows) for batches in self._tasks))

    def names(self, step: int) -> list[str]:
        """The clips in the batches of a step, in words."""
        return self._tasks[0].names(step)
