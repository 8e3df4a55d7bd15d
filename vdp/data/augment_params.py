"""Section `augment` of params.yaml: what is changed at random, for each network and each split.

There is no change of hue: colour is the class.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from vdp.params import Params


class Changes(Params):
    """What may be changed in a picture; its mask is moved alike."""

    flip: bool  # mirror half of the pictures left-right
    crop_scale: Annotated[float, Field(gt=0, le=1)]  # smallest side of a random crop, as a share; 1: no crops
    brightness: Annotated[float, Field(ge=0, lt=1)]  # largest relative change of brightness and contrast


class FrameAugment(Params):
    """Sections `augment.codec` and `augment.segmenter`, which learn from single frames."""

    train: Changes
    val: Changes


class ClipChanges(Changes):
    """What may be changed in a clip, in all of its frames alike."""

    flip: bool  # encode the mirror image of each clip as well
    random_views: Annotated[int, Field(ge=0, le=64)]  # further encodings, each with changes of its own


class ClipAugment(Params):
    """Section `augment.denoiser`, which learns from clips that are encoded once."""

    train: ClipChanges
    val: ClipChanges

    @model_validator(mode="after")
    def random_views_and_their_changes_go_together(self) -> Self:
        for split, changes in (("train", self.train), ("val", self.val)):
            name = f"augment.denoiser.{split}"
            asked = {"crop_scale": changes.crop_scale} if changes.crop_scale < 1 else {}
            asked |= {"brightness": changes.brightness} if changes.brightness > 0 else {}
            if changes.random_views and not asked:
                raise ValueError(
                    f"{name}.random_views={changes.random_views} would encode the same clip again: set "
                    "crop_scale below 1 or brightness above 0 beside it, or random_views to 0"
                )
            if asked and not changes.random_views:
                key, value = asked.popitem()
                raise ValueError(
                    f"{name}.{key}={value} does nothing without random views: set random_views beside it "
                    f"to 1 or more, or {key} to {0.0 if key == 'brightness' else 1.0}"
                )
        return self


class AugmentParams(Params):
    """Section `augment`, whole; a stage reads the part of its network."""

    codec: FrameAugment
    denoiser: ClipAugment
    segmenter: FrameAugment
