"""Rank of this process in a distributed run."""

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
