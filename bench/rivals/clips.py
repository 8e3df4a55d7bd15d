"""Clips of a finished run: training batches of known frames with their target, and the test clips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vdp.core.errors import UserError
from vdp.core.pixels import to_pixels
from vdp.data.batches.batch import Batch
from vdp.data.batches.shuffle import Shuffled
from vdp.data.object_states import class_masks
from vdp.data.stores.clips import ClipStore, existing_stores, list_test_sets
from vdp.data.stores.latents import LatentClips
from vdp.data.stores.tracks import FRAME_MASKS, TrackStore

Pixels = NDArray[np.uint8]
Read = Callable[[int, bool], Tensor]  # clip number, whether mirrored -> its known frames, then the target


@dataclass(frozen=True)
class Targets(Batch):
    """Known frames and the target frame of clips, (B, C, K, H, W) and (B, C, H, W).

    Masks have no axis C: (B, K, H, W) and (B, H, W) uint8.
    """

    known: Tensor
    target: Tensor


class TargetBatches:
    """Batches of clips: an epoch has every clip once, shuffled, half of them mirrored.

    Args:
        read: known frames and target of a clip along axis `time`.
        names: of the clips.
        time: the axis of time in what `read` returns.
    """

    def __init__(self, read: Read, names: Sequence[str], time: int, batch_size: int, seed: int) -> None:
        self.read, self.clips, self.time = read, names, time
        self.batch_size = batch_size
        self._order = Shuffled(len(names), seed)

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Targets:
        """Return rows of the batch of a step; `rng`, of that step, draws the mirrored ones."""
        mirrored = rng.random(self.batch_size) < 0.5
        clips = self._numbers(step)
        frames = torch.stack([self.read(clips[row], bool(mirrored[row])) for row in rows])
        known, target = frames.split([frames.shape[self.time + 1] - 1, 1], dim=self.time + 1)
        return Targets(known.contiguous(), target.squeeze(self.time + 1).contiguous())

    def names(self, step: int) -> list[str]:
        """Names of the clips in the batch of a step."""
        return [self.clips[clip] for clip in self._numbers(step)]

    def _numbers(self, step: int) -> list[int]:
        first = step * self.batch_size
        return [self._order[position] for position in range(first, first + self.batch_size)]


def given_frames(known: int, target: int) -> list[int]:
    """Positions of the known frames and of the target of a clip."""
    return [*range(known), target]


def mask_batches(
    stores: Sequence[ClipStore], known: int, target: int, batch_size: int, seed: int
) -> TargetBatches:
    """True masks of all labelled clips that are long enough; a UserError without any."""
    clips = [(store, n) for store in stores for n in store.labelled if store.num_frames(n) > target]
    if not clips:
        raise UserError("data/clips: no clips with masks; a rival of masks needs some in the training split")

    def read(clip: int, mirrored: bool) -> Tensor:
        store, number = clips[clip]
        masks = np.asarray(store.masks(number))[given_frames(known, target)]
        return torch.from_numpy(np.ascontiguousarray(masks[..., ::-1] if mirrored else masks))

    return TargetBatches(read, [store.name(n) for store, n in clips], 0, batch_size, seed)


def frame_batches(
    stores: Sequence[ClipStore], known: int, target: int, batch_size: int, seed: int
) -> TargetBatches:
    """Frames (3, T, H, W) in [-1, 1] of all clips that are long enough."""
    clips = [(store, n) for store in stores for n in range(len(store)) if store.num_frames(n) > target]

    def read(clip: int, mirrored: bool) -> Tensor:
        store, number = clips[clip]
        frames = to_pixels(np.asarray(store.frames(number))[given_frames(known, target)]).transpose(0, 1)
        return frames.flip(-1) if mirrored else frames

    return TargetBatches(read, [store.name(n) for store, n in clips], 1, batch_size, seed)


def latent_batches(
    latents: LatentClips, known: int, target: int, batch_size: int, seed: int
) -> TargetBatches:
    """Normalised latents (C, T, h, w) of all clips; a mirrored clip is its second view, if there is one."""

    def read(clip: int, mirrored: bool) -> Tensor:
        view = 1 if mirrored and latents.views > 1 else 0
        return latents.read([clip], [view], [given_frames(known, target)])[0]

    return TargetBatches(read, [latents.name(n) for n in range(len(latents))], 1, batch_size, seed)


@dataclass(frozen=True)
class TestClip:
    """A labelled clip of a test set, all uint8."""

    name: str
    known: Pixels  # frames, (K, H, W, 3)
    frame: Pixels  # the target, (H, W, 3)
    mask: Pixels  # of the target, (H, W)
    known_masks: dict[str, Pixels]  # of the known frames, (K, H, W): true, tracked, frame by frame


TRUE, TRACKED, SEGMENTED = "true", "tracked", "segmented"


def read_test_clips(data: Path, test_set: str | None, known: int, target: int, count: int) -> list[TestClip]:
    """Read the first `count` labelled clips of a test set, the first one by default.

    Raises:
        UserError: if there is no such test set, it has no such clips, or they were not tracked.
    """
    sets = list_test_sets(data / "clips")
    name = test_set or next(iter(sets), "")
    if name not in sets:
        raise UserError(f"{data / 'clips/test'}: no test set {name!r}; expected one of {', '.join(sets)}")
    store, tracks = ClipStore(sets[name]), TrackStore(data / "tracks/test" / name)
    path = tracks.folder / FRAME_MASKS
    if not path.is_file():
        raise UserError(f"{path}: no such file; run `dvc repro track_objects`")
    by_frame = np.load(path, mmap_mode="r")
    rows = {clip: row for row, clip in enumerate(tracks.names)}
    numbers = [n for n in store.labelled if store.num_frames(n) > target and store.name(n) in rows]
    if not numbers:
        raise UserError(
            f"{sets[name]}: no tracked clips with masks up to frame {target + 1}; nothing to score"
        )
    return [
        _test_clip(store, n, tracks, rows[store.name(n)], by_frame, known, target) for n in numbers[:count]
    ]


def _test_clip(
    store: ClipStore, number: int, tracks: TrackStore, row: int, by_frame: Pixels, known: int, target: int
) -> TestClip:
    frames, masks = np.asarray(store.frames(number)), np.asarray(store.masks(number))
    return TestClip(
        store.name(number),
        frames[:known],
        frames[target],
        masks[target],
        {
            TRUE: masks[:known],
            TRACKED: class_masks(tracks.pixels(row), tracks.classes[row]),
            SEGMENTED: np.asarray(by_frame[row]),
        },
    )


def split_stores(data: Path, splits: Sequence[str]) -> list[ClipStore]:
    """Clip stores of the splits that a run has."""
    return existing_stores(data / "clips", splits)
