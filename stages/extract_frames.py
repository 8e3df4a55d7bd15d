"""DVC stage extract_frames: cut each source into clips of one length and size.

Reads   the sources of extract_frames; params.yaml: clip, extract_frames
Writes  data/clips/<split>: train, val, unlabeled, test/<name>
"""

from functools import partial
from pathlib import Path

from vdp.config.read import read_section, run_script
from vdp.config.schema import ClipParams
from vdp.core.rank import launched_processes
from vdp.data.extract.extract import Share, extract
from vdp.data.extract.jobs import make_jobs, make_policy
from vdp.data.extract.mask_notes import mask_notes
from vdp.data.extract.workers import worker_count
from vdp.data.params import ExtractParams
from vdp.data.sources.left_out import describe_left_out
from vdp.data.sources.protocols import LeftOut
from vdp.data.sources.select import select_videos
from vdp.data.stores.clips import MANIFEST, ClipStore
from vdp.launch.params import EngineParams
from vdp.tracking.mlflow_run import project_root, track_stage

CLIPS = Path("data/clips")
WORK = Path(".resume/extract_frames")  # in the main checkout, to resume from a temporary one


def main() -> None:
    clip = read_section(ClipParams, "clip")
    params = read_section(ExtractParams, "extract_frames")
    # all sources are opened before the first is read, so that a misspelt one fails immediately
    jobs = make_jobs(clip, params, select_videos(params))
    with track_stage("extract_frames", worker_count(params.workers)) as tracker:
        stores = extract(jobs, CLIPS, project_root() / WORK, make_policy(params), launched_share())
        if not tracker.is_main:
            return
        for split in ("train", "val", "unlabeled", "test"):
            (CLIPS / split).mkdir(exist_ok=True)  # DVC expects each, also without a source
        for split, store in stores.items():
            print(f"{split}: {describe(store)}")
            if store.left_out:
                rest = describe_left_out(
                    [LeftOut(str(e["name"]), str(e["reason"]), int(e["frames"])) for e in store.left_out]
                )
                print(f"{split}: left out: {rest}; all are listed in {store.folder / MANIFEST}")
        for note in mask_notes({split: store.num_labelled > 0 for split, store in stores.items()}):
            print(note)
        tracker.summary({f"clips.{split}": float(len(store)) for split, store in stores.items()})
        tracker.summary({f"skipped.{split}": float(len(store.skipped)) for split, store in stores.items()})


def launched_share() -> Share | None:
    """Return this process's share where torchrun or srun has started several: others have their workers."""
    if launched_processes() < 2:
        return None
    from vdp.launch.start import start_processes  # seconds to import

    processes = start_processes(read_section(EngineParams, "engine"))
    return Share(processes.rank, processes.count, partial(processes.max, 0))


def describe(store: ClipStore) -> str:
    parts = [
        f"{len(store)} clips of {' or '.join(map(str, store.lengths()))} frames",
        f"{store.width}x{store.height}",
        f"{store.num_labelled} with masks",
        f"{len(store.paired)} with degraded frames" if len(store.paired) else "",
        f"{len(store.skipped)} videos skipped" if store.skipped else "",
    ]
    return ", ".join(filter(None, parts))


if __name__ == "__main__":
    run_script(main)
