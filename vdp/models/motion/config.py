"""`config.json` of a trained motion model; apart from `params.py`, which imports no torch."""

from vdp.config.schema import Params
from vdp.core.ground import Ground
from vdp.models.motion.params import MotionParams


class GroundConfig(Params):
    """Fields of `vdp.core.ground.Ground`."""

    offset: float
    slope: float
    stretch: float
    deceleration: tuple[float, ...]
    diameter: float
    restitution: float
    border: float
    reach: tuple[tuple[float, float], ...]
    entry: tuple[tuple[float, float], ...]

    def floor(self) -> Ground:
        """Return the floor."""
        return Ground(**self.model_dump())


class MotionConfig(Params):
    """`config.json` of a trained motion model: how to build and use it."""

    motion: MotionParams
    data_scale: tuple[float, float]  # root mean square of the diffused changes across and along the floor
    ground: GroundConfig
