"""DVC stage predict: roll out the unknown frames of every test clip, several futures each.

Reads   data/clips/test, data/models/codec, data/models/denoiser; params.yaml: seed, clip, predict
Writes  data/predictions/<test set>: frames.npy (N, S, hops, H, W, 3), latents.npy (N, S, C, h, w) of the
        last hop, predictions.json
"""

from pathlib import Path
from zlib import crc32

from vdp.data.clips import ClipStore, test_sets
from vdp.data.encode import decode_frames, encode_known
from vdp.data.latents import Normalisation
from vdp.data.predictions import PredictionWriter
from vdp.device import autocast, pick_device
from vdp.diffusion.objective import Objective
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.schedules import make_process
from vdp.files import replacing
from vdp.models.codecs import load_frame_codec
from vdp.models.denoisers import load_denoiser
from vdp.params import ClipParams, read_section, read_value, run_stage
from vdp.sampling.params import PredictParams
from vdp.sampling.predict import predict
from vdp.sampling.rollout import Strategy
from vdp.sampling.samplers import make_sampler, time_grid
from vdp.tracking.mlflow_run import track_stage
from vdp.tracking.progress import progress

CLIPS = Path("data/clips")
CODEC = Path("data/models/codec")
DENOISER = Path("data/models/denoiser")
PREDICTIONS = Path("data/predictions")


def main() -> None:
    known = read_section(ClipParams, "clip").known
    params = read_section(PredictParams, "predict")
    seed, device = read_value("seed"), pick_device()
    codec = load_frame_codec(CODEC).to(device)
    trained = load_denoiser(DENOISER, device, DiffusionParams)
    normalisation = Normalisation(trained.latent_mean, trained.latent_std)
    objective = Objective(make_process(trained.diffusion), trained.data_scale, trained.diffusion.residual)
    strategy = Strategy(
        hops=tuple(tuple(frame - 1.0 for frame in group) for group in params.frame_groups),
        sampler=make_sampler(params.sampler, params.eta),
        times=time_grid(params.steps, params.spacing, trained.diffusion.num_timesteps),
        temperature=params.temperature,
        guidance=params.guidance,
        context_noise=params.context_noise,
        context_frames=trained.known,
    )
    clips_at_once = max(1, params.batch_clips // params.samples)

    with track_stage("predict"), replacing(PREDICTIONS) as part:
        for name, folder in test_sets(CLIPS).items():
            store = ClipStore(folder)
            writer = PredictionWriter(part / name, store.names, params.frames, params.samples)
            for rows in progress(range(len(store)), clips_at_once, f"predict {name}"):
                given = normalisation.apply(encode_known(codec.encode, store, rows, known, device))
                numbers = [
                    crc32(store.names[i].encode()) for i in rows
                ]  # a clip's noise is its own in any set
                with autocast(device):
                    made = predict(trained.network, given, numbers, objective, strategy, params.samples, seed)
                raw = normalisation.invert(made.flatten(0, 1))
                frames = decode_frames(codec.decode, raw, device)
                split = (len(rows), params.samples)
                latents = raw[:, :, -1].unflatten(0, split)
                writer.append(frames.reshape(*split, *frames.shape[1:]), latents.cpu().numpy())


if __name__ == "__main__":
    run_stage(main)
