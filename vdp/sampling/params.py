"""Sections `predict` and `sample_motion` of params.yaml."""

from typing import Annotated

from pydantic import Field

from vdp.config.choices import KeptFrames, SampleCount, SamplerParams, SamplingParams, Spacing
from vdp.core.tasks import frame_groups

FrameNumber = Annotated[int, Field(ge=2)]  # 1-based
Hop = FrameNumber | Annotated[list[FrameNumber], Field(min_length=1)]  # one frame, or several jointly


class PredictParams(SamplingParams):
    """Section `predict`: the rollout and its sampler."""

    hops: Annotated[list[Hop], Field(min_length=1)]  # frame numbers, ascending
    checkpoint: None | Annotated[int, Field(ge=1)]  # step of kept weights of the denoiser; None: its last
    spacing: Spacing
    context_noise: Annotated[float, Field(ge=0, le=1)]  # on predicted frames; an input of the network
    samples: SampleCount  # per clip
    batch_size: Annotated[int, Field(ge=1)]  # samples per batch of the rollout
    keep: KeptFrames  # frames that are written

    @property
    def frame_groups(self) -> list[list[int]]:
        """Frame numbers of each hop."""
        return frame_groups(self.hops)

    @property
    def frames(self) -> list[int]:
        """Frame numbers of all hops, in the order of prediction."""
        return [frame for group in self.frame_groups for frame in group]


class SampleMotionParams(SamplerParams):
    """Section `sample_motion`: futures of the objects of a clip."""

    samples: SampleCount  # per clip; their composed masks are voted
