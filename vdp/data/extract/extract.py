"""Decode sources into clip stores: in many processes, in bounded memory, and resumable.

The videos of a split are grouped, in order, into units of about one shard. A process decodes one unit at a
time into a folder under `work` that is named after a hash of all inputs of the unit. A complete unit is never
decoded again; an interrupted one continues after its last full shard. At the end all shards are moved to the
stores.
"""

import multiprocessing
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vdp.core.errors import UserError
from vdp.core.files import locked, replacing
from vdp.data.extract.plan import ExtractJob, ExtractPolicy, Skipped, Unit, files_hash, plan_units
from vdp.data.extract.workers import run_units
from vdp.data.stores.clips import ClipStore, Shard, join_shards
from vdp.data.video.decode import quiet_decoder

LOCK = "lock"
MAX_PRINTED = 5  # skipped videos printed; the manifest lists all


@dataclass(frozen=True)
class Share:
    """The units that one of several processes decodes: every `count`-th, from number `rank` on."""

    rank: int
    count: int
    wait: Callable[[], object]  # for the other processes

    def of(self, units: Sequence[Unit]) -> Sequence[Unit]:
        return units[self.rank :: self.count]


def extract(
    jobs: Mapping[str, ExtractJob], out: Path, work: Path, policy: ExtractPolicy, share: Share | None = None
) -> dict[str, ClipStore]:
    """Decode every video of every split and write a clip store for each, in the order of the source.

    The bytes of the stores depend neither on the number of processes nor on interruptions.

    Args:
        jobs: by split, which is also the path of its store below `out`.
        out: replaced as a whole when all splits are decoded.
        work: folder of decoded units; kept when the run fails or is interrupted, emptied at the end.
        share: of this process, which starts workers of its own; process 0 writes the stores. None: all.

    Returns:
        The stores by split; empty in other processes than 0.

    Raises:
        UserError: for a video that cannot be used and may not be skipped, for too many skipped videos, or
            for a split without clips; one line that names the file.
    """
    if multiprocessing.parent_process() is not None:
        # without a main guard a script runs again in each process that it starts, and would wait for the lock
        raise UserError(
            "extract: called in one of its worker processes; call it below if __name__ == '__main__'"
        )
    quiet_decoder()  # before the first header is read: FFmpeg reads the variable once
    if share is not None and share.rank > 0:
        share.wait()  # until process 0 holds the lock
        run_units(jobs, share.of(plan_units(jobs, work, policy)[0]), policy)
        share.wait()
        return {}
    with locked(work / LOCK, "another extraction is running in this checkout; waiting for it to end"):
        units, skipped = plan_units(jobs, work, policy)
        if share is not None:
            share.wait()
            run_units(jobs, share.of(units), policy)
            share.wait()
            policy = replace(policy, workers=1)  # all units are decoded
        results = run_units(jobs, units, policy)
        left_out = {split: list(job.left_out) for split, job in jobs.items()}
        shards: dict[str, list[tuple[Path, Sequence[Shard]]]] = {split: [] for split in jobs}
        for unit, result in zip(units, results, strict=True):
            shards[unit.split].append((unit.folder, result.shards))
            skipped[unit.split] += result.skipped
            left_out[unit.split] += result.left_out
        for split, job in jobs.items():
            _report_skipped(job, skipped[split], policy)
        with replacing(out) as part:
            for split, job in jobs.items():
                (part / split).mkdir(parents=True)
                size, files = (job.rule.height, job.rule.width), files_hash(job.source, job.items)
                rest = [asdict(entry) for entry in left_out[split]]
                join_shards(part / split, shards[split], size, skipped[split], files, rest)
        for path in work.iterdir():  # including units of other params
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
    return {split: ClipStore(out / split) for split in jobs}


def _report_skipped(job: ExtractJob, skipped: Sequence[Skipped], policy: ExtractPolicy) -> None:
    """Print the skipped videos of a split; raise a UserError if the policy does not allow them."""
    if not skipped:
        return
    for entry in skipped[:MAX_PRINTED]:
        print(f"skipped: {entry['reason']}", file=sys.stderr)
    if len(skipped) > MAX_PRINTED:
        print(f"skipped: {len(skipped) - MAX_PRINTED} more, listed in the manifest", file=sys.stderr)
    share, count = len(skipped) / len(job.items), f"{len(skipped)} of {len(job.items)} videos"
    if share == 1:
        raise UserError(f"{job.key}: none of its {len(skipped)} videos can be used: {skipped[0]['reason']}")
    if share > policy.max_bad_share:
        raise UserError(
            f"{job.key}: {count} cannot be used, more than extract_frames.max_bad_share="
            f"{policy.max_bad_share:g} allows; repair them or raise it; the first: {skipped[0]['reason']}"
        )
