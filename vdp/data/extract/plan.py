"""Plan an extraction: units of about one shard of videos, each named after a hash of its inputs."""

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import av
import cv2

from vdp.core.errors import UserError, one_line, printable
from vdp.data.extract.cut import clip_stem
from vdp.data.sources.joined import SpanSource
from vdp.data.sources.protocols import ClipRule, LeftOut, Pace, Source
from vdp.data.stores.clips import FORMAT
from vdp.data.video.decode import frame_rate

UNITS = 64  # units of a split: enough to keep every process busy and to make a stop cheap ...
MIN_UNIT_MB = 16  # ... but none smaller than this
SAMPLED_HEADERS = 64  # videos whose headers are read to estimate the size of a split
UNUSABLE = (ValueError, OSError, cv2.error, MemoryError, RecursionError)  # raised for an unusable video

Skipped = dict[str, str]  # `video` and `reason`


@dataclass(frozen=True)
class ExtractJob:
    """One split to extract."""

    source: Source
    items: Sequence[str]  # the videos of the source that belong to the split
    rule: ClipRule
    key: str  # of params.yaml, for messages
    left_out: Sequence[LeftOut] = ()  # files of the source that are in no video of a split


@dataclass(frozen=True)
class ExtractPolicy:
    """Settings of an extraction, from section `extract_frames`."""

    shard_mb: int  # maximum size of a shard, in MiB of frames
    skip: bool  # skip a video that cannot be used and list it in the manifest, or stop
    max_bad_share: float  # largest share of a split's videos that may be skipped
    workers: int  # processes; 0: one per core; 1: the calling process


@dataclass(frozen=True)
class Unit:
    """Consecutive videos of one split and the folder they are decoded to."""

    split: str
    items: list[str]
    folder: Path


def plan_units(
    jobs: Mapping[str, ExtractJob], work: Path, policy: ExtractPolicy
) -> tuple[list[Unit], dict[str, list[Skipped]]]:
    """Split every job into units; return them and, by split, the videos skipped before any is read."""
    units: list[Unit] = []
    skipped: dict[str, list[Skipped]] = {}
    code = _code_hash()
    for split, job in jobs.items():
        items, skipped[split] = unique_stems(job)
        check_skipped(job, skipped[split], policy)
        for part in split_items(job, items, policy.shard_mb):
            name = unit_hash(code, job, part, policy.shard_mb)
            units.append(Unit(split, part, work / f"{split.replace('/', '_')}-{name}"))
    return units, skipped


def check_skipped(job: ExtractJob, skipped: Sequence[Skipped], policy: ExtractPolicy) -> None:
    """Raise a UserError for the first skipped video unless the policy allows it."""
    if skipped and not policy.skip:
        hint = "or set extract_frames.on_bad_video to skip; decoded videos are kept"
        raise UserError(f"{job.key}: {skipped[0]['reason']} ({hint})")


def error_line(label: str, error: Exception) -> str:
    """Return one line with the name of the video and the error."""
    label = printable(label)
    if isinstance(error, MemoryError):
        text = "does not fit into memory"
    elif isinstance(error, cv2.error):
        text = f"OpenCV cannot read it ({' '.join(str(error.err).split())})"
    elif isinstance(error, ValueError | OSError):
        text = one_line(error)
    else:
        text = "is nested too deeply"
    return text if label in text else f"{label}: {text}"


def files_hash(source: Source, items: Sequence[str]) -> str:
    """Hash the videos' names and file sizes; the result does not depend on the path of the source."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(os.fsencode(item) + b"\0")
        with suppress(ValueError, OSError):  # reported when the video is read
            for path in source.files(item):
                digest.update(os.fsencode(path.name) + f"\0{path.stat().st_size}\0".encode())
    return digest.hexdigest()


def unique_stems(job: ExtractJob) -> tuple[list[str], list[Skipped]]:
    """Videos whose clips have unique names, and the others."""
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


def split_items(job: ExtractJob, items: Sequence[str], shard_mb: int) -> Iterator[list[str]]:
    """Group consecutive videos by estimated size: a shard each, or less where the split is small."""
    rule = job.rule
    clip_bytes = rule.frames * rule.height * rule.width * 3
    clips = {item: max(1.0, count) for item, count in _sampled_clips(job, items).items()}
    mean = fmean(clips.values()) if clips else 1.0
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


def estimate_clips(job: ExtractJob) -> float | None:
    """Estimate how many clips a job cuts, from the headers of at most about `SAMPLED_HEADERS` videos.

    None where no header has a number of frames.
    """
    clips = _sampled_clips(job, job.items)
    return fmean(clips.values()) * len(job.items) if clips else None


def _sampled_clips(job: ExtractJob, items: Sequence[str]) -> dict[str, float]:
    """Estimated number of clips of a sample of videos, without those of unknown length."""
    sampled = items[:: max(1, len(items) // SAMPLED_HEADERS)]
    clips = {item: _clips_of(job.source, item, job.rule) for item in sampled}
    return {item: count for item, count in clips.items() if count is not None}


def _clips_of(source: Source, item: str, rule: ClipRule) -> float | None:
    if source.precut:
        return 1.0
    try:
        count = selected_frames(source, item, rule.pace)
    except UNUSABLE:  # reported when the video is read
        return None
    return max(0.0, 1 + (count - rule.frames) // rule.stride) if count else None


def selected_frames(source: Source, item: str, pace: Pace) -> int:
    """Estimate how many frames of a video are selected, without decoding; 0 if unknown."""
    if isinstance(source, SpanSource):
        whole = selected_frames(source.source, item, pace)
        ends = [end for end in (source.stop, whole) if end]
        return max(0, min(ends) - source.start) if ends else 0
    later = max(0, source.count(item) - pace.offset)
    if pace.fps is None:
        return -(-later // pace.interval)
    rate = next((rate for file in source.files(item) if (rate := frame_rate(file))), 0.0) if later else 0.0
    return round(later * min(1.0, pace.fps / rate)) if rate else 0


def unit_hash(code: str, job: ExtractJob, items: Sequence[str], shard_mb: int) -> str:
    """Hash all inputs of a unit."""
    source = job.source
    digest = hashlib.sha256()
    for part in (code, type(source).__name__, repr(asdict(job.rule)), str(shard_mb)):
        digest.update(part.encode() + b"\0")
    for item in items:
        digest.update(os.fsencode(item) + b"\0" + os.fsencode(source.label(item)) + b"\0")
        with suppress(ValueError, OSError):  # reported when the video is read
            files = source.files(item)
            if not files:  # a change cannot be detected: never reuse
                digest.update(secrets.token_bytes())
            for path in files:
                status = path.stat()
                digest.update(os.fsencode(path) + f"\0{status.st_size} {status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def _code_hash() -> str:
    """Hash the code that makes clips; units of other code are not reused."""
    digest = hashlib.sha256(f"{FORMAT} {cv2.__version__} {av.__version__}".encode())
    data = Path(__file__).parents[1]
    folders = [data / name for name in ("extract", "sources", "stores", "video")] + [data.parent / "core"]
    for path in sorted(path for folder in folders for path in folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
