"""Weights of a network as whole tensors on the CPU, also where processes have a part each (FSDP)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def gathered_tensor(value: Tensor) -> Tensor:
    """A copy of a whole tensor on the CPU; every process of a sharded one has to call this."""
    value = value.full_tensor() if isinstance(value, DTensor) else value
    return value.detach().cpu().clone()


def own_part(value: Tensor) -> Tensor:
    """What this process has of a tensor, in place: all of it where it is not sharded."""
    return value.to_local() if isinstance(value, DTensor) else value


def gathered(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, whole and on the CPU, by name."""
    return {name: gathered_tensor(value) for name, value in module.state_dict().items()}


def fill(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set a network's parameters and buffers in place.

    Raises:
        ValueError: if the values are those of another network.
    """
    own = module.state_dict()
    if own.keys() != values.keys() or any(own[name].shape != value.shape for name, value in values.items()):
        raise ValueError(
            "the state to go on from is that of another network: remove it (.resume) and run again"
        )
    for name, tensor in own.items():
        copy_into(tensor, values[name])


@torch.no_grad()
def copy_into(tensor: Tensor, value: Tensor) -> None:
    """Give a tensor, or this process's part of it, the values of a whole one, which every process has."""
    value = value.to(tensor.device)
    if isinstance(tensor, DTensor):
        value = distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
    tensor.copy_(value)


def under(values: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names have a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def all_finite(module: nn.Module) -> bool:
    """Whether this process's part of the weights is finite."""
    for value in module.state_dict().values():
        local = own_part(value)
        if local.is_floating_point() and not bool(torch.isfinite(local).all()):
            return False
    return True
