"""DVC stage score: compare predicted frames and masks with the truth, beside baselines and ceilings.

A test set without masks, or a run without a segmenter, has the metrics of its frames alone. The report has
the scores of the tasks other than predict as well; where nothing is predicted, these alone.

Reads   data/clips/{val,test}, data/predictions, data/motion, data/tracks, data/masks, results/tasks.json,
        results/tasks; params.yaml: clip, score
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

from vdp.api.task_report import task_sections
from vdp.config.read import read_section, run_script
from vdp.config.schema import ClipParams
from vdp.core.classes import class_name
from vdp.core.device import pick_device
from vdp.core.empty import NO_MASKS, empty_reason
from vdp.core.files import replacing, write_text
from vdp.core.optical_flow import flow_extrapolation
from vdp.data.stores.clips import Pixels, existing_stores, list_test_sets
from vdp.data.stores.prediction_set import MaskSet, MotionSet, PredictionSet
from vdp.evaluation.baselines import DECAYS, Decay, choose_decay
from vdp.evaluation.bootstrap import RESAMPLES
from vdp.evaluation.frame import FrameScore
from vdp.evaluation.hops import COMPOSED, COPY, FLOW, PREDICTED, ClipFrames, score_hops, video_distances
from vdp.evaluation.mask import Confusion, class_jaccard
from vdp.evaluation.params import ScoreParams
from vdp.evaluation.perceptual import Lpips, VideoFeatures
from vdp.evaluation.scores import ClipMasks, frame_set_scores, perceptual_scores, score_masks, set_scores
from vdp.evaluation.table import (
    ROWS,
    SetScores,
    decay_note,
    has_masks,
    is_under_copy,
    score_rows,
    score_table,
    verdict,
)
from vdp.tracking.figures import (
    ClipPicture,
    ObjectPath,
    Picture,
    clip_strip,
    encode_png,
    encode_webp,
)
from vdp.tracking.mlflow_run import project_root, track_stage
from vdp.tracking.report import Section, Table, html_report

CLIPS = Path("data/clips")
PREDICTIONS = Path("data/predictions")
MASKS = Path("data/masks")
MOTION = Path("data/motion")
TRACKS = Path("data/tracks/test")
RESULTS = Path("results")

SEED = 0  # of the resamples: equal runs give equal intervals, whatever the seed of the run
NOT_SCORED = "predicted, not scored: its clips have no true frames up to the predicted frame"
FRAME_METHOD = (
    "PSNR pools the error of all frames and samples; SSIM and LPIPS are means. copy: the last context frame. "
    "flow: its pixels moved on at constant velocity, the dense optical flow between the last two context "
    "frames. A result under its copy baseline is a failure.",
)
FVD_METHOD = (
    "FVD: Frechet distance of the features of videos, the context frames and the frames of all hops, from "
    "those of the true ones; lower is nearer. Over few clips it is biased upwards: compare equal numbers."
)
MASK_METHOD = (
    "jaccard: 49 classes, mean over classes with the background, one confusion matrix for all clips, "
    "classes absent from both prediction and truth left out. Its copy baseline is the segmenter's mask of "
    "the last context frame.",
    f"[low, high]: 95 % bootstrap interval over clips, the central 95 % of {RESAMPLES} resamples of the "
    "clips with replacement. difference: jaccard - baseline, on the same resamples. An interval above zero: "
    "the prediction is better, with 95 % confidence. Intervals over few clips are too narrow.",
    "Baselines copy or move the context masks of the segmenter, the true ones (_truth) and, where objects "
    f"are tracked, those of the tracks (_tracked). decayed_velocity: of the decays {DECAYS[0]} to "
    f"{DECAYS[-1]} the one with the highest jaccard on the true masks of the val clips.",
)


@dataclass(frozen=True)
class Perceptual:
    """Networks of the perceptual metrics; None where the user gives none."""

    lpips: Lpips | None
    features: VideoFeatures | None


@dataclass(frozen=True)
class TestSet:
    """Outputs of the earlier stages for one test set."""

    name: str
    known: int  # context frames
    predictions: PredictionSet
    masks: MaskSet | None  # None without a segmenter
    motion: MotionSet | None  # None without a motion model

    def rows(self) -> list[int]:
        """Clips to score: those with true masks if any and with a segmenter, else those with true frames."""
        labelled = [] if self.masks is None else self.predictions.with_masks()
        return labelled or self.predictions.with_frames()


@dataclass(frozen=True)
class SetResult:
    """Results of a test set; without truth it has strips only."""

    strips: dict[str, Picture]
    scores: SetScores | None = None
    tables: dict[str, Table] = field(default_factory=dict)  # by the end of the CSV's name
    note: str = ""


def main() -> None:
    params, known = read_section(ScoreParams, "score"), read_section(ClipParams, "clip").known
    perceptual = load_perceptual(params)
    nothing = empty_reason(PREDICTIONS)
    folders = {} if nothing else list_test_sets(CLIPS)
    sets = [open_set(name, folder, known) for name, folder in folders.items()]
    with track_stage("score", workers=1) as tracker:
        decay = cache(val_decay)  # once for all test sets of the same frames
        results = {each.name: score_set(each, params, perceptual, decay) for each in sets}
        metrics = {name: result.scores for name, result in results.items() if result.scores is not None}
        write_results(results, metrics)
        tracker.headline(metrics)
        tracker.artifact(RESULTS / "metrics.json")
        tracker.artifact(RESULTS / "report.html")
        tracker.artifact(RESULTS / "strips", folder="strips")
    print(nothing or score_table(metrics))
    for name in results.keys() - metrics.keys():
        print(f"{name}: {NOT_SCORED}")


def load_perceptual(params: ScoreParams) -> Perceptual:
    """Load the networks before any work; relative paths start at the main checkout, as they are no deps."""
    device, root = pick_device(), project_root()
    lpips, features = params.lpips_weights, params.fvd_weights
    return Perceptual(
        None if lpips is None else Lpips(root / lpips, device),
        None if features is None else VideoFeatures(root / features, device),
    )


def open_set(name: str, clips: Path, known: int) -> TestSet:
    predictions = PredictionSet(clips, PREDICTIONS / name)
    masks = MaskSet(MASKS / name, len(predictions)) if empty_reason(MASKS) is None else None
    motion = MotionSet(MOTION / name, TRACKS / name) if (MOTION / name).is_dir() else None
    return TestSet(name, known, predictions, masks, motion)


def score_set(
    data: TestSet, params: ScoreParams, perceptual: Perceptual, decay_of: Callable[[int, int], Decay]
) -> SetResult:
    """Score the clips of a test set that have truth, and draw strips of some clips."""
    name, predictions = data.name, data.predictions
    shown = (
        np.linspace(0, len(predictions) - 1, min(params.strips, len(predictions)))
        .round()
        .astype(int)
        .tolist()
    )
    strips = {f"{name}_{predictions.names[row]}": clip_strip(clip_picture(data, row)) for row in shown}
    rows = data.rows()
    if not rows:
        return SetResult(strips)
    hops = score_hops(
        tqdm(clip_frames(data, rows), desc=f"{name}: frames", total=len(rows), unit="clip"),
        predictions.hops,
        perceptual.lpips,
    )
    videos: dict[str, float] = {}
    if perceptual.features is not None and len(rows) > 1:
        clips = tqdm(clip_frames(data, rows), desc=f"{name}: FVD", total=len(rows), unit="clip")
        videos = video_distances(clips, predictions.hops, perceptual.features)
    tables = {"hops": hop_table(hops)}
    if data.masks is None or not predictions.with_masks():
        reason = NO_MASKS if data.masks is None else "its clips have no true masks"
        note = f"Masks are not scored: {reason}."
        return SetResult(strips, frame_set_scores(hops, len(rows), videos), tables, note)
    decay = decay_of(data.known, predictions.target)
    masks = score_masks(
        tqdm(clip_masks(data, data.masks, rows), desc=f"{name}: masks", total=len(rows), unit="clip"),
        predictions.target - data.known,
        decay,
    )
    tables["per_class"] = class_table(masks.prediction.confusion)
    target = hops[predictions.target][PREDICTED]
    scores = set_scores(masks, target.psnr, target.ssim, np.random.default_rng(SEED))
    scores = {**scores, **perceptual_scores(target, videos.get(PREDICTED))}
    return SetResult(strips, scores, tables, decay_note(scores))


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


def clip_masks(data: TestSet, masks: MaskSet, rows: list[int]) -> Iterator[ClipMasks]:
    segmented, round_trip = masks.segmented_target(), masks.segmented_round_trip()
    unetpp = masks.unetpp_target()
    tracked, motion_only = masks.tracked_context(), masks.motion_only()
    for row in rows:
        true = data.predictions.true_masks(row)
        yield ClipMasks(
            prediction=masks.prediction[row],
            segmented_context=masks.segmented_context[row],
            segmented_target=segmented[row],
            unetpp_target=unetpp[row],
            segmented_round_trip=round_trip[row],
            context=true[: data.known],
            target=true[data.predictions.target - 1],
            tracked_context=None if tracked is None else tracked[row],
            motion_only=None if motion_only is None else motion_only[row],
        )


def clip_frames(data: TestSet, rows: list[int]) -> Iterator[ClipFrames]:
    predictions, motion = data.predictions, data.motion
    for row in rows:
        true = predictions.true_frames(row)
        yield ClipFrames(
            context=true[: data.known],
            predicted=predictions.predicted(row),
            truth=true[[number - 1 for number in predictions.hops]],
            composed=None if motion is None else composed_frames(data, row),
        )


def composed_frames(data: TestSet, row: int) -> Pixels:
    """The composed frames of a clip at the predicted hops that are kept, which are the last ones."""
    assert data.motion is not None
    return data.motion.composed[row][-len(data.predictions.hops) :]


def clip_picture(data: TestSet, row: int) -> ClipPicture:
    """The first sample of a clip, beside the truth where it has one and, without masks, optical flow."""
    known, predictions, masks, motion = data.known, data.predictions, data.masks, data.motion
    has_true_mask = masks is not None and row in predictions.with_masks()
    composed: dict[int, Pixels] = {}
    if motion is not None:
        composed = dict(zip(predictions.hops, composed_frames(data, row), strict=True))
    flow: dict[int, Pixels] = {}
    if masks is None:
        context = predictions.true_frames(row)[:known]
        moved = flow_extrapolation(context, [number - known for number in predictions.hops])
        flow = dict(zip(predictions.hops, moved, strict=True))
    return ClipPicture(
        title=f"{predictions.names[row]}: first of {predictions.samples} samples",
        target=predictions.target,
        known={n: predictions.true_frame(row, n) for n in sorted({1, (known + 1) // 2, known})},
        predicted={n: f[0] for n, f in zip(predictions.hops, predictions.predicted(row), strict=True)},
        true={n: predictions.true_frame(row, n) for n in predictions.hops if predictions.has_frame(row, n)},
        predicted_mask=None if masks is None else masks.prediction[row],
        true_mask=predictions.true_masks(row)[predictions.target - 1] if has_true_mask else None,
        composed=composed,
        paths=[] if motion is None else [ObjectPath(*path) for path in motion.paths(row)],
        flow=flow,
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
    sections += task_sections(json.loads((RESULTS / "tasks.json").read_text()), RESULTS / "tasks")
    method = [*FRAME_METHOD]
    if any("fvd" in scores for scores in metrics.values()):
        method.append(FVD_METHOD)
    if any(has_masks(scores) for scores in metrics.values()):
        method += MASK_METHOD
    nothing = empty_reason(PREDICTIONS)
    notes = [f"{nothing[0].upper()}{nothing[1:]}."] if nothing else method
    write_text(RESULTS / "report.html", html_report("vdp: scores", notes, sections))
    write_text(RESULTS / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def section(name: str, result: SetResult) -> Section:
    heading = f"Test set {name}"
    strips = [(clip, encode_webp(picture)) for clip, picture in result.strips.items()]
    if result.scores is None:
        return Section(heading, NOT_SCORED, False, [], [], strips)
    notes = dict(ROWS)
    rows = [(key, notes[key], value) for key, value in score_rows(result.scores)]
    tables = [Table("Scores", ("", "meaning", "value"), rows, numbers=2), *result.tables.values()]
    scores = result.scores
    return Section(heading, verdict(scores), is_under_copy(scores), [result.note], tables, strips)


def hop_table(hops: dict[int, dict[str, FrameScore]]) -> Table:
    """A row for each hop, with the metrics of the prediction, then those of the others under their names."""
    first = next(iter(hops.values()))
    metrics = ["psnr", "ssim", *(["lpips"] if first[PREDICTED].lpips is not None else [])]
    names = [name for name in (PREDICTED, COPY, FLOW, COMPOSED) if name in first]
    heads = [metric if name == PREDICTED else f"{name}_{metric}" for name in names for metric in metrics]
    rows = [
        (str(number), *(f"{getattr(scores[name], metric):.4f}" for name in names for metric in metrics))
        for number, scores in hops.items()
    ]
    return Table("Predicted frames", ("frame", *heads), rows)


def class_table(confusion: Confusion) -> Table:
    pixels, scores = confusion.sum(1), class_jaccard(confusion)
    rows = [
        (str(label), class_name(label), "" if np.isnan(score) else f"{score:.4f}", str(pixels[label]))
        for label, score in enumerate(scores)
    ]
    return Table("Classes", ("class_id", "name", "jaccard", "pixels"), rows, numbers=2)


if __name__ == "__main__":
    run_script(main)
