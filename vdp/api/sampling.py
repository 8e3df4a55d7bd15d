"""Settings of the sampler, for the Python API and the command line; loads no torch."""

from dataclasses import asdict, dataclass

import numpy as np

from vdp.config.choices import SAMPLING_DEFAULTS, SamplerName, check_sampling


@dataclass(frozen=True)
class Sampling:
    """Settings of the sampler; equal seeds give equal frames.

    Raises:
        UserError: for a value out of its range.
    """

    sampler: SamplerName = SAMPLING_DEFAULTS.sampler
    steps: int = SAMPLING_DEFAULTS.steps  # sampling steps per hop, 1..1000
    temperature: float = SAMPLING_DEFAULTS.temperature  # scale of all noise, 0 (the mode)..2
    guidance: float = SAMPLING_DEFAULTS.guidance  # weight of the context, 0..20; 1: as trained
    eta: float = SAMPLING_DEFAULTS.eta  # ddim: share of fresh noise in a step, 0..1
    seed: int = SAMPLING_DEFAULTS.seed

    def __post_init__(self) -> None:
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in asdict(self).items()}
        check_sampling(plain)

    def __str__(self) -> str:
        return ", ".join([self.sampler, *(f"{k} {v}" for k, v in asdict(self).items() if k != "sampler")])


PREDICTED_FRAMES = 11  # after a clip, of a model that predicts every frame
GENERATED_FRAMES = 22  # of a generated clip, unless the model generates fewer
DEFAULT = Sampling()
MODE = Sampling(temperature=0.0)  # of restore: nearest to the truth
UNSCALED = Sampling(temperature=1.0)  # of generate: with less noise, clips tend to be empty
