from dataclasses import replace

import numpy as np
import pytest

from vdp.evaluation.baselines import Decay
from vdp.evaluation.scores import ClipMasks, score_masks, set_scores
from vdp.evaluation.table import SetScores
from vdp.tracking.mlflow_run import flatten

BASELINES = {
    "copy_last", "copy_last_truth", "constant_velocity", "decayed_velocity", "decayed_velocity_truth",
}  # fmt: skip
OPTIONAL = {"copy_last_tracked", "decayed_velocity_tracked", "motion_only"}


def moving_clip(label: int, new: int) -> np.ndarray:
    """22 masks: an object moves right by a pixel per frame; from frame 15 on there is another at the top."""
    masks = np.zeros((22, 40, 80), np.uint8)
    for k in range(22):
        masks[k, 20:30, 5 + k : 15 + k] = label
        if k >= 14:
            masks[k, 2:8, 60:70] = new
    return masks


def scores_of(*clips: tuple[np.ndarray, np.ndarray]) -> SetScores:
    """Scores of (true masks, prediction) with a perfect segmenter."""
    return scores_of_masks([clip_masks(masks, prediction) for masks, prediction in clips])


def clip_masks(masks: np.ndarray, prediction: np.ndarray) -> ClipMasks:
    target = masks[21]
    return ClipMasks(prediction, masks[:11], target, target, target, masks[:11], target)


def scores_of_masks(clips: list[ClipMasks], decay: float = 0.5) -> SetScores:
    scored = score_masks(clips, steps=11, decay=Decay(decay, 8))
    return set_scores(scored, 30.0, 0.9, np.random.default_rng(0))


def test_prediction_baselines_and_ceilings_are_scored_on_the_same_clips():
    """The object is 10 pixels wide and moves by 11: a copy overlaps none of it, constant velocity all."""
    masks = moving_clip(label=7, new=30)
    scores = scores_of((masks, masks[21]))
    assert scores["jaccard"] == scores["jaccard_foreground"] == scores["jaccard_per_video"] == 1
    assert scores["ceiling"] == pytest.approx(
        {"segmenter": 1, "unetpp_alone": 1, "codec": 1, "seen_classes": (3040 / 3100 + 1 + 0) / 3}, abs=1e-6
    )
    baseline = scores["baseline"]
    assert baseline["constant_velocity"] == scores["ceiling"]["seen_classes"]
    assert baseline["copy_last"] == baseline["copy_last_truth"] == pytest.approx(2940 / 3100 / 3, abs=2e-2)
    assert scores["jaccard_over_copy"] == pytest.approx(1 / baseline["copy_last"], abs=1e-5)
    assert (scores["psnr"], scores["ssim"], scores["clips"]) == (30.0, 0.9, 1)
    assert (scores["foreground_share"], scores["decay"], scores["decay_clips"]) == (1, 0.5, 8)


def test_predicting_the_copy_gives_a_ratio_of_one():
    masks = moving_clip(7, 30)
    assert scores_of((masks, masks[10]))["jaccard_over_copy"] == 1


def test_the_headline_pools_clips_and_the_mean_per_video_does_not():
    """A class right in one clip and wrong in the other: pooled, both clips share one class score."""
    masks = moving_clip(7, 0)
    scores = scores_of((masks, masks[21]), (masks, np.zeros_like(masks[21])))
    background = (3100 + 3100) / (3100 + 3200)
    assert scores["jaccard"] == pytest.approx((background + 100 / 200) / 2, abs=1e-6)
    assert scores["jaccard_per_video"] == pytest.approx((1 + (3100 / 3200 + 0) / 2) / 2, abs=1e-6)
    assert scores["clips"] == 2


def test_all_numbers_are_plain_floats_and_integers():
    def numbers(scores: SetScores) -> list[object]:
        nested = [numbers(v) if isinstance(v, dict) else [v] for v in scores.values()]
        return [number for part in nested for number in part]

    masks = moving_clip(7, 30)
    assert all(type(value) in (int, float) for value in numbers(scores_of((masks, masks[21]))))


def test_every_baseline_has_an_interval_and_so_has_its_difference():
    masks = moving_clip(7, 30)
    scores = scores_of((masks, masks[21]))
    assert set(scores["baseline"]) == BASELINES and list(scores["difference"]) == list(scores["baseline"])
    names = ["jaccard", *(f"{group}.{name}" for group in ("baseline", "difference") for name in BASELINES)]
    assert set(flatten(scores["interval"])) == {f"{name}.{end}" for name in names for end in ("low", "high")}


def test_one_clip_has_intervals_of_no_width():
    masks = moving_clip(7, 30)
    scores = flatten(scores_of((masks, masks[15])))
    names = [name.removesuffix(".low") for name in scores if name.endswith(".low")]
    for name in names:
        point = scores[name.removeprefix("interval.")]
        assert scores[f"{name}.low"] == scores[f"{name}.high"] == pytest.approx(point, abs=2e-6)


def two_kinds_of_clips(count: int) -> list[np.ndarray]:
    return [moving_clip(7 + n % 5, 30) for n in range(count)]


def test_a_prediction_and_its_equal_differ_by_exactly_zero():
    """`motion_only` is the prediction; some clips are right and some are not, so the scores do spread."""
    clips = [clip_masks(m, m[21 - n % 6]) for n, m in enumerate(two_kinds_of_clips(20))]
    scores = scores_of_masks([replace(clip, motion_only=clip.prediction) for clip in clips])
    assert scores["difference"]["motion_only"] == 0
    assert scores["interval"]["difference"]["motion_only"] == {"low": 0, "high": 0}
    ends = scores["interval"]["jaccard"]
    assert ends["low"] < scores["jaccard"] < ends["high"]
    assert scores["interval"]["baseline"]["motion_only"] == ends


def test_a_worse_prediction_has_a_difference_below_zero():
    """Its clips are as wide apart as those of the better one, but in every clip it is a little worse."""
    clips = two_kinds_of_clips(20)
    better = [clip_masks(m, m[20 - n % 6]) for n, m in enumerate(clips)]
    worse = [
        replace(clip_masks(m, m[19 - n % 6]), motion_only=b.prediction)
        for n, (m, b) in enumerate(zip(clips, better, strict=True))
    ]
    scores = scores_of_masks(worse)
    ends = scores["interval"]["difference"]["motion_only"]
    assert ends["low"] < scores["difference"]["motion_only"] < ends["high"] < 0
    spread = scores["interval"]["jaccard"]
    assert ends["high"] - ends["low"] < spread["high"] - spread["low"], "paired: hard clips are hard for both"
    of_better = scores["interval"]["baseline"]["motion_only"]
    assert of_better["low"] < spread["high"], "unpaired intervals overlap"


def test_tracked_masks_and_motion_only_are_scored_where_given():
    masks = moving_clip(7, 0)
    clip = clip_masks(masks, masks[21])
    assert not OPTIONAL & set(flatten(scores_of_masks([clip])["baseline"]))
    given = replace(clip, tracked_context=masks[4:15], motion_only=masks[21])
    scores = scores_of_masks([given, given])
    assert set(scores["baseline"]) == set(scores["difference"]) == BASELINES | OPTIONAL
    assert scores["baseline"]["motion_only"] == 1
    # of the tracked masks the last is that of frame 15; steps of 0.5 pixels and less add up to one
    assert scores["baseline"]["copy_last_tracked"] > scores["baseline"]["copy_last"]
    assert scores["baseline"]["decayed_velocity_tracked"] > scores["baseline"]["decayed_velocity"]


def test_the_velocity_of_segmented_and_of_true_masks_are_two_baselines():
    """The segmenter finds nothing."""
    masks = moving_clip(7, 0)
    clip = replace(clip_masks(masks, masks[21]), segmented_context=np.zeros_like(masks[:11]))
    scores = scores_of_masks([clip], decay=1.0)["baseline"]
    assert scores["decayed_velocity_truth"] == 1
    assert scores["decayed_velocity"] == scores["constant_velocity"] == scores["copy_last"] < 0.5


def test_masks_of_some_clips_only_are_rejected():
    masks = moving_clip(7, 30)
    clip = clip_masks(masks, masks[21])
    with pytest.raises(ValueError, match="motion_only: expected masks of all 2 clips or of none, got 1"):
        scores_of_masks([clip, replace(clip, motion_only=masks[21])])


def test_no_clips_are_rejected():
    with pytest.raises(ValueError, match="clips: expected at least one"):
        scores_of_masks([])
