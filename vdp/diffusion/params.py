"""Section `diffusion` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from vdp.params import Params


class DiffusionParams(Params):
    """Section `diffusion`: the process that train_denoiser and predict share."""

    process: Literal["flow", "v"]
    time_shift: Annotated[float, Field(gt=0, le=10)]  # above 1: more training at high noise; 1 is uniform
