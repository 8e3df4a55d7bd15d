"""Collisions of discs on the floor."""

import torch

from vdp.core.anchor import Anchor
from vdp.core.collisions import roll_out
from vdp.core.ground import Ground

FLOOR = Ground(0.2, 0.0, 1.0, (0.0,), diameter=1.0, restitution=1.0)
LAST = torch.tensor([[3.0]])


def anchor(places: list[list[float]], velocities: list[list[float]], deceleration: float = 0.0) -> Anchor:
    """Objects at (x, y) in frame 3 of one clip."""
    place, velocity = torch.tensor(places).T[None], torch.tensor(velocities).T[None]
    count = len(places)
    return Anchor(
        torch.zeros(1, 1, count), place, velocity, torch.full((1, count), deceleration),
        torch.full((1, count), 3.0), torch.ones(1, count, dtype=torch.bool),
    )  # fmt: skip


def velocities(path: torch.Tensor) -> torch.Tensor:
    """Of the last frame, (N, 2)."""
    return (path[0, :, -1] - path[0, :, -2]).T


def test_a_moving_disc_hands_its_velocity_to_a_resting_one():
    path = roll_out(anchor([[-3.0, 0.0], [0.0, 0.0]], [[0.5, 0.0], [0.0, 0.0]]), LAST, 12, FLOOR)
    torch.testing.assert_close(velocities(path), torch.tensor([[0.0, 0.0], [0.5, 0.0]]))
    assert path[0, 0, :, 0].max() <= -1 + 0.25 + 1e-6  # no farther than a substep into the other


def test_restitution_is_the_speed_of_separation_over_that_of_approach():
    floor = Ground(0.2, 0.0, 1.0, (0.0,), diameter=1.0, restitution=0.5)
    path = roll_out(anchor([[-3.0, 0.0], [0.0, 0.0]], [[0.5, 0.0], [0.0, 0.0]]), LAST, 12, floor)
    after = velocities(path)
    torch.testing.assert_close(after[1, 0] - after[0, 0], torch.tensor(0.25))
    torch.testing.assert_close(after.sum(dim=0), torch.tensor([0.5, 0.0]))  # momentum


def test_a_glancing_hit_keeps_momentum_and_energy():
    path = roll_out(anchor([[-3.0, 0.4], [0.0, 0.0]], [[0.5, 0.0], [0.0, 0.0]]), LAST, 12, FLOOR)
    after = velocities(path)
    assert after[1, 1] < -0.05 < 0.05 < after[0, 1]
    torch.testing.assert_close(after.sum(dim=0), torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(after.square().sum(), torch.tensor(0.25))


def test_without_collisions_objects_slide_through_each_other():
    found = anchor([[-3.0, 0.0], [0.0, 0.0]], [[0.5, 0.0], [0.0, 0.0]], deceleration=0.03)
    free = Ground(0.2, 0.0, 1.0, (0.03,))
    path = roll_out(found, LAST, 12, free)
    expected = found.extrapolate(LAST + torch.arange(1.0, 13.0))
    torch.testing.assert_close(path, expected, atol=0.005, rtol=0)  # a stop within a substep
    assert path[0, 0, -1, 0] > 0.5


def test_an_absent_object_is_not_hit():
    found = anchor([[-3.0, 0.0], [0.0, 0.0]], [[0.5, 0.0], [0.0, 0.0]])
    found.present[0, 1] = False
    path = roll_out(found, LAST, 12, FLOOR)
    torch.testing.assert_close(path[0, :, -1].T, torch.tensor([[3.0, 0.0], [0.0, 0.0]]))


def test_an_object_that_was_hidden_moves_freely_up_to_the_last_frame():
    found = anchor([[-3.0, 0.0]], [[0.5, 0.0]])
    path = roll_out(found, LAST + 2, 1, FLOOR)
    torch.testing.assert_close(path[0, :, 0, 0], torch.tensor([-1.5, 0.0]))
