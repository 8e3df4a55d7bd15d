"""Motion of the objects of a scene: rigid bodies on a floor with Coulomb friction, in MuJoCo.

Every pair that may touch is declared, so that floor and objects have separate friction coefficients.
"""

import math
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from vdp.core.classes import SHAPES
from vdp.data.simulator.camera import RADIUS
from vdp.data.simulator.scene import FRAME_SECONDS, Scene

# per shape of SHAPES: horizontal (half side or radius) and vertical, world units
HALF_WIDTHS: NDArray[np.float64] = RADIUS * np.array([0.86, 1.0, 0.95])
HALF_HEIGHTS: NDArray[np.float64] = RADIUS * np.array([0.95, 1.0, 0.95])

STEP_SECONDS = 0.005
STEPS_PER_CHECK = 4  # steps between two checks for starts and contacts
ROLLING = (
    0.7 * RADIUS
)  # ratio of rolling to sliding friction: a ball decelerates about half as fast as a cube
OBJECT_FRICTION = 0.15  # between two objects
STIFFNESS, DAMPING = 20000.0, 25.0  # of a contact between two objects of mass 1; bouncy
REST_GAP = 0.3  # seconds without touching after which a touch counts as a new collision


@dataclass(frozen=True)
class Motion:
    """Poses of n objects in T frames, and their collisions."""

    positions: NDArray[np.float64]  # (T, n, 3) centres, world units
    rotations: NDArray[np.float64]  # (T, n, 3, 3) object to world
    collisions: list[tuple[float, int, int]]  # (frame after the first, object, object)


def simulate_motion(scene: Scene, frames: int, friction: float) -> Motion:
    """Simulate a scene for `frames` frames; `friction` is the floor's Coulomb coefficient."""
    model = mujoco.MjModel.from_xml_string(_world_xml(scene, friction))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    count = len(scene.shapes)
    positions, rotations = np.zeros((frames, count, 3)), np.zeros((frames, count, 3, 3))
    collisions: list[tuple[float, int, int]] = []
    waiting, last_touch = set(range(count)), dict[tuple[int, int], float]()
    checks = round(FRAME_SECONDS / (STEP_SECONDS * STEPS_PER_CHECK))
    for frame in range(frames):
        positions[frame] = data.xpos[1:]
        rotations[frame] = data.xmat[1:].reshape(count, 3, 3)
        if frame == frames - 1:
            break
        for check in range(checks):
            now = frame + check / checks
            for i in [i for i in waiting if scene.start_frames[i] <= now]:
                _start_object(data, scene, i)
                waiting.remove(i)
            mujoco.mj_step(model, data, STEPS_PER_CHECK)
            for first, second in data.contact.geom:
                if first and second:  # geom 0 is the floor
                    pair = (int(first) - 1, int(second) - 1)
                    if data.time - last_touch.get(pair, -math.inf) > REST_GAP:
                        collisions.append((now, *pair))
                    last_touch[pair] = data.time
    return Motion(positions, rotations, collisions)


def _start_object(data: mujoco.MjData, scene: Scene, i: int) -> None:
    vx, vy = scene.velocities[i]
    data.qvel[6 * i : 6 * i + 2] = vx, vy
    if SHAPES[scene.shapes[i]] == "sphere":  # already rolling, in the ball's frame
        spin = np.array([-vy, vx, 0.0]) / RADIUS
        data.qvel[6 * i + 3 : 6 * i + 6] = data.xmat[1 + i].reshape(3, 3).T @ spin


def _world_xml(scene: Scene, friction: float) -> str:
    count = len(scene.shapes)
    bodies, pairs = [], []
    for i in range(count):
        shape = SHAPES[scene.shapes[i]]
        half_width, half_height = HALF_WIDTHS[scene.shapes[i]], HALF_HEIGHTS[scene.shapes[i]]
        kind, size = {
            "cube": ("box", f"{half_width} {half_width} {half_height}"),
            "sphere": ("sphere", f"{half_width}"),
            "cylinder": ("cylinder", f"{half_width} {half_height}"),
        }[shape]
        x, y = scene.positions[i]
        half_yaw = scene.yaws[i] / 2
        bodies.append(
            f'<body pos="{x:.12f} {y:.12f} {half_height}" '
            f'quat="{math.cos(half_yaw):.12f} 0 0 {math.sin(half_yaw):.12f}">'
            f'<freejoint/><geom name="g{i}" type="{kind}" size="{size}" mass="1" '
            'contype="0" conaffinity="0"/></body>'
        )
        rolling = friction * ROLLING if shape == "sphere" else 0.0
        pairs.append(
            f'<pair geom1="floor" geom2="g{i}" condim="{6 if shape == "sphere" else 3}" '
            f'friction="{friction} {friction} 0.003 {rolling:.12f} {rolling:.12f}" solref="0.016 1"/>'
        )
        pairs += [
            f'<pair geom1="g{j}" geom2="g{i}" condim="3" friction="{OBJECT_FRICTION} {OBJECT_FRICTION}" '
            f'solref="{-STIFFNESS} {-DAMPING}"/>'
            for j in range(i)
        ]
    return (
        f'<mujoco><option timestep="{STEP_SECONDS}" gravity="0 0 -9.81" cone="elliptic" '
        'integrator="implicitfast"><flag sleep="enable"/></option>'
        '<worldbody><geom name="floor" type="plane" size="50 50 0.1" contype="0" conaffinity="0"/>'
        f"{''.join(bodies)}</worldbody><contact>{''.join(pairs)}</contact></mujoco>"
    )
