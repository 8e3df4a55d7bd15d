"""Video commands: train, predict, generate, interpolate, interpolate-clips, restore, segment, info, submit.

Options and inputs are checked before torch is imported, so errors are printed immediately.
"""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

from typer import Argument, Exit, Option, Typer

from vdp.api.sampling import DEFAULT, GENERATED_FRAMES, MODE, PREDICTED_FRAMES, UNSCALED, Sampling
from vdp.api.training_record import read_record
from vdp.cli.share import share_jobs
from vdp.cli.train import train
from vdp.cli.video_io import (
    check_clips,
    check_full_size,
    empty_input,
    format_duration,
    map_batches,
    matching_row,
    plan_jobs,
    plural,
    print_plan,
    print_start,
    read_clip,
    read_context,
    result_row,
    thumbnail,
    write_job,
)
from vdp.config.choices import SAMPLERS, check_sampling, limits
from vdp.core.errors import UserError
from vdp.core.model_files import weights_file
from vdp.data.sources.input_clips import PICTURES_RATE, InputClip, find_clip, find_clips
from vdp.data.stores.clips import Pixels
from vdp.data.video.decode import quiet_decoder
from vdp.data.video.letterbox import exceeds
from vdp.data.video.write import VIDEO_SUFFIXES
from vdp.sampling.params import PredictParams

if TYPE_CHECKING:
    import torch

    from vdp.api.model import Model

RANGES: dict[str, tuple[float, float]] = {
    "-n": limits("samples", PredictParams),
    "--samples": limits("samples", PredictParams),
    "--frames": (1, 10_000),
    "--known": (1, 1000),
    "--interval": (1, 1_000_000),
    "--fps": (1, 240),
    "--devices": (1, 1024),
    "--strength": (0, 1),
}
TRIAL_FRAMES, TRIAL_STEPS = 11, 3  # max frames and steps that a dry run samples
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # in torch's messages

P = ParamSpec("P")


def span(name: str) -> str:
    """Range of an option or a setting of the sampler in a help text: 1 to 64."""
    low, high = RANGES.get(name) or limits(name)
    return f"{low} to {high}"


CLIP_HELP = "A video file, a folder of pictures, or a glob in quotes."
MASK_OUT_HELP = "Output: .npy of class ids (T, H, W), or colours as .mp4, .gif or a folder of PNGs."
INTERVAL_HELP = "Take every n-th frame of the input; default: as the model was trained."
CHECKPOINT_HELP = "Step of kept weights, which `vdp info` lists; default: those of the training's end."
PREDICTED_HELP = (
    f"Number of frames to predict, {span('--frames')}; default: {PREDICTED_FRAMES}, or, of a model that "
    "skips frames, those at its target offsets."
)
AT_HELP = "Numbers of the frames to predict, such as 11 or 2,5; 1 follows the clip; default: the first."
GENERATED_HELP = (
    f"Number of frames to generate, {span('--frames')}; default: {GENERATED_FRAMES}, or as many as a "
    "model generates that does not predict."
)
KNOWN_HELP = f"Number of context frames, {span('--known')}; default: as many as the model uses."
FPS_HELP = (
    f"Output frames per second, {span('--fps')}; default: as the input, {PICTURES_RATE:g} for pictures."
)

WHOLE_HELP = f"Frames of each clip, from its start, {span('--frames')}; default: all."
STRENGTH_HELP = f"Fraction of the noise schedule, {span('--strength')}; 0: a blend, 1: new clips."

Clip = Annotated[str, Argument(help=CLIP_HELP)]
Clips = Annotated[list[str], Argument(help="Video files, folders of pictures, or globs in quotes.")]
Models = Annotated[str, Option(help="Folder of the trained models.")]
Checkpoint = Annotated[int | None, Option(help=CHECKPOINT_HELP, show_default=False)]
Out = Annotated[str, Option("--out", "-o", help="Output: .mp4, .gif, or no suffix for a folder of PNGs.")]
MaskOut = Annotated[str, Option("--out", "-o", help=MASK_OUT_HELP)]
Frames = Annotated[int, Option(help=f"Number of frames to predict, {span('--frames')}.")]
PredictedFrames = Annotated[int | None, Option(help=PREDICTED_HELP, show_default=False)]
At = Annotated[str | None, Option(help=AT_HELP, show_default=False)]
GeneratedFrames = Annotated[int | None, Option(help=GENERATED_HELP, show_default=False)]
Known = Annotated[int | None, Option(help=KNOWN_HELP, show_default=False)]
Interval = Annotated[int, Option(help="Take every n-th frame of the input.")]
TrainedInterval = Annotated[int | None, Option(help=INTERVAL_HELP, show_default=False)]
Samples = Annotated[int, Option(help=f"Number of samples, {span('--samples')}.")]
Count = Annotated[int, Option("--count", "-n", help=f"Number of clips, {span('-n')}.")]
Sampler = Annotated[str, Option(help=f"Sampler: {', '.join(SAMPLERS)}.")]
Steps = Annotated[int, Option(help=f"Sampling steps per hop, {span('steps')}.")]
Temperature = Annotated[float, Option(help=f"Scale of all noise, {span('temperature')}.")]
Guidance = Annotated[float, Option(help=f"Weight of the context, {span('guidance')}; 1: as trained.")]
Eta = Annotated[float, Option(help=f"ddim: share of fresh noise per step, {span('eta')}.")]
Seed = Annotated[int, Option(help="Seed; equal seeds give equal results.")]
Fps = Annotated[float | None, Option(help=FPS_HELP, show_default=False)]
Latent = Annotated[bool, Option("--latent", help="Morph the latents of the two end frames.")]
WholeFrames = Annotated[int | None, Option("--frames", help=WHOLE_HELP, show_default=False)]
Strength = Annotated[float, Option(help=STRENGTH_HELP)]
Between = Annotated[int, Option("--count", "-n", help=f"Number of clips between the two, {span('-n')}.")]
FullSize = Annotated[bool, Option("--full-size", help="Process larger clips at their own size; much slower.")]
Force = Annotated[bool, Option("--force", help="Replace existing outputs.")]
Devices = Annotated[int, Option(help=f"Processes, one GPU each, {span('--devices')}; they share the clips.")]
DryRun = Annotated[bool, Option("--dry-run", help="Print the plan and an estimate of the time.")]


# --- Commands --------------------------------------------------------------------------------------------


def predict(
    clips: Clips,
    out: Out = "future.mp4",
    frames: PredictedFrames = None,
    at: At = None,
    known: Known = None,
    interval: TrainedInterval = None,
    samples: Samples = 1,
    sampler: Sampler = DEFAULT.sampler,
    steps: Steps = DEFAULT.steps,
    temperature: Temperature = DEFAULT.temperature,
    guidance: Guidance = DEFAULT.guidance,
    eta: Eta = DEFAULT.eta,
    seed: Seed = DEFAULT.seed,
    fps: Fps = None,
    models: Models = "data/models",
    checkpoint: Checkpoint = None,
    devices: Devices = 1,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Predict frames after each clip."""
    chosen = None if at is None else parse_numbers(at)
    check_ranges(frames=frames, known=known, interval=interval, samples=samples, fps=fps, devices=devices)
    sampling = sampling_options(sampler, steps, temperature, guidance, eta, seed)
    inputs = find_clips(clips)
    jobs = plan_jobs([(clip,) for clip in inputs], out, samples, force)
    check_models(models, checkpoint=checkpoint)
    intervals = {clip: trained_interval(models, clip, interval) for clip in inputs}
    for job in jobs:
        check_clips([job], known, intervals[job.clips[0]])
    with share_jobs(jobs, 1 if dry_run else devices) as (own, device):
        model = load_model(models, checkpoint, device=device)
        numbers = model.frame_numbers(frames, chosen)
        size, limit = (model.height, model.width), model.context_frames
        task = f"predicting {plural(samples, 'sample')} of {plural(len(numbers), 'frame')}"
        for job in own:
            started = time.monotonic()
            (clip,), room = job.clips, max(numbers) * samples
            source = read_context(clip, intervals[clip], known, limit, not dry_run, size, room)
            sample = functools.partial(predict_first, model, source.frames, numbers)
            if dry_run:
                print_plan(job, source, task, estimate(sample, len(numbers), samples, sampling), sampling)
                continue
            print_start(job, source, task)
            results = sample(len(numbers), samples, sampling)
            rows = [source.row() + result_row(result, source, "future +", numbers) for result in results]
            write_job(job, results, source, rows, fps, force, started)


def generate(
    count: Count = 1,
    out: Out = "generated.mp4",
    frames: GeneratedFrames = None,
    sampler: Sampler = UNSCALED.sampler,
    steps: Steps = UNSCALED.steps,
    temperature: Temperature = UNSCALED.temperature,
    guidance: Guidance = UNSCALED.guidance,
    eta: Eta = UNSCALED.eta,
    seed: Seed = UNSCALED.seed,
    fps: Fps = None,
    models: Models = "data/models",
    checkpoint: Checkpoint = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Generate clips without context."""
    check_ranges(n=count, frames=frames, fps=fps)
    sampling = sampling_options(sampler, steps, temperature, guidance, eta, seed)
    (job,) = plan_jobs([()], out, count, force)
    check_models(models, checkpoint=checkpoint)
    model = load_model(models, checkpoint)
    frames = frames or model.max_generated or GENERATED_FRAMES
    source = empty_input((model.height, model.width))
    task = f"generating {plural(count, 'clip')} of {plural(frames, 'frame')}"
    if dry_run:
        few = min(frames, TRIAL_FRAMES)
        seconds = estimate_steps(functools.partial(model.generate, 1, few), sampling) * count * frames / few
        print_plan(job, source, task, seconds, sampling)
        return
    started = time.monotonic()
    print_start(job, source, task)
    results = model.generate(count, frames, sampling)
    rows = [result_row(result, source, "frame ") for result in results]
    write_job(job, results, source, rows, fps, force, started)


def interpolate(
    before: Clip,
    after: Clip,
    out: Out = "between.mp4",
    frames: Frames = 10,
    latent: Latent = False,
    known: Known = None,
    interval: TrainedInterval = None,
    samples: Samples = 1,
    sampler: Sampler = DEFAULT.sampler,
    steps: Steps = DEFAULT.steps,
    temperature: Temperature = DEFAULT.temperature,
    guidance: Guidance = DEFAULT.guidance,
    eta: Eta = DEFAULT.eta,
    seed: Seed = DEFAULT.seed,
    fps: Fps = None,
    models: Models = "data/models",
    checkpoint: Checkpoint = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Predict the frames between the end of one clip and the start of another, at the size of the first."""
    check_ranges(frames=frames, known=known, interval=interval, samples=samples, fps=fps)
    sampling = sampling_options(sampler, steps, temperature, guidance, eta, seed)
    pair = (find_clip(before), find_clip(after))
    (job,) = plan_jobs([pair], out, samples, force)
    check_models(models, checkpoint=checkpoint)
    intervals = [trained_interval(models, clip, interval) for clip in pair]
    for clip, every in zip(pair, intervals, strict=True):
        check_clips([replace(job, clips=(clip,))], known, every)
    model = load_model(models, checkpoint)
    started = time.monotonic()
    size, limit = (model.height, model.width), model.context_frames * model.max_span
    source = read_context(pair[0], intervals[0], known, limit, not dry_run, size, frames * samples)
    end = read_context(pair[1], intervals[1], known, limit, False, size, frames * samples)
    task = f"interpolating {plural(samples, 'sample')} of {plural(frames, 'frame')}"

    def sample(frames: int, samples: int, sampling: Sampling) -> Pixels:
        return model.interpolate(source.frames, end.frames, frames, samples, latent, sampling)

    if dry_run:
        print_plan(job, source, task, estimate(sample, frames, samples, sampling), sampling)
        return
    print_start(job, source, task)
    results = sample(frames, samples, sampling)
    last = ("given 1", thumbnail(source.box.restore(end.to_working_size(0))))
    rows = [[*source.row()[-1:], *result_row(result, source, "between "), last] for result in results]
    write_job(job, results, source, rows, fps, force, started)


def interpolate_clips(
    first: Clip,
    last: Clip,
    out: Out = "blend.mp4",
    count: Between = 1,
    strength: Strength = 0.5,
    frames: WholeFrames = None,
    interval: TrainedInterval = None,
    sampler: Sampler = UNSCALED.sampler,
    steps: Steps = UNSCALED.steps,
    temperature: Temperature = UNSCALED.temperature,
    guidance: Guidance = UNSCALED.guidance,
    eta: Eta = UNSCALED.eta,
    seed: Seed = UNSCALED.seed,
    fps: Fps = None,
    models: Models = "data/models",
    checkpoint: Checkpoint = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Interpolate between two whole clips of equal length, at the size of the first."""
    check_ranges(n=count, strength=strength, frames=frames, interval=interval, fps=fps)
    sampling = sampling_options(sampler, steps, temperature, guidance, eta, seed)
    pair = (find_clip(first), find_clip(last))
    (job,) = plan_jobs([pair], out, count, force)
    check_models(models, checkpoint=checkpoint)
    intervals = [trained_interval(models, clip, interval) for clip in pair]
    for clip, every in zip(pair, intervals, strict=True):
        check_clips([replace(job, clips=(clip,))], frames, every, whole=frames is None)
    model = load_model(models, checkpoint)
    started = time.monotonic()
    size = (model.height, model.width)
    source, end = (read_clip(clip, every, frames, size) for clip, every in zip(pair, intervals, strict=True))
    length, other = len(source.frames), len(end.frames)
    if length != other:
        raise UserError(
            f"{last}: {plural(other, 'frame')}: expected {length}, as {first} has; set --frames to at most "
            f"{min(length, other)}"
        )
    weights = [number / (count + 1) for number in range(1, count + 1)]
    task = f"interpolating {plural(count, 'clip')} of {plural(length, 'frame')}"

    def sample(count: int, sampling: Sampling) -> Pixels:
        return model.interpolate_clips(source.frames, end.frames, weights[:count], strength, sampling)

    if dry_run:
        seconds = estimate_steps(functools.partial(sample, 1), sampling) * count
        print_plan(job, source, task, seconds, sampling)
        return
    print_start(job, source, task)
    results = sample(count, sampling)
    rows = [source.row(), *(matching_row(result, source, "blend") for result in results), end.row()]
    write_job(job, results, source, rows, fps, force, started)


def restore(
    clips: Clips,
    out: Out = "restored.mp4",
    full_size: FullSize = False,
    interval: Interval = 1,
    sampler: Sampler = MODE.sampler,
    steps: Steps = MODE.steps,
    temperature: Temperature = MODE.temperature,
    guidance: Guidance = MODE.guidance,
    eta: Eta = MODE.eta,
    seed: Seed = MODE.seed,
    fps: Fps = None,
    models: Models = "data/models",
    checkpoint: Checkpoint = None,
    devices: Devices = 1,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Restore noisy, dark, blurred or compressed clips, and clips with lost frames."""
    check_ranges(interval=interval, fps=fps, devices=devices)
    sampling = sampling_options(sampler, steps, temperature, guidance, eta, seed)
    inputs = find_clips(clips)
    jobs = plan_jobs([(clip,) for clip in inputs], out, 1, force)
    check_models(models, checkpoint=checkpoint)
    check_clips(jobs, None, interval, whole=True)
    if full_size:
        check_full_size(inputs, interval)
    with share_jobs(jobs, 1 if dry_run else devices) as (own, device):
        model = load_model(models, checkpoint, device=device)
        for job in own:
            started = time.monotonic()
            (clip,), size = job.clips, (model.height, model.width)
            enlarge = full_size and exceeds(clip.size(), size)
            limit = TRIAL_FRAMES if dry_run else None
            source = read_clip(clip, interval, limit, clip.size() if enlarge else size, enlarge)
            frames = source.frames
            if dry_run:
                trial = functools.partial(model.restore, frames, full_size=full_size)
                seconds = estimate_steps(trial, sampling) * max(clip.count(interval) / len(frames), 1)
                print_plan(job, source, "restoring every frame", seconds, sampling)
                continue
            print_start(job, source, f"restoring {plural(len(frames), 'frame')}")
            restored = model.restore(frames, sampling, full_size, progress=True)
            rows = [source.row(), matching_row(restored, source, "restored")]
            write_job(job, restored[None], source, rows, fps, force, started)


def segment(
    clips: Clips,
    out: MaskOut = "masks.npy",
    interval: Interval = 1,
    fps: Fps = None,
    models: Models = "data/models",
    checkpoint: Checkpoint = None,
    devices: Devices = 1,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Classify every pixel of every frame: 0 (background) to 48."""
    check_ranges(interval=interval, fps=fps, devices=devices)
    inputs = find_clips(clips)
    jobs = plan_jobs([(clip,) for clip in inputs], out, 1, force, (".npy", *VIDEO_SUFFIXES))
    check_models(models, "segmenter", checkpoint)
    check_clips(jobs, None, interval, whole=True)
    with share_jobs(jobs, 1 if dry_run else devices) as (own, device):
        model = load_model(models, segmenter_checkpoint=checkpoint, device=device)
        for job in own:
            started = time.monotonic()
            (clip,), limit = job.clips, TRIAL_FRAMES if dry_run else None
            source = read_clip(clip, interval, limit, (model.height, model.width))
            frames = source.frames
            if dry_run:
                seconds = time_call(functools.partial(model.segment, frames))
                seconds *= max(clip.count(interval) / len(frames), 1)
                print_plan(job, source, "segmenting every frame", seconds)
                continue
            print_start(job, source, f"segmenting {plural(len(frames), 'frame')}")
            masks = map_batches(frames, model.segment, "segmenting")
            rows = [source.row(), matching_row(masks, source, "mask")]
            write_job(job, masks[None], source, rows, fps, force, started)


def info(model: Annotated[str, Argument(help="Folder of the trained models.")] = "data/models") -> None:
    """Describe the models of a folder and their training."""
    for line in format_values(load_model(model).info()):
        print(line)


def submit(
    hidden: Annotated[str, Argument(help="Folder of the hidden clips, such as DATASET/hidden.")],
    out: Annotated[str, Option("--out", "-o", help="Output file.")] = "final_predictions.pt",
    models: Models = "data/models",
    checkpoint: Checkpoint = None,
    devices: Devices = 1,
    force: Force = False,
) -> None:
    """Predict the last mask of every hidden clip of the competition: one file, uint8 (N, 160, 240)."""
    check_ranges(devices=devices)
    folder, file = Path(hidden).expanduser(), Path(out).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{hidden}: no such folder; expected one such as DATASET/hidden")
    if os.path.lexists(file) and not force:
        raise UserError(f"{out}: already exists; choose another name with -o, or replace it with --force")
    check_models(models, checkpoint=checkpoint)
    from vdp.cli.submit import submit as predict_hidden

    started = time.monotonic()
    shape = predict_hidden(folder, file, Path(models).expanduser(), force, checkpoint, devices)
    if shape is None:  # another process writes the file
        return
    print(f"wrote {out}: uint8 {shape}, verified, in {format_duration(time.monotonic() - started)}")


# --- Shared ----------------------------------------------------------------------------------------------


def sampling_options(
    sampler: str, steps: int, temperature: float, guidance: float, eta: float, seed: int
) -> Sampling:
    """Check the options of the sampler; errors name the option."""
    values = (sampler, steps, temperature, guidance, eta, seed)
    names = [field.name for field in fields(Sampling)]
    return Sampling(**check_sampling(dict(zip(names, values, strict=True)), "--").model_dump())


def check_ranges(**values: float | None) -> None:
    """Check the ranges of the other options; None: not set."""
    for name, value in values.items():
        option = f"-{name}" if len(name) == 1 else f"--{name}"
        low, high = RANGES[option]
        if value is not None and not low <= value <= high:
            raise UserError(f"{option}={value}: expected {low}..{high}")


def parse_numbers(text: str) -> list[int]:
    """Parse the numbers of --at."""
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--at={text!r}: expected numbers of frames, such as 11 or 2,5") from None
    low, high = RANGES["--frames"]
    if any(not low <= number <= high for number in numbers):
        raise UserError(f"--at={text}: expected numbers {low}..{high}")
    return numbers


def predict_first(
    model: "Model", clip: Pixels, numbers: Sequence[int], count: int, samples: int, sampling: Sampling
) -> Pixels:
    """Predict the first `count` of some frames after a clip."""
    return model.predict(clip, None, samples, sampling, numbers[:count])


def check_models(models: str, network: str = "denoiser", checkpoint: int | None = None) -> None:
    """Check that a folder of models, and kept weights of a network, exist, before torch is imported."""
    folder = Path(models).expanduser()
    if not all((folder / name).is_dir() for name in ("codec", "denoiser")):
        raise FileNotFoundError(
            f"{models}: no trained models (codec, denoiser); train them with `make run` or `vdp train`, or "
            "name another folder with --models"
        )
    try:
        weights_file(folder / network, checkpoint)
    except UserError as error:
        raise UserError(f"--{error}") from None


def trained_interval(models: str, clip: InputClip, interval: int | None) -> int:
    """Return `interval`, or where it is not set the one that selects frames as in the model's training."""
    if interval is not None:
        return interval
    record = read_record(Path(models).expanduser())
    return 1 if record is None else record.interval_at(clip.rate())


def load_model(
    folder: str,
    checkpoint: int | None = None,
    segmenter_checkpoint: int | None = None,
    device: "torch.device | None" = None,
) -> "Model":
    """Import torch and load the models of a folder."""
    check_models(folder)
    from vdp.api.model import load

    return load(Path(folder).expanduser(), device, checkpoint, segmenter_checkpoint)


def estimate(
    sample: Callable[[int, int, Sampling], object], frames: int, samples: int, sampling: Sampling
) -> float:
    """Estimate the seconds of sampling from one sample of a few frames."""
    few = min(frames, TRIAL_FRAMES)
    return estimate_steps(functools.partial(sample, few, 1), sampling) * samples * frames / few


def estimate_steps(sample: Callable[[Sampling], object], sampling: Sampling) -> float:
    """Estimate the seconds of sampling from runs with a few steps."""
    few, one = min(sampling.steps, TRIAL_STEPS), replace(sampling, steps=1)
    sample(one)  # warm-up
    base = time_call(functools.partial(sample, one))
    more = time_call(functools.partial(sample, replace(sampling, steps=few)))
    return base + max(more - base, 0.0) * (sampling.steps - 1) / max(few - 1, 1)


def time_call(function: Callable[[], object]) -> float:
    started = time.monotonic()
    function()
    return time.monotonic() - started


def format_values(values: Mapping[str, object], indent: str = "") -> Iterator[str]:
    """Format plain values in lines, nested mappings indented."""
    width = max((len(key) for key in values), default=0)
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}"
            yield from format_values(value, indent + "  ")
        elif isinstance(value, list | tuple):
            yield f"{indent}{key:<{width}}  {', '.join(map(str, value))}"
        else:
            yield f"{indent}{key:<{width}}  {format(value, ',') if type(value) is int else value}"


def add_to(app: Typer) -> None:
    """Add the commands to the command line."""
    commands = (train, predict, generate, interpolate, interpolate_clips, restore, segment, info, submit)
    for command in commands:
        app.command(rich_help_panel="Videos")(_with_short_errors(command))


def _with_short_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Silence the decoder; report an interrupt or a lack of memory in one line."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        quiet_decoder()
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            print("\ninterrupted; no partial outputs are left", file=sys.stderr)
            raise Exit(130) from None
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(text in str(error) for text in OUT_OF_MEMORY):
                raise
            raise UserError("out of memory; take fewer --samples or frames, or smaller ones") from error

    return run
