"""Report of a training outside DVC: held-out clips beside the baselines.

It has every frame that the model predicts, beside copy and optical flow, and the scores of the other tasks.

Reads   data/clips, data/models; params.yaml: clip, degrade, evaluate_tasks, seed
Writes  data/report: report.html, metrics.json, strips
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vdp.api.model import Model, load
from vdp.api.sampling import Sampling
from vdp.api.task_report import task_sections
from vdp.api.task_scores import Evaluation, true_clips, write_pictures
from vdp.config.read import read_section, read_value, run_script
from vdp.config.schema import ClipParams
from vdp.core.files import replacing
from vdp.core.optical_flow import flow_extrapolation
from vdp.data.params import DegradeParams
from vdp.data.stores.clips import ClipStore, Pixels
from vdp.diffusion.gain import gain_rows
from vdp.evaluation.frame import FrameScore, FrameTally
from vdp.evaluation.hops import ClipFrames, score_hops
from vdp.evaluation.params import EvaluateTasksParams
from vdp.evaluation.tasks import TaskScores, task_table
from vdp.tracking.figures import encode_png, encode_webp, evenly_spaced, sample_sheet
from vdp.tracking.mlflow_run import Tracker, track_stage
from vdp.tracking.progress import progress
from vdp.tracking.report import Section, Table, html_report

CLIPS, MODELS, REPORT = Path("data/clips"), Path("data/models"), Path("data/report")
MAX_CLIPS = 16  # scored
STRIPS = 4  # of them drawn
COLUMNS = 6  # frames in a row of a strip
HELD_OUT = "held_out"  # name of the clips in the files of the other tasks
Numbers: TypeAlias = float | TaskScores  # a value of metrics.json
METHODS = ("predicted", "copy", "flow")
NOTE = (
    "Clips that the networks were not trained on, at the frame size of the networks. Each frame after the "
    "context frames is predicted from the predicted ones before it. PSNR is of all pixels of all clips; copy "
    "repeats the last context frame, flow moves it on by optical flow."
)
OTHER_CLIPS = "The gains of the predicted changes were measured on other held-out clips, those before these."
SAME_CLIPS = (
    "There are too few held-out clips to measure the gains of the predicted changes on others: they were "
    "measured on these clips, so the scores are somewhat too good. Hold out more, or longer, videos."
)


@dataclass(frozen=True)
class HeldOut:
    """Scores and strips of held-out clips."""

    hops: dict[int, dict[str, FrameScore]]  # by frame number and method
    codec: FrameScore  # of encoded and decoded true frames: what the codec loses
    clips: int
    strips: dict[str, Pixels]
    gains: str | None  # on which clips gains were measured; None without gains


def main() -> None:
    clip, seed = read_section(ClipParams, "clip"), read_value("seed")
    store, model = ClipStore(CLIPS / "val"), load(MODELS)
    skipped = [entry["reason"] for name in ("train", "val") for entry in ClipStore(CLIPS / name).skipped]
    with track_stage("train_report") as tracker:
        sampling = Sampling(seed=seed)
        result = evaluate(model, store, clip, sampling) if "predict" in model.tasks else None
        metrics: dict[str, Numbers] = {} if result is None else metrics_of(result)
        with replacing(REPORT) as part:
            scores = {HELD_OUT: score_others(model, store, clip, tracker, part)}
            if scores[HELD_OUT]:
                metrics |= {"tasks": scores[HELD_OUT]}
            write_report(part, result, metrics, scores, skipped)
        tracker.headline({key: value for key, value in metrics.items() if key != "hops"})
        tracker.artifact(REPORT / "report.html")
    print("\n".join([*([] if result is None else [text_table(result)]), task_table(scores)]).strip())


def score_others(
    model: Model, store: ClipStore, clip: ClipParams, tracker: Tracker, folder: Path
) -> dict[str, TaskScores]:
    """Score the tasks other than predict on held-out clips, and draw them to a folder."""
    tasks = [task for task in model.tasks if task != "predict"]
    if not tasks:
        return {}
    params = read_section(EvaluateTasksParams, "evaluate_tasks")
    degradations, seed = read_section(DegradeParams, "degrade"), read_value("seed")
    sampling = Sampling(sampler=params.sampler, steps=params.steps, temperature=params.temperature, seed=seed)
    evaluation = Evaluation(model, clip, params, degradations, sampling, tracker)
    generated = evaluation.generate()
    results = evaluation.evaluate(HELD_OUT, true_clips(store, clip.frames, params.clips), generated, tasks)
    write_pictures(folder, {HELD_OUT: results}, generated, params.figures)
    return {task: result.scores for task, result in results.items()}


def evaluate(model: Model, store: ClipStore, clip: ClipParams, sampling: Sampling) -> HeldOut:
    """Predict the frames after the context frames of clips of a store, evenly spaced, and score them.

    Clips that the model's gains were measured on are left out where there are others.
    """
    measured = gain_rows(len(store)) if model.diffusion.config.gains else range(0)
    others = range(len(measured), len(store)) or measured
    rows = [others[i] for i in evenly_spaced(len(others), MAX_CLIPS)]
    gains = None if not measured else SAME_CLIPS if others == measured else OTHER_CLIPS
    numbers = [clip.known + number for number in model.predictable(clip.frames - clip.known)]
    later = [number - clip.known for number in numbers]
    drawn = set(rows[i] for i in evenly_spaced(len(rows), STRIPS))
    strips: dict[str, Pixels] = {}
    codec = FrameTally()

    def predicted() -> Iterator[ClipFrames]:
        for (row,) in progress(rows, 1, "held-out clips"):
            frames = np.array(store.frames(row))
            context, truth = frames[: clip.known], frames[[number - 1 for number in numbers]]
            future = model.predict(context, None, 1, sampling, later)
            codec.add(model.round_trip(truth), truth)
            if row in drawn:
                strips[store.name(row)] = strip(context, truth, future[0], numbers)
            yield ClipFrames(context, list(future.swapaxes(0, 1)), truth)

    hops = score_hops(predicted(), numbers)
    return HeldOut(hops, codec.score(), len(rows), strips, gains)


def strip(context: Pixels, truth: Pixels, predicted: Pixels, numbers: Sequence[int]) -> Pixels:
    """Draw the last context frame and frames by number: true, predicted and moved by optical flow."""
    known, columns = len(context), evenly_spaced(len(truth), COLUMNS)
    flow = flow_extrapolation(context, [numbers[column] - known for column in columns])
    moved = dict(zip(columns, flow, strict=True))
    last = (f"context frame {known}", context[-1])
    return sample_sheet(
        [
            [last, *((f"true {numbers[k]}", truth[k]) for k in columns)],
            [last, *((f"predicted {numbers[k]}", predicted[k]) for k in columns)],
            [last, *((f"optical flow {numbers[k]}", moved[k]) for k in columns)],
        ]
    )


def metrics_of(result: HeldOut) -> dict[str, Numbers]:
    """Return metrics.json: means over the frame numbers, then every frame number."""
    flat: dict[str, Numbers] = {"clips": float(result.clips)}
    for method, score in means(result.hops).items():
        prefix = "" if method == "predicted" else f"{method}_"
        flat |= {f"{prefix}psnr": round(score.psnr, 4), f"{prefix}ssim": round(score.ssim, 4)}
    flat |= {"codec_psnr": round(result.codec.psnr, 4), "codec_ssim": round(result.codec.ssim, 4)}
    flat["hops"] = {
        str(number): {
            method: {"psnr": round(score.psnr, 4), "ssim": round(score.ssim, 4)}
            for method, score in scores.items()
        }
        for number, scores in result.hops.items()
    }
    return flat


def means(hops: Mapping[int, Mapping[str, FrameScore]]) -> dict[str, FrameScore]:
    """Average the scores of each method over the frame numbers."""
    return {
        method: FrameScore(
            float(np.mean([scores[method].psnr for scores in hops.values()])),
            float(np.mean([scores[method].ssim for scores in hops.values()])),
        )
        for method in METHODS
    }


def table_rows(result: HeldOut) -> list[list[str]]:
    """Return a row of cells for each frame number and one for their mean."""

    def row(name: str, scores: Mapping[str, FrameScore]) -> list[str]:
        psnr = [f"{scores[method].psnr:.2f}" for method in METHODS]
        return [name, *psnr, *(f"{scores[method].ssim:.3f}" for method in METHODS)]

    rows = [row(str(number), scores) for number, scores in result.hops.items()]
    return [*rows, row("mean", means(result.hops))]


def text_table(result: HeldOut) -> str:
    """Format the scores for a terminal."""
    head = f"{'':<7}{'PSNR, dB':<27}SSIM"
    names = ["frame", *METHODS, *METHODS]
    lines = [" ".join(f"{cell:>8}" if n else f"{cell:<6}" for n, cell in enumerate(row)) for row in
             (names, *table_rows(result))]  # fmt: skip
    return "\n".join([f"{result.clips} held-out clips", head, *lines, codec_line(result)])


def codec_line(result: HeldOut) -> str:
    return f"true frames encoded and decoded: {result.codec.psnr:.2f} dB, SSIM {result.codec.ssim:.3f}"


def verdict(result: HeldOut) -> tuple[str, bool]:
    """Compare the mean PSNR with the better baseline; True where it is not reached."""
    scores = means(result.hops)
    name = max(("copy", "flow"), key=lambda method: scores[method].psnr)
    gain = scores["predicted"].psnr - scores[name].psnr
    what = f"{gain:+.2f} dB over the better baseline ({name})"
    return f"{scores['predicted'].psnr:.2f} dB, {what}", gain <= 0


def write_report(
    folder: Path,
    result: HeldOut | None,
    metrics: Mapping[str, Numbers],
    scores: Mapping[str, Mapping[str, TaskScores]],
    skipped: Sequence[str],
) -> None:
    """Write the report into a folder that has the pictures of the other tasks."""
    notes = [] if result is None else [NOTE, *([result.gains] if result.gains else [])]
    if skipped:
        notes.append(f"{len(skipped)} videos were not used: {'; '.join(skipped)}")
    sections = [*([] if result is None else [section(result)]), *task_sections(scores, folder)]
    if result is not None:
        (folder / "strips").mkdir()
        for name, picture in result.strips.items():
            (folder / "strips" / f"{name}.png").write_bytes(encode_png(picture))
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    (folder / "report.html").write_text(html_report("vdp: training report", notes, sections))


def section(result: HeldOut) -> Section:
    """The predicted frames as a section of the report."""
    text, failed = verdict(result)
    header = ("frame", *(f"PSNR {m}" for m in METHODS), *(f"SSIM {m}" for m in METHODS))
    table = Table("Predicted frames", header, [tuple(row) for row in table_rows(result)])
    pictures = [(name, encode_webp(picture)) for name, picture in result.strips.items()]
    return Section("Held-out clips", text, failed, [codec_line(result)], [table], pictures)


if __name__ == "__main__":
    run_script(main)
