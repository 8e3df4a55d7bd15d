"""State dicts of whole tensors on the CPU, also of weights that FSDP shards."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole_tensor(value: Tensor) -> Tensor:
    """Return a tensor, whole; every process has to call this for a sharded one."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gather(value: Tensor) -> Tensor:
    """Copy a whole tensor to the CPU; every process has to call this for a sharded one."""
    return whole_tensor(value).detach().cpu().clone()


def gather_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Copy all parameters and buffers, whole, to the CPU."""
    return {name: gather(value) for name, value in module.state_dict().items()}


def local_tensor(value: Tensor) -> Tensor:
    """Return the shard of this process, without a copy."""
    return value.to_local() if isinstance(value, DTensor) else value


@torch.no_grad()
def copy_whole(tensor: Tensor, value: Tensor) -> None:
    """Copy a whole tensor, which every process has, into a tensor or the shard of this process."""
    value = value.to(tensor.device)
    if isinstance(tensor, DTensor):
        value = distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
    tensor.copy_(value)


def load_whole(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Load whole parameters and buffers; ValueError if names or shapes differ."""
    state = module.state_dict()
    if state.keys() != values.keys() or any(state[n].shape != v.shape for n, v in values.items()):
        raise ValueError("the checkpoint is of another network: remove .resume and run again")
    for name, tensor in state.items():
        copy_whole(tensor, values[name])


def strip_prefix(values: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the values whose names have a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def all_finite(module: nn.Module) -> bool:
    """Whether all weights of this process are finite."""
    local = (local_tensor(value) for value in module.state_dict().values())
    return all(bool(torch.isfinite(value).all()) for value in local if value.is_floating_point())
