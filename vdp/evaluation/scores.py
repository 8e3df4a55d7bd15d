"""Scores of one test set: the prediction, its baselines and its ceilings on the same clips."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from vdp.core.classes import NUM_CLASSES
from vdp.evaluation.baselines import Decay, constant_velocity, copy_last, decayed_velocity
from vdp.evaluation.bootstrap import Interval, draw_resamples, interval, resampled_jaccard
from vdp.evaluation.frame import FrameScore
from vdp.evaluation.hops import COPY, FLOW, PREDICTED
from vdp.evaluation.mask import (
    Confusion,
    PixelCounts,
    confusion_matrix,
    foreground_share,
    jaccard,
    jaccard_foreground,
    only_seen_classes,
    pixel_counts,
)
from vdp.evaluation.table import SetScores

Mask = NDArray[np.uint8]


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
    tracked_context: Mask | None = None  # context masks after object tracking
    motion_only: Mask | None = None  # composed target of one deterministic answer of the motion model


@dataclass(frozen=True)
class Candidate:
    """One candidate against the truth."""

    confusion: Confusion  # pooled over the clips
    counts: PixelCounts  # of each clip, (clips, 3, classes)

    @property
    def jaccard(self) -> float:
        return jaccard(self.confusion)


@dataclass(frozen=True)
class MaskScores:
    """The prediction, its baselines and its ceilings, and the Jaccard index of each clip's prediction."""

    prediction: Candidate
    baselines: dict[str, Candidate]
    ceilings: dict[str, Candidate]
    per_video: list[float]
    decay: Decay


def score_masks(clips: Iterable[ClipMasks], steps: int, decay: Decay) -> MaskScores:
    """Score the prediction, the baselines and the ceilings of each clip; one clip is in memory at a time.

    Args:
        clips: the test set; optional masks are given for all clips or for none.
        steps: frames from the last context frame to the target.
        decay: that of the baselines `decayed_velocity`.

    Raises:
        ValueError: if there are no clips, or only some have a mask that is optional.
    """
    prediction = _Tally()
    baselines: defaultdict[str, _Tally] = defaultdict(_Tally)
    ceilings: defaultdict[str, _Tally] = defaultdict(_Tally)
    per_video = []
    for clip in clips:
        per_video.append(jaccard(prediction.add(clip.prediction, clip.target)))
        for name, mask in _baselines(clip, steps, decay.value).items():
            baselines[name].add(mask, clip.target)
        for name, mask in _ceilings(clip).items():
            ceilings[name].add(mask, clip.target)
    count = len(per_video)
    return MaskScores(
        prediction.candidate("prediction", count),
        {name: tally.candidate(name, count) for name, tally in baselines.items()},
        {name: tally.candidate(name, count) for name, tally in ceilings.items()},
        per_video,
        decay,
    )


class _Tally:
    """Confusion of one candidate's masks, added clip by clip."""

    def __init__(self) -> None:
        self.pooled = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
        self.counts: list[PixelCounts] = []

    def add(self, mask: Mask, truth: Mask) -> Confusion:
        confusion = confusion_matrix(mask, truth)
        self.pooled += confusion
        self.counts.append(pixel_counts(confusion))
        return confusion

    def candidate(self, name: str, clips: int) -> Candidate:
        if not clips:
            raise ValueError("clips: expected at least one to score, got none")
        if len(self.counts) != clips:
            raise ValueError(
                f"{name}: expected masks of all {clips} clips or of none, got {len(self.counts)}"
            )
        return Candidate(self.pooled, np.stack(self.counts))


def _baselines(clip: ClipMasks, steps: int, decay: float) -> dict[str, Mask]:
    contexts = {"": clip.segmented_context, "_truth": clip.context, "_tracked": clip.tracked_context}
    given = {suffix: context for suffix, context in contexts.items() if context is not None}
    motion = {} if clip.motion_only is None else {"motion_only": clip.motion_only}
    return {
        **{f"copy_last{suffix}": copy_last(context) for suffix, context in given.items()},
        "constant_velocity": constant_velocity(clip.segmented_context, steps),
        **{f"decayed_velocity{suffix}": decayed_velocity(c, steps, decay) for suffix, c in given.items()},
        **motion,
    }


def _ceilings(clip: ClipMasks) -> dict[str, Mask]:
    return {
        "segmenter": clip.segmented_target,
        "unetpp_alone": clip.unetpp_target,
        "codec": clip.segmented_round_trip,
        "seen_classes": only_seen_classes(clip.target, clip.context),
    }


def set_scores(masks: MaskScores, psnr: float, ssim: float, rng: np.random.Generator) -> SetScores:
    """Build the entry of one test set in results/metrics.json.

    Args:
        masks: of the set's clips.
        psnr: of the predicted target frames, in dB.
        ssim: of the predicted target frames.
        rng: draws the resamples of the intervals.
    """
    baselines = masks.baselines
    headline = masks.prediction.jaccard
    resamples = draw_resamples(len(masks.per_video), rng)
    predicted = resampled_jaccard(masks.prediction.counts, resamples)
    others = {name: resampled_jaccard(other.counts, resamples) for name, other in baselines.items()}
    return {
        "jaccard": _number(headline),
        "jaccard_over_copy": _number(headline / max(baselines["copy_last"].jaccard, 1e-6)),
        "jaccard_foreground": _number(jaccard_foreground(masks.prediction.confusion)),
        "jaccard_per_video": _number(float(np.mean(masks.per_video))),
        "foreground_share": _number(foreground_share(masks.prediction.confusion)),
        "psnr": _number(psnr),
        "ssim": _number(ssim),
        "clips": len(masks.per_video),
        "decay": masks.decay.value,
        "decay_clips": masks.decay.clips,
        "baseline": {name: _number(other.jaccard) for name, other in baselines.items()},
        "difference": {name: _number(headline - other.jaccard) for name, other in baselines.items()},
        "ceiling": {name: _number(other.jaccard) for name, other in masks.ceilings.items()},
        "interval": {
            "jaccard": _ends(interval(predicted)),
            "baseline": {name: _ends(interval(values)) for name, values in others.items()},
            "difference": {name: _ends(interval(predicted - values)) for name, values in others.items()},
        },
    }


def frame_set_scores(
    hops: Mapping[int, Mapping[str, FrameScore]], clips: int, videos: Mapping[str, float]
) -> SetScores:
    """Build the entry of a test set without masks in results/metrics.json; the last hop is the target.

    Args:
        hops: of `vdp.evaluation.hops.score_hops`.
        clips: clips scored.
        videos: FVD by origin of the frames, of `video_distances`; empty without its network.
    """
    target = hops[max(hops)]
    baselines = {name: _frame_numbers(target[name], videos.get(name)) for name in (COPY, FLOW)}
    return {
        **_frame_numbers(target[PREDICTED], videos.get(PREDICTED)),
        "clips": clips,
        "baseline": baselines,
        "hops": {
            str(number): {name: _frame_numbers(score, None) for name, score in scores.items()}
            for number, scores in hops.items()
        },
    }


def perceptual_scores(score: FrameScore, fvd: float | None) -> dict[str, float]:
    """LPIPS and FVD, where there are networks for them."""
    return {
        name: _number(value) for name, value in (("lpips", score.lpips), ("fvd", fvd)) if value is not None
    }


def _frame_numbers(score: FrameScore, fvd: float | None) -> dict[str, float]:
    return {"psnr": _number(score.psnr), "ssim": _number(score.ssim), **perceptual_scores(score, fvd)}


def _ends(of: Interval) -> Mapping[str, float]:
    return {end: _number(value) for end, value in asdict(of).items()}


def _number(value: float) -> float:
    return round(value, 6)
