"""DVC stage predict: roll out the unknown frames of every test clip, several samples each.

Reads   data/clips/test, data/models/codec, data/models/denoiser, data/motion; params.yaml: seed, clip,
        engine, predict
Writes  data/predictions/<test set>: frames.npy (N, S, hops, H, W, 3), of the hops that predict.keep names,
        latents.npy (N, S, C, h, w) of the last hop, predictions.json; nothing of them where the denoiser is
        not trained to predict
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vdp.api.loading import LatentDiffusion, clips_per_batch, load_latent_diffusion
from vdp.config.read import read_section, read_value, run_script
from vdp.config.schema import ClipParams
from vdp.core.empty import NO_TARGETS, write_empty
from vdp.core.files import replacing
from vdp.data.stores.clips import ClipStore, list_test_sets
from vdp.data.stores.predictions import kept_arrays, kept_hops, write_predictions
from vdp.launch.blocks import compile_blocks
from vdp.launch.items import Arrays, SharedWork, share_work, split_rows
from vdp.launch.out_of_memory import advise_batch
from vdp.launch.params import EngineParams
from vdp.sampling.params import PredictParams
from vdp.tracking.mlflow_run import Tracker, project_root, track_stage

CLIPS = Path("data/clips")
MODELS = Path("data/models")
MOTION = Path("data/motion")
PREDICTIONS = Path("data/predictions")


def main() -> None:
    known = read_section(ClipParams, "clip").known
    params, engine = read_section(PredictParams, "predict"), read_section(EngineParams, "engine")
    seed = read_value("seed")

    with track_stage("predict") as tracker, share_work("predict", project_root(), engine, tracker) as work:
        model = load_latent_diffusion(MODELS, work.processes.device, params.checkpoint)
        if engine.compile:
            compile_blocks(model.network)
        if "predict" in model.config.tasks:
            predict(model, known, params, seed, work, tracker)
        elif work.join():
            write_empty(PREDICTIONS, NO_TARGETS)


def predict(
    model: LatentDiffusion, known: int, params: PredictParams, seed: int, work: SharedWork, tracker: Tracker
) -> None:
    """Write the predictions of all test sets from the first `known` frames of their clips."""
    stores = {name: ClipStore(folder) for name, folder in list_test_sets(CLIPS).items()}
    parts = {}
    for name, store in stores.items():
        rollout = partial(roll_out, model, tracker, name, store, known, params, seed)
        parts[name] = work.compute(name, split_rows(range(len(store)), clips_per_batch(params)), rollout)
    if work.join():
        with replacing(PREDICTIONS) as folder:
            for name, store in stores.items():
                hops = kept_hops(params.frames, params.keep)
                write_predictions(folder / name, store.names, hops, params.samples, parts[name])


def roll_out(
    model: LatentDiffusion,
    tracker: Tracker,
    name: str,
    store: ClipStore,
    known: int,
    params: PredictParams,
    seed: int,
    rows: Sequence[int],
) -> Arrays:
    """Predict some clips of the test set `name`; arrays as of `write_predictions`."""
    context = [store.frames(i)[:known] for i in rows]
    names = [store.names[i] for i in rows]
    bases = None
    if model.config.base == "composed":
        composed = np.load(MOTION / name / "composed.npy", mmap_mode="r")
        bases = [composed[i] for i in rows]
    sample_clips = tracker.counted(model.sample_clips)

    def sample(count: int) -> tuple[np.ndarray, np.ndarray]:
        return sample_clips(
            names[:count], context[:count], params, seed, None if bases is None else bases[:count]
        )

    with advise_batch("predict.batch_size", params.samples, len(rows), sample):
        frames, latents = sample(len(rows))
    return kept_arrays(frames, latents, params.keep)


if __name__ == "__main__":
    run_script(main)
