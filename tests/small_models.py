"""Small models with random weights, in folders as the pipeline writes them."""

from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import one_hot

from vdp.config.choices import BaseName
from vdp.config.messages import validate
from vdp.config.yaml_file import read_file
from vdp.core.classes import NUM_CLASSES, factor_indices
from vdp.core.ground import Ground
from vdp.core.tasks import TASKS
from vdp.diffusion.params import DiffusionParams
from vdp.models.checkpoint import fingerprint, save_model
from vdp.models.classifiers.crops import CropClassifier
from vdp.models.classifiers.params import ClassifierConfig, ClassifierParams
from vdp.models.codecs.params import CodecConfig, VAEParams
from vdp.models.codecs.vae import VAE
from vdp.models.denoisers.factory import build_denoiser
from vdp.models.denoisers.params import DenoiserConfig, DenoiserParams
from vdp.models.factored_classes import SPLITS
from vdp.models.motion.config import GroundConfig, MotionConfig
from vdp.models.motion.factory import build_motion
from vdp.models.motion.params import MotionParams
from vdp.models.segmenters.params import SegmenterConfig, SegmenterParams
from vdp.models.segmenters.unetpp import UNetPlusPlus
from vdp.sampling.params import PredictParams

REPO = Path(__file__).parents[1]
HEIGHT, WIDTH, CHANNELS = 32, 48, 4
CONTEXT_FRAMES = 4  # of a hop
KNOWN = 6  # frames that a composed frame is composed of
LEVELS = 5  # gray levels of the red channel per class id, for `RedSegmenter`
VAE_SECTION = {
    "spatial_factor": 4, "temporal_factor": 1, "convolutions": "factorised",
    "latent_channels": CHANNELS, "base_channels": 8, "num_res_blocks": 1,
}  # fmt: skip
UNET = {
    "conditioning": "features", "base_channels": 8, "channel_mults": [1], "num_res_blocks": 1,
    "attention_levels": [], "temporal": False, "context_slots": 4, "head_levels": 1, "head_blocks": 1,
    "temporal_heads": None, "time_embedding_dim": None,
}  # fmt: skip
DIT = {
    "patch_size": 2, "hidden_dim": 32, "depth": 1, "num_heads": 2, "stem_channels": 0, "attention": "one_way",
    "factorised": False, "time_embedding_dim": None,
}  # fmt: skip
DIFFUSION = {
    "schedule": "flow", "prediction": "flow", "num_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02,
    "zero_terminal_snr": False, "min_snr_gamma": None, "time_shift": 1.0, "residual": True,
    "base": "auto",
}  # fmt: skip
MOVER = {"base_channels": 8, "kernel_size": 3, "slots": 2}
CLASSIFIER = {"crop": 16, "crop_scale": 0.5, "base_channels": 8}
MOTION = {
    "name": "transformer", "schedule": "flow", "prediction": "flow",
    "hidden_dim": 16, "pair_dim": 4, "depth": 1, "head_depth": 1, "num_heads": 2,
    "context_slots": 4, "target_slots": 3,
}  # fmt: skip
GROUND = {
    "offset": 0.2, "slope": 0.1, "stretch": 2.0, "deceleration": (0.03, 0.02, 0.03), "diameter": 1.0,
    "restitution": 0.7, "border": 0.75, "reach": ((0.6, 0.7), (0.5, 0.5), (0.5, 0.6)),
    "entry": ((0.1, 0.0), (0.0, 0.05), (0.0, -0.05)),
}  # fmt: skip
SEGMENTER = {
    "encoder": "resnet18",
    "encoder_depth": 3,
    "decoder_channels": [16, 8, 8],
    "upsample": 1,
    "size": None,
    "weights": None,
}


class RedSegmenter(nn.Module):
    """Stands for UNet++: the red channel names the class."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        labels = ((frames[:, 0] + 1) * 127.5 / LEVELS).round().long().clamp(max=NUM_CLASSES - 1)
        factors = [
            one_hot(f, n) for f, n in zip(factor_indices(labels.clamp(min=1)), SPLITS[1:], strict=True)
        ]
        logits = torch.cat([2.0 * (labels > 0)[..., None] - 1, *factors], dim=-1)
        return 9.0 * logits.movedim(-1, 1)


def save_small_models(
    folder: Path,
    tasks: tuple[str, ...] = TASKS,
    targets: int = 1,
    temporal: bool = False,
    context_dropout: float = 0.0,
    segmenter: bool = True,
    base: BaseName = "nearest",
    temporal_factor: int = 1,
) -> Path:
    """Write models for frames of 32x48 pixels, all or the codec and the denoiser; returns the folder.

    `segmenter` adds the segmenter, the classifier and the motion model.
    """
    torch.manual_seed(0)
    vae = VAEParams.model_validate(VAE_SECTION | {"temporal_factor": temporal_factor})
    codec = VAE(vae, True)
    save_model(folder / "codec", codec, CodecConfig(name="vae", vae=vae, has_masks=True))
    params = DenoiserParams.model_validate(
        {"name": "unet", "unet": UNET | {"temporal": temporal}, "dit": DIT, "mover": MOVER}
    )
    network = build_denoiser(params, CHANNELS, base == "moved")
    for parameter in network.parameters():  # zero-initialised branches would hide their inputs
        nn.init.normal_(parameter, std=0.1)
    config = DenoiserConfig[DiffusionParams](
        denoiser=params,
        diffusion=DiffusionParams.model_validate(DIFFUSION),
        base=base,
        codec=fingerprint(codec),
        channels=CHANNELS,
        height=HEIGHT,
        width=WIDTH,
        tasks=dict.fromkeys(tasks, 1.0),
        context_frames=CONTEXT_FRAMES,
        given_frames=2,
        known=KNOWN if base in ("composed", "optical_flow") or temporal_factor > 1 else 0,
        flow_decay=0.8 if base == "optical_flow" else None,
        target_offsets=[1, 2],
        targets=targets,
        max_span=4,
        context_dropout=context_dropout,
        data_scale={task: (0.3 + 0.2 * n,) * CHANNELS for n, task in enumerate(tasks)},
        latent_mean=(0.0,) * CHANNELS,
        latent_std=(1.0,) * CHANNELS,
    )
    save_model(folder / "denoiser", network, config)
    if segmenter:
        chosen = SegmenterParams.model_validate(SEGMENTER)
        save_model(folder / "segmenter", UNetPlusPlus(chosen), SegmenterConfig(segmenter=chosen))
        crops = ClassifierParams.model_validate(CLASSIFIER)
        save_model(folder / "classifier", CropClassifier(crops), ClassifierConfig(classifier=crops))
        save_motion(folder)
    return folder


def save_motion(folder: Path) -> None:
    """Write a motion model."""
    motion = MotionParams.model_validate(MOTION)
    network = build_motion(motion, Ground(**GROUND))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    config = MotionConfig(motion=motion, data_scale=(1.0, 0.5), ground=GroundConfig(**GROUND))
    save_model(folder / "motion", network, config)


def predict_params(hops: list[int | list[int]]) -> PredictParams:
    """Section `predict` of params.yaml with two samples of two steps."""
    section = read_file(REPO / "params.yaml")["predict"]
    assert isinstance(section, dict)
    return validate(PredictParams, section | {"hops": hops, "samples": 2, "steps": 2}, "predict")
