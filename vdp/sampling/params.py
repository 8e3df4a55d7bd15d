"""Section `predict` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from vdp.config.schema import Params
from vdp.core.tasks import frame_groups

FrameNumber = Annotated[int, Field(ge=2)]  # 1-based
Hop = FrameNumber | Annotated[list[FrameNumber], Field(min_length=1)]  # one frame, or several at once


class PredictParams(Params):
    """Section `predict`: the rollout and its sampler."""

    hops: Annotated[list[Hop], Field(min_length=1)]  # ascending
    sampler: Literal["ddpm", "ddim", "dpmpp", "euler", "heun"]
    spacing: Literal["trailing", "leading"]  # of the sampling times
    eta: Annotated[float, Field(ge=0, le=1)]  # share of fresh noise in a step of ddim; 0 is deterministic
    steps: Annotated[int, Field(ge=1, le=1000)]  # sampling steps per hop
    temperature: Annotated[float, Field(ge=0, le=2)]  # scale of all noise; 0: one most likely future
    guidance: Annotated[float, Field(ge=0, le=20)]  # weight of the context; 1: as trained
    context_noise: Annotated[float, Field(ge=0, le=1)]  # noise on made frames, which the network is told
    samples: Annotated[int, Field(ge=1, le=64)]  # futures per clip
    batch_size: Annotated[int, Field(ge=1)]  # futures rolled out at once

    @property
    def frame_groups(self) -> list[list[int]]:
        """The hops, each as the list of its frame numbers."""
        return frame_groups(self.hops)

    @property
    def frames(self) -> list[int]:
        """Frame numbers of all hops, in the order of prediction."""
        return [frame for group in self.frame_groups for frame in group]
