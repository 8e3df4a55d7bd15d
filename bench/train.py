"""What the engine adds to a training step, and how long steps wait for their batches.

    python -m bench.train [--data FOLDER] [--recipe NAME]

Every training of params.yaml, or of a recipe over it, runs as its stage starts it, by `vdp.training.trainer` on
the clips and latents of FOLDER, in one process without workers, and is not saved. In between, the bare step
takes turns of a few steps with it, on a copy of the network and the very same batches and random numbers:
loss, backward and AdamW under the same autocast. What the engine has beside these is what it adds: Fabric,
seeds, moving the batch, clipping, the check that the gradient is finite, averaged weights, losses for the
curves, the progress bar. Left out are validations, the states that are saved every few minutes, and MLflow.

Seconds are wall time, the median over all turns. The ratio is that of an engine's turn, without its waiting,
to the bare turn after it, so that a machine that is slow for a while is slow for both: median and quartiles.
The share of waiting is of the engine's time, with its waiting. The segmenter's codec is untrained: these are
costs, not qualities.
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
from stages import pretrain_vae, train_denoiser, train_segmenter
from vdp.config.read import read_section, run_stage
from vdp.config.recipes import merged, read_recipe
from vdp.config.schema import PARAMS_FILE
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.core.rng import BatchRng
from vdp.models.checkpoint import save_model
from vdp.models.codecs.params import CodecConfig, CodecParams, VAEParams
from vdp.models.codecs.vae import VAE
from vdp.training.dataloader import Batch, Batches, noise_of
from vdp.training.optim import make_optimizer
from vdp.training.params import EngineParams, FitParams, PretrainVAEParams
from vdp.training.trainer import (
    COST_STEPS,
    NOISE_STREAM,
    WARM_STEPS,
    HeldOut,
    Log,
    Network,
    Picture,
    Training,
    fit,
)

STAGES = {"pretrain_vae": pretrain_vae, "train_denoiser": train_denoiser, "train_segmenter": train_segmenter}
INPUTS = (Path("clips"), Path("latents"))  # of the folder with data
UNTIMED = WARM_STEPS + COST_STEPS + 1  # steps in which the engine still finds out what to tell of its cost
ALONE: dict[str, JsonValue] = {
    "devices": 1, "num_nodes": 1, "strategy": "auto", "compile": False, "checkpointing": False,
}  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """Seconds of a few steps."""

    engine: float  # without waiting
    waited: float
    bare: float


class Bare(Generic[Network, Batch]):
    """The same training by hand: loss, backward, optimiser."""

    def __init__(
        self, training: Training[Network, Batch, HeldOut], params: FitParams, seed: int, fabric: Fabric
    ) -> None:
        self.network = copy.deepcopy(training.network).to(fabric.device).train()
        self.optimizer = make_optimizer(self.network, params)
        self.loss, self.batch_size, self.seed, self.fabric = (
            training.loss, training.batches.batch_size, seed, fabric,
        )  # fmt: skip

    def batch_rng(self, step: int, rows: range) -> BatchRng:
        """What the engine has for these rows."""
        generator = noise_of(self.seed, step, NOISE_STREAM, self.fabric.device)
        return BatchRng(generator, rows, self.batch_size)

    def step(self, parts: Sequence[tuple[Batch, BatchRng]]) -> None:
        for batch, batch_rng in parts:
            with self.fabric.autocast():
                loss = self.loss(self.network, batch, batch_rng)["loss"]
            (loss / len(parts)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class _Enough(Exception):
    """All turns are done: the training and its stage are left without saving anything."""


class Turns(Generic[Network, Batch]):
    """The batches of the engine's training: where it asks for the next one, it waits for the bare turn."""

    def __init__(self, batches: Batches[Batch], bare: Bare[Network, Batch], steps: int, turns: int) -> None:
        self.batches, self.bare, self.steps = batches, bare, steps
        self.batch_size = batches.batch_size
        self.last = turns * steps
        self.seen: list[tuple[int, range, Batch]] = []  # of the engine's turn in progress
        self.waited = 0.0
        self.since = now(bare.fabric)
        self.done: list[Turn] = []

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Batch:
        """Rows of a batch, which the bare step gets too; rows of one batch are asked for in ascending order.

        Raises:
            _Enough: after the last turn.
        """
        if step % self.steps == 0 and rows.start == 0 and step > 0:
            self._take_turns()
            if step == self.last:
                raise _Enough
        started = time.perf_counter()
        batch = self.batches(step, rng, rows)
        self.waited += time.perf_counter() - started
        self.seen.append((step, rows, batch))
        return batch

    def names(self, step: int) -> list[str]:
        return self.batches.names(step)

    def _take_turns(self) -> None:
        """Note the engine's turn, which has ended, and let the bare step have its own."""
        fabric = self.bare.fabric
        engine = now(fabric) - self.since - self.waited
        parts: dict[int, list[tuple[Batch, BatchRng]]] = {}
        for step, rows, batch in self.seen:
            part = (batch.to(fabric.device), self.bare.batch_rng(step, rows))
            parts.setdefault(step, []).append(part)
        started = now(fabric)
        for of_step in parts.values():
            self.bare.step(of_step)
        ended = now(fabric)
        self.done.append(Turn(engine, self.waited, ended - started))
        self.seen.clear()
        self.waited, self.since = 0.0, now(fabric)


def now(fabric: Fabric) -> float:
    """Seconds on a clock, when the device has done what it was given."""
    if fabric.device.type == "cuda":
        torch.cuda.synchronize(fabric.device)
    return time.perf_counter()


class Silence:
    """A log that keeps nothing; in the place of a stage's tracker."""

    is_main = True

    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def picture(self, name: str, picture: Picture, step: int) -> None: ...


def turns_of(
    training: Training[Network, Batch, HeldOut],
    params: FitParams,
    engine: EngineParams,
    seed: int,
    log: Log,
    fabric: Fabric,
    steps: int,
    turns: int,
) -> list[Turn]:
    """Train by `fit` and by hand, in turns.

    Args:
        training, params, engine, seed, log, fabric: as of `fit`; `params` without workers.
        steps: of a turn.
        turns: of each of the two.
    """
    bare = Bare(training, params, seed, fabric)
    watched = Turns(training.batches, bare, steps, turns)
    one_more = params.model_copy(update={"steps": turns * steps + 1, "validate_every": turns * steps + 1})
    with suppress(_Enough):
        fit(replace(training, batches=watched), one_more, engine, seed, log, fabric, states=None)
    return watched.done


# --- The stages ------------------------------------------------------------------------------------------


@contextmanager
def workplace(data: Path, recipe: str | None) -> Iterator[None]:
    """A folder to work in for as long as the block lasts, with params, the data and an untrained codec.

    Raises:
        UserError: if the data or the recipe are not there.
    """
    for path in INPUTS:
        if not (data / path / "train" / "manifest.json").is_file():
            raise UserError(
                f"{data / path}: nothing to train on; `dvc repro encode_latents` makes data/clips and "
                "data/latents, or name a folder that has both by --data"
            )
    params = merged(read_file(), read_recipe(recipe) if recipe else {})
    engine: dict[str, JsonValue] = {"engine": ALONE}
    without_workers: dict[str, JsonValue] = {stage: {"num_workers": 0} for stage in STAGES}
    with TemporaryDirectory() as folder:
        place = Path(folder)
        changed = merged(merged(params, engine), without_workers)
        place.joinpath(PARAMS_FILE.name).write_text(json.dumps(changed))
        place.joinpath("data").mkdir()
        for path in INPUTS:
            place.joinpath("data", path).symlink_to((data / path).resolve())
        with chdir(place):
            save_untrained_codec()
            yield


def save_untrained_codec() -> None:
    """The codec that the segmenter's training passes frames through."""
    vae = read_section(VAEParams, "vae")
    has_masks = read_section(PretrainVAEParams, "pretrain_vae").mask_weight > 0
    if read_section(CodecParams, "codec").name == "vae":
        config = CodecConfig(name="vae", vae=vae, has_masks=has_masks)
        save_model(train_segmenter.CODEC, VAE(vae, has_masks), config)
    else:
        save_model(train_segmenter.CODEC, None, CodecConfig(name="pixel", vae=None, has_masks=False))


def stage_turns(name: str, steps: int, turns: int) -> list[Turn]:
    """The turns of what a stage trains, with the params and data of the working directory."""
    stage = STAGES[name]
    found: list[Turn] = []

    def watched_fit(training, params, engine, seed, log, fabric, states):  # type: ignore[no-untyped-def]
        found.extend(turns_of(training, params, engine, seed, log, fabric, steps, turns))
        raise _Enough

    @contextmanager
    def silent(stage: str) -> Iterator[Silence]:
        yield Silence()

    # What a stage trains is put together in its `main`: taken from there, it is what is trained.
    with (
        patch.object(stage, "fit", watched_fit),
        patch.object(stage, "track_stage", silent),
        patch.object(stage, "states_of", lambda *of: None),
        suppress(_Enough),
    ):
        stage.main()
    return found


# --- The table -------------------------------------------------------------------------------------------


def line(name: str, turns: Sequence[Turn], steps: int) -> list[str]:
    """A training's row of the table."""
    low, ratio, high = statistics.quantiles([turn.engine / turn.bare for turn in turns], n=4)
    bare, engine, waited = (
        1000 / steps * statistics.median(getattr(turn, part) for turn in turns)
        for part in ("bare", "engine", "waited")
    )
    share = statistics.median(turn.waited / (turn.engine + turn.waited) for turn in turns)
    return [
        name,
        number(bare),
        number(engine),
        f"{ratio:.3f} ({low:.3f}..{high:.3f})",
        number(waited),
        f"{100 * share:.1f} %",
    ]


def table(turns: dict[str, list[Turn]], steps: int) -> str:
    """What was measured of each training, in turns of so many steps."""
    heads = [
        "training",
        "bare step, ms",
        "engine's, ms",
        "ratio (quartiles)",
        "waiting, ms",
        "share of waiting",
    ]
    return markdown(heads, [line(name, done, steps) for name, done in turns.items()])


def bench(data: Path, recipe: str | None, names: Sequence[str], steps: int, turns: int) -> str:
    """The table of some trainings, after turns that warm up."""
    untimed = -(-UNTIMED // steps)
    with workplace(data, recipe):
        if read_section(CodecParams, "codec").name == "pixel":  # it has nothing to fit
            names = [name for name in names if name != "pretrain_vae"]
        found = {name: stage_turns(name, steps, untimed + turns)[untimed:] for name in names}
    return table(found, steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with clips and latents")
    parser.add_argument("--recipe", help="a recipe over params.yaml; the data stay as they are")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--steps", type=int, default=4, help="of a turn")
    parser.add_argument("--turns", type=int, default=40, help="of the engine and of the bare step, each")
    args = parser.parse_args()
    run_stage(lambda: print(bench(args.data, args.recipe, args.stages, args.steps, args.turns)))


if __name__ == "__main__":
    main()
