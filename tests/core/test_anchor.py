"""Velocity of objects that are seen once: they move as objects that enter do on average."""

import numpy as np
import pytest
import torch

from vdp.core.anchor import Anchor, find_anchor
from vdp.core.ground import Ground
from vdp.core.objects import CUT, FEATURES, HEIGHT, SEEN, WIDTH, X, Y
from vdp.data.batches.motion import object_latents

K = 5
ENTRY = ((0.2, 0.05), (0.0, 0.1), (0.0, -0.3))  # inwards and along: at a side, the top, the bottom
GROUND = Ground(
    0.2, 0.0, 1.0, (0.0,) * 3, border=0.75, reach=((0.5, 0.5),) * 3, entry=ENTRY
)  # fmt: skip
PLACES = {"left": (-0.75, 0.1), "right": (0.75, 0.1), "top": (0.1, -0.5), "bottom": (0.1, 0.5)}
VELOCITIES = {"left": (0.2, 0.05), "right": (-0.2, 0.05), "top": (0.0, 0.1), "bottom": (0.0, -0.3)}


def anchor(
    place: tuple[float, float], seen: list[int], cut: bool = True, ground: Ground = GROUND, speed: float = 0.0
) -> Anchor:
    """The anchor of one object that is visible in frames `seen` and moves across by `speed` per frame."""
    states = np.zeros((1, 1, K, len(FEATURES)), np.float32)
    for frame in seen:
        states[0, 0, frame, [X, Y, SEEN, CUT, WIDTH, HEIGHT]] = (
            place[0] + speed * frame, place[1], 1, cut, 0.1, 0.1,
        )  # fmt: skip
    latents = object_latents(states, np.array([[17]], np.uint8))
    return find_anchor(latents, torch.arange(float(K))[None], ground)


@pytest.mark.parametrize("side", PLACES)
@pytest.mark.parametrize("frame", [1, K - 1])
def test_an_object_seen_once_at_a_border_enters_at_the_mean_velocity(side, frame):
    found = anchor(PLACES[side], [frame])
    assert found.velocity[0, :, 0].tolist() == pytest.approx(VELOCITIES[side])
    assert found.index.item() == frame
    inside = found.extrapolate(torch.tensor([[frame + 3.0]]))[0, :, 0, 0] * GROUND.offset
    assert inside.abs().max() < torch.tensor(PLACES[side]).abs().max()  # it moves inwards


@pytest.mark.parametrize("side", PLACES)
def test_an_object_seen_in_the_first_frame_alone_did_not_enter(side):
    assert not anchor(PLACES[side], [0]).velocity.any()


def test_a_whole_object_seen_once_and_objects_without_an_entry_velocity_rest():
    assert not anchor(PLACES["left"], [K - 1], cut=False).velocity.any()
    assert not anchor((0.1, 0.1), [K - 1]).velocity.any()
    still = Ground(0.2, 0.0, 1.0, (0.0,) * 3, border=0.75, reach=GROUND.reach)
    assert not anchor(PLACES["left"], [K - 1], ground=still).velocity.any()


def test_an_object_seen_twice_has_its_measured_velocity():
    found = anchor(PLACES["left"], [K - 2, K - 1], speed=0.04)
    assert found.velocity[0, :, 0].tolist() == pytest.approx([0.04 / GROUND.offset, 0.0], abs=1e-6)
