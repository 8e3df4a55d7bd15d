"""The score stage on small synthetic test sets."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from stages import score
from tests.evaluation.recorder import Recorder, results
from vdp.core.empty import NO_MASKS, write_empty
from vdp.core.errors import UserError
from vdp.data.stores.clips import Clip, write_clips
from vdp.evaluation.table import decay_note, verdict

pytestmark = pytest.mark.slow

HOPS = [13, 17, 22]


class Distance(torch.nn.Module):
    """Stands for LPIPS: the mean absolute difference."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x - y).abs().mean(dim=[1, 2, 3])[:, None, None, None]


class MeanPixels(torch.nn.Module):
    """Stands for the network of FVD: the mean of each frame."""

    def forward(self, videos: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert return_features and videos.size(3) == 224 and videos.size(4) == 224
        return videos.mean(dim=[1, 3, 4])


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
    Path("params.yaml").write_text(
        "clip: {frames: 22, known: 11, height: 32, width: 48}\n"
        "score: {strips: 2, lpips_weights: null, fvd_weights: null}\n"
    )
    val = [moving_clip(0, 22, True), moving_clip(1, 22, True), moving_clip(2, 15, True)]
    write_clips(Path("data/clips/val"), [*val, moving_clip(3, 22, False)], shard_mb=1)
    clips = [moving_clip(n, 22, True) for n in range(3)]
    right = [clip.frames[[h - 1 for h in HOPS]] for clip in clips]
    write_inputs("right", clips, right, [clip.masks[21] for clip in clips])
    write_inputs("wrong", clips, [f[::-1] for f in right], [np.full((32, 48), 40, np.uint8) for _ in clips])
    hidden = [moving_clip(n, 11, False) for n in range(3)]
    write_inputs("hidden", hidden, right, [clip.masks[21] for clip in clips])
    Path("results").mkdir()
    Path("results/tasks.json").write_text("{}")
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
        "results/tasks.json",
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
    assert list(results()) == ["results/tasks.json"]


# --- Without masks ---------------------------------------------------------------------------------------


def unlabelled(source: Clip) -> Clip:
    return Clip(source.name, source.frames, None)


@pytest.fixture
def without_masks(project) -> Recorder:
    """The sets of `project` without masks, of a run without a segmenter."""
    for name in ("right", "wrong"):
        clips = [unlabelled(moving_clip(n, 22, True)) for n in range(3)]
        write_clips(Path("data/clips/test") / name, clips, shard_mb=1)
    write_empty(Path("data/masks"), NO_MASKS)
    return project


def write_weights(lpips: torch.nn.Module | None, fvd: torch.nn.Module | None) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    for key, module in (("lpips_weights", lpips), ("fvd_weights", fvd)):
        params["score"][key] = None if module is None else f"{key}.pt"
        if module is not None:
            torch.jit.save(torch.jit.script(module), f"{key}.pt")
    Path("params.yaml").write_text(yaml.safe_dump(params))


def test_without_masks_frames_are_scored_beside_copy_and_flow(without_masks, capsys):
    path = Path("data/predictions/wrong/frames.npy")
    np.save(path, 255 - np.load(path))
    score.main()
    first, metrics = results(), json.loads(Path("results/metrics.json").read_text())
    assert sorted(first) == [
        "results/metrics.json",
        *(f"results/plots/{name}_hops.csv" for name in ("right", "wrong")),
        "results/report.html",
        *(f"results/strips/{s}_video_{n:05d}.png" for s in ("hidden", "right", "wrong") for n in (0, 2)),
        "results/tasks.json",
    ]
    assert list(metrics) == ["right", "wrong"] and without_masks.headlines == metrics
    right, wrong = metrics["right"], metrics["wrong"]
    assert set(right) == {"psnr", "ssim", "clips", "baseline", "hops"}
    assert (right["psnr"], right["clips"], list(right["hops"])) == (100, 3, ["13", "17", "22"])
    assert set(right["baseline"]) == {"copy", "flow"}
    assert right["hops"]["22"]["copy"] == right["baseline"]["copy"]
    assert right["hops"]["22"]["flow"] == right["baseline"]["flow"]
    for hop in right["hops"].values():
        assert hop["flow"]["psnr"] > hop["copy"]["psnr"] + 3, "the object moves at constant velocity"
    row = read_table("wrong_hops.csv")[-1]
    assert float(row["psnr"]) == pytest.approx(wrong["psnr"], abs=1e-4)
    assert float(row["flow_psnr"]) == pytest.approx(wrong["baseline"]["flow"]["psnr"], abs=1e-4)

    printed, report = capsys.readouterr().out, Path("results/report.html").read_text()
    assert "right: psnr 100.00 dB beats its copy baseline" in printed
    assert "wrong: FAILED: psnr" in printed and report.count('class="verdict failed"') == 1
    assert "right, PSNR in dB" in printed and "baseline.flow.psnr" in printed and "jaccard" not in printed
    assert "hidden: predicted, not scored" in printed
    assert "Masks are not scored: no training clip has masks." in report and "jaccard" not in report
    assert report.count("data:image/webp;base64,") == 6

    score.main()
    assert results() == first


def test_a_test_set_without_true_masks_has_the_metrics_of_its_frames(project):
    """The run has a segmenter, and the other set has masks."""
    clips = [unlabelled(moving_clip(n, 22, True)) for n in range(3)]
    write_clips(Path("data/clips/test/wrong"), clips, shard_mb=1)
    score.main()
    metrics = json.loads(Path("results/metrics.json").read_text())
    assert "jaccard" in metrics["right"] and "jaccard" not in metrics["wrong"]
    assert set(metrics["wrong"]["baseline"]) == {"copy", "flow"}
    report = Path("results/report.html").read_text()
    assert "Masks are not scored: its clips have no true masks." in report and "95 % bootstrap" in report


@pytest.mark.parametrize("masks", [True, False])
def test_lpips_and_fvd_are_those_of_the_networks_given(project, masks, request):
    if not masks:
        request.getfixturevalue("without_masks")
    write_weights(Distance(), MeanPixels())
    score.main()
    metrics, wrong = json.loads(Path("results/metrics.json").read_text()), read_table("wrong_hops.csv")[-1]
    assert metrics["right"]["lpips"] == 0 and metrics["right"]["fvd"] == pytest.approx(0, abs=1e-5)
    clips = [moving_clip(n, 22, True) for n in range(3)]
    # the first hop in place of the last
    difference = [np.abs(clip.frames[12] - clip.frames[21].astype(float)).mean() / 127.5 for clip in clips]
    assert metrics["wrong"]["lpips"] == pytest.approx(np.mean(difference), rel=1e-4)
    assert float(wrong["lpips"]) == pytest.approx(metrics["wrong"]["lpips"], abs=1e-4)
    assert float(wrong["copy_lpips"]) > 0
    assert "FVD: Frechet distance" in Path("results/report.html").read_text()
    if not masks:
        assert metrics["wrong"]["baseline"]["copy"]["fvd"] >= 0
        assert set(metrics["wrong"]["baseline"]["flow"]) == {"psnr", "ssim", "lpips", "fvd"}


@pytest.mark.parametrize(
    ("key", "content", "says"),
    [
        ("lpips_weights", None, "lpips_weights.pt: no such file; expected a TorchScript file, or null"),
        ("fvd_weights", b"weights", "fvd_weights.pt: is no TorchScript file"),
        ("lpips_weights", MeanPixels(), "lpips_weights.pt: failed on"),
    ],
)
def test_unusable_weights_end_in_one_line_and_write_nothing(project, key, content, says):
    write_weights(**{name: MeanPixels() if name in key else None for name in ("lpips", "fvd")})
    if not isinstance(content, torch.nn.Module):
        Path(f"{key}.pt").unlink()
    if isinstance(content, bytes):
        Path(f"{key}.pt").write_bytes(content)
    with pytest.raises(UserError) as error:
        score.main()
    assert str(error.value).startswith(f"score.{key}=") and says in str(error.value)
    assert "\n" not in str(error.value) and list(results()) == ["results/tasks.json"]
