"""DVC stage predict: roll out the unknown frames of every test clip, several samples each.

Reads   data/clips/test, data/models/codec, data/models/denoiser, data/motion; params.yaml: seed, clip,
        predict
Writes  data/predictions/<test set>: frames.npy (N, S, hops, H, W, 3), latents.npy (N, S, C, h, w) of the
        last hop, predictions.json; nothing of them where the denoiser is not trained to predict
"""

from pathlib import Path

import numpy as np

from vdp.api.loading import LatentDiffusion, clips_per_batch, load_latent_diffusion
from vdp.config.read import read_section, read_value, run_script
from vdp.config.schema import ClipParams
from vdp.core.device import pick_device
from vdp.core.empty import NO_TARGETS, write_empty
from vdp.core.files import replacing
from vdp.data.stores.clips import ClipStore, list_test_sets
from vdp.data.stores.predictions import PredictionWriter
from vdp.sampling.params import PredictParams
from vdp.tracking.mlflow_run import Tracker, track_stage
from vdp.tracking.progress import progress

CLIPS = Path("data/clips")
MODELS = Path("data/models")
MOTION = Path("data/motion")
PREDICTIONS = Path("data/predictions")


def main() -> None:
    known = read_section(ClipParams, "clip").known
    params = read_section(PredictParams, "predict")
    seed = read_value("seed")
    model = load_latent_diffusion(MODELS, pick_device(), params.checkpoint)

    with track_stage("predict") as tracker:
        if "predict" not in model.config.tasks:
            write_empty(PREDICTIONS, NO_TARGETS)
            return
        predict(model, known, params, seed, tracker)


def predict(model: LatentDiffusion, known: int, params: PredictParams, seed: int, tracker: Tracker) -> None:
    """Write the predictions of all test sets from the first `known` frames of their clips."""
    sample_clips, composes = tracker.counted(model.sample_clips), model.config.base == "composed"
    with replacing(PREDICTIONS) as part:
        for name, folder in list_test_sets(CLIPS).items():
            store = ClipStore(folder)
            composed = np.load(MOTION / name / "composed.npy", mmap_mode="r") if composes else None
            writer = PredictionWriter(part / name, store.names, params.frames, params.samples)
            for rows in progress(range(len(store)), clips_per_batch(params), f"predict {name}"):
                context = [store.frames(i)[:known] for i in rows]
                names = [store.names[i] for i in rows]
                bases = None if composed is None else [composed[i] for i in rows]
                writer.append(*sample_clips(names, context, params, seed, bases))


if __name__ == "__main__":
    run_script(main)
