"""Rank of this process in a distributed run."""

import os


def process_rank() -> int:
    """Which one of a distributed training's processes this is; 0 is the main one, or the only one.

    torchrun gives each process its RANK. Where Lightning starts the processes, they have a LOCAL_RANK, and
    a NODE_RANK on several machines. SLURM numbers those that it starts itself.
    """
    if "RANK" in os.environ:
        names = ["RANK"]
    else:
        names = ["LOCAL_RANK", "NODE_RANK"] if "LOCAL_RANK" in os.environ else ["SLURM_PROCID"]
    return max(int(os.environ.get(name, 0)) for name in names)
