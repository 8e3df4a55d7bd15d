"""Decode a source into a clip store, many items at once, whatever the size of the source."""

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
from tqdm import tqdm

from vdp.data.clips import Clip, ClipStore, write_clips
from vdp.data.sources.detect import Source
from vdp.data.sources.rule import ClipRule

AHEAD = 32  # items decoded before they are written: a bound on the space that is used between


def decoding_pool() -> ProcessPoolExecutor:
    """A process for each core this process may use. Spawned: OpenCV's threads do not survive a fork."""
    workers = min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16
    )
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=quiet_decoder)


def quiet_decoder() -> None:
    """One thread for each process, and no messages of OpenCV's own: a bad file is reported by name."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    cv2.setNumThreads(1)


def extract_clips(
    source: Source, rule: ClipRule, folder: Path, shard_mb: int, pool: Executor, label: str
) -> ClipStore:
    """Decode every item of a source in `pool` and write its clips, in the source's order, to a store.

    A worker passes its clips on by way of a store of its own beside `folder`, not through memory: one long
    video may decode to more than fits there.

    Raises:
        ValueError: for an item that cannot be used, naming the file; `folder` is then left as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.decoded.") as scratch:
        clips = _decoded(source, rule, Path(scratch), shard_mb, pool, label)
        try:
            return write_clips(folder, clips, shard_mb)
        finally:
            clips.close()


def _decoded(
    source: Source, rule: ClipRule, scratch: Path, shard_mb: int, pool: Executor, label: str
) -> Generator[Clip, None, None]:
    pending: deque[Future[Path]] = deque()
    items = source.items()
    try:
        with tqdm(total=len(items), desc=label, unit="video") as bar:
            for number, item in enumerate(items):
                pending.append(pool.submit(_decode_item, source, item, rule, scratch / str(number), shard_mb))
                if len(pending) >= AHEAD:
                    yield from _take(pending.popleft().result())
                    bar.update()
            while pending:
                yield from _take(pending.popleft().result())
                bar.update()
    finally:
        for future in pending:
            future.cancel()
        for future in pending:  # a worker still at its item must be done before its scratch folder goes
            if not future.cancelled():
                future.exception()


def _decode_item(source: Source, item: str, rule: ClipRule, folder: Path, shard_mb: int) -> Path:
    write_clips(folder, source.read(item, rule), shard_mb)
    return folder


def _take(folder: Path) -> Iterator[Clip]:
    store = ClipStore(folder)
    for index in range(len(store)):
        yield store.clip(index)
    shutil.rmtree(folder)
