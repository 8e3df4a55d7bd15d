"""Section `degrade` of params.yaml: how clips are degraded for a network that learns to restore them."""

from typing import Self

from pydantic import model_validator

from vdp.params import Params

LIMITS = {  # least and most strength of each kind, in its own unit: see `vdp.data.degrade.degrade`
    "noise": (0.0, 1.0),
    "low_light": (0.01, 1.0),
    "blur": (0.0, 64.0),
    "compression": (1.0, 100.0),
    "dropped": (0.0, 1.0),
}

Range = tuple[float, float]


class DegradeParams(Params):
    """Section `degrade`: the least and the most strength of each kind; null for a kind that is off."""

    noise: Range | None  # standard deviation of Gaussian noise, a share of the full range of brightness
    low_light: Range | None  # share of the brightness that is left
    blur: Range | None  # standard deviation of a Gaussian blur, pixels
    compression: Range | None  # JPEG quality
    dropped: Range | None  # share of the frames that are lost

    @property
    def ranges(self) -> dict[str, Range]:
        """The ranges of the kinds that are on."""
        found = {kind: getattr(self, kind) for kind in LIMITS}
        return {kind: ends for kind, ends in found.items() if ends is not None}

    @model_validator(mode="after")
    def ranges_make_sense(self) -> Self:
        """Name the kind whose range is reversed or too wide, or say that all are off."""
        if not self.ranges:
            raise ValueError(
                f"every kind is off: give one of {', '.join(LIMITS)} a range, as noise: [0.05, 0.2]"
            )
        for kind, (low, high) in self.ranges.items():
            least, most = LIMITS[kind]
            if not least <= low <= high <= most:
                raise ValueError(
                    f"degrade.{kind}=[{low:g}, {high:g}] is out of range: expected two values in order, "
                    f"{least:g} <= low <= high <= {most:g}"
                )
        return self
