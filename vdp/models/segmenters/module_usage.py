"""Trace the used modules and parameters of a library's network, remove the others, find its blocks."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

SIDE = 64  # pixels of the traced frame: two positions at a stride of 32
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class ModuleUsage:
    """Names of the modules and parameters that one forward and backward pass uses."""

    called: set[str]  # modules whose `forward` ran
    bypassed: set[str]  # modules of which a submodule ran outside of their own `forward`
    reached: set[str]  # parameters with a gradient


def trace_usage(network: nn.Module) -> ModuleUsage:
    """Trace a network of frames (B, 3, H, W); its state is unchanged."""
    called: set[str] = set()
    bypassed: set[str] = set()
    running: list[str] = []

    def enter_hook(name: str) -> Callable[..., None]:
        def enter(*_: object) -> None:
            above = name.split(".")[:-1]
            bypassed.update({".".join(above[: i + 1]) for i in range(len(above))} - set(running))
            called.add(name)
            running.append(name)

        return enter

    def leave(*_: object) -> None:
        running.pop()

    modules = [(name, module) for name, module in network.named_modules() if name]
    handles = [module.register_forward_pre_hook(enter_hook(name)) for name, module in modules]
    handles += [module.register_forward_hook(leave) for _, module in modules]
    names, parameters = zip(*network.named_parameters(), strict=True)
    training = network.training
    network.eval()  # keeps the averages of batch norm and draws no random numbers
    with torch.enable_grad():
        output = network(torch.zeros(1, 3, SIDE, SIDE, device=parameters[0].device))
        gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    network.train(training)
    for handle in handles:
        handle.remove()
    reached = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
    return ModuleUsage(called, bypassed, reached)


def remove_unused(network: nn.Module, usage: ModuleUsage) -> None:
    """Replace modules that never run, as encoder stages below the depth, by the identity.

    Modules that run without effect on the output are kept, as the library calls them, with frozen weights.
    """
    for name, module in list(network.named_modules()):
        names = {f"{name}.{parameter}" for parameter, _ in module.named_parameters()}
        ran = any(f"{other}.".startswith(f"{name}.") for other in usage.called)
        if name and names and not ran and not names & usage.reached:
            network.set_submodule(name, nn.Identity())
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in usage.reached)


def find_blocks(network: nn.Module, usage: ModuleUsage) -> list[str]:
    """Name the outermost trained modules of a repeated type, with several layers, called by `forward`."""
    types = Counter(type(module) for module in network.modules())

    def is_block(name: str, module: nn.Module) -> bool:
        layers = sum(any(True for _ in part.parameters(recurse=False)) for part in module.modules())
        return (
            type(module) not in CONTAINERS
            and types[type(module)] > 1
            and layers > 1
            and name in usage.called - usage.bypassed
            and any(parameter.requires_grad for parameter in module.parameters())
        )

    def walk(module: nn.Module, prefix: str) -> Iterator[str]:
        for name, child in module.named_children():
            if is_block(prefix + name, child):
                yield prefix + name
            else:
                yield from walk(child, f"{prefix}{name}.")

    return list(walk(network, ""))
