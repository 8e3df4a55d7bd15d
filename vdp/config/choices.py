"""Choices, ranges and defaults that params.yaml, the command line and the Python API share; no torch."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from vdp.config.messages import first_error
from vdp.config.schema import Params, Seed
from vdp.core.errors import UserError

CodecName = Literal["vae", "pixel"]
DenoiserName = Literal["unet", "dit"]
MotionName = Literal["transformer", "interaction"]
MotionSchedule = Literal["flow", "cosine"]
MotionPrediction = Literal["flow", "v", "x0"]  # eps has no data to recover at the pure noise where it starts
ScheduleName = Literal["flow", "linear", "cosine", "sigmoid"]
Prediction = Literal["flow", "v", "eps", "x0"]  # output of the network
SamplerName = Literal["ddpm", "ddim", "dpmpp", "euler", "heun"]
# frames that the diffused change is measured from: the nearest context frame, context frames moved by learned
# kernels, the last one moved on by optical flow, or the composed frame of a motion model; auto: composed
# where clips have masks, else optical_flow
BaseName = Literal["auto", "nearest", "moved", "optical_flow", "composed"]
Spacing = Literal["trailing", "leading"]  # of the sampling times
KeptFrames = Literal["last", "hops", "all"]  # of the rollout: of the last hop, or of the others too

SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
MIN_START_TIME = 0.8  # min diffusion time at which sampling may start from pure noise

SampleCount = Annotated[int, Field(ge=1, le=64)]


class SamplerParams(Params):
    """Keys of every section that samples."""

    sampler: SamplerName
    steps: Annotated[int, Field(ge=1, le=1000)]  # sampling steps per hop
    temperature: Annotated[float, Field(ge=0, le=2)]  # scale of all noise; 0: the mode


class SamplingParams(SamplerParams):
    """Settings of sampling that the command line and the Python API expose; `predict` embeds them."""

    guidance: Annotated[float, Field(ge=0, le=20)]  # weight of the context; 1: as trained
    eta: Annotated[float, Field(ge=0, le=1)]  # ddim: share of fresh noise in a step; 0 is deterministic

    @model_validator(mode="after")
    def eta_needs_ddim(self) -> Self:
        if self.eta > 0 and self.sampler != "ddim":
            raise ValueError(f"eta={self.eta:g}: expected 0 with sampler={self.sampler}; set sampler to ddim")
        return self


class SeededSampling(SamplingParams):
    """`SamplingParams` and the seed, which params.yaml has at its top level."""

    seed: Seed


SAMPLING_DEFAULTS = SeededSampling(
    sampler="ddim", steps=10, temperature=0.4, guidance=1.0, eta=0.0, seed=0
)  # of the command line and the Python API


def sampling_levels(steps: int, spacing: Spacing, num_timesteps: int) -> list[int]:
    """Return the noise levels of a sampler, `steps` + 1 of 0..num_timesteps, descending to 0.

    "trailing" starts at `num_timesteps`, pure noise; "leading" starts below it and has level 1 second to last
    (Lin et al. 2023, arXiv:2305.08891, table 2).

    Raises:
        ValueError: if `steps` is not in 1..num_timesteps.
    """
    if not 1 <= steps <= num_timesteps:
        raise ValueError(
            f"steps={steps}: expected 1..num_timesteps={num_timesteps}; use fewer steps or more levels"
        )
    if spacing == "trailing":
        return [round(step * num_timesteps / steps) for step in range(steps, -1, -1)]
    return [step * (num_timesteps // steps) + 1 for step in range(steps - 1, -1, -1)] + [0]


def limits(name: str, schema: type[Params] = SeededSampling) -> tuple[float, float]:
    """Return the inclusive bounds of a number: `limits("steps")` is (1, 1000)."""
    bounds = schema.model_fields[name].metadata
    (low,) = (bound.ge for bound in bounds if hasattr(bound, "ge"))
    (high,) = (bound.le for bound in bounds if hasattr(bound, "le"))
    return low, high


def check_sampling(values: Mapping[str, object], prefix: str = "") -> SeededSampling:
    """Validate the fields of `SeededSampling` given outside params.yaml.

    Args:
        values: every field by its name.
        prefix: of names in messages, "--" for options.

    Raises:
        UserError: for the first value out of range, as `--steps=0: expected an integer 1..1000`.
    """
    try:
        return SeededSampling.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(prefix + first_error(SeededSampling, values, error, "")) from None
