"""The simulator: equal bytes for equal seeds, exact masks, and bodies that obey friction."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from vdp.config.messages import validate
from vdp.core.classes import COLORS, MATERIALS, SHAPES, class_id, factors
from vdp.core.errors import UserError
from vdp.data.object_states import class_labels, object_states
from vdp.data.simulator import dataset
from vdp.data.simulator.appearance import TINTS, floor_light, to_bytes
from vdp.data.simulator.camera import EYE_POINT, RADIUS, floor_point, image_point
from vdp.data.simulator.dataset import draw_video_scene, make_tracks, make_video, write_dataset
from vdp.data.simulator.params import SimulateParams
from vdp.data.simulator.physics import HALF_HEIGHTS, Motion, simulate_motion
from vdp.data.simulator.render import render
from vdp.data.simulator.scene import FRAME_SECONDS, Scene, draw_scene
from vdp.data.stores.tracks import TrackStore

pytestmark = pytest.mark.slow

SECTION = {
    "train": 3, "val": 2, "test": 2, "unlabeled": 3, "tracks": 3, "height": 32, "width": 48, "inside": [2, 4],
    "entering": [1, 2], "rest_share": 0.7, "speed": [0.4, 1.1], "aim_share": 0.8, "entry_frames": [0, 4],
    "friction": 0.033, "workers": 1,
}  # fmt: skip
FRAMES = 4
GRAVITY = 9.81


def section(**changes: object) -> SimulateParams:
    return validate(SimulateParams, json.loads(json.dumps({**SECTION, **changes})), "simulate")


def make_scene(
    *names: str,
    at: list[tuple[float, float]],
    speed: list[tuple[float, float]] | None = None,
    start: float = 0,
) -> Scene:
    """Objects such as 'red metal cube' at floor positions, with velocities in world units per second."""
    words = [name.split() for name in names]
    return Scene(
        shapes=np.array([SHAPES.index(shape) for _, _, shape in words]),
        materials=np.array([MATERIALS.index(material) for _, material, _ in words]),
        colors=np.array([COLORS.index(color) for color, _, _ in words]),
        positions=np.array(at),
        yaws=np.zeros(len(names)),
        velocities=np.array(speed or [(0.0, 0.0)] * len(names)),
        start_frames=np.full(len(names), float(start)),
    )


def render_still(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Frame (64, 96, 3) and mask (64, 96) of a scene at its start."""
    images, masks = render(scene, simulate_motion(scene, 1, 0.05), 64, 96)
    return images[0], masks[0]


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_number_of_workers_does_not_change_a_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "CHUNK_VIDEOS", 1)
    write_dataset(section(workers=1), 5, FRAMES, tmp_path / "one")
    write_dataset(section(workers=2), 5, FRAMES, tmp_path / "two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_layout_and_numbers_are_those_of_the_competition(tmp_path):
    write_dataset(section(), 0, FRAMES, tmp_path / "simulated")
    frames = {f"image_{k}.png" for k in range(FRAMES)}
    expected = {
        f"{split}/video_{first + i:05d}/{name}"
        for split, first in (("train", 0), ("val", 1000), ("unlabeled", 2000), ("test", 15000))
        for i in range(SECTION[split])
        for name in (frames if split == "unlabeled" else frames | {"mask.npy"})
    } | {f"tracks/{name}" for name in ("tracks.json", "states.npy", "classes.npy")}
    assert set(files_of(tmp_path / "simulated")) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["simulated"]
    masks = np.load(tmp_path / "simulated/train/video_00000/mask.npy")
    assert masks.shape == (FRAMES, 32, 48) and masks.dtype == np.uint8


def test_tracks_are_those_of_the_rendered_masks(monkeypatch):
    """A clip of the tracks, drawn as a video too, has the states of its masks."""
    params = section(inside=[3, 4], entering=[0, 0])
    tracks = make_tracks(params, 7, 6, 11)
    rng = np.random.default_rng(np.random.SeedSequence([7, dataset.TRACKS_NUMBER, 11]))
    scene = draw_scene(params, rng)
    _, masks = render(scene, simulate_motion(scene, 6, params.friction), params.height, params.width)
    labels, classes = class_labels(masks)
    order = np.argsort(tracks.classes)
    np.testing.assert_array_equal(tracks.classes[order], classes)
    np.testing.assert_allclose(tracks.states[order], object_states(labels, len(classes)), atol=1e-6)


def test_tracks_are_as_many_as_asked_for_and_do_not_depend_on_their_number(tmp_path):
    none = {"train": 1, "val": 1, "test": 1, "unlabeled": 0}
    stores = []
    for count in (0, 2, 5):
        write_dataset(section(**none, tracks=count), 4, FRAMES, tmp_path / f"{count}")
        stores.append(TrackStore(tmp_path / f"{count}" / "tracks"))
    empty, few, many = stores
    assert [len(store) for store in stores] == [0, 2, 5] and empty.frames == FRAMES
    assert many.names == [f"track_{n:05d}" for n in range(5)] and few.names == many.names[:2]
    for row in range(2):
        count = int((few.classes[row] > 0).sum())
        np.testing.assert_array_equal(many.classes[row, :count], few.classes[row, :count])
        np.testing.assert_array_equal(many.states[row, :count], few.states[row, :count])
    assert len({many.states[row].tobytes() for row in range(5)}) == 5
    other = make_tracks(section(), 5, FRAMES, 0)
    assert not np.array_equal(other.states, many.states[0, : len(other.classes)])


def test_files_hold_the_result_of_make_video(tmp_path):
    params = section(train=1, val=1, test=1, unlabeled=0)
    write_dataset(params, 3, FRAMES, tmp_path / "simulated")
    images, masks = make_video(params, 3, FRAMES, ("val", 1000))
    folder = tmp_path / "simulated/val/video_01000"
    for k, image in enumerate(images):
        np.testing.assert_array_equal(cv2.imread(str(folder / f"image_{k}.png"))[:, :, ::-1], image)
    np.testing.assert_array_equal(np.load(folder / "mask.npy"), masks)


def test_an_interrupted_run_keeps_the_old_data_set(tmp_path, monkeypatch):
    root = tmp_path / "simulated"
    write_dataset(section(), 0, FRAMES, root)
    before = files_of(root)
    written = []

    def stop_at_the_third(*args: object) -> tuple[np.ndarray, np.ndarray]:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(args)
        return make_video(*args)

    monkeypatch.setattr(dataset, "make_video", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(section(), 1, FRAMES, root)
    assert files_of(root) == before
    monkeypatch.undo()
    write_dataset(section(), 1, FRAMES, root)
    assert files_of(root).keys() == before.keys() and files_of(root) != before
    assert [path.name for path in tmp_path.iterdir()] == ["simulated"]


def test_a_video_does_not_depend_on_the_number_of_videos():
    few, many = (make_video(section(train=n), 0, FRAMES, ("train", 0))[0] for n in (1, 40))
    assert np.array_equal(few, many)


def test_seeds_splits_and_numbers_give_different_videos():
    jobs = [(0, ("train", 1000)), (0, ("val", 1000)), (1, ("train", 1000)), (0, ("train", 1001))]
    scenes = [draw_video_scene(section(), seed, job) for seed, job in jobs]
    assert len({scene.positions.tobytes() for scene in scenes}) == len(jobs)


def test_no_two_objects_of_a_video_share_a_class():
    for seed in range(50):
        classes = draw_scene(section(inside=[4, 8], entering=[4, 8]), np.random.default_rng(seed)).classes
        assert len(set(classes.tolist())) == len(classes)
        assert classes.min() >= 1 and classes.max() <= 48


@pytest.mark.parametrize("material", MATERIALS)
@pytest.mark.parametrize("color", COLORS)
def test_masks_have_the_class_whose_colour_the_frame_shows(material, color):
    """The mean colour inside the mask is nearest, in direction, to the tint of the class."""
    scene = make_scene(f"{color} {material} cylinder", at=[(0.0, 0.0)])
    image, mask = render_still(scene)
    number = class_id(SHAPES.index("cylinder"), MATERIALS.index(material), COLORS.index(color))
    assert set(np.unique(mask)) == {0, number}
    assert factors(number)[2] == COLORS.index(color)
    seen = ((image / 255.0) ** 2.2)[mask == number].mean(0)
    tints = TINTS[MATERIALS.index(material)]
    likeness = tints @ seen / np.linalg.norm(tints, axis=1)
    assert COLORS[int(likeness.argmax())] == color


def test_pixels_far_from_objects_show_the_empty_floor():
    image, mask = render_still(make_scene("red rubber cube", at=[(0.0, 0.0)]))
    empty = to_bytes(floor_light(64, 96))
    np.testing.assert_array_equal(image[:8], empty[:8])
    np.testing.assert_array_equal(image[:, :8], empty[:, :8])
    assert (image[mask == 0] <= empty[mask == 0]).mean() > 0.97  # shadows darken; edges mix colours


def test_a_nearer_object_hides_a_farther_one():
    behind = floor_point(0.5, 0.4)
    scene = make_scene("red rubber cube", "blue metal sphere", at=[(0.0, 0.0), tuple(behind)])
    _, both = render_still(scene)
    _, front = render_still(make_scene("red rubber cube", at=[(0.0, 0.0)]))
    np.testing.assert_array_equal(both == scene.classes[0], front > 0)


def test_a_spheres_mask_is_its_projection():
    """A pixel shows the ball exactly if its ray passes the centre within a radius."""
    scene = make_scene("gray rubber sphere", at=[tuple(floor_point(0.3, 0.6))])
    _, mask = render_still(scene)
    centre = simulate_motion(scene, 1, 0.05).positions[0, 0]
    for y in range(64):
        for x in range(96):
            point = np.append(floor_point((x + 0.5) / 96, (y + 0.5) / 64), 0.0)
            ray = (point - EYE_POINT) / np.linalg.norm(point - EYE_POINT)
            off = np.linalg.norm(np.cross(centre - EYE_POINT, ray))
            if abs(off - RADIUS) > 1e-9:
                assert (mask[y, x] > 0) == (off < RADIUS)


def test_the_view_is_the_same_at_every_size():
    params = section(entry_frames=[0, 0])
    scene = draw_scene(params, np.random.default_rng(2))
    motion = simulate_motion(scene, 8, params.friction)
    last = Motion(motion.positions[-1:], motion.rotations[-1:], [])
    small_images, small = render(scene, last, 64, 96)
    large_images, large = render(scene, last, 192, 288)
    np.testing.assert_array_equal(small, large[:, 1::3, 1::3])  # the centres of the pixels coincide
    pooled = large_images.reshape(1, 64, 3, 96, 3, 3).mean((2, 4))
    assert np.abs(pooled - small_images).mean() < 0.5


def test_image_point_undoes_floor_point():
    for u, v in ((0.1, 0.2), (0.5, 0.5), (1.1, 1.3), (0.9, -0.09)):
        assert image_point(np.append(floor_point(u, v), 0.0)) == pytest.approx((u, v))


def test_a_point_above_the_horizon_has_no_floor():
    with pytest.raises(ValueError, match="above the horizon"):
        floor_point(0.5, -1.0)


def test_an_object_at_rest_stays():
    names = [f"red rubber {shape}" for shape in SHAPES]
    scene = make_scene(*names, at=[(-1.0, 0.0), (0.0, 0.0), (1.0, 0.0)])
    motion = simulate_motion(scene, 22, 0.033)
    moved = np.abs(motion.positions - motion.positions[0])
    assert moved[:, :, :2].max() < 1e-4 * RADIUS and moved[:, :, 2].max() < 2e-3 * RADIUS  # it settles
    assert not motion.collisions


@pytest.mark.parametrize("shape", ["cube", "cylinder"])
def test_a_sliding_object_stops_at_the_distance_of_coulomb_friction(shape):
    friction, speed = 0.1, 1.5
    scene = make_scene(f"red rubber {shape}", at=[(0.0, 0.0)], speed=[(speed, 0.0)])
    motion = simulate_motion(scene, 22, friction)
    assert speed / (friction * GRAVITY) < 20 * FRAME_SECONDS
    assert motion.positions[-1, 0, 0] == pytest.approx(speed**2 / (2 * friction * GRAVITY), rel=0.05)
    assert abs(motion.positions[-1, 0, 1]) < 0.02
    assert np.abs(motion.positions[-1] - motion.positions[-2]).max() < 1e-3


def test_a_rolling_ball_slows_down_but_less():
    cube = make_scene("red rubber cube", at=[(0.0, 0.0)], speed=[(1.5, 0.0)])
    ball = make_scene("red rubber sphere", at=[(0.0, 0.0)], speed=[(1.5, 0.0)])
    slid, rolled = (simulate_motion(scene, 22, 0.1).positions[:, 0, 0] for scene in (cube, ball))
    steps = np.diff(rolled)
    assert rolled[-1] > slid[-1] and (np.diff(steps) <= 1e-6).all() and steps[-1] < 0.6 * steps[0]


def test_a_collision_transfers_motion_and_creates_no_energy():
    scene = make_scene(
        "red rubber cube", "blue metal cube", at=[(-1.0, 0.0), (0.0, 0.0)], speed=[(2.0, 0.0), (0.0, 0.0)]
    )
    motion = simulate_motion(scene, 12, 0.01)
    assert [pair[1:] for pair in motion.collisions] == [(0, 1)]
    speeds = np.linalg.norm(np.diff(motion.positions, axis=0), axis=-1) / FRAME_SECONDS
    energy = (speeds**2).sum(1)
    hit = int(motion.collisions[0][0])  # the speeds of this step and the next mix before and after
    assert (energy[hit + 2 :] < energy[0]).all() and (np.diff(energy[hit + 2 :]) < 0).all()
    assert speeds[-1, 1] > 0.5 * speeds[0, 0]


def test_objects_neither_sink_nor_fly():
    for seed in range(5):
        scene = draw_scene(section(), np.random.default_rng(seed))
        heights = simulate_motion(scene, 22, 0.033).positions[:, :, 2]
        assert np.abs(heights - HALF_HEIGHTS[scene.shapes]).max() < 0.5 * RADIUS


def test_an_entering_object_waits_for_its_frame():
    scene = make_scene("red rubber cylinder", at=[(0.0, 0.0)], speed=[(1.0, 0.0)], start=5.0)
    places = simulate_motion(scene, 10, 0.02).positions[:, 0, 0]
    assert np.abs(places[:6]).max() < 1e-3 and places[6] == pytest.approx(FRAME_SECONDS, rel=0.1)


def test_scenes_follow_the_params():
    params = section(inside=[3, 3], entering=[2, 2], speed=[0.5, 0.6], rest_share=1.0, entry_frames=[2, 3])
    scene = draw_scene(params, np.random.default_rng(0))
    widths = np.linalg.norm(scene.velocities, axis=1) * FRAME_SECONDS / (2 * RADIUS)
    assert (widths[:3] == 0).all() and ((widths[3:] >= 0.5) & (widths[3:] <= 0.6)).all()
    assert (scene.start_frames[:3] == 0).all() and (
        (scene.start_frames[3:] >= 2) & (scene.start_frames[3:] <= 3)
    ).all()
    views = [image_point(np.append(position, 0.0)) for position in scene.positions]
    assert all(0 < u < 1 and 0 < v < 1 for u, v in views[:3])
    assert not any(0 < u < 1 and 0 < v < 1 for u, v in views[3:])
    gaps = [math.dist(a, b) for i, a in enumerate(scene.positions) for b in scene.positions[:i]]
    assert min(gaps) > 2 * RADIUS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 64}, r"simulate\.height=32, simulate\.width=64.*set simulate\.width to 48"),
        ({"inside": [3, 2]}, r"simulate\.inside=\[3, 2\]: expected"),
        ({"inside": [0, 2]}, r"simulate\.inside=\[0, 2\]: expected"),
        ({"speed": [0.5, 9.0]}, r"simulate\.speed=\[0.5, 9.0\]: expected"),
        ({"friction": 1.5}, r"simulate\.friction"),
        ({"train": 0}, r"simulate\.train"),
        ({"frction": 0.1}, r"simulate\.frction"),
    ],
)
def test_an_invalid_param_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        section(**changes)
