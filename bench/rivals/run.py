"""What all rivals share: a finished run's data, its segmenter and its test clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.rivals.clips import TestClip, read_test_clips
from vdp.api.tracks import load_tracker
from vdp.config.read import read_section
from vdp.config.schema import ClipParams
from vdp.core.device import pick_device
from vdp.models.segmenters.masks import MaskPredictor
from vdp.models.segmenters.params import SegmentParams, TrackParams


@dataclass(frozen=True)
class FinishedRun:
    """A run to compare with."""

    data: Path  # its data folder
    clip: ClipParams
    clips: Sequence[TestClip]
    predictor: MaskPredictor
    device: torch.device

    @property
    def target(self) -> int:
        """Position of the target frame in a clip."""
        return self.clip.frames - 1


def open_run(data: Path, test_set: str | None, count: int) -> FinishedRun:
    """Open a finished run and its first `count` labelled test clips; errors as of `read_test_clips`."""
    clip, device = read_section(ClipParams, "clip"), pick_device()
    clips = read_test_clips(data, test_set, clip.known, clip.frames - 1, count)
    segment, tracking = read_section(SegmentParams, "segment"), read_section(TrackParams, "track_objects")
    tracker = load_tracker(data / "models", segment, tracking, device)
    return FinishedRun(data, clip, clips, tracker.masks, device)
