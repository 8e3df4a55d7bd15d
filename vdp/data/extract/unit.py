"""Decode one unit of videos into shards, with a journal from which an interrupted run resumes."""

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vdp.core.files import locked
from vdp.data.extract.cut import cut_clips
from vdp.data.extract.plan import UNUSABLE, ExtractJob, ExtractPolicy, Skipped, Unit, error_line
from vdp.data.sources.protocols import LeftOut
from vdp.data.stores.clips import Shard, ShardWriter, shard_file

UNIT, JOURNAL = "unit.json", "journal.json"
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError)  # raised by a damaged journal or array


@dataclass(frozen=True)
class UnitResult:
    """Shards of a unit, height and width of its clips (None without clips), and what is in no clip."""

    shards: list[Shard]
    size: tuple[int, int] | None
    skipped: list[Skipped]
    left_out: list[LeftOut]


@dataclass
class _Progress:
    writer: ShardWriter
    item: int  # number of the current video
    clips: int  # clips of it written so far
    mark: list[int]  # of the writer, before the current video
    skipped: list[Skipped]
    left_out: list[LeftOut]


def decode_unit(
    job: ExtractJob,
    unit: Unit,
    policy: ExtractPolicy,
    advance: Callable[[int], object],
    check_stop: Callable[[], None],
) -> UnitResult:
    """Decode the videos of a unit; continue after the last full shard of an earlier run.

    A video that cannot be used yields no clips. Where it may not be skipped, decoding ends there and the next
    run reads it again. `advance` is called with the number of videos done, `check_stop` for every clip; it
    raises to stop the run.
    """
    folder, items = unit.folder, unit.items
    with locked(folder.with_suffix(".lock")):  # a worker of a killed run may still be running
        folder.mkdir(exist_ok=True)
        result = _read_result(folder)
        if result is not None:
            advance(len(items))
            return result
        (folder / UNIT).unlink(missing_ok=True)
        progress = _read_journal(folder, policy.shard_mb)
        writer = progress.writer
        for number in range(progress.item, len(items)):
            if not progress.clips:
                progress.mark = writer.mark()
            reason = _append_video(job, items[number], progress, folder, check_stop)
            if reason:
                writer.rollback(progress.mark)
                entry = {"video": items[number], "reason": reason}
                if not policy.skip:
                    progress.item, progress.clips = number, 0
                    _write_journal(folder, progress)
                    writer.close()
                    return UnitResult([], None, [*progress.skipped, entry], [])
                progress.skipped.append(entry)
            progress.item, progress.clips = number + 1, 0
            advance(1)
        writer.close()
        result = UnitResult(writer.shards, writer.size, progress.skipped, progress.left_out)
        _write_json(folder / UNIT, asdict(result))
        (folder / JOURNAL).unlink(missing_ok=True)
        return result


def _append_video(
    job: ExtractJob, item: str, progress: _Progress, folder: Path, check_stop: Callable[[], None]
) -> str | None:
    """Append the clips of a video that are not written yet; return the reason if it cannot be used."""
    clips = cut_clips(job.source, item, job.rule)
    for number in range(sys.maxsize):
        try:
            clip = next(clips)
        except StopIteration as end:
            progress.left_out += end.value
            return None
        except UNUSABLE as error:
            return error_line(job.source.label(item), error)
        check_stop()
        if number < progress.clips:
            continue
        new_shard = progress.writer.append(clip)
        progress.clips = number + 1
        if new_shard:
            _write_journal(folder, progress)
    return None


def _write_journal(folder: Path, progress: _Progress) -> None:
    progress.writer.mark()  # flush: the journal must not be ahead of the shards
    entry = {
        "item": progress.item,
        "clips": progress.clips,
        "mark": progress.mark,
        "skipped": progress.skipped,
        "left_out": [asdict(entry) for entry in progress.left_out],
        "shards": [asdict(shard) for shard in progress.writer.shards],
    }
    _write_json(folder / JOURNAL, entry)


def _read_journal(folder: Path, shard_mb: int) -> _Progress:
    """State of an interrupted unit; the start where the journal or a shard is missing or damaged."""
    with suppress(*DAMAGED):
        entry = json.loads((folder / JOURNAL).read_text())
        writer = ShardWriter(folder, shard_mb, [Shard(**shard) for shard in entry["shards"]])
        left_out = [LeftOut(**one) for one in entry["left_out"]]
        return _Progress(writer, entry["item"], entry["clips"], entry["mark"], entry["skipped"], left_out)
    return _Progress(ShardWriter(folder, shard_mb), 0, 0, [], [], [])


def _read_result(folder: Path) -> UnitResult | None:
    """Result of a complete unit; None where a file is missing or damaged.

    A run may have been killed while it moved the shards, or a machine before they were on its disk.
    """
    with suppress(*DAMAGED):
        entry = json.loads((folder / UNIT).read_text())
        shards = [Shard(**shard) for shard in entry["shards"]]
        for number, shard in enumerate(shards):
            for part in shard.parts:
                array = np.load(folder / shard_file(part, number), mmap_mode="r")
                if len(array) != len(shard.names):
                    return None
        size = tuple(entry["size"]) if entry["size"] else None
        return UnitResult(shards, size, entry["skipped"], [LeftOut(**one) for one in entry["left_out"]])
    return None


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value))
    new.replace(path)
