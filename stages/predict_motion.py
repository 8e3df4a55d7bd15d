"""DVC stage predict_motion: sample futures of the objects of every test clip and compose them.

Reads   data/clips/test, data/tracks, data/models/motion; params.yaml: seed, engine, predict,
        sample_motion
Writes  data/motion/<test set>: places.npy (clips, R, N, hops, 3), masks.npy (clips, R, H, W) of the samples'
        last frames, composed.npy (clips, hops, H, W, 3) of the most likely future and motion_only.npy
        (clips, H, W), its last mask; nothing of them without a motion model
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vdp.api.motion import MOTION as MODEL
from vdp.api.motion import ObjectMotion, has_motion, load_motion
from vdp.config.read import read_section, read_value, run_script
from vdp.core.empty import NO_MASKS, empty_reason, write_empty
from vdp.core.files import replacing
from vdp.data.stores.arrays import write_parts
from vdp.data.stores.clips import ClipStore, list_test_sets
from vdp.data.stores.tracks import TrackStore
from vdp.launch.items import Arrays, SharedWork, share_work, split_rows
from vdp.launch.params import EngineParams
from vdp.sampling.params import PredictParams, SampleMotionParams
from vdp.tracking.mlflow_run import project_root, track_stage

CLIPS = Path("data/clips")
TRACKS = Path("data/tracks/test")
MODELS = Path("data/models")
MOTION = Path("data/motion")

Sample = Callable[..., np.ndarray]  # `ObjectMotion.sample`


def main() -> None:
    frames = [number - 1 for number in read_section(PredictParams, "predict").frames]
    params, engine = read_section(SampleMotionParams, "sample_motion"), read_section(EngineParams, "engine")
    seed = read_value("seed")

    with (
        track_stage("predict_motion") as tracker,
        share_work("predict_motion", project_root(), engine, tracker) as work,
    ):
        if has_motion(MODELS):
            motion = load_motion(MODELS, work.processes.device)
            sample = partial(tracker.counted(motion.sample), frames=frames, params=params, seed=seed)
            predict(motion, sample, params, work)
        elif work.join():
            write_empty(MOTION, empty_reason(MODELS / MODEL) or NO_MASKS)


def predict(motion: ObjectMotion, sample: Sample, params: SampleMotionParams, work: SharedWork) -> None:
    """Write the motions of all test sets."""
    parts = {}
    for name, folder in list_test_sets(CLIPS).items():
        store, tracks = ClipStore(folder), TrackStore(TRACKS / name)
        move = partial(move_objects, motion, sample, params, store, tracks)
        parts[name] = work.compute(name, split_rows(range(len(tracks)), work.batch_clips), move)
    if work.join():
        with replacing(MOTION) as part:
            for name, arrays in parts.items():
                write_parts(part / name, arrays, arrays.rows)


def move_objects(
    motion: ObjectMotion,
    sample: Sample,
    params: SampleMotionParams,
    store: ClipStore,
    tracks: TrackStore,
    rows: Sequence[int],
) -> Arrays:
    """Sample the motion of the objects of some clips and compose their frames."""
    clips = {"names": [tracks.names[i] for i in rows], "states": tracks.states[rows]}
    sample = partial(sample, **clips, classes=tracks.classes[rows])
    likely = sample(samples=1, temperature=0.0)[:, 0]
    places = sample(samples=params.samples, temperature=params.temperature)
    arrays: dict[str, list[np.ndarray]] = {"places": list(places)}
    for i, one, several in zip(rows, likely, places, strict=True):
        context = np.asarray(store.frames(i)[: tracks.frames])
        composer = motion.composer(context, tracks.pixels(i), tracks.states[i], tracks.classes[i])
        composed = [composer(one[:, hop]) for hop in range(one.shape[1])]
        clip = {
            "composed": np.stack([frame for frame, _ in composed]),
            "motion_only": composed[-1][1],
            "masks": np.stack([composer.mask(sampled[:, -1]) for sampled in several]),
        }
        for kind, array in clip.items():
            arrays.setdefault(kind, []).append(array)
    return {kind: np.stack(each) for kind, each in arrays.items()}


if __name__ == "__main__":
    run_script(main)
