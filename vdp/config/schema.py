"""Schemas of params.yaml: the base class, the top-level keys, and where each section's schema is.

The schema of a section lives beside the code it configures. `SECTIONS` names it by module path and it is imported
on demand, so that a check of the whole file loads no network.
"""

import importlib
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

PARAMS_FILE = Path("params.yaml")

SECTIONS = {
    "clip": "vdp.config.schema:ClipParams",
    "simulate": "vdp.data.simulator.params:SimulateParams",
    "extract_frames": "vdp.data.params:ExtractParams",
    "augment": "vdp.data.params:AugmentParams",
    "degrade": "vdp.data.params:DegradeParams",
    "codec": "vdp.models.codecs.params:CodecParams",
    "vae": "vdp.models.codecs.params:VAEParams",
    "engine": "vdp.training.params:EngineParams",
    "pretrain_vae": "vdp.training.params:PretrainVAEParams",
    "encode_latents": "vdp.models.codecs.params:EncodeParams",
    "denoiser": "vdp.models.denoisers.params:DenoiserParams",
    "diffusion": "vdp.diffusion.params:DiffusionParams",
    "train_denoiser": "vdp.training.params:TrainDenoiserParams",
    "segmenter": "vdp.models.segmenters.params:SegmenterParams",
    "train_segmenter": "vdp.training.params:TrainSegmenterParams",
    "predict": "vdp.sampling.params:PredictParams",
    "segment": "vdp.models.segmenters.params:SegmentParams",
    "score": "vdp.evaluation.params:ScoreParams",
    "evaluate_tasks": "vdp.evaluation.params:EvaluateTasksParams",
}


class Params(BaseModel):
    """A section of params.yaml: frozen, no unknown keys, no guessing of types, no defaults in subclasses."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ScalarParams(Params):
    """The keys of params.yaml that stand outside every section."""

    seed: int = Field(ge=0, le=2**31 - 1)
    launcher: str = Field(
        min_length=1
    )  # what starts the training stages: python, torchrun or srun with options


class ClipParams(Params):
    """Section `clip` of params.yaml."""

    frames: int = Field(ge=2, le=65536)  # frames of a clip
    known: int = Field(ge=1)  # how many of them, from the first on, are given
    height: int = Field(ge=8, le=16384)  # pixels
    width: int = Field(ge=8, le=16384)  # pixels

    @model_validator(mode="after")
    def some_frame_is_unknown(self) -> Self:
        if self.known >= self.frames:
            raise ValueError(
                f"clip.known={self.known} leaves nothing to predict: expected < clip.frames={self.frames}"
            )
        return self


P = TypeVar("P", bound=Params)


def schema(section: str) -> type[Params]:
    """Return the schema of a section."""
    module, name = SECTIONS[section].split(":")
    return getattr(importlib.import_module(module), name)
