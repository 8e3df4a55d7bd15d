"""Places of objects that the frame's border cuts: discs of known places, measured as the pipeline does."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vdp.core.borders import touched_borders, whole_places
from vdp.core.ground import Ground
from vdp.core.objects import CUT, HEIGHT, SEEN, WIDTH, X, Y
from vdp.data.batches.motion import object_latents
from vdp.data.object_states import object_states

ROWS, COLUMNS, RADIUS = 64, 96, 8.0  # pixels
DISC = 1 / math.sqrt(math.pi)  # radius over the root of the area
SPHERE, CUBE = 17, 1  # class ids
REACH = ((0.9, 0.3), (DISC, DISC), (0.3, 0.9))  # those of cubes and cylinders are wrong for discs
FLAT = Ground(
    RADIUS / ROWS / DISC, 0.0, 1.0, (0.0,) * 3, border=COLUMNS / ROWS / 2, reach=REACH,
    entry=((0.2, 0.05), (0.0, 0.1), (0.0, -0.3)),
)  # fmt: skip
STEEP = Ground(0.2, 0.16, 2.0, (0.0,) * 3, border=COLUMNS / ROWS / 2, reach=REACH)
SIDES = {"left": (0.0, 32.0), "right": (96.0, 32.0), "top": (48.0, 0.0), "bottom": (48.0, 64.0)}
PIXEL = 1 / ROWS


def disc_states(x: float, y: float, radius: float, label: int = SPHERE) -> Tensor:
    """Latents (1, C, 1, 1, 1) of a disc around pixel (x, y), of which pixels in the frame are visible."""
    row, column = np.mgrid[:ROWS, :COLUMNS] + 0.5
    labels = (np.hypot(column - x, row - y) < radius).astype(np.uint8)[None]
    return object_latents(object_states(labels, 1)[None], np.array([[label]], np.uint8))


def place(latents: Tensor) -> list[float]:
    return latents[0, [X, Y], 0, 0, 0].tolist()


def centre(x: float, y: float) -> list[float]:
    """Pixels to frame heights from the middle."""
    return [(x - COLUMNS / 2) / ROWS, (y - ROWS / 2) / ROWS]


@pytest.mark.parametrize("outside", [-6.0, -3.0, 0.0, 3.0, 5.0])
@pytest.mark.parametrize("side", SIDES)
def test_a_disc_that_a_border_cuts_gets_its_true_centre(side, outside):
    """`outside`: pixels of the centre beyond the border."""
    x, y = SIDES[side]
    x += {"left": -outside, "right": outside}.get(side, 0.0)
    y += {"top": -outside, "bottom": outside}.get(side, 0.0)
    measured = disc_states(x, y, RADIUS)
    assert measured[0, CUT] == 1
    assert math.dist(place(measured), centre(x, y)) > PIXEL / 2  # the centroid of what is visible lags
    assert place(whole_places(measured, FLAT)) == pytest.approx(centre(x, y), abs=PIXEL / 2)


@pytest.mark.parametrize("corner", [(0.0, 0.0), (96.0, 0.0), (0.0, 64.0), (96.0, 64.0)])
def test_a_disc_in_a_corner_is_moved_across_and_upright(corner):
    assert place(whole_places(disc_states(*corner, RADIUS), FLAT)) == pytest.approx(
        centre(*corner), abs=PIXEL / 2
    )


@pytest.mark.parametrize("side", SIDES)
def test_under_perspective_the_size_is_that_at_the_true_centre(side):
    x, y = SIDES[side]
    radius = DISC * ROWS * STEEP.size(torch.tensor(centre(x, y)[1])).item()
    found = place(whole_places(disc_states(x, y, radius), STEEP))
    assert found == pytest.approx(centre(x, y), abs=0.75 * PIXEL)


def test_the_reach_is_that_of_the_shape():
    sphere, cube = (place(whole_places(disc_states(0, 32, RADIUS, label), FLAT)) for label in (SPHERE, CUBE))
    assert sphere[0] - cube[0] == pytest.approx((0.9 - DISC) * FLAT.offset)


def random_frames(seed: int) -> Tensor:
    """Objects at random places of the frame, cut or not, seen or not, (8, C, 5, 1, 6)."""
    rng = np.random.default_rng(seed)
    states = rng.uniform(0.02, 0.4, (8, 6, 5, 7)).astype(np.float32)
    states[..., X] = rng.uniform(-0.75, 0.75, (8, 6, 5))
    states[..., Y] = rng.uniform(-0.5, 0.5, (8, 6, 5))
    states[..., SEEN], states[..., CUT] = rng.random((2, 8, 6, 5)) < 0.7
    return object_latents(states, rng.integers(1, 49, (8, 6)).astype(np.uint8))


@pytest.mark.parametrize("ground", [FLAT, STEEP])
def test_places_move_outwards_only_and_nothing_else_changes(ground):
    before = random_frames(0)
    after = whole_places(before, ground)
    assert (after[:, X] * before[:, X].sign() >= before[:, X].abs()).all()
    side, top, bottom = touched_borders(before, ground)
    down = after[:, Y] - before[:, Y]
    assert (down[bottom] >= 0).all() and (down[top & ~bottom] <= 0).all()
    assert not down[~top & ~bottom].any() and not (after - before)[:, X][~side].any()
    others = [channel for channel in range(before.shape[1]) if channel not in (X, Y)]
    assert torch.equal(after[:, others], before[:, others])
    for touched, channel in ((side, X), (top, Y), (bottom, Y)):
        assert ((after - before)[:, channel][touched] != 0).any()


@pytest.mark.parametrize("ground", [FLAT, STEEP])
def test_the_places_of_whole_objects_are_those_of_whole_objects(ground):
    once = whole_places(random_frames(1), ground)
    torch.testing.assert_close(whole_places(once, ground), once, atol=1e-6, rtol=0)


def test_whole_and_hidden_objects_and_those_without_a_reach_are_unchanged():
    frames = random_frames(2)
    free = (frames[:, SEEN] < 0.5) | (frames[:, CUT] < 0.5)
    assert free.any() and torch.equal(
        whole_places(frames, FLAT).movedim(1, -1)[free], frames.movedim(1, -1)[free]
    )
    unknown = Ground(FLAT.offset, 0.0, 1.0, (0.0,) * 3, border=FLAT.border)
    assert torch.equal(whole_places(frames, unknown), frames)


@pytest.mark.parametrize("side", SIDES)
def test_the_border_that_cuts_an_object_is_recognised(side):
    touched = touched_borders(disc_states(*SIDES[side], RADIUS), FLAT)
    expected = [side in ("left", "right"), side == "top", side == "bottom"]
    assert [bool(each.item()) for each in touched] == expected
    whole = touched_borders(disc_states(9.0, 9.0, RADIUS), FLAT)
    assert not any(each.item() for each in whole)


def test_the_box_of_a_cut_disc_is_that_of_its_visible_part():
    """The inner edge is measured from it."""
    half = disc_states(0, 32, RADIUS)
    assert half[0, [WIDTH, HEIGHT], 0, 0, 0].tolist() == [RADIUS / ROWS, 2 * RADIUS / ROWS]
