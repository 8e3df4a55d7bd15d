"""Start the processes of a stage by Lightning Fabric: those of torchrun or srun, or some of this machine."""

import logging
import os
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import torch

from vdp.core.device import computes_in_bf16, pick_device
from vdp.core.errors import UserError
from vdp.core.rank import launched_processes, slurm_number
from vdp.launch.params import DeviceParams, EngineParams

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import Strategy

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

PATIENCE = timedelta(days=30)  # for the slowest process; those of a lost one are ended by their launcher


@dataclass(frozen=True)
class Processes:
    """The processes of a stage; `start_processes` returns this one's view of them."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def max(self, value: int) -> int:
        """Wait for all processes; return the maximum of their values, in all of them."""
        if self.count == 1:
            return value
        highest = torch.tensor(value)
        torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX)
        return int(highest.item())


def start_processes(params: DeviceParams) -> Processes:
    """Start the processes of a stage without training; each of them returns from here.

    Raises:
        UserError: if the params do not fit this machine or the launcher.
    """
    if count_processes(params) == 1:
        return Processes(0, 1, pick_device())
    from lightning_fabric.strategies import DDPStrategy  # seconds to import

    # gloo: the processes exchange single numbers, also where they share a GPU
    strategy = DDPStrategy(process_group_backend="gloo", timeout=PATIENCE)
    fabric = launch_fabric(params, strategy, "32-true")
    return Processes(fabric.global_rank, fabric.world_size, fabric.device)


def count_processes(params: DeviceParams) -> int:
    """Return the number of processes of a stage, on all machines.

    Raises:
        UserError: if the params do not fit this machine or the launcher.
    """
    devices = _devices(params)
    started = launched_processes()
    if started > 0 and started != devices * params.num_nodes:
        raise UserError(
            f"engine.devices={params.devices} x engine.num_nodes={params.num_nodes}: expected {started}, the "
            "processes that the launcher has started; set them, or set launcher to python"
        )
    if params.num_nodes > 1 and not started and "NODE_RANK" not in os.environ:
        raise UserError(
            f"engine.num_nodes={params.num_nodes}: only one process was started; set launcher to torchrun or "
            "srun, which start one on each machine"
        )
    return devices * params.num_nodes


def launch_fabric(params: DeviceParams, strategy: "str | Strategy", precision: Precision) -> "Fabric":
    """Launch the processes of a stage; all end when one of them fails."""
    from lightning_fabric import Fabric

    from vdp.launch.watch import launch_processes

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    # it suggests srun wherever SLURM is installed; `launcher` is the user's choice
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    fabric = Fabric(
        accelerator=pick_device().type,
        devices=_devices(params),
        num_nodes=params.num_nodes,
        strategy=strategy,
        precision=precision,
    )
    launch_processes(fabric)
    return fabric


def _devices(params: DeviceParams) -> int:
    """Processes on this machine."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else None
    if params.devices == "auto":
        return int(
            os.environ.get("LOCAL_WORLD_SIZE") or slurm_number("SLURM_STEP_TASKS_PER_NODE") or gpus or 1
        )
    if gpus is not None and params.devices > gpus:
        raise UserError(
            f"engine.devices={params.devices}: expected at most {gpus}, the GPUs of this machine; lower it, "
            "or use more machines (engine.num_nodes)"
        )
    return params.devices


def fabric_precision(params: EngineParams, accelerator: str) -> Precision:
    """Fabric's name of the precision; weights, their averages and the optimizer are fp32 in all of them."""
    check_precision(params, accelerator)
    if params.precision == 16 and params.strategy == "fsdp":
        raise UserError("engine.precision=16: not supported with engine.strategy=fsdp; use bf16, or ddp")
    if params.precision == 16:
        return "16-mixed"
    auto = params.precision == "auto" and computes_in_bf16(accelerator)
    return "bf16-mixed" if auto or params.precision == "bf16" else "32-true"


def check_precision(params: EngineParams, accelerator: str) -> None:
    """Raise a UserError if networks cannot compute in the precision on this accelerator."""
    if params.precision == 16 and accelerator == "cpu":
        raise UserError("engine.precision=16: expected a GPU; set it to auto, which takes bf16 if it is fast")
