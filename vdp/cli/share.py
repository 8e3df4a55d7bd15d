"""Share out the clips of a command to several processes, one GPU each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from vdp.launch.params import DeviceParams

if TYPE_CHECKING:
    import torch

Job = TypeVar("Job")


@contextmanager
def share_jobs(jobs: Sequence[Job], devices: int) -> Iterator[tuple[Sequence[Job], "torch.device | None"]]:
    """Start the processes of a command; yield the jobs of this one and the device of its networks.

    All jobs are checked before: a process that starts later must not find the outputs of another one.
    """
    count = min(devices, len(jobs))
    if count < 2:
        yield jobs, None
        return
    from vdp.launch.start import start_processes  # imports torch
    from vdp.launch.watch import report_lost_process

    processes = start_processes(DeviceParams(devices=count, num_nodes=1))
    with report_lost_process("the command"):
        yield jobs[processes.rank :: processes.count], processes.device
        processes.max(0)  # the main process ends the others when it ends
