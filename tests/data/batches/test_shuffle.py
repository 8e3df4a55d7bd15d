import pickle
import tracemalloc

import numpy as np
import pytest

from vdp.data.batches.shuffle import Shuffled


def epoch(order: Shuffled, number: int) -> list[int]:
    return [order[number * order.count + place] for place in range(order.count)]


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_every_epoch_has_every_clip_once(count):
    order = Shuffled(count, seed=3)
    for number in (0, 1, 2, 50):
        assert sorted(epoch(order, number)) == list(range(count))


def test_epochs_and_seeds_have_different_orders():
    orders = [tuple(epoch(Shuffled(30, seed), number)) for seed in (0, 1, 2) for number in range(4)]
    assert len(set(orders)) == 12
    assert tuple(range(30)) not in orders


def test_a_position_does_not_depend_on_earlier_reads():
    in_order = [Shuffled(13, seed=0)[position] for position in range(60)]
    order = Shuffled(13, seed=0)
    positions = np.random.default_rng(0).integers(0, 60, 300)
    assert [order[int(position)] for position in positions] == [in_order[position] for position in positions]


def test_every_clip_comes_to_every_position():
    """Over 400 epochs each of 5 clips is first in 80 of them, give or take 5 standard deviations (8.0)."""
    order = Shuffled(5, seed=0)
    counts = np.bincount([order[5 * number] for number in range(400)], minlength=5)
    assert (abs(counts - 80) < 40).all()


def test_memory_is_four_bytes_per_clip():
    tracemalloc.start()
    order = Shuffled(1_000_000, seed=0)
    order[0], order[1_000_000], order[2_500_000]
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 4.1e6
    assert peak < 4.2e6


def test_an_order_is_drawn_once_per_epoch(monkeypatch):
    drawn = []
    make = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(seed) or make(seed))
    order = Shuffled(50, seed=0)
    for position in range(150):
        order[position]
    assert len(drawn) == 3


def test_an_order_is_pickled_without_its_epoch():
    order = Shuffled(10_000, seed=0)
    first = [order[position] for position in range(20)]
    sent = pickle.dumps(order)
    assert len(sent) < 1000
    assert [pickle.loads(sent)[position] for position in range(20)] == first
