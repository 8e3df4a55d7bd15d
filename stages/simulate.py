"""DVC stage simulate: render the embedded data set, small clips of colliding shapes with exact masks.

Reads   params.yaml: seed, clip, simulate
Writes  data/raw/simulated
"""

from pathlib import Path

from vdp.config.read import read_section, read_value, run_script
from vdp.config.schema import ClipParams
from vdp.core.machine import cpu_cores
from vdp.data.simulator.dataset import write_dataset
from vdp.data.simulator.params import SimulateParams
from vdp.tracking.mlflow_run import track_stage

OUTPUT = Path("data/raw/simulated")


def main() -> None:
    params = read_section(SimulateParams, "simulate")
    clip = read_section(ClipParams, "clip")
    with track_stage("simulate", workers=params.workers or cpu_cores()):
        write_dataset(params, seed=read_value("seed"), frames=clip.frames, root=OUTPUT)


if __name__ == "__main__":
    run_script(main)
