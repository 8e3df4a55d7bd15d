"""Numbers of clips and frames of a run, from its clips or, before these exist, from params.yaml; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vdp.config.schema import ClipParams
from vdp.data.params import ExtractParams, SourceParams
from vdp.data.simulator.params import SimulateParams
from vdp.data.stores.clips import ClipStore, existing_stores, list_test_sets
from vdp.data.stores.tracks import track_stores

CLIPS = Path("data/clips")
TRACKS = Path("data/tracks")
SIMULATED = Path("data/raw/simulated")
SPLITS = ("train", "val", "unlabeled")
OBJECTS = 8  # of a clip, where no tracks tell


@dataclass(frozen=True)
class SplitSize:
    """Clips of a split."""

    clips: int = 0
    frames: int = 0  # of all clips
    composed: int = 0  # clips with masks and with frames after the context
    composed_frames: int = 0  # these frames
    labelled: int = 0  # clips with masks
    later_frames: int = 0  # frames after the context, of all clips


@dataclass(frozen=True)
class DataSize:
    """Clips of a run."""

    splits: Mapping[str, SplitSize]  # of `SPLITS` that exist
    test_clips: int
    scored_clips: int  # test clips with the frame to predict

    @property
    def labelled(self) -> bool:
        """Whether training clips have masks."""
        return self.splits.get("train", SplitSize()).labelled > 0


def data_size(clip: ClipParams, extract: ExtractParams, simulate: SimulateParams) -> DataSize | None:
    """Count the clips in `data/clips`, else those that `simulate` will write; None for another source."""
    if CLIPS.is_dir():
        return _stored(clip)
    return _simulated(clip, extract, simulate)


def max_objects(simulate: SimulateParams | None) -> int:
    """Objects of a clip in a training batch of the motion model, from the tracks that exist."""
    stores = [*track_stores(SIMULATED, ["tracks"]), *track_stores(TRACKS, ["train", "unlabeled"])]
    if stores:
        return max(store.classes.shape[1] for store in stores)
    return OBJECTS if simulate is None else simulate.inside[1] + simulate.entering[1]


def uses_simulated(extract: ExtractParams) -> bool:
    """Whether all sources are the simulated ones, each video of which is a clip."""
    return all(_is_simulated(split, source) for split, source in extract.splits().items())


def _is_simulated(split: str, source: SourceParams) -> bool:
    folder = SIMULATED / ("test" if split.startswith("test/") else split)
    return source.folder == folder and (source.interval, source.fps, source.offset) == (1, None, 0)


def _stored(clip: ClipParams) -> DataSize:
    stores = {store.folder.name: store for store in existing_stores(CLIPS, SPLITS)}
    tests = [ClipStore(folder) for folder in list_test_sets(CLIPS).values()]
    scored = sum(length >= clip.frames for store in tests for length in _lengths(store))
    splits = {name: _split_size(store, clip.known) for name, store in stores.items()}
    return DataSize(splits, sum(map(len, tests)), scored)


def _lengths(store: ClipStore) -> list[int]:
    return [store.num_frames(row) for row in range(len(store))]


def _split_size(store: ClipStore, known: int) -> SplitSize:
    lengths = _lengths(store)
    ahead = [lengths[row] - known for row in store.labelled if lengths[row] > known]
    later = sum(max(length - known, 0) for length in lengths)
    return SplitSize(len(store), sum(lengths), len(ahead), sum(ahead), store.num_labelled, later)


def _simulated(clip: ClipParams, extract: ExtractParams, simulate: SimulateParams) -> DataSize | None:
    sources = extract.splits()
    if "train" not in sources or not uses_simulated(extract):
        return None
    counts = {"train": simulate.train, "val": simulate.val}
    if "val" not in sources:
        counts["val"] = round(simulate.train * extract.val_share)
        counts["train"] -= counts["val"]
    ahead = clip.frames - clip.known
    splits = {
        name: SplitSize(count, count * clip.frames, count, count * ahead, count, count * ahead)
        for name, count in counts.items()
    }
    if "unlabeled" in sources:
        count = simulate.unlabeled
        splits["unlabeled"] = SplitSize(count, count * clip.frames, later_frames=count * ahead)
    tests = simulate.test * sum(split.startswith("test/") for split in sources)
    return DataSize(splits, tests, tests)
