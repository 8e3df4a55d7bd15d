"""Time per clip and peak memory of a run with many clips: `python -m bench.scale --help`.

Runs the pipeline with networks of the smoke recipe on simulated clips of 32x48, in clones of the last commit:
a fifth of the clips has masks for training, a third is predicted, the rest has none. Prints a table of the
stages whose work grows with the clips, from the ledger of each run.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from vdp.core.errors import UserError, one_line

STAGES = (
    "extract_frames", "track_objects", "encode_latents", "predict_motion", "predict", "segment",
    "evaluate_tasks", "score",
)  # fmt: skip
OVERLAY = """\
clip: {{height: 32, width: 48}}
simulate: {{height: 32, width: 48, train: {train}, val: {val}, test: {test}, unlabeled: {unlabeled}}}
engine: {{batch_clips: 16}}
predict: {{batch_size: 48}}
track_objects: {{unlabeled: 0}}
"""

Ledger = Mapping[str, Mapping[str, float]]


def run(folder: Path, clips: int) -> Ledger:
    """Run the pipeline on so many clips in a clone of the last commit; return its ledger."""
    subprocess.run(["git", "clone", "--quiet", str(Path.cwd()), str(folder)], check=True)
    parts = {"train": clips // 5, "val": max(2, clips // 50), "test": clips // 3}
    overlay = OVERLAY.format(**parts, unlabeled=clips - sum(parts.values()))
    (folder / "recipes" / "scale.yaml").write_text(overlay)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for words in (["python", "-m", "vdp", "recipe", "smoke"], ["python", "-m", "vdp", "recipe", "scale"]):
        subprocess.run(words, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        done = subprocess.run(["dvc", "repro"], cwd=folder, env=env, stdout=log, stderr=log)
    if done.returncode:
        raise UserError(f"dvc repro with {clips} clips: exit code {done.returncode}: see {log.name}")
    ledger: Ledger = json.loads((folder / ".stats" / "stages.json").read_text())
    return ledger


def peak(usage: Mapping[str, float]) -> float:
    """Peak memory of a process of a stage, MB."""
    return max(usage["peak_memory_mb"], usage.get("peak_worker_memory_mb", 0.0))


def table(counts: Sequence[int], ledgers: Sequence[Ledger]) -> str:
    """The stages in Markdown; the ratio is that of the times per clip, the last to the first."""
    few, many = counts[0], counts[-1]
    head = ["stage"] + [f"{name}, {n} clips" for n in counts for name in ("s", "ms per clip", "peak MB")]
    lines = [[*head, f"time per clip, {many} / {few}"], ["---"] * (len(head) + 1)]
    names = [name for name in STAGES if all(name in ledger for ledger in ledgers)]
    totals = [
        {
            "seconds": sum(ledger[name]["seconds"] for name in names),
            "peak_memory_mb": max(peak(ledger[name]) for name in names),
        }
        for ledger in ledgers
    ]
    for name, usages in [*((name, [ledger[name] for ledger in ledgers]) for name in names), ("all", totals)]:
        cells = [name]
        for count, usage in zip(counts, usages, strict=True):
            seconds = usage["seconds"]
            cells += [f"{seconds:.1f}", f"{1000 * seconds / count:.2f}", f"{peak(usage):.0f}"]
        ratio = usages[-1]["seconds"] / many / (usages[0]["seconds"] / few)
        lines.append([*cells, f"{ratio:.2f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips", nargs="+", type=int, default=[1500, 15000])
    parser.add_argument("--folder", type=Path, help="empty folder for the runs; default: a temporary one")
    args = parser.parse_args()
    with TemporaryDirectory(prefix="scale-") as scratch:
        folder = (args.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        ledgers = [run(folder / str(count), count) for count in args.clips]
    print(table(args.clips, ledgers))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
