"""Sections `segmenter` and `segment` of params.yaml."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from vdp.config.schema import Params

Width = Annotated[int, Field(ge=4)]  # channels


class SegmenterParams(Params):
    """Section `segmenter`: the UNet++ of segmentation_models_pytorch."""

    encoder: str  # of segmentation_models_pytorch, untrained; resnet18, resnet34, timm names with tu-
    encoder_depth: Annotated[int, Field(ge=3, le=5)]  # halvings of the resolution
    decoder_channels: Annotated[list[Width], Field(min_length=3, max_length=5)]  # coarse to fine
    upsample: Annotated[int, Field(ge=1, le=4)]  # enlarges frames first: small objects keep their outline

    @model_validator(mode="after")
    def one_width_per_level(self) -> Self:
        if len(self.decoder_channels) != self.encoder_depth:
            raise ValueError(
                f"segmenter.decoder_channels has {len(self.decoder_channels)} entries: expected "
                f"segmenter.encoder_depth={self.encoder_depth} of them, coarse to fine"
            )
        return self


class SegmenterConfig(Params):
    """`config.json` of a trained segmenter."""

    segmenter: SegmenterParams


class SegmentParams(Params):
    """Section `segment`: how masks are made from frames."""

    flip_tta: bool  # average over each frame and its mirror image
    codec_vote: Annotated[float, Field(ge=0, le=1)]  # weight of the codec's mask head beside UNet++; 0 is off
    object_threshold: Annotated[float, Field(gt=0, lt=1)]  # least probability at which a pixel is an object
    seen_classes_only: bool  # keep only classes that the segmenter saw in the known frames
    seen_pixels: Annotated[int, Field(ge=1)]  # pixels of a class, in one known frame, that count as seen
    batch_frames: Annotated[int, Field(ge=1)]  # frames segmented at once
