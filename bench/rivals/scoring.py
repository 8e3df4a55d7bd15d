"""Scores of a rival's answers beside those of copying the last known frame, and the table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.denoisers import markdown
from bench.rivals.clips import Pixels, TestClip
from bench.rivals.training import Cost
from vdp.core.flops import format_tflop
from vdp.evaluation.baselines import copy_last
from vdp.evaluation.frame import frame_score
from vdp.evaluation.mask import confusion_matrix, jaccard

HEADS = [
    "rival", "known masks", "seed", "parameters, M", "steps", "TFLOP", "clips", "PSNR, dB", "copy, dB",
    "Jaccard", "copy, Jaccard",
]  # fmt: skip
ABSENT = "-"


@dataclass(frozen=True)
class Answers:
    """What a rival answers for the test clips."""

    known: (
        str  # key of `TestClip.known_masks`: what it was given, or what the copy of its row is segmented by
    )
    masks: Sequence[Pixels]  # of the target, (H, W)
    frames: Sequence[Pixels] | None = None  # the target, (H, W, 3); None without frames


def pooled_jaccard(predicted: Sequence[Pixels], clips: Sequence[TestClip]) -> float:
    """Jaccard index of one confusion matrix over all clips."""
    pairs = zip(predicted, clips, strict=True)
    return jaccard(np.sum([confusion_matrix(mask, clip.mask) for mask, clip in pairs], axis=0))


def psnr(predicted: Sequence[Pixels], clips: Sequence[TestClip]) -> float:
    """PSNR of the error pooled over all clips, in dB."""
    pairs = zip(predicted, clips, strict=True)
    return frame_score((frame[None], clip.frame[None]) for frame, clip in pairs).psnr


def score_row(
    name: str, seed: str, cost: Sequence[str], answers: Answers, clips: Sequence[TestClip]
) -> list[str]:
    """A row of the table; `cost` is parameters, steps and TFLOP."""
    copied = [copy_last(clip.known_masks[answers.known]) for clip in clips]
    errors = [ABSENT, ABSENT]
    if answers.frames is not None:
        errors = [
            f"{psnr(frames, clips):.2f}" for frames in (answers.frames, [clip.known[-1] for clip in clips])
        ]
    parameters, steps, tflop = cost
    scores = [f"{pooled_jaccard(masks, clips):.4f}" for masks in (answers.masks, copied)]
    return [name, answers.known, seed, parameters, steps, tflop, str(len(clips)), *errors, *scores]


def cost_cells(cost: Cost) -> list[str]:
    """Parameters, steps and TFLOP of a training."""
    return [f"{cost.parameters / 1e6:.2f}", str(cost.steps), format_tflop(cost.tflop)]


def append_rows(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Append rows to the Markdown table of a file, which is created with its heads."""
    lines = markdown(HEADS, rows).splitlines()
    new = not path.is_file() or not path.read_text()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines if new else lines[2:]) + "\n")
