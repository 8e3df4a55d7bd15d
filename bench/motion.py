"""Motion and votes on validation clips: `python -m bench.motion --help`.

Reads data/clips/val and data/models of a finished run, and params.yaml. Rolls out some labelled clips from
their true tracks and from the segmenter's; prints the errors of the places, the Jaccard index of each answer
with its ceilings and, with --votes, that over the weights of the vote and the threshold, from which section
`segment` is chosen. --folder names another store, such as data/clips/test/simulated, for a report.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.denoisers import markdown
from vdp.api.loading import LatentDiffusion, clips_per_batch, load_latent_diffusion
from vdp.api.motion import ClipObjects, ObjectMotion, load_motion
from vdp.api.tracks import load_tracker
from vdp.config.read import read_section, read_value
from vdp.config.schema import ClipParams
from vdp.core.classes import NUM_CLASSES
from vdp.core.device import pick_device
from vdp.core.objects import SEEN, X, Y
from vdp.data.object_states import class_labels, class_masks, object_states
from vdp.data.stores.clips import ClipStore
from vdp.evaluation.baselines import copy_last, decayed_velocity
from vdp.evaluation.mask import confusion_matrix, foreground_share, jaccard
from vdp.evaluation.motion import place_errors
from vdp.models.segmenters.masks import probs_to_masks
from vdp.models.segmenters.params import SegmentParams, TrackParams
from vdp.models.segmenters.track import ObjectTracker
from vdp.sampling.params import PredictParams, SampleMotionParams
from vdp.tracking.progress import progress

CLIPS = 60
DECAYS = (0.8, 0.85, 0.9, 0.95)
WEIGHTS, THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0), (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)

Masks = NDArray[np.uint8]


@dataclass(frozen=True)
class KnownTracks:
    """Objects of a clip's context: label maps (K, H, W), class ids (N,), states (N, K, F)."""

    labels: Masks
    classes: Masks
    states: NDArray[np.float32]

    @property
    def masks(self) -> Masks:
        """Class ids, (K, H, W)."""
        return class_masks(self.labels, self.classes)


def true_tracks(masks: Masks) -> KnownTracks:
    """Tracks of true masks (K, H, W)."""
    labels, classes = class_labels(masks)
    return KnownTracks(labels, classes, object_states(labels, len(classes)))


def segmented_tracks(tracker: ObjectTracker, frames: Masks) -> KnownTracks:
    """Tracks of the segmenter's masks of frames (K, H, W, 3)."""
    found = tracker(frames)
    return KnownTracks(found.labels, found.classes, object_states(found.labels, len(found.classes)))


def with_true_classes(tracks: KnownTracks, masks: Masks) -> KnownTracks:
    """The tracks with the class that most of their pixels have in the true masks: a ceiling."""
    classes = tracks.classes.copy()
    for number in range(len(classes)):
        counts = np.bincount(masks[tracks.labels == number + 1], minlength=NUM_CLASSES)
        classes[number] = counts[1:].argmax() + 1 if counts[1:].any() else classes[number]
    return KnownTracks(tracks.labels, classes, tracks.states)


def class_accuracy(tracks: Sequence[KnownTracks], masks: Sequence[Masks]) -> float:
    """Share of tracks with the class that most of their pixels have in the true masks."""
    right = [
        found.classes == with_true_classes(found, true).classes
        for found, true in zip(tracks, masks, strict=True)
    ]
    return float(np.concatenate(right).mean())


def sighting_accuracy(tracks: Sequence[KnownTracks], masks: Sequence[Masks]) -> float:
    """Share of the true objects of the last known frame of which most tracked pixels have the right class."""
    right = []
    for found, true in zip(tracks, masks, strict=True):
        for label in np.unique(true[-1][true[-1] > 0]):
            counts = np.bincount(found.masks[-1][true[-1] == label], minlength=NUM_CLASSES)
            right.append(counts[1:].any() and counts[1:].argmax() + 1 == label)
    return float(np.mean(right))


def pooled_jaccard(predicted: Sequence[Masks], true: Sequence[Masks]) -> float:
    """Jaccard index of one confusion matrix over all clips."""
    return jaccard(sum(confusion_matrix(p, t) for p, t in zip(predicted, true, strict=True)))


@dataclass(frozen=True)
class Answers:
    """What the motion model answers for a clip."""

    places: NDArray[np.float32]  # samples at the target, (R, N, 3)
    likely: NDArray[np.float32]  # most likely places, (N, 3)
    masks: Masks  # composed of each sample, (R, H, W)
    likely_mask: Masks  # (H, W)
    median_mask: Masks  # of the median places


def answer(
    motion: ObjectMotion,
    name: str,
    frames: Masks,
    tracks: KnownTracks,
    target: int,
    params: SampleMotionParams,
) -> Answers:
    """Sample a clip's motion and compose its target frame; the noise is that of the pipeline."""
    batch = ([name], tracks.states[None], tracks.classes[None], [target], params)
    seed = read_value("seed")
    places = motion.sample(*batch, params.samples, params.temperature, seed)[0, :, :, 0]
    likely = motion.sample(*batch, 1, 0.0, seed)[0, 0, :, 0]
    composer = motion.composer(frames, tracks.labels, tracks.states, tracks.classes)
    median = np.concatenate([np.median(places[..., :2], axis=0), places[..., 2:].mean(axis=0)], axis=1)
    return Answers(
        places,
        likely,
        np.stack([composer.mask(sample) for sample in places]),
        composer.mask(likely),
        composer.mask(median.astype(np.float32)),
    )


def vote_shares(masks: Masks) -> NDArray[np.float32]:
    """Share of each class over the samples, (R, H, W) -> (49, H, W)."""
    return np.stack([(masks == label).mean(axis=0) for label in range(NUM_CLASSES)]).astype(np.float32)


def decide(shares: NDArray[np.float32], threshold: float) -> Masks:
    """Threshold class shares (49, H, W) as the stage segment does."""
    return probs_to_masks(torch.from_numpy(shares)[None], threshold, None)[0].numpy()


def target_places(masks: Masks, motion: ObjectMotion) -> dict[int, NDArray[np.float32]]:
    """x, y and visibility of the objects of the last of masks (T, H, W), by class."""
    labels, classes = class_labels(masks[-1:])
    states = motion.whole_states(object_states(labels, len(classes)), classes)[:, 0]
    return {int(label): state[[X, Y, SEEN]] for label, state in zip(classes, states, strict=True)}


def matched(
    answers: Sequence[Answers],
    tracks: Sequence[KnownTracks],
    true_masks: Sequence[Masks],
    motion: ObjectMotion,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Sampled, most likely and true places of objects that are visible in context and target, by their class.

    Returns:
        (N, R, 2), (N, 2) and (N, 2).
    """
    sampled, likely, true = [], [], []
    for given, found, masks in zip(answers, tracks, true_masks, strict=True):
        place = {label: state for label, state in target_places(masks, motion).items() if state[2] > 0.5}
        for number, label in enumerate(found.classes):
            if int(label) in place and found.states[number, -1, SEEN]:
                sampled.append(given.places[:, number, :2])
                likely.append(given.likely[number, :2])
                true.append(place[int(label)][:2])
    return np.stack(sampled), np.stack(likely), np.stack(true)


def moved_truly(tracks: KnownTracks, frames: Masks, masks: Masks, motion: ObjectMotion) -> Masks:
    """Compose the target from the true places of the objects: the ceiling of any motion model."""
    place = target_places(masks, motion)
    places = np.stack([place.get(int(label), np.zeros(3, np.float32)) for label in tracks.classes])
    return motion.composer(frames, tracks.labels, tracks.states, tracks.classes).mask(places)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=CLIPS, help="clips to roll out, from the first on")
    parser.add_argument("--folder", type=Path, default=Path("data/clips/val"))
    parser.add_argument("--models", type=Path, default=Path("data/models"))
    parser.add_argument("--samples", type=int, help="futures per clip (default: sample_motion.samples)")
    parser.add_argument("--votes", action="store_true", help="also roll out the denoiser and vote (slow)")
    options = parser.parse_args(arguments)
    clip, params = read_section(ClipParams, "clip"), read_section(SampleMotionParams, "sample_motion")
    if options.samples:
        params = params.model_copy(update={"samples": options.samples})
    segment, device = read_section(SegmentParams, "segment"), pick_device()
    tracker = load_tracker(options.models, segment, read_section(TrackParams, "track_objects"), device)
    motion = load_motion(options.models, device)
    store = ClipStore(options.folder)
    rows = [row for row in store.labelled if store.num_frames(row) >= clip.frames][: options.clips]
    frames = [np.asarray(store.frames(row)[: clip.known]) for row in rows]
    masks = [np.asarray(store.masks(row)[: clip.frames]) for row in rows]
    targets = [mask[-1] for mask in masks]
    steps = clip.frames - clip.known

    known = {
        "true": [true_tracks(mask[: clip.known]) for mask in masks],
        "segmented": [
            segmented_tracks(tracker, frames[n]) for (n,) in progress(range(len(rows)), 1, "track")
        ],
    }
    known["true classes"] = [
        with_true_classes(tracks, mask[: clip.known])
        for tracks, mask in zip(known["segmented"], masks, strict=True)
    ]
    print(f"{len(rows)} clips of {options.folder}\n")
    print(tracks_table(known["segmented"], masks, clip.known))
    scores, votes = [], {}
    for name, tracks in known.items():
        answers = [
            answer(motion, store.name(row), frames[n], tracks[n], clip.frames - 1, params)
            for n, row in enumerate(rows)
        ]
        votes[name] = [vote_shares(each.masks) for each in answers]
        print(errors_table(name, answers, tracks, masks, store.height, motion))
        scores += score_rows(name, answers, tracks, frames, masks, steps, motion, votes[name])
    print(markdown(["known masks", "answer", "Jaccard"], scores))
    if options.votes:
        print(
            vote_table(
                rows,
                store,
                frames,
                known["segmented"],
                votes["segmented"],
                targets,
                options.models,
                tracker,
                motion,
                params,
            )
        )


def tracks_table(tracks: Sequence[KnownTracks], masks: Sequence[Masks], known: int) -> str:
    """Quality of the segmented tracks against the true masks."""
    last = pooled_jaccard([found.masks[-1] for found in tracks], [mask[known - 1] for mask in masks])
    every = pooled_jaccard([found.masks for found in tracks], [mask[:known] for mask in masks])
    given = [mask[:known] for mask in masks]
    return markdown(
        ["tracks", "value"],
        [
            ["Jaccard, last known frame", f"{last:.4f}"],
            ["Jaccard, all known frames", f"{every:.4f}"],
            ["right class, objects of the last known frame", f"{sighting_accuracy(tracks, given):.4f}"],
            ["right class, objects of the context", f"{class_accuracy(tracks, given):.4f}"],
        ],
    )


def errors_table(
    name: str,
    answers: Sequence[Answers],
    tracks: Sequence[KnownTracks],
    masks: Sequence[Masks],
    height: int,
    motion: ObjectMotion,
) -> str:
    """Errors of the places in pixels, and the calibration of the samples."""
    sampled, likely, true = matched(answers, tracks, masks, motion)
    errors = place_errors(sampled * height, true * height)
    distance = np.linalg.norm(likely - true, axis=1) * height
    rows = [
        ["median of samples", f"{errors.median:.2f}", f"{errors.mean:.2f}"],
        ["one sample", f"{errors.sample_median:.2f}", f"{errors.sample_mean:.2f}"],
        ["nearest sample", "", f"{errors.best_mean:.2f}"],
        ["most likely", f"{np.median(distance):.2f}", f"{distance.mean():.2f}"],
        ["inside 50 % and 90 % regions", f"{errors.inside_50:.3f}", f"{errors.inside_90:.3f}"],
    ]
    return markdown([f"places, known masks {name}", "median px", "mean px"], rows)


def score_rows(
    name: str,
    answers: Sequence[Answers],
    tracks: Sequence[KnownTracks],
    frames: Sequence[Masks],
    masks: Sequence[Masks],
    steps: int,
    motion: ObjectMotion,
    votes: Sequence[NDArray[np.float32]],
) -> list[list[str]]:
    """Jaccard index of each answer to the target frame."""
    targets = [mask[-1] for mask in masks]

    def row(kind: str, predict: Callable[[int], Masks]) -> list[str]:
        score = pooled_jaccard([predict(n) for n in range(len(targets))], targets)
        return [name, kind, f"{score:.4f}"]

    rows = [row("copy", lambda n: copy_last(tracks[n].masks))]
    rows += [
        row(f"decay {decay}", lambda n, decay=decay: decayed_velocity(tracks[n].masks, steps, decay))
        for decay in DECAYS
    ]
    rows += [
        row("one sample", lambda n: answers[n].masks[0]),
        row("most likely", lambda n: answers[n].likely_mask),
        row("median of samples", lambda n: answers[n].median_mask),
    ]
    rows += [row(f"vote {t}", lambda n, t=t: decide(votes[n], t)) for t in THRESHOLDS]
    rows.append(row("true displacement", lambda n: moved_truly(tracks[n], frames[n], masks[n], motion)))
    return rows


def vote_table(
    rows: Sequence[int],
    store: ClipStore,
    frames: Sequence[Masks],
    tracks: Sequence[KnownTracks],
    votes: Sequence[NDArray[np.float32]],
    targets: Sequence[Masks],
    models: Path,
    tracker: ObjectTracker,
    motion: ObjectMotion,
    motion_params: SampleMotionParams,
) -> str:
    """Jaccard index (and share of the true foreground) by the weight of composed masks and the threshold."""
    params, seed = read_section(PredictParams, "predict"), read_value("seed")
    model = load_latent_diffusion(models, pick_device())
    names, bases = [store.name(row) for row in rows], None
    if model.config.base == "composed":
        bases = composed_frames(motion, names, frames, tracks, params, motion_params, seed)
    _, denoised = denoised_shares(model, tracker, names, frames, bases, params, seed)
    table = []
    for weight in WEIGHTS:
        shares = [weight * v + (1 - weight) * d for v, d in zip(votes, denoised, strict=True)]
        cells = []
        for threshold in THRESHOLDS:
            decided = [decide(share, threshold) for share in shares]
            confusion = sum(confusion_matrix(p, t) for p, t in zip(decided, targets, strict=True))
            cells.append(f"{jaccard(confusion):.4f} ({foreground_share(confusion):.2f})")
        table.append([f"{weight}", *cells])
    return markdown(["motion_vote", *(f"threshold {t}" for t in THRESHOLDS)], table)


def composed_frames(
    motion: ObjectMotion,
    names: Sequence[str],
    frames: Sequence[Masks],
    tracks: Sequence[KnownTracks],
    params: PredictParams,
    motion_params: SampleMotionParams,
    seed: int,
) -> list[Masks]:
    """Compose the target frames of a rollout for each clip, (T, H, W, 3)."""
    objects = [
        ClipObjects(name, known, found.labels, found.classes)
        for name, known, found in zip(names, frames, tracks, strict=True)
    ]
    return motion.compose(objects, [frame - 1 for frame in params.frames], motion_params, seed)


def denoised_shares(
    model: LatentDiffusion,
    tracker: ObjectTracker,
    names: Sequence[str],
    frames: Sequence[Masks],
    composed: Sequence[Masks] | None,
    params: PredictParams,
    seed: int,
) -> tuple[list[Masks], list[NDArray[np.float32]]]:
    """Roll out clips from their known frames.

    Returns:
        Last frame of the first sample of each clip, (H, W, 3), and the class probabilities of that frame,
        averaged over the samples and restricted to the classes of the known frames, (49, H, W).
    """
    last, shares = [], []
    for batch in progress(range(len(names)), clips_per_batch(params), "roll out"):
        context = [frames[n] for n in batch]
        bases = None if composed is None else [composed[n] for n in batch]
        predicted, latents = model.sample_clips([names[n] for n in batch], context, params, seed, bases)
        for known, pictures, codes in zip(context, predicted[:, :, -1], latents, strict=True):
            z = torch.from_numpy(codes.astype(np.float32)).to(model.device)
            probs = tracker.masks.probs(pictures, z, tracker.masks.params.codec_vote).mean(dim=0)
            masks = tracker.masks.context_masks(tracker.masks.context_probs(known))
            shares.append(probs.float().cpu().numpy() * tracker.masks.allowed_classes(masks)[:, None, None])
            last.append(pictures[0])
    return last, shares


if __name__ == "__main__":
    main()
