"""Params of the score."""

from pydantic import Field

from vdp.params import Params


class ScoreParams(Params):
    """Section `score` of params.yaml."""

    strips: int = Field(ge=0, le=200, description="clips of each test set to make pictures of")
    decay: float = Field(
        ge=0, le=1, description="velocity left after each frame in the decayed_velocity baseline"
    )
