"""Score the tasks of a model on true clips beside their baselines, and draw them.

Tasks, results and pictures of the stage evaluate_tasks and of the report of a training.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np

from vdp.api.model import Model, Sampling
from vdp.config.schema import ClipParams
from vdp.data.degrade import KINDS, degrade
from vdp.data.params import DegradeParams
from vdp.data.stores.clips import ClipStore, Pixels
from vdp.data.video.write import write_frames
from vdp.evaluation.params import EvaluateTasksParams
from vdp.evaluation.tasks import (
    TaskScores,
    blend,
    count_objects,
    nearest,
    object_statistics,
    score_frames,
)
from vdp.tracking.figures import Picture, encode_png, evenly_spaced, sample_sheet
from vdp.tracking.mlflow_run import Tracker
from vdp.tracking.progress import progress

FPS = 8  # of the GIFs
COLUMNS = 6  # frames of a clip in a row of a sheet

Call = Callable[[], Pixels]
Run = Callable[[str, Sequence[Call]], list[Pixels]]  # calls the functions of a label, in their order
Row = list[tuple[str, Picture]]  # captions and pictures of a row of a sheet


@dataclass(frozen=True)
class TrueClip:
    """True frames, and their degraded form if the set has it, (T, H, W, 3)."""

    name: str
    frames: Pixels
    condition: Pixels | None


@dataclass(frozen=True)
class Result:
    """Scores of a task, rows of its sheet, and clips of its GIF by caption."""

    scores: TaskScores
    rows: list[Row]
    film: dict[str, Pixels]


@dataclass(frozen=True)
class Generated:
    """Generated clips, (N, T, H, W, 3), and their masks, (N, T, H, W), or None without a segmenter."""

    clips: Pixels
    masks: Pixels | None


def true_clips(store: ClipStore, frames: int, count: int) -> list[TrueClip]:
    """`count` clips of a test set, evenly spaced among those that have all their frames."""
    whole = [i for i in range(len(store)) if store.num_frames(i) >= frames]
    paired = set(store.paired.tolist())
    return [
        TrueClip(
            store.name(i), store.frames(i)[:frames], store.conditions(i)[:frames] if i in paired else None
        )
        for i in (whole[row] for row in evenly_spaced(len(whole), count))
    ]


def run_here(label: str, calls: Sequence[Call]) -> list[Pixels]:
    """Call each in this process, under a progress bar."""
    return [calls[n]() for (n,) in progress(range(len(calls)), 1, label)]


@dataclass(frozen=True)
class Evaluation:
    """Evaluate the tasks of a model, test set by test set."""

    model: Model
    clip: ClipParams
    params: EvaluateTasksParams
    degradations: DegradeParams
    sampling: Sampling
    tracker: Tracker  # counts the FLOPs of the model
    run: Run = run_here

    def evaluate(
        self, name: str, clips: list[TrueClip], generated: Generated | None, tasks: Sequence[str]
    ) -> dict[str, Result]:
        """Score trained tasks on one test set; generate if there are clips."""
        results = {}
        if "predict" in tasks and self.model.predictable(self.clip.frames - self.clip.known):
            results["predict"] = self.predict(name, clips)
        if "interpolate" in tasks:
            results["interpolate"] = self.interpolate(name, clips)
        if "restore" in tasks:
            results["restore"] = self.restore(name, clips)
        if generated is not None and generated.masks is not None:
            results["generate"] = self.compare_objects(name, clips, generated.masks)
        return results

    def predict(self, name: str, clips: list[TrueClip]) -> Result:
        """Predict the target frames that hops lead to; baseline: copies of the last context frame."""
        known, sampling = self.clip.known, self.sampling
        predict = self.tracker.counted(self.model.predict)
        numbers = self.model.predictable(self.clip.frames - known)
        frames = [known - 1 + number for number in numbers]
        truth = [clip.frames[frames] for clip in clips]
        calls = [partial(predict, clip.frames[:known], sampling=sampling, at=numbers) for clip in clips]
        predicted = [futures[0] for futures in self.run(f"{name}: predict", calls)]
        copies = [
            np.broadcast_to(clip.frames[known - 1], true.shape)
            for clip, true in zip(clips, truth, strict=True)
        ]
        rows: list[Row] = []
        for clip, future, true in zip(clips[: self.params.figures], predicted, truth, strict=False):
            columns = evenly_spaced(len(true), COLUMNS)
            last: Row = [(f"known {known} of {clip.name}", clip.frames[known - 1])]
            rows.append(last + [(f"predicted {frames[k] + 1}", future[k]) for k in columns])
            rows.append(last + [(f"true {frames[k] + 1}", true[k]) for k in columns])
        first = clips[0].frames[:known]
        film = {
            "predicted": np.concatenate([first, predicted[0]]), "true": np.concatenate([first, truth[0]])
        }  # fmt: skip
        return Result(score_frames(predicted, truth, {"copy": copies}), rows, film)

    def interpolate(self, name: str, clips: list[TrueClip]) -> Result:
        """Interpolate the middle of clips; baselines: a blend of the frames around it, and the nearer one."""
        scores: dict[str, TaskScores] = {}
        interpolate = self.tracker.counted(self.model.interpolate)
        rows: list[Row] = []
        film: dict[str, Pixels] = {}
        for count in sorted(set(self.params.interpolate_frames)):
            start = (len(clips[0].frames) - count) // 2
            stop = start + count
            truth = [clip.frames[start:stop] for clip in clips]
            ends = [(clip.frames[start - 1], clip.frames[stop]) for clip in clips]
            calls = [
                partial(
                    interpolate, clip.frames[:start], clip.frames[stop:], frames=count, sampling=self.sampling
                )
                for clip in clips
            ]
            between = [found[0] for found in self.run(f"{name}: interpolate {count}", calls)]
            blends = [blend(*pair, count) for pair in ends]
            baselines = {"blend": blends, "nearest": [nearest(*pair, count) for pair in ends]}
            scores[str(count)] = score_frames(between, truth, baselines)
            shown = zip(clips[: self.params.figures], ends, between, blends, truth, strict=False)
            for clip, pair, *middle in shown:
                captions = (f"between: {count // 2 + 1} of {count}", "blended", "true")
                tiles = [(caption, part[count // 2]) for caption, part in zip(captions, middle, strict=True)]
                rows.append([(f"before, {clip.name}", pair[0]), *tiles, ("after", pair[1])])
            for caption, part in (("between", between[0]), ("blended", blends[0]), ("true", truth[0])):
                film[caption] = clips[0].frames.copy()
                film[caption][start:stop] = part
        return Result(scores, rows, film)

    def restore(self, name: str, clips: list[TrueClip]) -> Result:
        """Restore clips from each degradation; baseline: the degraded clips. Also the codec's round trip."""
        truth = [clip.frames for clip in clips]
        round_trip = self.tracker.counted(self.model.round_trip)
        restore = self.tracker.counted(self.model.restore)
        round_trips = self.run(f"{name}: round trips", [partial(round_trip, clip.frames) for clip in clips])
        scores = {"codec": score_frames(round_trips, truth, {})}
        rows: list[Row] = []
        film: dict[str, Pixels] = {}
        for kind, degraded, inputs in degraded_clips(clips, self.degradations, self.sampling.seed):
            calls = [partial(restore, inputs[clip.name], self.sampling) for clip in degraded]
            restored = self.run(f"{name}: restore {kind}", calls)
            true, shown = [clip.frames for clip in degraded], [inputs[clip.name] for clip in degraded]
            scores[kind] = score_frames(restored, true, {"degraded": shown})
            compared = {f"{kind}, {degraded[0].name}": shown[0], "restored": restored[0], "true": true[0]}
            thirds = [(len(true[0]) - 1) * at // 3 for at in (1, 2)]
            rows.append([(caption, part[k]) for k in thirds for caption, part in compared.items()])
            film = film or compared
        return Result(scores, rows, film)

    def generate(self) -> Generated | None:
        """Generate clips without context and segment them if possible; None if the task was not trained."""
        if "generate" not in self.model.tasks:
            return None
        sampling = replace(self.sampling, temperature=self.params.generate_temperature)
        generate = self.tracker.counted(self.model.generate)
        frames = min(self.clip.frames, self.model.max_generated or self.clip.frames)
        (clips,) = self.run("generate", [partial(generate, self.params.samples, frames, sampling)])
        if not self.model.segments:
            return Generated(clips, None)
        segment = self.tracker.counted(self.model.segment)
        masks = self.run("generate: objects", [partial(segment, clip) for clip in clips])
        return Generated(clips, np.stack(masks))

    def compare_objects(self, name: str, clips: list[TrueClip], generated: Pixels) -> Result:
        """Count objects per frame in generated and in true clips, with the same segmenter."""
        segment = self.tracker.counted(self.model.segment)
        true = np.concatenate(self.run(f"{name}: objects", [partial(segment, clip.frames) for clip in clips]))
        masks = {"generated": generated.reshape(-1, *true.shape[1:]), "true": true}
        scores = {
            kind: object_statistics([count_objects(mask, self.params.object_pixels) for mask in found])
            for kind, found in masks.items()
        }
        return Result(scores, [], {})


def degraded_clips(
    clips: list[TrueClip], degradations: DegradeParams, seed: int
) -> Iterator[tuple[str, list[TrueClip], dict[str, Pixels]]]:
    """Yield kind, clips and degraded frames by clip name.

    The first kind is the set's own pairs, if any; then each enabled degradation at the middle of its range.
    """
    if pairs := {clip.name: clip.condition for clip in clips if clip.condition is not None}:
        yield "paired", [clip for clip in clips if clip.name in pairs], pairs
    for kind, (low, high) in degradations.ranges.items():
        degraded = {}
        for clip in clips:
            rng = np.random.default_rng([seed, crc32(clip.name.encode()), KINDS.index(kind)])
            degraded[clip.name] = degrade(clip.frames, kind, (low + high) / 2, rng)
        yield kind, clips, degraded


def write_pictures(
    folder: Path, results: dict[str, dict[str, Result]], generated: Generated | None, max_clips: int
) -> None:
    """Write the sheets and GIFs to a folder."""
    for name, tasks in results.items():
        for task, result in tasks.items():
            if result.rows:
                (folder / f"{name}_{task}.png").write_bytes(encode_png(sample_sheet(result.rows)))
                write_frames(folder / f"{name}_{task}.gif", film_frames(result.film), FPS)
    if generated is None:
        return
    rows: list[Row] = []
    for number, clip in enumerate(generated.clips[:max_clips]):
        columns = evenly_spaced(len(clip), COLUMNS)
        rows.append([(f"clip {number + 1}, frame {k + 1}", clip[k]) for k in columns])
        film = {"generated": clip}
        if generated.masks is not None:
            film["its masks"] = generated.masks[number]
            rows.append([(f"mask {k + 1}", generated.masks[number][k]) for k in columns])
        write_frames(folder / f"generate_{number:02d}.gif", film_frames(film), FPS)
    (folder / "generate.png").write_bytes(encode_png(sample_sheet(rows)))


def film_frames(film: dict[str, Pixels]) -> Iterator[Picture]:
    """Yield pictures of clips of one length side by side."""
    for frames in zip(*film.values(), strict=True):
        yield sample_sheet([list(zip(film, frames, strict=True))])
