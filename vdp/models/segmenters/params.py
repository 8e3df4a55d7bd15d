"""Sections `segmenter`, `track_objects` and `segment` of params.yaml."""

import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from vdp.config.schema import LATER, Params

BACKBONE = re.compile(r"conv(\d+)")  # name of the classifier's backbone as an encoder, with its base channels
IMAGENET = "imagenet"  # in place of a file of weights
BACKBONE_DEPTH = 2  # its downsamplings
Width = Annotated[int, Field(ge=4)]  # channels
Side = Annotated[int, Field(ge=16, le=4096)]  # pixels


class SegmenterParams(Params):
    """Section `segmenter`: the UNet++ of segmentation_models_pytorch."""

    encoder: str  # conv<base channels>, or of segmentation_models_pytorch: resnet18, timm names with tu-
    encoder_depth: Annotated[int, Field(ge=2, le=5)]  # downsamplings
    decoder_channels: Annotated[list[Width], Field(min_length=2, max_length=5)]  # coarse to fine
    upsample: Annotated[int, Field(ge=1, le=4)]  # of the input frames, for the outlines of small objects
    size: Annotated[tuple[Side, Side] | None, LATER]  # height and width of the network; None: of the frames
    weights: Annotated[
        str | None, Field(min_length=1), LATER
    ]  # to start the encoder with: imagenet, or a file

    @property
    def backbone_channels(self) -> int | None:
        """Base channels of an encoder `conv<base channels>`, else None."""
        found = BACKBONE.fullmatch(self.encoder)
        return int(found[1]) if found else None

    @model_validator(mode="after")
    def backbone_has_its_depth(self) -> Self:
        if self.backbone_channels is not None and self.encoder_depth != BACKBONE_DEPTH:
            raise ValueError(
                f"segmenter.encoder_depth={self.encoder_depth}: expected {BACKBONE_DEPTH} with the encoder "
                f"{self.encoder}"
            )
        return self

    @model_validator(mode="after")
    def backbone_has_no_weights(self) -> Self:
        if self.weights is not None and self.backbone_channels is not None:
            raise ValueError(
                f"segmenter.weights={self.weights}: expected null with the encoder {self.encoder}, which "
                "train_segmenter.pretrained starts; choose another encoder, such as resnet34"
            )
        return self

    @model_validator(mode="after")
    def size_is_not_upsampled(self) -> Self:
        if self.size is not None and self.upsample > 1:
            raise ValueError(
                f"segmenter.upsample={self.upsample}: expected 1 with segmenter.size={list(self.size)}, to "
                "which frames are resized"
            )
        return self

    @model_validator(mode="after")
    def one_width_per_level(self) -> Self:
        if len(self.decoder_channels) != self.encoder_depth:
            raise ValueError(
                f"segmenter.decoder_channels={self.decoder_channels}: expected segmenter.encoder_depth="
                f"{self.encoder_depth} entries, coarse to fine"
            )
        return self


class SegmenterConfig(Params):
    """`config.json` of a trained segmenter."""

    segmenter: SegmenterParams


class SegmentParams(Params):
    """Section `segment`."""

    flip_tta: bool  # average over each frame and its mirror image
    codec_vote: Annotated[float, Field(ge=0, le=1)]  # weight of the mask head of the codec; 0: off
    motion_vote: Annotated[float, Field(ge=0, le=1)]  # weight of the composed masks; 0: off
    object_threshold: Annotated[float, Field(gt=0, lt=1)]  # min probability of a foreground pixel
    vote_threshold: Annotated[float, Field(gt=0, lt=1)]  # the same where composed masks vote
    seen_classes_only: bool  # keep only classes that the segmenter finds in the context frames
    seen_pixels: Annotated[int, Field(ge=1)]  # min pixels, in one context frame, of such a class
    batch_frames: Annotated[int, Field(ge=1)]  # frames per batch


class TrackParams(Params):
    """Section `track_objects`."""

    object_threshold: Annotated[float, Field(gt=0, lt=1)]  # min probability of a foreground pixel
    min_pixels: Annotated[int, Field(ge=1)]  # of a part of the foreground
    max_gap: Annotated[int, Field(ge=1)]  # frames from one sighting of an object to the next
    max_distance: Annotated[float, Field(gt=0, le=1)]  # of a part from its track; frame heights
    classifier_weight: Annotated[float, Field(ge=0)]  # evidence of the crops beside that of the masks
    unlabeled: Annotated[int, Field(ge=0)]  # clips without masks to track, for train_motion
