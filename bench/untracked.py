"""Run a stage without MLflow, which need not be installed: `python -m bench.untracked STAGE`.

Its ledger `.stats/stages.json` is written.
"""

import runpy
import sys
from unittest.mock import patch

from vdp.tracking.mlflow_run import Tracker


def run_untracked(stage: str) -> None:
    """Run `python -m stages.<stage>` with a tracker that has no store."""
    with patch.object(Tracker, "_connect", lambda tracker: None):
        runpy.run_module(f"stages.{stage}", run_name="__main__")


if __name__ == "__main__":
    run_untracked(sys.argv[1])
