"""Decode sources into clip stores: in many processes, in bounded memory, and from where it was interrupted.

The videos of each split are parted, in their order, into units of about one shard each. A process decodes one
unit at a time into a folder of its own under `work`, named after a hash of all that its bytes depend on. So a
complete unit is never decoded twice, whatever stopped the run before; one that was interrupted goes on after
its last full shard. When all units are there, their shards are moved to the stores.
"""

import hashlib
import json
import multiprocessing
import os
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np
from tqdm import tqdm

from vdp.core.errors import UserError, one_line, printable
from vdp.core.files import locked, replacing
from vdp.data.extract.cut import clip_stem, cut_clips
from vdp.data.sources.protocols import ClipRule, Source
from vdp.data.stores.clips import FORMAT, ClipStore, Shard, ShardWriter, join_shards, shard_file

UNITS = 64  # parts of a source, so that every process has work to the end and a stop costs little ...
MIN_UNIT_MB = 16  # ... but no smaller than this
SAMPLED = 64  # videos of a source whose headers are read to guess the size of all
MAX_WORKERS = 16  # for workers=0
NAMED = 5  # skipped videos to name on the screen; all are in the manifest
POLL_SECONDS = 0.2  # between looks at the progress of the workers

UNIT, JOURNAL, LOCK = "unit.json", "journal.json", "lock"
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError)  # what reading a broken note or array raises
UNUSABLE = (ValueError, OSError, cv2.error, MemoryError, RecursionError)  # what a broken video may raise


@dataclass(frozen=True)
class Job:
    """One split to extract: some videos of a source, and the key of params.yaml that names it."""

    source: Source
    items: Sequence[str]
    rule: ClipRule
    key: str


@dataclass(frozen=True)
class Policy:
    """How a run of `extract` works.

    Attributes:
        shard_mb: MiB of frames in one shard, at most.
        skip: whether to go on after a video that cannot be used, which is then noted in the manifest.
        max_bad_share: largest share of a split's videos that may be skipped.
        workers: processes; 0: one for each core; 1: this process.
    """

    shard_mb: int
    skip: bool
    max_bad_share: float
    workers: int


@dataclass(frozen=True)
class _Unit:
    """Some consecutive videos of one split, and the folder they are decoded to."""

    split: str
    items: list[str]
    folder: Path


@dataclass(frozen=True)
class _Result:
    """What a unit has given: its shards, the clips' size (None without clips), and what was skipped."""

    shards: list[Shard]
    size: tuple[int, int] | None
    skipped: list[dict[str, str]]


def extract(jobs: Mapping[str, Job], out: Path, work: Path, policy: Policy) -> dict[str, ClipStore]:
    """Decode every video of every split and write a clip store for each, in the sources' order.

    The bytes of the stores do not depend on the number of processes, nor on interruptions.

    Args:
        jobs: by split, which is also the folder's path below `out`.
        out: replaced as a whole when all splits are decoded.
        work: what is decoded so far; it is kept when the run fails or is interrupted, and emptied at the end.
        policy: see there.

    Raises:
        UserError: for a video that cannot be used and may not be skipped, for too many of them, or for a
            split without clips; one line that names the file.
    """
    if multiprocessing.parent_process() is not None:
        # a script without a guard is run again by each process that it starts, which would wait for the lock
        raise UserError(
            "extract was called by one of its own processes: call it below if __name__ == '__main__'"
        )
    quiet_decoder()  # before the first header is read: FFmpeg asks once
    with locked(work / LOCK, "another extraction is at work in this checkout; waiting for it to end"):
        units, skipped = _plan(jobs, work, policy)
        results = _run(jobs, units, policy)
        for split, job in jobs.items():
            mine = [result for unit, result in zip(units, results, strict=True) if unit.split == split]
            skipped[split] += [entry for result in mine for entry in result.skipped]
            _report(job, skipped[split], policy)
        with replacing(out) as part:
            for split, job in jobs.items():
                groups = [
                    (unit.folder, result.shards)
                    for unit, result in zip(units, results, strict=True)
                    if unit.split == split
                ]
                (part / split).mkdir(parents=True)
                size, files = (job.rule.height, job.rule.width), files_hash(job.source, job.items)
                join_shards(part / split, groups, size, skipped[split], files)
        for path in work.iterdir():  # also what runs with other params have left
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
    return {split: ClipStore(out / split) for split in jobs}


def files_hash(source: Source, items: Sequence[str]) -> str:
    """A hash of the names of some videos and the sizes of their files, the same wherever they lie."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(os.fsencode(item) + b"\0")
        with suppress(ValueError, OSError):  # told when it is read
            for path in source.files(item):
                digest.update(os.fsencode(path.name) + f"\0{path.stat().st_size}\0".encode())
    return digest.hexdigest()


# --- The plan --------------------------------------------------------------------------------------------


def _plan(
    jobs: Mapping[str, Job], work: Path, policy: Policy
) -> tuple[list[_Unit], dict[str, list[dict[str, str]]]]:
    """The units of all splits, and the videos that are left out before any is read."""
    units: list[_Unit] = []
    skipped: dict[str, list[dict[str, str]]] = {}
    code = _code_hash()
    for split, job in jobs.items():
        items, skipped[split] = _own_names(job)
        if skipped[split] and not policy.skip:
            raise UserError(_advice(job, skipped[split][0]["reason"]))
        for part in _parted(job, items, policy.shard_mb):
            name = _unit_hash(code, job, part, policy.shard_mb)
            units.append(_Unit(split, part, work / f"{split.replace('/', '_')}-{name}"))
    return units, skipped


def _own_names(job: Job) -> tuple[list[str], list[dict[str, str]]]:
    """The videos whose clips have names of their own, and the others."""
    seen: dict[str, str] = {}
    kept, skipped = [], []
    for item in job.items:
        stem = clip_stem(item)
        if stem in seen:
            label, other = printable(job.source.label(item)), printable(job.source.label(seen[stem]))
            reason = f"{label}: its clips would have the same names as those of {other}; rename one of them"
            skipped.append({"video": item, "reason": reason})
        else:
            seen[stem] = item
            kept.append(item)
    return kept, skipped


def _parted(job: Job, items: Sequence[str], shard_mb: int) -> Iterator[list[str]]:
    """Consecutive videos whose clips fill about a shard, or a fraction of it where all fill only a few."""
    rule, source = job.rule, job.source
    clip_bytes = rule.frames * rule.height * rule.width * 3
    counted = list(items[:: max(1, len(items) // SAMPLED)])
    clips = {item: _guess_clips(source, item, rule) for item in counted}
    mean = sum(clips.values()) / max(len(clips), 1)
    total = mean * len(items) * clip_bytes
    target = min(max(total / UNITS, MIN_UNIT_MB * 2**20), shard_mb * 2**20)
    part: list[str] = []
    size = 0.0
    for item in items:
        weight = clips.get(item, mean) * clip_bytes
        if part and size + weight > target:
            yield part
            part, size = [], 0.0
        part.append(item)
        size += weight
    if part:
        yield part


def _guess_clips(source: Source, item: str, rule: ClipRule) -> float:
    if source.precut:
        return 1.0
    try:
        count = source.count(item)
    except UNUSABLE:  # told when it is read
        return 1.0
    taken = (count - rule.pace.offset) / rule.pace.interval
    return max(1.0, 1 + (taken - rule.frames) // rule.stride)


def _unit_hash(code: str, job: Job, items: Sequence[str], shard_mb: int) -> str:
    """A name for a unit that changes with whatever its bytes depend on."""
    source = job.source
    digest = hashlib.sha256()
    for part in (code, type(source).__name__, repr(asdict(job.rule)), str(shard_mb)):
        digest.update(part.encode() + b"\0")
    for item in items:
        digest.update(os.fsencode(item) + b"\0" + os.fsencode(source.label(item)) + b"\0")
        with suppress(ValueError, OSError):  # told when it is read
            files = source.files(item)
            if not files:  # nothing to know a change by
                digest.update(secrets.token_bytes())
            for path in files:
                status = path.stat()
                digest.update(os.fsencode(path) + f"\0{status.st_size} {status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def _code_hash() -> str:
    """Hash the code that makes clips; units made by other code are not reused."""
    digest = hashlib.sha256(f"{FORMAT} {cv2.__version__}".encode())
    data = Path(__file__).parents[1]
    parts = [data / part for part in ("extract", "sources", "stores", "video")] + [data.parent / "core"]
    for path in sorted(path for part in parts for path in part.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


# --- The processes ---------------------------------------------------------------------------------------


def _run(jobs: Mapping[str, Job], units: Sequence[_Unit], policy: Policy) -> list[_Result]:
    """The results of all units, in their order."""
    workers = min(policy.workers or min(_cores(), MAX_WORKERS), len(units))
    total = sum(len(unit.items) for unit in units)
    if workers > 1:
        with _bar(total) as bar:
            return _run_parallel(jobs, units, policy, workers, bar)
    results = []
    with _libraries_quiet(), _bar(total) as bar:
        for unit in units:
            result = extract_unit(jobs[unit.split], unit.items, unit.folder, policy)
            results.append(_checked(jobs[unit.split], result, policy))
            bar.update(len(unit.items))
    return results


def _bar(videos: int) -> tqdm:
    return tqdm(total=videos, desc="extract", unit="video", file=sys.stderr, mininterval=0.5)


def _run_parallel(
    jobs: Mapping[str, Job], units: Sequence[_Unit], policy: Policy, workers: int, bar: tqdm
) -> list[_Result]:
    context = multiprocessing.get_context("spawn")  # OpenCV's threads do not survive a fork
    signs = _Signs(jobs, context.Value("Q", 0), context.Event())
    pool = ProcessPoolExecutor(workers, context, _start_worker, (signs,))
    try:
        with _interrupts_held():
            futures = {pool.submit(_extract_in_worker, unit, policy): unit for unit in units}
        waiting = set(futures)
        while waiting:
            finished, waiting = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            bar.update(signs.videos.value - bar.n)
            for future in finished:
                _checked(jobs[futures[future].split], future.result(), policy)
        return [future.result() for future in futures]
    except BrokenProcessPool:
        raise UserError(
            "extract_frames: a process that decodes was killed, perhaps for want of memory; lower "
            "extract_frames.workers and run again: what is decoded is kept"
        ) from None
    finally:
        signs.stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits while workers are started: they are born without it, as the parent tells them to stop."""
    if threading.current_thread() is not threading.main_thread():  # which alone may say so
        yield
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@dataclass(frozen=True)
class _Signs:
    """What a worker is sent once, and what it shares with its parent: videos read so far, and a stop."""

    jobs: Mapping[str, Job]
    videos: "Synchronized[int]"
    stop: Event


_signs: _Signs | None = None  # in a worker


def _start_worker(signs: _Signs) -> None:
    global _signs
    _signs = signs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted as well, and tells
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet_decoder()
    _quiet_libraries()


def _end_with_parent() -> None:
    """End a worker whose parent was killed, also one that waits for work; what is in the journal stays."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _extract_in_worker(unit: _Unit, policy: Policy) -> _Result:
    assert _signs is not None
    return extract_unit(_signs.jobs[unit.split], unit.items, unit.folder, policy)


def _go_on() -> None:
    """Leave work that nobody wants any more; what is noted in the journal stays."""
    if _signs is not None and _signs.stop.is_set():
        raise _Stopped


class _Stopped(Exception):
    """The parent has told a worker to stop."""


def _quiet_libraries() -> None:
    """Drop what C libraries print about a damaged picture; Python's own messages go where they went."""
    if _writes_to(sys.stderr, 2):
        sys.stderr.flush()
        # escapes: the name of a file need not be valid text
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


@contextmanager
def _libraries_quiet() -> Iterator[None]:
    """`_quiet_libraries` for a while."""
    before, kept = sys.stderr, os.dup(2)
    _quiet_libraries()
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        if sys.stderr is not before:
            sys.stderr.close()
            sys.stderr = before


def _writes_to(file: TextIO, descriptor: int) -> bool:
    try:
        return file.fileno() == descriptor
    except (OSError, ValueError):  # a buffer, a closed file
        return False


def quiet_decoder() -> None:
    """One thread for each process, and no messages of OpenCV's own: a bad file is reported by name."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    cv2.setNumThreads(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- One unit --------------------------------------------------------------------------------------------


def extract_unit(job: Job, items: Sequence[str], folder: Path, policy: Policy) -> _Result:
    """Decode some videos into the shards of one folder, from where an earlier try stopped.

    A video that cannot be used leaves nothing behind, however far it was read. Where it may not be skipped,
    its unit ends with it; it stays to be read again.
    """
    with locked(folder.with_suffix(".lock")):  # a worker of a run that was killed may still be at it
        folder.mkdir(exist_ok=True)
        if (folder / UNIT).is_file():
            result = _read_result(folder)
            if result is not None:
                _count(len(items))
                return result
            (folder / UNIT).unlink()
        note = _read_journal(folder, policy.shard_mb)
        for number in range(note.item, len(items)):
            if not note.clips:
                note.mark = note.writer.mark()
            reason = _extract_video(job, items[number], note, folder)
            if reason:
                note.writer.take_back(note.mark)
                entry = {"video": items[number], "reason": reason}
                if not policy.skip:
                    note.item, note.clips = number, 0
                    _write_journal(folder, note)
                    note.writer.close()
                    return _Result([], None, [*note.skipped, entry])
                note.skipped.append(entry)
            note.item, note.clips = number + 1, 0
            _count(1)
        note.writer.close()
        result = _Result(note.writer.shards, note.writer.size, note.skipped)
        _write_json(folder / UNIT, asdict(result))
        (folder / JOURNAL).unlink(missing_ok=True)
        return result


@dataclass
class _Note:
    """How far a unit is: its writer, its video, the clips of that so far, and what was there before it."""

    writer: ShardWriter
    item: int
    clips: int
    mark: list[int]
    skipped: list[dict[str, str]]


def _extract_video(job: Job, item: str, note: _Note, folder: Path) -> str | None:
    """Append a video's clips, but for those that are there; the reason if it cannot be used."""
    clips = cut_clips(job.source, item, job.rule)
    for number in range(sys.maxsize):
        try:
            clip = next(clips, None)
        except UNUSABLE as error:
            return _reason(job.source.label(item), error)
        if clip is None:
            return None
        _go_on()
        if number < note.clips:
            continue
        begun = note.writer.append(clip)
        note.clips = number + 1
        if begun:
            _write_journal(folder, note)
    return None


def _reason(label: str, error: Exception) -> str:
    """One line that names the video and what is wrong with it."""
    label = printable(label)
    if isinstance(error, MemoryError):
        text = "needs more memory than there is"
    elif isinstance(error, cv2.error):
        text = f"OpenCV cannot read it ({' '.join(str(error.err).split())})"
    elif isinstance(error, ValueError | OSError):
        text = one_line(error)
    else:
        text = "is nested too deeply"
    return text if label in text else f"{label}: {text}"


def _count(videos: int) -> None:
    if _signs is not None:
        with _signs.videos.get_lock():
            _signs.videos.value += videos


def _write_journal(folder: Path, note: _Note) -> None:
    note.writer.mark()  # what is noted must be written
    entry = {
        "item": note.item,
        "clips": note.clips,
        "mark": note.mark,
        "skipped": note.skipped,
        "shards": [asdict(shard) for shard in note.writer.shards],
    }
    _write_json(folder / JOURNAL, entry)


def _read_journal(folder: Path, shard_mb: int) -> _Note:
    """The state in which a unit was left, or its start."""
    with suppress(*DAMAGED):  # or files are shorter than was noted, as after a power cut: begin again
        entry = json.loads((folder / JOURNAL).read_text())
        writer = ShardWriter(folder, shard_mb, [Shard(**shard) for shard in entry["shards"]])
        return _Note(writer, entry["item"], entry["clips"], entry["mark"], entry["skipped"])
    return _Note(ShardWriter(folder, shard_mb), 0, 0, [], [])


def _read_result(folder: Path) -> _Result | None:
    """What a complete unit has given; None if a file is missing or damaged: a run may have been killed while
    it moved them, or a machine have stopped before they were on its disk."""
    with suppress(*DAMAGED):
        entry = json.loads((folder / UNIT).read_text())
        shards = [Shard(**shard) for shard in entry["shards"]]
        for number, shard in enumerate(shards):
            for part in shard.parts:
                array = np.load(folder / shard_file(part, number), mmap_mode="r")
                if len(array) != len(shard.names):
                    return None
        size = tuple(entry["size"]) if entry["size"] else None
        return _Result(shards, size, entry["skipped"])
    return None


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value))
    new.replace(path)


# --- What could not be used ------------------------------------------------------------------------------


def _checked(job: Job, result: _Result, policy: Policy) -> _Result:
    if result.skipped and not policy.skip:
        raise UserError(_advice(job, result.skipped[0]["reason"]))
    return result


def _advice(job: Job, reason: str) -> str:
    return f"{job.key}: {reason} (or set extract_frames.on_bad_video to skip; what is decoded is kept)"


def _report(job: Job, skipped: Sequence[Mapping[str, str]], policy: Policy) -> None:
    """Name what was skipped.

    Raises:
        UserError: if it is more than the policy allows, or all there is.
    """
    if not skipped:
        return
    for entry in skipped[:NAMED]:
        print(f"skipped: {entry['reason']}", file=sys.stderr)
    if len(skipped) > NAMED:
        print(f"skipped: {len(skipped) - NAMED} more, named in the manifest", file=sys.stderr)
    share, count = len(skipped) / len(job.items), f"{len(skipped)} of {len(job.items)} videos"
    if share == 1:
        raise UserError(f"{job.key}: none of its {len(skipped)} videos can be used: {skipped[0]['reason']}")
    if share > policy.max_bad_share:
        raise UserError(
            f"{job.key}: {count} cannot be used, more than extract_frames.max_bad_share="
            f"{policy.max_bad_share:g} allows; repair them or raise it; the first: {skipped[0]['reason']}"
        )
