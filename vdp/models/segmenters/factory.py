"""Segmenters: frames to factor logits of masks."""

from pathlib import Path

from vdp.models.checkpoint import load_config, load_weights
from vdp.models.segmenters.params import SegmenterConfig
from vdp.models.segmenters.unetpp import UNetPlusPlus


def load_segmenter(folder: Path) -> UNetPlusPlus:
    """Rebuild a segmenter from its folder alone, in evaluation mode.

    Raises:
        FileNotFoundError: if the folder holds no model.
    """
    segmenter = UNetPlusPlus(load_config(folder, SegmenterConfig).segmenter)
    load_weights(segmenter, folder)
    segmenter.eval()
    return segmenter
