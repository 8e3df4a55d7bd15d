"""DVC stage predict: roll out the unknown frames of every test clip, several futures each.

Reads   data/clips/test, data/models/codec, data/models/denoiser; params.yaml: seed, clip, predict
Writes  data/predictions/<test set>: frames.npy (N, S, hops, H, W, 3), latents.npy (N, S, C, h, w) of the
        last hop, predictions.json
"""

from pathlib import Path
from zlib import crc32

from vdp.api.loading import load_trained
from vdp.config.read import read_section, read_value, run_stage
from vdp.config.schema import ClipParams
from vdp.core.device import pick_device
from vdp.core.files import replacing
from vdp.data.encode import encode_known
from vdp.data.stores.clips import ClipStore, test_sets
from vdp.data.stores.predictions import PredictionWriter
from vdp.sampling.params import PredictParams
from vdp.sampling.predict import strategy_of
from vdp.tracking.mlflow_run import track_stage
from vdp.tracking.progress import progress

CLIPS = Path("data/clips")
MODELS = Path("data/models")
PREDICTIONS = Path("data/predictions")


def main() -> None:
    given = read_section(ClipParams, "clip").known
    params = read_section(PredictParams, "predict")
    seed, device = read_value("seed"), pick_device()
    trained = load_trained(MODELS, device)
    config = trained.config
    strategy = strategy_of(params, config.diffusion.num_timesteps, config.context_frames)
    clips_at_once = max(1, params.batch_size // params.samples)

    with track_stage("predict"), replacing(PREDICTIONS) as part:
        for name, folder in test_sets(CLIPS).items():
            store = ClipStore(folder)
            writer = PredictionWriter(part / name, store.names, params.frames, params.samples)
            for rows in progress(range(len(store)), clips_at_once, f"predict {name}"):
                known = encode_known(trained.codec.encode, store, rows, given, device)
                # a clip's noise is its own in any set
                numbers = [crc32(store.names[i].encode()) for i in rows]
                writer.append(*trained.futures(known, numbers, strategy, params.samples, seed))


if __name__ == "__main__":
    run_stage(main)
