"""Training batches of hops: context and target frames of clips; they depend on seed and step only.

Random numbers are drawn for the whole batch, of which any rows can be read separately. A batch has one task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vdp.core.context_frames import Hops
from vdp.core.tasks import (
    GROUP_STRIDE,
    STRIDE,
    TASKS,
    Task,
    draw_generate_hop,
    draw_interpolate_hop,
    draw_predict_hop,
    draw_restore_hop,
)
from vdp.data.batches.batch import Batch
from vdp.data.batches.shuffle import Shuffled
from vdp.data.stores.latents import LatentClips

COMPOSED_SHARE = 0.9  # share of batches with composed frames; the others train the model to do without
FULL_CONTEXT = 0.85  # share of batches with all context frames; the others train the model on fewer


@dataclass(frozen=True)
class HopBatch(Batch, Hops):
    """Hops as a training batch."""


@dataclass(frozen=True)
class TaskBatches(Batch):
    """One batch per task."""

    parts: tuple[HopBatch, ...]


@dataclass(frozen=True)
class HopRule:
    """Which frames of a clip are context and targets of a hop, from section `train_denoiser`."""

    context_frames: int  # maximum number of context frames
    target_offsets: Sequence[int]  # predict: frames from the last context frame to a target
    max_hops: int  # predict: maximum number of predicted frames in the context
    targets: int  # target frames of a hop
    max_span: int  # interpolate: maximum frames from the last context frame before the targets to the next
    given_frames: int  # predict: minimum number of given context frames
    grouped: bool = False  # whether a latent frame codes several frames, but the first of a clip

    def draw(
        self, task: Task, rng: np.random.Generator, frames: int, context: int, known: int | None
    ) -> tuple[list[int], list[int]]:
        """Draw positions of `context` context frames and of targets in a clip; a ValueError if none fit.

        With `known`, the hop is one of a rollout from the first `known` frames of the clip.
        """
        if task == "interpolate":
            return draw_interpolate_hop(rng, frames, max(context, 2), self.max_span, self.targets)
        if task == "generate":
            return draw_generate_hop(rng, frames, self.targets, from_start=self.grouped)
        if task == "restore":
            return draw_restore_hop(rng, frames, context, self.targets)
        return draw_predict_hop(
            rng, frames, context, self.target_offsets, self.max_hops, self.targets, self.given_frames, known,
            GROUP_STRIDE if self.grouped else STRIDE,
        )  # fmt: skip


class HopBatches:
    """Batches of hops: an epoch has every clip once, shuffled, at a random position of a random view.

    A batch has one task and one number of context frames. With composed frames, most batches of `predict`
    are hops after the frames that these were composed of: the composed frames of the targets are context
    frames at their indices, and those of earlier hops stand for their predictions.

    Args:
        latents: the encoded clips.
        batch_size: hops of a whole batch.
        tasks: relative share of the batches of each task.
        rule: selects the frames of a hop.
        composed: whether to read composed frames, of the clips that have them.
        reverse: whether to read half of the hops backwards in time; their frame indices still ascend.

    Raises:
        ValueError: if hops do not fit into the clips, or there are no degraded clips for restore or no
            composed frames.
    """

    def __init__(
        self,
        latents: LatentClips,
        batch_size: int,
        tasks: Mapping[Task, float],
        rule: HopRule,
        composed: bool,
        reverse: bool,
        seed: int,
    ) -> None:
        self.tasks = tuple(task for task in TASKS if tasks.get(task, 0) > 0)
        if "restore" in self.tasks and latents.degraded == 0:
            raise ValueError(
                "train_denoiser.tasks: restore needs degraded clips, and none are encoded: set "
                "encode_latents.degraded to 1 or more"
            )
        if composed and latents.composed_from is None:
            raise ValueError(
                "diffusion.base: there are no composed frames, as no clip has masks, or none is longer than "
                "clip.known; set it to moved and run `dvc repro encode_latents`"
            )
        self._composed_from = latents.composed_from if composed else None
        for task in self.tasks:  # raises early if hops do not fit into the clips
            known = self._composed_from if task == "predict" else None
            rule.draw(task, np.random.default_rng(0), latents.num_frames, rule.context_frames, known)
        self.latents = latents
        self.batch_size = batch_size
        self.rule = rule
        self.composed = composed
        self.reverse = reverse
        self._shares = np.array([tasks[task] for task in self.tasks]) / sum(tasks[t] for t in self.tasks)
        self._seed = seed
        # without masks there are no objects to compose
        self._usable = latents.composed if composed else range(len(latents))
        self._order = Shuffled(len(self._usable), seed)

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> HopBatch:
        """Return rows of the batch of a step; `rng`, of that step, draws everything but the clips."""
        task = self._draw_task(rng)
        limit = self.rule.context_frames
        context = limit if rng.random() < FULL_CONTEXT else int(rng.integers(1, limit + 1))
        frames, composed_from = self.latents.num_frames, self._composed_from
        composed = composed_from is not None and task == "predict" and rng.random() < COMPOSED_SHARE
        known = composed_from if composed else None
        drawn = [self.rule.draw(task, rng, frames, context, known) for _ in range(self.batch_size)]
        choices = self.latents.degraded if task == "restore" else self.latents.views
        forms = rng.integers(0, choices, self.batch_size)
        index = np.array([[*known, *targets] for known, targets in drawn])
        # composed frames are after their context, in every view
        backwards = (self.reverse and not composed) & (rng.random(self.batch_size) < 0.5)
        positions = np.where(backwards[:, None], frames - 1 - index, index)
        taken, count = slice(rows.start, rows.stop), len(drawn[0][0])
        clips = self._clips(step)[taken]
        times = torch.from_numpy(index[taken]).float()
        if composed:
            context_frames, target = self._read_composed(clips, forms[taken].tolist(), index[taken], count)
            context_times = torch.cat([times[:, count:], times[:, :count]], dim=1)
        else:
            context_frames, target = self._read(task, clips, forms[taken].tolist(), positions[taken], count)
            context_times = times[:, :count]
        bases = self.rule.targets if composed else 0
        return HopBatch(context_frames, context_times, target, times[:, count:], task, bases)

    @property
    def epoch_clips(self) -> int:
        """Clips of an epoch."""
        return self._order.count

    def for_task(self, task: Task) -> "HopBatches":
        """Batches of one of the tasks only."""
        return HopBatches(
            self.latents, self.batch_size, {task: 1.0}, self.rule, self.composed, self.reverse, self._seed
        )

    def names(self, step: int) -> list[str]:
        """Names of the clips in the batch of a step."""
        return [self.latents.name(clip) for clip in self._clips(step)]

    def _draw_task(self, rng: np.random.Generator) -> Task:
        if len(self.tasks) == 1:  # no random number is drawn
            return self.tasks[0]
        return self.tasks[rng.choice(len(self.tasks), p=self._shares)]

    def _read(
        self, task: Task, clips: list[int], forms: list[int], positions: NDArray[np.int64], count: int
    ) -> tuple[Tensor, Tensor]:
        """Read the first `count` frames, degraded for restore, and the others."""
        if task != "restore":
            frames = self.latents.read(clips, forms, positions.tolist())
            return frames[:, :, :count], frames[:, :, count:]
        views = [form % self.latents.views for form in forms]
        degraded = self.latents.read_conditions(clips, forms, positions[:, :count].tolist())
        return degraded, self.latents.read(clips, views, positions[:, count:].tolist())

    def _read_composed(
        self, clips: list[int], views: list[int], index: NDArray[np.int64], count: int
    ) -> tuple[Tensor, Tensor]:
        """Read the composed frames of the targets and the first `count` frames, and the true targets."""
        true = self.latents.read(clips, views, index.tolist())
        first = self.latents.composed_from or 0
        composed = self.latents.read_composed(clips, views, np.maximum(index, first).tolist())
        given = torch.from_numpy(index[:, :count] < first)[:, None, :, None, None]
        context = torch.where(given, true[:, :, :count], composed[:, :, :count])
        return torch.cat([composed[:, :, count:], context], dim=2), true[:, :, count:]

    def _clips(self, step: int) -> list[int]:
        first = step * self.batch_size
        return [self._usable[self._order[position]] for position in range(first, first + self.batch_size)]


class AllTaskBatches:
    """Batches of every task of `batches` at each step, so that validation measures all of them."""

    def __init__(self, batches: HopBatches) -> None:
        self.batch_size = batches.batch_size
        self._tasks = [batches.for_task(task) for task in batches.tasks]

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> TaskBatches:
        """Return rows of a batch of each task."""
        return TaskBatches(tuple(batches(step, rng, rows) for batches in self._tasks))

    def names(self, step: int) -> list[str]:
        """Names of the clips in the batches of a step."""
        return self._tasks[0].names(step)
