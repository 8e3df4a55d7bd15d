"""Frame metrics of each target frame: the prediction beside copied and moved context frames."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vdp.evaluation.flow import flow_extrapolation
from vdp.evaluation.frame import Frames, FrameScore, FrameTally

PREDICTED, COPY, FLOW = "predicted", "copy", "flow"


@dataclass(frozen=True)
class ClipFrames:
    """Frames of one clip, uint8."""

    context: Frames  # true context frames, (K, H, W, 3)
    predicted: Frames  # target frames of S samples, (S, targets, H, W, 3)
    truth: Frames  # target frames, (targets, H, W, 3)
    composed: Frames | None = None  # target frames composed of moved objects, (targets, H, W, 3)


def score_hops(clips: Iterable[ClipFrames], numbers: Sequence[int]) -> dict[int, dict[str, FrameScore]]:
    """Score all samples, the last context frame (copy) and that frame moved by optical flow (flow).

    One clip is in memory at a time.

    Args:
        clips: the set; composed frames are given for all clips or for none.
        numbers: 1-based frame numbers of the targets, ascending.

    Returns:
        Scores by target number, then by `predicted`, `copy`, `flow` and, where given, `composed`.

    Raises:
        ValueError: if there are no clips, or the shapes of prediction and truth differ.
    """
    tallies: dict[int, dict[str, FrameTally]] = {number: {} for number in numbers}
    for clip in clips:
        known = len(clip.context)
        moved = flow_extrapolation(clip.context, [number - known for number in numbers])
        for target, number in enumerate(numbers):
            samples = clip.predicted[:, target]
            candidates = {PREDICTED: samples, COPY: clip.context[-1:], FLOW: moved[target][None]}
            if clip.composed is not None:
                candidates["composed"] = clip.composed[target][None]
            for name, frames in candidates.items():
                truth = clip.truth[target][None].repeat(len(frames), axis=0)
                tallies[number].setdefault(name, FrameTally()).add(frames, truth)
    if not all(tallies.values()):
        raise ValueError("clips: expected at least one to score, got none")
    return {
        number: {name: tally.score() for name, tally in by_name.items()}
        for number, by_name in tallies.items()
    }
