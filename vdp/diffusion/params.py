"""Section `diffusion` of params.yaml."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from vdp.config.choices import BaseName, Prediction, ScheduleName
from vdp.config.schema import Params

Beta = Annotated[float, Field(gt=0, lt=1)]


class DiffusionParams(Params):
    """Section `diffusion`: the process that train_denoiser and predict share."""

    schedule: ScheduleName
    prediction: Prediction  # output of the network
    num_timesteps: Annotated[int, Field(ge=2, le=100_000)]  # noise levels of the process
    beta_start: Beta  # of linear and sigmoid
    beta_end: Beta
    zero_terminal_snr: bool  # rescale the schedule so that its last level is pure noise
    min_snr_gamma: Annotated[float, Field(gt=0)] | None  # clamp of the loss weight; null: uniform weights
    time_shift: Annotated[float, Field(gt=0, le=10)]  # above 1: more training at high noise; 1 is uniform
    residual: bool  # diffuse the change from the base, not the frame
    base: BaseName  # what the change is measured from

    def signal(self, level: int) -> float:
        """Return the amplitude of the data at a noise level, 0..num_timesteps."""
        # a check of params.yaml loads torch only when it needs this
        import torch

        from vdp.diffusion.schedules import make_process

        alpha, _ = make_process(self).schedule(torch.tensor(level / self.num_timesteps, dtype=torch.float64))
        return alpha.item()

    @model_validator(mode="after")
    def betas_ascend(self) -> Self:
        if self.beta_start >= self.beta_end:
            raise ValueError(
                f"diffusion.beta_start={self.beta_start}: expected < diffusion.beta_end={self.beta_end}; "
                "exchange them"
            )
        return self

    @model_validator(mode="after")
    def flow_ends_in_noise(self) -> Self:
        if self.schedule == "flow" and self.zero_terminal_snr:
            raise ValueError(
                "diffusion.zero_terminal_snr=true: expected false with diffusion.schedule=flow, which ends "
                "in pure noise; set it to false"
            )
        return self

    @model_validator(mode="after")
    def eps_is_defined_at_the_last_level(self) -> Self:
        if self.prediction == "eps" and (self.schedule == "flow" or self.zero_terminal_snr):
            which = "schedule=flow" if self.schedule == "flow" else "zero_terminal_snr=true"
            raise ValueError(
                f"diffusion.prediction=eps: expected v, x0 or flow with diffusion.{which}, as pure noise "
                "has no data to recover from eps; set prediction to v or flow"
            )
        return self
