"""The score stage on small synthetic test sets."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from stages import score
from tests.evaluation.recorder import Recorder, results
from vdp.data.stores.clips import Clip, write_clips
from vdp.evaluation.table import decay_note, verdict

pytestmark = pytest.mark.slow

HOPS = [13, 17, 22]


def moving_clip(number: int, frames: int, labelled: bool) -> Clip:
    """An object of class 7 + number moves a pixel per frame; its gray level encodes its class."""
    masks = np.zeros((frames, 32, 48), np.uint8)
    for k in range(frames):
        masks[k, 10:18, 3 + k : 11 + k] = 7 + number
    pixels = np.repeat(100 + 10 * masks[..., None], 3, axis=3).astype(np.uint8)
    return Clip(f"video_{number:05d}", pixels, masks if labelled else None)


def write_inputs(name: str, clips: list[Clip], predicted: list[np.ndarray], masks: list[np.ndarray]) -> None:
    """Write the outputs of the earlier stages; `predicted` is (hops, H, W, 3) of each clip."""
    write_clips(Path("data/clips/test") / name, clips, shard_mb=1)
    predictions, folder = Path("data/predictions") / name, Path("data/masks") / name
    predictions.mkdir(parents=True)
    folder.mkdir(parents=True)
    np.save(predictions / "frames.npy", np.stack(predicted)[:, None].repeat(2, axis=1))
    listing = {"clips": [clip.name for clip in clips], "hops": HOPS, "samples": 2}
    (predictions / "predictions.json").write_text(json.dumps(listing))
    np.save(folder / "prediction.npy", np.stack(masks))
    known = [clip.masks if clip.masks is not None else np.zeros((11, 32, 48), np.uint8) for clip in clips]
    np.save(folder / "known.npy", np.stack([k[:11] for k in known]))
    if all(clip.masks is not None for clip in clips):
        for file in ("truth.npy", "truth_unetpp.npy", "round_trip.npy"):
            np.save(folder / file, np.stack([clip.masks[21] for clip in clips]))


@pytest.fixture
def project(tmp_path, monkeypatch) -> Recorder:
    """A test set predicted right, one predicted worse than by a copy, and a hidden one; four val clips."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("score: {strips: 2}\n")
    val = [moving_clip(0, 22, True), moving_clip(1, 22, True), moving_clip(2, 15, True)]
    write_clips(Path("data/clips/val"), [*val, moving_clip(3, 22, False)], shard_mb=1)
    clips = [moving_clip(n, 22, True) for n in range(3)]
    right = [clip.frames[[h - 1 for h in HOPS]] for clip in clips]
    write_inputs("right", clips, right, [clip.masks[21] for clip in clips])
    write_inputs("wrong", clips, [f[::-1] for f in right], [np.full((32, 48), 40, np.uint8) for _ in clips])
    hidden = [moving_clip(n, 11, False) for n in range(3)]
    write_inputs("hidden", hidden, right, [clip.masks[21] for clip in clips])
    recorder = Recorder()
    monkeypatch.setattr(score, "track_stage", recorder.track_stage)
    return recorder


def read_table(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((Path("results/plots") / name).read_text().splitlines()))


def test_every_run_writes_the_same_scores_tables_strips_and_report(project, capsys):
    score.main()
    first = results()
    assert sorted(first) == [
        "results/metrics.json",
        "results/plots/right_hops.csv",
        "results/plots/right_per_class.csv",
        "results/plots/wrong_hops.csv",
        "results/plots/wrong_per_class.csv",
        "results/report.html",
        *(f"results/strips/{s}_video_{n:05d}.png" for s in ("hidden", "right", "wrong") for n in (0, 2)),
    ]
    metrics = json.loads(Path("results/metrics.json").read_text())
    assert list(metrics) == ["right", "wrong"], "a hidden set is predicted, not scored"
    assert metrics["right"]["jaccard"] == 1 and metrics["right"]["psnr"] == 100
    assert metrics["right"]["baseline"]["constant_velocity"] == 1
    assert metrics["wrong"]["jaccard_over_copy"] < 1
    assert project.headlines == metrics
    assert project.artifacts == ["metrics.json", "report.html", "strips"]

    printed, report = capsys.readouterr().out, Path("results/report.html").read_text()
    failure = f"wrong: {verdict(metrics['wrong'])}"
    assert "UNDER its copy baseline" in failure
    assert failure in printed and verdict(metrics["wrong"]) in report
    assert report.count('class="verdict failed"') == 1
    assert "hidden: predicted, not scored" in printed
    assert report.count("data:image/webp;base64,") == 6
    assert "http" not in report and 'src="strips' not in report, "the report is self-contained"

    score.main()
    assert results() == first


def test_scores_have_intervals_over_clips_and_differences(project):
    score.main()
    metrics = json.loads(Path("results/metrics.json").read_text())
    right, wrong = metrics["right"], metrics["wrong"]
    baselines = {
        "copy_last", "copy_last_truth", "constant_velocity", "decayed_velocity", "decayed_velocity_truth",
    }  # fmt: skip
    assert set(right["baseline"]) == set(right["difference"]) == baselines
    assert set(right["interval"]) == {"jaccard", "baseline", "difference"}
    for group in ("baseline", "difference"):
        assert set(right["interval"][group]) == baselines
    assert right["interval"]["jaccard"] == {"low": 1, "high": 1}
    assert right["interval"]["difference"]["constant_velocity"] == {"low": 0, "high": 0}
    assert right["interval"]["difference"]["copy_last"]["low"] > 0
    assert wrong["interval"]["difference"]["copy_last"]["high"] < 0
    assert (right["foreground_share"], wrong["foreground_share"]) == (1, 32 * 48 / 64)

    report = Path("results/report.html").read_text()
    for text in (
        "1.000 [1.000, 1.000]",
        "With 95 % confidence: above copy_last",
        "With 95 % confidence: below copy_last",
        "95 % bootstrap interval over clips, the central 95 % of 1000 resamples",
        "of the decays 0.5 to 1.0",
    ):
        assert text in report
    assert "motion_only" not in report


def test_the_decay_is_chosen_on_labelled_val_clips_up_to_the_target(project):
    """Their object keeps its velocity; one val clip is too short and one has no masks."""
    score.main()
    scores = json.loads(Path("results/metrics.json").read_text())["right"]
    assert (scores["decay"], scores["decay_clips"]) == (1.0, 2)
    assert scores["baseline"]["decayed_velocity"] == scores["baseline"]["constant_velocity"] == 1
    assert "1.00, chosen on the true masks of 2 val clips" in Path("results/report.html").read_text()


@pytest.mark.parametrize("val", ["unlabelled", "missing"])
def test_without_labelled_val_clips_the_decay_is_a_constant_and_the_report_says_so(project, val):
    shutil.rmtree("data/clips/val")
    if val == "unlabelled":
        write_clips(Path("data/clips/val"), [moving_clip(0, 22, False)], shard_mb=1)
    score.main()
    scores = json.loads(Path("results/metrics.json").read_text())["right"]
    assert (scores["decay"], scores["decay_clips"]) == (0.9, 0)
    assert "0.90, a constant" in decay_note(scores)
    assert decay_note(scores) in Path("results/report.html").read_text()


def test_tracked_and_motion_only_masks_are_scored_where_they_exist(project, capsys):
    """In one of the two sets."""
    truth = [moving_clip(n, 22, True).masks for n in range(3)]
    np.save("data/masks/wrong/motion_only.npy", np.stack([masks[21] for masks in truth]))
    np.save("data/masks/wrong/tracked.npy", np.stack([masks[:11] for masks in truth]))
    score.main()
    metrics = json.loads(Path("results/metrics.json").read_text())
    optional = {"copy_last_tracked", "decayed_velocity_tracked", "motion_only"}
    assert set(metrics["wrong"]["baseline"]) - set(metrics["right"]["baseline"]) == optional
    baseline = metrics["wrong"]["baseline"]
    assert baseline["motion_only"] == 1 and baseline["copy_last_tracked"] == baseline["copy_last_truth"]
    assert baseline["decayed_velocity_tracked"] == baseline["decayed_velocity_truth"] == 1
    printed, report = capsys.readouterr().out, Path("results/report.html").read_text()
    assert "baseline.motion_only" in printed and report.count("<td>baseline.motion_only</td>") == 1

    np.save("data/masks/wrong/motion_only.npy", np.zeros((2, 32, 48), np.uint8))
    with pytest.raises(ValueError, match="motion_only.npy: expected 3 uint8"):
        score.main()


def test_the_tables_have_a_row_for_each_class_and_each_hop(project):
    score.main()
    classes = read_table("right_per_class.csv")
    assert len(classes) == 49
    assert [c["jaccard"] for c in classes[6:11]] == ["", "1.0000", "1.0000", "1.0000", ""]
    assert classes[7] == {"class_id": "7", "name": "purple metal cube", "jaccard": "1.0000", "pixels": "64"}
    hops = read_table("right_hops.csv")
    assert [h["frame"] for h in hops] == ["13", "17", "22"]
    assert all(float(h["psnr"]) == 100 for h in hops)
    copies = [float(h["copy_psnr"]) for h in hops]
    assert copies == sorted(copies, reverse=True), "the error of a copy grows with every hop"


def test_missing_and_mismatched_masks_are_rejected(project):
    np.save("data/masks/right/prediction.npy", np.zeros((2, 32, 48), np.uint8))
    with pytest.raises(ValueError, match="prediction.npy: expected 3 uint8"):
        score.main()
    Path("data/masks/right/prediction.npy").unlink()
    with pytest.raises(FileNotFoundError, match="prediction.npy.*dvc repro segment"):
        score.main()
    assert not Path("results").exists()
