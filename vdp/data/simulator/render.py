"""Analytic ray-caster: frames and exact masks of a `Motion`, compiled by numba.

Objects are convex, of one size, and on a floor. The floor without objects is drawn once per size; a frame copies it
and only works on the pixels that an object covers or may shade. No `fastmath`: the bytes must not depend on the
compiler's mood. Vectors are (x, y, z) tuples, images (H, W, 3).
"""

import math
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vdp.data.simulator.appearance import LIGHTS, TINTS, floor_light, to_bytes
from vdp.data.simulator.camera import BASIS, EYE, FOCAL, RADIUS, floor_point
from vdp.data.simulator.physics import CUBE_HALF, CYLINDER_RADIUS, HALF_HEIGHT, Motion
from vdp.data.simulator.scene import Scene

SAMPLES = 2  # rays along each side of a pixel that shows or borders an object
SHADOW_SAMPLES = 4  # rays along each side of a light, from the floor
OBJECT_SHADOW_SAMPLES = 2  # the same from an object
BEVEL = 0.87  # part of a face that is flat: beyond it the shading normal bends (outline and mask stay exact)
BEVEL_BEND = 1.0
SKY = 0.04  # light that a metal sees above the horizon, away from the lamps
AMBIENT, AMBIENT_UP = 0.50, 0.08  # light on every point, and more of it on what faces up
GLOSS, GLOSS_POWER = 0.02, 14  # of rubber
CONTACT_SHADE = 0.45  # part of the ambient light that the floor loses under an object
TOUCH = math.sqrt(4 * 1.7) * RADIUS  # how far from an object its contact shade reaches
CURVE_STEPS = 16384

CUBE, SPHERE, CYLINDER, METAL = 0, 1, 2, 0  # positions in vdp.classes
BOUND = math.sqrt(2 * CUBE_HALF**2 + HALF_HEIGHT**2)  # every object fits in a ball of this radius
FAR = 1e30
CURVE = to_bytes(np.arange(CURVE_STEPS + 1) / CURVE_STEPS)


def render(scene: Scene, motion: Motion, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Frames (T, H, W, 3) and class ids of each pixel's middle (T, H, W), both uint8."""
    frames, count = len(motion.positions), len(scene.shapes)
    floor, empty = _floor(height, width)
    images = np.broadcast_to(empty, (frames, *empty.shape)).copy()
    masks = np.zeros((frames, height, width), np.uint8)
    tints = TINTS[scene.materials, scene.colors]
    for frame in range(frames):
        rotations = motion.rotations[frame].reshape(count, 9)
        objects = np.column_stack([scene.shapes, motion.positions[frame], rotations, scene.materials, tints])
        _draw(objects, scene.classes, floor, LIGHTS, CURVE, images[frame], masks[frame])
    return images, masks


@lru_cache(maxsize=4)
def _floor(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """The empty scene: light and floor position (x, y) of each pixel (H, W, 5), and its bytes (H, W, 3)."""
    light = floor_light(height, width)
    v, u = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    points = np.array([[floor_point(x, y) for x in u] for y in v])
    return np.concatenate([light, points], axis=-1), to_bytes(light)


# --- Vectors; objects are rows of: shape, middle (3), rotation (9, object to world), material, tint (3) ----------


@njit(cache=True)
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True)
def _add(a, b, scale):
    return (a[0] + scale * b[0], a[1] + scale * b[1], a[2] + scale * b[2])


@njit(cache=True)
def _unit(a):
    scale = 1 / math.sqrt(_dot(a, a))
    return (a[0] * scale, a[1] * scale, a[2] * scale)


@njit(cache=True)
def _row(array: Array, i: int) -> Vector:
    return (array[i, 0], array[i, 1], array[i, 2])


@njit(cache=True)
def _into(objects, i, a):
    """From world to object axes."""
    return (
        objects[i, TURN] * a[0] + objects[i, TURN + 3] * a[1] + objects[i, TURN + 6] * a[2],
        objects[i, TURN + 1] * a[0] + objects[i, TURN + 4] * a[1] + objects[i, TURN + 7] * a[2],
        objects[i, TURN + 2] * a[0] + objects[i, TURN + 5] * a[1] + objects[i, TURN + 8] * a[2],
    )


@njit(cache=True)
def _out_of(objects, i, a):
    """From object to world axes."""
    return (
        objects[i, TURN] * a[0] + objects[i, TURN + 1] * a[1] + objects[i, TURN + 2] * a[2],
        objects[i, TURN + 3] * a[0] + objects[i, TURN + 4] * a[1] + objects[i, TURN + 5] * a[2],
        objects[i, TURN + 6] * a[0] + objects[i, TURN + 7] * a[1] + objects[i, TURN + 8] * a[2],
    )


@njit(cache=True)
def _slab(origin, direction, half, enter, leave):
    """Narrow the ray's stay [enter, leave] to |coordinate| <= half."""
    if abs(direction) < 1e-12:
        return (enter, leave) if abs(origin) <= half else (FAR, -FAR)
    near, far = (-half - origin) / direction, (half - origin) / direction
    if near > far:
        near, far = far, near
    return max(enter, near), min(leave, far)


@njit(cache=True)
def _distance(objects: Array, i: int, origin: Vector, ray: Vector) -> float:
    """Distance along a unit ray to object i from outside; FAR if it misses."""
    to_middle = _add(_row(objects, i), origin, -1.0)
    along = _dot(to_middle, ray)
    off = _dot(to_middle, to_middle) - along * along  # squared distance of the ray from the middle
    shape, half, bound = objects[i, SHAPE], objects[i, HALF], objects[i, BOUND]
    if off > bound * bound or along < -bound:
        return FAR
    if shape == SPHERE:
        t = along - math.sqrt(half * half - off)
        return t if t > NEAR else FAR
    o, d = _into(objects, i, to_middle), _into(objects, i, ray)
    enter, leave = _slab(-o[2], d[2], objects[i, HALF_UP], -FAR, FAR)
    if shape == CUBE:
        enter, leave = _slab(-o[0], d[0], half, enter, leave)
        enter, leave = _slab(-o[1], d[1], half, enter, leave)
        return enter if NEAR < enter <= leave else FAR
    a = d[0] * d[0] + d[1] * d[1]
    b = o[0] * d[0] + o[1] * d[1]
    c = o[0] * o[0] + o[1] * o[1] - half * half
    if a > 1e-12:
        root = b * b - a * c
        if root < 0:
            return FAR
        enter, leave = max(enter, (b - math.sqrt(root)) / a), min(leave, (b + math.sqrt(root)) / a)
    elif c > 0:
        return FAR
    return enter if NEAR < enter <= leave else FAR


@njit(cache=True)
def _bend(part):
    """How far the normal leans over an edge, from how far out (0..1) a point lies on a face."""
    over = (abs(part) - BEVEL) / (1 - BEVEL) * BEVEL_BEND
    return math.copysign(over, part) if over > 0 else 0.0


@njit(cache=True)
def _normal(objects, i, point):
    """Shading normal of object i at a point of its surface."""
    local = _add(point, _row(objects, i), -1.0)
    if objects[i, SHAPE] == SPHERE:
        return _unit(local)
    local = _into(objects, i, local)
    up = local[2] / objects[i, HALF_UP]
    if objects[i, SHAPE] == CUBE:
        x, y = local[0] / objects[i, HALF], local[1] / objects[i, HALF]
        if abs(up) >= max(abs(x), abs(y)):
            n = (_bend(x), _bend(y), math.copysign(1.0, up))
        elif abs(x) >= abs(y):
            n = (math.copysign(1.0, x), _bend(y), _bend(up))
        else:
            n = (_bend(x), math.copysign(1.0, y), _bend(up))
    else:
        x, y = local[0] / objects[i, HALF], local[1] / objects[i, HALF]
        out = math.sqrt(x * x + y * y)
        if abs(up) >= out:
            lean = _bend(out) / max(out, 1e-9)
            n = (x * lean, y * lean, math.copysign(1.0, up))
        else:
            n = (x / out, y / out, _bend(up))
    return _unit(_out_of(objects, i, n))


@njit(cache=True)
def _nearest(objects, origin, ray):
    """Distance to and index of the first object on a ray; index -1 if none."""
    best, who = FAR, -1
    for i in range(len(objects)):
        t = _distance(objects, i, origin, ray)
        if t < best:
            best, who = t, i
    return best, who


@njit(cache=True)
def _seen(objects, candidates, point, light, samples):
    """Part of a square, level lamp that is seen from a point past the candidate objects (bits)."""
    half = light[3]
    to_light = (light[0] - point[0], light[1] - point[1], light[2] - point[2])
    distance = math.sqrt(_dot(to_light, to_light))
    axis = _unit(to_light)
    near = 0
    for i in range(len(objects)):
        if (candidates >> i) & 1:
            to_middle = _add(_row(objects, i), point, -1.0)
            along = _dot(to_middle, axis)
            reach = BOUND + math.sqrt(2.0) * half * max(along, 0.0) / distance
            if along > -BOUND and _dot(to_middle, to_middle) - along * along < reach * reach:
                near |= 1 << i
    if near == 0:
        return 1.0
    clear = 0
    for a in range(samples):
        for b in range(samples):
            x = ((a + 0.5) / samples * 2 - 1) * half
            y = ((b + 0.5) / samples * 2 - 1) * half
            ray = _unit((to_light[0] + x, to_light[1] + y, to_light[2]))
            blocked = False
            for i in range(len(objects)):
                if (near >> i) & 1 and _distance(objects, i, point, ray) < FAR:
                    blocked = True
                    break
            if not blocked:
                clear += 1
    return clear / (samples * samples)


@njit(cache=True)
def _floor_shade(objects, lights, shaders, point, samples):
    """Part of the empty floor's light that is left at a floor point.

    `shaders` holds the bits of the objects that may stand in the way of each lamp, then those near enough to touch.
    """
    left = 1.0
    for k in range(len(lights)):
        if shaders[k]:
            left -= lights[k, 4] * (1 - _seen(objects, shaders[k], point, lights[k], samples))
    for i in range(len(objects)):
        if (shaders[len(lights)] >> i) & 1:
            x, y = objects[i, 0] - point[0], objects[i, 1] - point[1]
            near = 4 * (x * x + y * y) / (TOUCH * TOUCH)
            if near < 4:
                left *= 1 - CONTACT_SHADE * math.exp(-1.2 * near)
    return left


@njit(cache=True)
def _pixel(camera: Array, point: Vector, width: int, height: int) -> tuple[float, float]:
    """Column and row (real-valued, pixels) of a world point; the depth is kept off zero."""
    away = _add(point, _row(camera, EYE), -1.0)
    scale = camera[FOCAL, 0] * width / max(_dot(_row(camera, FORWARD), away), 0.05)
    column = 0.5 * width + scale * _dot(_row(camera, RIGHT), away)
    return column, 0.5 * height - scale * _dot(_row(camera, UP), away)


@njit(cache=True)
def _ray(camera: Array, x: float, y: float, width: int, height: int) -> Vector:
    """Unit ray of the camera through a point of the picture, in pixels."""
    scale = 1 / (camera[FOCAL, 0] * width)
    ray = _add(_row(camera, FORWARD), _row(camera, RIGHT), (x - 0.5 * width) * scale)
    return _unit(_add(ray, _row(camera, UP), (0.5 * height - y) * scale))


# --- Light ---------------------------------------------------------------------------------------------------


@njit(cache=True)
def _matte(objects, lights, everything, i, point, normal, ray):
    """Light from rubber: diffuse and a broad gloss."""
    diffuse, gloss = AMBIENT + AMBIENT_UP * normal[2], 0.0
    start = _add(point, normal, 1e-4)
    for k in range(len(lights)):
        to_light = _unit((lights[k, 0] - point[0], lights[k, 1] - point[1], lights[k, 2] - point[2]))
        facing = _dot(to_light, normal)
        if facing > 0:
            # a convex object never shades its own lit side
            others = everything[k] & ~(1 << i)
            got = lights[k, 5] * _seen(objects, others, start, lights[k], OBJECT_SHADOW_SAMPLES)
            diffuse += got * facing
            middle = _unit(_add(to_light, ray, -1.0))
            gloss += GLOSS * got * max(_dot(middle, normal), 0.0) ** GLOSS_POWER
    return (
        objects[i, TINT] * diffuse + gloss,
        objects[i, TINT + 1] * diffuse + gloss,
        objects[i, TINT + 2] * diffuse + gloss,
    )


@njit(cache=True)
def _sky(ray, point, lights):
    """Light from above the horizon: dark, with the lamps as soft spots."""
    light = SKY
    for k in range(len(lights)):
        to_light = _unit((lights[k, 0] - point[0], lights[k, 1] - point[1], lights[k, 2] - point[2]))
        light += lights[k, 6] * max(_dot(ray, to_light), 0.0) ** lights[k, 7]
    return (light, light, light)


@njit(cache=True)
def _metal(objects, lights, everything, floor, i, point, normal, ray):
    """Light from metal: the mirrored floor, objects and lamps, tinted."""
    height, width = floor.shape[0], floor.shape[1]
    mirrored = _add(ray, normal, -2 * _dot(ray, normal))
    start = _add(point, normal, 1e-4)
    t, who = _nearest(objects, start, mirrored)
    on_floor = -start[2] / mirrored[2] if mirrored[2] < -1e-6 else FAR
    if t < on_floor:
        hit = _add(start, mirrored, t)
        seen = _matte(objects, lights, everything, who, hit, _normal(objects, who, hit), mirrored)
    elif on_floor < FAR:
        hit = _add(start, mirrored, on_floor)
        column, row = _pixel(hit, width, height)  # outside the picture the floor looks like at its nearest edge
        x, y = int(min(max(column, 0.0), width - 1.0)), int(min(max(row, 0.0), height - 1.0))
        shade = _floor_shade(objects, lights, everything, hit, OBJECT_SHADOW_SAMPLES)
        seen = (floor[y, x, 0] * shade, floor[y, x, 1] * shade, floor[y, x, 2] * shade)
    else:
        seen = _sky(mirrored, point, lights)
    return (seen[0] * objects[i, TINT], seen[1] * objects[i, TINT + 1], seen[2] * objects[i, TINT + 2])


@njit(cache=True)
def _light(objects, lights, shaders, everything, floor, px, py):
    """Light at a point of the picture, in pixels."""
    height, width = floor.shape[0], floor.shape[1]
    eye = (EYE[0], EYE[1], EYE[2])
    ray = _ray(px, py, width, height)
    t, i = _nearest(objects, eye, ray)
    if i < 0:
        y, x = int(py), int(px)
        point = _add(eye, ray, -eye[2] / ray[2])
        shade = _floor_shade(objects, lights, shaders, point, OBJECT_SHADOW_SAMPLES)
        return (floor[y, x, 0] * shade, floor[y, x, 1] * shade, floor[y, x, 2] * shade)
    point = _add(eye, ray, t)
    normal = _normal(objects, i, point)
    if objects[i, MATERIAL] == METAL:
        return _metal(objects, lights, everything, floor, i, point, normal, ray)
    return _matte(objects, lights, everything, i, point, normal, ray)


# --- The picture ---------------------------------------------------------------------------------------------


@njit(cache=True)
def _box_of_ball(middle, width, height):
    """Pixels (left, right, top, bottom) that hold an object's bounding ball, clipped to the picture."""
    away = (middle[0] - EYE[0], middle[1] - EYE[1], middle[2] - EYE[2])
    forward = BASIS[2, 0] * away[0] + BASIS[2, 1] * away[1] + BASIS[2, 2] * away[2]
    if forward < 2 * BOUND:
        return 0, width if forward > -BOUND else 0, 0, height
    x, y = _pixel(middle, width, height)
    reach = 1.25 * BOUND / (forward - BOUND) * FOCAL * width + 2
    return (
        min(max(int(x - reach), 0), width),
        min(max(int(x + reach) + 1, 0), width),
        min(max(int(y - reach), 0), height),
        min(max(int(y + reach) + 1, 0), height),
    )


@njit(cache=True)
def _cover(objects, width, height):
    """Which object each pixel's middle shows: (H, W), -1 for the floor."""
    who = np.full((height, width), -1, np.int64)
    depth = np.full((height, width), FAR)
    eye = (EYE[0], EYE[1], EYE[2])
    for i in range(len(objects)):
        left, right, top, bottom = _box_of_ball(_row(objects, i), width, height)
        for y in range(top, bottom):
            for x in range(left, right):
                t = _distance(objects, i, eye, _ray(x + 0.5, y + 0.5, width, height))
                if t < depth[y, x]:
                    depth[y, x] = t
                    who[y, x] = i
    return who


@njit(cache=True)
def _shadow_corner(objects, i, light, corner):
    """Where a corner of the lamp throws a corner of a box around object i: floor (x, y); `corner` is 0..31."""
    x = objects[i, 0] + ((corner & 1) * 2 - 1) * BOUND
    y = objects[i, 1] + ((corner & 2) - 1) * BOUND
    z = ((corner & 4) / 4) * min(objects[i, 2] + BOUND, light[2] - 0.5)
    lamp_x = light[0] + ((corner & 8) / 4 - 1) * light[3]
    lamp_y = light[1] + ((corner & 16) / 8 - 1) * light[3]
    grow = light[2] / (light[2] - z)
    return lamp_x + (x - lamp_x) * grow, lamp_y + (y - lamp_y) * grow


@njit(cache=True)
def _shaders(objects, lights, width, height):
    """Bits of the objects that may darken the floor at each pixel: (H, W, lamps + 1), the last for contact.

    The corners of a box around an object, seen from the corners of a lamp, span its shadow on the floor; so do
    their images, because a perspective keeps convex hulls.
    """
    bits = np.zeros((height, width, len(lights) + 1), np.int64)
    for i in range(len(objects)):
        for k in range(len(lights) + 1):
            left, right, top, bottom = float(width), 0.0, float(height), 0.0
            for corner in range(32):
                if k < len(lights):
                    x, y = _shadow_corner(objects, i, lights[k], corner)
                else:
                    x = objects[i, 0] + ((corner & 1) * 2 - 1) * TOUCH
                    y = objects[i, 1] + ((corner & 2) - 1) * TOUCH
                column, row = _pixel((x, y, 0.0), width, height)
                left, right = min(left, column), max(right, column)
                top, bottom = min(top, row), max(bottom, row)
            for row in range(max(int(top), 0), min(int(bottom) + 1, height)):
                for column in range(max(int(left), 0), min(int(right) + 1, width)):
                    bits[row, column, k] |= 1 << i
    return bits


@njit(cache=True)
def _borders(who, x, y):
    """Whether a pixel shows an object or lies beside one."""
    height, width = who.shape
    for row in range(max(y - 1, 0), min(y + 2, height)):
        for column in range(max(x - 1, 0), min(x + 2, width)):
            if who[row, column] >= 0:
                return True
    return False


@njit(cache=True)
def _shaded(shaders, x, y):
    """Whether any object may darken the floor at a pixel (np.any would allocate)."""
    bits = 0
    for k in range(shaders.shape[2]):
        bits |= shaders[y, x, k]
    return bits != 0


@njit(cache=True)
def _put(image, curve, y, x, light):
    for c in range(3):
        image[y, x, c] = curve[int(min(max(light[c], 0.0), 1.0) * CURVE_STEPS + 0.5)]


@njit(cache=True)
def _draw(objects, classes, floor, lights, curve, image, mask):
    """Draw one frame over the empty floor that `image` holds; fill `mask`."""
    height, width = mask.shape
    who = _cover(objects, width, height)
    shaders = _shaders(objects, lights, width, height)
    everything = np.full(len(lights) + 1, (1 << len(objects)) - 1)
    for y in range(height):
        for x in range(width):
            if who[y, x] >= 0:
                mask[y, x] = classes[who[y, x]]
            if _borders(who, x, y):
                light = (0.0, 0.0, 0.0)
                for sample in range(SAMPLES * SAMPLES):
                    px = x + (sample % SAMPLES + 0.5) / SAMPLES
                    py = y + (sample // SAMPLES + 0.5) / SAMPLES
                    one = _light(objects, lights, shaders[y, x], everything, floor, px, py)
                    one = (min(one[0], 1.0), min(one[1], 1.0), min(one[2], 1.0))
                    light = _add(light, one, 1 / SAMPLES**2)
                _put(image, curve, y, x, light)
            elif _shaded(shaders, x, y):
                point = (floor[y, x, 3], floor[y, x, 4], 0.0)
                shade = _floor_shade(objects, lights, shaders[y, x], point, SHADOW_SAMPLES)
                if shade < 1:
                    light = (floor[y, x, 0] * shade, floor[y, x, 1] * shade, floor[y, x, 2] * shade)
                    _put(image, curve, y, x, light)
