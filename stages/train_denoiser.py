"""DVC stage train_denoiser: train a video denoiser on hops of encoded clips.

Reads   data/latents, data/models/codec, the weights of train_denoiser.init_from; params.yaml: seed, engine,
        denoiser, diffusion, train_denoiser
Writes  data/models/denoiser
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vdp.config.choices import BaseName
from vdp.config.read import read_section, read_value, run_script
from vdp.core.pixels import to_uint8
from vdp.core.tasks import TASKS, Task
from vdp.data.batches.hops import AllTaskBatches, HopBatch, HopBatches, HopRule, TaskBatches
from vdp.data.stores.latents import LatentClips, Normalisation
from vdp.diffusion.gain import HeldOutClips, fit_gains, gain_rows
from vdp.diffusion.loss import TaskLevelLoss
from vdp.diffusion.objective import Objective
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.protocols import Denoiser
from vdp.diffusion.scheduled_sampling import sample_frames
from vdp.diffusion.schedules import make_process
from vdp.evaluation.frame import frame_score
from vdp.launch.out_of_memory import MemoryParam
from vdp.launch.params import EngineParams
from vdp.models.checkpoint import fingerprint, save_model
from vdp.models.codecs.factory import load_codec
from vdp.models.codecs.protocols import Codec
from vdp.models.denoisers.factory import build_denoiser
from vdp.models.denoisers.params import DenoiserConfig, DenoiserParams
from vdp.models.initial import find_initial
from vdp.tracking.figures import sample_columns, sample_sheet
from vdp.tracking.mlflow_run import project_root, track_stage
from vdp.training.checkpoint import stage_checkpoints
from vdp.training.dataloader import first_batches
from vdp.training.definition import Samples, Training
from vdp.training.engine import launch
from vdp.training.hop_loss import hop_loss, measure_scales
from vdp.training.params import TrainDenoiserParams
from vdp.training.seeds import seed_weights
from vdp.training.trainer import fit
from vdp.training.validation import VALIDATION_SEED, VALIDATION_SIZE, plot_batch

LATENTS = Path("data/latents")
CODEC = Path("data/models/codec")
DENOISER = Path("data/models/denoiser")
DRAWN_STEPS = 10  # sampling steps of the pictures drawn during training
GAIN_CLIPS = 16  # clips of val from which the gains of predicted changes are measured

Objectives = Mapping[Task, Objective]


def main() -> None:
    denoiser = read_section(DenoiserParams, "denoiser")
    diffusion = read_section(DiffusionParams, "diffusion")
    params = read_section(TrainDenoiserParams, "train_denoiser")
    engine, seed = read_section(EngineParams, "engine"), read_value("seed")
    shares: dict[Task, float] = {task: getattr(params.tasks, task) for task in TASKS}

    with track_stage("train_denoiser") as tracker:
        initial = find_initial("train_denoiser", params.init_from, DENOISER)
        fabric = launch(engine)
        clips, val_clips = LatentClips(LATENTS, ["train", "unlabeled"]), LatentClips(LATENTS, ["val"])
        rule = HopRule(
            params.context_frames, params.target_offsets, params.max_hops, params.targets, params.max_span,
            params.given_frames, grouped=clips.time.factor > 1,
        )  # fmt: skip
        process, base = make_process(diffusion), resolve_base(diffusion.base, clips, shares["predict"] > 0)
        composed = base in ("composed", "optical_flow")
        batches = HopBatches(clips, params.batch_size, shares, rule, composed, params.reverse, seed)
        # val clips may have no masks
        val_composed = composed and val_clips.composed_from is not None
        val_batches = AllTaskBatches(
            HopBatches(val_clips, VALIDATION_SIZE, shares, rule, val_composed, False, VALIDATION_SEED)
        )
        samples = {task: first_batches(batches.for_task(task), seed) for task in batches.tasks}
        scales = measure_scales(samples, diffusion.residual, base == "moved")
        objectives = {
            task: Objective(process, scale.to(fabric.device), diffusion.residual, task)
            for task, scale in scales.items()
        }
        codec = load_codec(CODEC).to(fabric.device)
        shown = plot_batch(val_batches, fabric.device)
        config = DenoiserConfig(
            denoiser=denoiser,
            diffusion=diffusion,
            base=base,
            codec=fingerprint(codec),
            channels=clips.channels,
            height=codec.factor * clips.size[0],
            width=codec.factor * clips.size[1],
            tasks={str(task): shares[task] for task in batches.tasks},
            context_frames=params.context_frames,
            given_frames=params.given_frames,
            known=config_known(clips, composed),
            flow_decay=clips.flow_decay if composed else None,
            target_offsets=params.target_offsets,
            targets=params.targets,
            max_span=params.max_span,
            context_dropout=params.context_dropout,
            data_scale={str(task): tuple(scale.tolist()) for task, scale in scales.items()},
            latent_mean=clips.normalisation.mean,
            latent_std=clips.normalisation.std,
        )
        seed_weights(seed)
        network = build_denoiser(denoiser, clips.channels, base == "moved")
        if initial is not None:
            initial.check(network, config)
        training = Training(
            name="train_denoiser",
            network=network,
            loss=hop_loss(objectives, diffusion, params),
            batches=batches,
            val_loss=TaskLevelLoss(objectives, shares),
            val_batches=val_batches,
            plot=lambda network: draw_tasks(network, shown, objectives, clips.normalisation, codec),
            memory_params=[
                width_param(denoiser),
                MemoryParam("train_denoiser.context_frames", params.context_frames, power=1, multiple=1),
            ],
            initial=initial,
        )
        source = None if initial is None else initial.file
        checkpoints = stage_checkpoints("train_denoiser", project_root(), source)
        in_steps = params.in_steps(batches.epoch_clips)
        result = fit(training, in_steps, engine, seed, tracker, fabric, checkpoints)
        if fabric.is_global_zero:
            if base == "optical_flow" and val_composed and "predict" in objectives:
                gains = measure_gains(
                    result.network.to(fabric.device), val_clips, objectives["predict"], params
                )
                weights = None if gains is None else fingerprint(result.network)
                config = config.model_copy(update={"gains": gains, "gains_of": weights})
                tracker.summary({f"gain.{step}": gain for step, gain in enumerate(gains or (), 1)})
            save_model(DENOISER, result.network, config, result.other_weights, result.kept)
            checkpoints.clear()


def resolve_base(base: BaseName, clips: LatentClips, predicts: bool) -> BaseName:
    """Return the base of `diffusion.base`: auto is the one for which frames are encoded.

    Only hops of predict have composed frames; without that task the base is the nearest one, or moved.
    """
    if not predicts and base != "moved":
        return "nearest"
    if base != "auto":
        return base
    if clips.time.factor > 1:
        return "moved"
    return "composed" if clips.flow_decay is None else "optical_flow"


def measure_gains(
    network: Denoiser[object], clips: LatentClips, objective: Objective, params: TrainDenoiserParams
) -> list[float] | None:
    """Measure the gains of the changes from composed frames on clips of `val`, evenly spaced in `gain_rows`.

    None where the network does not predict the next frame by itself, or no finite frame.
    """
    measured = gain_rows(len(clips))
    composed = [row for row in clips.composed if row in measured]
    if network.joint or 1 not in params.target_offsets or not composed:
        return None
    known, spaced = clips.composed_from or 0, max(1, len(composed) // GAIN_CLIPS)
    rows = composed[::spaced][:GAIN_CLIPS]
    first, views = max(0, known - params.context_frames), [0] * len(rows)
    device = objective.scale.device

    def read(frames: range, composed: bool = False) -> Tensor:
        source = clips.read_composed if composed else clips.read
        return source(rows, views, [frames] * len(rows)).to(device)

    later = range(known, clips.num_frames)
    held_out = HeldOutClips(read(range(first, known)), read(later, composed=True), read(later))
    gains = fit_gains(network, held_out, objective, DRAWN_STEPS, params.context_frames, params.given_frames)
    if gains is None:
        print("train_denoiser: no gains: predicted frames of val are not finite", file=sys.stderr)
    return None if gains is None else list(gains)


def config_known(clips: LatentClips, composed: bool) -> int:
    """Return the context frames of a clip, if its composed frames or its groups of frames depend on them."""
    if clips.time.factor > 1:
        return clips.time.known
    return (clips.composed_from or 0) if composed else 0


def draw_tasks(
    network: Denoiser[object],
    shown: TaskBatches,
    objectives: Objectives,
    normalisation: Normalisation,
    codec: Codec,
) -> Samples:
    """Sample hops of each task without noise: pictures beside the truth, PSNR and SSIM, and a clip of one.

    The picture has the nearest context frame, the first target and the truth.
    """
    scores: dict[str, float] = {}
    films: dict[Task, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}  # sampled and true

    def decode(latents: Tensor, before: Tensor) -> NDArray[np.uint8]:
        # a group of frames is decoded after a frame before it
        past = before[:, :, :1] if codec.temporal_factor > 1 else before[:, :, :0]
        clip = torch.cat([past, latents[:, :, :1]], dim=2)
        return to_uint8(codec.decode(normalisation.invert(clip))[:, :, -1])

    def decode_clip(hops: HopBatch, target: Tensor) -> NDArray[np.uint8]:
        """Context frames and targets of the first hop in the order of their indices, (T, H, W, 3)."""
        frames = torch.cat([hops.known[:1, :, hops.bases :], target[:1]], dim=2)
        index = torch.cat([hops.index[0, hops.bases :], hops.target_index[0]])
        ordered = frames[:, :, index.argsort(stable=True)]
        return to_uint8(codec.decode(normalisation.invert(ordered))[0].transpose(0, 1))

    def columns(hops: HopBatch) -> dict[str, NDArray[np.uint8]]:
        start = torch.zeros_like(hops.target)
        hop = (hops.known, hops.index, hops.target_index)
        sampled = sample_frames(network, *hop, objectives[hops.task], DRAWN_STEPS, start)
        films[hops.task] = decode_clip(hops, sampled), decode_clip(hops, hops.target)
        predicted, true = (decode(latents, hops.known) for latents in (sampled, hops.target))
        known = decode(hops.known, hops.known) if hops.known.shape[2] else np.zeros_like(predicted)
        score = frame_score([(predicted, true)])
        scores.update({f"psnr_{hops.task}": score.psnr, f"ssim_{hops.task}": score.ssim})
        return {"known": known, "predicted": predicted, "true": true}

    parts = [columns(hops) for hops in shown.parts]
    picture = sample_columns({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    film = [
        sample_sheet(
            [
                [(task, sampled[min(at, len(sampled) - 1)]), ("true", true[min(at, len(true) - 1)])]
                for task, (sampled, true) in films.items()
            ]
        )
        for at in range(max(len(true) for _, true in films.values()))
    ]
    return Samples(picture, scores, film)


def width_param(denoiser: DenoiserParams) -> MemoryParam:
    """The width of the network, which determines the memory of its activations."""
    if denoiser.name == "unet":
        return MemoryParam("denoiser.unet.base_channels", denoiser.unet.base_channels, power=1, multiple=8)
    dit = denoiser.dit
    return MemoryParam("denoiser.dit.hidden_dim", dit.hidden_dim, power=1, multiple=8 * dit.num_heads)


if __name__ == "__main__":
    run_script(main)
