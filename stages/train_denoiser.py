"""DVC stage train_denoiser: fit a video denoiser to hops of encoded clips.

Reads   data/latents, data/models/codec; params.yaml: seed, engine, denoiser, diffusion, train_denoiser
Writes  data/models/denoiser
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vdp.config.read import read_section, read_value, run_stage
from vdp.core.pixels import to_uint8
from vdp.core.tasks import TASKS, Task
from vdp.data.batches.hops import EachTask, HopBatch, HopBatches, HopRule, TaskBatches
from vdp.data.stores.latents import LatentClips, Normalisation
from vdp.diffusion.loss import HopLoss, TaskLevelLoss
from vdp.diffusion.objective import Objective, data_scale
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.protocols import Denoiser
from vdp.diffusion.scheduled_sampling import ScheduledSampling, sample_frames
from vdp.diffusion.schedules import make_process
from vdp.models.checkpoint import fingerprint, save_model
from vdp.models.codecs.factory import Codec, load_frame_codec
from vdp.models.denoisers.factory import build_denoiser
from vdp.models.denoisers.params import DenoiserConfig, DenoiserParams
from vdp.tracking.figures import sample_columns
from vdp.tracking.mlflow_run import project_root, track_stage
from vdp.training.checkpoint import states_of
from vdp.training.dataloader import first_batches
from vdp.training.engine import launch
from vdp.training.out_of_memory import Knob
from vdp.training.params import EngineParams, TrainDenoiserParams
from vdp.training.trainer import Training, fit, training_seed
from vdp.training.validation import VALIDATION_SEED, VALIDATION_SIZE, shown_batch

LATENTS = Path("data/latents")
CODEC = Path("data/models/codec")
DENOISER = Path("data/models/denoiser")
DRAWN_STEPS = 10  # sampling steps of what is drawn during the training


def main() -> None:
    denoiser = read_section(DenoiserParams, "denoiser")
    diffusion = read_section(DiffusionParams, "diffusion")
    params = read_section(TrainDenoiserParams, "train_denoiser")
    engine, seed = read_section(EngineParams, "engine"), read_value("seed")

    with track_stage("train_denoiser") as tracker:
        fabric = launch(engine)
        train, val = LatentClips(LATENTS, ["train", "unlabeled"]), LatentClips(LATENTS, ["val"])
        rule = HopRule(
            params.context_frames, params.target_offsets, params.max_hops, params.targets, params.max_span
        )
        tasks: dict[Task, float] = {task: getattr(params.tasks, task) for task in TASKS}
        batches = HopBatches(train, params.batch_size, tasks, rule, params.reverse, seed)
        held_out = EachTask(HopBatches(val, VALIDATION_SIZE, tasks, rule, False, VALIDATION_SEED))
        process = make_process(diffusion)
        scales = {
            task: data_scale(first_batches(batches.of(task), seed), diffusion.residual)
            for task in batches.tasks
        }
        objectives = {
            task: Objective(process, scale.to(fabric.device), diffusion.residual, task)
            for task, scale in scales.items()
        }
        loss = HopLoss(
            objectives=objectives,
            min_snr_gamma=diffusion.min_snr_gamma,
            time_shift=diffusion.time_shift,
            draws=params.draws,
            context_noise=params.context_noise,
            context_dropout=params.context_dropout,
            scheduled_sampling=ScheduledSampling(
                share=params.scheduled_sampling,
                frames=params.scheduled_sampling_frames,
                steps=params.scheduled_sampling_steps,
                temperature=params.scheduled_sampling_temperature,
            ),
        )
        codec = load_frame_codec(CODEC).to(fabric.device)
        shown = shown_batch(held_out, fabric.device)
        training_seed(seed)
        training = Training(
            name="train_denoiser",
            network=build_denoiser(denoiser, train.channels),
            loss=loss,
            batches=batches,
            measure=TaskLevelLoss(objectives, tasks),
            held_out=held_out,
            draw=lambda network: tasks_drawn(network, shown, objectives, train.normalisation, codec),
            knobs=[
                width_knob(denoiser),
                Knob("train_denoiser.context_frames", params.context_frames, power=1, multiple=1),
            ],
        )
        states = states_of("train_denoiser", project_root())
        fitted = fit(training, params, engine, seed, tracker, fabric, states)
        config = DenoiserConfig(
            denoiser=denoiser,
            diffusion=diffusion,
            codec=fingerprint(codec),
            channels=train.channels,
            height=codec.factor * train.size[0],
            width=codec.factor * train.size[1],
            tasks={str(task): tasks[task] for task in batches.tasks},
            context_frames=params.context_frames,
            target_offsets=params.target_offsets,
            targets=params.targets,
            max_span=params.max_span,
            context_dropout=params.context_dropout,
            data_scale={str(task): tuple(scale.tolist()) for task, scale in scales.items()},
            latent_mean=train.normalisation.mean,
            latent_std=train.normalisation.std,
        )
        if fabric.is_global_zero:
            save_model(DENOISER, fitted.network, config, fitted.spare)
            states.clear()


def tasks_drawn(
    network: Denoiser[object],
    shown: TaskBatches,
    objectives: Mapping[Task, Objective],
    normalisation: Normalisation,
    codec: Codec,
) -> NDArray[np.uint8]:
    """A picture of hops of each task: the nearest known frame, the likeliest target, and the true one."""
    parts = [hops_drawn(network, hops, objectives[hops.task], normalisation, codec) for hops in shown.parts]
    return sample_columns({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def hops_drawn(
    network: Denoiser[object],
    shown: HopBatch,
    objective: Objective,
    normalisation: Normalisation,
    codec: Codec,
) -> dict[str, NDArray[np.uint8]]:
    """Frames of some hops, (B, H, W, 3), by what they are; black where nothing is known."""

    def decoded(latents: Tensor) -> NDArray[np.uint8]:
        return to_uint8(codec.decode(normalisation.invert(latents[:, :, :1]))[:, :, 0])

    start = torch.zeros_like(shown.target)  # no noise: the middle of what may come
    hop = (shown.known, shown.index, shown.target_index)
    predicted = decoded(sample_frames(network, *hop, objective, DRAWN_STEPS, start))
    known = decoded(shown.known) if shown.known.shape[2] else np.zeros_like(predicted)
    return {"known": known, "predicted": predicted, "true": decoded(shown.target)}


def width_knob(denoiser: DenoiserParams) -> Knob:
    """The width of the network, with which the memory of its activations grows."""
    if denoiser.name == "unet":
        return Knob("denoiser.unet.base_channels", denoiser.unet.base_channels, power=1, multiple=8)
    dit = denoiser.dit
    return Knob("denoiser.dit.hidden_dim", dit.hidden_dim, power=1, multiple=8 * dit.num_heads)


if __name__ == "__main__":
    run_stage(main)
