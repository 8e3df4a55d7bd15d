"""Write the simulated data set in the competition's layout.

`<root>/<split>/video_<number>/image_0.png ...` and, except for `unlabeled`, `mask.npy` (T, H, W) class ids.
`<root>/tracks` holds the tracks of further clips, which are not rendered (see `vdp.data.stores.tracks`).
A video depends on the seed, its split and its number, not on the counts or the number of workers.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vdp.core.files import replacing
from vdp.core.machine import cpu_cores
from vdp.core.objects import SEEN
from vdp.data.object_states import object_states
from vdp.data.simulator.params import SimulateParams
from vdp.data.simulator.physics import simulate_motion
from vdp.data.simulator.render import object_labels, render
from vdp.data.simulator.scene import Scene, draw_scene
from vdp.data.stores.tracks import Tracks, write_tracks

FIRST_NUMBER = {"train": 0, "val": 1000, "unlabeled": 2000, "test": 15000}  # as in the competition
TRACKS = "tracks"  # folder of the clips without frames
TRACKS_NUMBER = 100_000  # first word of their seeds, beyond the numbers of the splits
PNG_COMPRESSION = 1  # of 9: fast; the files are read once
CHUNK_VIDEOS = 8  # videos per task of a worker

VideoId = tuple[str, int]  # split, video number
Job = TypeVar("Job")
Result = TypeVar("Result")


def draw_video_scene(params: SimulateParams, seed: int, video: VideoId) -> Scene:
    split, number = video
    # seeded by the split too: with more than 1000 training videos their numbers overlap those of val
    rng = np.random.default_rng(np.random.SeedSequence([seed, FIRST_NUMBER[split], number]))
    return draw_scene(params, rng)


def make_video(
    params: SimulateParams, seed: int, frames: int, video: VideoId
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Simulate and render a video: frames (T, H, W, 3) and class ids (T, H, W), uint8."""
    scene = draw_video_scene(params, seed, video)
    motion = simulate_motion(scene, frames, params.friction)
    return render(scene, motion, params.height, params.width)


def write_video(params: SimulateParams, seed: int, frames: int, root: Path, video: VideoId) -> None:
    """Write one video's folder under `root`, under a temporary name first."""
    split, number = video
    images, masks = make_video(params, seed, frames, video)
    with replacing(root / split / f"video_{number:05d}") as folder:
        for k, image in enumerate(images):
            path = folder / f"image_{k}.png"
            if not cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION]):
                raise OSError(f"{path}: could not be written; is the disk full?")
        if split != "unlabeled":
            np.save(folder / "mask.npy", masks)


def make_tracks(params: SimulateParams, seed: int, frames: int, number: int) -> Tracks:
    """Simulate a clip and measure its objects, those that are visible in some frame, without shading."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, TRACKS_NUMBER, number]))
    scene = draw_scene(params, rng)
    motion = simulate_motion(scene, frames, params.friction)
    states = object_states(object_labels(scene, motion, params.height, params.width), len(scene.classes))
    visible = states[:, :, SEEN].any(axis=1)
    return Tracks(f"track_{number:05d}", states[visible], scene.classes[visible])


def write_dataset(params: SimulateParams, seed: int, frames: int, root: Path) -> None:
    """Write every split, with videos of `frames` frames, and the tracks under `root`, replaced at the end."""
    videos = [
        (split, first + i) for split, first in FIRST_NUMBER.items() for i in range(getattr(params, split))
    ]
    workers = params.workers or cpu_cores()
    with replacing(root) as part:
        for split in FIRST_NUMBER:
            (part / split).mkdir()
        for _ in _map(partial(write_video, params, seed, frames, part), videos, workers, "simulate", "video"):
            pass
        numbers = range(params.tracks)
        tracks = _map(partial(make_tracks, params, seed, frames), numbers, workers, "simulate tracks", "clip")
        write_tracks(part / TRACKS, list(tracks), frames)


def _map(
    make: Callable[[Job], Result], jobs: Sequence[Job], workers: int, name: str, unit: str
) -> Iterator[Result]:
    """Yield the result of each job in order, with a progress bar."""
    with tqdm(total=len(jobs), desc=name, unit=unit, disable=not jobs) as bar:
        for result in _results(make, jobs, workers):
            bar.update()
            yield result


def _results(make: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    if workers == 1 or len(jobs) <= CHUNK_VIDEOS:
        yield from map(make, jobs)
        return
    yield make(jobs[0])  # compile once, before the workers load the compiled code
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(make, jobs[1:], chunksize=CHUNK_VIDEOS)
