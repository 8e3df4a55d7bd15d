"""DVC stage score: compare the predicted frame and its mask with the truth, with baselines and with ceilings.

Reads   data/clips, data/predictions, data/masks; params.yaml: score
Writes  results/metrics.json, results/plots/<set>_per_class.csv, results/plots/<set>_hops.csv,
        results/strips/<set>_<clip>.png, results/report.html
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vdp.config.read import read_section, run_stage
from vdp.core.files import replacing
from vdp.data.stores.clips import test_sets
from vdp.data.stores.prediction_set import PredictionSet
from vdp.evaluation.frame import Frames, FrameScore, frame_score
from vdp.evaluation.mask import ClassScore, per_class_table
from vdp.evaluation.params import ScoreParams
from vdp.evaluation.scores import ClipMasks, SetScores, score_masks, set_scores
from vdp.evaluation.table import ROWS, is_under_copy, score_rows, score_table, verdict
from vdp.tracking.figures import ClipPicture, Picture, clip_strip, encode_png, encode_webp
from vdp.tracking.mlflow_run import Tracker, track_stage
from vdp.tracking.report import Section, Table, html_report

CLIPS = Path("data/clips")
PREDICTIONS = Path("data/predictions")
MASKS = Path("data/masks")
RESULTS = Path("results")

NOT_SCORED = "predicted, not scored: its clips have no true frames and masks up to the predicted frame"
HOW = (
    "jaccard: 49 classes, mean over classes with the background, one confusion matrix for all clips, classes "
    "absent from both prediction and truth left out. A result under its copy baseline (the segmenter's mask "
    "of the last known frame) is a failure. PSNR pools the error of all frames and samples; SSIM is a mean."
)


@dataclass(frozen=True)
class HopScore:
    """One predicted frame (1-based number) against the truth, and the last known frame in its place."""

    frame: int
    predicted: FrameScore
    copied: FrameScore


@dataclass(frozen=True)
class SetResult:
    """What is known of one test set; `scores` is None, and the tables are empty, where there is no truth."""

    scores: SetScores | None
    classes: list[ClassScore]
    hops: list[HopScore]
    strips: dict[str, Picture]


def main() -> None:
    params = read_section(ScoreParams, "score")
    sets = {
        name: PredictionSet(folder, PREDICTIONS / name, MASKS / name)
        for name, folder in test_sets(CLIPS).items()
    }
    with track_stage("score") as tracker:
        results = {name: score_set(name, answers, params) for name, answers in sets.items()}
        metrics = {name: result.scores for name, result in results.items() if result.scores is not None}
        write_results(results, metrics)
        report_results(tracker, metrics)
    print(score_table(metrics))
    for name in results.keys() - metrics.keys():
        print(f"{name}: {NOT_SCORED}")


def score_set(name: str, answers: PredictionSet, params: ScoreParams) -> SetResult:
    """Score the clips of one test set that have the truth, and draw some of all its clips."""
    shown = np.linspace(0, len(answers) - 1, min(params.strips, len(answers))).round().astype(int).tolist()
    strips = {f"{name}_{answers.names[row]}": clip_strip(clip_picture(answers, row)) for row in shown}
    rows = answers.scored()
    if not rows:
        return SetResult(None, [], [], strips)
    known = answers.segmented_known.shape[1]
    clips = tqdm(clip_masks(answers, rows, known), desc=f"{name}: masks", total=len(rows), unit="clip")
    masks = score_masks(clips, answers.target - known, params.decay)
    hops = [
        score_hop(answers, rows, known, number)
        for number in tqdm(answers.hops, desc=f"{name}: frames", unit="hop")
    ]
    scores = set_scores(masks, hops[-1].predicted.psnr, hops[-1].predicted.ssim)
    return SetResult(scores, per_class_table(masks.confusion["prediction"]), hops, strips)


def clip_masks(answers: PredictionSet, rows: list[int], known: int) -> Iterator[ClipMasks]:
    """The masks of each scored clip."""
    segmented, round_trip = answers.segmented_target(), answers.segmented_round_trip()
    unetpp = answers.unetpp_target()
    for row in rows:
        true = answers.true_masks(row)
        yield ClipMasks(
            prediction=answers.prediction[row],
            segmented_known=answers.segmented_known[row],
            segmented_target=segmented[row],
            unetpp_target=unetpp[row],
            segmented_round_trip=round_trip[row],
            known=true[:known],
            target=true[answers.target - 1],
        )


def score_hop(answers: PredictionSet, rows: list[int], known: int, number: int) -> HopScore:
    """Score every sample of one predicted frame, and the last known frame as its copy."""
    hop = answers.hops.index(number)

    def predicted() -> Iterator[tuple[Frames, Frames]]:
        for row in rows:
            samples = answers.frames[row, :, hop]
            yield samples, np.broadcast_to(answers.true_frame(row, number), samples.shape)

    def copied() -> Iterator[tuple[Frames, Frames]]:
        for row in rows:
            yield answers.true_frame(row, known)[None], answers.true_frame(row, number)[None]

    return HopScore(number, frame_score(predicted()), frame_score(copied()))


def clip_picture(answers: PredictionSet, row: int) -> ClipPicture:
    """First sample of one clip, beside what is known of the truth."""
    known = answers.segmented_known.shape[1]
    has_truth = row in answers.scored()
    return ClipPicture(
        title=f"{answers.names[row]}: first of {answers.frames.shape[1]} samples",
        target=answers.target,
        known={n: answers.true_frame(row, n) for n in sorted({1, (known + 1) // 2, known})},
        predicted={n: answers.frames[row, 0, hop] for hop, n in enumerate(answers.hops)},
        true={n: answers.true_frame(row, n) for n in answers.hops if answers.has_frame(row, n)},
        predicted_mask=answers.prediction[row],
        true_mask=answers.true_masks(row)[answers.target - 1] if has_truth else None,
    )


def write_results(results: dict[str, SetResult], metrics: dict[str, SetScores]) -> None:
    """Write all files under results/, each under a temporary name first."""
    with replacing(RESULTS / "plots") as folder:  # there even when nothing is scored: DVC expects it
        for name, result in results.items():
            if result.scores is not None:
                (folder / f"{name}_per_class.csv").write_text(csv_text(class_table(result)))
                (folder / f"{name}_hops.csv").write_text(csv_text(hop_table(result)))
    with replacing(RESULTS / "strips") as folder:
        for result in results.values():
            for name, strip in result.strips.items():
                (folder / f"{name}.png").write_bytes(encode_png(strip))
    write(
        RESULTS / "report.html",
        html_report("vdp: scores", [HOW], [section(n, r) for n, r in results.items()]),
    )
    write(RESULTS / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def report_results(tracker: Tracker, metrics: dict[str, SetScores]) -> None:
    """Pass numbers and files on to the run's record."""
    tracker.headline(metrics)
    tracker.artifact(RESULTS / "metrics.json")
    tracker.artifact(RESULTS / "report.html")
    tracker.artifact(RESULTS / "strips", folder="strips")


def section(name: str, result: SetResult) -> Section:
    """One test set of the report."""
    strips = [(clip, encode_webp(picture)) for clip, picture in result.strips.items()]
    if result.scores is None:
        return Section(name, NOT_SCORED, False, [], strips)
    notes = dict(ROWS)
    scores = [(key, notes[key], value) for key, value in score_rows(result.scores)]
    tables = [
        Table("Scores", ("", "what it is", "value"), scores, numbers=2),
        hop_table(result),
        class_table(result),
    ]
    return Section(name, verdict(result.scores), is_under_copy(result.scores), tables, strips)


def hop_table(result: SetResult) -> Table:
    """Predicted frames in their order: does the error grow over the rollout?"""
    rows = [
        (str(h.frame), f"{h.predicted.psnr:.4f}", f"{h.predicted.ssim:.4f}", f"{h.copied.psnr:.4f}")
        for h in result.hops
    ]
    return Table("Predicted frames", ("frame", "psnr", "ssim", "copy_psnr"), rows)


def class_table(result: SetResult) -> Table:
    """Classes in the order of their ids; those absent from prediction and truth have no score."""
    rows = [
        (str(c.class_id), c.name, "" if np.isnan(c.jaccard) else f"{c.jaccard:.4f}", str(c.pixels))
        for c in result.classes
    ]
    return Table("Classes", ("class_id", "name", "jaccard", "pixels"), rows, numbers=2)


def csv_text(table: Table) -> str:
    """A table as CSV with a header line."""
    text = io.StringIO()
    rows: Iterable[Iterable[str]] = [table.header, *table.rows]
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


if __name__ == "__main__":
    run_stage(main)
