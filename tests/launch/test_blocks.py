"""The repeated blocks of a network."""

from torch import nn

from vdp.launch.blocks import blocks_of, compile_blocks


class Stack(nn.Sequential):
    def blocks(self) -> list[nn.Module]:
        return list(self)[:2]


def test_the_blocks_that_a_network_names_are_compiled_and_nothing_else():
    network = Stack(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    compile_blocks(network)
    assert [layer._compiled_call_impl is not None for layer in network] == [True, True, False]


def test_a_network_without_blocks_stays_as_it_is():
    network = nn.Linear(2, 2)
    assert blocks_of(network) == []
    compile_blocks(network)
    assert network._compiled_call_impl is None
