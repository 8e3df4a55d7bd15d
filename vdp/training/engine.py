"""Set-up by Lightning Fabric: precision, processes, DDP and FSDP, by section `engine`.

Other modules use only the rank and means over processes.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.checkpoint import checkpoint, noop_context_fn

from vdp.core.device import pick_device
from vdp.core.errors import UserError
from vdp.launch.blocks import blocks_of
from vdp.launch.params import EngineParams
from vdp.launch.start import count_processes, fabric_precision, launch_fabric
from vdp.training.compat import BatchNorm, FabricModule


class ForwardWrapper(nn.Module):
    """Call a function of the network inside `forward`.

    A loss calls several methods of a network; DDP and FSDP handle `forward` only.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, function: Callable[[nn.Module], dict[str, Tensor]]) -> dict[str, Tensor]:
        return function(self.network)


def launch(params: EngineParams) -> Fabric:
    """Launch the processes of a training; each of them returns from here.

    Raises:
        UserError: if the params do not fit this machine or the launcher.
    """
    accelerator = pick_device().type
    strategy = _strategy(params, count_processes(params))
    return launch_fabric(params, strategy, fabric_precision(params, accelerator))


def _strategy(params: EngineParams, processes: int) -> str | Strategy:
    if params.strategy != "fsdp":
        return "auto" if processes == 1 else DDPStrategy()
    if processes == 1:
        raise UserError("engine.strategy=fsdp: expected several processes; raise engine.devices, or use auto")
    return ModelParallelStrategy(shard, data_parallel_size=processes, tensor_parallel_size=1)


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard the weights of a `ForwardWrapper` over the processes by block (FSDP2, arXiv:2304.11277)."""
    assert isinstance(model, ForwardWrapper)
    for block in blocks_of(model.network):
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(model, mesh=mesh["data_parallel"])
    return model


def setup_model(network: nn.Module, fabric: Fabric, params: EngineParams) -> FabricModule:
    """Compile, checkpoint and distribute a network in place; return its `ForwardWrapper` in Fabric's."""
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        from timm.layers import convert_sync_batchnorm  # seconds to import; torch's loses timm's activations

        network = convert_sync_batchnorm(network)
    for block in blocks_of(network):
        has_norms = any(isinstance(module, BatchNorm) for module in block.modules())
        if params.checkpointing:
            # contexts of the forward pass and of its recomputation
            contexts = (
                (lambda b=block: (nullcontext(), _freeze_statistics(b))) if has_norms else noop_context_fn
            )
            forward = functools.partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)
            block.forward = forward
        if params.compile and not (params.checkpointing and has_norms):  # compile would drop the contexts
            block.compile()
    return fabric.setup_module(ForwardWrapper(network))


@contextmanager
def _freeze_statistics(block: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norms: the first forward pass has counted the batch."""
    before = [
        (norm, norm.momentum, counter, counter.clone())
        for norm in block.modules()
        if isinstance(norm, BatchNorm) and (counter := norm.num_batches_tracked) is not None
    ]
    for norm, *_ in before:
        norm.momentum = 0.0  # the same kernel as in the first pass
    try:
        yield
    finally:
        for norm, momentum, counter, count in before:
            norm.momentum = momentum
            counter.copy_(count)


def setup_eval_model(network: nn.Module, fabric: Fabric) -> nn.Module:
    """Return the `ForwardWrapper` of a network for evaluation, sharded as the trained one is."""
    model = ForwardWrapper(network).to(fabric.device)
    if isinstance(fabric.strategy, ModelParallelStrategy):
        sharded = shard(model, fabric.strategy.device_mesh)
        assert isinstance(sharded, FSDPModule)
        sharded.set_reshard_after_forward(True)  # without a backward pass, nothing else reshards it
    return model


def share_buffers(network: nn.Module, fabric: Fabric) -> None:
    """Broadcast the buffers of the main process: on CPUs batch norm is per process."""
    if fabric.world_size > 1 and fabric.device.type == "cpu":
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, src=0)


def mean_over_processes(values: dict[str, Tensor], fabric: Fabric) -> dict[str, float]:
    """Average scalars over the processes; equal in all of them."""
    if not values:
        return {}
    stacked = torch.stack([value.detach().float().to(fabric.device) for value in values.values()])
    reduced = fabric.all_reduce(stacked, reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return dict(zip(values, reduced.tolist(), strict=True))


def max_over_processes(value: int, fabric: Fabric) -> int:
    """Return the maximum over the processes, in all of them."""
    if fabric.world_size == 1:
        return value
    reduced = fabric.all_reduce(torch.tensor(value, device=fabric.device), reduce_op="max")
    assert isinstance(reduced, Tensor)
    return int(reduced.item())
