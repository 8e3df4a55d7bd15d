"""Value and cost of `restore --full-size`: `python -m bench.restore_size CLIP ...`.

Clips are video files, folders of pictures or globs, larger than the networks' frames. Each is degraded at its
size by each enabled kind of section `degrade` of params.yaml, at the middle of its range, and restored at the
size of the networks and at its own, in turn. PSNR is over all frames; the ratio is of wall-clock seconds.
"""

import argparse
import time
from itertools import islice
from pathlib import Path

import numpy as np

import vdp
from vdp.config.read import read_section, run_stage
from vdp.data.degrade import KINDS, degrade
from vdp.data.params import DegradeParams
from vdp.data.sources.input_clips import find_clips
from vdp.data.stores.clips import Pixels
from vdp.evaluation.frame import frame_score


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+", help="video files, folders of pictures, or globs in quotes")
    parser.add_argument("--models", default="data/models", help="folder of networks trained for restore")
    parser.add_argument("--frames", type=int, default=22, help="max number of frames of each clip, >= 1")
    args = parser.parse_args()
    if args.frames < 1:
        parser.error(f"--frames={args.frames}: expected >= 1")
    model = vdp.load(Path(args.models))
    truth = [np.stack(list(islice(clip.frames(), args.frames))) for clip in find_clips(args.clips)]
    print(f"| {len(truth)} clips | degraded | {model.width}x{model.height} | full size | seconds, ratio |")
    print("|---|---:|---:|---:|---:|")
    for kind, (low, high) in read_section(DegradeParams, "degrade").ranges.items():
        restored: dict[str, list[Pixels]] = {"degraded": [], "small": [], "full": []}
        seconds = {"small": 0.0, "full": 0.0}
        for number, frames in enumerate(truth):
            rng = np.random.default_rng([number, KINDS.index(kind)])
            given = degrade(frames, kind, (low + high) / 2, rng)
            restored["degraded"].append(given)
            for size in seconds:
                started = time.perf_counter()
                restored[size].append(model.restore(given, full_size=size == "full"))
                seconds[size] += time.perf_counter() - started
        scores = [frame_score(zip(frames, truth, strict=True)).psnr for frames in restored.values()]
        row = [kind, *(f"{score:.2f} dB" for score in scores), f"{seconds['full'] / seconds['small']:.1f}"]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    run_stage(main)
