"""Mask scores of one test set: the prediction, its baselines and its ceilings on the same clips."""

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
    """Masks of one clip, uint8 class ids: (K, H, W) of context frames, (H, W) of the target frame."""

    prediction: Mask
    segmented_context: Mask  # segmenter on the true context frames
    segmented_target: Mask  # segmenter on the true target
    unetpp_target: Mask  # UNet++ alone, without the codec's vote, on the true target
    segmented_round_trip: Mask  # segmenter on the true target, encoded and decoded
    context: Mask  # truth
    target: Mask  # truth


@dataclass(frozen=True)
class MaskScores:
    """Confusion matrices pooled over the clips, and the Jaccard index of each clip's prediction."""

    confusion: dict[str, Confusion]  # 'prediction', each of BASELINES and of CEILINGS
    per_video: list[float]


def score_masks(clips: Iterable[ClipMasks], steps: int, decay: float) -> MaskScores:
    """Score the prediction, the baselines and the ceilings of each clip; one clip is in memory at a time.

    Args:
        clips: the test set.
        steps: frames from the last context frame to the target.
        decay: see `vdp.evaluation.baselines.decayed_velocity`.
    """
    kinds = ("prediction", *BASELINES, *CEILINGS)
    pooled = {kind: np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64) for kind in kinds}
    per_video = []
    for clip in clips:
        for kind, mask in _candidates(clip, steps, decay).items():
            confusion = confusion_matrix(mask, clip.target)
            pooled[kind] += confusion
            if kind == "prediction":
                per_video.append(jaccard(confusion))
    return MaskScores(pooled, per_video)


def set_scores(masks: MaskScores, psnr: float, ssim: float) -> SetScores:
    """Build the entry of one test set in results/metrics.json."""
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


def _candidates(clip: ClipMasks, steps: int, decay: float) -> dict[str, Mask]:
    return {
        "prediction": clip.prediction,
        "copy_last": copy_last(clip.segmented_context),
        "copy_last_truth": copy_last(clip.context),
        "constant_velocity": constant_velocity(clip.segmented_context, steps),
        "decayed_velocity": decayed_velocity(clip.segmented_context, steps, decay),
        "segmenter": clip.segmented_target,
        "unetpp_alone": clip.unetpp_target,
        "codec": clip.segmented_round_trip,
        "seen_classes": only_seen_classes(clip.target, clip.context),
    }


def _number(value: float) -> float:
    return round(value, 6)
