"""Overhead of a training over the bare step, and its wait for batches.

    python -m bench.train [--data FOLDER] [--recipe NAME]

Each training of params.yaml, or of a recipe over it, runs as its stage does, by `vdp.training.trainer.fit`
on the clips, latents and tracks of FOLDER, in one process without workers. It is not saved. It takes turns of
a few steps with the bare step: loss, backward and AdamW under the same autocast, on a copy of the network and
the same batches and random numbers. Not measured: validations, checkpoints and MLflow.

Seconds are wall time, the median over all turns. The ratio is that of a turn of `fit`, without its wait for
batches, to the bare turn after it, so that a slow machine slows both: median and quartiles. The segmenter's
codec is untrained.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic
from unittest.mock import patch

import numpy as np
import torch
from lightning_fabric import Fabric
from pydantic import JsonValue

from bench.denoisers import markdown, number
from stages import pretrain_vae, train_classifier, train_denoiser, train_motion, train_segmenter
from vdp.config.read import read_section, run_stage
from vdp.config.recipes import merged, read_recipe
from vdp.config.schema import PARAMS_FILE
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.core.rng import BatchRng
from vdp.launch.params import EngineParams
from vdp.models.checkpoint import save_model
from vdp.models.classifiers.crops import CropClassifier
from vdp.models.classifiers.params import ClassifierConfig, ClassifierParams
from vdp.models.codecs.params import CodecConfig, CodecParams, VAEParams
from vdp.models.codecs.vae import VAE
from vdp.training.cost import COST_STEPS, WARM_STEPS, counted_steps
from vdp.training.dataloader import Batch, Batches
from vdp.training.definition import Logger, Network, Picture, Training, ValBatch
from vdp.training.optim import make_optimizer
from vdp.training.params import FitParams, PretrainVAEParams
from vdp.training.seeds import noise_rng
from vdp.training.trainer import fit

STAGES = {
    "pretrain_vae": pretrain_vae,
    "train_denoiser": train_denoiser,
    "train_segmenter": train_segmenter,
    "train_classifier": train_classifier,
    "train_motion": train_motion,
}
INPUTS = (Path("clips"), Path("latents"), Path("tracks"))
UNTIMED = WARM_STEPS + COST_STEPS + 1  # steps in which `fit` measures its cost
ONE_PROCESS: dict[str, JsonValue] = {
    "devices": 1, "num_nodes": 1, "strategy": "auto", "compile": False, "checkpointing": False,
}  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """Seconds of a few steps."""

    fit: float  # without the wait
    wait: float
    bare: float


class BareTraining(Generic[Network, Batch]):
    """The same training without `fit`: loss, backward, optimizer."""

    def __init__(
        self, training: Training[Network, Batch, ValBatch], params: FitParams, seed: int, fabric: Fabric
    ) -> None:
        self.network = copy.deepcopy(training.network).to(fabric.device).train()
        self.optimizer = make_optimizer(self.network, params)
        self.loss, self.batch_size = training.loss, training.batches.batch_size
        self.seed, self.fabric = seed, fabric

    def part(self, step: int, rows: range, batch: Batch) -> tuple[Batch, BatchRng]:
        """Return what the loss of `fit` gets for these rows."""
        device = self.fabric.device
        return batch.to(device), noise_rng(self.seed, step, rows, self.batch_size, device)

    def step(self, parts: Sequence[tuple[Batch, BatchRng]]) -> None:
        for batch, batch_rng in parts:
            with self.fabric.autocast():
                loss = self.loss(self.network, batch, batch_rng)["loss"]
            (loss / len(parts)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class _Finished(Exception):
    """Leaves the training and its stage after the last turn."""


class TurnBatches(Generic[Network, Batch]):
    """The batches of `fit`, which run the bare steps of the same batches after every few steps."""

    def __init__(
        self,
        batches: Batches[Batch],
        bare: BareTraining[Network, Batch],
        steps: int,
        turns: int,
        untimed: int = 0,
    ) -> None:
        self.batches, self.bare, self.steps, self.untimed = batches, bare, steps, untimed
        self.batch_size = batches.batch_size
        self.last = turns * steps
        self.seen: list[tuple[int, range, Batch]] = []  # in the turn of `fit`
        self.wait, self.since = 0.0, now(bare.fabric)
        self.turns: list[Turn] = []

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Batch:
        """Return rows of a batch; _Finished after the last turn. The first `untimed` calls do not count."""
        if self.untimed > 0:
            self.untimed -= 1
            return self.batches(step, rng, rows)
        if not self.seen and not self.turns:
            self.since = now(self.bare.fabric)
        if step % self.steps == 0 and rows.start == 0 and step > 0:
            self._run_bare_steps()
            if step == self.last:
                raise _Finished
        started = time.perf_counter()
        batch = self.batches(step, rng, rows)
        self.wait += time.perf_counter() - started
        self.seen.append((step, rows, batch))
        return batch

    def names(self, step: int) -> list[str]:
        return self.batches.names(step)

    def _run_bare_steps(self) -> None:
        seconds = now(self.bare.fabric) - self.since - self.wait
        parts: dict[int, list[tuple[Batch, BatchRng]]] = {}
        for step, rows, batch in self.seen:
            parts.setdefault(step, []).append(self.bare.part(step, rows, batch))
        started = now(self.bare.fabric)
        for step_parts in parts.values():
            self.bare.step(step_parts)
        self.turns.append(Turn(seconds, self.wait, now(self.bare.fabric) - started))
        self.seen.clear()
        self.wait, self.since = 0.0, now(self.bare.fabric)


def now(fabric: Fabric) -> float:
    """Synchronise the device and return the time in seconds."""
    if fabric.device.type == "cuda":
        torch.cuda.synchronize(fabric.device)
    return time.perf_counter()


class NoLogger:
    """Stands for the tracker of a stage."""

    is_main = True

    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def picture(self, name: str, picture: Picture, step: int) -> None: ...

    def film(self, name: str, film: Sequence[Picture], step: int) -> None: ...

    def add_flops(self, flops: float) -> None: ...


def time_turns(
    training: Training[Network, Batch, ValBatch],
    params: FitParams,
    engine: EngineParams,
    seed: int,
    logger: Logger,
    fabric: Fabric,
    steps: int,
    turns: int,
) -> list[Turn]:
    """Train by `fit` and by bare steps, in `turns` of `steps` steps each; `params` without workers."""
    bare = BareTraining(training, params, seed, fabric)
    total = turns * steps + 1
    one_more = params.model_copy(update={"steps": total, "validate_every": total})
    counted = len(counted_steps(total)) * params.accumulate  # before the training
    batches = TurnBatches(training.batches, bare, steps, turns, counted)
    with suppress(_Finished):
        fit(replace(training, batches=batches), one_more, engine, seed, logger, fabric, checkpoints=None)
    return batches.turns


# --- The stages ------------------------------------------------------------------------------------------


@contextmanager
def temporary_project(data: Path, recipe: str | None) -> Iterator[None]:
    """Work in a temporary folder with params, data and untrained models; UserError without data."""
    for path in INPUTS:
        if not (data / path / "train").is_dir():
            raise UserError(
                f"{data / path}: no such data; run `dvc repro encode_latents track_objects`, which writes "
                f"{', '.join(f'data/{name}' for name in INPUTS)}, or name a folder with them by --data"
            )
    params = merged(read_file(), read_recipe(recipe) if recipe else {})
    changes: dict[str, JsonValue] = {"engine": ONE_PROCESS, **{stage: {"num_workers": 0} for stage in STAGES}}
    with TemporaryDirectory() as folder:
        project = Path(folder)
        project.joinpath(PARAMS_FILE.name).write_text(json.dumps(merged(params, changes)))
        project.joinpath("data").mkdir()
        for path in INPUTS:
            project.joinpath("data", path).symlink_to((data / path).resolve())
        with chdir(project):
            save_untrained_models()
            yield


def save_untrained_models() -> None:
    """Save the codec and the classifier of the segmenter's training."""
    classifier = read_section(ClassifierParams, "classifier")
    config = ClassifierConfig(classifier=classifier)
    save_model(train_segmenter.CLASSIFIER, CropClassifier(classifier), config)
    vae = read_section(VAEParams, "vae")
    has_masks = read_section(PretrainVAEParams, "pretrain_vae").mask_weight > 0
    if read_section(CodecParams, "codec").name == "vae":
        codec = CodecConfig(name="vae", vae=vae, has_masks=has_masks)
        save_model(train_segmenter.CODEC, VAE(vae, has_masks), codec)
    else:
        save_model(train_segmenter.CODEC, None, CodecConfig(name="pixel", vae=None, has_masks=False))


def time_stage(name: str, steps: int, turns: int) -> list[Turn]:
    """Time the training of a stage, with the params and data of the working directory."""
    stage = STAGES[name]
    found: list[Turn] = []

    def timed_fit(training, params, engine, seed, logger, fabric, checkpoints):  # type: ignore[no-untyped-def]
        found.extend(time_turns(training, params, engine, seed, logger, fabric, steps, turns))
        raise _Finished

    @contextmanager
    def no_tracking(stage: str) -> Iterator[NoLogger]:
        yield NoLogger()

    # the stage's own `main` builds the training
    with (
        patch.object(stage, "fit", timed_fit),
        patch.object(stage, "track_stage", no_tracking),
        patch.object(stage, "stage_checkpoints", lambda *_: None),
        suppress(_Finished),
    ):
        stage.main()
    return found


# --- The table -------------------------------------------------------------------------------------------


HEADS = ["training", "bare step, ms", "fit, ms", "ratio (quartiles)", "wait, ms", "share of the wait"]


def table_row(name: str, turns: Sequence[Turn], steps: int) -> list[str]:
    """The row of a training."""
    low, ratio, high = statistics.quantiles([turn.fit / turn.bare for turn in turns], n=4)
    bare, fitted, wait = (
        1000 / steps * statistics.median(getattr(turn, part) for turn in turns)
        for part in ("bare", "fit", "wait")
    )
    share = statistics.median(turn.wait / (turn.fit + turn.wait) for turn in turns)
    quartiles = f"{ratio:.3f} ({low:.3f}..{high:.3f})"
    return [name, number(bare), number(fitted), quartiles, number(wait), f"{100 * share:.1f} %"]


def bench(data: Path, recipe: str | None, names: Sequence[str], steps: int, turns: int) -> str:
    """Return the table of some trainings, after turns that warm up."""
    untimed = -(-UNTIMED // steps)
    with temporary_project(data, recipe):
        if read_section(CodecParams, "codec").name == "pixel":  # has no weights
            names = [name for name in names if name != "pretrain_vae"]
        found = {name: time_stage(name, steps, untimed + turns)[untimed:] for name in names}
    return markdown(HEADS, [table_row(name, turns, steps) for name, turns in found.items()])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder with clips, latents and tracks"
    )
    parser.add_argument("--recipe", help="a recipe over params.yaml")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--steps", type=int, default=4, help="of a turn")
    parser.add_argument("--turns", type=int, default=40, help="of fit and of the bare step")
    args = parser.parse_args()
    run_stage(lambda: print(bench(args.data, args.recipe, args.stages, args.steps, args.turns)))


if __name__ == "__main__":
    main()
