"""Run stages by 1, 2 and 3 processes and compare their bytes and times: `python -m bench.share --help`.

Runs in a copy of a finished run, whose folders it links: start it in the project. Each process has one
thread. The numbers of processes alternate, so that the load of the machine falls on all of them. Prints a
table; exit code 1 if the bytes of a stage depend on the number of processes.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError, one_line

STAGES = ("extract_frames", "track_objects", "encode_latents", "predict_motion", "predict", "segment")
STAGES += ("evaluate_tasks",)
LINKED = ("data", "results")
HEAD = ["stage", "processes", "seconds", "against one", "bytes"]


@dataclass
class Runs:
    """The runs of a stage by a number of processes."""

    seconds: list[float] = field(default_factory=list)
    hashes: set[str] = field(default_factory=set)


def copy_project(source: Path, folder: Path) -> None:
    """Clone the last commit and link the files of the run, which stages replace and never change."""
    subprocess.run(["git", "clone", "--quiet", str(source), str(folder)], check=True)
    for name in LINKED:
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(source / name, folder / name, copy_function=link)
    for name in ("params.yaml", "dvc.lock"):
        shutil.copy(source / name, folder / name)


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


def run_stage(folder: Path, stage: str, processes: int) -> float:
    """Run a stage from its start, without batches of earlier runs; return its seconds."""
    shutil.rmtree(folder / ".resume", ignore_errors=True)
    launcher = "python" if processes == 1 else f"torchrun --standalone --nproc-per-node {processes}"
    overlay = f"launcher: {launcher}\nengine: {{devices: {processes}}}\n"
    (folder / "recipes" / "share.yaml").write_text(overlay)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    for words in (["-m", "vdp", "recipe", "share"], ["-m", "vdp.launch", stage]):
        started = time.monotonic()
        done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{' '.join(words)}: exit code {done.returncode}: {done.stderr[-2000:]}")
    return time.monotonic() - started


def hash_outputs(folder: Path, stage: str) -> str:
    """Hash the files that a stage writes, by dvc.yaml."""
    outs = read_file(folder / "dvc.yaml")["stages"][stage]  # type: ignore[index, call-overload]
    paths = [
        next(iter(out)) if isinstance(out, dict) else out for out in [*outs["outs"], *outs.get("metrics", [])]
    ]
    digest = hashlib.sha256()
    for path in map(folder.joinpath, paths):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def measure(folder: Path, stage: str, counts: Sequence[int], repeat: int) -> dict[int, Runs]:
    runs: dict[int, Runs] = defaultdict(Runs)
    for _ in range(repeat):
        for count in counts:
            runs[count].seconds.append(run_stage(folder, stage, count))
            runs[count].hashes.add(hash_outputs(folder, stage))
            print(f"{stage}, {count}: {runs[count].seconds[-1]:.1f} s", file=sys.stderr, flush=True)
    return runs


def rows(stage: str, runs: dict[int, Runs]) -> list[list[str]]:
    seconds = {count: statistics.median(each.seconds) for count, each in runs.items()}
    first = seconds[min(seconds)]
    return [
        [stage, str(count), f"{seconds[count]:.1f}", f"{first / seconds[count]:.2f} x", " ".join(each.hashes)]
        for count, each in runs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.share",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--repeat", type=int, default=1, help="runs of each number of processes")
    args = parser.parse_args()
    differs = False
    table = [HEAD, ["---"] * len(HEAD)]
    with TemporaryDirectory(prefix="share-", dir=Path.cwd().parent) as scratch:
        folder = Path(scratch) / "project"
        copy_project(Path.cwd(), folder)
        for stage in args.stages:
            runs = measure(folder, stage, args.processes, args.repeat)
            differs |= len(set().union(*(each.hashes for each in runs.values()))) > 1
            table += rows(stage, runs)
    print("\n".join(f"| {' | '.join(line)} |" for line in table))
    sys.exit(1 if differs else 0)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
