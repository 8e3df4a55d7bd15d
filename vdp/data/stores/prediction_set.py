"""What the pipeline answered for one test set, row by row beside the truth of its clips."""

import json
from pathlib import Path

import numpy as np

from vdp.data.stores.clips import ClipStore, Pixels


class PredictionSet:
    """Predictions and masks of a test set, memory-mapped; row n of every array is the clip `names[n]`.

    Attributes:
        names: clips, a part or all of the store's.
        hops: 1-based numbers of the predicted frames, the last one the target.
        frames: predictions, (N, S, hops, H, W, 3) for S samples.
        prediction: mask of the target, (N, H, W).
        segmented_known: masks of the true known frames, (N, K, H, W).

    Raises:
        FileNotFoundError: if an array is missing.
        ValueError: if the arrays and the clips do not belong together.
    """

    def __init__(self, clips: Path, predictions: Path, masks: Path) -> None:
        self.store = ClipStore(clips)
        self._masks = masks
        listing = predictions / "predictions.json"
        if not listing.is_file():
            raise FileNotFoundError(f"{listing} is not there; run `dvc repro predict`")
        answered = json.loads(listing.read_text())
        self.names: list[str] = answered["clips"]
        self.hops: list[int] = answered["hops"]
        self.frames = _load(predictions / "frames.npy", "predict", len(self.names))
        self.prediction = _load(masks / "prediction.npy", "segment", len(self.names))
        self.segmented_known = _load(masks / "known.npy", "segment", len(self.names))
        index = {name: i for i, name in enumerate(self.store.names)}
        strange = [name for name in self.names if name not in index]
        if strange:
            raise ValueError(f"{listing}: clip {strange[0]} is not in {clips}; run `dvc repro predict`")
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
        """UNet++'s own masks of the true target frames, without the codec's vote, (N, H, W)."""
        return _load(self._masks / "truth_unetpp.npy", "segment", len(self))

    def segmented_round_trip(self) -> Pixels:
        """The segmenter's masks of the true target frames encoded and decoded, (N, H, W)."""
        return _load(self._masks / "round_trip.npy", "segment", len(self))


def _load(path: Path, stage: str, rows: int) -> Pixels:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; run `dvc repro {stage}`")
    array: Pixels = np.load(path, mmap_mode="r")
    if len(array) != rows or array.dtype != np.uint8:
        raise ValueError(
            f"{path}: expected {rows} uint8 rows, one for each predicted clip, "
            f"got {array.dtype} {array.shape}; run `dvc repro --force {stage}`"
        )
    return array
