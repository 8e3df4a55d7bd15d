"""The processes that a training starts end together: none waits for ever for one that is gone.

Fabric sees to that too, but it kills the main process within seconds of another one's failure, before it can
tell of that, and where the main one fails it leaves the others behind. Processes that torchrun or srun have
started are theirs to end.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lightning_fabric import Fabric
from torch.distributed import DistError

from vdp.core.errors import UserError, one_line
from vdp.training.out_of_memory import is_out_of_memory

MAIN = "VDP_MAIN_PROCESS"  # in the environment of those that the main process starts: its id
PERIOD = 0.5  # seconds between two looks
GRACE = 30.0  # seconds for the main process to find out that another one has failed, and to tell; torchrun's
# Texts of gloo's errors, which have no class of their own.
LOST = ("gloo/transport", "Connection closed by peer", "Connection reset by peer")


def launch_together(fabric: Fabric) -> None:
    """Start the other processes of a training; they end after the main one, and it after one that fails."""
    main = os.environ.pop(MAIN, None)
    if main is not None:
        _in_background(lambda: _end_after(int(main)))
    os.environ[MAIN] = str(os.getpid())
    try:
        fabric.launch()
    finally:
        del os.environ[MAIN]
    started: list[subprocess.Popen[bytes]] = getattr(fabric.strategy.launcher, "procs", [])
    if started:
        others = list(started)
        started.clear()  # Fabric then watches none
        _in_background(lambda: _end_with(others))


@contextmanager
def loss_told(name: str) -> Iterator[None]:
    """Where another process cannot be reached any more, say so in one line; why is its to say.

    Raises:
        UserError: in the place of the error of a collective operation of the training `name`.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, DistError) or any(text in str(error) for text in LOST)
        if is_out_of_memory(error) or not lost:
            raise
        reason = one_line(ValueError(str(error)))
        raise UserError(
            f"{name}: another process of this training cannot be reached; it told why, unless it was killed "
            f"({reason})"
        ) from None


def _in_background(watch: Callable[[], None]) -> None:
    threading.Thread(target=watch, daemon=True).start()


def _end_after(main: int) -> None:
    """End this process when its parent is not the main one any more, which it started as."""
    while os.getppid() == main:
        time.sleep(PERIOD)
    os._exit(1)


def _end_with(others: Sequence[subprocess.Popen[bytes]]) -> None:
    """End this process, and all others, where one of them has failed and this one waits for it."""
    while not any(codes := [other.poll() for other in others]):
        if None not in codes:
            return  # all have ended well
        time.sleep(PERIOD)
    time.sleep(GRACE)
    for other in others:
        other.kill()
    code = next(code for code in codes if code)
    print(
        f"error: a process of this training ended with exit code {code}, and with it all of them",
        file=sys.stderr,
    )
    os._exit(1)
