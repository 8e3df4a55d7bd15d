"""Frame metrics of each target frame, and FVD: the prediction beside copied and moved context frames."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdp.core.optical_flow import flow_extrapolation
from vdp.evaluation.frame import Distance, Frames, FrameScore, FrameTally
from vdp.evaluation.perceptual import frechet_distance

PREDICTED, COPY, FLOW, COMPOSED = "predicted", "copy", "flow", "composed"


@dataclass(frozen=True)
class ClipFrames:
    """Frames of one clip, uint8."""

    context: Frames  # true context frames, (K, H, W, 3)
    predicted: Sequence[Frames]  # of each target, (S, H, W, 3); S may differ between targets
    truth: Frames  # target frames, (targets, H, W, 3)
    composed: Frames | None = None  # target frames composed of moved objects, (targets, H, W, 3)

    def candidates(self, numbers: Sequence[int]) -> dict[str, Sequence[Frames]]:
        """Frames of each target, (S, H, W, 3), by their origin; one sample of all but the prediction."""
        moved = flow_extrapolation(self.context, [number - len(self.context) for number in numbers])
        copies = np.repeat(self.context[-1:], len(numbers), axis=0)
        single = {COPY: copies, FLOW: moved} | ({} if self.composed is None else {COMPOSED: self.composed})
        return {PREDICTED: self.predicted, **{name: list(frames[:, None]) for name, frames in single.items()}}


def score_hops(
    clips: Iterable[ClipFrames], numbers: Sequence[int], lpips: Distance | None = None
) -> dict[int, dict[str, FrameScore]]:
    """Score all samples, the last context frame (copy) and that frame moved by optical flow (flow).

    One clip is in memory at a time.

    Args:
        clips: the set; composed frames are given for all clips or for none.
        numbers: 1-based frame numbers of the targets, ascending.
        lpips: `vdp.evaluation.perceptual.Lpips`, or None.

    Returns:
        Scores by target number, then by `predicted`, `copy`, `flow` and, where given, `composed`.

    Raises:
        ValueError: if there are no clips, or the shapes of prediction and truth differ.
    """
    tallies: dict[int, dict[str, FrameTally]] = {number: {} for number in numbers}
    for clip in clips:
        for name, targets in clip.candidates(numbers).items():
            for number, samples, true in zip(numbers, targets, clip.truth, strict=True):
                truth = np.repeat(true[None], len(samples), axis=0)
                tallies[number].setdefault(name, FrameTally(lpips)).add(samples, truth)
    if not all(tallies.values()):
        raise ValueError("clips: expected at least one to score, got none")
    return {
        number: {name: tally.score() for name, tally in by_name.items()}
        for number, by_name in tallies.items()
    }


def video_distances(
    clips: Iterable[ClipFrames],
    numbers: Sequence[int],
    features: Callable[[Frames], NDArray[np.float64]],
) -> dict[str, float]:
    """FVD of the prediction, copy and flow: videos of the context and the target frames, against true ones.

    Args:
        clips: the set, at least 2 clips.
        numbers: as of `score_hops`.
        features: `vdp.evaluation.perceptual.VideoFeatures`.

    Raises:
        ValueError: if there are fewer clips.
    """
    found: defaultdict[str, list[NDArray[np.float64]]] = defaultdict(list)
    truth: list[NDArray[np.float64]] = []
    for clip in clips:
        truth.append(features(np.concatenate([clip.context, clip.truth])[None]))
        for name, targets in clip.candidates(numbers).items():
            samples = zip(*targets, strict=False)  # the first one where the others have no earlier hops
            videos = [np.concatenate([clip.context, np.stack(frames)]) for frames in samples]
            found[name].append(features(np.stack(videos)))
    if not truth:
        raise ValueError("clips: expected at least 2 for FVD, got none")
    true = np.concatenate(truth)
    return {name: frechet_distance(np.concatenate(parts), true) for name, parts in found.items()}
