"""The command train: from videos to a folder of trained models."""

import sys
from typing import Annotated

from pydantic import JsonValue
from typer import Argument, Exit, Option

from vdp.api.train import REPORT_FILE, TrainingPlan, plan_training, run
from vdp.api.train_videos import Splits, clip_params, extract_params
from vdp.config.messages import validate
from vdp.config.yaml_file import parse_yaml
from vdp.core.errors import UserError, printable
from vdp.core.tasks import TASKS
from vdp.training.params import TrainDenoiserParams

VIDEOS_HELP = "Video files, folders of videos or of pictures, or globs in quotes."
SET_HELP = "A value of params.yaml, as train_denoiser.steps=500; repeatable."
VAL_HELP = "Videos to validate on; default: a share of the videos, or the end of a single one."
FPS_HELP = "Frames per second to train on; default: every frame."
RECIPE_HELP = "Name of a file in recipes/, over recipe own."
FORCE_HELP = "Replace the folder, and discard another interrupted training."
MAX_NAMES = 5  # videos listed in a plan

Out = Annotated[str, Option("--out", "-o", help="Folder of the trained models, to be written.")]
Recipe = Annotated[
    str | None, Option(help="Name of a file in recipes/, over recipe own.", show_default=False)
]
Changes = Annotated[list[str] | None, Option("--set", help=SET_HELP, show_default=False)]
Val = Annotated[list[str] | None, Option(help=VAL_HELP, show_default=False)]
Interval = Annotated[int | None, Option(help="Train on every n-th frame.", show_default=False)]
Fps = Annotated[float | None, Option(help=FPS_HELP, show_default=False)]
Force = Annotated[
    bool, Option("--force", help="Replace the folder, and discard another interrupted training.")
]
DryRun = Annotated[bool, Option("--dry-run", help="Print the plan and the cost.")]


def train(
    videos: Annotated[list[str], Argument(help=VIDEOS_HELP)],
    out: Out,
    recipe: Recipe = None,
    changes: Changes = None,
    val: Val = None,
    interval: Interval = None,
    fps: Fps = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Train on videos; the same command continues an interrupted training."""
    values = parse_changes(changes or [])
    pace: dict[str, JsonValue] = {"extract_frames.interval": interval, "extract_frames.fps": fps}
    values |= {name: value for name, value in pace.items() if value is not None}
    plan = plan_training(videos, out, val, recipe, values, force)
    from vdp.cli.cost import RunParams, training_table

    print(describe(plan))
    print(training_table(RunParams.of(plan.params)), flush=True)
    if dry_run:
        return
    try:
        run(plan)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues", file=sys.stderr)
        raise Exit(130) from None
    shown = printable(out)
    print(f"wrote {shown}; report: {shown}/{REPORT_FILE}; {next_command(plan)} --models {shown}")


def next_command(plan: TrainingPlan) -> str:
    """The command of the first task that a plan trains, with the words for its inputs."""
    shares = validate(TrainDenoiserParams, plan.params["train_denoiser"], "train_denoiser").tasks
    inputs = {"predict": " CLIP", "interpolate": " BEFORE AFTER", "generate": "", "restore": " CLIP"}
    task = next(task for task in TASKS if getattr(shares, task) > 0)
    return f"{task}: vdp {task}{inputs[task]}"


def parse_changes(words: list[str]) -> dict[str, JsonValue]:
    """Parse the words of --set; the last of equal names counts."""
    changes: dict[str, JsonValue] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--set={word!r}: expected name=value, as train_denoiser.steps=500")
        changes[name.strip()] = parse_yaml(value, f"--set={word!r}")
    return changes


def describe(plan: TrainingPlan) -> str:
    """Describe the videos, their split and the frames of a plan of files."""
    assert plan.splits is not None
    clip, cut = clip_params(plan.params), extract_params(plan.params)
    rate = f"{cut.fps:g} frames per second" if cut.fps else f"every {_ordinal(cut.interval)}frame"
    context = f", {clip.known} as context" if clip.predicts else ""
    lines = [
        f"train on      {_names(plan.splits, 'train')}",
        f"validate on   {_names(plan.splits, 'val')} ({plan.splits.rule})",
        f"frames        {clip.width}x{clip.height}, {rate}; clips of {clip.frames}{context}",
        f"output        {printable(str(plan.folder))}",
    ]
    return "\n".join(lines)


def _ordinal(interval: int) -> str:
    return "" if interval == 1 else f"{interval}th "


def _names(splits: Splits, name: str) -> str:
    split = splits.train if name == "train" else splits.val
    labels = [printable(split.source.label(item)) for item in split.videos]
    more = f" and {len(labels) - MAX_NAMES} more" if len(labels) > MAX_NAMES else ""
    return f"{len(labels)} video{'s' * (len(labels) != 1)}: {', '.join(labels[:MAX_NAMES])}{more}"
