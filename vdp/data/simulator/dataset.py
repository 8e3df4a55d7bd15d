"""Write the simulated data set in the competition's layout.

`<root>/<split>/video_<number>/image_0.png ...` and, except for `unlabeled`, `mask.npy` (T, H, W) class ids.
A video depends on the seed, its split and its number, not on the counts or the number of workers.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vdp.core.files import replacing
from vdp.core.machine import cpu_cores
from vdp.data.simulator.params import SimulateParams
from vdp.data.simulator.physics import simulate_motion
from vdp.data.simulator.render import render
from vdp.data.simulator.scene import Scene, draw_scene

FIRST_NUMBER = {"train": 0, "val": 1000, "unlabeled": 2000, "test": 15000}  # as in the competition
PNG_COMPRESSION = 1  # of 9: fast; the files are read once
CHUNK_VIDEOS = 8  # videos per task of a worker

VideoId = tuple[str, int]  # split, video number


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


def write_dataset(params: SimulateParams, seed: int, frames: int, root: Path) -> None:
    """Write every split, with videos of `frames` frames, under `root`, which is replaced at the end."""
    videos = [
        (split, first + i) for split, first in FIRST_NUMBER.items() for i in range(getattr(params, split))
    ]
    with replacing(root) as part, tqdm(total=len(videos), desc="simulate", unit="video") as bar:
        for split in FIRST_NUMBER:
            (part / split).mkdir()
        write = partial(write_video, params, seed, frames, part)
        for _ in _write_all(write, videos, params.workers or cpu_cores()):
            bar.update()


def _write_all(write: "partial[None]", videos: list[VideoId], workers: int) -> Iterator[None]:
    if workers == 1 or len(videos) <= CHUNK_VIDEOS:
        yield from map(write, videos)
        return
    write(videos[0])  # compile once, before the workers load the compiled code
    yield
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(write, videos[1:], chunksize=CHUNK_VIDEOS)
