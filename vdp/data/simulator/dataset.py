"""Write the simulated data set in the competition's own layout.

`<root>/<split>/video_<number>/image_0.png ...` and, but for `unlabeled`, `mask.npy` (T, H, W) class ids.
A video depends on the seed, its split and its number alone: neither the counts nor the workers change it.
"""

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vdp.data.simulator.params import SimulateParams
from vdp.data.simulator.physics import simulate_motion
from vdp.data.simulator.render import render
from vdp.data.simulator.scene import Scene, draw_scene

FIRST_NUMBER = {"train": 0, "val": 1000, "unlabeled": 2000, "test": 15000}  # as in the competition
PNG_COMPRESSION = 1  # of 9: fast; the files are read once
VIDEOS_A_TASK = 8

Job = tuple[str, int]  # split, video number


def draw_video_scene(params: SimulateParams, seed: int, job: Job) -> Scene:
    """What a video of a split starts from."""
    split, number = job
    # the split counts too: with more than 1000 training videos their numbers reach into the next split's
    return draw_scene(
        params, np.random.default_rng(np.random.SeedSequence([seed, FIRST_NUMBER[split], number]))
    )


def make_video(
    params: SimulateParams, seed: int, frames: int, job: Job
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Frames (T, H, W, 3) and class ids (T, H, W), uint8, of one video of a split."""
    scene = draw_video_scene(params, seed, job)
    motion = simulate_motion(scene, frames, params.friction)
    return render(scene, motion, params.height, params.width)


def write_video(params: SimulateParams, seed: int, frames: int, root: Path, job: Job) -> None:
    """Write one video's folder under `root`, by way of a temporary name: it is whole or absent."""
    split, number = job
    images, masks = make_video(params, seed, frames, job)
    folder = root / split / f"video_{number:05d}"
    partial_folder = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    for k, image in enumerate(images):
        path = partial_folder / f"image_{k}.png"
        if not cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION]):
            raise OSError(f"{path} could not be written: is the disk full?")
    if split != "unlabeled":
        np.save(partial_folder / "mask.npy", masks)
    partial_folder.rename(folder)


def write_dataset(params: SimulateParams, seed: int, frames: int, root: Path) -> None:
    """Write every split under `root`, replacing what is there once all videos are written.

    Args:
        params: counts, size and dynamics.
        seed: of the whole data set.
        frames: frames of each video.
        root: folder that will hold the splits.
    """
    partial_root = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial_root, ignore_errors=True)
    jobs = [
        (split, first + i) for split, first in FIRST_NUMBER.items() for i in range(getattr(params, split))
    ]
    for split in FIRST_NUMBER:
        (partial_root / split).mkdir(parents=True)
    write = partial(write_video, params, seed, frames, partial_root)
    with tqdm(total=len(jobs), desc="simulate", unit="video") as bar:
        for _ in _each(write, jobs, params.workers or os.cpu_count() or 1):
            bar.update()
    shutil.rmtree(root, ignore_errors=True)
    partial_root.rename(root)


def _each(write: "partial[None]", jobs: list[Job], workers: int) -> Iterator[None]:
    """Run `write` on every job, in this process or in `workers` others; yield after each."""
    if workers == 1 or len(jobs) <= VIDEOS_A_TASK:
        yield from map(write, jobs)
        return
    write(jobs[0])  # compile once, before the others load the compiled code
    yield
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(write, jobs[1:], chunksize=VIDEOS_A_TASK)
