"""The repeated blocks of a network, which are compiled, sharded and checkpointed one by one."""

from torch import nn


def blocks_of(network: object) -> list[nn.Module]:
    """Return the repeated parts of a network, by its method `blocks`; empty without one."""
    blocks = getattr(network, "blocks", None)
    return list(blocks()) if callable(blocks) else []


def compile_blocks(network: object) -> None:
    """Compile the blocks of a network in place, for `engine.compile`: slow start, faster calls."""
    for block in blocks_of(network):
        block.compile()
