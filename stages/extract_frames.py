"""DVC stage extract_frames: cut each source folder into clips of one length and size.

Reads   the folders of extract_frames; params.yaml: clip, extract_frames
Writes  data/clips/<split>: train, val, unlabeled, test/<name>
"""

from pathlib import Path

from vdp.data.clips import ClipStore
from vdp.data.extract import decoding_pool, extract_clips
from vdp.data.params import ExtractParams
from vdp.data.sources.detect import detect_source
from vdp.data.sources.rule import ClipRule
from vdp.files import replacing
from vdp.params import ClipParams, read_section, run_stage
from vdp.tracking.mlflow_run import track_stage

CLIPS = Path("data/clips")


def main() -> None:
    clip = read_section(ClipParams, "clip")
    params = read_section(ExtractParams, "extract_frames")
    # every folder is looked at before the first is read: a misspelt one is told at once
    sources = {
        split: detect_source(folder, f"extract_frames.{split.replace('test/', 'test_sets.')}")
        for split, folder in params.splits().items()
    }
    with track_stage("extract_frames") as tracker, replacing(CLIPS) as part, decoding_pool() as pool:
        stores = {
            split: extract_clips(
                source, clip_rule(clip, params, split), part / split, params.shard_mb, pool, split
            )
            for split, source in sources.items()
        }
        # all of them are DVC's outs: an empty folder where there is no source
        for split in ("train", "val", "unlabeled", "test"):
            (part / split).mkdir(exist_ok=True)
        for split, store in stores.items():
            print(f"{split}: {describe(store)}")
        tracker.summary({f"clips.{split}": float(len(store)) for split, store in stores.items()})


def clip_rule(clip: ClipParams, params: ExtractParams, split: str) -> ClipRule:
    """Only a test clip may end with the known frames: then it is predicted, not scored."""
    return ClipRule(
        frames=clip.frames,
        at_least=clip.known if split.startswith("test/") else clip.frames,
        height=clip.height,
        width=clip.width,
        fit=params.fit,
        interval=params.interval,
        stride=params.stride,
    )


def describe(store: ClipStore) -> str:
    """Size of a store in words."""
    lengths = sorted({store.num_frames(i) for i in range(len(store))})
    return (
        f"{len(store)} clips of {' or '.join(map(str, lengths))} frames, {store.width}x{store.height}, "
        f"{len(store.labelled)} with masks"
    )


if __name__ == "__main__":
    run_stage(main)
