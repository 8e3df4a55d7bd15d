"""Section `predict` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from vdp.params import Params

FrameNumber = Annotated[int, Field(ge=2)]  # 1-based


class PredictParams(Params):
    """Section `predict`: the rollout and its sampler."""

    hops: Annotated[list[FrameNumber], Field(min_length=1)]  # ascending
    sampler: Literal["ddim"]
    steps: Annotated[int, Field(ge=1, le=1000)]  # network calls per hop
    temperature: Annotated[float, Field(ge=0, le=2)]  # scale of the starting noise; 0: one most likely future
    samples: Annotated[int, Field(ge=1, le=64)]  # futures per clip
    batch_clips: Annotated[int, Field(ge=1)]  # futures rolled out at once
