"""What a library's network uses of itself, and which of its parts repeat, found by one pass through it."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

SIDE = 64  # pixels of the frame that is tried: two positions at a stride of 32
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Trial:
    """What a pass forward and back has touched, by name."""

    called: set[str]  # modules whose `forward` ran
    opened: set[str]  # modules of which a part ran while they themselves did not
    reached: set[str]  # parameters that have a gradient


def try_out(network: nn.Module) -> Trial:
    """Run a network of frames (B, 3, H, W) forward and back; it is left as it was."""
    called: set[str] = set()
    opened: set[str] = set()
    running: list[str] = []

    def entering(name: str) -> Callable[..., None]:
        def enter(*_: object) -> None:
            above = name.split(".")[:-1]
            opened.update({".".join(above[: i + 1]) for i in range(len(above))} - set(running))
            called.add(name)
            running.append(name)

        return enter

    def leave(*_: object) -> None:
        running.pop()

    inner = [(name, module) for name, module in network.named_modules() if name]
    handles = [module.register_forward_pre_hook(entering(name)) for name, module in inner]
    handles += [module.register_forward_hook(leave) for _, module in inner]
    reached = _reached(network)
    for handle in handles:
        handle.remove()
    return Trial(called, opened, reached)


def _reached(network: nn.Module) -> set[str]:
    """Names of the parameters on which the output depends."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    training = network.training
    network.eval()  # batch norm keeps its averages, and nothing is drawn at random
    with torch.enable_grad():
        output = network(torch.zeros(1, 3, SIDE, SIDE, device=parameters[0].device))
        gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    network.train(training)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def drop_unused(network: nn.Module, trial: Trial) -> None:
    """Take out what a network never uses, as an encoder's stages below the depth that is asked for.

    What runs in vain cannot go, as the library calls it; its weights are only kept out of training.
    """
    for name, module in list(network.named_modules()):
        names = {f"{name}.{own}" for own, _ in module.named_parameters()}
        ran = any(f"{other}.".startswith(f"{name}.") for other in trial.called)
        if name and names and not ran and not names & trial.reached:
            network.set_submodule(name, nn.Identity())
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trial.reached)


def repeated(network: nn.Module, trial: Trial) -> list[str]:
    """Names of the outermost trained modules of a kind that repeats and which run through `forward` alone.

    Kinds of less than two layers are not worth the name, and lists of modules are looked into.
    """
    kinds = Counter(type(module) for module in network.modules())

    def is_block(name: str, module: nn.Module) -> bool:
        layers = sum(any(True for _ in part.parameters(recurse=False)) for part in module.modules())
        return (
            type(module) not in CONTAINERS
            and kinds[type(module)] > 1
            and layers > 1
            and name in trial.called - trial.opened
            and any(parameter.requires_grad for parameter in module.parameters())
        )

    def walk(module: nn.Module, prefix: str) -> Iterator[str]:
        for name, child in module.named_children():
            if is_block(prefix + name, child):
                yield prefix + name
            else:
                yield from walk(child, f"{prefix}{name}.")

    return list(walk(network, ""))
