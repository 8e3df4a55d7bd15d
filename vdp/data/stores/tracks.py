"""The track store: the objects of clips, one identity per object, on disk.

A folder holds `tracks.json` (names of the clips, frames, features), `states.npy` (clips, N, T, F) float32 as
`vdp.data.object_states.object_states` measures them, `classes.npy` (clips, N) uint8 with 0 for an absent
object, and, where the pixels of the objects are kept, `labels.npy` (clips, K, H, W) uint8, object numbers.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vdp.core.files import replacing
from vdp.core.objects import FEATURES, Labels, States
from vdp.data.stores.arrays import ArrayWriter

LISTING = "tracks.json"
FRAME_MASKS = "frame_masks.npy"  # class ids decided frame by frame, (clips, K, H, W) uint8


@dataclass(frozen=True)
class Tracks:
    """Objects of one clip."""

    name: str
    states: States  # (N, T, F)
    classes: NDArray[np.uint8]  # (N,) class ids, 1..48
    labels: Labels | None = None  # (K, H, W) object numbers, 1..N


def write_tracks(folder: Path, clips: Iterable[Tracks], frames: int) -> None:
    """Write the tracks of clips of `frames` frames, under a temporary name first.

    Args:
        clips: iterated twice, as the size of the arrays depends on all of them; they have one size, and all
            or none have labels.
    """
    names, most, labelled = [], 0, False
    for clip in clips:
        names.append(clip.name)
        most, labelled = max(most, len(clip.classes)), clip.labels is not None
    with replacing(folder) as part, ExitStack() as stack:

        def create(name: str) -> ArrayWriter:
            return stack.enter_context(ArrayWriter(part / name, len(names)))

        states_file, classes_file = create("states.npy"), create("classes.npy")
        labels_file = create("labels.npy") if labelled else None
        # arrays without clips have a shape as well
        states_file.append(np.zeros((0, most, frames, len(FEATURES)), np.float32))
        classes_file.append(np.zeros((0, most), np.uint8))
        for clip in clips:
            spare = most - len(clip.classes)
            states_file.append(np.pad(clip.states, [(0, spare), (0, 0), (0, 0)])[None])
            classes_file.append(np.pad(clip.classes, (0, spare))[None])
            if labels_file is not None and clip.labels is not None:
                labels_file.append(clip.labels[None])
        listing = {"clips": names, "frames": frames, "features": FEATURES}
        (part / LISTING).write_text(json.dumps(listing, indent=1) + "\n")
        stack.close()  # before the folder gets its name


class TrackStore:
    """The tracks of one split, memory-mapped.

    Attributes:
        names: of the clips.
        states: (clips, N, T, F) float32.
        classes: (clips, N) uint8; 0 where a clip has fewer objects.
        labels: (clips, K, H, W) uint8, or None.

    Raises:
        FileNotFoundError: if the folder holds no tracks.
        ValueError: if they have other features or the files do not match.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LISTING
        if not path.is_file():
            raise FileNotFoundError(f"{folder}: no tracks here; run `dvc repro track_objects`")
        listing = json.loads(path.read_text())
        if tuple(listing["features"]) != FEATURES:
            raise ValueError(
                f"{path}: features {listing['features']}, expected {list(FEATURES)}; write it again"
            )
        self.folder = folder
        self.names: list[str] = listing["clips"]
        self.states: NDArray[np.float32] = np.load(folder / "states.npy", mmap_mode="r")
        self.classes: NDArray[np.uint8] = np.load(folder / "classes.npy", mmap_mode="r")
        labels = folder / "labels.npy"
        self.labels: NDArray[np.uint8] | None = np.load(labels, mmap_mode="r") if labels.is_file() else None
        rows = {len(self.names), len(self.states), len(self.classes)}
        if self.labels is not None:
            rows.add(len(self.labels))
        if len(rows) > 1:
            raise ValueError(
                f"{folder}: files of {sorted(rows)} clips; run `dvc repro --force track_objects`"
            )

    def __len__(self) -> int:
        return len(self.names)

    def pixels(self, row: int) -> Labels:
        """Object numbers of the pixels of a clip, (K, H, W); ValueError if the tracks have none."""
        if self.labels is None:
            raise ValueError(f"{self.folder}: no labels.npy; run `dvc repro --force track_objects`")
        return self.labels[row]

    @property
    def frames(self) -> int:
        """Frames of a clip, T."""
        return self.states.shape[2]


def track_stores(root: Path, splits: Sequence[str]) -> list[TrackStore]:
    """Stores under `root` of those splits that have one."""
    return [TrackStore(root / split) for split in splits if (root / split / LISTING).is_file()]
