import re

from vdp.evaluation.table import NOTHING, ROWS, score_table, verdict


def scores(jaccard: float, copy: float = 0.25, moved: float = 0.3) -> dict[str, float | dict[str, float]]:
    return {
        "jaccard": jaccard,
        "jaccard_over_copy": jaccard / copy,
        "jaccard_foreground": 0.1,
        "jaccard_per_video": 0.2,
        "psnr": 25.5,
        "ssim": 0.9,
        "clips": 12,
        "baseline": {
            "copy_last": copy,
            "copy_last_truth": 0.26,
            "constant_velocity": 0.2,
            "decayed_velocity": moved,
        },
        "ceiling": {"segmenter": 0.9, "unetpp_alone": 0.7, "codec": 0.8, "seen_classes": 0.85},
    }


def test_a_result_under_its_copy_baseline_is_called_a_failure():
    assert "UNDER its copy baseline 0.2500" in verdict(scores(0.2))
    assert "FAILED" in score_table({"simulated": scores(0.2)})


def test_a_result_over_its_copy_baseline_is_not_called_a_failure():
    assert "FAILED" not in score_table({"simulated": scores(0.4)})
    assert "beats its copy baseline 0.2500 (1.60x) and decayed_velocity 0.3000" in verdict(scores(0.4))


def test_a_result_that_only_beats_the_copy_says_so():
    assert "but not decayed_velocity 0.3000" in verdict(scores(0.28))


def test_a_copy_is_not_called_better_than_a_copy():
    assert "no better than its copy baseline" in verdict(scores(0.25))


def test_every_number_has_a_row_and_every_set_a_column():
    text = score_table({"simulated": scores(0.4), "real": scores(0.2)})
    header, *rows = text.split("\n\n")[0].splitlines()
    assert header.split() == ["simulated", "real"]
    assert [row.split()[0] for row in rows] == [key for key, _ in ROWS]
    ends = {match.end() for row in rows if (match := re.match(r"\S+ +\S+ +\S+", row))}
    assert len(ends) == 1, "numbers are not aligned"


def test_every_key_of_metrics_json_is_shown():
    keys = {
        f"{group}.{key}" if isinstance(value, dict) else group
        for group, value in scores(0.4).items()
        for key in (value if isinstance(value, dict) else [group])
    }
    assert {key for key, _ in ROWS} == keys


def test_no_scored_set_is_told():
    assert score_table({}) == NOTHING
