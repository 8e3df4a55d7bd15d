"""Work that two processes share in tests: python -m tests.launch.process FOLDER [ROW].

Squares the rows 0..6; process 1 fails at the row ROW. The main process prints the squares.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.training.small import engine_params
from vdp.config import read
from vdp.config.read import run_stage
from vdp.core.rank import process_rank
from vdp.launch.items import Arrays, Uncounted, share_in, split_rows

ROWS, SIZE = 7, 1


def squares(rows: Sequence[int]) -> Arrays:
    if process_rank() == 1 and str(rows[0]) in sys.argv[2:]:
        raise ValueError(f"row {rows[0]}: cannot be computed")
    return {"squares": np.array(rows) ** 2, "process": np.array([os.getpid()] * len(rows))}


def main() -> None:
    with share_in(Path(sys.argv[1]), "squares", engine_params(devices=2), Uncounted()) as work:
        parts = work.compute("all", split_rows(range(ROWS), SIZE), squares)
        if work.join():
            arrays = list(parts)
            print(*(int(square) for part in arrays for square in part["squares"]))
            print(len({int(process) for part in arrays for process in part["process"]}), "processes")


if __name__ == "__main__":
    read.check_file = lambda: None  # there is no params.yaml
    run_stage(main)
