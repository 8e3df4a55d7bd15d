import re

import pytest

from vdp.evaluation.table import NOTHING, ROWS, SetScores, decay_note, score_rows, score_table, verdict


def scores(jaccard: float) -> dict[str, float | dict[str, float]]:
    """Scores without intervals, as of earlier versions."""
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


def with_intervals(jaccard: float, clips: int = 12) -> SetScores:
    """The headline and its difference to each baseline lie within 0.02 in 95 % of the resamples."""
    plain = scores(jaccard)
    difference = {name: jaccard - value for name, value in plain["baseline"].items()}

    def around(value: float) -> dict[str, float]:
        return {"low": value - 0.02, "high": value + 0.02}

    return {
        **plain,
        "clips": clips,
        "foreground_share": 0.8,
        "decay": 0.85,
        "decay_clips": 100,
        "difference": difference,
        "interval": {
            "jaccard": around(jaccard),
            "baseline": {name: around(value) for name, value in plain["baseline"].items()},
            "difference": {name: around(value) for name, value in difference.items()},
        },
    }


@pytest.mark.parametrize(
    ("jaccard", "says"),
    [
        (0.2, "below copy_last (difference -0.0500 [-0.0700, -0.0300]); below decayed_velocity (diff"),
        (0.26, "neither above nor below copy_last (difference 0.0100 [-0.0100, 0.0300]); below decayed_vel"),
        (0.31, "above copy_last (difference 0.0600 [0.0400, 0.0800]); neither above nor below decayed_veloc"),
        (0.4, "above copy_last (difference 0.1500 [0.1300, 0.1700]); above decayed_velocity (difference 0.1"),
    ],
)
def test_the_verdict_says_which_differences_are_beyond_chance(jaccard, says):
    found = verdict(with_intervals(jaccard))
    assert found.startswith(verdict(scores(jaccard)))
    assert f". With 95 % confidence: {says}" in found


def test_one_clip_gives_no_confidence():
    found = verdict(with_intervals(0.4, clips=1))
    assert "95 %" not in found and found.endswith("One clip: no confidence in any difference")


def test_the_decay_is_stated_with_its_origin():
    assert decay_note(with_intervals(0.4)) == (
        "Decay of decayed_velocity: 0.85, chosen on the true masks of 100 val clips."
    )
    note = decay_note({**with_intervals(0.4), "decay": 0.9, "decay_clips": 0})
    assert "0.90, a constant" in note and "no val clip has masks" in note


def test_scores_are_printed_with_their_intervals():
    rows = dict(score_rows(with_intervals(0.361)))
    assert rows["jaccard"] == "0.361 [0.341, 0.381]"
    assert rows["baseline.copy_last"] == "0.250 [0.230, 0.270]"
    assert rows["difference.copy_last"] == "0.111 [0.091, 0.131]"
    assert (rows["ceiling.codec"], rows["foreground_share"], rows["decay"]) == ("0.800", "0.800", "0.85")
    assert "0.361 [0.341, 0.381]" in score_table({"simulated": with_intervals(0.361)})


def keys_of(found: SetScores) -> set[str]:
    return {
        f"{group}.{key}" if isinstance(value, dict) else group
        for group, value in found.items()
        for key in (value if isinstance(value, dict) else [group])
        if group != "interval"
    }


@pytest.mark.parametrize("build", [scores, with_intervals])
def test_the_table_has_an_aligned_row_for_every_number_and_a_column_for_every_set(build):
    metrics = {"simulated": build(0.4), "real": build(0.2)}
    header, *rows = score_table(metrics).split("\n\n")[0].splitlines()
    assert header.split() == ["simulated", "real"]
    order = [key for key, _ in ROWS]
    assert [row.split()[0] for row in rows] == sorted(keys_of(build(0.4)), key=order.index)
    # a number ends in the same column in each row, as does an interval
    for part in (r"\S+ +-?[\d.]+", r"\S+ +-?[\d.]+(?: \[\S+ \S+\])? +-?[\d.]+"):
        ends = {match.end() for row in rows if (match := re.match(part, row))}
        assert len(ends) == 1
    begins = {match.end() for row in rows if (match := re.match(r"\S+ +-?[\d.]+ \[", row))}
    assert len(begins) == (build is with_intervals)


def test_a_row_that_one_set_lacks_is_empty_there_and_one_that_all_lack_is_left_out():
    """A set scored beside one of an earlier version, without intervals."""
    table = score_table({"new": with_intervals(0.4), "old": scores(0.2)})
    line = next(line for line in table.splitlines() if line.startswith("foreground_share"))
    assert line.split()[1:4] == ["0.800", "foreground", "pixels,"]
    assert "motion_only" not in table and "tracked" not in table
    moved = with_intervals(0.4)
    moved = {**moved, "baseline": {**moved["baseline"], "motion_only": 0.3}}
    assert re.search(r"^baseline\.motion_only +0\.300 ", score_table({"new": moved}), re.MULTILINE)


def test_a_run_without_scores_has_no_table():
    assert score_table({}) == NOTHING


def frame_scores(psnr: float) -> dict[str, float | dict]:
    """Scores of a test set without masks."""
    hop = {
        name: {"psnr": value, "ssim": 0.9}
        for name, value in (("predicted", psnr), ("copy", 20.0), ("flow", 22.0))
    }
    return {
        "psnr": psnr, "ssim": 0.9, "clips": 4, "baseline": {name: hop[name] for name in ("copy", "flow")},
        "hops": {"13": hop, "22": hop},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("psnr", "says"),
    [
        (19.5, "FAILED: psnr 19.50 dB is UNDER its copy baseline 20.00 dB"),
        (20.0, "no better than its copy baseline"),
        (21.0, "beats its copy baseline 20.00 dB but not optical flow 22.00 dB"),
        (23.0, "beats its copy baseline 20.00 dB and optical flow 22.00 dB"),
    ],
)
def test_without_masks_the_verdict_compares_frames(psnr, says):
    assert says in verdict(frame_scores(psnr))


def test_a_set_without_masks_is_tabled_beside_one_with_masks_and_has_a_row_per_hop():
    table = score_table({"masked": scores(0.4), "plain": frame_scores(23.456)})
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line}
    assert rows["psnr"][:2] == ["25.50", "23.46"] and rows["jaccard"][0] == "0.400"
    assert rows["baseline.flow.psnr"][:3] == ["22.00", "dB,", "last"]
    assert table.count("PSNR in dB") == 1 and "plain, PSNR in dB" in table
    assert rows["13"] == rows["22"] == ["23.46", "20.00", "22.00"]
    assert "hops" not in score_table({"masked": scores(0.4)})
