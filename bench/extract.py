"""Speed of cutting and loading clips: `python -m bench.extract --help`.

Reads params.yaml (section simulate) of the working directory for the content of the videos; writes to a
temporary folder. Rates are medians over rounds in which the compared rows take turns.

Extraction: videos to clips of 160x240, in decoded frames per second, beside its upper bound: reading the same
files with PyAV in one thread (`cv2.imread` for pictures) and discarding the frames, in one process (the first
ratio is to this rate times the number of processes) and in as many processes in parallel (the second).
The start of the processes counts. Memory is the largest sum over all processes at one time.

Loading: a random clip from the store, beside decoding it from a random position of its video, in one process.

`--against CHECKOUT` compares the extraction with the code in another folder instead, in one process each that
take turns: frames per CPU second, which depend least on other work on the machine, and the ratio to the
other's.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import av
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


# run in the folder of a checkout: for each line of kind, folder, interval, out, work it prints CPU seconds
SIDE = """
import sys, time
from pathlib import Path
from vdp.data.extract.extract import ExtractJob, ExtractPolicy, extract
from vdp.data.sources.competition import CompetitionSource
from vdp.data.sources.protocols import ClipRule, Pace
from vdp.data.sources.videos import VideoSource
for line in sys.stdin:
    kind, folder, interval, out, work = line.rstrip("\\n").split("\\t")
    source = {"VideoSource": VideoSource, "CompetitionSource": CompetitionSource}[kind](Path(folder))
    rule = ClipRule(FRAMES, FRAMES, HEIGHT, WIDTH, "crop", Pace(int(interval)), FRAMES)
    policy = ExtractPolicy(SHARD_MB, skip=False, max_bad_share=0.0, workers=1)
    started = time.process_time()
    extract({"clips": ExtractJob(source, source.items(), rule, "bench")}, Path(out), Path(work), policy)
    print(time.process_time() - started, flush=True)
"""


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
        write_video(root / "h264" / f"v{n}.mp4", video, "libx264")
        for k, frame in enumerate(small[:FRAMES]):
            path = root / "pictures" / f"video_{n}" / f"image_{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), frame[:, :, ::-1])
    for n in range(SCENES, count):
        for size in ("large", "small", "h264"):
            shutil.copy(root / size / f"v{n % SCENES}.mp4", root / size / f"v{n}.mp4")
    for n in range(SCENES, count * VIDEO_FRAMES // FRAMES // 2):
        shutil.copytree(root / "pictures" / f"video_{n % SCENES}", root / "pictures" / f"video_{n}")
    return [
        VideoSet("mp4, 480x320, every 6th", VideoSource(root / "large"), VIDEO_FRAMES, interval=6),
        VideoSet("mp4, 480x320, every", VideoSource(root / "large"), VIDEO_FRAMES),
        VideoSet("mp4, 240x160, every", VideoSource(root / "small"), VIDEO_FRAMES),
        VideoSet("H.264, 480x320, every 6th", VideoSource(root / "h264"), VIDEO_FRAMES, interval=6),
        VideoSet("png, 240x160, every", CompetitionSource(root / "pictures"), 1),
    ]


def write_video(path: Path, frames: Sequence[Pixels] | Pixels, codec: str = "mpeg4") -> None:
    """Write an mp4 file, of MPEG-4 part 2 by default, which decodes fastest: the reader is measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, 25)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))
            picture.pts = number
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))


def read_raw(files: Sequence[Path]) -> int:
    """Decode files in one thread and count the frames."""
    quiet_decoder()
    count = 0
    for path in files:
        if path.suffix == ".png":
            count += cv2.imread(str(path)) is not None
            continue
        with av.open(str(path)) as video:
            video.streams.video[0].thread_count = 1
            count += sum(1 for _ in video.decode(video=0))
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
        clip = np.empty((FRAMES, height, width, 3), np.uint8)
        with av.open(str(path)) as video:
            stream = video.streams.video[0]
            stream.thread_count = 1
            start = round(first / 25 / float(stream.time_base))
            video.seek(start, stream=stream)
            frames = (frame for frame in video.decode(stream) if frame.pts >= start)
            for k, frame in enumerate(islice(frames, FRAMES)):
                clip[k] = resize_frame(frame.to_ndarray(format="rgb24"), height, width, "crop")


def bench_against(checkout: Path, sets: Sequence[VideoSet], root: Path, rounds: int) -> None:
    """Print the rates of this code and of another checkout's, in turns."""
    print(f"extraction to {HEIGHT}x{WIDTH} in one process; frames per CPU second")
    print(("{:<27}" + "{:>11}" * 3).format("videos", "other", "this", "ratio"))
    values = {"FRAMES": FRAMES, "HEIGHT": HEIGHT, "WIDTH": WIDTH, "SHARD_MB": SHARD_MB}
    code = "\n".join([*(f"{name} = {value}" for name, value in values.items()), SIDE])
    with ExitStack() as stack:
        sides = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code], cwd=folder, text=True, stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                )
            )
            for folder in (checkout, Path())
        ]  # fmt: skip
        for kind in sets:
            frames = kind.frames_a_file * len(kind.files)
            rates: list[list[float]] = [[], []]
            for number in range(rounds + 1):
                for side, (process, found) in enumerate(zip(sides, rates, strict=True)):
                    seconds = ask(process, kind, root / f"side{side}")
                    if number:  # the first warms up
                        found.append(frames / seconds)
            ratio = statistics.median(this / other for other, this in zip(*rates, strict=True))
            medians = "".join(f"{statistics.median(found):>11.0f}" for found in rates)
            print(f"{kind.name:<27}{medians}{ratio:>11.2f}", flush=True)
        for process in sides:
            assert process.stdin is not None
            process.stdin.close()


def ask(process: "subprocess.Popen[str]", kind: VideoSet, root: Path) -> float:
    """CPU seconds of an extraction in a process that runs `SIDE`."""
    assert process.stdin is not None and process.stdout is not None
    folder = kind.files[0].parents[1 if isinstance(kind.source, CompetitionSource) else 0]
    shutil.rmtree(root, ignore_errors=True)
    (root / "out").mkdir(parents=True)
    fields = (type(kind.source).__name__, folder, kind.interval, root / "out", root / "work")
    process.stdin.write("\t".join(map(str, fields)) + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=45_000, help="of each kind of video; 45,000 take 5 GB")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="folder of another checkout to compare with")
    parser.add_argument("--folder", type=Path, help="folder to write to; default: the temporary folder")
    args = parser.parse_args()
    count = max(SCENES, args.frames // VIDEO_FRAMES)
    quiet_decoder()
    with TemporaryDirectory(dir=args.folder) as scratch:
        root = Path(scratch)
        # rendered in another process, so that the memory of this one is that of an extraction
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            sets = pool.submit(write_videos, root, count).result()
        if args.against:
            bench_against(args.against, sets, root, args.rounds)
            return
        sys.stderr = open(os.devnull, "w")  # progress bars  # noqa: SIM115
        bench_extraction(sets, root, args.workers, args.rounds)
        few = root / "few"
        few.mkdir()
        for n in range(SCENES):
            shutil.copy(root / "large" / f"v{n}.mp4", few)
        bench_loading(VideoSet("mp4, 480x320", VideoSource(few), VIDEO_FRAMES), root, args.rounds)


if __name__ == "__main__":
    main()
