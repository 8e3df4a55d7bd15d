"""Decode units in worker processes: progress, a clean stop, and no messages of C libraries."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event

from tqdm import tqdm

from vdp.core.errors import UserError
from vdp.core.machine import cpu_cores
from vdp.data.extract.plan import ExtractJob, ExtractPolicy, Unit, check_skipped
from vdp.data.extract.unit import UnitResult, decode_unit
from vdp.data.video.decode import quiet_decoder

MAX_WORKERS = 16  # for workers=0
POLL_SECONDS = 0.2  # between two updates of the progress bar


class _Stopped(Exception):
    """Raised in a worker when the run is stopped."""


@dataclass(frozen=True)
class _Shared:
    """State that a worker receives at start: the jobs, a counter of finished videos and a stop flag."""

    jobs: Mapping[str, ExtractJob]
    videos: "Synchronized[int]"
    stop: Event

    def advance(self, videos: int) -> None:
        with self.videos.get_lock():
            self.videos.value += videos

    def check_stop(self) -> None:
        if self.stop.is_set():
            raise _Stopped


_shared: _Shared | None = None  # set in a worker


def run_units(
    jobs: Mapping[str, ExtractJob], units: Sequence[Unit], policy: ExtractPolicy
) -> list[UnitResult]:
    """Decode all units; raise a UserError at an unusable video unless the policy skips it."""
    workers = min(worker_count(policy.workers), len(units))
    total = sum(len(unit.items) for unit in units)
    results = []
    with (
        nullcontext() if workers > 1 else silenced_libraries(),
        tqdm(total=total, desc="extract", unit="video", file=sys.stderr, mininterval=0.5) as bar,
    ):
        if workers > 1:
            return _run_parallel(jobs, units, policy, workers, bar)
        for unit in units:
            job = jobs[unit.split]
            results.append(decode_unit(job, unit, policy, bar.update, lambda: None))
            check_skipped(job, results[-1].skipped, policy)
    return results


def _run_parallel(
    jobs: Mapping[str, ExtractJob], units: Sequence[Unit], policy: ExtractPolicy, workers: int, bar: tqdm
) -> list[UnitResult]:
    context = multiprocessing.get_context("spawn")  # OpenCV's threads do not survive a fork
    shared = _Shared(jobs, context.Value("Q", 0), context.Event())
    pool = ProcessPoolExecutor(workers, context, _start_worker, (shared,))
    try:
        with _interrupts_blocked():
            futures = {pool.submit(_decode_in_worker, unit, policy): unit for unit in units}
        waiting = set(futures)
        while waiting:
            finished, waiting = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            bar.update(shared.videos.value - bar.n)
            for future in finished:
                check_skipped(jobs[futures[future].split], future.result().skipped, policy)
        return [future.result() for future in futures]
    except BrokenProcessPool:
        raise UserError(
            "extract_frames: a worker process was killed, perhaps out of memory; lower "
            "extract_frames.workers and run again: decoded videos are kept"
        ) from None
    finally:
        shared.stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C while workers are started, which inherit this; the parent stops them by the stop flag."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may block signals
        yield
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _start_worker(shared: _Shared) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it and sets the stop flag
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    quiet_decoder()
    _silence_libraries()


def _exit_with_parent() -> None:
    """Exit when the parent was killed, also while waiting for a unit."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _decode_in_worker(unit: Unit, policy: ExtractPolicy) -> UnitResult:
    assert _shared is not None
    return decode_unit(_shared.jobs[unit.split], unit, policy, _shared.advance, _shared.check_stop)


def _silence_libraries() -> None:
    """Discard what C libraries print about damaged pictures; Python's own messages are kept."""
    with suppress(OSError, ValueError):  # raised by fileno of a buffer or a closed file
        if sys.stderr.fileno() == 2:
            sys.stderr.flush()
            # escapes: the name of a file need not be valid text
            sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


@contextmanager
def silenced_libraries() -> Iterator[None]:
    """Discard what C libraries print, as in a worker."""
    before, kept = sys.stderr, os.dup(2)
    _silence_libraries()
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        if sys.stderr is not before:
            sys.stderr.close()
            sys.stderr = before


def worker_count(workers: int) -> int:
    """Return the number of processes of `extract_frames.workers`, at most one per unit of work."""
    return workers or min(cpu_cores(), MAX_WORKERS)
