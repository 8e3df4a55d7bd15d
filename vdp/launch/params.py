"""Section `engine` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from vdp.config.schema import Params
from vdp.core.machine import PrecisionName


class DeviceParams(Params):
    """The processes of a stage or a command."""

    devices: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]  # processes per node, one GPU each
    num_nodes: Annotated[int, Field(ge=1, le=65536)]


class EngineParams(DeviceParams):
    """Section `engine`, shared by all stages with networks."""

    precision: PrecisionName  # of the networks; weights and losses stay in fp32
    strategy: Literal["auto", "ddp", "fsdp"]  # fsdp shards the weights
    compile: bool  # torch.compile the blocks of the networks
    checkpointing: bool  # recompute activations in the backward pass
    save_minutes: Annotated[float, Field(gt=0)]  # between training checkpoints
    save_steps: None | Annotated[int, Field(ge=1)]  # optimiser steps between checkpoints, in addition
    batch_clips: Annotated[int, Field(ge=1, le=4096)]  # clips of a batch of the stages without training
    max_skipped: Annotated[int, Field(ge=1)]  # consecutive steps with a non-finite gradient before stopping
