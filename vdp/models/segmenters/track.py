"""Track the objects of a clip: masks of its frames, linked over time, with one class per object.

Shapes: K frames of H x W pixels, N objects.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vdp.core.device import autocast
from vdp.core.pixels import to_pixels
from vdp.models.classifiers.crops import CropClassifier, classify
from vdp.models.segmenters.link import Track, assign_classes, clip_tracks, track_labels
from vdp.models.segmenters.masks import MaskPredictor
from vdp.models.segmenters.params import TrackParams

Cropper = Callable[[NDArray[np.uint8], float, float], NDArray[np.uint8]]  # frame, row, column -> crop


@dataclass(frozen=True)
class TrackedClip:
    """Objects of a clip and the masks of its frames."""

    labels: NDArray[np.uint8]  # object numbers, (K, H, W); 0 is the background
    classes: NDArray[np.uint8]  # class ids, (N,)
    frame_masks: NDArray[np.uint8]  # class ids decided frame by frame, (K, H, W)


class ObjectTracker:
    """Tracks objects by the segmenter's masks and, for their classes, a classifier of crops around them."""

    def __init__(
        self, masks: MaskPredictor, classifier: CropClassifier, cropper: Cropper, params: TrackParams
    ) -> None:
        self.masks, self.classifier, self.cropper, self.params = masks, classifier, cropper, params

    def __call__(self, frames: NDArray[np.uint8]) -> TrackedClip:
        """Track the objects of frames (K, H, W, 3)."""
        return self.track(frames, self.masks.context_probs(frames).float())

    def track(self, frames: NDArray[np.uint8], probs: Tensor) -> TrackedClip:
        """Track the objects of frames (K, H, W, 3) with class probabilities (K, 49, H, W)."""
        frame_masks = self.masks.context_masks(probs)
        tracks = clip_tracks(probs.cpu().numpy(), self.params)
        evidence = [track.evidence for track in tracks]
        if self.params.classifier_weight > 0:
            crops = self._crop_evidence(frames, tracks)
            evidence = [a + self.params.classifier_weight * b for a, b in zip(evidence, crops, strict=True)]
        labels, classes = track_labels(
            tracks, assign_classes(tracks, evidence, frames.shape[1]), len(frames), frames.shape[1:3]
        )
        return TrackedClip(labels, classes, frame_masks)

    def _crop_evidence(self, frames: NDArray[np.uint8], tracks: list[Track]) -> list[NDArray[np.float32]]:
        """Weighted sum of the classifier's log-probabilities over the parts of each track, (48,) each."""
        parts = [item for track in tracks for item in track.parts.items()]
        crops = [self.cropper(np.asarray(frames[number]), *part.centre) for number, part in parts]
        if not crops:
            return []
        device = next(self.classifier.parameters()).device
        with autocast(device):
            found = classify(self.classifier, to_pixels(np.stack(crops)).to(device))
        found = found * found.new_tensor([part.weight for _, part in parts])[:, None]
        counts = [len(track.parts) for track in tracks]
        return [rows.sum(dim=0).cpu().numpy() for rows in torch.split(found, counts)]
