"""Where a training runs: Lightning Fabric with the params' precision, processes and sharing among them.

One process or many, on one machine or several, is a matter of section `engine` and of what starts the stage;
no other file knows more of it than a rank and a mean over processes.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint, noop_context_fn

from vdp.core.device import computes_in_bf16
from vdp.core.errors import UserError
from vdp.training.params import EngineParams
from vdp.training.process_watch import launch_together

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Work = Callable[[nn.Module], dict[str, Tensor]]  # what is computed with a network: named scalars


class Trained(nn.Module):
    """A network as strategies take it: whatever a loss calls of it happens inside one `forward`.

    Losses call several methods of a network; DDP and FSDP see to their work around `forward` alone.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, work: Work) -> dict[str, Tensor]:
        return work(self.network)


def launch(params: EngineParams) -> Fabric:
    """Start the processes of a training; each of them returns from here, the main one and the others.

    Raises:
        UserError: if this machine or what started this process does not fit the params.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    devices = _devices(params, accelerator)
    _check_launcher(params, devices)
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=params.num_nodes,
        strategy=_strategy(params, devices * params.num_nodes),
        precision=_precision(params, accelerator),
    )
    launch_together(fabric)
    return fabric


def _devices(params: EngineParams, accelerator: str) -> int:
    """Processes on this node."""
    there = torch.cuda.device_count() if accelerator == "cuda" else None
    if params.devices == "auto":
        return int(os.environ.get("LOCAL_WORLD_SIZE") or _srun("SLURM_STEP_TASKS_PER_NODE") or there or 1)
    if there is not None and params.devices > there:
        raise UserError(
            f"engine.devices={params.devices}: this machine has {there}: lower it, or start the stage on "
            "more machines (engine.num_nodes)"
        )
    return params.devices


def _srun(name: str) -> int | None:
    """A number that srun tells of its step, such as '4' or '4(x2)'; None outside of one."""
    value = os.environ.get(name, "").partition("(")[0]
    return int(value) if value.isdigit() else None


def _check_launcher(params: EngineParams, devices: int) -> None:
    """Processes that were started from outside, by torchrun or srun, must be as many as the params say.

    Otherwise each of them would train alone, and all would write the same files.
    """
    started = int(os.environ.get("WORLD_SIZE") or _srun("SLURM_STEP_NUM_TASKS") or 0)
    if started > 0 and started != devices * params.num_nodes:
        raise UserError(
            f"{started} processes were started, and engine.devices={params.devices} on engine.num_nodes="
            f"{params.num_nodes} are {devices * params.num_nodes}: make them equal, or set launcher to python"
        )
    if params.num_nodes > 1 and not started and "NODE_RANK" not in os.environ:
        raise UserError(
            f"engine.num_nodes={params.num_nodes}: one process was started, which would wait for ever for "
            "the others: set launcher to torchrun or srun, which start it on each machine"
        )


def _precision(params: EngineParams, accelerator: str) -> Precision:
    """Fabric's name of the precision; weights, their averages and the optimiser are fp32 in all of them."""
    if params.precision == 32:
        return "32-true"
    if params.precision == "bf16":
        return "bf16-mixed"
    if params.precision == 16:
        if accelerator == "cpu":
            raise UserError("engine.precision=16 needs a GPU: set it to auto, which takes bf16 where it pays")
        if params.strategy == "fsdp":
            raise UserError("engine.precision=16 does not go with engine.strategy=fsdp: use bf16, or ddp")
        return "16-mixed"
    return "bf16-mixed" if computes_in_bf16(accelerator) else "32-true"


def _strategy(params: EngineParams, processes: int) -> str | Strategy:
    if params.strategy == "fsdp":
        if processes == 1:
            raise UserError(
                "engine.strategy=fsdp shares weights among processes, and there is one: raise engine.devices "
                "or set strategy to auto"
            )
        return ModelParallelStrategy(shard, data_parallel_size=processes, tensor_parallel_size=1)
    if processes == 1:
        return "auto"
    return DDPStrategy()


def shard(trained: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Part a network's weights among the processes, block by block (FSDP2, arXiv:2304.11277)."""
    assert isinstance(trained, Trained)
    for block in blocks_of(trained.network):
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(trained, mesh=mesh["data_parallel"])
    return trained


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network that tells them by a method `blocks`; else none."""
    blocks = getattr(network, "blocks", None)
    return list(blocks()) if callable(blocks) else []


def set_up(network: nn.Module, fabric: Fabric, params: EngineParams) -> _FabricModule:
    """The network as it is trained: on its device, compiled, shared among processes as the params say.

    Returns:
        A `Trained`, wrapped by Fabric; the weights are those of `network` itself.
    """
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        from timm.layers import convert_sync_batchnorm  # seconds to import; torch's loses timm's activations

        network = convert_sync_batchnorm(network)
    for block in blocks_of(network):
        norms = any(isinstance(module, _BatchNorm) for module in block.modules())
        if params.checkpointing:
            context = functools.partial(_twice, block) if norms else noop_context_fn
            block.forward = functools.partial(
                checkpoint, block.forward, use_reentrant=False, context_fn=context
            )
        if params.compile and not (params.checkpointing and norms):  # compiled, that context would be lost
            block.compile()
    return fabric.setup_module(Trained(network))


def _twice(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around a block's forward pass, and around the one that computes its activations again."""
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms normalise by their batch, and do not count it in their running statistics once more."""
    before = [
        (norm, norm.momentum, counter, counter.clone())
        for norm in block.modules()
        if isinstance(norm, _BatchNorm) and (counter := norm.num_batches_tracked) is not None
    ]
    for norm, *_ in before:
        norm.momentum = 0.0  # the statistics are passed to the kernel as in the first pass, and stay
    try:
        yield
    finally:
        for norm, momentum, counter, counted in before:
            norm.momentum = momentum
            counter.copy_(counted)


def set_up_average(average: nn.Module, fabric: Fabric) -> nn.Module:
    """A network that is only evaluated, with its weights shared where those of the trained one are."""
    trained = Trained(average).to(fabric.device)
    if isinstance(fabric.strategy, ModelParallelStrategy):
        sharded = shard(trained, fabric.strategy.device_mesh)
        assert isinstance(sharded, FSDPModule)
        sharded.set_reshard_after_forward(True)  # its weights change by no backward pass, which would do it
    return trained


def share_buffers(network: nn.Module, fabric: Fabric) -> None:
    """Give all processes the main one's buffers: on CPUs each one's batch norm has seen its own samples."""
    if fabric.world_size > 1 and fabric.device.type == "cpu":
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, src=0)


def mean_over_processes(values: dict[str, Tensor], fabric: Fabric) -> dict[str, float]:
    """Each of some scalars, averaged over the processes; equal in all of them."""
    if not values:
        return {}
    stacked = torch.stack([value.detach().float().to(fabric.device) for value in values.values()])
    reduced = fabric.all_reduce(stacked, reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return dict(zip(values, reduced.tolist(), strict=True))


def largest_over_processes(value: int, fabric: Fabric) -> int:
    """The largest of the processes' numbers, in all of them."""
    if fabric.world_size == 1:
        return value
    reduced = fabric.all_reduce(torch.tensor(value, device=fabric.device), reduce_op="max")
    assert isinstance(reduced, Tensor)
    return int(reduced.item())
