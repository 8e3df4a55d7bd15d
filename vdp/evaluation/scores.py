"""All mask numbers of one test set: the prediction, its baselines and its ceilings, on the same clips."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdp.core.classes import NUM_CLASSES
from vdp.evaluation.baselines import constant_velocity, copy_last, decayed_velocity
from vdp.evaluation.mask import Confusion, confusion_matrix, jaccard, jaccard_foreground, only_seen_classes

Mask = NDArray[np.uint8]

BASELINES = ("copy_last", "copy_last_truth", "constant_velocity", "decayed_velocity")
CEILINGS = ("segmenter", "unetpp_alone", "codec", "seen_classes")

SetScores = dict[str, float | dict[str, float]]  # one test set of results/metrics.json


@dataclass(frozen=True)
class ClipMasks:
    """Masks of one clip, uint8 class ids; the target is the frame that is scored.

    Attributes:
        prediction: the answer for the target, (H, W).
        segmented_known: the segmenter's masks of the true known frames, (K, H, W).
        segmented_target: the segmenter's mask of the true target, (H, W).
        unetpp_target: the mask of the true target by UNet++ without the codec's vote, (H, W).
        segmented_round_trip: the segmenter's mask of the true target encoded and decoded, (H, W).
        known: true masks of the known frames, (K, H, W).
        target: true mask of the target, (H, W).
    """

    prediction: Mask
    segmented_known: Mask
    segmented_target: Mask
    unetpp_target: Mask
    segmented_round_trip: Mask
    known: Mask
    target: Mask


@dataclass(frozen=True)
class MaskScores:
    """Confusion of every answer, pooled over the clips, and the Jaccard index of each clip's prediction."""

    confusion: dict[str, Confusion]  # 'prediction', each of BASELINES and of CEILINGS
    per_video: list[float]


def score_masks(clips: Iterable[ClipMasks], steps: int, decay: float) -> MaskScores:
    """Compare every answer with the truth, clip by clip.

    Args:
        clips: the test set; read once, one clip in memory.
        steps: frames from the last known one to the target.
        decay: see `vdp.evaluation.baselines.decayed_velocity`.
    """
    kinds = ("prediction", *BASELINES, *CEILINGS)
    pooled = {kind: np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64) for kind in kinds}
    per_video = []
    for clip in clips:
        for kind, answer in _answers(clip, steps, decay).items():
            confusion = confusion_matrix(answer, clip.target)
            pooled[kind] += confusion
            if kind == "prediction":
                per_video.append(jaccard(confusion))
    return MaskScores(pooled, per_video)


def set_scores(masks: MaskScores, psnr: float, ssim: float) -> SetScores:
    """The numbers of one test set as they stand in results/metrics.json."""
    scores = {kind: jaccard(confusion) for kind, confusion in masks.confusion.items()}
    return {
        "jaccard": _number(scores["prediction"]),
        "jaccard_over_copy": _number(scores["prediction"] / max(scores["copy_last"], 1e-6)),
        "jaccard_foreground": _number(jaccard_foreground(masks.confusion["prediction"])),
        "jaccard_per_video": _number(float(np.mean(masks.per_video))),
        "psnr": _number(psnr),
        "ssim": _number(ssim),
        "clips": len(masks.per_video),
        "baseline": {kind: _number(scores[kind]) for kind in BASELINES},
        "ceiling": {kind: _number(scores[kind]) for kind in CEILINGS},
    }


def _answers(clip: ClipMasks, steps: int, decay: float) -> dict[str, Mask]:
    return {
        "prediction": clip.prediction,
        "copy_last": copy_last(clip.segmented_known),
        "copy_last_truth": copy_last(clip.known),
        "constant_velocity": constant_velocity(clip.segmented_known, steps),
        "decayed_velocity": decayed_velocity(clip.segmented_known, steps, decay),
        "segmenter": clip.segmented_target,
        "unetpp_alone": clip.unetpp_target,
        "codec": clip.segmented_round_trip,
        "seen_classes": only_seen_classes(clip.target, clip.known),
    }


def _number(value: float) -> float:
    return round(value, 6)
