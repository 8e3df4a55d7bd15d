"""The initial scene of a video: its objects, their positions and velocities."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdp.core.classes import COLORS, MATERIALS, SHAPES, class_id
from vdp.data.simulator.camera import RADIUS, floor_point
from vdp.data.simulator.params import SimulateParams

SPACING = 2.7 * RADIUS  # minimum distance between the centres of two objects at the start
FRAME_SECONDS = 0.2  # time between two frames
SIDES = (0.36, 0.36, 0.18, 0.10)  # probabilities that an object enters from the left, right, front, back
MAX_TRIES = 500

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """Initial state of n objects, no two of the same class."""

    shapes: NDArray[np.int64]  # (n,) indices into SHAPES
    materials: NDArray[np.int64]  # (n,) indices into MATERIALS
    colors: NDArray[np.int64]  # (n,) indices into COLORS
    positions: NDArray[np.float64]  # (n, 2) floor position, world units
    yaws: NDArray[np.float64]  # (n,) radians
    velocities: NDArray[np.float64]  # (n, 2) world units per second, from `start_frames` on
    start_frames: NDArray[np.float64]  # (n,) frames after the first

    @property
    def classes(self) -> NDArray[np.uint8]:
        """(n,) class ids, 1..48."""
        triples = zip(self.shapes, self.materials, self.colors, strict=True)
        return np.array([class_id(int(s), int(m), int(c)) for s, m, c in triples], np.uint8)


def draw_scene(params: SimulateParams, rng: np.random.Generator) -> Scene:
    """Draw the objects of one video: some inside the view, others that enter it."""
    inside = int(rng.integers(params.inside[0], params.inside[1] + 1))
    count = inside + int(rng.integers(params.entering[0], params.entering[1] + 1))
    kinds = rng.choice(len(SHAPES) * len(MATERIALS) * len(COLORS), count, replace=False)
    positions, velocities, starts = np.zeros((count, 2)), np.zeros((count, 2)), np.zeros(count)
    for i in range(count):
        for _ in range(MAX_TRIES):
            if i < inside:
                positions[i], velocities[i] = _place_inside(params, rng)
            else:
                positions[i], velocities[i] = _place_outside(params, rng, positions[:inside])
                starts[i] = rng.uniform(*params.entry_frames)
            if np.all(np.linalg.norm(positions[:i] - positions[i], axis=1) > SPACING):
                break
        else:
            raise ValueError(
                f"simulate: {count} objects do not fit; lower simulate.inside or simulate.entering"
            )
    return Scene(
        shapes=kinds // (len(MATERIALS) * len(COLORS)),
        materials=kinds // len(COLORS) % len(MATERIALS),
        colors=kinds % len(COLORS),
        positions=positions,
        yaws=rng.uniform(0, 2 * np.pi, count),
        velocities=velocities,
        start_frames=starts,
    )


def _place_inside(params: SimulateParams, rng: np.random.Generator) -> tuple[Array, Array]:
    position = floor_point(rng.uniform(0.1, 0.9), rng.uniform(0.19, 0.84))
    angle, speed = rng.uniform(0, 2 * np.pi), _draw_speed(params, rng)
    if rng.random() < params.rest_share:
        speed = 0.0
    return position, speed * np.array([np.cos(angle), np.sin(angle)])


def _place_outside(params: SimulateParams, rng: np.random.Generator, targets: Array) -> tuple[Array, Array]:
    """Draw position and velocity, towards one of the `targets` or the middle of the view."""
    u, v = rng.uniform(0, 1), rng.uniform(0.1, 0.875)
    left, right, front, back = (-0.1, v), (1.1, v), (u, 1.3), (u, -0.09)
    position = floor_point(*(left, right, front, back)[rng.choice(4, p=SIDES)])
    if rng.random() < params.aim_share:
        target = targets[rng.integers(len(targets))] + rng.normal(0, 0.6 * RADIUS, 2)
    else:
        target = floor_point(rng.uniform(0.2, 0.8), rng.uniform(0.25, 0.8))
    heading = (target - position) / np.linalg.norm(target - position)
    return position, _draw_speed(params, rng) * heading


def _draw_speed(params: SimulateParams, rng: np.random.Generator) -> float:
    return float(rng.uniform(*params.speed)) * 2 * RADIUS / FRAME_SECONDS
