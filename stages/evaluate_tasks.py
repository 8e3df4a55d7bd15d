"""DVC stage evaluate_tasks: what each task that was learnt is worth, beside simple answers to it.

Reads   data/clips/test, data/models; params.yaml: seed, clip, degrade, evaluate_tasks
Writes  results/tasks.json; results/tasks/<set>_<task>.png and .gif, results/tasks/generate.png,
        results/tasks/generate_<number>.gif; the models as one MLflow model
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np

from vdp.api.model import Model, Sampling, load
from vdp.config.read import read_section, read_value, run_stage
from vdp.config.schema import ClipParams
from vdp.core.files import replacing
from vdp.core.spacing import spread
from vdp.data.degrade import KINDS, degrade
from vdp.data.params import DegradeParams
from vdp.data.stores.clips import ClipStore, Pixels, test_sets
from vdp.data.video.write import write_frames
from vdp.evaluation.frame import frame_score
from vdp.evaluation.params import EvaluateTasksParams
from vdp.evaluation.tasks import TaskScores, blend, count_objects, nearest, object_statistics, task_table
from vdp.tracking.figures import Picture, encode_png, sample_sheet
from vdp.tracking.mlflow_model import log_predictor
from vdp.tracking.mlflow_run import Tracker, track_stage
from vdp.tracking.progress import progress

CLIPS = Path("data/clips")
MODELS = Path("data/models")
RESULTS = Path("results")

FPS = 8  # of the GIFs
COLUMNS = 6  # frames of a clip that a sheet shows
NOT_MEASURED = "not measured: its clips have no true frames after the known ones"

Row = list[tuple[str, Picture]]  # captions and pictures beside each other


@dataclass(frozen=True)
class TrueClip:
    """A clip with its truth: frames, and their degraded form where the set has it, (T, H, W, 3)."""

    name: str
    frames: Pixels
    condition: Pixels | None


@dataclass(frozen=True)
class Task:
    """What one task came to: its numbers, the rows of its sheet, and clips to play beside each other."""

    scores: TaskScores
    rows: list[Row]
    film: dict[str, Pixels]


@dataclass(frozen=True)
class Generated:
    """Clips made of nothing, (N, T, H, W, 3), and their masks, (N, T, H, W)."""

    clips: Pixels
    masks: Pixels


def main() -> None:
    clip = read_section(ClipParams, "clip")
    params = read_section(EvaluateTasksParams, "evaluate_tasks")
    degradations, seed = read_section(DegradeParams, "degrade"), read_value("seed")
    model = load(MODELS)
    sampling = Sampling(sampler=params.sampler, steps=params.steps, temperature=params.temperature, seed=seed)
    sets = {
        name: true_clips(ClipStore(folder), clip.frames, params.clips)
        for name, folder in test_sets(CLIPS).items()
    }

    with track_stage("evaluate_tasks") as tracker:
        generated = generate(model, clip.frames, params, sampling) if "generate" in model.tasks else None
        results: dict[str, dict[str, Task]] = {}
        for name, clips in sets.items():
            if clips:
                results[name] = evaluate(name, model, clips, clip.known, params, degradations, sampling)
                if generated is not None:
                    results[name]["generate"] = compare_objects(name, model, clips, generated, params)
        scores = {name: {task: t.scores for task, t in tasks.items()} for name, tasks in results.items()}
        write_results(results, generated, scores, params.figures)
        report_results(tracker, scores)
        log_predictor(tracker, MODELS)
    print(task_table(scores))
    for name in sets.keys() - results.keys():
        print(f"{name}: {NOT_MEASURED}")


def true_clips(store: ClipStore, frames: int, count: int) -> list[TrueClip]:
    """Some clips of a test set, spread evenly over those that have all their frames."""
    whole = [i for i in range(len(store)) if store.num_frames(i) >= frames]
    paired = set(store.paired.tolist())
    return [
        TrueClip(
            store.name(i), store.frames(i)[:frames], store.conditions(i)[:frames] if i in paired else None
        )
        for i in (whole[row] for row in spread(len(whole), count))
    ]


def evaluate(
    name: str,
    model: Model,
    clips: list[TrueClip],
    known: int,
    params: EvaluateTasksParams,
    degradations: DegradeParams,
    sampling: Sampling,
) -> dict[str, Task]:
    """Those tasks of one test set to which there is a true answer."""
    tasks = {}
    if "predict" in model.tasks and model.every_frame:
        tasks["predict"] = predict(name, model, clips, known, params.figures, sampling)
    if "interpolate" in model.tasks:
        tasks["interpolate"] = interpolate(name, model, clips, params, sampling)
    if "restore" in model.tasks:
        tasks["restore"] = restore(name, model, clips, degradations, sampling)
    return tasks


def predict(
    name: str, model: Model, clips: list[TrueClip], known: int, shown: int, sampling: Sampling
) -> Task:
    """All unknown frames, beside copies of the last known one."""
    truth = [clip.frames[known:] for clip in clips]
    answers = [
        model.predict(clip.frames[:known], frames=len(clip.frames) - known, sampling=sampling)[0]
        for clip in each(clips, f"{name}: predict")
    ]
    copies = [np.broadcast_to(clip.frames[known - 1], t.shape) for clip, t in zip(clips, truth, strict=True)]
    scores = compared(score(answers, truth), "copy", score(copies, truth))
    rows: list[Row] = []
    for clip, answer, true in zip(clips[:shown], answers, truth, strict=False):
        columns = spread(len(true), COLUMNS)
        last: Row = [(f"known {known} of {clip.name}", clip.frames[known - 1])]
        rows.append(last + [(f"predicted {known + 1 + k}", answer[k]) for k in columns])
        rows.append(last + [(f"true {known + 1 + k}", true[k]) for k in columns])
    first = clips[0].frames
    return Task(scores, rows, {"predicted": np.concatenate([first[:known], answers[0]]), "true": first})


def interpolate(
    name: str, model: Model, clips: list[TrueClip], params: EvaluateTasksParams, sampling: Sampling
) -> Task:
    """Frames of gaps in the middle of clips, beside a blend of the frames around each and the nearer one."""
    scores: dict[str, TaskScores] = {}
    rows: list[Row] = []
    film: dict[str, Pixels] = {}
    for count in sorted(set(params.interpolate_frames)):
        start = (len(clips[0].frames) - count) // 2
        gap = slice(start, start + count)
        truth = [clip.frames[gap] for clip in clips]
        ends = [(clip.frames[start - 1], clip.frames[start + count]) for clip in clips]
        answers = [
            model.interpolate(clip.frames[:start], clip.frames[gap.stop :], frames=count, sampling=sampling)[
                0
            ]
            for clip in each(clips, f"{name}: interpolate {count}")
        ]
        blends = [blend(*pair, count) for pair in ends]
        scores[str(count)] = {
            **compared(score(answers, truth), "blend", score(blends, truth)),
            "nearest": score([nearest(*pair, count) for pair in ends], truth),
        }
        for clip, pair, *middle in zip(clips[: params.figures], ends, answers, blends, truth, strict=False):
            captions = (f"between: {count // 2 + 1} of {count}", "blended", "true")
            shown = [(caption, part[count // 2]) for caption, part in zip(captions, middle, strict=True)]
            rows.append([(f"before, {clip.name}", pair[0]), *shown, ("after", pair[1])])
        for caption, part in (("between", answers[0]), ("blended", blends[0]), ("true", truth[0])):
            film[caption] = clips[0].frames.copy()
            film[caption][gap] = part
    return Task(scores, rows, film)


def restore(
    name: str, model: Model, clips: list[TrueClip], degradations: DegradeParams, sampling: Sampling
) -> Task:
    """Clips restored from each kind of degradation, beside the degraded ones and what the codec loses."""
    truth = [clip.frames for clip in clips]
    scores: dict[str, TaskScores] = {"codec": score([model.round_trip(clip.frames) for clip in clips], truth)}
    rows: list[Row] = []
    film: dict[str, Pixels] = {}
    for kind, paired, inputs in degraded_clips(clips, degradations, sampling.seed):
        answers = [
            model.restore(inputs[clip.name], sampling) for clip in each(paired, f"{name}: restore {kind}")
        ]
        true, given = [clip.frames for clip in paired], [inputs[clip.name] for clip in paired]
        scores[kind] = compared(score(answers, true), "degraded", score(given, true))
        trio = {f"{kind}, {paired[0].name}": given[0], "restored": answers[0], "true": true[0]}
        moments = [(len(true[0]) - 1) * at // 3 for at in (1, 2)]
        rows.append([(caption, part[k]) for k in moments for caption, part in trio.items()])
        film = film or trio
    return Task(scores, rows, film)


def degraded_clips(
    clips: list[TrueClip], degradations: DegradeParams, seed: int
) -> Iterator[tuple[str, list[TrueClip], dict[str, Pixels]]]:
    """The set's own pairs, and each kind that is on at the middle of its range: kind, clips, their input."""
    if pairs := [clip for clip in clips if clip.condition is not None]:
        yield "paired", pairs, {clip.name: clip.condition for clip in pairs if clip.condition is not None}
    for kind, (least, most) in degradations.ranges.items():
        made = {}
        for clip in clips:
            rng = np.random.default_rng([seed, crc32(clip.name.encode()), KINDS.index(kind)])
            made[clip.name] = degrade(clip.frames, kind, (least + most) / 2, rng)
        yield kind, clips, made


def generate(model: Model, frames: int, params: EvaluateTasksParams, sampling: Sampling) -> Generated:
    """Clips of the pipeline's length made of nothing, and what the segmenter sees in them."""
    clips = model.generate(params.samples, frames, replace(sampling, temperature=params.generate_temperature))
    return Generated(clips, np.stack([model.segment(clip) for clip in clips]))


def compare_objects(
    name: str, model: Model, clips: list[TrueClip], generated: Generated, params: EvaluateTasksParams
) -> Task:
    """How many objects the frames of generated clips show, and those of true ones, by the same segmenter."""
    masks = np.concatenate([model.segment(clip.frames) for clip in each(clips, f"{name}: objects")])
    counts = {"generated": generated.masks.reshape(-1, *masks.shape[1:]), "true": masks}
    return Task(
        {
            kind: rounded(object_statistics([count_objects(mask, params.object_pixels) for mask in found]))
            for kind, found in counts.items()
        },
        [],
        {},
    )


# --- Parts of the above ----------------------------------------------------------------------------------


def each(clips: list[TrueClip], label: str) -> Iterator[TrueClip]:
    """The clips one by one, with a progress bar."""
    for (row,) in progress(range(len(clips)), 1, label):
        yield clips[row]


def score(answers: Sequence[Pixels], truth: Sequence[Pixels]) -> dict[str, float]:
    """PSNR in dB and SSIM over all frames of some clips."""
    result = frame_score(zip(answers, truth, strict=True))
    return rounded({"psnr": result.psnr, "ssim": result.ssim})


def compared(own: dict[str, float], name: str, simple: dict[str, float]) -> TaskScores:
    """A score, that of a simple answer, and how much better it is."""
    return {**own, "gain_db": round(own["psnr"] - simple["psnr"], 6), name: simple}


def rounded(values: dict[str, float]) -> dict[str, float]:
    """To the digits that results have."""
    return {name: round(value, 6) for name, value in values.items()}


# --- What a run leaves -----------------------------------------------------------------------------------


def write_results(
    results: dict[str, dict[str, Task]],
    generated: Generated | None,
    scores: dict[str, dict[str, TaskScores]],
    shown: int,
) -> None:
    """Write all files under results/, each under a temporary name first."""
    with replacing(RESULTS / "tasks") as folder:  # there even when nothing is measured: DVC expects it
        for name, tasks in results.items():
            for task, result in tasks.items():
                if result.rows:
                    (folder / f"{name}_{task}.png").write_bytes(encode_png(sample_sheet(result.rows)))
                    write_frames(folder / f"{name}_{task}.gif", played(result.film), FPS)
        if generated is not None:
            (folder / "generate.png").write_bytes(encode_png(generated_sheet(generated, shown)))
            pairs = zip(generated.clips[:shown], generated.masks, strict=False)
            for number, (made, masks) in enumerate(pairs):
                film = played({"generated": made, "its masks": masks})
                write_frames(folder / f"generate_{number:02d}.gif", film, FPS)
    path = RESULTS / "tasks.json"
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(scores, indent=2) + "\n")
    part.replace(path)


def generated_sheet(generated: Generated, shown: int) -> Picture:
    """A row of frames for each generated clip, over the row of their masks."""
    rows: list[Row] = []
    for number, (clip, masks) in enumerate(zip(generated.clips[:shown], generated.masks, strict=False), 1):
        columns = spread(len(clip), COLUMNS)
        rows.append([(f"clip {number}, frame {k + 1}", clip[k]) for k in columns])
        rows.append([(f"mask {k + 1}", masks[k]) for k in columns])
    return sample_sheet(rows)


def played(film: dict[str, Pixels]) -> Iterator[Picture]:
    """The pictures of clips of one length that are played beside each other."""
    for frame in zip(*film.values(), strict=True):
        yield sample_sheet([list(zip(film, frame, strict=True))])


def report_results(tracker: Tracker, scores: dict[str, dict[str, TaskScores]]) -> None:
    """Pass numbers and files on to the run's record."""
    tracker.headline(scores)
    tracker.artifact(RESULTS / "tasks.json")
    tracker.artifact(RESULTS / "tasks", folder="tasks")


if __name__ == "__main__":
    run_stage(main)
