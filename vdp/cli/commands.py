"""The commands for a user's own videos: predict, generate, interpolate, restore, segment, info, submit.

Arguments and inputs are checked before torch and the networks are loaded, so that a mistake is told at once.
"""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec, cast

import typer

from vdp.cli.video_io import (
    beside_row,
    check_clips,
    check_full_size,
    duration,
    in_parts,
    made_row,
    of,
    plan_jobs,
    read_end,
    read_nothing,
    read_whole,
    say_begin,
    say_done,
    say_plan,
    seconds_of,
    thumbnail,
    work_size,
    write_job,
)
from vdp.core.errors import UserError
from vdp.data.extract.extract import quiet_decoder
from vdp.data.sources.input_clips import PICTURES_RATE, find_clip, find_clips
from vdp.data.stores.clips import Pixels
from vdp.data.video.write import MOVING

if TYPE_CHECKING:
    from vdp.api.model import Model, SamplerName, Sampling

SAMPLERS = ("ddim", "ddpm", "dpmpp", "euler", "heun")
RANGES = {
    "-n": (1, 64),
    "--samples": (1, 64),
    "--frames": (1, 10_000),
    "--known": (1, 1000),
    "--interval": (1, 1_000_000),
    "--fps": (1, 240),
    "--steps": (1, 1000),
    "--temperature": (0, 2),
    "--guidance": (0, 20),
    "--eta": (0, 1),
    "--seed": (0, 2**31 - 1),
}
TRIED, TRIED_STEPS = 11, 3  # frames and steps, at most, of what a dry run tries
PANEL = "Your own videos"
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # texts of torch's own errors

P = ParamSpec("P")

# --- Options ---------------------------------------------------------------------------------------------

Clip = Annotated[str, typer.Argument(help="A video file, a folder of pictures, or a glob in quotes.")]
Clips = Annotated[
    list[str],
    typer.Argument(
        help="Video files, folders of pictures, or globs in quotes; pictures of a folder are one clip."
    ),
]
Models = Annotated[str, typer.Option("--models", help="Folder of the networks that `make run` makes.")]
Out = Annotated[
    str,
    typer.Option("--out", "-o", help=".mp4, .gif, or no suffix for a folder of PNGs, which lose nothing."),
]
MaskOut = Annotated[
    str,
    typer.Option(
        "--out", "-o", help=".npy of class ids (T, H, W); or in colour: .mp4, .gif, a folder of PNGs."
    ),
]
Known = Annotated[
    int | None,
    typer.Option(
        "--known",
        help="Given frames to use, 1 to 1000; if not said, as many as the networks look at.",
        show_default=False,
    ),
]
Interval = Annotated[
    int, typer.Option("--interval", help="Take every n-th frame; before what is predicted, from the last on.")
]
Samples = Annotated[int, typer.Option("--samples", help="Different results, 1 to 64.")]
Sampler = Annotated[str, typer.Option("--sampler", help=f"One of {', '.join(SAMPLERS)}.")]
Steps = Annotated[int, typer.Option("--steps", help="Sampling steps, 1 to 1000.")]
Temperature = Annotated[
    float, typer.Option("--temperature", help="Scale of all noise, 0 to 2; 0: the one most likely result.")
]
Guidance = Annotated[
    float, typer.Option("--guidance", help="Weight of what is given, 0 to 20; 1: as trained.")
]
Eta = Annotated[float, typer.Option("--eta", help="Share of fresh noise in a step of ddim, 0 to 1.")]
Seed = Annotated[int, typer.Option("--seed", help="From 0; equal seeds give equal results.")]
Fps = Annotated[
    float | None,
    typer.Option(
        "--fps",
        help=f"Frames a second to write, 1 to 240; the clip's, 1 at least; {PICTURES_RATE:g} of pictures.",
        show_default=False,
    ),
]
FullSize = Annotated[
    bool,
    typer.Option(
        "--full-size", help="Work at the clip's own size where it is larger: sharper, and much slower."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and how long it takes.")]


@dataclass(frozen=True)
class Settings:
    """How a sampler runs, checked before anything is loaded; the fields are those of `vdp.api.model.Sampling`."""

    sampler: str
    steps: int
    temperature: float
    guidance: float
    eta: float
    seed: int

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UserError(f"--sampler={self.sampler}: expected one of {', '.join(SAMPLERS)}")
        check_ranges(
            {
                "--steps": self.steps,
                "--temperature": self.temperature,
                "--guidance": self.guidance,
                "--eta": self.eta,
                "--seed": self.seed,
            }
        )
        if self.eta and self.sampler != "ddim":
            raise UserError(f"--eta={self.eta:g}: is of --sampler ddim alone; leave one of them out")

    def sampling(self) -> "Sampling":
        """As the networks take it."""
        from vdp.api.model import Sampling

        name = cast("SamplerName", self.sampler)  # checked
        return Sampling(name, self.steps, self.temperature, self.guidance, self.eta, self.seed)

    def about(self, make: "Callable[[Sampling], object]") -> float:
        """Seconds that the work will take, by trying it with a few of its steps."""
        few, sampling = min(self.steps, TRIED_STEPS), self.sampling()
        one = replace(sampling, steps=1)
        make(one)  # the first call is slower
        base = seconds_of(functools.partial(make, one))
        more = seconds_of(functools.partial(make, replace(sampling, steps=few)))
        return base + max(more - base, 0.0) * (self.steps - 1) / max(few - 1, 1)

    def __str__(self) -> str:
        return (
            f"{self.sampler}, {of(self.steps, 'step')}, temperature {self.temperature:g}, "
            f"guidance {self.guidance:g}, seed {self.seed}"
        )


def check_ranges(values: Mapping[str, float | None]) -> None:
    """Refuse a value that is out of range; None is a value not given.

    Raises:
        UserError: naming the option, its value and its range.
    """
    for option, value in values.items():
        least, most = RANGES[option]
        if value is not None and not least <= value <= most:  # nor if it is NaN
            raise UserError(f"{option}={value}: expected {least} to {most}")


def load_model(folder: str) -> "Model":
    """The networks of a folder; torch is loaded here and not before.

    Raises:
        FileNotFoundError: if they are not there, naming the command that makes them.
    """
    check_folder(folder)
    from vdp.api.model import load

    return load(Path(folder).expanduser())


def trained_with(model: "Model", name: str) -> int:
    """A number that the networks were trained with."""
    value = model.info()[name]
    assert isinstance(value, int)
    return value


def check_folder(models: str) -> None:
    """See that there is a folder of networks before anything is loaded.

    Raises:
        FileNotFoundError: if not, naming the command that makes it.
    """
    folder = Path(models).expanduser()
    if not all((folder / name).is_dir() for name in ("codec", "denoiser")):
        raise FileNotFoundError(
            f"{models}: no models there (folders codec and denoiser); make them with `make run`, or name "
            "their folder with --models"
        )


# --- Commands --------------------------------------------------------------------------------------------


def predict(
    clips: Clips,
    out: Out = "future.mp4",
    frames: Annotated[int, typer.Option("--frames", help="Frames to predict, 1 to 10000.")] = 11,
    known: Known = None,
    interval: Interval = 1,
    samples: Samples = 1,
    sampler: Sampler = "ddim",
    steps: Steps = 10,
    temperature: Temperature = 0.7,
    guidance: Guidance = 1.0,
    eta: Eta = 0.0,
    seed: Seed = 0,
    fps: Fps = None,
    models: Models = "data/models",
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Predict what comes after the last frames of each clip."""
    check_ranges(
        {"--frames": frames, "--known": known, "--interval": interval, "--samples": samples, "--fps": fps}
    )
    settings = Settings(sampler, steps, temperature, guidance, eta, seed)
    own = find_clips(clips)
    jobs = plan_jobs([(clip,) for clip in own], out, samples, force)
    check_folder(models)
    check_clips(own, known, interval)
    model = load_model(models)
    useful = trained_with(model, "known_frames")
    for job in jobs:
        started = time.monotonic()
        given = read_end(job.clips[0], interval, known, useful, not dry_run, model, frames * samples)
        if dry_run:
            few = min(frames, TRIED)
            trial = functools.partial(model.predict, given.frames, few, 1)
            seconds = settings.about(trial) * samples * frames / few
            doing = f"{of(samples, 'future')} of {of(frames, 'frame')} from {of(len(given.frames), 'frame')}"
            say_plan(job, given, f"{doing}: {settings}", seconds)
            continue
        say_begin(job, given, f"predicting {of(samples, 'future')} of {of(frames, 'frame')}")
        made = model.predict(given.frames, frames, samples, settings.sampling())
        rows = [given.row() + made_row(result, given, "future +") for result in made]
        write_job(job, made, given, rows, fps, force)
        say_done(job, made, given, started)


def generate(
    count: Annotated[int, typer.Option("--count", "-n", help="Clips to make, 1 to 64.")] = 1,
    out: Out = "generated.mp4",
    frames: Annotated[int, typer.Option("--frames", help="Frames of each, 1 to 10000.")] = 22,
    sampler: Sampler = "ddim",
    steps: Steps = 10,
    temperature: Temperature = 1.0,
    guidance: Guidance = 1.0,
    eta: Eta = 0.0,
    seed: Seed = 0,
    fps: Fps = None,
    models: Models = "data/models",
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Make clips from nothing."""
    check_ranges({"-n": count, "--frames": frames, "--fps": fps})
    settings = Settings(sampler, steps, temperature, guidance, eta, seed)
    job = plan_jobs([()], out, count, force)[0]
    model = load_model(models)
    given = read_nothing(model)
    if dry_run:
        few = min(frames, TRIED)
        seconds = settings.about(functools.partial(model.generate, 1, few)) * count * frames / few
        say_plan(job, given, f"{of(count, 'clip')} of {of(frames, 'frame')}: {settings}", seconds)
        return
    started = time.monotonic()
    say_begin(job, given, f"generating {of(count, 'clip')} of {of(frames, 'frame')}")
    made = model.generate(count, frames, settings.sampling())
    write_job(job, made, given, [made_row(result, given, "frame ") for result in made], fps, force)
    say_done(job, made, given, started)


def interpolate(
    before: Clip,
    after: Clip,
    out: Out = "between.mp4",
    frames: Annotated[int, typer.Option("--frames", help="Frames between the two, 1 to 10000.")] = 10,
    latent: Annotated[bool, typer.Option("--latent", help="Blend the latents of the two clips.")] = False,
    known: Known = None,
    interval: Interval = 1,
    samples: Samples = 1,
    sampler: Sampler = "ddim",
    steps: Steps = 10,
    temperature: Temperature = 0.7,
    guidance: Guidance = 1.0,
    eta: Eta = 0.0,
    seed: Seed = 0,
    fps: Fps = None,
    models: Models = "data/models",
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Make the frames between the end of one clip and the start of another, at the size of the first."""
    check_ranges(
        {"--frames": frames, "--known": known, "--interval": interval, "--samples": samples, "--fps": fps}
    )
    settings = Settings(sampler, steps, temperature, guidance, eta, seed)
    pair = (find_clip(before), find_clip(after))
    job = plan_jobs([pair], out, samples, force)[0]
    check_folder(models)
    check_clips(pair, known, interval)
    model = load_model(models)
    started = time.monotonic()
    useful = trained_with(model, "known_frames") * trained_with(model, "longest_gap")
    start = read_end(pair[0], interval, known, useful, not dry_run, model, frames * samples)
    end = read_end(pair[1], interval, known, useful, False, model, frames * samples)

    def between(count: int, ways: int, sampling: "Sampling") -> Pixels:
        return model.interpolate(start.frames, end.frames, count, ways, latent, sampling)

    if dry_run:
        few = min(frames, TRIED)
        seconds = settings.about(functools.partial(between, few, 1)) * samples * frames / few
        doing = f"{of(samples, 'way')} of {of(frames, 'frame')} between the two: {settings}"
        say_plan(job, start, doing, seconds)
        return
    say_begin(job, start, f"making {of(frames, 'frame')} between the two")
    made = between(frames, samples, settings.sampling())
    first = ("given 1", thumbnail(start.box.take(end.small(0))))  # at the size of the frames before it
    rows = [[*start.row()[-1:], *made_row(result, start, "between "), first] for result in made]
    write_job(job, made, start, rows, fps, force)
    say_done(job, made, start, started)


def restore(
    clips: Clips,
    out: Out = "restored.mp4",
    full_size: FullSize = False,
    interval: Interval = 1,
    sampler: Sampler = "ddim",
    steps: Steps = 10,
    temperature: Temperature = 0.0,
    guidance: Guidance = 1.0,
    eta: Eta = 0.0,
    seed: Seed = 0,
    fps: Fps = None,
    models: Models = "data/models",
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Restore clips that are noisy, dark, blurred, compressed or have lost frames."""
    check_ranges({"--interval": interval, "--fps": fps})
    settings = Settings(sampler, steps, temperature, guidance, eta, seed)
    own = find_clips(clips)
    jobs = plan_jobs([(clip,) for clip in own], out, 1, force)
    check_folder(models)
    check_clips(own, None, interval)
    if full_size:
        check_full_size(own, interval)
    model = load_model(models)
    for job in jobs:
        started = time.monotonic()
        size = work_size(job.clips[0], model, full_size)
        given = read_whole(job.clips[0], interval, TRIED if dry_run else None, size)
        if dry_run:
            seconds = settings.about(functools.partial(model.restore, given.frames, full_size=full_size))
            times = max(job.clips[0].count(interval) / len(given.frames), 1)
            say_plan(job, given, f"each frame, restored: {settings}", seconds * times)
            continue
        say_begin(job, given, f"restoring {of(len(given.frames), 'frame')}")
        made = model.restore(given.frames, settings.sampling(), full_size, progress=True)
        rows = [given.row(), beside_row(made, given, "restored")]
        write_job(job, made[None], given, rows, fps, force)
        say_done(job, made[None], given, started)


def segment(
    clips: Clips,
    out: MaskOut = "masks.npy",
    interval: Interval = 1,
    fps: Fps = None,
    models: Models = "data/models",
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Find the class of every pixel of every frame, 0 (background) to 48."""
    check_ranges({"--interval": interval, "--fps": fps})
    own = find_clips(clips)
    jobs = plan_jobs([(clip,) for clip in own], out, 1, force, (".npy", *MOVING))
    check_folder(models)
    check_clips(own, None, interval)
    model = load_model(models)
    for job in jobs:
        started = time.monotonic()
        given = read_whole(job.clips[0], interval, TRIED if dry_run else None, model)
        if dry_run:
            seconds = seconds_of(functools.partial(model.segment, given.frames))
            times = max(job.clips[0].count(interval) / len(given.frames), 1)
            say_plan(job, given, "a mask of each frame", seconds * times)
            continue
        say_begin(job, given, f"segmenting {of(len(given.frames), 'frame')}")
        masks = in_parts(given.frames, model.segment, "segmenting")
        rows = [given.row(), beside_row(masks, given, "mask")]
        write_job(job, masks[None], given, rows, fps, force)
        say_done(job, masks[None], given, started)


def info(
    model: Annotated[
        str, typer.Argument(help="Folder of the networks that `make run` makes.")
    ] = "data/models",
) -> None:
    """Say what networks are in a folder, and what they were trained for."""
    for line in listed(load_model(model).info()):
        print(line)


def listed(value: Mapping[str, object], indent: str = "") -> Iterator[str]:
    """Plain values in lines, those of mappings further in."""
    width = max((len(key) for key in value), default=0)
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            yield f"{indent}{key}"
            yield from listed(entry, indent + "  ")
        else:
            shown = ", ".join(map(str, entry)) if isinstance(entry, list | tuple) else entry
            yield (
                f"{indent}{key:<{width}}  {shown:,}"
                if type(shown) is int
                else f"{indent}{key:<{width}}  {shown}"
            )


def submit(
    hidden: Annotated[str, typer.Argument(help="Folder of the hidden clips, such as DATASET/hidden.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The file to write.")] = "final_predictions.pt",
    models: Models = "data/models",
    force: Force = False,
) -> None:
    """Predict the last mask of every hidden clip into one file, ready to hand in: uint8 (N, 160, 240)."""
    folder, place = Path(hidden).expanduser(), Path(out).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{hidden}: no such folder; expected the hidden clips, such as DATASET/hidden"
        )
    if os.path.lexists(place) and not force:
        raise UserError(f"{out}: is there already; choose another name with -o, or replace it with --force")
    check_folder(models)
    from vdp.cli.submit import submit as predict_hidden

    started = time.monotonic()
    shape = predict_hidden(folder, place, Path(models).expanduser(), force)
    print(f"wrote {out}: uint8 {shape}, read back and checked, in {duration(time.monotonic() - started)}")


# --- The command line ------------------------------------------------------------------------------------


def add_to(app: typer.Typer) -> None:
    """Add the commands to a command line."""
    for command in (predict, generate, interpolate, restore, segment, info, submit):
        app.command(rich_help_panel=PANEL)(_quietly(command))


def _quietly(command: Callable[P, None]) -> Callable[P, None]:
    """The command without a decoder's own noise, and with one line where it is stopped or memory ends."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        quiet_decoder()
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            print("\ninterrupted; nothing half-written is left", file=sys.stderr)
            raise typer.Exit(130) from None
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(text in str(error) for text in NO_MEMORY):
                raise
            raise UserError("memory is used up; take fewer --samples or frames, or smaller ones") from error

    return run
