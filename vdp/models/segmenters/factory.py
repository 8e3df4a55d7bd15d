"""Load segmenters: frames to mask logits by factor."""

from pathlib import Path

from vdp.models.checkpoint import load_config, load_weights
from vdp.models.segmenters.params import SegmenterConfig
from vdp.models.segmenters.unetpp import UNetPlusPlus


def load_segmenter(folder: Path, checkpoint: int | None = None) -> UNetPlusPlus:
    """Load a segmenter in evaluation mode from its folder; `checkpoint` and errors as of `load_weights`."""
    segmenter = UNetPlusPlus(load_config(folder, SegmenterConfig).segmenter)
    load_weights(segmenter, folder, checkpoint)
    segmenter.eval()
    return segmenter
