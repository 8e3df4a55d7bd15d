"""The ablation table: denoisers trained with equal arithmetic: `python -m bench.ablations --help`.

    python -m bench.ablations --tflop 8 --rows unet,dit --seeds 0 1

Reads bench/ablations.yaml (the rows), params.yaml, which each row overlays, and the data folder of a finished
run: its latents, codec, segmenter and motion model. Each row trains a denoiser by stages/train_denoiser.py
for as many steps as --tflop allows, rolls out labelled `val` clips from their known frames, and scores frame
`clip.frames`: PSNR of the first sample, Jaccard index of the denoised frames' masks alone, and that with the
votes of composed masks, as in the stage segment. Rows that change only `predict` share a training. Results
are appended to .ablations.jsonl, from which `--table` prints; a row with a result is skipped. Set
OMP_NUM_THREADS=1 for one thread; two processes share the rows by `--part 0/2` and `--part 1/2`.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from bench.denoisers import markdown
from bench.motion import (
    KnownTracks,
    answer,
    composed_frames,
    decide,
    denoised_shares,
    pooled_jaccard,
    segmented_tracks,
    vote_shares,
)
from stages import train_denoiser
from vdp.api.loading import load_latent_diffusion
from vdp.api.motion import ObjectMotion, load_motion
from vdp.api.tracks import load_tracker
from vdp.cli.cost import DenoiserCost, RunParams
from vdp.config.messages import validate
from vdp.config.read import check_data, read_section, run_stage
from vdp.config.recipes import merged
from vdp.config.schema import PARAMS_FILE, ClipParams
from vdp.config.yaml_file import read_file
from vdp.core.device import pick_device
from vdp.core.errors import UserError, one_line
from vdp.core.flops import TERA, format_tflop
from vdp.data.stores.clips import ClipStore
from vdp.evaluation.frame import frame_score
from vdp.models.segmenters.params import SegmentParams, TrackParams
from vdp.models.segmenters.track import ObjectTracker
from vdp.sampling.params import PredictParams, SampleMotionParams
from vdp.tracking.progress import progress
from vdp.training.checkpoint import TrainingCheckpoints

ROWS = Path("bench/ablations.yaml")
RESULTS = Path(".ablations.jsonl")
FOLDER = Path(".ablations")  # the trained denoisers
SECTIONS = ("denoiser", "diffusion", "train_denoiser", "predict")  # that a row may change
AFTER_TRAINING = "predict"  # the section that no training reads
WARMUP_SHARE = 10  # the warm-up is at most this part of a training

Masks = NDArray[np.uint8]
Settings: TypeAlias = Mapping[str, JsonValue]  # dotted key of params.yaml: value


@dataclass(frozen=True)
class Row:
    """A row of the table and the params it changes."""

    group: str
    name: str
    settings: Settings

    @property
    def key(self) -> str:
        """Equal for rows of one experiment."""
        return canonical(self.settings)

    @property
    def training(self) -> str:
        """Equal for rows that share a training."""
        return canonical({k: v for k, v in self.settings.items() if k.split(".")[0] != AFTER_TRAINING})


@dataclass(frozen=True)
class Result:
    """A line of the results file; without scores, and with the reason, where a row failed."""

    row: str
    settings: Settings
    tflop: float  # of the training
    seed: int
    clips: int
    steps: int = 0
    parameters: int = 0
    psnr: float | None = None
    jaccard: float | None = None  # of the denoised frames alone
    foreground: float | None = None  # object pixels of these masks / of the truth
    voted: float | None = None  # Jaccard index with composed masks
    failed: str | None = None


# --- Rows ------------------------------------------------------------------------------------------------


def canonical(value: Settings) -> str:
    return json.dumps(value, sort_keys=True)


def read_rows(path: Path) -> list[Row]:
    """Read the rows in the order of the file.

    Raises:
        UserError: if the format is wrong, a name occurs twice, or a row changes another section.
    """
    rows: list[Row] = []
    for group, members in read_file(path).items():
        if not isinstance(members, dict):
            raise UserError(f"{path}: {group}: expected rows `name: {{dotted.key: value}}`")
        for name, settings in members.items():
            if not isinstance(settings, dict):
                raise UserError(
                    f"{path}: {group}.{name}: expected {{dotted.key: value}}, or {{}} for the default"
                )
            if any(name == row.name for row in rows):
                raise UserError(f"{path}: {name} occurs twice: rename one")
            for key in settings:
                if key.split(".")[0] not in SECTIONS:
                    raise UserError(f"{path}: {group}.{name}: {key}: expected a key of {', '.join(SECTIONS)}")
            rows.append(Row(group, name, settings))
    return rows


def select(rows: Sequence[Row], names: Sequence[str] | None) -> list[Row]:
    """The first row of each experiment, of those named.

    Raises:
        UserError: for an unknown name.
    """
    by_name = {row.name: row for row in rows}
    for name in names or []:
        if name not in by_name:
            raise UserError(f"--rows: {name} is unknown; expected one of {', '.join(by_name)}")
    keys = {by_name[name].key for name in by_name if names is None or name in names}
    first: dict[str, Row] = {}
    for row in rows:
        if row.key in keys:
            first.setdefault(row.key, row)
    return list(first.values())


def part_of(rows: Sequence[Row], part: int, parts: int) -> list[Row]:
    """One of several parts of about as many trainings; rows that share a training stay in one part."""
    trainings = list(dict.fromkeys(row.training for row in rows))
    return [row for row in rows if trainings.index(row.training) % parts == part]


def nested(settings: Settings) -> dict[str, JsonValue]:
    """{"a.b": 1} to {"a": {"b": 1}}."""
    result: dict[str, JsonValue] = {}
    for dotted, value in settings.items():
        overlay = value
        for key in reversed(dotted.split(".")):
            overlay = {key: overlay}
        assert isinstance(overlay, dict)
        result = merged(result, overlay)
    return result


def row_params(row: Row, seed: int) -> dict[str, JsonValue]:
    """The content of params.yaml for a row.

    Raises:
        UserError: if it is not valid.
    """
    data = merged(read_file(), {**nested(row.settings), "seed": seed})
    check_data(data)
    return data


# --- Training --------------------------------------------------------------------------------------------


class Silent:
    """A tracker that drops what is logged."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def picture(self, name: str, picture: Masks, step: int) -> None: ...

    def film(self, name: str, film: Sequence[Masks], step: int) -> None: ...

    def add_flops(self, flops: float) -> None: ...


@contextmanager
def untracked(stage: str) -> Iterator[Silent]:
    yield Silent()


def train(row: Row, seed: int, tflop: float, data: Path) -> tuple[Path, int]:
    """Train the denoiser of a row, unless an earlier row has.

    Returns:
        A folder of models with codec and denoiser, and the steps of the training.

    Raises:
        UserError, ValueError: if the row cannot be trained.
    """
    params = row_params(row, seed)
    digest = sha256(f"{row.training} {seed} {tflop}".encode()).hexdigest()[:12]
    folder = FOLDER.resolve() / digest
    for name in ("latents", "models/codec"):
        link = folder / "data" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to((data / name).resolve())
    with chdir(folder):
        PARAMS_FILE.write_text(json.dumps(params))
        steps = steps_of_budget(tflop)
        PARAMS_FILE.write_text(json.dumps(merged(params, {"train_denoiser": length_settings(params, steps)})))
        if not (train_denoiser.DENOISER / "config.json").is_file():
            checkpoints = TrainingCheckpoints(Path("checkpoints"))
            with (
                patch.object(train_denoiser, "track_stage", untracked),
                patch.object(train_denoiser, "stage_checkpoints", lambda stage, root, initial: checkpoints),
            ):
                train_denoiser.main()
    return folder / "data/models", steps


def steps_of_budget(tflop: float) -> int:
    """Steps of the training of ./params.yaml that a budget allows.

    Raises:
        UserError: if there is none.
    """
    params = RunParams.read()
    step = DenoiserCost(params, labelled=True).training() / params.train_denoiser.total_steps
    steps = int(tflop * TERA / step)
    if steps < 1:
        raise UserError(f"--tflop={tflop:g}: expected at least {step / TERA:.2g}, one step; raise it")
    return steps


def length_settings(params: Mapping[str, JsonValue], steps: int) -> dict[str, JsonValue]:
    """Settings of section `train_denoiser` for a training of `steps` steps."""
    section = params["train_denoiser"]
    assert isinstance(section, dict)
    warmup = section["warmup_steps"]
    assert isinstance(warmup, int)
    return {
        "steps": steps,
        "epochs": None,
        "warmup_steps": min(warmup, steps // WARMUP_SHARE),
        "log_every": max(1, steps // 10),
        "validate_every": steps,
    }


# --- Scores ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ValClips:
    """Labelled `val` clips of a finished run, what its segmenter finds in them, and what moves on."""

    names: Sequence[str]
    frames: Sequence[Masks]  # known frames, (K, H, W, 3)
    target: Sequence[Masks]  # true last frame, (H, W, 3)
    masks: Sequence[Masks]  # its true mask, (H, W)
    tracks: Sequence[KnownTracks]
    votes: Sequence[NDArray[np.float32]]  # class shares of the composed masks, (49, H, W)
    tracker: ObjectTracker
    motion: ObjectMotion


def read_val_clips(data: Path, count: int) -> ValClips:
    """Read, track and move on the first `count` labelled `val` clips; a UserError if there are none."""
    clip, segment = read_section(ClipParams, "clip"), read_section(SegmentParams, "segment")
    device, models = pick_device(), data / "models"
    tracker = load_tracker(models, segment, read_section(TrackParams, "track_objects"), device)
    motion = load_motion(models, device)
    store = ClipStore(data / "clips/val")
    rows = [row for row in store.labelled if store.num_frames(row) >= clip.frames][:count]
    if not rows:
        raise UserError(
            f"{data / 'clips/val'}: no clips with masks of {clip.frames} frames; nothing to score"
        )
    names = [store.name(row) for row in rows]
    frames = [np.asarray(store.frames(row)[: clip.known]) for row in rows]
    tracks = [segmented_tracks(tracker, frames[n]) for (n,) in progress(range(len(rows)), 1, "track")]
    params = read_section(SampleMotionParams, "sample_motion")
    votes = [
        vote_shares(answer(motion, names[n], frames[n], tracks[n], clip.frames - 1, params).masks)
        for (n,) in progress(range(len(rows)), 1, "move on")
    ]
    return ValClips(
        names,
        frames,
        [np.asarray(store.frames(row)[clip.frames - 1]) for row in rows],
        [np.asarray(store.masks(row)[clip.frames - 1]) for row in rows],
        tracks,
        votes,
        tracker,
        motion,
    )


def score(row: Row, seed: int, tflop: float, steps: int, models: Path, clips: ValClips) -> Result:
    """Roll out the trained denoiser of a row and score its last frame."""
    params = validate(PredictParams, row_params(row, seed)["predict"], "predict")
    segment, sample_motion = clips.tracker.masks.params, read_section(SampleMotionParams, "sample_motion")
    model = load_latent_diffusion(models, pick_device())
    bases = None
    if model.config.base == "composed":
        bases = composed_frames(
            clips.motion, clips.names, clips.frames, clips.tracks, params, sample_motion, seed
        )
    frames, shares = denoised_shares(model, clips.tracker, clips.names, clips.frames, bases, params, seed)
    alone = [decide(share, segment.object_threshold) for share in shares]
    weight = segment.motion_vote
    together = [
        decide(weight * vote + (1 - weight) * share, segment.vote_threshold)
        for vote, share in zip(clips.votes, shares, strict=True)
    ]
    objects = [sum(int((mask > 0).sum()) for mask in masks) for masks in (alone, clips.masks)]
    return Result(
        row.name,
        row.settings,
        tflop,
        seed,
        len(clips.names),
        steps,
        sum(p.numel() for p in model.network.parameters()),
        frame_score([(np.stack(frames), np.stack(clips.target))]).psnr,
        pooled_jaccard(alone, clips.masks),
        objects[0] / objects[1],
        pooled_jaccard(together, clips.masks),
    )


# --- The table -------------------------------------------------------------------------------------------

HEADS = [
    "row", "changed in params.yaml", "seed", "parameters, M", "steps", "PSNR, dB", "Jaccard, denoised",
    "foreground", "with votes",
]  # fmt: skip


def read_results(path: Path) -> list[Result]:
    """The lines of a results file; a missing file has none."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return [Result(**json.loads(line)) for line in lines if line]


def table(rows: Sequence[Row], results: Sequence[Result]) -> str:
    """Markdown: a table per budget, in the order of the rows, with the last result of each row and seed."""
    parts: list[str] = []
    for tflop, clips in dict.fromkeys((result.tflop, result.clips) for result in results):
        found = {
            (canonical(result.settings), result.seed): result
            for result in results
            if (result.tflop, result.clips) == (tflop, clips)
        }
        seeds = sorted({seed for _, seed in found})
        lines = [
            cells(row, found[row.key, seed]) for row in rows for seed in seeds if (row.key, seed) in found
        ]
        title = f"{format_tflop(tflop)} TFLOP of training each, {clips} val clips"
        parts.append(f"{title}\n\n{markdown(HEADS, lines)}")
    return "\n\n".join(parts)


def cells(row: Row, result: Result) -> list[str]:
    changed = ", ".join(f"`{key}={json.dumps(value)}`" for key, value in row.settings.items())
    first = [f"{row.group}: {row.name}", changed.replace('"', "") or "-", str(result.seed)]
    if result.failed is not None:
        return [*first, "-", "-", "failed: " + result.failed.replace("|", "\\|"), "", "", ""]
    scores = [(result.psnr, 2), (result.jaccard, 4), (result.foreground, 2), (result.voted, 4)]
    shown = ["-" if value is None else f"{value:.{digits}f}" for value, digits in scores]
    return [*first, f"{result.parameters / 1e6:.2f}", str(result.steps), *shown]


# --- The command -----------------------------------------------------------------------------------------


def ablate(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Run each row and seed without a result; a failed row does not stop the others."""
    done = {
        (canonical(result.settings), result.seed)
        for result in read_results(options.results)
        if (result.tflop, result.clips, result.failed) == (options.tflop, options.clips, None)
    }
    todo = [(row, seed) for seed in options.seeds for row in rows if (row.key, seed) not in done]
    if not todo:
        return
    clips = read_val_clips(options.data, options.clips)
    for row, seed in todo:
        try:
            models, steps = train(row, seed, options.tflop, options.data)
            result = score(row, seed, options.tflop, steps, models, clips)
        except (ValueError, OSError) as error:
            result = Result(
                row.name, row.settings, options.tflop, seed, options.clips, failed=one_line(error)
            )
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        print(table([row], [result]), flush=True)


def parse_part(text: str) -> tuple[int, int]:
    """Parse `0/2` to (0, 2)."""
    part, _, parts = text.partition("/")
    if not part.isdecimal() or not parts.isdecimal() or int(part) >= int(parts):
        raise argparse.ArgumentTypeError(f"{text}: expected 0/2 or 1/2")
    return int(part), int(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tflop", type=float, help="of each training, above 0")
    parser.add_argument("--rows", type=lambda text: text.split(","), help="names, separated by commas")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one training each")
    parser.add_argument("--clips", type=int, default=60, help="labelled val clips, from the first on")
    parser.add_argument("--data", type=Path, default=Path("data"), help="data folder of a finished run")
    parser.add_argument("--part", type=parse_part, help="0/2 or 1/2: for two processes")
    parser.add_argument("--table", action="store_true", help="print the table of the results only")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"file to append to ({RESULTS})")
    parser.add_argument("--file", type=Path, default=ROWS, help=f"the rows ({ROWS})")
    run_stage(lambda: run(parser.parse_args(arguments)))


def run(options: argparse.Namespace) -> None:
    """Print the table, or run the chosen rows."""
    rows = read_rows(options.file)
    if options.table:
        print(table(rows, read_results(options.results)))
        return
    if not (options.tflop or 0) > 0:
        raise UserError("--tflop: expected the TFLOP of a training, above 0")
    chosen = select(rows, options.rows)
    ablate(part_of(chosen, *options.part) if options.part else chosen, options)


if __name__ == "__main__":
    main()
