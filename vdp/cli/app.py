"""The command line `vdp`: recipes, a check of params.yaml, the summary of a run, and the video commands."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from vdp.cli.commands import add_to
from vdp.cli.video_io import format_duration
from vdp.config.read import check_file, read_section
from vdp.config.schema import PARAMS_FILE
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError, one_line
from vdp.core.flops import format_tflop
from vdp.tracking.mlflow_run import Usage, project_root, read_stats, tracking_uri

RESULTS = Path("results")
CLIPS, PREDICTIONS = Path("data/clips"), Path("data/predictions")
PIPELINE = Path("dvc.yaml")

app = typer.Typer(
    help="Video diffusion prediction.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; a user error ends in one line and exit code 1."""
    try:
        app(prog_name="vdp")
    except (ValueError, OSError) as error:
        if os.environ.get("VDP_TRACEBACK"):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)


@app.command()
def recipe(
    name: Annotated[str, typer.Argument(help="Name of a file in recipes/, without .yaml.")],
    flags: Annotated[bool, typer.Option("--flags", help="Print it as -S flags for dvc exp run.")] = False,
) -> None:
    """Write a recipe into params.yaml, keeping its comments."""
    from vdp.config.recipes import Removed, apply_recipe, recipe_flags

    check_project()
    if flags:
        print(recipe_flags(name))
        return
    changed = apply_recipe(name)
    for key, (before, after) in changed.items():
        new = after.value if isinstance(after, Removed) else json.dumps(after)
        print(f"{key}: {json.dumps(before)} -> {new}")
    print(f"{PARAMS_FILE}: {len(changed)} values changed by recipe {name}; next: make run")


@app.command()
def check(
    no_cost: Annotated[bool, typer.Option("--no-cost", help="Leave out the estimate of the cost.")] = False,
) -> None:
    """Check params.yaml, the sources and this machine, repair locks of a killed run, estimate the cost."""
    from vdp.cli.dvc_recovery import repair_locks
    from vdp.cli.place_check import check_place

    check_project()
    for message in [*check_place(), *repair_locks()]:
        print(message, file=sys.stderr)
    check_file()
    from vdp.cli.preflight import check_run

    run = check_run()
    for line in run.left_out:
        print(line, file=sys.stderr)
    print(f"{PARAMS_FILE} is valid")
    for note in run.notes:
        print(note)
    if CLIPS.is_dir():
        _report_changed_sources()
    if no_cost:
        return
    if find_spec("torch") is None:
        print("the cost is not estimated: torch is not installed", file=sys.stderr)
        return
    from vdp.cli.cost import cost_table
    from vdp.cli.disk import run_disk_line

    print(cost_table(run.labelled))
    if disk := run_disk_line():
        print(disk)


def _report_changed_sources() -> None:
    from vdp.data.extract.changes import changed_sources
    from vdp.data.params import ExtractParams

    try:
        changed = changed_sources(read_section(ExtractParams, "extract_frames"), CLIPS)
    except (ValueError, OSError) as error:
        print(f"the sources cannot be compared with the clips: {one_line(error)}", file=sys.stderr)
        return
    for key in changed:
        print(
            f"{key}: its files have changed since its clips were extracted; unless params.yaml has changed "
            "too, run dvc repro --force --single-item extract_frames",
            file=sys.stderr,
        )


@app.command()
def summary() -> None:
    """Print the scores, the arithmetic, time and memory of each stage, and the paths of the results."""
    from vdp.core.empty import empty_reason
    from vdp.evaluation.table import score_table
    from vdp.evaluation.tasks import task_table

    check_project()
    metrics = RESULTS / "metrics.json"
    if not metrics.is_file():
        raise UserError(f"{metrics}: no such file; run the pipeline first (make run)")
    if nothing := empty_reason(PREDICTIONS):
        print(f"{nothing}\n{task_table(json.loads((RESULTS / 'tasks.json').read_text()))}\n")
    else:
        print(score_table(json.loads(metrics.read_text())))
    print(_cost_table())
    print(_result_paths())


def check_project() -> None:
    """Check that the current folder is a project."""
    if not PARAMS_FILE.is_file():
        raise UserError(
            f"{PARAMS_FILE}: no such file in {Path.cwd()}; run this in the folder of a vdp project"
        )


def _cost_table() -> str:
    stats = read_stats()
    if not stats:
        return "No stage has run yet."
    order = _pipeline()
    stats = {stage: stats[stage] for stage in sorted(stats, key=lambda stage: order.get(stage, len(order)))}
    total: Usage = {
        "tflop": sum(usage.get("tflop", 0.0) for usage in stats.values()),
        "core_minutes": sum(usage.get("core_minutes", 0.0) for usage in stats.values()),
        "seconds": sum(usage["seconds"] for usage in stats.values()),
        "peak_memory_mb": max(usage.get("peak_memory_mb", 0.0) for usage in stats.values()),
    }
    head = f"{'stage':<16} {'TFLOP':>9} {'core-minutes':>13} {'workers':>8} {'time':>14} {'peak memory':>12}"
    lines = [head, *(_cost_row(stage, usage) for stage, usage in [*stats.items(), ("all", total)])]
    stages: dict[str, list[str]] = {}
    for stage, usage in stats.items():
        if "machine" in usage:
            stages.setdefault(usage["machine"], []).append(stage)
    names = [f"{machine}: {', '.join(names)}" for machine, names in stages.items()]
    if len(stages) == 1:
        names = [f"core-minutes of {next(iter(stages))}"]
    return "\n".join([*lines, *names, ""])


def _pipeline() -> dict[str, int]:
    """Position of each stage in dvc.yaml; empty without the file."""
    stages = read_file(PIPELINE).get("stages") if PIPELINE.is_file() else None
    return {stage: position for position, stage in enumerate(stages)} if isinstance(stages, dict) else {}


def _cost_row(stage: str, usage: Usage) -> str:
    """Format a stage of the ledger; '-' where a value is not measured."""
    tflop, core_minutes = usage.get("tflop"), usage.get("core_minutes")
    memory = usage.get("peak_memory_mb")
    cells = [
        f"{stage:<16}",
        f"{format_tflop(tflop) if tflop else '-':>9}",
        f"{f'{core_minutes:.1f}' if core_minutes is not None else '-':>13}",
        f"{usage.get('workers', '-'):>8}",
        f"{format_duration(usage['seconds']):>14}",
        f"{f'{memory:.0f} MB' if memory is not None else '-':>12}",
    ]
    return " ".join(cells)


def _result_paths() -> str:
    paths = {
        "report": RESULTS / "report.html",
        "pictures": RESULTS / "strips",
        "scores": RESULTS / "metrics.json",
        "tasks": RESULTS / "tasks.json",
        "predicted frames": Path("data/predictions"),
        "MLflow store": tracking_uri().removeprefix(f"sqlite:///{project_root()}/"),
        "compare runs": "make mlflow",
    }
    return "\n".join(f"{name:<16} {path}" for name, path in paths.items())


add_to(app)
