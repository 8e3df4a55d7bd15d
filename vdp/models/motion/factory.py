"""Build and load motion models; each implements `vdp.diffusion.protocols.Denoiser` on clips of objects."""

from dataclasses import dataclass
from pathlib import Path

import torch

from vdp.core.ground import Ground
from vdp.models.checkpoint import load_config, load_weights
from vdp.models.motion.config import MotionConfig
from vdp.models.motion.interaction import InteractionNetwork
from vdp.models.motion.params import MotionParams
from vdp.models.motion.transformer import MotionTransformer

MotionModel = MotionTransformer | InteractionNetwork


def build_motion(params: MotionParams, ground: Ground) -> MotionModel:
    """Build the motion model that `params.name` names, for a data set's floor."""
    kind = MotionTransformer if params.name == "transformer" else InteractionNetwork
    return kind(params, ground)


@dataclass(frozen=True)
class TrainedMotion:
    """A motion model and its training configuration."""

    network: MotionModel
    config: MotionConfig


def load_motion_model(folder: Path, device: torch.device) -> TrainedMotion:
    """Load a motion model in evaluation mode; errors as of `load_config` and `load_weights`."""
    config = load_config(folder, MotionConfig)
    network = build_motion(config.motion, config.ground.floor()).to(device)
    load_weights(network, folder)
    network.eval()
    return TrainedMotion(network, config)
