"""Params of the score and of the tasks' evaluation."""

from typing import Annotated, Literal

from pydantic import Field

from vdp.config.schema import Params


class ScoreParams(Params):
    """Section `score` of params.yaml."""

    strips: int = Field(ge=0, le=200, description="clips of each test set to make pictures of")
    decay: float = Field(
        ge=0, le=1, description="velocity left after each frame in the decayed_velocity baseline"
    )


class EvaluateTasksParams(Params):
    """Section `evaluate_tasks` of params.yaml."""

    clips: int = Field(ge=1, le=1000, description="test clips of each set, spread evenly over it")
    interpolate_frames: Annotated[
        list[Annotated[int, Field(ge=1)]], Field(min_length=1)
    ]  # frames of each gap
    samples: int = Field(ge=1, le=64, description="clips to generate")
    object_pixels: int = Field(ge=1, description="pixels that an object must have to be counted")
    sampler: Literal["ddpm", "ddim", "dpmpp", "euler", "heun"]
    steps: int = Field(ge=1, le=1000, description="sampling steps")
    temperature: float = Field(ge=0, le=2, description="scale of the noise where there is a truth")
    generate_temperature: float = Field(ge=0, le=2, description="scale of the noise where there is none")
    figures: int = Field(ge=1, le=100, description="clips of each set to make pictures of")
