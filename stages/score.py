"""DVC stage score: compare predicted frames and masks with the truth, beside baselines and ceilings.

Reads   data/clips/{val,test}, data/predictions, data/motion, data/tracks, data/masks; params.yaml: score
Writes  results/metrics.json, results/plots/<set>_per_class.csv, results/plots/<set>_hops.csv,
        results/strips/<set>_<clip>.png, results/report.html
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vdp.config.read import read_section, run_stage
from vdp.core.classes import class_name
from vdp.core.files import replacing, write_text
from vdp.data.stores.clips import Pixels, existing_stores, list_test_sets
from vdp.data.stores.prediction_set import MotionSet, PredictionSet
from vdp.evaluation.baselines import DECAYS, Decay, choose_decay
from vdp.evaluation.bootstrap import RESAMPLES
from vdp.evaluation.frame import Frames, FrameScore, frame_score
from vdp.evaluation.mask import Confusion, class_jaccard
from vdp.evaluation.params import ScoreParams
from vdp.evaluation.scores import ClipMasks, score_masks, set_scores
from vdp.evaluation.table import (
    ROWS,
    SetScores,
    decay_note,
    is_under_copy,
    score_rows,
    score_table,
    verdict,
)
from vdp.tracking.figures import ClipPicture, ObjectPath, Picture, clip_strip, encode_png, encode_webp
from vdp.tracking.mlflow_run import track_stage
from vdp.tracking.report import Section, Table, html_report

CLIPS = Path("data/clips")
PREDICTIONS = Path("data/predictions")
MASKS = Path("data/masks")
MOTION = Path("data/motion")
TRACKS = Path("data/tracks/test")
RESULTS = Path("results")

SEED = 0  # of the resamples: equal runs give equal intervals, whatever the seed of the run
NOT_SCORED = "predicted, not scored: its clips have no true frames and masks up to the predicted frame"
METHOD = (
    "jaccard: 49 classes, mean over classes with the background, one confusion matrix for all clips, "
    "classes absent from both prediction and truth left out. A result under its copy baseline (the "
    "segmenter's mask of the last context frame) is a failure. PSNR pools the error of all frames and "
    "samples; SSIM is a mean.",
    f"[low, high]: 95 % bootstrap interval over clips, the central 95 % of {RESAMPLES} resamples of the "
    "clips with replacement. difference: jaccard - baseline, on the same resamples. An interval above zero: "
    "the prediction is better, with 95 % confidence. Intervals over few clips are too narrow.",
    "Baselines copy or move the context masks of the segmenter, the true ones (_truth) and, where objects "
    f"are tracked, those of the tracks (_tracked). decayed_velocity: of the decays {DECAYS[0]} to "
    f"{DECAYS[-1]} the one with the highest jaccard on the true masks of the val clips.",
)


@dataclass(frozen=True)
class SetResult:
    """Results of a test set; without truth it has strips only."""

    strips: dict[str, Picture]
    scores: SetScores | None = None
    tables: dict[str, Table] = field(default_factory=dict)  # by the end of the CSV's name


def main() -> None:
    params = read_section(ScoreParams, "score")
    sets = {
        name: PredictionSet(folder, PREDICTIONS / name, MASKS / name)
        for name, folder in list_test_sets(CLIPS).items()
    }
    with track_stage("score", workers=1) as tracker:
        decay = cache(val_decay)  # once for all test sets of the same frames
        results = {
            name: score_set(name, predictions, motion_set(name), params, decay)
            for name, predictions in sets.items()
        }
        metrics = {name: result.scores for name, result in results.items() if result.scores is not None}
        write_results(results, metrics)
        tracker.headline(metrics)
        tracker.artifact(RESULTS / "metrics.json")
        tracker.artifact(RESULTS / "report.html")
        tracker.artifact(RESULTS / "strips", folder="strips")
    print(score_table(metrics))
    for name in results.keys() - metrics.keys():
        print(f"{name}: {NOT_SCORED}")


def motion_set(name: str) -> MotionSet | None:
    """Sampled motions of a test set; None without a motion model."""
    return MotionSet(MOTION / name, TRACKS / name) if (MOTION / name).is_dir() else None


def score_set(
    name: str,
    predictions: PredictionSet,
    motion: MotionSet | None,
    params: ScoreParams,
    decay_of: Callable[[int, int], Decay],
) -> SetResult:
    """Score the clips of a test set that have truth, and draw strips of some clips."""
    shown = (
        np.linspace(0, len(predictions) - 1, min(params.strips, len(predictions)))
        .round()
        .astype(int)
        .tolist()
    )
    strips = {
        f"{name}_{predictions.names[row]}": clip_strip(clip_picture(predictions, motion, row))
        for row in shown
    }
    rows = predictions.scored()
    if not rows:
        return SetResult(strips)
    known = predictions.segmented_context.shape[1]
    steps = predictions.target - known
    decay = decay_of(known, predictions.target)
    clips = tqdm(clip_masks(predictions, rows, known), desc=f"{name}: masks", total=len(rows), unit="clip")
    masks = score_masks(clips, steps, decay)
    hops = {
        number: score_hop(predictions, motion, rows, known, number)
        for number in tqdm(predictions.hops, desc=f"{name}: frames", unit="hop")
    }
    target = hops[predictions.target]["predicted"]
    tables = {"hops": hop_table(hops), "per_class": class_table(masks.prediction.confusion)}
    scores = set_scores(masks, target.psnr, target.ssim, np.random.default_rng(SEED))
    return SetResult(strips, scores, tables)


def val_decay(known: int, target: int) -> Decay:
    """Choose the decay of the baselines on the val clips."""
    return choose_decay(val_masks(known, target), target - known)


def val_masks(known: int, target: int) -> Iterator[tuple[Pixels, Pixels]]:
    """True masks of the context frames and of frame `target` (1-based) of each val clip that has them."""
    for store in existing_stores(CLIPS, ["val"]):
        long_enough = [index for index in store.labelled if store.num_frames(index) >= target]
        for index in tqdm(long_enough, desc="val: decay", unit="clip"):
            masks = store.masks(index)
            yield masks[:known], masks[target - 1]


def clip_masks(predictions: PredictionSet, rows: list[int], known: int) -> Iterator[ClipMasks]:
    segmented, round_trip = predictions.segmented_target(), predictions.segmented_round_trip()
    unetpp = predictions.unetpp_target()
    tracked, motion_only = predictions.tracked_context(), predictions.motion_only()
    for row in rows:
        true = predictions.true_masks(row)
        yield ClipMasks(
            prediction=predictions.prediction[row],
            segmented_context=predictions.segmented_context[row],
            segmented_target=segmented[row],
            unetpp_target=unetpp[row],
            segmented_round_trip=round_trip[row],
            context=true[:known],
            target=true[predictions.target - 1],
            tracked_context=None if tracked is None else tracked[row],
            motion_only=None if motion_only is None else motion_only[row],
        )


def score_hop(
    predictions: PredictionSet, motion: MotionSet | None, rows: list[int], known: int, number: int
) -> dict[str, FrameScore]:
    """Score frame `number`: all predicted samples, the last context frame copied, and the composed frame."""
    hop = predictions.hops.index(number)

    def predicted() -> Iterator[tuple[Frames, Frames]]:
        for row in rows:
            samples = predictions.frames[row, :, hop]
            yield samples, np.broadcast_to(predictions.true_frame(row, number), samples.shape)

    def copied() -> Iterator[tuple[Frames, Frames]]:
        for row in rows:
            yield predictions.true_frame(row, known)[None], predictions.true_frame(row, number)[None]

    def composed(frames: Pixels) -> Iterator[tuple[Frames, Frames]]:
        for row in rows:
            yield frames[row, hop][None], predictions.true_frame(row, number)[None]

    scores = {"predicted": frame_score(predicted()), "copy": frame_score(copied())}
    if motion is not None:
        scores["composed"] = frame_score(composed(motion.composed))
    return scores


def clip_picture(predictions: PredictionSet, motion: MotionSet | None, row: int) -> ClipPicture:
    """Return the first sample of a clip, beside the truth where it has one, and its composed frames."""
    known = predictions.segmented_context.shape[1]
    has_truth = row in predictions.scored()
    return ClipPicture(
        title=f"{predictions.names[row]}: first of {predictions.frames.shape[1]} samples",
        target=predictions.target,
        known={n: predictions.true_frame(row, n) for n in sorted({1, (known + 1) // 2, known})},
        predicted={n: predictions.frames[row, 0, hop] for hop, n in enumerate(predictions.hops)},
        true={n: predictions.true_frame(row, n) for n in predictions.hops if predictions.has_frame(row, n)},
        predicted_mask=predictions.prediction[row],
        true_mask=predictions.true_masks(row)[predictions.target - 1] if has_truth else None,
        composed={} if motion is None else dict(zip(predictions.hops, motion.composed[row], strict=True)),
        paths=[] if motion is None else [ObjectPath(*path) for path in motion.paths(row)],
    )


def write_results(results: dict[str, SetResult], metrics: dict[str, SetScores]) -> None:
    """Write all files under results/, each under a temporary name first."""
    with replacing(RESULTS / "plots") as folder:  # DVC expects it, also without scores
        for name, result in results.items():
            for kind, table in result.tables.items():
                (folder / f"{name}_{kind}.csv").write_text(table.csv())
    with replacing(RESULTS / "strips") as folder:
        for result in results.values():
            for name, strip in result.strips.items():
                (folder / f"{name}.png").write_bytes(encode_png(strip))
    sections = [section(name, result) for name, result in results.items()]
    write_text(RESULTS / "report.html", html_report("vdp: scores", METHOD, sections))
    write_text(RESULTS / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def section(name: str, result: SetResult) -> Section:
    strips = [(clip, encode_webp(picture)) for clip, picture in result.strips.items()]
    if result.scores is None:
        return Section(name, NOT_SCORED, False, [], [], strips)
    notes = dict(ROWS)
    rows = [(key, notes[key], value) for key, value in score_rows(result.scores)]
    tables = [Table("Scores", ("", "meaning", "value"), rows, numbers=2), *result.tables.values()]
    scores = result.scores
    return Section(name, verdict(scores), is_under_copy(scores), [decay_note(scores)], tables, strips)


def hop_table(hops: dict[int, dict[str, FrameScore]]) -> Table:
    heads = ["frame", "psnr", "ssim", "copy_psnr"]
    rows = []
    for number, scores in hops.items():
        row = [str(number), f"{scores['predicted'].psnr:.4f}", f"{scores['predicted'].ssim:.4f}"]
        row.append(f"{scores['copy'].psnr:.4f}")
        if "composed" in scores:
            row += [f"{scores['composed'].psnr:.4f}", f"{scores['composed'].ssim:.4f}"]
        rows.append(tuple(row))
    if rows and len(rows[0]) > len(heads):
        heads += ["composed_psnr", "composed_ssim"]
    return Table("Predicted frames", tuple(heads), rows)


def class_table(confusion: Confusion) -> Table:
    pixels, scores = confusion.sum(1), class_jaccard(confusion)
    rows = [
        (str(label), class_name(label), "" if np.isnan(score) else f"{score:.4f}", str(pixels[label]))
        for label, score in enumerate(scores)
    ]
    return Table("Classes", ("class_id", "name", "jaccard", "pixels"), rows, numbers=2)


if __name__ == "__main__":
    run_stage(main)
