"""Section `motion` of params.yaml."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from vdp.config.choices import MotionName, MotionPrediction, MotionSchedule
from vdp.config.schema import Params


class MotionParams(Params):
    """Section `motion`: the network."""

    name: MotionName
    schedule: MotionSchedule  # noise schedule
    prediction: MotionPrediction  # output of the network
    hidden_dim: Annotated[int, Field(ge=16, le=1024)]  # channels per object
    pair_dim: Annotated[int, Field(ge=4, le=256)]  # channels per pair of objects
    depth: Annotated[int, Field(ge=1, le=32)]  # blocks, or rounds of messages, that encode the context
    head_depth: Annotated[int, Field(ge=1, le=32)]  # blocks, or rounds, of the denoising head
    num_heads: Annotated[int, Field(ge=1, le=32)]  # of the transformer's attention; divides hidden_dim
    context_slots: Annotated[int, Field(ge=2, le=256)]  # frames before the targets that enter the network
    target_slots: Annotated[int, Field(ge=1, le=256)]  # frames after the context that it predicts

    @model_validator(mode="after")
    def heads_divide_dim(self) -> Self:
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                f"motion.hidden_dim={self.hidden_dim}: expected a multiple of motion.num_heads="
                f"{self.num_heads}; change one of them"
            )
        return self
