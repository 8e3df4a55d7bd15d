"""The command line, `python -m vdp`: recipes, a check of params.yaml, the summary of a run, own videos."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from vdp.cli.commands import add_to
from vdp.config.read import check_file, read_section
from vdp.config.schema import PARAMS_FILE
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError, one_line
from vdp.tracking.mlflow_run import project_root, read_stats, tracking_uri

RESULTS = Path("results")
CLIPS = Path("data/clips")

app = typer.Typer(
    help="Video diffusion prediction.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 1."""
    try:
        app(prog_name="python -m vdp")
    except (ValueError, OSError) as error:
        if os.environ.get("VDP_TRACEBACK"):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)


@app.command()
def recipe(
    name: Annotated[str, typer.Argument(help="A file of recipes/, without .yaml.")],
    flags: Annotated[bool, typer.Option("--flags", help="Print it as -S flags for dvc exp run.")] = False,
) -> None:
    """Write a recipe into params.yaml, keeping its comments."""
    from vdp.config.recipes import apply_recipe, recipe_flags

    if flags:
        print(recipe_flags(name))
        return
    changed = apply_recipe(name)
    for key, (before, after) in changed.items():
        print(f"{key}: {json.dumps(before)} -> {json.dumps(after)}")
    print(f"{PARAMS_FILE}: {len(changed)} values changed by recipe {name}; next: make run")


@app.command()
def check() -> None:
    """Check params.yaml, tell which sources have changed since they were read, mend a killed run's locks."""
    from vdp.cli.dvc_recovery import mend_after_a_kill
    from vdp.config.checks import check_single_frames
    from vdp.data.extract.changes import changed_sources
    from vdp.data.params import ExtractParams

    for mended in mend_after_a_kill():
        print(mended, file=sys.stderr)
    check_file()
    check_single_frames(read_file())
    print(f"{PARAMS_FILE} is valid")
    if not CLIPS.is_dir():
        return
    try:
        changed = changed_sources(read_section(ExtractParams, "extract_frames"), CLIPS)
    except (ValueError, OSError) as error:
        print(f"the sources cannot be compared with the clips: {one_line(error)}", file=sys.stderr)
        return
    for key in changed:
        print(
            f"{key}: its files are not those that its clips were cut from; unless params.yaml has changed, "
            "which dvc repro sees: dvc repro --force --single-item extract_frames",
            file=sys.stderr,
        )


@app.command()
def summary() -> None:
    """Show the scores, what each stage cost, and where everything is."""
    print(_scores())
    print(_costs())
    print(_places())


def _scores() -> str:
    from vdp.evaluation.table import score_table

    path = RESULTS / "metrics.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file yet: run the pipeline first (make run)")
    return score_table(json.loads(path.read_text()))


def _costs() -> str:
    """Time and memory of the last run of each stage, also of those that DVC had no need to run again."""
    stats = read_stats()
    if not stats:
        return "No stage has been run here yet."
    lines = [f"{'stage':<16} {'time':>9} {'peak memory':>12}"]
    for stage, usage in stats.items():
        lines.append(f"{stage:<16} {_duration(usage['seconds'])} {usage['peak_memory_mb']:>9.0f} MB")
    total = sum(usage["seconds"] for usage in stats.values())
    return "\n".join([*lines, f"{'all':<16} {_duration(total)}", ""])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:>3.0f}m {rest:>3.0f}s"


def _places() -> str:
    places = {
        "report": RESULTS / "report.html",
        "pictures": RESULTS / "strips",
        "scores": RESULTS / "metrics.json",
        "tasks": RESULTS / "tasks.json",
        "predicted frames": Path("data/predictions"),
        "MLflow store": tracking_uri().removeprefix(f"sqlite:///{project_root()}/"),
    }
    lines = [f"{name:<16} {place}" for name, place in places.items()]
    return "\n".join([*lines, f"{'compare runs':<16} make mlflow"])


add_to(app)
