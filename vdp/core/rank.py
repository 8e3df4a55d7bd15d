"""Rank of this process in a distributed run, and the number of processes that a launcher has started."""

import os


def process_rank() -> int:
    """Return 0 in the main process and above 0 in the others.

    torchrun sets RANK, Lightning LOCAL_RANK and NODE_RANK, SLURM SLURM_PROCID.
    """
    if "RANK" in os.environ:
        names = ["RANK"]
    else:
        names = ["LOCAL_RANK", "NODE_RANK"] if "LOCAL_RANK" in os.environ else ["SLURM_PROCID"]
    return max(int(os.environ.get(name, 0)) for name in names)


def launched_processes() -> int:
    """Return the number of processes that torchrun or srun has started; 0 without either."""
    return int(os.environ.get("WORLD_SIZE") or slurm_number("SLURM_STEP_NUM_TASKS") or 0)


def slurm_number(name: str) -> int | None:
    """Read a number from the environment of srun, such as '4' or '4(x2)'."""
    value = os.environ.get(name, "").partition("(")[0]
    return int(value) if value.isdigit() else None
