"""Checks on one large GPU, in parts of at most 3 minutes: `bash bench/gpu_check.sh PART`.

    recipe   the stages of the `gpu` recipe from the simulation to the scores, with short trainings
    full     training steps of the denoisers of the recipes `full` and `gpu` against the bf16 matmul rate
    fp16     a training of the `gpu` recipe's denoiser in fp16 with a scaler, and in the default precision
    compile  seconds of a step with compiled blocks against eager, with equal losses
    resume   a training killed after some steps and resumed, against one that was not: equal bytes

Works in temporary folders, without DVC and without MLflow. Each part prints a Markdown table, and ends with
one line and exit code 1 if something is missing or wrong. --small tries a part on any machine with small
networks; there fp16, which needs a GPU, is replaced by fp32. Latents are synthetic, except in `recipe`.
"""

import argparse
import copy
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from lightning_fabric import Fabric
from pydantic import JsonValue
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.denoisers import markdown, number
from vdp.config.messages import validate
from vdp.config.recipes import merged, read_recipe
from vdp.config.schema import PARAMS_FILE, ClipParams
from vdp.config.yaml_file import read_file
from vdp.core.device import pick_device
from vdp.core.errors import UserError, one_line
from vdp.core.flops import TERA, flop_counter, format_tflop
from vdp.core.machine import describe_machine
from vdp.data.batches.hops import HopBatch
from vdp.diffusion.loss import HopLoss
from vdp.diffusion.objective import Objective
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.schedules import make_process
from vdp.launch.params import EngineParams
from vdp.models.codecs.params import VAEParams
from vdp.models.denoisers.dit import DiT
from vdp.models.denoisers.factory import build_denoiser
from vdp.models.denoisers.moved import MovedDenoiser
from vdp.models.denoisers.params import DenoiserParams
from vdp.models.denoisers.unet import UNet
from vdp.tracking.mlflow_run import flatten
from vdp.training.checkpoint import TrainingCheckpoints
from vdp.training.cost import matmul_rate, peak_memory_gb
from vdp.training.definition import Picture, Training
from vdp.training.engine import launch
from vdp.training.hop_loss import hop_loss
from vdp.training.optim import clip_gradients
from vdp.training.params import TrainDenoiserParams
from vdp.training.seeds import noise_rng, seed_weights, step_rng
from vdp.training.state import TrainingState
from vdp.training.trainer import fit
from vdp.training.validation import VALIDATION_SIZE

REPO = Path(__file__).parents[1]
PIPELINE = Path("dvc.yaml")
SEED = 0
GPUS_OF_FULL = 8  # over which the recipe `full` spreads a batch
SPEED = 0.4  # of the synthetic waves, radians per frame at most
WARM_STEPS = 3  # not timed: allocation and choice of kernels

Sections = Mapping[str, JsonValue]
Network = UNet | DiT | MovedDenoiser
Table = tuple[list[str], list[list[str]]]  # heads and rows


class Failed(UserError):
    """A part that has failed, with the tables of what it found."""

    def __init__(self, message: str, tables: list[Table]) -> None:
        super().__init__(message)
        self.tables = tables


# The recipe shortened to fit into 3 minutes on an H100.
SHORT_DATA: dict[str, JsonValue] = {
    "simulate": {"train": 600, "val": 40, "test": 60, "unlabeled": 40, "tracks": 2000},
}
SHORT_STEPS = 400  # of each training, at most
TRAINING_KEYS = {"steps", "warmup_steps", "validate_every", "log_every"}  # that a section of a training has
SMALL_NETWORKS: dict[str, JsonValue] = {
    "clip": {"height": 32, "width": 48},
    "vae": {"spatial_factor": 4, "latent_channels": 4},
    "denoiser": {
        "unet": {"base_channels": 8, "channel_mults": [1, 2], "num_res_blocks": 1, "attention_levels": [1]},
        "dit": {"hidden_dim": 32, "depth": 2, "num_heads": 2, "stem_channels": 8},
    },
}


# --- The recipe end to end -------------------------------------------------------------------------------


def stage_order(stages: Mapping[str, Mapping[str, Sequence[str | dict[str, JsonValue]]]]) -> list[str]:
    """Stages of dvc.yaml, each after those whose outputs it reads."""
    outs = {name: [Path(path) for path in out_paths(stage)] for name, stage in stages.items()}
    graph: dict[str, set[str]] = {}
    for name, stage in stages.items():
        deps = [Path(str(dep)) for dep in stage.get("deps", [])]
        graph[name] = {
            other
            for other, paths in outs.items()
            if other != name
            and any(dep.is_relative_to(out) or out.is_relative_to(dep) for dep in deps for out in paths)
        }
    return list(TopologicalSorter(graph).static_order())


def out_paths(stage: Mapping[str, Sequence[str | dict[str, JsonValue]]]) -> list[str]:
    """Paths of the outs, metrics and plots of a stage."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def shortened(data: Sections, steps: int) -> dict[str, JsonValue]:
    """Limit the steps of every training; the warm-up is at most a tenth of them."""
    result = dict(data)
    for name, section in data.items():
        if isinstance(section, dict) and set(section) >= TRAINING_KEYS:
            now, warm = section["steps"], section["warmup_steps"]
            assert isinstance(now, int) and isinstance(warm, int)
            few = min(now, steps)
            limits = {"steps": few, "warmup_steps": min(warm, few // 10), "validate_every": few}
            result[name] = {**section, **limits, "log_every": max(1, few // 10)}
    return result


def check_recipe(small: bool) -> list[Table]:
    """Run all stages in a temporary folder; their cost, and the scores."""
    data = merged(read_file(), read_recipe("smoke" if small else "gpu"))
    if not small:
        data = shortened(merged(data, SHORT_DATA), SHORT_STEPS)
    stages = read_file(PIPELINE)["stages"]
    assert isinstance(stages, dict)
    with TemporaryDirectory(prefix="gpu-check-") as name:
        folder = Path(name)
        for path in ("stages", "vdp", "bench", PIPELINE):
            folder.joinpath(path).symlink_to(REPO / path)
        folder.joinpath(PARAMS_FILE.name).write_text(json.dumps(data))
        for stage in stage_order(stages):  # type: ignore[arg-type]
            run_stage_alone(stage, folder)
        used = json.loads(folder.joinpath(".stats/stages.json").read_text())
        metrics = json.loads(folder.joinpath("results/metrics.json").read_text())
    return [cost_table(used), score_table(metrics)]


def run_stage_alone(stage: str, folder: Path) -> None:
    """Run a stage in a folder, without MLflow; a UserError with the last line of its output if it fails."""
    started = time.perf_counter()
    run_python(["-m", "bench.untracked", stage], folder, f"stage {stage}", 0)
    print(f"{stage}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)


def run_python(arguments: list[str], folder: Path, what: str, expected: int) -> None:
    """Run Python in a folder; a UserError with the last line of its output at another exit code."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode != expected:
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"{what}: exit code {done.returncode}: {last}")


def cost_table(used: Mapping[str, Mapping[str, float]]) -> Table:
    """What each stage has used."""
    rows = []
    for stage, usage in used.items():
        memory = usage.get("peak_gpu_memory_mb")
        tflop = format_tflop(usage["tflop"]) if "tflop" in usage else ""
        rows.append([stage, f"{usage['seconds']:.1f}", tflop, f"{memory:.0f}" if memory is not None else ""])
    return ["stage", "seconds", "TFLOP", "GPU memory, MB"], rows


def score_table(metrics: Mapping[str, Mapping[str, JsonValue]]) -> Table:
    """The headline of each test set, with its copy baseline and its ceiling."""
    keys = ["jaccard", "baseline.copy_last", "ceiling.segmenter", "psnr", "clips"]
    rows = []
    for name, scores in metrics.items():
        flat = flatten({key: value for key, value in scores.items() if value is not None})  # type: ignore[misc]
        missing = [key for key in keys if key not in flat]
        if missing or not math.isfinite(flat["jaccard"]):
            raise UserError(f"results/metrics.json: {name}: no {', '.join(missing) or 'finite jaccard'}")
        rows.append(
            [name, *(f"{flat[key]:.4f}" for key in keys[:3]), f"{flat['psnr']:.2f}", f"{flat['clips']:.0f}"]
        )
    return ["test set", "Jaccard", "copy", "ceiling", "PSNR, dB", "clips"], rows


# --- Denoisers on synthetic latents ----------------------------------------------------------------------


class Waves:
    """Batches of hops of plane waves that move at constant speeds, one per clip and channel."""

    def __init__(self, shape: tuple[int, int, int], known: int, targets: int, batch_size: int) -> None:
        self.shape, self.known, self.targets, self.batch_size = shape, known, targets, batch_size

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> HopBatch:
        channels, height, width = self.shape
        draws = torch.from_numpy(rng.random((self.batch_size, 4, channels), np.float32))
        draws = draws[rows.start : rows.stop]
        down, right, phase, speed = (draws[:, n, :, None, None, None] for n in range(4))
        frames = self.known + self.targets
        time_at = torch.arange(frames, dtype=torch.float32)
        y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
        angle = 2 * math.pi * (2 * down * y + 2 * right * x + phase)
        clip = 2**0.5 * torch.sin(angle + SPEED * speed * time_at[:, None, None])  # (B, C, T, h, w)
        index = time_at.expand(len(clip), -1)
        known = self.known
        return HopBatch(clip[:, :, :known], index[:, :known], clip[:, :, known:], index[:, known:])

    def names(self, step: int) -> list[str]:
        return [f"clip {row}" for row in range(self.batch_size)]


@dataclass(frozen=True)
class Subject:
    """A recipe's denoiser and its training."""

    name: str
    network: Network
    loss: HopLoss
    batches: Waves
    val_batches: Waves
    params: TrainDenoiserParams
    engine: EngineParams


def subject(recipe: str, small: bool) -> Subject:
    """Build a recipe's denoiser with random weights, and batches of what one GPU computes at once."""
    data = merged(read_file(), read_recipe(recipe))
    if small:
        data = merged(data, SMALL_NETWORKS)
    vae, clip = validate(VAEParams, data["vae"], "vae"), validate(ClipParams, data["clip"], "clip")
    denoiser = validate(DenoiserParams, data["denoiser"], "denoiser")
    params = validate(TrainDenoiserParams, data["train_denoiser"], "train_denoiser")
    engine = validate(EngineParams, data["engine"], "engine").model_copy(
        update={"precision": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto"}
    )
    processes = GPUS_OF_FULL if recipe == "full" else 1
    hops = 2 if small else max(1, params.batch_size // params.accumulate // processes)
    params = params.model_copy(update={"batch_size": hops, "accumulate": 1, "num_workers": 0, "keep": "last"})
    shape = (vae.latent_channels, clip.height // vae.spatial_factor, clip.width // vae.spatial_factor)
    batches, val_batches = (
        Waves(shape, params.context_frames, params.targets, size) for size in (hops, VALIDATION_SIZE)
    )
    diffusion = validate(DiffusionParams, data["diffusion"], "diffusion")
    unscaled = torch.ones(vae.latent_channels, device=pick_device())
    objective = Objective(make_process(diffusion), unscaled, diffusion.residual)
    seed_weights(SEED)
    network = build_denoiser(denoiser, vae.latent_channels, moved=False)
    name = f"{recipe}: {denoiser.name}, latents {shape[0]}x{shape[1]}x{shape[2]}"
    loss = hop_loss({"predict": objective}, diffusion, params)
    return Subject(name, network, loss, batches, val_batches, params, engine)


class Steps:
    """Training steps of a subject as `fit` takes them, without its loop."""

    def __init__(self, of: Subject, compiled: bool, fabric: Fabric) -> None:
        engine = of.engine.model_copy(update={"compile": compiled})
        self.of, self.fabric = of, fabric
        self.state = TrainingState(of.name, copy.deepcopy(of.network), of.params, engine, fabric)
        self.state.network.train()

    def __call__(self, step: int) -> float:
        """Take a step; return its loss, which waits for the device."""
        loss = self.gradients(step)
        clip_gradients(self.state.network, self.state.optimizer, self.of.params.grad_clip, self.fabric)
        self.state.optimizer.step()
        self.state.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def gradients(self, step: int) -> Tensor:
        """Compute the loss of a step and its gradients."""
        size, device = self.of.batches.batch_size, self.fabric.device
        hops = self.of.batches(step, step_rng(SEED, step), range(size)).to(device)
        rng = noise_rng(SEED, step, range(size), size, device)
        loss = self.state.model(lambda network: self.of.loss(network, hops, rng))["loss"]
        self.fabric.backward(loss)
        return loss.detach()

    def flops(self) -> float:
        """FLOPs of a step, forward and backward."""
        with flop_counter() as counter:
            self.gradients(0)
        self.state.optimizer.zero_grad(set_to_none=True)
        return float(counter.get_total_flops())


@dataclass(frozen=True)
class Timing:
    """Losses of some steps and their seconds."""

    losses: list[float]
    first: float  # seconds of the first step, which compiles
    later: float  # seconds of a step after WARM_STEPS


def timed(steps: Steps, count: int) -> Timing:
    """Take `count` steps, more than WARM_STEPS; a UserError if a loss is not finite."""
    losses, times = [], [time.perf_counter()]
    for step in range(count):
        losses.append(steps(step))
        times.append(time.perf_counter())
    if not np.isfinite(losses).all():
        raise UserError(f"{steps.of.name}: a loss is not finite: {losses}")
    return Timing(losses, times[1] - times[0], (times[-1] - times[WARM_STEPS]) / (count - WARM_STEPS))


def check_full(small: bool) -> list[Table]:
    """Time training steps of the recipes' denoisers."""
    rows = []
    for recipe in ("full", "gpu"):
        of = subject(recipe, small)
        fabric = launch(of.engine)
        if fabric.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(fabric.device)
        steps = Steps(of, False, fabric)
        flops = steps.flops()
        seconds = timed(steps, 6 if small else 30).later
        peak = matmul_rate(fabric.device, torch.bfloat16)
        rows.append(
            [
                of.name,
                f"{sum(p.numel() for p in of.network.parameters()) / 1e6:.1f}",
                str(of.batches.batch_size),
                format_tflop(flops / TERA),
                number(seconds),
                format_tflop(flops / seconds / TERA),
                format_tflop(peak / TERA),
                f"{100 * flops / seconds / peak:.0f} %",
                f"{peak_memory_gb(fabric.device):.1f}",
            ]
        )
    heads = ["denoiser", "parameters, M", "hops per step", "TFLOP per step", "s per step", "TFLOP/s"]
    return [([*heads, "bf16 matmul, TFLOP/s", "share", "memory, GB"], rows)]


# --- Precision -------------------------------------------------------------------------------------------


class Curve:
    """Logger of `fit`: keeps losses and skipped steps; kills its process once a step is reached."""

    def __init__(self, kill_after: int | None = None) -> None:
        self.kill_after = kill_after
        self.losses: list[float] = []
        self.skipped = 0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if "loss" in metrics:
            self.losses.append(metrics["loss"])
        self.skipped = int(metrics.get("skipped_steps", self.skipped))
        if self.kill_after is not None and step >= self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def picture(self, name: str, picture: Picture, step: int) -> None: ...

    def film(self, name: str, film: Sequence[Picture], step: int) -> None: ...

    def add_flops(self, flops: float) -> None: ...


def fit_subject(
    of: Subject, steps: int, engine: EngineParams, curve: Curve, checkpoints: TrainingCheckpoints | None
) -> nn.Module:
    """Train a subject by `fit`, with a point of the curve after each step."""
    params = of.params.model_copy(
        update={"steps": steps, "log_every": 1, "validate_every": steps, "warmup_steps": steps // 10}
    )
    training = Training("train_denoiser", of.network, of.loss, of.batches, of.loss, of.val_batches)
    return fit(training, params, engine, SEED, curve, launch(engine), checkpoints).network


def check_fp16(small: bool) -> list[Table]:
    """Train in fp16 and in the default precision."""
    steps = 12 if small else 300
    has_gpu = pick_device().type == "cuda"
    rows = []
    for precision in ("auto", 16 if has_gpu else 32):
        of = subject("gpu", small)
        engine = of.engine.model_copy(update={"precision": precision})
        curve = Curve()
        network = fit_subject(of, steps, engine, curve, None)
        part = max(1, steps // 10)
        if not curve.losses:
            raise UserError(f"engine.precision={precision}: all {steps} steps were skipped")
        first, last = (float(np.mean(losses)) for losses in (curve.losses[:part], curve.losses[-part:]))
        finite = all(bool(p.isfinite().all()) for p in network.parameters())
        if not finite or not last < first:  # a comparison with nan is false
            raise UserError(
                f"engine.precision={precision}: loss {first:.4f} -> {last:.4f}, {curve.skipped} steps "
                f"skipped, weights {'' if finite else 'not '}finite; expected a lower loss"
            )
        rows.append([str(precision), str(steps), str(curve.skipped), f"{first:.4f}", f"{last:.4f}"])
    return [(["precision", "steps", "skipped", "loss, first tenth", "loss, last tenth"], rows)]


# --- Compiled blocks -------------------------------------------------------------------------------------

MAX_REASON = 200  # characters of a compiler's error
TOLERANCES = {"cpu": 1e-3, "cuda": 2e-2}  # relative, of a loss after a few steps: fp32 and bf16


def check_compile(small: bool) -> list[Table]:
    """Take the same steps eagerly and compiled; the row of a denoiser that cannot be compiled says so."""
    rows, failures = [], []
    for recipe in ("full",) if small else ("full", "gpu"):
        of = subject(recipe, small)
        fabric = launch(of.engine)
        count = 6 if small else 30
        eager = timed(Steps(of, False, fabric), count)
        try:
            compiled = timed(Steps(of, True, fabric), count)
        except RuntimeError as error:  # of the compiler
            failures.append(f"{of.name}: {one_line(ValueError(str(error)))[:MAX_REASON]}")
            rows.append([of.name, number(eager.later), *["failed"] * 4])
            continue
        worst = max(abs(a - b) / abs(a) for a, b in zip(eager.losses, compiled.losses, strict=True))
        if not worst <= TOLERANCES[fabric.device.type]:
            failures.append(f"{of.name}: compiled losses differ by {worst:.2g}")
        seconds = [number(each) for each in (eager.later, compiled.later, compiled.first)]
        ratio = f"{compiled.later / eager.later:.2f}"
        rows.append([of.name, *seconds[:2], ratio, seconds[2], f"{worst:.1e}"])
    heads = ["denoiser", "eager, s per step", "compiled, s per step", "ratio", "first step, s", "difference"]
    if failures:
        raise Failed("; ".join(failures), [(heads, rows)])
    return [(heads, rows)]


# --- Resume ----------------------------------------------------------------------------------------------


def check_resume(small: bool) -> list[Table]:
    """Kill a training, resume it, and compare the bytes of its weights with those of one left alone."""
    steps, kill_after, save_steps = (12, 7, 3) if small else (120, 70, 25)
    with TemporaryDirectory(prefix="gpu-check-") as name:
        alone, killed = Path(name, "alone"), Path(name, "killed")
        train_alone(alone, small, steps, save_steps, None)
        train_alone(killed, small, steps, save_steps, kill_after)
        found = [int(path.stem) for path in (killed / "checkpoints").glob("[0-9]*.json")]
        if not found or max(found) >= steps or (killed / WEIGHTS).exists():
            raise UserError(f"resume: the training was not killed after step {kill_after} with a checkpoint")
        train_alone(killed, small, steps, save_steps, None)
        hashes = [hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() for folder in (alone, killed)]
    if hashes[0] != hashes[1]:
        raise UserError(f"resume: the weights differ from those of a training that was not killed: {hashes}")
    row = ["gpu", str(steps), str(kill_after), str(max(found)), hashes[0][:12], "yes"]
    return [(["denoiser", "steps", "killed after", "resumed from", "sha256 of the weights", "equal"], [row])]


WEIGHTS = "weights.safetensors"


def train_alone(folder: Path, small: bool, steps: int, save_steps: int, kill_after: int | None) -> None:
    """Run `train_in` as a process; it is expected to die where it is killed, and to succeed else."""
    folder.mkdir(exist_ok=True)
    call = f"train_in({str(folder)!r}, {small}, {steps}, {save_steps}, {kill_after})"
    expected = 0 if kill_after is None else -signal.SIGKILL
    run_python(["-c", f"from bench.gpu_check import train_in; {call}"], REPO, "resume", expected)


def train_in(folder: str, small: bool, steps: int, save_steps: int, kill_after: int | None) -> None:
    """Train with checkpoints in a folder and write the weights there."""
    of = subject("gpu", small)
    engine = of.engine.model_copy(update={"save_steps": save_steps})
    checkpoints = TrainingCheckpoints(Path(folder, "checkpoints"))
    network = fit_subject(of, steps, engine, Curve(kill_after), checkpoints)
    save_file(
        {name: value.cpu().contiguous() for name, value in network.state_dict().items()},
        Path(folder, WEIGHTS),
    )


# --- The command -----------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[bool], list[Table]]] = {
    "recipe": check_recipe,
    "full": check_full,
    "fp16": check_fp16,
    "compile": check_compile,
    "resume": check_resume,
}


def commit() -> str:
    """The commit checked out here, or COMMIT of the environment for a copy without a repository."""
    if name := os.environ.get("COMMIT"):
        return name
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=REPO, capture_output=True, text=True
        )
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="bash bench/gpu_check.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--small", action="store_true", help="small networks, on any machine")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    failure: ValueError | OSError | None = None
    tables: list[Table] = []
    try:
        os.chdir(REPO)
        if pick_device().type != "cuda" and not options.small:
            raise UserError("no GPU is visible to torch: check nvidia-smi, or try the script with --small")
        tables = PARTS[options.part](options.small)
    except Failed as failed:
        failure, tables = failed, failed.tables
    except (ValueError, OSError) as error:
        failure = error
    if tables:
        machine = torch.cuda.get_device_name() if torch.cuda.is_available() else describe_machine()
        size, seconds = ", small" if options.small else "", time.perf_counter() - started
        version = f"torch {torch.__version__}"
        print(f"`{options.part}`{size}: commit {commit()}, {machine}, {version}, {seconds:.0f} s")
        print("\n" + "\n\n".join(markdown(*table) for table in tables))
    if failure is not None:
        print(f"error: {options.part}: {one_line(failure)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
