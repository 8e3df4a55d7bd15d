"""Predictions and masks of one test set, beside the true frames and masks of its clips."""

import json
from pathlib import Path

import numpy as np

from vdp.data.stores.clips import ClipStore, Pixels
from vdp.data.stores.predictions import FRAMES, LISTING


class PredictionSet:
    """Predictions and masks of a test set, memory-mapped; row n of every array is the clip `names[n]`.

    Attributes:
        names: the predicted clips, a subset of the store's.
        hops: 1-based numbers of the predicted frames; the last is the target.
        frames: predictions, (N, S, hops, H, W, 3) for S samples.
        prediction: masks of the target, (N, H, W).
        segmented_context: masks of the true context frames, (N, K, H, W).

    Raises:
        FileNotFoundError: if an array is missing.
        ValueError: if arrays and clips do not match.
    """

    def __init__(self, clips: Path, predictions: Path, masks: Path) -> None:
        self.store = ClipStore(clips)
        self._masks = masks
        path = predictions / LISTING
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; run `dvc repro predict`")
        listing = json.loads(path.read_text())
        self.names: list[str] = listing["clips"]
        self.hops: list[int] = listing["hops"]
        self.frames = _load(predictions / FRAMES, "predict", len(self.names))
        self.prediction = _load(masks / "prediction.npy", "segment", len(self.names))
        self.segmented_context = _load(masks / "known.npy", "segment", len(self.names))
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

    def scored(self) -> list[int]:
        """Rows whose clip has true frames and true masks up to the target."""
        labelled = self.store.labelled
        return [n for n, i in enumerate(self._index) if i in labelled and self.has_frame(n, self.target)]

    def has_frame(self, row: int, number: int) -> bool:
        """Whether the clip of a row has the true frame `number` (1-based)."""
        return self.store.num_frames(self._index[row]) >= number

    def true_frame(self, row: int, number: int) -> Pixels:
        """True frame `number` (1-based) of the clip of a row, (H, W, 3)."""
        return self.store.frames(self._index[row])[number - 1]

    def true_masks(self, row: int) -> Pixels:
        """True masks of the clip of a row, (T, H, W)."""
        return self.store.masks(self._index[row])

    def segmented_target(self) -> Pixels:
        """The segmenter's masks of the true target frames, (N, H, W)."""
        return _load(self._masks / "truth.npy", "segment", len(self))

    def unetpp_target(self) -> Pixels:
        """UNet++'s masks of the true target frames, without the codec's vote, (N, H, W)."""
        return _load(self._masks / "truth_unetpp.npy", "segment", len(self))

    def segmented_round_trip(self) -> Pixels:
        """The segmenter's masks of the true target frames after a codec round trip, (N, H, W)."""
        return _load(self._masks / "round_trip.npy", "segment", len(self))

    def motion_only(self) -> Pixels | None:
        """Composed masks of the target by one deterministic answer of the motion model, (N, H, W), if any."""
        return self._optional("motion_only.npy")

    def tracked_context(self) -> Pixels | None:
        """Masks of the context frames after object tracking, (N, K, H, W), if any."""
        return self._optional("tracked.npy")

    def _optional(self, name: str) -> Pixels | None:
        path = self._masks / name
        return _load(path, "segment", len(self)) if path.is_file() else None


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
