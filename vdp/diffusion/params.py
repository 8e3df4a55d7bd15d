"""Section `diffusion` of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vdp.config.schema import Params

Beta = Annotated[float, Field(gt=0, lt=1)]


class DiffusionParams(Params):
    """Section `diffusion`: the process that train_denoiser and predict share."""

    schedule: Literal["flow", "linear", "cosine", "sigmoid"]
    prediction: Literal["flow", "v", "eps", "x0"]  # what the network gives
    num_timesteps: Annotated[int, Field(ge=2, le=100_000)]  # noise levels of the process
    beta_start: Beta  # of linear and sigmoid
    beta_end: Beta
    zero_terminal_snr: bool  # scale the schedule so that its last level is pure noise
    min_snr_gamma: Annotated[float, Field(gt=0)] | None  # clamp of the loss's weight; null: the plain mean
    time_shift: Annotated[float, Field(gt=0, le=10)]  # above 1: more training at high noise; 1 is uniform
    residual: bool  # diffuse the change from the nearest known frame, not the frame

    @model_validator(mode="after")
    def betas_ascend(self) -> Self:
        if self.beta_start >= self.beta_end:
            raise ValueError(
                f"diffusion.beta_start={self.beta_start} is not below diffusion.beta_end={self.beta_end}: "
                "noise grows with time; exchange them"
            )
        return self

    @model_validator(mode="after")
    def flow_ends_in_noise(self) -> Self:
        if self.schedule == "flow" and self.zero_terminal_snr:
            raise ValueError(
                "diffusion.zero_terminal_snr=true is for linear, cosine and sigmoid: diffusion.schedule=flow "
                "ends in pure noise as it is; set it to false"
            )
        return self

    @model_validator(mode="after")
    def noise_can_be_told_from_data(self) -> Self:
        if self.prediction == "eps" and (self.schedule == "flow" or self.zero_terminal_snr):
            which = "schedule=flow" if self.schedule == "flow" else "zero_terminal_snr=true"
            raise ValueError(
                f"diffusion.prediction=eps does not go with diffusion.{which}: at pure noise eps says "
                "nothing of the picture; set prediction to v or flow"
            )
        return self
