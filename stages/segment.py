"""DVC stage segment: segment the predicted target frames, and true frames for the baselines and ceilings.

Reads   data/clips/test, data/predictions, data/models/{codec,segmenter}; params.yaml: clip, segment
Writes  data/masks/<test set>: prediction.npy, known.npy, truth.npy, truth_unetpp.npy, round_trip.npy
"""

from pathlib import Path

import numpy as np

from vdp.config.read import read_section, run_stage
from vdp.config.schema import ClipParams
from vdp.core.device import pick_device
from vdp.core.files import replacing
from vdp.data.stores.clips import ClipStore, list_test_sets
from vdp.data.stores.predictions import FRAMES, read_latents
from vdp.models.codecs.factory import load_frame_codec
from vdp.models.segmenters.factory import load_segmenter
from vdp.models.segmenters.masks import MaskPredictor
from vdp.models.segmenters.params import SegmentParams
from vdp.tracking.mlflow_run import track_stage
from vdp.tracking.progress import progress

CLIPS = Path("data/clips")
PREDICTIONS = Path("data/predictions")
CODEC = Path("data/models/codec")
SEGMENTER = Path("data/models/segmenter")
MASKS = Path("data/masks")


def main() -> None:
    clip = read_section(ClipParams, "clip")
    params = read_section(SegmentParams, "segment")
    device = pick_device()
    segmenter, codec = load_segmenter(SEGMENTER).to(device), load_frame_codec(CODEC).to(device)
    predictor = MaskPredictor(segmenter, codec, params, device)

    with track_stage("segment") as tracker, replacing(MASKS) as part:
        clip_masks = tracker.counted(predictor.clip_masks)
        for name, folder in list_test_sets(CLIPS).items():
            store = ClipStore(folder)
            frames = np.load(PREDICTIONS / name / FRAMES, mmap_mode="r")
            latents = read_latents(PREDICTIONS / name)
            rows = []
            for (i,) in progress(range(len(store)), 1, f"segment {name}"):
                target = store.frames(i)[clip.frames - 1] if store.num_frames(i) >= clip.frames else None
                context = store.frames(i)[: clip.known]
                rows.append(clip_masks(context, frames[i, :, -1], latents[i], target))
            (part / name).mkdir()
            for kind in rows[0]:
                np.save(part / name / f"{kind}.npy", np.stack([row[kind] for row in rows]))


if __name__ == "__main__":
    run_stage(main)
