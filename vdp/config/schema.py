"""Base class of the schemas of params.yaml, its top-level keys, and the schema of each section.

The schema of a section is beside the code that it configures, and is imported on demand.
"""

import importlib
from pathlib import Path
from typing import Annotated, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

PARAMS_FILE = Path("params.yaml")

SECTIONS = {
    "clip": "vdp.config.schema:ClipParams",
    "simulate": "vdp.data.simulator.params:SimulateParams",
    "extract_frames": "vdp.data.params:ExtractParams",
    "augment": "vdp.data.params:AugmentParams",
    "degrade": "vdp.data.params:DegradeParams",
    "codec": "vdp.models.codecs.params:CodecParams",
    "vae": "vdp.models.codecs.params:VAEParams",
    "engine": "vdp.launch.params:EngineParams",
    "pretrain_vae": "vdp.training.params:PretrainVAEParams",
    "encode_latents": "vdp.models.codecs.params:EncodeParams",
    "denoiser": "vdp.models.denoisers.params:DenoiserParams",
    "diffusion": "vdp.diffusion.params:DiffusionParams",
    "train_denoiser": "vdp.training.params:TrainDenoiserParams",
    "segmenter": "vdp.models.segmenters.params:SegmenterParams",
    "train_segmenter": "vdp.training.params:TrainSegmenterParams",
    "classifier": "vdp.models.classifiers.params:ClassifierParams",
    "train_classifier": "vdp.training.params:TrainClassifierParams",
    "track_objects": "vdp.models.segmenters.params:TrackParams",
    "motion": "vdp.models.motion.params:MotionParams",
    "train_motion": "vdp.training.params:TrainMotionParams",
    "predict": "vdp.sampling.params:PredictParams",
    "sample_motion": "vdp.sampling.params:SampleMotionParams",
    "segment": "vdp.models.segmenters.params:SegmentParams",
    "score": "vdp.evaluation.params:ScoreParams",
    "evaluate_tasks": "vdp.evaluation.params:EvaluateTasksParams",
    "tracking": "vdp.tracking.params:TrackingParams",
}

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Params(BaseModel):
    """A section of params.yaml: frozen and strict; subclasses have no defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# A key that models of earlier versions do not have: `config.json` leaves it out where it is null.
LATER = Field(exclude_if=lambda value: value is None)


def add_left_out(cls: type[Params], data: JsonValue) -> JsonValue:
    """Add the `LATER` keys that a `config.json` of a schema leaves out, as null."""
    if not isinstance(data, dict):
        return data
    added = dict(data)
    for name, field in cls.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Params)), None)
        if field.exclude_if is not None and field.exclude_if(None):
            added.setdefault(name, None)
        elif section is not None and name in data:
            added[name] = add_left_out(section, data[name])
    return added


class ScalarParams(Params):
    """Top-level keys of params.yaml."""

    seed: Seed
    launcher: Annotated[str, Field(min_length=1)]  # command of the training stages: python, torchrun or srun


class ClipParams(Params):
    """Section `clip` of params.yaml."""

    frames: int = Field(ge=2, le=65536)  # frames of a clip
    known: int = Field(ge=1)  # context frames, from the first on
    height: int = Field(ge=8, le=16384)  # pixels
    width: int = Field(ge=8, le=16384)  # pixels

    @model_validator(mode="after")
    def known_frames_exist(self) -> Self:
        if self.known > self.frames:
            raise ValueError(f"clip.known={self.known}: expected <= clip.frames={self.frames}; lower it")
        return self

    @property
    def predicts(self) -> bool:
        """Whether frames are predicted: not where all are known, as no task is `predict`."""
        return self.known < self.frames


P = TypeVar("P", bound=Params)


def schema(section: str) -> type[Params]:
    """Return the schema of a section."""
    module, name = SECTIONS[section].split(":")
    return getattr(importlib.import_module(module), name)
