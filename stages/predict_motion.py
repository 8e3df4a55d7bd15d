"""DVC stage predict_motion: sample futures of the objects of every test clip and compose them.

Reads   data/clips/test, data/tracks, data/models/motion; params.yaml: seed, clip, predict, sample_motion
Writes  data/motion/<test set>: places.npy (clips, R, N, hops, 3), masks.npy (clips, R, H, W) of the samples'
        last frames, composed.npy (clips, hops, H, W, 3) of the most likely future and motion_only.npy
        (clips, H, W), its last mask; nothing of them without a motion model
"""

from pathlib import Path

import numpy as np

from vdp.api.motion import MOTION as MODEL
from vdp.api.motion import has_motion, load_motion
from vdp.config.read import read_section, read_value, run_script
from vdp.core.device import pick_device
from vdp.core.empty import NO_MASKS, empty_reason, write_empty
from vdp.core.files import replacing
from vdp.data.stores.clips import ClipStore, list_test_sets
from vdp.data.stores.tracks import TrackStore
from vdp.sampling.params import PredictParams, SampleMotionParams
from vdp.tracking.mlflow_run import Tracker, track_stage
from vdp.tracking.progress import progress

CLIPS = Path("data/clips")
TRACKS = Path("data/tracks/test")
MODELS = Path("data/models")
MOTION = Path("data/motion")
BATCH_CLIPS = 16


def main() -> None:
    frames = [number - 1 for number in read_section(PredictParams, "predict").frames]
    params, seed = read_section(SampleMotionParams, "sample_motion"), read_value("seed")

    with track_stage("predict_motion") as tracker:
        if not has_motion(MODELS):
            write_empty(MOTION, empty_reason(MODELS / MODEL) or NO_MASKS)
            return
        predict(frames, params, seed, tracker)


def predict(frames: list[int], params: SampleMotionParams, seed: int, tracker: Tracker) -> None:
    """Write the motions of all test sets; `frames` are 0-based."""
    with replacing(MOTION) as part:
        motion = load_motion(MODELS, pick_device())
        sample = tracker.counted(motion.sample)
        for name, folder in list_test_sets(CLIPS).items():
            store, tracks = ClipStore(folder), TrackStore(TRACKS / name)
            arrays: dict[str, list[np.ndarray]] = {}
            for rows in progress(range(len(tracks)), BATCH_CLIPS, f"move {name}"):
                batch = (
                    [tracks.names[i] for i in rows],
                    tracks.states[rows],
                    tracks.classes[rows],
                    frames,
                    params,
                )
                likely = sample(*batch, 1, 0.0, seed)[:, 0]
                places = sample(*batch, params.samples, params.temperature, seed)
                for i, one, several in zip(rows, likely, places, strict=True):
                    context = np.asarray(store.frames(i)[: tracks.frames])
                    composer = motion.composer(context, tracks.pixels(i), tracks.states[i], tracks.classes[i])
                    composed = [composer(one[:, hop]) for hop in range(len(frames))]
                    clip = {
                        "places": several,
                        "composed": np.stack([frame for frame, _ in composed]),
                        "motion_only": composed[-1][1],
                        "masks": np.stack([composer.mask(sample[:, -1]) for sample in several]),
                    }
                    for kind, array in clip.items():
                        arrays.setdefault(kind, []).append(array)
            (part / name).mkdir()
            for kind, clips in arrays.items():
                np.save(part / name / f"{kind}.npy", np.stack(clips))


if __name__ == "__main__":
    run_script(main)
