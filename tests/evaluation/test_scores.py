import numpy as np
import pytest

from vdp.evaluation.scores import BASELINES, CEILINGS, ClipMasks, SetScores, score_masks, set_scores


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
    masks = [ClipMasks(pred, m[:11], m[21], m[21], m[21], m[:11], m[21]) for m, pred in clips]
    return set_scores(score_masks(masks, steps=11, decay=0.5), 30.0, 0.9)


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
    assert set(scores["baseline"]) == set(BASELINES) and set(scores["ceiling"]) == set(CEILINGS)


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
    masks = moving_clip(7, 30)
    scores = scores_of((masks, masks[21]))
    flat = [v for value in scores.values() for v in (value.values() if isinstance(value, dict) else [value])]
    assert all(type(value) in (int, float) for value in flat)
