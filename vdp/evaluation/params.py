"""Sections `score` and `evaluate_tasks` of params.yaml."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from vdp.config.choices import SampleCount, SamplerParams
from vdp.config.schema import Params


class ScoreParams(Params):
    """Section `score`."""

    strips: int = Field(ge=0, le=200, description="clips of each test set to draw strips of")
    lpips_weights: Path | None = Field(description="TorchScript file of LPIPS, or null")
    fvd_weights: Path | None = Field(description="TorchScript file of the video network of FVD, or null")


class EvaluateTasksParams(SamplerParams):
    """Section `evaluate_tasks`; `temperature` is that of predict, interpolate and restore."""

    clips: int = Field(ge=1, le=1000, description="test clips of each set, evenly spaced")
    interpolate_frames: list[Annotated[int, Field(ge=1)]] = Field(
        min_length=1, description="numbers of frames to interpolate"
    )
    samples: SampleCount = Field(description="clips to generate")
    object_pixels: int = Field(ge=1, description="min pixels of an object")
    generate_temperature: float = Field(ge=0, le=2, description="scale of the noise of generate")
    figures: int = Field(ge=1, le=100, description="clips of each set to draw figures of")
