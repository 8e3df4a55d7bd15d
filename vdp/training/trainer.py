"""The training loop of all networks, on one process or many.

A step depends on the seed and its number only: equal runs give equal bytes, and a training resumes at any
step from its weights, its optimizer and a few numbers.
"""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from vdp.core.rng import BatchRng
from vdp.launch.interrupts import catch_stop_signals
from vdp.launch.out_of_memory import MemoryAdvisor, report_out_of_memory
from vdp.launch.params import EngineParams
from vdp.launch.watch import report_lost_process
from vdp.training.checkpoint import TrainingCheckpoints
from vdp.training.cost import CostReport
from vdp.training.curves import LossCurves, progress_bar
from vdp.training.dataloader import Batch, BatchRows, prefetch_batches
from vdp.training.definition import Logger, Network, Training, TrainingResult, ValBatch
from vdp.training.engine import share_buffers
from vdp.training.optim import clip_gradients
from vdp.training.params import FitParams
from vdp.training.saver import CheckpointSaver
from vdp.training.seeds import noise_rng, seed_network, step_rng
from vdp.training.state import TrainingState
from vdp.training.validation import validate
from vdp.training.weights import gather_state_dict


def fit(
    training: Training[Network, Batch, ValBatch],
    params: FitParams,
    engine: EngineParams,
    seed: int,
    logger: Logger,
    fabric: Fabric,
    checkpoints: TrainingCheckpoints | None,
) -> TrainingResult[Network]:
    """Train a network; resume from the newest of `checkpoints` if there is one.

    Raises:
        UserError: if gradients or weights are not finite, memory is full, a worker process was killed, or
            checkpoints cannot be written.
        Interrupted: if a signal requested a stop; a checkpoint is saved.
        ValueError, OSError: from `training.batches`.
    """
    name, batches, device = training.name, training.batches, fabric.device
    with ExitStack() as stack:
        stack.enter_context(report_lost_process(name))
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        if checkpoints is not None and fabric.is_global_zero:
            stack.enter_context(checkpoints.lock())
        fabric.barrier()
        stack.enter_context(report_out_of_memory(name, training.memory_params))

        result = copy.deepcopy(training.network)
        own = training.optimizer, training.scheduler
        state = TrainingState(name, training.network, params, engine, fabric, *own)
        saver = CheckpointSaver(state, checkpoints, fabric)
        saver.restore()
        fresh = state.progress.step == 0
        if fresh and training.initial is not None:
            state.start_from(training.initial())
        network, model, optimizer, progress = state.network, state.model, state.optimizer, state.progress
        steps, size = range(progress.step, params.total_steps), batches.batch_size
        rows = BatchRows(name, steps, size, params.accumulate, fabric.global_rank, fabric.world_size)
        curves = LossCurves(progress, logger, fabric)
        cost = CostReport(name, network, size, steps, fabric)

        def forward_backward(batch: Batch, batch_rng: BatchRng) -> dict[str, Tensor]:
            """Add the gradients of a part; if memory is full, the tensors are freed with this frame."""
            batch = batch.to(device)
            part_losses = model(lambda network: training.loss(network, batch, batch_rng))
            fabric.backward(part_losses["loss"] / params.accumulate)
            return {key: value.detach() for key, value in part_losses.items()}

        def add_gradients(step: int, read_part: Callable[[int], Batch]) -> dict[str, float]:
            """Add the gradients of this process in a step; return its mean losses."""
            losses: dict[str, float] = {}
            for part in range(params.accumulate):
                batch = read_part(part)
                batch_rng = noise_rng(seed, step, rows.part(part), size, device)
                seed_network(seed, step, fabric.global_rank * params.accumulate + part)
                last = part + 1 == params.accumulate  # enabled=False would leave FSDP without sync
                with nullcontext() if last else fabric.no_backward_sync(model):
                    part_losses = forward_backward(batch, batch_rng)
                for key, value in part_losses.items():
                    losses[key] = losses.get(key, 0.0) + value.item() / params.accumulate
            return losses

        def count_step(step: int) -> None:
            """Compute the gradients of a step and drop them; the state of the training does not change."""
            buffers = [buffer.clone() for buffer in network.buffers()]
            add_gradients(step, lambda part: batches(step, step_rng(seed, step), rows.part(part)))
            optimizer.zero_grad(set_to_none=True)
            restore_buffers(network, buffers)

        def try_samples(samples: int) -> None:
            """Compute the gradients of a few samples of the current step, to find what fits into memory."""
            optimizer.zero_grad(set_to_none=True)
            missing = 0 if optimizer.state else 2  # moments of the optimizer, which the first step allocates
            moments = [torch.empty_like(p) for p in network.parameters() for _ in range(missing)]
            batch = batches(progress.step, step_rng(seed, progress.step), range(samples))
            forward_backward(batch, noise_rng(seed, progress.step, range(samples), size, device))
            optimizer.zero_grad(set_to_none=True)
            del moments

        memory = MemoryAdvisor(training.memory_params, name, size, rows.size, fabric.world_size, try_samples)
        network.train()
        with (
            catch_stop_signals() as stop,
            progress_bar(name, steps, fabric) as bar,
            prefetch_batches(batches, seed, rows, params.num_workers, device.type == "cuda") as parts,
        ):
            with memory.suggest_params():
                logger.add_flops(cost.count_flops(count_step, state.optimizer_flops, bar))
            if fresh and training.initial is not None:
                validate(training, state, curves, fabric)  # the loss that the weights to start from have
            for step in steps:
                with memory.suggest_params():
                    rate = state.set_learning_rate(step)
                    buffers = [buffer.clone() for buffer in network.buffers()]
                    losses = add_gradients(step, lambda part: curves.next_batch(parts))
                    finite = math.isfinite(clip_gradients(network, optimizer, params.grad_clip, fabric))
                    if finite or state.scaler is not None:  # a scaler skips the step and adapts its scale
                        optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    progress.step = step + 1
                    if finite:
                        state.step_scheduler()
                        share_buffers(network, fabric)
                        state.ema.update_parameters(network)
                        curves.add(losses)
                    else:
                        restore_buffers(network, buffers)  # batch norm has averaged non-finite values
                        state.skip_step(batches.names(step))

                bar.update()
                cost.step_done(params.total_steps - progress.step, bar)
                if progress.step % params.log_every == 0:
                    bar.set_postfix_str(curves.log_means(rate, params.log_every))
                if progress.step % params.validate_every == 0 or progress.step == params.total_steps:
                    state.step_plateau(validate(training, state, curves, fabric))
                saver.keep_if_due()
                saver.save_if_due(stop)

        state.check_finite()
        weights = {"last": gather_state_dict(state.ema.module), "best": state.best}
        weights["best"] = weights["best"] or weights["last"]  # without a finite validation loss
        result.load_state_dict(weights.pop(params.keep))
        return TrainingResult(result.eval(), weights, saver.kept())


def restore_buffers(network: nn.Module, buffers: Sequence[Tensor]) -> None:
    for buffer, before in zip(network.buffers(), buffers, strict=True):
        buffer.copy_(before)
