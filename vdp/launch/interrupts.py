"""Signals that stop a training after the current step: SIGTERM (SLURM before a time limit) and Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Number of the signal that requested a stop; 0: none."""

    def __init__(self) -> None:
        self.signal = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; the second Ctrl-C stops immediately."""
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Record the stop signals of the block instead of ending the process.

    Python delivers signals to the main thread only; in another thread nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.handle) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
