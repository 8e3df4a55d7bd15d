"""DVC stage train_motion: train a diffusion model of the motion of objects.

Reads   data/tracks, data/raw/simulated/tracks, the weights of train_motion.init_from; params.yaml: seed,
        clip, engine, motion, train_motion
Writes  data/models/motion; a folder without a model where no training clip has masks, or nothing is predicted
"""

from dataclasses import asdict
from pathlib import Path

import torch

from vdp.config.read import read_section, read_value, run_script
from vdp.config.schema import ClipParams
from vdp.core.empty import NO_MASKS, NO_TARGETS, write_empty
from vdp.data.batches.motion import MotionBatches
from vdp.data.ground import fit_ground
from vdp.data.stores.tracks import track_stores
from vdp.diffusion.motion import (
    MotionLevelLoss,
    MotionLoss,
    MotionObjective,
    motion_process,
    motion_scale,
)
from vdp.launch.params import EngineParams
from vdp.models.checkpoint import save_model
from vdp.models.initial import find_initial
from vdp.models.motion.config import GroundConfig, MotionConfig
from vdp.models.motion.factory import build_motion
from vdp.models.motion.params import MotionParams
from vdp.tracking.mlflow_run import project_root, track_stage
from vdp.training.checkpoint import stage_checkpoints
from vdp.training.dataloader import first_batches
from vdp.training.definition import Training
from vdp.training.engine import launch
from vdp.training.params import TrainMotionParams
from vdp.training.seeds import seed_weights
from vdp.training.trainer import fit
from vdp.training.validation import VALIDATION_SEED

TRACKS = Path("data/tracks")
SIMULATED = Path("data/raw/simulated")
MOTION = Path("data/models/motion")
VALIDATION_CLIPS = 64  # clips of a validation batch
MEASURED_CLIPS = 1000  # clips from which the floor is fitted


def main() -> None:
    clip = read_section(ClipParams, "clip")
    motion = read_section(MotionParams, "motion")
    params = read_section(TrainMotionParams, "train_motion")
    engine, seed = read_section(EngineParams, "engine"), read_value("seed")

    with track_stage("train_motion") as tracker:
        stores = [*track_stores(SIMULATED, ["tracks"]), *track_stores(TRACKS, ["train", "unlabeled"])]
        if not track_stores(TRACKS, ["train"]):
            if tracker.is_main:
                write_empty(MOTION, NO_MASKS if clip.predicts else NO_TARGETS)
            return
        initial = find_initial("train_motion", params.init_from, MOTION)
        fabric = launch(engine)
        window = (clip.known, motion.target_slots)
        measured = next(store for store in stores if len(store))
        ground = fit_ground(measured.states[:MEASURED_CLIPS], measured.classes[:MEASURED_CLIPS])
        batches = MotionBatches(stores, params.batch_size, *window, True, params.jitter, seed, ground)
        val = track_stores(TRACKS, ["val"]) or stores
        val_batches = MotionBatches(val, VALIDATION_CLIPS, *window, False, 0.0, VALIDATION_SEED, ground)
        process = motion_process(motion.schedule, motion.prediction)
        first = first_batches(batches, seed)
        scale = torch.stack([motion_scale(batch, process, ground) for batch in first]).mean(dim=0)
        objective = MotionObjective(process, ground, scale.to(fabric.device))
        settings = (objective, params.time_shift, params.draws, params.seen_weight)
        config = MotionConfig(
            motion=motion,
            data_scale=tuple(scale.tolist()),
            ground=GroundConfig(**asdict(ground)),
        )
        seed_weights(seed)
        network = build_motion(motion, ground)
        if initial is not None:
            initial.check(network, config)
        training = Training(
            name="train_motion",
            network=network,
            loss=MotionLoss(*settings, params.unroll, motion.target_slots),
            batches=batches,
            val_loss=MotionLevelLoss(*settings),
            val_batches=val_batches,
            initial=initial,
        )
        source = None if initial is None else initial.file
        checkpoints = stage_checkpoints("train_motion", project_root(), source)
        in_steps = params.in_steps(batches.epoch_clips)
        result = fit(training, in_steps, engine, seed, tracker, fabric, checkpoints)
        if fabric.is_global_zero:
            save_model(MOTION, result.network, config, result.other_weights, result.kept)
            checkpoints.clear()


if __name__ == "__main__":
    run_script(main)
