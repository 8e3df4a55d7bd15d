"""Segmentation of true frames: `python -m bench.segmenter --help`.

Reads data/clips/val and data/models of a finished run, and params.yaml. Segments the known frames and the
last frame of some labelled clips by UNet++ alone, with the vote of the codec's mask head and with the
evidence of the classifier. Prints the Jaccard index of each: decided pixel by pixel, by connected part, and
by the tracks of a clip, over whose known frames the evidence is pooled. --folder names another store, such
as data/clips/test/simulated, for a report.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.denoisers import markdown
from bench.motion import pooled_jaccard
from vdp.api.tracks import load_tracker
from vdp.config.read import read_section
from vdp.config.schema import ClipParams
from vdp.core.device import pick_device
from vdp.core.flops import flop_counter
from vdp.data.object_states import class_masks
from vdp.data.stores.clips import ClipStore
from vdp.models.segmenters.masks import blend
from vdp.models.segmenters.params import SegmentParams, TrackParams
from vdp.models.segmenters.track import ObjectTracker
from vdp.tracking.progress import progress

CLIPS = 100
GIGA = 1e9
HEADS = ["evidence", "last frame", "last frame, by part", "known frames", "known frames, by track"]

Masks = NDArray[np.uint8]


@dataclass(frozen=True)
class Evidence:
    """What decides classes beside UNet++."""

    name: str
    codec: bool
    classifier: bool


CHOICES = (
    Evidence("UNet++", codec=False, classifier=False),
    Evidence("UNet++ and codec", codec=True, classifier=False),
    Evidence("UNet++ and classifier", codec=False, classifier=True),
    Evidence("all, as track_objects", codec=True, classifier=True),
)


def choose(tracker: ObjectTracker, evidence: Evidence) -> ObjectTracker:
    """The tracker with or without the classifier."""
    weight = tracker.params.classifier_weight if evidence.classifier else 0.0
    params = tracker.params.model_copy(update={"classifier_weight": weight})
    return ObjectTracker(tracker.masks, tracker.classifier, tracker.cropper, params)


def segment_clip(
    tracker: ObjectTracker, choices: Sequence[Evidence], frames: Masks, known: int
) -> list[list[Masks]]:
    """Masks of the known and the last of the frames (T, H, W, 3), by choice and decision (see `HEADS`)."""
    masks = tracker.masks
    shown = np.concatenate([frames[:known], frames[-1:]])
    unetpp = masks.unetpp_probs(shown).float()
    codec = masks.codec_probs(masks.encode(shown)).float() if masks.params.codec_vote > 0 else None
    decided = []
    for evidence in choices:
        probs = blend(unetpp, codec if evidence.codec else None, masks.params.codec_vote)
        chosen = choose(tracker, evidence)
        found = (chosen.track(shown[-1:], probs[-1:]), chosen.track(shown[:-1], probs[:-1]))
        decided.append(
            [mask for part in found for mask in (part.frame_masks, class_masks(part.labels, part.classes))]
        )
    return decided


def score_rows(
    tracker: ObjectTracker, frames: Sequence[Masks], masks: Sequence[Masks], known: int
) -> list[list[str]]:
    """Jaccard index of each choice and decision."""
    choices = [choice for choice in CHOICES if tracker.masks.params.codec_vote > 0 or not choice.codec]
    decided = [
        segment_clip(tracker, choices, frames[number], known)
        for (number,) in progress(range(len(frames)), 1, "segment")
    ]
    last, context = [mask[-1:] for mask in masks], [mask[:known] for mask in masks]
    truths = [last, last, context, context]
    return [
        [
            choice.name,
            *(
                f"{pooled_jaccard([clip[row][column] for clip in decided], true):.4f}"
                for column, true in enumerate(truths)
            ),
        ]
        for row, choice in enumerate(choices)
    ]


def gflop(call: Callable[[], object]) -> str:
    """Arithmetic of a call."""
    with torch.inference_mode(), flop_counter() as counter:
        call()
    return f"{counter.get_total_flops() / GIGA:.3f}"


def cost_table(tracker: ObjectTracker, frame: Masks) -> str:
    """Arithmetic of a frame (H, W, 3), without its mirror image, and of a crop."""
    masks, classifier = tracker.masks, tracker.classifier
    pixels = torch.zeros(1, 3, *frame.shape[:2], device=masks.device)
    crops = torch.zeros(1, 3, classifier.params.crop, classifier.params.crop, device=masks.device)
    rows = [
        ["UNet++, a frame", gflop(lambda: masks.segmenter(pixels))],
        ["codec's encoder, a frame", gflop(lambda: masks.encode(frame[None]))],
        ["classifier, a crop", gflop(lambda: classifier(crops))],
    ]
    return markdown(["arithmetic", "GFLOP"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=CLIPS, help="clips to segment, from the first on")
    parser.add_argument("--folder", type=Path, default=Path("data/clips/val"))
    parser.add_argument("--models", type=Path, default=Path("data/models"))
    options = parser.parse_args(arguments)
    clip, segment = read_section(ClipParams, "clip"), read_section(SegmentParams, "segment")
    # each mask as it is decided: the classes seen in the context would also be those of the last frame
    segment = segment.model_copy(update={"seen_classes_only": False})
    params = read_section(TrackParams, "track_objects")
    tracker = load_tracker(options.models, segment, params, pick_device())
    store = ClipStore(options.folder)
    rows = [row for row in store.labelled if store.num_frames(row) >= clip.frames][: options.clips]
    frames = [np.asarray(store.frames(row)[: clip.frames]) for row in rows]
    masks = [np.asarray(store.masks(row)[: clip.frames]) for row in rows]
    print(f"{len(rows)} clips of {options.folder}; {clip.known} known frames, last frame {clip.frames}\n")
    print(cost_table(tracker, frames[0][0]))
    print(markdown(HEADS, score_rows(tracker, frames, masks, clip.known)))


if __name__ == "__main__":
    main()
