"""Analytic ray-caster: frames and exact masks of a `Motion`, compiled by numba.

The empty floor is computed once per size; a frame copies it and visits only pixels that an object covers or
may shade. No `fastmath`: equal inputs must give equal bytes.

All compiled functions are in this file and get values of other files as arguments, because numba's cache on
disk does not notice a change in another file.

Shapes: T frames, n objects, H rows, W columns. A vector is a tuple (x, y, z). An object is a row of numbers,
the camera a table of five rows; the constants below name their columns and rows.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vdp.data.simulator.appearance import LAMPS, TINTS, floor_light, to_bytes
from vdp.data.simulator.camera import BASIS, EYE_POINT, FOCAL_LENGTH, floor_point
from vdp.data.simulator.physics import HALF_HEIGHTS, HALF_WIDTHS, Motion
from vdp.data.simulator.scene import Scene

Vector = tuple[float, float, float]
Array = NDArray[np.float64]
Bits = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Interval = tuple[float, float]
Box = tuple[int, int, int, int]

SAMPLES = 2  # rays along each side of a pixel of an object or next to one
FLOOR_SAMPLES, OBJECT_SAMPLES = 4, 2  # rays along each side of a lamp, from the floor and from objects
BEVEL, BEVEL_LEAN = 0.87, 1.0  # flat share of a face, and the normal's lean at its edge; outlines stay sharp
AMBIENT, AMBIENT_UP = 0.50, 0.08  # light on all rubber, and additional light on faces that point up
GLOSS, GLOSS_POWER = 0.02, 14  # of rubber
SKY = 0.04  # light that metal reflects from above the horizon, away from the lamps
CONTACT_SHADE, CONTACT_REACH = 0.45, 0.52  # floor light lost beside an object; its reach, world units
CURVE_STEPS = 16384  # of the table from light to bytes
NEAR, FAR = 1e-5, 1e30

CUBE, SPHERE, METAL = 0, 1, 0  # indices in vdp.core.classes
# columns of an object
POSITION, SHAPE, ROTATION, MATERIAL, TINT, HALF_WIDTH, HALF_HEIGHT, BOUND_RADIUS = 0, 3, 4, 13, 14, 17, 18, 19
RIGHT, UP, FORWARD, EYE, FOCAL = 0, 1, 2, 3, 4  # rows of the camera
LAMP_X, LAMP_HALF, LAMP_FLOOR, LAMP_RUBBER, LAMP_GLOW, LAMP_POWER = 0, 3, 4, 5, 6, 7  # columns of a lamp


def render(scene: Scene, motion: Motion, height: int, width: int) -> tuple[Bytes, Bytes]:
    """Render a video: frames (T, H, W, 3) and class ids at pixel centres (T, H, W), uint8; W is 3/2 H."""
    floor, empty = _empty_scene(height, width)
    images = np.repeat(empty[None], len(motion.positions), axis=0)
    masks = np.zeros(images.shape[:3], np.uint8)
    camera, curve = _camera(), to_bytes(np.arange(CURVE_STEPS + 1) / CURVE_STEPS)
    for frame, objects in enumerate(_object_tables(scene, motion)):
        _draw_frame(objects, scene.classes, camera, LAMPS, floor, curve, images[frame], masks[frame])
    return images, masks


def object_labels(scene: Scene, motion: Motion, height: int, width: int) -> Bytes:
    """Number of the object at each pixel's centre, (T, H, W) uint8, 1..n; 0 is the floor. No shading."""
    camera = _camera()
    tables = _object_tables(scene, motion)
    return np.stack([_visible_ids(objects, camera, width, height) + 1 for objects in tables]).astype(np.uint8)


def _camera() -> Array:
    return np.array([*BASIS, EYE_POINT, [FOCAL_LENGTH, 0, 0]])


def _object_tables(scene: Scene, motion: Motion) -> Iterator[Array]:
    """The table of the objects in each frame, (n, columns)."""
    half_widths, half_heights = HALF_WIDTHS[scene.shapes], HALF_HEIGHTS[scene.shapes]
    across = np.where(scene.shapes == CUBE, np.sqrt(2.0), 1.0) * half_widths
    bounds = np.where(scene.shapes == SPHERE, half_widths, np.hypot(across, half_heights))
    look = np.column_stack(
        [scene.materials, TINTS[scene.materials, scene.colors], half_widths, half_heights, bounds]
    )
    for positions, rotations in zip(motion.positions, motion.rotations, strict=True):
        yield np.column_stack([positions, scene.shapes, rotations.reshape(-1, 9), look])


@lru_cache(maxsize=4)
def _empty_scene(height: int, width: int) -> tuple[Array, Bytes]:
    """Light and floor position (x, y) of each pixel (H, W, 5), and the sRGB bytes (H, W, 3)."""
    light = floor_light(height, width)
    v, u = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    points = np.array([[floor_point(x, y) for x in u] for y in v])
    return np.concatenate([light, points], axis=-1), to_bytes(light)


@njit(cache=True)
def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True)
def _add(a: Vector, b: Vector, scale: float) -> Vector:
    return (a[0] + scale * b[0], a[1] + scale * b[1], a[2] + scale * b[2])


@njit(cache=True)
def _normalise(a: Vector) -> Vector:
    scale = 1 / math.sqrt(_dot(a, a))
    return (a[0] * scale, a[1] * scale, a[2] * scale)


@njit(cache=True)
def _vector(table: Array, row: int, column: int) -> Vector:
    return (table[row, column], table[row, column + 1], table[row, column + 2])


@njit(cache=True)
def _to_object(objects: Array, i: int, a: Vector) -> Vector:
    """Rotate a vector from world axes to those of object i."""
    b = _vector(objects, i, ROTATION)
    c = _vector(objects, i, ROTATION + 3)
    d = _vector(objects, i, ROTATION + 6)
    return (
        b[0] * a[0] + c[0] * a[1] + d[0] * a[2],
        b[1] * a[0] + c[1] * a[1] + d[1] * a[2],
        b[2] * a[0] + c[2] * a[1] + d[2] * a[2],
    )


@njit(cache=True)
def _to_world(objects: Array, i: int, a: Vector) -> Vector:
    """Rotate a vector from the axes of object i to those of the world."""
    return (
        _dot(_vector(objects, i, ROTATION), a),
        _dot(_vector(objects, i, ROTATION + 3), a),
        _dot(_vector(objects, i, ROTATION + 6), a),
    )


@njit(cache=True)
def _camera_ray(camera: Array, x: float, y: float, width: int, height: int) -> Vector:
    """Unit ray of the camera through an image point in pixels."""
    scale = 1 / (camera[FOCAL, 0] * width)
    ray = _add(_vector(camera, FORWARD, 0), _vector(camera, RIGHT, 0), (x - 0.5 * width) * scale)
    return _normalise(_add(ray, _vector(camera, UP, 0), (0.5 * height - y) * scale))


@njit(cache=True)
def _project(camera: Array, point: Vector, width: int, height: int) -> tuple[float, float]:
    """Column and row (real-valued) of a world point; the depth is at least 0.05."""
    away = _add(point, _vector(camera, EYE, 0), -1.0)
    scale = camera[FOCAL, 0] * width / max(_dot(_vector(camera, FORWARD, 0), away), 0.05)
    column = 0.5 * width + scale * _dot(_vector(camera, RIGHT, 0), away)
    return column, 0.5 * height - scale * _dot(_vector(camera, UP, 0), away)


@njit(cache=True)
def _clip_slab(origin: float, direction: float, half: float, enter: float, leave: float) -> Interval:
    """Clip the interval [enter, leave] of a ray to |coordinate| <= half."""
    if abs(direction) < 1e-12:
        return (enter, leave) if abs(origin) <= half else (FAR, -FAR)
    near, far = (-half - origin) / direction, (half - origin) / direction
    if near > far:
        near, far = far, near
    return max(enter, near), min(leave, far)


@njit(cache=True)
def _clip_tube(origin: Vector, ray: Vector, half: float, enter: float, leave: float) -> Interval:
    """Clip the interval [enter, leave] of a ray to x^2 + y^2 <= half^2."""
    a = ray[0] * ray[0] + ray[1] * ray[1]
    b = origin[0] * ray[0] + origin[1] * ray[1]
    c = origin[0] * origin[0] + origin[1] * origin[1] - half * half
    if a < 1e-12:
        return (enter, leave) if c <= 0 else (FAR, -FAR)
    root = b * b - a * c
    if root < 0:
        return FAR, -FAR
    root = math.sqrt(root)
    return max(enter, (-b - root) / a), min(leave, (-b + root) / a)


@njit(cache=True)
def _distance(objects: Array, i: int, origin: Vector, ray: Vector) -> float:
    """Distance along a unit ray to object i from outside it; FAR if it misses."""
    to_centre = _add(_vector(objects, i, POSITION), origin, -1.0)
    along = _dot(to_centre, ray)
    off = _dot(to_centre, to_centre) - along * along  # squared distance of the ray from the centre
    half, bound = objects[i, HALF_WIDTH], objects[i, BOUND_RADIUS]
    if off > bound * bound or along < -bound:
        return FAR
    if objects[i, SHAPE] == SPHERE:
        t = along - math.sqrt(half * half - off)
        return t if t > NEAR else FAR
    start = _to_object(objects, i, _add((0.0, 0.0, 0.0), to_centre, -1.0))
    heading = _to_object(objects, i, ray)
    enter, leave = _clip_slab(start[2], heading[2], objects[i, HALF_HEIGHT], -FAR, FAR)
    if objects[i, SHAPE] == CUBE:
        enter, leave = _clip_slab(start[0], heading[0], half, enter, leave)
        enter, leave = _clip_slab(start[1], heading[1], half, enter, leave)
    else:
        enter, leave = _clip_tube(start, heading, half, enter, leave)
    return enter if NEAR < enter <= leave else FAR


@njit(cache=True)
def _nearest(objects: Array, origin: Vector, ray: Vector) -> tuple[float, int]:
    """Distance to and index of the first object on a ray; FAR and -1 if none."""
    best, index = FAR, -1
    for i in range(len(objects)):
        t = _distance(objects, i, origin, ray)
        if t < best:
            best, index = t, i
    return best, index


@njit(cache=True)
def _edge_lean(part: float) -> float:
    """Lean of the normal over an edge, from the position (-1..1) of a point on its face."""
    over = (abs(part) - BEVEL) / (1 - BEVEL) * BEVEL_LEAN
    return math.copysign(over, part) if over > 0 else 0.0


@njit(cache=True)
def _normal(objects: Array, i: int, point: Vector) -> Vector:
    """Shading normal of object i at a point of its surface, rounded at the edges."""
    local = _add(point, _vector(objects, i, POSITION), -1.0)
    if objects[i, SHAPE] == SPHERE:
        return _normalise(local)
    local = _to_object(objects, i, local)
    x, y = local[0] / objects[i, HALF_WIDTH], local[1] / objects[i, HALF_WIDTH]
    up = local[2] / objects[i, HALF_HEIGHT]
    if objects[i, SHAPE] == CUBE:
        if abs(up) >= max(abs(x), abs(y)):
            normal = (_edge_lean(x), _edge_lean(y), math.copysign(1.0, up))
        elif abs(x) >= abs(y):
            normal = (math.copysign(1.0, x), _edge_lean(y), _edge_lean(up))
        else:
            normal = (_edge_lean(x), math.copysign(1.0, y), _edge_lean(up))
    else:
        out = max(math.sqrt(x * x + y * y), 1e-9)
        if abs(up) >= out:
            normal = (x / out * _edge_lean(out), y / out * _edge_lean(out), math.copysign(1.0, up))
        else:
            normal = (x / out, y / out, _edge_lean(up))
    return _normalise(_to_world(objects, i, normal))


@njit(cache=True)
def _lamp_share(objects: Array, candidates: int, lamps: Array, k: int, point: Vector, samples: int) -> float:
    """Share of lamp k, a horizontal square, visible from a point past the candidate objects (bits)."""
    to_lamp = _add(_vector(lamps, k, LAMP_X), point, -1.0)
    half, distance, axis = lamps[k, LAMP_HALF], math.sqrt(_dot(to_lamp, to_lamp)), _normalise(to_lamp)
    blockers = 0
    for i in range(len(objects)):
        if (candidates >> i) & 1:
            to_centre = _add(_vector(objects, i, POSITION), point, -1.0)
            along, bound = _dot(to_centre, axis), objects[i, BOUND_RADIUS]
            reach = bound + math.sqrt(2.0) * half * max(along, 0.0) / distance
            if along > -bound and _dot(to_centre, to_centre) - along * along < reach * reach:
                blockers |= 1 << i
    if blockers == 0:
        return 1.0
    blocked = 0
    for sample in range(samples * samples):
        x = ((sample % samples + 0.5) / samples * 2 - 1) * half
        y = ((sample // samples + 0.5) / samples * 2 - 1) * half
        ray = _normalise((to_lamp[0] + x, to_lamp[1] + y, to_lamp[2]))
        for i in range(len(objects)):
            if (blockers >> i) & 1 and _distance(objects, i, point, ray) < FAR:
                blocked += 1
                break
    return 1 - blocked / (samples * samples)


@njit(cache=True)
def _floor_share(objects: Array, shadows: Bits, lamps: Array, point: Vector, samples: int) -> float:
    """Share of the empty floor's light at a floor point; `shadows` is one pixel of `_shadow_bits`."""
    lit = 1.0
    for k in range(len(lamps)):
        if shadows[k]:
            lit -= lamps[k, LAMP_FLOOR] * (1 - _lamp_share(objects, shadows[k], lamps, k, point, samples))
    for i in range(len(objects)):
        if (shadows[len(lamps)] >> i) & 1:
            x, y = objects[i, POSITION] - point[0], objects[i, POSITION + 1] - point[1]
            out = (x * x + y * y) / CONTACT_REACH**2
            if out < 1:
                lit *= 1 - CONTACT_SHADE * math.exp(-4.8 * out)
    return lit


@njit(cache=True)
def _shade_rubber(
    objects: Array, shadows: Bits, lamps: Array, i: int, point: Vector, normal: Vector, ray: Vector
) -> Vector:
    """Light from a rubber object: diffuse, with a broad gloss."""
    diffuse, gloss = AMBIENT + AMBIENT_UP * normal[2], 0.0
    start = _add(point, normal, 1e-4)
    for k in range(len(lamps)):
        to_lamp = _normalise(_add(_vector(lamps, k, LAMP_X), point, -1.0))
        facing = _dot(to_lamp, normal)
        if facing > 0:
            others = shadows[k] & ~(1 << i)  # a convex object never shades its lit side
            share = _lamp_share(objects, others, lamps, k, start, OBJECT_SAMPLES)
            strength = lamps[k, LAMP_RUBBER] * share
            diffuse += strength * facing
            mirror = max(_dot(_normalise(_add(to_lamp, ray, -1.0)), normal), 0.0)
            gloss += GLOSS * strength * mirror**GLOSS_POWER
    return _add((gloss, gloss, gloss), _vector(objects, i, TINT), diffuse)


@njit(cache=True)
def _sky_light(lamps: Array, point: Vector, ray: Vector) -> Vector:
    """Light from above the horizon: dark, with soft spots at the lamps."""
    light = SKY
    for k in range(len(lamps)):
        toward = _dot(ray, _normalise(_add(_vector(lamps, k, LAMP_X), point, -1.0)))
        light += lamps[k, LAMP_GLOW] * max(toward, 0.0) ** lamps[k, LAMP_POWER]
    return (light, light, light)


@njit(cache=True)
def _shade_metal(
    objects: Array,
    shadows: Bits,
    camera: Array,
    lamps: Array,
    floor: Array,
    i: int,
    point: Vector,
    normal: Vector,
    ray: Vector,
) -> Vector:
    """Light from a metal object: the tinted reflection of floor, lamps and other objects."""
    height, width = floor.shape[0], floor.shape[1]
    mirrored = _add(ray, normal, -2 * _dot(ray, normal))
    start = _add(point, normal, 1e-4)
    to_floor = -start[2] / mirrored[2] if mirrored[2] < -1e-6 else FAR
    t, other = _nearest(objects, start, mirrored)
    if t < to_floor:
        hit = _add(start, mirrored, t)
        reflected = _shade_rubber(objects, shadows, lamps, other, hit, _normal(objects, other, hit), mirrored)
    elif to_floor < FAR:
        hit = _add(start, mirrored, to_floor)
        column, row = _project(camera, hit, width, height)  # outside the image: the nearest edge
        x, y = int(min(max(column, 0.0), width - 1.0)), int(min(max(row, 0.0), height - 1.0))
        lit = _floor_share(objects, shadows, lamps, hit, OBJECT_SAMPLES)
        reflected = (floor[y, x, 0] * lit, floor[y, x, 1] * lit, floor[y, x, 2] * lit)
    else:
        reflected = _sky_light(lamps, point, mirrored)
    tint = _vector(objects, i, TINT)
    return (reflected[0] * tint[0], reflected[1] * tint[1], reflected[2] * tint[2])


@njit(cache=True)
def _trace(
    objects: Array,
    shadows: Bits,
    every: Bits,
    camera: Array,
    lamps: Array,
    floor: Array,
    x: float,
    y: float,
) -> Vector:
    """Light at an image point in pixels; `shadows` is of that pixel, `every` has all bits set."""
    height, width = floor.shape[0], floor.shape[1]
    eye, ray = _vector(camera, EYE, 0), _camera_ray(camera, x, y, width, height)
    t, i = _nearest(objects, eye, ray)
    if i < 0:
        point = _add(eye, ray, -eye[2] / ray[2])
        lit = _floor_share(objects, shadows, lamps, point, OBJECT_SAMPLES)
        row, column = int(y), int(x)
        return (floor[row, column, 0] * lit, floor[row, column, 1] * lit, floor[row, column, 2] * lit)
    point = _add(eye, ray, t)
    normal = _normal(objects, i, point)
    if objects[i, MATERIAL] == METAL:
        return _shade_metal(objects, every, camera, lamps, floor, i, point, normal, ray)
    return _shade_rubber(objects, every, lamps, i, point, normal, ray)


@njit(cache=True)
def _image_box(camera: Array, centre: Vector, bound: float, width: int, height: int) -> Box:
    """Bounding box (left, right, top, bottom) of a ball in pixels, clipped to the image."""
    depth = _dot(_vector(camera, FORWARD, 0), _add(centre, _vector(camera, EYE, 0), -1.0))
    if depth < 2 * bound:  # beside or behind the camera
        return 0, width if depth > -bound else 0, 0, height
    x, y = _project(camera, centre, width, height)
    reach = 1.25 * bound / (depth - bound) * camera[FOCAL, 0] * width + 2
    return (
        min(max(int(x - reach), 0), width),
        min(max(int(x + reach) + 1, 0), width),
        min(max(int(y - reach), 0), height),
        min(max(int(y + reach) + 1, 0), height),
    )


@njit(cache=True)
def _visible_ids(objects: Array, camera: Array, width: int, height: int) -> Bits:
    """Index of the object at each pixel's centre, (H, W), -1 for the floor."""
    ids, depth = np.full((height, width), -1, np.int64), np.full((height, width), FAR)
    eye = _vector(camera, EYE, 0)
    for i in range(len(objects)):
        centre, bound = _vector(objects, i, POSITION), objects[i, BOUND_RADIUS]
        left, right, top, bottom = _image_box(camera, centre, bound, width, height)
        for y in range(top, bottom):
            for x in range(left, right):
                t = _distance(objects, i, eye, _camera_ray(camera, x + 0.5, y + 0.5, width, height))
                if t < depth[y, x]:
                    depth[y, x], ids[y, x] = t, i
    return ids


@njit(cache=True)
def _shadow_corner(objects: Array, i: int, lamps: Array, k: int, corner: int) -> Vector:
    """Shadow on the floor of a corner of object i's box from a corner of lamp k; `corner` is 0..31."""
    bound, top = objects[i, BOUND_RADIUS], lamps[k, LAMP_X + 2]
    x = objects[i, POSITION] + ((corner & 1) * 2 - 1) * bound
    y = objects[i, POSITION + 1] + ((corner & 2) - 1) * bound
    z = (corner & 4) / 4 * min(objects[i, POSITION + 2] + bound, top - 0.5)
    lamp_x = lamps[k, LAMP_X] + ((corner & 8) / 4 - 1) * lamps[k, LAMP_HALF]
    lamp_y = lamps[k, LAMP_X + 1] + ((corner & 16) / 8 - 1) * lamps[k, LAMP_HALF]
    grow = top / (top - z)
    return (lamp_x + (x - lamp_x) * grow, lamp_y + (y - lamp_y) * grow, 0.0)


@njit(cache=True)
def _shadow_bits(objects: Array, camera: Array, lamps: Array, width: int, height: int) -> Bits:
    """Bits of the objects that may darken the floor at each pixel: (H, W, lamps + 1), the last by contact.

    The corners of an object's box, projected from the corners of a lamp, span its shadow on the floor; their
    images span its image, because a perspective preserves convex hulls.
    """
    bits = np.zeros((height, width, len(lamps) + 1), np.int64)
    for i in range(len(objects)):
        for k in range(len(lamps) + 1):
            left, right, top, bottom = float(width), 0.0, float(height), 0.0
            for corner in range(32):
                if k < len(lamps):
                    point = _shadow_corner(objects, i, lamps, k, corner)
                else:
                    x, y = ((corner & 1) * 2 - 1) * CONTACT_REACH, ((corner & 2) - 1) * CONTACT_REACH
                    point = (objects[i, POSITION] + x, objects[i, POSITION + 1] + y, 0.0)
                column, row = _project(camera, point, width, height)
                left, right = min(left, column), max(right, column)
                top, bottom = min(top, row), max(bottom, row)
            for y in range(max(int(top), 0), min(int(bottom) + 1, height)):
                for x in range(max(int(left), 0), min(int(right) + 1, width)):
                    bits[y, x, k] |= 1 << i
    return bits


@njit(cache=True)
def _near_object(ids: Bits, x: int, y: int) -> bool:
    """Whether a pixel or one next to it is of an object."""
    height, width = ids.shape
    for row in range(max(y - 1, 0), min(y + 2, height)):
        for column in range(max(x - 1, 0), min(x + 2, width)):
            if ids[row, column] >= 0:
                return True
    return False


@njit(cache=True)
def _any_bit(bits: Bits) -> bool:
    """np.any without an allocation."""
    found = 0
    for word in bits:
        found |= word
    return found != 0


@njit(cache=True)
def _write_pixel(image: Bytes, curve: Bytes, x: int, y: int, light: Vector) -> None:
    for c in range(3):
        image[y, x, c] = curve[int(min(max(light[c], 0.0), 1.0) * CURVE_STEPS + 0.5)]


@njit(cache=True)
def _draw_frame(
    objects: Array,
    classes: Bytes,
    camera: Array,
    lamps: Array,
    floor: Array,
    curve: Bytes,
    image: Bytes,
    mask: Bytes,
) -> None:
    """Draw one frame over the empty scene that `image` holds; fill `mask`."""
    height, width = mask.shape
    ids = _visible_ids(objects, camera, width, height)
    shadows = _shadow_bits(objects, camera, lamps, width, height)
    every = np.full(len(lamps) + 1, (1 << len(objects)) - 1)
    for y in range(height):
        for x in range(width):
            if ids[y, x] >= 0:
                mask[y, x] = classes[ids[y, x]]
            if _near_object(ids, x, y):
                light = (0.0, 0.0, 0.0)
                for sample in range(SAMPLES * SAMPLES):
                    sub_x = x + (sample % SAMPLES + 0.5) / SAMPLES
                    sub_y = y + (sample // SAMPLES + 0.5) / SAMPLES
                    traced = _trace(objects, shadows[y, x], every, camera, lamps, floor, sub_x, sub_y)
                    traced = (min(traced[0], 1.0), min(traced[1], 1.0), min(traced[2], 1.0))
                    light = _add(light, traced, 1 / SAMPLES**2)
                _write_pixel(image, curve, x, y, light)
            elif _any_bit(shadows[y, x]):
                point = (floor[y, x, 3], floor[y, x, 4], 0.0)
                lit = _floor_share(objects, shadows[y, x], lamps, point, FLOOR_SAMPLES)
                if lit < 1:
                    _write_pixel(image, curve, x, y, _add((0.0, 0.0, 0.0), _vector(floor[y], x, 0), lit))
