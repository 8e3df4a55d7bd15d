"""Section `simulate` of params.yaml: the embedded data set (no heavy imports: every command reads it)."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from vdp.config.schema import Params

Share = Annotated[float, Field(ge=0, le=1)]


class SimulateParams(Params):
    """Numbers and size of the simulated videos, and the motion of their objects."""

    train: int = Field(ge=1, le=50_000)  # videos in the training split
    val: int = Field(ge=1, le=50_000)  # videos in the validation split
    test: int = Field(ge=1, le=50_000)  # videos in the test split
    unlabeled: int = Field(ge=0, le=50_000)  # videos without masks
    tracks: int = Field(ge=0, le=1_000_000)  # clips of which only the tracks are written
    height: int = Field(ge=16, le=1024)  # pixels
    width: int = Field(ge=24, le=1536)  # pixels; 3:2 with height
    inside: tuple[int, int]  # min and max objects in the view at the start
    entering: tuple[int, int]  # min and max objects that enter from outside
    rest_share: Share  # share of the objects in the view that start at rest
    speed: tuple[float, float]  # range of the starting speed, object widths per frame
    aim_share: Share  # share of the entering objects that move towards one in the view
    entry_frames: tuple[float, float]  # range of the frame at which an entering object starts
    friction: float = Field(ge=0, le=1)  # Coulomb coefficient between floor and objects
    workers: int = Field(ge=0, le=256)  # processes; 0 is one for each core

    @model_validator(mode="after")
    def ranges_are_valid(self) -> Self:
        for key, lowest, highest in (
            ("inside", 1, 8),
            ("entering", 0, 8),
            ("speed", 0.0, 4.0),
            ("entry_frames", 0.0, 1000.0),
        ):
            low, high = getattr(self, key)
            if not lowest <= low <= high <= highest:
                raise ValueError(
                    f"simulate.{key}=[{low}, {high}]: expected two values in order, "
                    f"{lowest} <= low <= high <= {highest}"
                )
        return self

    @model_validator(mode="after")
    def view_is_three_to_two(self) -> Self:
        if self.height * 3 != self.width * 2:
            raise ValueError(
                f"simulate.height={self.height}, simulate.width={self.width}: expected the camera's "
                f"3:2 view; set simulate.width to {self.height * 3 // 2} (height must be even)"
            )
        return self
