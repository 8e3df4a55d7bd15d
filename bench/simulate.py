"""Speed of the simulator and difficulty of its videos: `python -m bench.simulate --help`.

Reads params.yaml (section simulate) of the working directory. Prints the scores of two baselines for frame 22
and the amount of motion over the first videos of the test split; with `--real <labelled videos>` also over
those; with `--speed` the frames per second of processor time (physics, drawing, files).
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from vdp.config.read import read_section
from vdp.data.simulator.dataset import FIRST_NUMBER, draw_video_scene, make_video, write_video
from vdp.data.simulator.params import SimulateParams
from vdp.data.simulator.physics import simulate_motion
from vdp.evaluation.mask import confusion_matrix, jaccard, only_seen_classes

FRAMES, KNOWN = 22, 11  # of a clip of the competition
REFERENCE_WIDTH = 240  # image width for speeds in pixels
STILL = 1.0  # pixels at the reference width: max motion of an object at rest
SAME_AREA = 0.1  # an object whose area changes by more is partly hidden, which moves its centre
BORDER = 1  # pixels: an object nearer to the border is cut, and its centre unknown

Mask = NDArray[np.uint8]


def moved_on(masks: Mask, steps: int) -> Mask:
    """The last mask of (T, H, W) with each class moved by `steps` times its last displacement."""
    before, last = masks[-2], masks[-1]
    height, width = last.shape
    moved = np.zeros_like(last)
    for class_number in np.unique(last)[1:]:
        y, x = np.nonzero(last == class_number)
        y0, x0 = np.nonzero(before == class_number)
        dy, dx = (y.mean() - y0.mean(), x.mean() - x0.mean()) if len(y0) else (0.0, 0.0)
        to_y, to_x = y + round(dy * steps), x + round(dx * steps)
        inside = (to_y >= 0) & (to_y < height) & (to_x >= 0) & (to_x < width)
        moved[to_y[inside], to_x[inside]] = class_number
    return moved


@dataclass
class Motions:
    """Speeds in pixels per frame at the reference width, per object and pair of frames."""

    speeds: list[float]
    objects: int
    still: int


def track(masks: Mask, found: Motions) -> None:
    """Add the objects of masks (T, H, W) that at least two frames show whole."""
    scale = REFERENCE_WIDTH / masks.shape[2]
    for class_number in np.unique(masks)[1:]:
        path = {
            t: place for t, mask in enumerate(masks) if (place := locate(mask == class_number)) is not None
        }
        if len(path) < 2:
            continue
        for t in path:
            if t + 1 in path and abs(path[t + 1].area / path[t].area - 1) < SAME_AREA:
                found.speeds.append(scale * math.dist(path[t + 1].center, path[t].center))
        first, *others = path.values()
        found.objects += 1
        found.still += all(scale * math.dist(first.center, other.center) < STILL for other in others)


@dataclass
class Place:
    """Position of an object in a frame, in pixels."""

    center: tuple[float, float]
    area: int


def locate(shown: NDArray[np.bool_]) -> Place | None:
    """Position of an object from its mask (H, W); None if it is absent or cut by the border."""
    y, x = np.nonzero(shown)
    height, width = shown.shape
    if not len(y) or min(y.min(), x.min()) <= BORDER:
        return None
    if y.max() >= height - 1 - BORDER or x.max() >= width - 1 - BORDER:
        return None
    return Place((float(x.mean()), float(y.mean())), len(y))


def describe(clips: list[Mask], collisions: list[list[tuple[float, int, int]]] | None) -> str:
    """Summarise the masks of a set of clips in one line."""
    copy = sum(confusion_matrix(clip[KNOWN - 1], clip[-1]) for clip in clips)
    velocity = sum(confusion_matrix(moved_on(clip[:KNOWN], FRAMES - KNOWN), clip[-1]) for clip in clips)
    seen = sum(confusion_matrix(only_seen_classes(clip[-1], clip[:KNOWN]), clip[-1]) for clip in clips)
    found = Motions([], 0, 0)
    for clip in clips:
        track(clip, found)
    visible = np.mean([len(np.unique(mask)) - 1 for clip in clips for mask in clip])
    foreground = np.mean([(clip > 0).mean() for clip in clips])
    parts = [
        f"copy frame 11 {jaccard(copy):.3f}",
        f"constant velocity {jaccard(velocity):.3f}",
        f"seen classes {jaccard(seen):.3f}",
        f"objects in view {visible:.2f}",
        f"foreground {100 * foreground:.1f} %",
        f"at rest {found.still}/{found.objects} = {found.still / found.objects:.2f}",
        "speed px/frame median {:.1f} p90 {:.1f} max {:.1f}".format(
            *np.percentile(found.speeds, [50, 90, 100])
        ),
    ]
    if collisions is not None:
        late = np.mean([any(when >= KNOWN - 1 for when, _, _ in video) for video in collisions])
        parts.append(f"collision after frame 11 in {100 * late:.0f} % of videos")
    return "; ".join(parts)


def calibration(params: SimulateParams, seed: int, videos: int) -> str:
    """`describe` the first videos of the test split of a seed."""
    jobs = [("test", FIRST_NUMBER["test"] + i) for i in range(videos)]
    masks = [make_video(params, seed, FRAMES, job)[1] for job in jobs]
    motions = [simulate_motion(draw_video_scene(params, seed, job), FRAMES, params.friction) for job in jobs]
    return describe(masks, [motion.collisions for motion in motions])


def speed(params: SimulateParams, videos: int) -> str:
    """Frames per second of processor time in this process, without compilation."""
    make_video(params, 0, FRAMES, ("train", 0))
    jobs = [("train", i) for i in range(videos)]
    start = time.process_time()
    for job in jobs:
        simulate_motion(draw_video_scene(params, 0, job), FRAMES, params.friction)
    physics = time.process_time() - start
    start = time.process_time()
    for job in jobs:
        make_video(params, 0, FRAMES, job)
    drawn = time.process_time() - start
    with TemporaryDirectory() as folder:
        start = time.process_time()
        for job in jobs:
            write_video(params, 0, FRAMES, Path(folder), job)
        written = time.process_time() - start
    rate = FRAMES * videos
    per_video = [1e3 * seconds / videos for seconds in (physics, drawn - physics, written - drawn)]
    return (
        f"{params.height}x{params.width}: {rate / drawn:.0f} frames/s with masks, "
        f"{rate / written:.0f} with PNG files; "
        "per video: physics {:.1f} ms, drawing {:.1f} ms, files {:.1f} ms".format(*per_video)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=200, help="number of videos (default 200)")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[0], help="seeds to calibrate with (default 0)"
    )
    parser.add_argument(
        "--height", type=int, help="image height in place of params.yaml's; the width is 3/2 of it"
    )
    parser.add_argument("--speed", action="store_true", help="measure the speed over 20 videos instead")
    parser.add_argument("--real", type=Path, help="folder of labelled real videos to describe as well")
    arguments = parser.parse_args()
    params = read_section(SimulateParams, "simulate")
    if arguments.height:
        params = params.model_copy(update={"height": arguments.height, "width": arguments.height * 3 // 2})
    if arguments.speed:
        print(speed(params, 20))
        return
    for seed in arguments.seeds:
        print(f"seed {seed}, {arguments.videos} videos: {calibration(params, seed, arguments.videos)}")
    if arguments.real:
        clips = [np.load(path) for path in sorted(arguments.real.glob("video_*/mask.npy"))]
        print(f"real, {len(clips)} videos: {describe(clips, None)}")


if __name__ == "__main__":
    main()
