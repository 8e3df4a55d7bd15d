"""Recipes of known systems from sources to report, at a small size: `python -m bench.recipes --help`.

Each recipe is written into the params of a clone of the last commit, then an overlay of small sizes and few
steps that keeps its structure: tasks, hops, codec, conditioning, process. Then `vdp check` and `dvc repro`
run there, as `make run` does, on simulated videos; `restore_pairs` on pairs that are made of them. Prints a
table: whether the run ended well, seconds, and scores, which are meaningless after few steps. Exit code 1 if
a run fails; its clone and log are then kept with --folder.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import yaml
from pydantic import JsonValue

from bench.denoisers import markdown
from bench.kills import STAGE_VARIABLES
from vdp.config.messages import validate
from vdp.config.recipes import merged
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError, one_line
from vdp.data.degrade import degrade
from vdp.data.simulator.dataset import write_dataset
from vdp.data.simulator.params import SimulateParams
from vdp.data.stores.clips import Pixels

SHORT = "steps: 4, batch_size: 4, warmup_steps: 2, log_every: 2, validate_every: 2, num_workers: 0"
# over every recipe
SMALL = f"""\
simulate: {{train: 6, val: 2, test: 2, unlabeled: 2, tracks: 24, height: 32, width: 48, workers: 1}}
extract_frames: {{workers: 1}}
engine: {{precision: auto, devices: 1}}
vae: {{base_channels: 8, num_res_blocks: 1}}
pretrain_vae: {{{SHORT}}}
train_denoiser: {{{SHORT}, keep_every: null}}
train_segmenter: {{{SHORT}}}
classifier: {{base_channels: 8}}
train_classifier: {{{SHORT}}}
motion: {{hidden_dim: 16, pair_dim: 4, depth: 1, head_depth: 1, num_heads: 2}}
train_motion: {{{SHORT}}}
predict: {{steps: 5}}
sample_motion: {{steps: 2, samples: 2}}
score: {{strips: 1}}
evaluate_tasks: {{clips: 1, samples: 2, steps: 5, figures: 1}}
"""
CONV = "segmenter: {encoder: conv8, decoder_channels: [8, 8]}\n"  # of as many channels as the classifier
# over SMALL, by recipe
RECIPES = {
    "dit_16x256": CONV
    + """\
clip: {height: 32, width: 32}
denoiser: {dit: {hidden_dim: 96, depth: 2}}
""",
    "unet3d_pixels": CONV
    + """\
clip: {height: 16, width: 16}
denoiser: {unet: {base_channels: 8, num_res_blocks: 1}}
""",
    "restore_pairs": CONV
    + """\
clip: {height: 32, width: 48}
simulate: {train: 1, val: 1, test: 1, unlabeled: 0, tracks: 0}
extract_frames: {val_share: 0.3}
denoiser: {unet: {base_channels: 8, num_res_blocks: 1}}
""",
    "generate": CONV
    + """\
clip: {height: 16, width: 16}
simulate: {train: 1, val: 1, test: 1, unlabeled: 8, tracks: 0}
extract_frames: {val_share: 0.3}
denoiser: {unet: {base_channels: 8, num_res_blocks: 1}}
""",
    "spade_22": """\
clip: {height: 16, width: 16}
denoiser: {unet: {base_channels: 8, num_res_blocks: 1, head_blocks: 1}}
segmenter: {encoder: resnet18, decoder_channels: [8, 8, 8, 8, 8], size: [32, 48], weights: null}
""",
    "direct_22": CONV
    + """\
clip: {height: 32, width: 48}
denoiser: {unet: {base_channels: 8, num_res_blocks: 1}}
""",
}
PAIRS = Path("data/raw/pairs")  # as in restore_pairs
PAIR_COUNTS = {"train": 8, "test": 2}
NOISE = 0.1  # standard deviation of the noise of degraded frames, fraction of the brightness range
OVERLAY = "small"  # name of the second overlay, as a recipe of the clone


@dataclass(frozen=True)
class Result:
    """Outcome of a run."""

    recipe: str
    error: str  # '' for none
    seconds: float
    scores: str


def small_overlay(recipe: str) -> dict[str, JsonValue]:
    """Return the overlay that shrinks a recipe."""
    return merged(yaml.safe_load(SMALL), yaml.safe_load(RECIPES[recipe]))


def small_params(project: Path, recipe: str) -> dict[str, JsonValue]:
    """Return the params of a project with a recipe, shrunk."""
    params = merged(read_file(project / "params.yaml"), read_file(project / "recipes" / f"{recipe}.yaml"))
    return merged(params, small_overlay(recipe))


def write_pairs(folder: Path, frames: int, params: SimulateParams) -> None:
    """Write noisy and clean simulated videos as folders of pictures, in input/ and target/ of each split."""
    with TemporaryDirectory() as scratch:
        clean = params.model_copy(
            update={"train": PAIR_COUNTS["train"], "test": PAIR_COUNTS["test"], "unlabeled": 0, "tracks": 0}
        )
        write_dataset(clean, seed=0, frames=frames, root=Path(scratch) / "simulated")
        for split in PAIR_COUNTS:
            for number, video in enumerate(sorted((Path(scratch) / "simulated" / split).iterdir())):
                paths = [video / f"image_{k}.png" for k in range(frames)]
                target: Pixels = np.stack([cv2.imread(str(path)) for path in paths]).astype(np.uint8)
                noisy = degrade(target, "noise", NOISE, np.random.default_rng(number))
                for side, pictures in (("input", noisy), ("target", target)):
                    to = folder / split / side / video.name
                    to.mkdir(parents=True)
                    for path, picture in zip(paths, pictures, strict=True):
                        cv2.imwrite(str(to / path.name), picture)


class Clone:
    """A clone of the last commit with the params of a small run."""

    def __init__(self, source: Path, folder: Path, recipe: str) -> None:
        self.folder, self.recipe = folder, recipe
        self.log = folder.with_suffix(".log")
        self.env = {name: value for name, value in os.environ.items() if name not in STAGE_VARIABLES}
        self.env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.env['PATH']}"
        self.env |= {"PYTHONUNBUFFERED": "1", "DVC_SITE_CACHE_DIR": str(folder.with_suffix(".site"))}
        self.env.setdefault("OMP_NUM_THREADS", "1")
        subprocess.run(["git", "clone", "--quiet", str(source), str(folder)], check=True)
        overlay = folder / "recipes" / f"{OVERLAY}.yaml"
        overlay.write_text(yaml.safe_dump(small_overlay(recipe)))

    def run(self) -> Result:
        """Run the pipeline; a failure is in the result."""
        start, error, scores = time.monotonic(), "", ""
        try:
            self._command("python", "-m", "vdp", "recipe", self.recipe)
            self._command("python", "-m", "vdp", "recipe", OVERLAY)
            params = read_file(self.folder / "params.yaml")
            if self.recipe == "restore_pairs":
                simulate = validate(SimulateParams, params["simulate"], "simulate")
                clip = params["clip"]
                assert isinstance(clip, dict) and isinstance(clip["frames"], int)
                write_pairs(self.folder / PAIRS, clip["frames"], simulate)
            self._command("python", "-m", "vdp", "check", "--no-cost")
            self._command("dvc", "repro")
            scores = headline(*(self._read(name) for name in ("metrics", "tasks")))
        except (ValueError, OSError) as failure:
            error = one_line(failure)
        return Result(self.recipe, error, time.monotonic() - start, scores)

    def remove(self) -> None:
        for path in (self.folder, self.folder.with_suffix(".site")):
            shutil.rmtree(path, ignore_errors=True)

    def _command(self, *words: str) -> None:
        with self.log.open("ab") as log:
            done = subprocess.run(words, cwd=self.folder, env=self.env, stdout=log, stderr=log, check=False)
        if done.returncode:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            errors = [line for line in lines if line.startswith("error: ")]
            raise UserError(
                f"{' '.join(words)}: exit code {done.returncode}: {(errors or lines or [''])[-1]}"
            )

    def _read(self, name: str) -> dict[str, JsonValue]:
        path = self.folder / "results" / f"{name}.json"
        found = json.loads(path.read_text()) if path.is_file() else {}
        assert isinstance(found, dict)
        return found


# --- The table -------------------------------------------------------------------------------------------


def headline(metrics: Mapping[str, JsonValue], tasks: Mapping[str, JsonValue]) -> str:
    """Jaccard and PSNR of each test set, and PSNR of each task beside its baselines."""
    parts = [
        f"{name} {_flat(scores, ('jaccard', 'psnr'))}"
        for name, scores in metrics.items()
        if isinstance(scores, dict)
    ]
    for name, found in tasks.items():
        for task, scores in found.items() if isinstance(found, dict) else ():
            numbers = ", ".join(f"{key} {value:.2f}" for key, value in _psnrs(task, scores))
            parts.append(f"{name}: {numbers or task}")
    return "; ".join(parts) or "-"


def _flat(scores: Mapping[str, JsonValue], keys: Sequence[str]) -> str:
    values = {key: scores.get(key) for key in keys}
    return ", ".join(f"{key} {value:.2f}" for key, value in values.items() if isinstance(value, int | float))


def _psnrs(name: str, scores: JsonValue) -> list[tuple[str, float]]:
    """Every `psnr` of nested scores, by the names on its path."""
    found: list[tuple[str, float]] = []
    for key, value in scores.items() if isinstance(scores, dict) else ():
        if key == "psnr" and isinstance(value, int | float):
            found.append((name, value))
        found += _psnrs(f"{name} {key}", value)
    return found


def table(results: Sequence[Result]) -> str:
    """The runs in Markdown."""
    rows = [
        [
            result.recipe,
            f"NO: {result.error}" if result.error else "yes",
            f"{result.seconds:.0f}",
            result.scores,
        ]
        for result in results
    ]
    return markdown(["recipe", "ended well", "s", "scores"], rows)


# --- The command -----------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.recipes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"of {', '.join(RECIPES)}; default: all")
    parser.add_argument("--folder", type=Path, help="empty folder for the clones; default: a temporary one")
    args = parser.parse_args()
    unknown = [name for name in args.recipes if name not in RECIPES]
    if unknown:
        raise UserError(f"{unknown[0]}: expected one of {', '.join(RECIPES)}")
    results = []
    with TemporaryDirectory(prefix="recipes-") as scratch:
        folder = (args.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for name in args.recipes or RECIPES:
            clone = Clone(Path.cwd(), folder / name, name)
            results.append(clone.run())
            print(table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
            if not results[-1].error:
                clone.remove()
    print(table(results))
    sys.exit(1 if any(result.error for result in results) else 0)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
