"""Share out the work of a stage: batches of fixed size, computed by its processes, kept in files.

Batch i belongs to process i % count. Each is written to a file of its own under `.resume/`, so that a killed
stage computes only the batches that it lacks; the main process reads them in order. What is written depends
on the batches alone, not on the number of processes.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol
from zipfile import BadZipFile

import numpy as np
from tqdm import tqdm

from vdp.core.device import use_precision
from vdp.core.errors import Interrupted, UserError, one_line
from vdp.core.files import locked
from vdp.launch.interrupts import StopRequest, catch_stop_signals
from vdp.launch.params import EngineParams
from vdp.launch.resume import FINISHED, LOCK, clear_outdated, remove_without_batches, resume_folder
from vdp.launch.stage_key import stage_key
from vdp.launch.start import Processes, check_precision, start_processes
from vdp.launch.watch import report_lost_process

FLOPS = "flops"  # entry of a file, beside its arrays

Arrays = Mapping[str, np.ndarray]
Compute = Callable[[Sequence[int]], Arrays]


class Ledger(Protocol):
    """Counts the arithmetic of a stage."""

    @property
    def flops(self) -> float: ...

    def add_flops(self, flops: float) -> None: ...


class Uncounted:
    """The ledger of work whose arithmetic nobody asks for."""

    flops = 0.0

    def add_flops(self, flops: float) -> None:
        pass


class Parts:
    """The arrays of each batch in the order of the batches, each read from its file when it is its turn.

    Attributes:
        rows: of all batches.
    """

    def __init__(self, paths: Sequence[Path], rows: int) -> None:
        self.paths, self.rows = paths, rows

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for path in self.paths:
            arrays = _read(path)
            arrays.pop(FLOPS)
            yield arrays

    def flops(self) -> float:
        return sum(float(_read(path, FLOPS)[FLOPS]) for path in self.paths)


class SharedWork:
    """The batches of a stage; opened by `share_work`.

    Attributes:
        processes: of the stage; `device` is that of this one's networks.
        batch_clips: clips of a batch, where no other size is set.
    """

    def __init__(
        self,
        stage: str,
        folder: Path,
        processes: Processes,
        batch_clips: int,
        ledger: Ledger,
        stop: StopRequest,
    ) -> None:
        self.stage, self.folder, self.processes, self.batch_clips = stage, folder, processes, batch_clips
        self._ledger, self._stop = ledger, stop
        self._parts: list[Parts] = []
        self._names: set[str] = set()
        self._counted = 0.0  # FLOPs of this process's batches

    def compute(self, name: str, batches: Sequence[Sequence[int]], compute: Compute) -> Parts:
        """Compute this process's share of the batches that have no file yet.

        Args:
            name: of the work, unique in the stage, such as that of a split.
            batches: row numbers of each batch.
            compute: returns the arrays of a batch; equal for equal rows in all processes.

        Returns:
            The parts of all batches, to be read after `join`.
        """
        if name in self._names:
            raise ValueError(f"name={name!r}: the stage has work of this name; give each its own")
        self._names.add(name)
        folder = self.folder / re.sub(r"[^\w.-]+", "_", name)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{number:06d}.npz" for number in range(len(batches))]
        parts = Parts(paths, sum(map(len, batches)))
        self._parts.append(parts)
        processes = self.processes
        own = range(processes.rank, len(batches), processes.count)
        missing = [number for number in own if not paths[number].is_file()]
        if processes.is_main and (kept := sum(path.is_file() for path in paths)):
            earlier = f"{kept} of {len(paths)} batches are those of an earlier run ({self.folder})"
            print(f"{self.stage} {name}: {earlier}", file=sys.stderr)
        sizes = {number: len(batches[number]) for number in own}
        share = f", process 1 of {processes.count}" if processes.count > 1 else ""
        bar = tqdm(
            desc=f"{self.stage} {name}{share}",
            total=sum(sizes.values()),
            initial=sum(sizes.values()) - sum(sizes[number] for number in missing),
            unit="clip",
            file=sys.stderr,
            mininterval=2,
            disable=not processes.is_main,
        )
        with bar:
            for number in missing:
                if self._stop.signal:
                    break
                before = self._ledger.flops
                arrays = compute(batches[number])
                flops = self._ledger.flops - before
                _write(paths[number], {**arrays, FLOPS: np.array(flops)})
                self._counted += flops
                bar.update(len(batches[number]))
        return parts

    def wait(self) -> None:
        """Wait until all processes have computed their batches.

        Raises:
            Interrupted: if a signal has requested a stop.
        """
        if number := self.processes.max(self._stop.signal):
            files = [path.is_file() for parts in self._parts for path in parts.paths]
            message = f"{self.stage}: stopped after {sum(files)} of {len(files)} batches; run again to resume"
            raise Interrupted(number, f"{message} ({self.folder})", is_main=self.processes.is_main)

    def join(self) -> bool:
        """`wait` at the end of all work; return whether this is the main process, which reads the parts."""
        self.wait()
        if self.processes.is_main:
            # also of earlier runs and of other processes
            self._ledger.add_flops(sum(parts.flops() for parts in self._parts) - self._counted)
        return self.processes.is_main


@contextmanager
def share_work(stage: str, root: Path, engine: EngineParams, ledger: Ledger) -> Iterator[SharedWork]:
    """Start the processes of a stage and share out its work; networks compute in `engine.precision`.

    The files of the batches stay when the block fails. When it ends well they stay until another stage is
    started, as DVC has not kept the outputs yet.

    Args:
        stage: name of its script.
        root: the main checkout.
        engine: section `engine`.
        ledger: of the stage.
    """
    folder = resume_folder(root, stage, stage_key(stage))
    with share_in(folder, stage, engine, ledger) as work:
        yield work
        if work.processes.is_main:
            (folder / FINISHED).touch()
            clear_outdated(root, stage, folder)


@contextmanager
def share_in(folder: Path, name: str, engine: EngineParams, ledger: Ledger) -> Iterator[SharedWork]:
    """As `share_work`, with the files of the batches in a folder that stays.

    Args:
        folder: named after all that the batches depend on.
        name: of the work, in messages.
    """
    processes = start_processes(engine)
    check_precision(engine, processes.device.type)
    with ExitStack() as stack:
        stack.enter_context(report_lost_process(name))
        if processes.is_main:
            waiting = f"another process runs the same work ({folder}); waiting for it to end"
            stack.enter_context(locked(folder / LOCK, waiting))
        processes.max(0)  # the others start when the main one holds the lock
        stop = stack.enter_context(catch_stop_signals())
        stack.enter_context(use_precision(engine.precision))
        try:
            yield SharedWork(name, folder, processes, engine.batch_clips, ledger, stop)
        except BaseException:
            if processes.is_main:
                remove_without_batches(folder)
            raise


def split_rows(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    """Split rows into batches of `size`, the last one smaller."""
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _write(path: Path, arrays: Arrays) -> None:
    """Write a file atomically and sync it to the disk."""
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(
            f"{path}: {one_line(error)}; free disk space and run again: the batches before are kept"
        ) from None
    part.replace(path)


def _read(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Read the named arrays of a file, or all."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names or file.files}
    except (BadZipFile, ValueError, EOFError, KeyError) as error:
        raise UserError(
            f"{path}: is damaged ({one_line(ValueError(str(error)))}); delete it and run again"
        ) from None
