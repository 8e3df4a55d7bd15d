"""Predictions of one test set, beside the true frames and masks of its clips, and their predicted masks."""

import json
from pathlib import Path

import numpy as np

from vdp.core.objects import SEEN, X, Y
from vdp.data.stores.clips import ClipStore, Pixels
from vdp.data.stores.predictions import EARLIER, FRAMES, LISTING
from vdp.data.stores.tracks import TrackStore


class MotionSet:
    """Sampled motions of the objects of a test set, memory-mapped; row n of every array is clip n.

    Attributes:
        tracks: the objects in the context frames.
        places: x, y and visibility in the predicted frames, (N, R, objects, hops, 3) for R samples.
        composed: frames composed of the most likely motion, (N, hops, H, W, 3).
    """

    def __init__(self, motion: Path, tracks: Path) -> None:
        self.tracks = TrackStore(tracks)
        self.places: np.ndarray = np.load(motion / "places.npy", mmap_mode="r")
        self.composed: Pixels = np.load(motion / "composed.npy", mmap_mode="r")

    def paths(self, row: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Class id, known places (K, 2) and sampled ones (R, hops, 2) of each object of a clip, in pixels."""
        height, width = self.composed.shape[2:4]
        centre = np.array([width - 1, height - 1]) / 2

        def pixels(places: np.ndarray) -> np.ndarray:
            return (places * height + centre).astype(np.float32)

        found = []
        for number, label in enumerate(self.tracks.classes[row]):
            states = self.tracks.states[row, number]
            known = states[states[:, SEEN] > 0][:, [X, Y]]
            if label and len(known):
                found.append((int(label), pixels(known), pixels(self.places[row, :, number, :, :2])))
        return found


class PredictionSet:
    """Predictions of a test set, memory-mapped; row n of every array is the clip `names[n]`.

    Attributes:
        names: the predicted clips, a subset of the store's.
        hops: 1-based numbers of the predicted frames; the last is the target.
        samples: predicted futures of each clip, S.

    Raises:
        FileNotFoundError: if an array is missing.
        ValueError: if arrays and clips do not match.
    """

    def __init__(self, clips: Path, predictions: Path) -> None:
        self.store = ClipStore(clips)
        path = predictions / LISTING
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; run `dvc repro predict`")
        listing = json.loads(path.read_text())
        self.names: list[str] = listing["clips"]
        self.hops: list[int] = listing["hops"]
        self.samples: int = listing["samples"]
        self._frames = _load(predictions / FRAMES, "predict", len(self.names))
        self._earlier: Pixels | None = None
        if self._frames.shape[2] < len(self.hops):
            self._earlier = _load(predictions / EARLIER, "predict", len(self.names))
        index = {name: i for i, name in enumerate(self.store.names)}
        unknown = [name for name in self.names if name not in index]
        if unknown:
            raise ValueError(f"{path}: clip {unknown[0]} is not in {clips}; run `dvc repro predict`")
        self._index = [index[name] for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def target(self) -> int:
        """1-based number of the predicted frame that is scored."""
        return self.hops[-1]

    def predicted(self, row: int) -> list[Pixels]:
        """Predicted frames of a clip by hop, (S, H, W, 3) each; of the earlier ones perhaps one sample."""
        earlier = [] if self._earlier is None else list(self._earlier[row].swapaxes(0, 1))
        return [*earlier, *self._frames[row].swapaxes(0, 1)]

    def with_frames(self) -> list[int]:
        """Rows whose clip has true frames up to the target."""
        return [row for row in range(len(self)) if self.has_frame(row, self.target)]

    def with_masks(self) -> list[int]:
        """Rows whose clip has true frames and true masks up to the target."""
        return [row for row in self.with_frames() if self._index[row] in self.store.labelled]

    def has_frame(self, row: int, number: int) -> bool:
        """Whether the clip of a row has the true frame `number` (1-based)."""
        return self.store.num_frames(self._index[row]) >= number

    def true_frame(self, row: int, number: int) -> Pixels:
        """True frame `number` (1-based) of the clip of a row, (H, W, 3)."""
        return self.true_frames(row)[number - 1]

    def true_frames(self, row: int) -> Pixels:
        """True frames of the clip of a row, (T, H, W, 3)."""
        return self.store.frames(self._index[row])

    def true_masks(self, row: int) -> Pixels:
        """True masks of the clip of a row, (T, H, W)."""
        return self.store.masks(self._index[row])


class MaskSet:
    """Predicted masks of a test set, memory-mapped, in the rows of its `PredictionSet`.

    Attributes:
        prediction: of the target, (N, H, W).
        segmented_context: of the true context frames, (N, K, H, W).

    Raises:
        FileNotFoundError: if an array is missing.
        ValueError: if it has not `rows` rows.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self._folder, self._rows = folder, rows
        self.prediction = self._load("prediction.npy")
        self.segmented_context = self._load("known.npy")

    def segmented_target(self) -> Pixels:
        """The segmenter's masks of the true target frames, (N, H, W)."""
        return self._load("truth.npy")

    def unetpp_target(self) -> Pixels:
        """UNet++'s masks of the true target frames, without the codec's vote, (N, H, W)."""
        return self._load("truth_unetpp.npy")

    def segmented_round_trip(self) -> Pixels:
        """The segmenter's masks of the true target frames after a codec round trip, (N, H, W)."""
        return self._load("round_trip.npy")

    def motion_only(self) -> Pixels | None:
        """Composed masks of the target by one deterministic answer of the motion model, (N, H, W), if any."""
        return self._optional("motion_only.npy")

    def tracked_context(self) -> Pixels | None:
        """Masks of the context frames after object tracking, (N, K, H, W), if any."""
        return self._optional("tracked.npy")

    def _optional(self, name: str) -> Pixels | None:
        return self._load(name) if (self._folder / name).is_file() else None

    def _load(self, name: str) -> Pixels:
        return _load(self._folder / name, "segment", self._rows)


def _load(path: Path, stage: str, rows: int) -> Pixels:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run `dvc repro {stage}`")
    array: Pixels = np.load(path, mmap_mode="r")
    if len(array) != rows or array.dtype != np.uint8:
        raise ValueError(
            f"{path}: expected {rows} uint8 rows, one for each predicted clip, "
            f"got {array.dtype} {array.shape}; run `dvc repro --force {stage}`"
        )
    return array
