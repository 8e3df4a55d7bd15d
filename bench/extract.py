"""Speed of cutting and loading clips: `python -m bench.extract --help`.

Reads params.yaml (section simulate) of the working directory for the content of the videos; writes to a
temporary folder. Rates are medians over rounds in which the compared rows take turns.

Extraction: videos to clips of 160x240, in decoded frames per second, beside its upper bound: reading the same
files with `cv2.VideoCapture.read` (`cv2.imread` for pictures) and discarding the frames, in one process (the
first ratio is to this rate times the number of processes) and in as many processes in parallel (the second).
The start of the processes counts. Memory is the largest sum over all processes at one time.

Loading: a random clip from the store, beside decoding it from a random position of its video, in one process.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from vdp.data.extract.extract import ExtractJob, ExtractPolicy, extract
from vdp.data.sources.competition import CompetitionSource
from vdp.data.sources.protocols import ClipRule, Pace, Source
from vdp.data.sources.videos import VideoSource
from vdp.data.stores.clips import ClipStore, Pixels
from vdp.data.video.decode import quiet_decoder
from vdp.data.video.resize import resize_frame

HEIGHT, WIDTH = 160, 240  # of the clips
FRAMES = 22  # of a clip
VIDEO_FRAMES = 132  # of a video file: six clips
SCENES = 12  # distinct videos; the others are copies of their files
SHARD_MB = 256
LOADS = 200  # clips loaded in a round


@dataclass(frozen=True)
class VideoSet:
    """Videos of one kind: name, source, frames per file, and the sampling interval."""

    name: str
    source: Source
    frames_a_file: int
    interval: int = 1

    @property
    def files(self) -> list[Path]:
        return [path for item in self.source.items() for path in self.source.files(item)]


def render_videos() -> list[Pixels]:
    """Frames (T, 320, 480, 3) of videos of CLEVRER's size and length, played forwards and backwards."""
    # imported here: the decoding processes load this file and do not need them
    from vdp.config.read import read_section
    from vdp.data.simulator.dataset import draw_video_scene
    from vdp.data.simulator.params import SimulateParams
    from vdp.data.simulator.physics import simulate_motion
    from vdp.data.simulator.render import render

    params = read_section(SimulateParams, "simulate")
    videos = []
    for number in range(SCENES):
        scene = draw_video_scene(params, 0, ("test", number))
        frames, _ = render(scene, simulate_motion(scene, VIDEO_FRAMES // 2, params.friction), 320, 480)
        videos.append(np.concatenate([frames, frames[::-1]]))
    return videos


def write_videos(root: Path, count: int) -> list[VideoSet]:
    """Write `count` video files of two sizes, and half as many frames as pictures, below `root`."""
    videos = render_videos()
    for n, video in enumerate(videos):
        small = [resize_frame(frame, HEIGHT, WIDTH, "stretch") for frame in video]
        write_video(root / "large" / f"v{n}.mp4", video)
        write_video(root / "small" / f"v{n}.mp4", small)
        for k, frame in enumerate(small[:FRAMES]):
            path = root / "pictures" / f"video_{n}" / f"image_{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), frame[:, :, ::-1])
    for n in range(SCENES, count):
        for size in ("large", "small"):
            shutil.copy(root / size / f"v{n % SCENES}.mp4", root / size / f"v{n}.mp4")
    for n in range(SCENES, count * VIDEO_FRAMES // FRAMES // 2):
        shutil.copytree(root / "pictures" / f"video_{n % SCENES}", root / "pictures" / f"video_{n}")
    return [
        VideoSet("mp4, 480x320, every 6th", VideoSource(root / "large"), VIDEO_FRAMES, interval=6),
        VideoSet("mp4, 480x320, every", VideoSource(root / "large"), VIDEO_FRAMES),
        VideoSet("mp4, 240x160, every", VideoSource(root / "small"), VIDEO_FRAMES),
        VideoSet("png, 240x160, every", CompetitionSource(root / "pictures"), 1),
    ]


def write_video(path: Path, frames: Sequence[Pixels] | Pixels) -> None:
    """Write an mp4 file of MPEG-4 part 2, the codec that every OpenCV build can write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (width, height))
    for frame in frames:
        writer.write(frame[:, :, ::-1])
    writer.release()


def read_raw(files: Sequence[Path]) -> int:
    """Decode files in one thread and count the frames."""
    quiet_decoder()
    count = 0
    for path in files:
        if path.suffix == ".png":
            count += cv2.imread(str(path)) is not None
            continue
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        while video.read()[0]:
            count += 1
        video.release()
    return count


def read_all(pool: ProcessPoolExecutor, files: Sequence[Path], workers: int) -> int:
    return sum(pool.map(read_raw, [files[n::workers] for n in range(workers)]))


def extract_once(videos: VideoSet, root: Path, height: int, width: int, workers: int) -> ClipStore:
    """Run the extraction of the stage, with the start of its processes."""
    out = root / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    rule = ClipRule(FRAMES, FRAMES, height, width, "crop", Pace(videos.interval), FRAMES)
    job = ExtractJob(videos.source, videos.source.items(), rule, "bench")
    policy = ExtractPolicy(SHARD_MB, skip=False, max_bad_share=0.0, workers=workers)
    return extract({"clips": job}, out, root / "work", policy)["clips"]


def rate(work: Callable[[], object], count: int) -> float:
    """`count` per second of the call."""
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Sample the peak of the resident memory of this process and its children, in MB, into the list."""
    peak = [0.0]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.1):
            processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
            peak[0] = max(peak[0], sum(resident_mb(process) for process in processes))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        done.set()
        sampler.join()


def resident_mb(process: int | None) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:  # it has ended
        return 0.0
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def bench_extraction(sets: Sequence[VideoSet], root: Path, workers: int, rounds: int) -> None:
    print(f"extraction to {HEIGHT}x{WIDTH} in {workers} processes; frames per second")
    heads = ("videos", "frames", "raw, 1", "raw, all", "extract", "of n x raw", "of raw all", "memory")
    print(("{:<25}" + "{:>11}" * 7).format(*heads))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        read_all(pool, [], workers)  # starts the processes
        for kind in sets:
            files = kind.files
            some, frames = files[::workers], kind.frames_a_file
            one, every, ours, peaks = [], [], [], []
            for _ in range(rounds):
                one.append(rate(partial(read_raw, some), frames * len(some)))
                every.append(rate(partial(read_all, pool, files, workers), frames * len(files)))
                with peak_memory() as peak:
                    run = partial(extract_once, kind, root, HEIGHT, WIDTH, workers)
                    ours.append(rate(run, frames * len(files)))
                peaks.append(peak[0])
            shares = [
                statistics.median(own / bound for own, bound in zip(ours, bounds, strict=True))
                for bounds in ([workers * alone for alone in one], every)
            ]
            rates = [statistics.median(values) for values in (one, every, ours)]
            print(
                f"{kind.name:<25}{frames * len(files):>11}"
                + "".join(f"{value:>11.0f}" for value in rates)
                + "".join(f"{value:>11.2f}" for value in shares)
                + f"{max(peaks):>8.0f} MB",
                flush=True,
            )


def bench_loading(videos: VideoSet, root: Path, rounds: int) -> None:
    """Load random clips of two sizes, with the store and the videos in the page cache."""
    print("loading a random clip in one process; clips per second")
    print(("{:<14}" + "{:>11}" * 3).format("size", "store", "decoding", "ratio"))
    rng = np.random.default_rng(0)
    files = videos.files
    for height, width in ((64, 96), (HEIGHT, WIDTH)):
        store = extract_once(videos, root, height, width, 1)
        load_clips(store, range(len(store)))
        read, decoded = [], []
        for _ in range(rounds):
            clips = rng.integers(0, len(store), LOADS).tolist()
            firsts = rng.integers(0, VIDEO_FRAMES - FRAMES, LOADS).tolist()
            positions = [(files[clip % len(files)], first) for clip, first in zip(clips, firsts, strict=True)]
            read.append(rate(partial(load_clips, store, clips), LOADS))
            decoded.append(rate(partial(decode_clips, positions, height, width), LOADS))
        ratio = statistics.median(a / b for a, b in zip(read, decoded, strict=True))
        rates = "".join(f"{statistics.median(values):>11.0f}" for values in (read, decoded))
        print(f"{f'{height}x{width}':<14}{rates}{ratio:>11.0f}", flush=True)


def load_clips(store: ClipStore, clips: Sequence[int]) -> None:
    for clip in clips:
        np.array(store.frames(clip))


def decode_clips(positions: Sequence[tuple[Path, int]], height: int, width: int) -> None:
    """Decode clips as a loader without a store does: open the file, seek, decode, resize."""
    for path, first in positions:
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        video.set(cv2.CAP_PROP_POS_FRAMES, first)
        clip = np.empty((FRAMES, height, width, 3), np.uint8)
        for k in range(FRAMES):
            ok, frame = video.read()
            assert ok, f"{path} is too short"
            clip[k] = resize_frame(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), height, width, "crop")
        video.release()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=45_000, help="of each kind of video; 45,000 take 5 GB")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder to write to; default: the temporary folder")
    args = parser.parse_args()
    count = max(SCENES, args.frames // VIDEO_FRAMES)
    quiet_decoder()
    with TemporaryDirectory(dir=args.folder) as scratch:
        root = Path(scratch)
        # rendered in another process, so that the memory of this one is that of an extraction
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            sets = pool.submit(write_videos, root, count).result()
        sys.stderr = open(os.devnull, "w")  # progress bars  # noqa: SIM115
        bench_extraction(sets, root, args.workers, args.rounds)
        few = root / "few"
        few.mkdir()
        for n in range(SCENES):
            shutil.copy(root / "large" / f"v{n}.mp4", few)
        bench_loading(VideoSet("mp4, 480x320", VideoSource(few), VIDEO_FRAMES), root, args.rounds)


if __name__ == "__main__":
    main()
