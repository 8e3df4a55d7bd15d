import re

import pytest

from vdp.evaluation.table import NOTHING, ROWS, score_table, verdict


def scores(jaccard: float) -> dict[str, float | dict[str, float]]:
    return {
        "jaccard": jaccard, "jaccard_over_copy": jaccard / 0.25, "jaccard_foreground": 0.1,
        "jaccard_per_video": 0.2, "psnr": 25.5, "ssim": 0.9, "clips": 12,
        "baseline": {
            "copy_last": 0.25, "copy_last_truth": 0.26, "constant_velocity": 0.2, "decayed_velocity": 0.3,
        },
        "ceiling": {"segmenter": 0.9, "unetpp_alone": 0.7, "codec": 0.8, "seen_classes": 0.85},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("jaccard", "says"),
    [
        (0.2, "FAILED: jaccard 0.2000 is UNDER its copy baseline 0.2500"),
        (0.25, "no better than its copy baseline"),
        (0.28, "but not decayed_velocity 0.3000"),
        (0.4, "beats its copy baseline 0.2500 (1.60x) and decayed_velocity 0.3000"),
    ],
)
def test_the_verdict_compares_the_score_with_its_baselines(jaccard, says):
    assert says in verdict(scores(jaccard))
    assert f"simulated: {verdict(scores(jaccard))}" in score_table({"simulated": scores(jaccard)})


def test_the_table_has_an_aligned_row_for_every_number_and_a_column_for_every_set():
    header, *rows = score_table({"simulated": scores(0.4), "real": scores(0.2)}).split("\n\n")[0].splitlines()
    assert header.split() == ["simulated", "real"]
    assert [row.split()[0] for row in rows] == [key for key, _ in ROWS]
    assert {match.end() for row in rows if (match := re.match(r"\S+ +\S+ +\S+", row))} == {len(header)}
    keys = {
        f"{group}.{key}" if isinstance(value, dict) else group
        for group, value in scores(0.4).items()
        for key in (value if isinstance(value, dict) else [group])
    }
    assert {key for key, _ in ROWS} == keys


def test_a_run_without_scores_has_no_table():
    assert score_table({}) == NOTHING
