"""Random numbers of a batch in one or several parts."""

import pytest
import torch
from torch import Tensor

from vdp.core.rng import BatchRng, whole_batch


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def drawn(rng: BatchRng) -> tuple[Tensor, Tensor, float, Tensor]:
    rows = len(rng.rows)
    return rng.uniform(rows), rng.normal(rows, 2, 3), rng.shared(), rng.uniform(rows, 4)


@pytest.mark.parametrize("rows", [range(0, 6), range(0, 2), range(2, 5), range(5, 6)])
def test_a_part_takes_its_rows_of_the_numbers_of_the_whole_batch(rows):
    uniform, normal, shared, later = drawn(whole_batch(generator(), 6))
    part = drawn(BatchRng(generator(), rows, 6))
    assert part[2] == shared
    for own, every in zip((part[0], part[1], part[3]), (uniform, normal, later), strict=True):
        assert torch.equal(own, every[rows.start : rows.stop])


def test_numbers_are_uniform_or_standard_normal():
    rng = whole_batch(generator(), 10_000)
    uniform, normal = rng.uniform(10_000, 2), rng.normal(10_000, 2)
    assert 0 <= uniform.min() < 0.01 and 0.99 < uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    assert (normal.mean().item(), normal.std().item()) == pytest.approx((0, 1), abs=0.02)
    shared = torch.tensor([rng.shared() for _ in range(1000)])
    assert (shared.mean().item(), shared.max().item()) == pytest.approx((0.5, 1), abs=0.05)


@pytest.mark.parametrize("shape", [(3, 2), (6,), ()])
def test_a_shape_without_the_rows_of_the_part_is_refused(shape):
    part = BatchRng(generator(), range(2, 4), 6)
    for draw in (part.uniform, part.normal):
        with pytest.raises(ValueError, match="expected 2 rows"):
            draw(*shape)
