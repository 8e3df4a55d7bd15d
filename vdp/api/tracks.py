"""The trained segmenter and classifier, joined to a tracker of the objects of a clip."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vdp.data.crops import crop_frame, crop_side
from vdp.models.checkpoint import is_trained
from vdp.models.classifiers.crops import load_classifier
from vdp.models.codecs.factory import load_codec
from vdp.models.segmenters.factory import load_segmenter
from vdp.models.segmenters.masks import MaskPredictor
from vdp.models.segmenters.params import SegmentParams, TrackParams
from vdp.models.segmenters.track import ObjectTracker

CODEC, SEGMENTER, CLASSIFIER = "codec", "segmenter", "classifier"  # subfolders of a models folder

# of clips outside the pipeline, as sections segment and track_objects of params.yaml
TRACKED_MASKS = SegmentParams(
    flip_tta=True,
    motion_vote=0.0,
    codec_vote=0.7,
    object_threshold=0.4,
    vote_threshold=0.3,
    seen_classes_only=True,
    seen_pixels=6,
    batch_frames=32,
)
TRACKING = TrackParams(
    object_threshold=0.4, min_pixels=4, max_gap=3, max_distance=0.2, classifier_weight=2.0, unlabeled=0
)


def has_classifier(models: Path) -> bool:
    """Whether the pipeline has trained a classifier: not where no clip has masks."""
    return is_trained(models / CLASSIFIER)


def load_tracker(
    models: Path, segment: SegmentParams, params: TrackParams, device: torch.device
) -> ObjectTracker:
    """Open the models of a folder; errors as of `vdp.models.checkpoint`."""
    segmenter = load_segmenter(models / SEGMENTER).to(device)
    codec = load_codec(models / CODEC).to(device)
    classifier = load_classifier(models / CLASSIFIER).to(device)

    def crop(frame: NDArray[np.uint8], row: float, column: float) -> NDArray[np.uint8]:
        side = crop_side(classifier.params.crop_scale, frame.shape[0])
        return crop_frame(frame, row, column, side, classifier.params.crop)

    return ObjectTracker(MaskPredictor(segmenter, codec, segment, device), classifier, crop, params)
