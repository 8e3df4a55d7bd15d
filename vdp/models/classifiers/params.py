"""Section `classifier` of params.yaml."""

from typing import Annotated

from pydantic import Field

from vdp.config.schema import Params


class ClassifierParams(Params):
    """Section `classifier`: the network of object crops."""

    crop: Annotated[int, Field(ge=8, le=256)]  # side of its input; pixels
    crop_scale: Annotated[float, Field(gt=0, le=1)]  # side of a crop; fraction of the frame's height
    base_channels: Annotated[int, Field(ge=8, le=512)]  # of the first convolution; the last has 3 times these


class ClassifierConfig(Params):
    """`config.json` of a trained classifier."""

    classifier: ClassifierParams
