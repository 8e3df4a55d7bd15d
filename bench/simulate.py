"""How fast the simulator is and how hard its videos are: `python -m bench.simulate --help`.

Reads params.yaml (section simulate) of the working directory. Prints, over the first videos of the test
split, the score of two simple guesses of frame 22 and how much moves; with `--real <labelled videos>` the
same numbers for those; with `--speed` the frames a second of processor time (physics, drawing, files).
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
from vdp.core.classes import NUM_CLASSES
from vdp.data.simulator.dataset import FIRST_NUMBER, draw_video_scene, make_video, write_video
from vdp.data.simulator.params import SimulateParams
from vdp.data.simulator.physics import simulate_motion

FRAMES, KNOWN = 22, 11  # of a clip of the competition
REFERENCE_WIDTH = 240  # speeds are told in pixels of this image width
STILL = 1.0  # pixels (at the reference width): an object that moves less in all its frames is at rest
SAME_AREA = 0.1  # an object whose area changes by more between two frames is partly hidden: its middle jumps
BORDER = 1  # pixels: an object nearer to the border is cut, so its middle is not known

Mask = NDArray[np.uint8]


def confusion(truth: Mask, guess: Mask) -> NDArray[np.int64]:
    """(49, 49) pixel counts, rows truth, columns guess."""
    pairs = truth.astype(np.int64) * NUM_CLASSES + guess
    return np.bincount(pairs.ravel(), minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def jaccard(counts: NDArray[np.int64]) -> float:
    """Macro Jaccard of a pooled confusion matrix over the classes with a non-empty union."""
    both = np.diag(counts)
    either = counts.sum(0) + counts.sum(1) - both
    return float((both[either > 0] / either[either > 0]).mean())


def moved_on(masks: Mask, steps: int) -> Mask:
    """The last of the masks (T, H, W) with each class moved by `steps` times its last displacement."""
    before, last = masks[-2], masks[-1]
    height, width = last.shape
    guess = np.zeros_like(last)
    for class_number in np.unique(last)[1:]:
        y, x = np.nonzero(last == class_number)
        y0, x0 = np.nonzero(before == class_number)
        dy, dx = (y.mean() - y0.mean(), x.mean() - x0.mean()) if len(y0) else (0.0, 0.0)
        to_y, to_x = y + round(dy * steps), x + round(dx * steps)
        inside = (to_y >= 0) & (to_y < height) & (to_x >= 0) & (to_x < width)
        guess[to_y[inside], to_x[inside]] = class_number
    return guess


@dataclass
class Motions:
    """Speeds in pixels a frame at the reference width; one entry per object and pair of frames."""

    speeds: list[float]
    objects: int
    still: int


def track(masks: Mask, found: Motions) -> None:
    """Add the objects of a video's masks (T, H, W) that are whole in view in two frames or more."""
    scale = REFERENCE_WIDTH / masks.shape[2]
    for class_number in np.unique(masks)[1:]:
        path = {
            t: place for t, mask in enumerate(masks) if (place := whole(mask == class_number)) is not None
        }
        if len(path) < 2:
            continue
        for t in path:
            if t + 1 in path and abs(path[t + 1].area / path[t].area - 1) < SAME_AREA:
                found.speeds.append(scale * math.dist(path[t + 1].middle, path[t].middle))
        first, *others = path.values()
        found.objects += 1
        found.still += all(scale * math.dist(first.middle, other.middle) < STILL for other in others)


@dataclass
class Place:
    """An object in a frame: pixels."""

    middle: tuple[float, float]
    area: int


def whole(shown: NDArray[np.bool_]) -> Place | None:
    """Where an object is, from its mask (H, W); None where it is absent or cut by the border."""
    y, x = np.nonzero(shown)
    height, width = shown.shape
    if not len(y) or min(y.min(), x.min()) <= BORDER:
        return None
    if y.max() >= height - 1 - BORDER or x.max() >= width - 1 - BORDER:
        return None
    return Place((float(x.mean()), float(y.mean())), len(y))


def describe(clips: list[Mask], collisions: list[list[tuple[float, int, int]]] | None) -> str:
    """The numbers of a set of clips' masks, one line."""
    copy, velocity, seen = (np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64) for _ in range(3))
    for clip in clips:
        known, last = clip[:KNOWN], clip[-1]
        copy += confusion(last, known[-1])
        velocity += confusion(last, moved_on(known, FRAMES - KNOWN))
        seen += confusion(last, np.where(np.isin(last, np.unique(known)), last, 0).astype(np.uint8))
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
    """Frames a second of processor time in this one process, compiled code loaded."""
    make_video(params, 0, FRAMES, ("train", 0))
    jobs = [("train", i) for i in range(videos)]
    start = time.process_time()
    for job in jobs:
        simulate_motion(draw_video_scene(params, 0, job), FRAMES, params.friction)
    physics = time.process_time() - start
    start = time.process_time()
    for job in jobs:
        make_video(params, 0, FRAMES, job)
    made = time.process_time() - start
    with TemporaryDirectory() as folder:
        start = time.process_time()
        for job in jobs:
            write_video(params, 0, FRAMES, Path(folder), job)
        written = time.process_time() - start
    rate = FRAMES * videos
    a_video = [1e3 * seconds / videos for seconds in (physics, made - physics, written - made)]
    return (
        f"{params.height}x{params.width}: {rate / made:.0f} frames/s with masks, "
        f"{rate / written:.0f} with PNG files; "
        "a video: physics {:.1f} ms, drawing {:.1f} ms, files {:.1f} ms".format(*a_video)
    )


def main() -> None:
    """Print what the arguments ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=200, help="videos to measure (default 200)")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[0], help="seeds to calibrate with (default 0)"
    )
    parser.add_argument("--height", type=int, help="image height instead of params.yaml's; the width follows")
    parser.add_argument("--speed", action="store_true", help="measure speed over 20 videos instead")
    parser.add_argument("--real", type=Path, help="folder of labelled real videos to describe too")
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
