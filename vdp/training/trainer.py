"""The one training loop, of all networks, on one process or many; a stop at any moment does not change it.

A loss is a function of the network, a batch and the batch_rng of a step. What a step sees depends on the seed
and the step's number alone: so equal runs are equal, whoever reads the batches and in however many parts, and
a run is taken up at any step from its weights, its optimiser and a few numbers.
"""

import copy
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from tqdm import tqdm

from vdp.core.errors import Interrupted, UserError, one_line
from vdp.core.rng import BatchRng
from vdp.training.checkpoint import States
from vdp.training.cost import cost_line, count_flops, matmul_rate, peak_memory_gb
from vdp.training.dataloader import Batch, Batches, Movable, Places, noise_of, read_ahead, rng_of
from vdp.training.engine import (
    largest_over_processes,
    mean_over_processes,
    set_up,
    set_up_average,
    share_buffers,
)
from vdp.training.interrupts import Stop, listening
from vdp.training.optim import learning_rate, make_average, make_optimizer
from vdp.training.out_of_memory import Knob, advice, is_out_of_memory, largest_that_fits
from vdp.training.params import EngineParams, FitParams
from vdp.training.process_watch import loss_told
from vdp.training.validation import Loss, validation_losses
from vdp.training.weights import all_finite, copy_into, fill, gathered, gathered_tensor, under

Network = TypeVar("Network", bound=nn.Module)
HeldOut = TypeVar("HeldOut", bound=Movable)  # a batch of a validation
Picture = NDArray[np.uint8]  # (H, W, 3), RGB

COST_STEPS = 10  # steps to time before the cost of the whole training is told
WARM_STEPS = 3  # steps that are not timed: the first ones allocate and choose kernels
NAMED = 8  # clips of a batch to name in a message
# Second words of seeds: noise must not depend on what a batch drew, nor a network's own batch_rng on either.
NOISE_STREAM, NETWORK_STREAM = 2, 4


class Log(Protocol):
    """Where curves and pictures go; a tracker of `vdp.tracking` is one."""

    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def picture(self, name: str, picture: Picture, step: int) -> None: ...


@dataclass(frozen=True)
class Training(Generic[Network, Batch, HeldOut]):
    """What is trained, on what, and how it is watched.

    Attributes:
        name: the section of params.yaml that rules it, for messages.
        network: trained in place.
        loss: gives named scalars, means over the samples it is given; 'loss' is minimised, all are logged.
        batches: of the training.
        measure: a loss for validation; 'loss' decides which weights are best.
        held_out: batches for validation, of `vdp.training.validation.VALIDATION_SIZE` samples.
        draw: a picture of what the network does, for people; every process calls it, one shows it.
        knobs: params that memory grows with, beside the batch.
    """

    name: str
    network: Network
    loss: Loss[Network, Batch]
    batches: Batches[Batch]
    measure: Loss[Network, HeldOut]
    held_out: Batches[HeldOut]
    draw: Callable[[Network], Picture] | None = None
    knobs: Sequence[Knob] = ()


@dataclass(frozen=True)
class Fitted(Generic[Network]):
    """What a training has made.

    Attributes:
        network: with the averaged weights that `keep` names, in evaluation mode.
        spare: the other ones of the best and the last, by name.
    """

    network: Network
    spare: dict[str, dict[str, Tensor]]


def training_seed(seed: int) -> None:
    """Seed the initial weights: the one place where torch's global generator matters outside of `fit`."""
    torch.manual_seed(seed)


def fit(
    training: Training[Network, Batch, HeldOut],
    params: FitParams,
    engine: EngineParams,
    seed: int,
    log: Log,
    fabric: Fabric,
    states: States | None,
) -> Fitted[Network]:
    """Train a network; a training that was stopped before goes on where it was.

    Args:
        training: what is trained.
        params: the section that rules this training.
        engine: the section that rules all trainings.
        seed: of the run.
        log: where curves and pictures go; used by the main process alone.
        fabric: launched by `vdp.training.engine.launch`.
        states: where states to resume from are kept; None: nowhere.

    Raises:
        UserError: when gradients or weights are no longer finite, naming the step; when memory is out, naming
            what to lower; when a worker process was killed; when states cannot be written.
        Interrupted: when a signal asked to stop; a state is saved.
        ValueError, OSError: as `training.batches` raised it.
    """
    with ExitStack() as stack:
        stack.enter_context(loss_told(training.name))
        stack.enter_context(torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []))
        if states is not None and fabric.is_global_zero:
            stack.enter_context(states.held())
        fabric.barrier()
        stack.enter_context(_memory_named(training.name, training.knobs))
        loop = _Loop(training, params, engine, seed, log, fabric, states)
        loop.restore()
        loop.run()
        return loop.result()


@contextmanager
def _memory_named(name: str, knobs: Sequence[Knob]) -> Iterator[None]:
    """Where memory ends outside of a step, in loading, validating or saving, say so and what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        lower = " or ".join(knob.name for knob in knobs) or "the size of the network"
        reason = one_line(ValueError(str(error)))
        raise UserError(f"{name}: out of memory outside of a step: lower {lower} ({reason})") from None


@dataclass
class _Progress:
    """What a resumed training needs beside its weights; numbers alone, so that they go into a JSON file."""

    step: int = 0  # steps done
    sums: dict[str, float] = field(default_factory=dict)  # of losses since the last point of the curves
    counted: int = 0  # steps in those sums
    skipped: int = 0  # steps whose gradient was not finite, in all
    in_a_row: int = 0  # of them, up to now
    best_loss: float = float("inf")
    curve: list[tuple[int, dict[str, float]]] = field(default_factory=list)  # all that was logged


class _Loop(Generic[Network, Batch, HeldOut]):
    """A training in progress."""

    def __init__(
        self,
        training: Training[Network, Batch, HeldOut],
        params: FitParams,
        engine: EngineParams,
        seed: int,
        log: Log,
        fabric: Fabric,
        states: States | None,
    ) -> None:
        self.training, self.params, self.engine = training, params, engine
        self.seed, self.log, self.fabric, self.states = seed, log, fabric, states
        self.result_network = copy.deepcopy(training.network)
        network = training.network.to(fabric.device)
        self.average = make_average(network, params.ema_decay)
        self.averaged = set_up_average(self.average.module, fabric)
        self.network = network
        self.trained = set_up(network, fabric, engine)
        fused = self._scaler() is None
        optimizer = fabric.setup_optimizers(make_optimizer(network, params, fused))
        assert isinstance(optimizer, _FabricOptimizer)  # one in, one out
        self.optimizer = optimizer
        self.progress = _Progress()
        self.best: dict[str, Tensor] = {}
        self.places = self._places(0)
        self.saved_at = time.monotonic()
        self.waited = 0.0  # seconds for batches, since the last point of the curves
        self.flops: float | None = None

    def _places(self, start: int) -> Places:
        steps = range(start, self.params.steps)
        ranks = (self.fabric.global_rank, self.fabric.world_size)
        try:
            return Places(steps, self.training.batches.batch_size, self.params.accumulate, *ranks)
        except UserError as error:
            raise UserError(f"{self.training.name}.{error}") from None

    # --- The steps -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """All steps that are left."""
        self.network.train()
        self.places = self._places(self.progress.step)
        pin = self.fabric.device.type == "cuda"
        with (
            listening() as stop,
            self._bar() as bar,
            read_ahead(
                self.training.batches, self.seed, self.places, self.params.num_workers, pin
            ) as batches,
        ):
            clock = _Clock(self, bar)
            for step in self.places.steps:
                with self._memory_told(step):
                    self._step(step, batches)
                bar.update()
                clock.tick()
                self._report(bar)
                self._keep(stop)

    def _step(self, step: int, batches: Iterator[Batch]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.params)
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        losses = self._gradients(step, batches)
        finite = math.isfinite(self._clip())
        if finite or self._scaler() is not None:  # a scaler skips the step itself, and learns from it
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        progress = self.progress
        progress.step = step + 1
        if not finite:
            for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                buffer.copy_(before)  # batch norm has counted what is not finite
            self._skipped(step)
            return
        progress.in_a_row = 0
        share_buffers(self.network, self.fabric)
        self.average.update_parameters(self.network)
        progress.counted += 1
        for name, value in losses.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value

    def _clip(self) -> float:
        """Scale the gradient down to the largest norm allowed; the norm that it had."""
        self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        total = get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = float(total.full_tensor() if isinstance(total, DTensor) else total)
        if norm > self.params.grad_clip:  # else the product with 1 would cost more than the norm
            clip_grads_with_norm_(parameters, self.params.grad_clip, total)
        return norm

    def _gradients(self, step: int, batches: Iterator[Batch]) -> dict[str, float]:
        """Add up the gradients of this process's parts of a step; losses, averaged over them."""
        sums: dict[str, float] = {}
        first = self.fabric.device.type == "cuda" and self.flops is None
        for part in range(self.params.accumulate):
            started = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - started
            last = part + 1 == self.params.accumulate
            run = _PartOfStep(self, step, part, batch)
            with nullcontext() if last else self.fabric.no_backward_sync(self.trained):
                if first and part == 0:
                    self.flops = count_flops(run) * self.params.accumulate * self.fabric.world_size
                else:
                    run()
            for name, value in run.losses.items():
                sums[name] = sums.get(name, 0.0) + value.item() / self.params.accumulate
        return sums

    def batch_rng(self, step: int, part: int) -> BatchRng:
        """The randomness of one of this process's parts of a step."""
        start = self.places.first + part * self.places.size
        generator = noise_of(self.seed, step, NOISE_STREAM, self.fabric.device)
        return BatchRng(generator, range(start, start + self.places.size), self.training.batches.batch_size)

    def seed_network(self, step: int, part: int) -> None:
        """Dropout draws from torch's global generator: it too is a matter of the step alone."""
        place = self.fabric.global_rank * self.params.accumulate + part
        torch.manual_seed(int(rng_of(self.seed, step, NETWORK_STREAM).integers(2**62)) + place)

    def _scaler(self) -> torch.amp.GradScaler | None:
        """What keeps fp16 gradients in range; None in other precisions."""
        return getattr(self.fabric.strategy.precision, "scaler", None)

    def _skipped(self, step: int) -> None:
        """Count a step that was not taken, and give up after too many in a row."""
        progress = self.progress
        progress.skipped += 1
        progress.in_a_row += 1
        if progress.in_a_row < self.engine.max_skipped:
            return
        name, clips = self.training.name, self.training.batches.names(step)
        more = f" and {len(clips) - NAMED} more" if len(clips) > NAMED else ""
        raise UserError(
            f"{name}: the gradient is not finite at step {step + 1}, nor at the "
            f"{self.engine.max_skipped - 1} before it; its clips are {', '.join(clips[:NAMED])}{more}: lower "
            f"{name}.learning_rate={self.params.learning_rate} or grad_clip={self.params.grad_clip}, set "
            "engine.precision to 32, or look at these clips"
        )

    # --- Curves --------------------------------------------------------------------------------------------

    def _report(self, bar: tqdm) -> None:
        """Points of the curves, validations and pictures that are due after a step."""
        done, params = self.progress.step, self.params
        if done % params.log_every == 0:
            bar.set_postfix_str(self._log_losses(done))
        if done % params.validate_every == 0 or done == params.steps:
            self._validate(done)

    def _log_losses(self, done: int) -> str:
        progress, fabric = self.progress, self.fabric
        count = max(progress.counted, 1)
        sums = {name: torch.tensor(total / count) for name, total in progress.sums.items()}
        means = {name: total / count for name, total in progress.sums.items()}
        if fabric.world_size > 1:
            means = mean_over_processes(sums, fabric)
        point = {**means, "learning_rate": learning_rate(done - 1, self.params)}
        self._note({**point, "skipped_steps": float(progress.skipped)}, done)
        self.log.log({"data_wait_seconds": self.waited / self.params.log_every}, done)
        progress.sums, progress.counted, self.waited = {}, 0, 0.0
        return f"loss {means['loss']:.4f}" if means else "all steps skipped"

    def _note(self, point: dict[str, float], step: int) -> None:
        """Log a point, and keep it for a training that goes on from here."""
        self.progress.curve.append((step, point))
        self.log.log(point, step)

    def _validate(self, done: int) -> None:
        """Losses of the averaged weights on fixed batches; they are kept where they are the best so far."""
        self.average.eval()
        values = validation_losses(self.averaged, self.training.measure, self.training.held_out, self.fabric)
        self._note({f"val_{name}": value for name, value in values.items()}, done)
        if values["loss"] < self.progress.best_loss:
            self.progress.best_loss = values["loss"]
            self.best = gathered(self.average.module)
        if self.training.draw is not None:
            with torch.no_grad(), self.fabric.autocast():
                drawing = _Drawing(self.training.draw)
                self.averaged(drawing)
            if self.fabric.is_global_zero and drawing.picture is not None:
                self.log.picture("samples", drawing.picture, done)

    # --- States --------------------------------------------------------------------------------------------

    def _keep(self, stop: Stop) -> None:
        """Save a state where one is due, and leave where a signal asks for it."""
        done, every = self.progress.step, self.engine.save_steps
        minutes = (time.monotonic() - self.saved_at) / 60
        due = minutes >= self.engine.save_minutes or (every is not None and done % every == 0)
        # 0: go on, 1: save, above: leave by the signal; all processes do the same at the same step
        asked = largest_over_processes(1 + stop.signal if stop.signal else int(due), self.fabric)
        if asked == 0 or (done == self.params.steps and asked == 1):
            return
        saved = self._save()
        if asked > 1:
            told = f"{self.training.name}: stopped after step {done} of {self.params.steps}; "
            goes_on = f"run again, it goes on from there ({self.states.folder})" if self.states else ""
            message = told + (goes_on if saved else "no state was saved")
            raise Interrupted(asked - 1, message, tells=self.fabric.is_global_zero)

    def _save(self) -> bool:
        """Write a state; whether it was written. A full disk ends no training: the last state stays."""
        self.saved_at = time.monotonic()
        if self.states is None:
            return False
        self._check_weights()
        self._share_sums()
        tensors, failed = self._tensors(), 0
        if self.fabric.is_global_zero:
            scaler = self._scaler()
            notes = {"progress": vars(self.progress), "scaler": scaler.state_dict() if scaler else {}}
            try:
                self.states.save(self.progress.step, tensors, notes)
            except OSError as error:
                failed = 1
                what = f"the state of {self.training.name} after step {self.progress.step}"
                told = f"{what} could not be saved, the one before stays"
                print(f"warning: {told}: {one_line(error)}; free some space", file=sys.stderr)
        return not largest_over_processes(failed, self.fabric)

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors of a state, whole."""
        tensors = {f"network/{name}": value for name, value in gathered(self.network).items()}
        tensors |= {f"average/{name}": value for name, value in gathered(self.average).items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{key}/{name}"] = gathered_tensor(value)
        return tensors | {f"best/{name}": value for name, value in self.best.items()}

    def _share_sums(self) -> None:
        """Losses since the last point, averaged over the processes: a resumed training may have fewer."""
        if self.fabric.world_size > 1 and self.progress.sums:
            sums = {name: torch.tensor(total) for name, total in self.progress.sums.items()}
            self.progress.sums = mean_over_processes(sums, self.fabric)

    def restore(self) -> None:
        """Go on from the newest state that is whole, if there is one."""
        state = self.states.newest() if self.states is not None and self.fabric.is_global_zero else None
        step = largest_over_processes(0 if state is None else int(state[1]["progress"]["step"]), self.fabric)
        if step == 0 or self.states is None:
            return
        tensors, notes = state if state is not None else self.states.read(step)
        fill(self.network, under(tensors, "network/"))
        fill(self.average, under(tensors, "average/"))
        self._fill_optimizer(under(tensors, "optimizer/"))
        self.best = under(tensors, "best/")
        self.progress = _Progress(**notes["progress"])
        if (scaler := self._scaler()) is not None:
            scaler.load_state_dict(notes["scaler"])
        for at, point in self.progress.curve:
            self.log.log(point, at)
        if self.fabric.is_global_zero:
            told = f"{self.training.name}: goes on after step {step} of {self.params.steps}"
            print(f"{told} ({self.states.folder})", file=sys.stderr)

    def _fill_optimizer(self, values: Mapping[str, Tensor]) -> None:
        parameters = dict(self.network.named_parameters())
        for place, value in sorted(values.items()):  # a file's order differs between processes
            key, _, name = place.partition("/")
            parameter = parameters[name]
            of_its_shape = value.shape == parameter.shape
            empty = torch.zeros_like(parameter) if of_its_shape else value.to(parameter.device)
            if of_its_shape:
                copy_into(empty, value)
            self.optimizer.state[parameter][key] = empty

    def _check_weights(self) -> None:
        """Refuse to write weights that are not finite."""
        bad = 0 if all_finite(self.network) and all_finite(self.average) else 1
        if largest_over_processes(bad, self.fabric):
            name = self.training.name
            raise UserError(
                f"{name}: the weights are not finite after step {self.progress.step}, and not saved: lower "
                f"{name}.learning_rate={self.params.learning_rate}, or set engine.precision to 32"
            )

    def result(self) -> Fitted[Network]:
        """The averaged weights, the last and the best."""
        self._check_weights()
        weights = {"last": gathered(self.average.module), "best": self.best}
        if not self.best:
            weights["best"] = weights["last"]  # no validation had a finite loss
        self.result_network.load_state_dict(weights.pop(self.params.keep))
        return Fitted(self.result_network.eval(), weights)

    # --- What is told --------------------------------------------------------------------------------------

    def _bar(self) -> tqdm:
        return tqdm(
            total=self.params.steps, initial=self.progress.step, desc=self.training.name, unit="step",
            file=sys.stderr, mininterval=2, disable=not self.fabric.is_global_zero,
        )  # fmt: skip

    @contextmanager
    def _memory_told(self, step: int) -> Iterator[None]:
        """Where memory ends, say what to lower and to which value."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold the tensors
            raise UserError(self._memory_advice(step, one_line(ValueError(str(error))))) from None

    def _memory_advice(self, step: int, reason: str) -> str:
        """What would fit, by trying where this is the only process: others wait for this one otherwise."""
        self.optimizer.zero_grad(set_to_none=True)
        alone = self.fabric.world_size == 1
        fits = self.places.size // 2
        if alone:
            fits = largest_that_fits(lambda samples: self._try(step, samples), self.places.size - 1)
        parts = self.params.accumulate * self.fabric.world_size
        size, knobs = self.training.batches.batch_size, self.training.knobs
        return advice(self.training.name, size, parts, fits, knobs, reason, self.fabric.world_size, alone)

    def _try(self, step: int, samples: int) -> None:
        """Forward and backward for a few samples, as a step would, and no more."""
        rows = range(samples)
        batch = self.training.batches(step, rng_of(self.seed, step), rows).to(self.fabric.device)
        batch_rng = BatchRng(
            noise_of(self.seed, step, NOISE_STREAM, self.fabric.device),
            rows,
            self.training.batches.batch_size,
        )
        # what a first step has not made yet: AdamW's moments
        more = 0 if self.optimizer.state else 2
        moments = [torch.empty_like(p) for p in self.network.parameters() for _ in range(more)]
        losses = self.trained(lambda network: self.training.loss(network, batch, batch_rng))
        self.fabric.backward(losses["loss"])
        self.optimizer.zero_grad(set_to_none=True)
        del moments

    def cost(self, seconds: float) -> str:
        """One line that states what the training takes, from the time of its first warm steps."""
        memory, peak = peak_memory_gb(self.fabric.device), None
        if self.flops is not None:
            peak = matmul_rate(self.fabric.device, torch.bfloat16) * self.fabric.world_size
        return cost_line(
            self.training.name,
            sum(p.numel() for p in self.network.parameters()),
            self.params.steps - self.progress.step,
            self.training.batches.batch_size,
            seconds,
            memory,
            self.flops,
            peak,
        )


class _PartOfStep(Generic[Network, Batch, HeldOut]):
    """Forward and backward of a part of a step; afterwards it has the losses."""

    def __init__(self, loop: _Loop[Network, Batch, HeldOut], step: int, part: int, batch: Batch) -> None:
        self.loop, self.step, self.part = loop, step, part
        self.batch = batch.to(loop.fabric.device)
        self.losses: dict[str, Tensor] = {}

    def __call__(self) -> None:
        loop = self.loop
        loop.seed_network(self.step, self.part)
        batch_rng = loop.batch_rng(self.step, self.part)
        losses = loop.trained(lambda network: loop.training.loss(network, self.batch, batch_rng))
        loop.fabric.backward(losses["loss"] / loop.params.accumulate)
        self.losses = {name: value.detach() for name, value in losses.items()}


class _Drawing(Generic[Network]):
    """Work of a network (see `vdp.training.engine.Trained`) that leaves a picture here instead of scalars."""

    def __init__(self, draw: Callable[[Network], Picture]) -> None:
        self.draw = draw
        self.picture: Picture | None = None

    def __call__(self, network: Network) -> dict[str, Tensor]:
        self.picture = self.draw(network)
        return {}


class _Clock:
    """Times the first warm steps and tells the cost of the rest."""

    def __init__(self, loop: _Loop[Network, Batch, HeldOut], bar: tqdm) -> None:
        self.loop, self.bar = loop, bar
        self.steps = 0
        self.started = time.perf_counter()

    def tick(self) -> None:
        """A step is done."""
        self.steps += 1
        if self.steps == WARM_STEPS:
            self.started = self._now()
        if self.steps == WARM_STEPS + COST_STEPS and self.loop.fabric.is_global_zero:
            cost = self.loop.cost((self._now() - self.started) / COST_STEPS)
            self.bar.write(cost, file=sys.stderr)

    def _now(self) -> float:
        if self.loop.fabric.device.type == "cuda":
            torch.cuda.synchronize(self.loop.fabric.device)
        return time.perf_counter()
