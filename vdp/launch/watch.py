"""End all processes of a stage when one of them fails.

Fabric does not end the others if the main process fails; torchrun and srun end theirs.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch.distributed import DistError

from vdp.core.errors import UserError, one_line
from vdp.launch.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MAIN = "VDP_MAIN_PROCESS"  # environment variable of the launched processes: id of the main one
PERIOD = 0.5  # seconds between two checks
GRACE = 30.0  # seconds for the main process to report that another one has failed; torchrun's value
# texts of gloo's errors, which have no exception class
LOST_TEXTS = ("gloo/transport", "Connection closed by peer", "Connection reset by peer")


def launch_processes(fabric: "Fabric") -> None:
    """Launch the other processes of a stage; all end when one of them fails."""
    main = os.environ.pop(MAIN, None)
    if main is not None:
        _in_background(lambda: _exit_after_main(int(main)))
    os.environ[MAIN] = str(os.getpid())
    try:
        fabric.launch()
    finally:
        del os.environ[MAIN]
    if processes := _take_launched_processes(fabric):
        _in_background(lambda: _exit_after_failure(processes))


@contextmanager
def report_lost_process(name: str) -> Iterator[None]:
    """Raise a UserError if another process of the stage `name` cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, DistError) or any(text in str(error) for text in LOST_TEXTS)
        if is_out_of_memory(error) or not lost:
            raise
        reason = one_line(ValueError(str(error)))
        raise UserError(
            f"{name}: another process of this stage cannot be reached; see its error, or whether it was "
            f"killed ({reason})"
        ) from None


def _take_launched_processes(fabric: "Fabric") -> list[subprocess.Popen[bytes]]:
    """Return the processes that Fabric has started and stop Fabric from watching them.

    Its watcher kills the main process within seconds of another one's failure, before that is reported.
    """
    processes: list[subprocess.Popen[bytes]] = getattr(fabric.strategy.launcher, "procs", [])
    launched = list(processes)
    processes.clear()
    return launched


def _in_background(watch: Callable[[], None]) -> None:
    threading.Thread(target=watch, daemon=True).start()


def _exit_after_main(main: int) -> None:
    """Exit when the main process is no longer the parent."""
    while os.getppid() == main:
        time.sleep(PERIOD)
    os._exit(1)


def _exit_after_failure(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill the other processes and exit when one of them has failed."""
    while not any(codes := [process.poll() for process in processes]):
        if None not in codes:
            return  # all have succeeded
        time.sleep(PERIOD)
    time.sleep(GRACE)
    for process in processes:
        process.kill()
    rank, code = next((rank, code) for rank, code in enumerate(codes, start=1) if code)
    print(
        f"error: process {rank} of this stage failed with exit code {code}; all are stopped", file=sys.stderr
    )
    os._exit(1)
