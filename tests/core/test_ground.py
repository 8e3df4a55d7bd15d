"""The floor under a perspective camera."""

import math

import pytest
import torch

from vdp.core.ground import Ground, slide

GROUND = Ground(0.15, 0.16, 2.0, (0.03, 0.02, 0.03))
FLAT = Ground(0.2, 0.0, 1.0, (0.03,))


@pytest.mark.parametrize("ground", [GROUND, FLAT])
def test_places_on_the_floor_and_in_the_frame_are_inverse(ground):
    x, y = torch.linspace(-0.7, 0.7, 20), torch.linspace(-0.5, 0.5, 20)
    back = ground.to_frame(*ground.to_floor(x, y))
    torch.testing.assert_close(torch.stack(back), torch.stack([x, y]), atol=1e-5, rtol=1e-5)


def test_the_floor_is_that_of_a_pinhole_camera():
    """Points of a plane, projected by a tilted camera: their places on the floor differ by one scale only."""
    tilt, height, focal, width = math.radians(30), 2.5, 1.7, 0.4
    across, along = torch.meshgrid(torch.linspace(-1, 1, 5), torch.linspace(3.0, 5.5, 5), indexing="ij")
    depth = height * math.sin(tilt) + along * math.cos(tilt)
    x = focal * across / depth
    y = focal * (height * math.cos(tilt) - along * math.sin(tilt)) / depth
    size = focal * width / depth
    slope = ((size[0, 0] - size[0, -1]) / (y[0, 0] - y[0, -1])).item()
    offset = (size[0, 0] - slope * y[0, 0]).item()
    torch.testing.assert_close(offset + slope * y, size)  # linear, as the class assumes
    ground = Ground(offset, slope, focal / math.cos(tilt), ())
    found = torch.stack(ground.to_floor(x, y))
    true = torch.stack([across, -along]) / width
    torch.testing.assert_close(found - found[:, :1, :1], true - true[:, :1, :1], atol=1e-4, rtol=1e-4)


def test_places_beyond_the_horizon_are_finite():
    x, y = GROUND.to_floor(torch.tensor([0.3]), torch.tensor([-5.0]))
    assert torch.isfinite(x).all() and torch.isfinite(y).all()
    assert all(
        torch.isfinite(v).all() for v in GROUND.to_frame(torch.tensor([9.0]), torch.tensor([-1e4, 1e4]))
    )


def test_an_object_slides_until_friction_stops_it():
    speed, deceleration = torch.tensor(0.3), torch.tensor(0.1)
    distance = slide(speed, deceleration, torch.tensor([0.0, 1.0, 3.0, 10.0]))
    torch.testing.assert_close(distance, torch.tensor([0.0, 0.25, 0.45, 0.45]))
    torch.testing.assert_close(slide(speed, torch.tensor(0.0), torch.tensor(4.0)), torch.tensor(1.2))
