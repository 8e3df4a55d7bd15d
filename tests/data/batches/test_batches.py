"""Training batches of frames and of hops."""

import pickle
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from vdp.core.pixels import to_uint8
from vdp.core.tasks import Task
from vdp.data.augment import Augment
from vdp.data.batches.batch import Batch
from vdp.data.batches.frames import FrameBatches, Frames
from vdp.data.batches.hops import AllTaskBatches, HopBatch, HopBatches, HopRule
from vdp.data.batches.shuffle import Shuffled
from vdp.data.params import Changes
from vdp.data.stores.clips import Clip, ClipStore, write_clips
from vdp.data.stores.latents import EncodedClip, LatentClips, Normalisation, write_latents, write_statistics

OFF = Changes(flip=False, crop_scale=1.0, brightness=0.0, rotation=0.0, noise=0.0, blur=0.0)
ALL = Changes(flip=True, crop_scale=0.7, brightness=0.2, rotation=0.0, noise=0.0, blur=0.0)
HEIGHT, WIDTH, FRAMES = 16, 24, 4
KNOWN = 11  # frames from which the others are composed
AnyBatch = TypeVar("AnyBatch", bound=Batch)


def block_mask(rng: np.random.Generator) -> np.ndarray:
    """A few large rectangles of random classes."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(4):
        top, left = rng.integers(0, HEIGHT // 2), rng.integers(0, WIDTH // 2)
        mask[top : top + HEIGHT // 2, left : left + WIDTH // 2] = rng.integers(1, 49)
    return mask


def paint(mask: np.ndarray) -> np.ndarray:
    """Frames whose colour is five times the class."""
    return (5 * mask)[..., None].repeat(3, axis=-1)


def make_store(folder: Path, labelled: int, unlabelled: int) -> ClipStore:
    rng = np.random.default_rng(0)
    clips = []
    for number in range(labelled + unlabelled):
        masks = np.stack([block_mask(rng) for _ in range(FRAMES)])
        clips.append(Clip(f"video_{number}", paint(masks), masks if number < labelled else None))
    return write_clips(folder, clips, shard_mb=1)


def two_stores(root: Path) -> list[ClipStore]:
    """3 clips with masks and 8 without, of 2 or 3 frames; clip n has class n and colour 5 n."""
    stores = []
    for name, classes in (("train", range(3)), ("unlabeled", range(3, 11))):
        masks = [np.full((2 + n % 2, HEIGHT, WIDTH), n, np.uint8) for n in classes]
        clips = [Clip(f"video_{m[0, 0, 0]}", paint(m), m if name == "train" else None) for m in masks]
        stores.append(write_clips(root / name, clips, shard_mb=1))
    return stores


def frame_batches(
    stores: ClipStore | list[ClipStore],
    batch_size: int = 64,
    labelled_only: bool = True,
    changes: Changes = OFF,
    seed: int = 0,
    length: int = 1,
) -> FrameBatches:
    stores = [stores] if isinstance(stores, ClipStore) else stores
    return FrameBatches(stores, batch_size, labelled_only, Augment(changes, HEIGHT, WIDTH), seed, length)


def whole(batches: FrameBatches, step: int = 0) -> Frames:
    return batches(step, np.random.default_rng(step), range(batches.batch_size))


def drawn(batches: FrameBatches, steps: int) -> list[int]:
    """Numbers of the clips of some steps, in order."""
    return [int(f[0, 0, 0]) // 5 for step in range(steps) for f in to_uint8(whole(batches, step).frames)]


def equal(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, part.name), getattr(other, part.name)) for part in fields(one)]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def joined(parts: list[AnyBatch]) -> AnyBatch:
    """One batch of the rows of some."""
    values = {part.name: [getattr(batch, part.name) for batch in parts] for part in fields(parts[0])}
    each = {name: torch.cat(v) if isinstance(v[0], Tensor) else v[0] for name, v in values.items()}
    return type(parts[0])(**each)


def row_parts(count: int, size: int) -> list[range]:
    return [range(first, first + size) for first in range(0, count, size)]


# --- Frames ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
def test_frames_match_their_masks(tmp_path, flip):
    store = make_store(tmp_path / "train", labelled=3, unlabelled=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = whole(
            frame_batches(
                store,
                changes=Changes(flip=flip, crop_scale=1.0, brightness=0.0, rotation=0.0, noise=0.0, blur=0.0),
            )
        )
    assert batch.frames.shape == (64, 3, HEIGHT, WIDTH)
    assert batch.labelled.all()
    np.testing.assert_array_equal(to_uint8(batch.frames), paint(batch.masks.numpy()))
    every = {store.masks(i)[t].tobytes() for i in range(3) for t in range(FRAMES)}
    mirrored = {
        np.ascontiguousarray(store.masks(i)[t, :, ::-1]).tobytes() for i in range(3) for t in range(FRAMES)
    }
    found = {mask.tobytes() for mask in batch.masks.numpy()}
    assert found <= every | mirrored
    assert len(found & every) > 8  # most of the frames come up in a batch of 64
    assert bool(found & (mirrored - every)) == flip


@pytest.mark.parametrize("length", [1, 3])
def test_unlabelled_samples_are_marked_and_have_empty_masks(tmp_path, length):
    store = make_store(tmp_path / "train", labelled=1, unlabelled=2)
    batch = whole(frame_batches(store, 30, labelled_only=False, length=length))
    assert batch.labelled.sum() == 10
    assert not batch.masks[~batch.labelled].any()
    assert batch.masks[batch.labelled].flatten(1).any(dim=1).all()
    assert to_uint8(batch.frames[~batch.labelled].flatten(2)[..., None]).any()


@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_an_epoch_has_every_clip_of_every_store_once(tmp_path, batch_size):
    stores = two_stores(tmp_path)
    numbers = drawn(frame_batches(stores, batch_size, labelled_only=False), steps=44 // batch_size + 1)
    for epoch in range(len(numbers) // 11):
        assert sorted(numbers[11 * epoch : 11 * epoch + 11]) == list(range(11))
    labelled = drawn(frame_batches(stores, batch_size), steps=60)
    assert Counter(labelled[:60]) == {0: 20, 1: 20, 2: 20}


def test_every_frame_of_a_clip_comes_up(tmp_path):
    assert set(drawn(frame_batches(counting_store(tmp_path / "train", 1, FRAMES)), 1)) == set(range(FRAMES))


@pytest.mark.parametrize(("labelled_only", "message"), [(True, "mask.npy"), (False, "dvc repro")])
def test_an_empty_training_set_is_an_error(tmp_path, labelled_only, message):
    store = make_store(tmp_path / "train", labelled=0, unlabelled=2)
    with pytest.raises(ValueError, match=f"clips: no clips .*{message}"):
        frame_batches([store] if labelled_only else [], 4, labelled_only)


def test_a_batch_depends_on_seed_and_step_alone(tmp_path):
    store = make_store(tmp_path / "train", labelled=20, unlabelled=4)
    kept = frame_batches(store, 6, False, ALL)
    for step in (7, 0, 3, 7):
        assert equal(whole(kept, step), whole(frame_batches(store, 6, False, ALL), step))
    assert not equal(whole(kept, 0), whole(kept, 1))
    assert not equal(whole(kept), whole(frame_batches(store, 6, False, ALL, seed=1)))
    assert equal(whole(pickle.loads(pickle.dumps(kept)), 3), whole(kept, 3))


def test_a_moved_batch_is_equal(tmp_path):
    batch = whole(frame_batches(make_store(tmp_path / "train", labelled=3, unlabelled=0)))
    for moved in (batch.to(torch.device("cpu")), batch.share_memory_()):
        assert isinstance(moved, Frames) and equal(moved, batch)
    assert batch.share_memory_().masks.is_shared()
    assert batch.to(torch.device("meta")).labelled.device.type == "meta"


@pytest.mark.parametrize("changes", [OFF, ALL])
def test_single_frames_are_drawn_as_clip_then_frame_then_seed(tmp_path, changes):
    store = make_store(tmp_path / "train", labelled=3, unlabelled=2)
    batches = frame_batches(store, 4, False, changes, seed=3)
    batch = whole(batches, 2)
    rng, order = np.random.default_rng(2), Shuffled(5, 3)
    for row in range(4):
        clip = order[8 + row]
        t, seed = int(rng.integers(0, FRAMES)), int(rng.integers(2**31))
        masks = store.masks(clip) if clip < 3 else np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
        frame, mask = batches.augment(store.frames(clip)[t : t + 1], masks[t : t + 1], seed)
        np.testing.assert_array_equal(to_uint8(batch.frames[row]), frame[0])
        np.testing.assert_array_equal(batch.masks[row].numpy(), mask[0])
        assert batch.labelled[row] == (clip < 3)
    frames, masks = batch.clips()
    assert (frames.shape, masks.shape) == ((4, 3, 1, HEIGHT, WIDTH), (4, 1, HEIGHT, WIDTH))
    assert torch.equal(frames[:, :, 0], batch.frames) and torch.equal(masks[:, 0], batch.masks)


@pytest.mark.parametrize(("size", "length"), [(1, 1), (2, 3), (3, 1)])
def test_parts_of_a_batch_are_its_rows_and_read_nothing_else(tmp_path, monkeypatch, size, length):
    store = make_store(tmp_path / "train", labelled=3, unlabelled=4)
    batches = frame_batches(store, 6, False, ALL, 1, length)
    read: list[int] = []
    frames = ClipStore.frames
    monkeypatch.setattr(ClipStore, "frames", lambda store, clip: read.append(clip) or frames(store, clip))
    for step in range(3):
        parts = [batches(step, np.random.default_rng(step), rows) for rows in row_parts(6, size)]
        assert equal(joined(parts), whole(batches, step))
    assert len(read) == 2 * 3 * 6


def test_weighted_mask_losses_average_over_labelled_samples(tmp_path):
    batches = frame_batches(make_store(tmp_path / "train", 2, 3), 4, labelled_only=False)
    losses, counts = torch.arange(1.0, 5.0), set()
    for step in range(20):
        batch = whole(batches, step)
        if count := int(batch.labelled.sum()):
            torch.testing.assert_close((batch.weight * losses).mean(), losses[batch.labelled].mean())
        counts.add(count)
        assert not batch.weight[~batch.labelled].any() and batch.weight.dtype == torch.float32
    assert len(counts) > 1
    unlabelled = frame_batches(make_store(tmp_path / "other", 0, 3), 2, labelled_only=False)
    assert not whole(unlabelled).weight.any()


def test_a_batch_names_its_clips(tmp_path):
    batches = frame_batches(two_stores(tmp_path), 5, labelled_only=False)
    names = [name for step in range(4) for name in batches.names(step)]
    assert names == [f"video_{n}" for n in drawn(batches, steps=4)]


def counting_store(folder: Path, clips: int, frames: int) -> ClipStore:
    """Clips whose frame t is of class t and colour 5 t."""
    masks = np.arange(frames, dtype=np.uint8)[:, None, None].repeat(HEIGHT, axis=1).repeat(WIDTH, axis=2)
    return write_clips(folder, [Clip(f"video_{n}", paint(masks), masks) for n in range(clips)], shard_mb=1)


def test_a_run_of_frames_starts_anywhere_in_its_clip(tmp_path):
    batch = whole(frame_batches(counting_store(tmp_path / "train", clips=3, frames=7), 60, length=5))
    assert batch.frames.shape == (60, 3, 5, HEIGHT, WIDTH)
    assert batch.masks.shape == (60, 5, HEIGHT, WIDTH)
    numbers = batch.masks[:, :, 0, 0].long()
    assert torch.equal(numbers, numbers[:, :1] + torch.arange(5))
    assert set(numbers[:, 0].tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(to_uint8(batch.frames.transpose(1, 2)), paint(batch.masks.numpy()))
    frames, masks = batch.clips()
    assert torch.equal(frames, batch.frames) and torch.equal(masks, batch.masks)


def test_a_clip_shorter_than_a_run_is_refused_unless_left_out(tmp_path):
    mask = np.ones((5, HEIGHT, WIDTH), np.uint8)
    clips = [Clip("video_0", paint(mask), mask), Clip("short", paint(mask[:4]))]
    store = write_clips(tmp_path / "train", clips, shard_mb=1)
    assert whole(frame_batches(store, 2, length=5)).frames.shape[2] == 5
    with pytest.raises(ValueError, match="expected clips of 5 frames or more.* got 4 in short") as error:
        frame_batches(store, 2, labelled_only=False, length=5)
    assert "\n" not in str(error.value)


# --- Hops ------------------------------------------------------------------------------------------------

MIX: dict[Task, float] = {"predict": 0.4, "interpolate": 0.2, "generate": 0.3, "restore": 0.1}


def numbered_latents(
    root: Path,
    clips: int = 5,
    views: int = 2,
    frames: int = 22,
    degraded: int = 0,
    composed: Sequence[int] = (),
) -> LatentClips:
    """Latents whose channels hold the clip, the view and the frame.

    The view is the form + 100 where degraded, and + 200 in the frames from `KNOWN` on of clips in `composed`.
    """

    def numbered(clip: int, forms: int, kind: int, first: int = 0) -> np.ndarray:
        values = np.zeros((forms, frames - first, 3, 2, 2), np.float16)
        values[:, :, 0] = clip
        values[:, :, 1] = kind + np.arange(forms)[:, None, None, None]
        values[:, :, 2] = np.arange(first, frames)[None, :, None, None]
        return values

    encoded = [
        EncodedClip(
            numbered(clip, views, 0),
            numbered(clip, degraded, 100) if degraded else None,
            numbered(clip, views, 200, KNOWN) if clip in composed else None,
        )
        for clip in range(clips)
    ]
    write_latents(root / "train", encoded, shard_mb=1, known=KNOWN)
    write_statistics(root, Normalisation((0.0,) * 3, (1.0,) * 3))
    return LatentClips(root, ["train"])


def hop_batches(
    latents: LatentClips,
    batch_size: int = 32,
    tasks: dict[Task, float] | None = None,
    context_frames: int = 6,
    targets: int = 1,
    reverse: bool = False,
    seed: int = 0,
    given_frames: int = 0,
) -> HopBatches:
    rule = HopRule(context_frames, [1, 2], max_hops=5, targets=targets, max_span=6, given_frames=given_frames)
    composed = latents.composed_from is not None
    return HopBatches(latents, batch_size, tasks or {"predict": 1.0}, rule, composed, reverse, seed)


def hops_at(batches: HopBatches, step: int) -> HopBatch:
    return batches(step, np.random.default_rng(step), range(batches.batch_size))


@pytest.mark.parametrize("targets", [1, 2, 3])
def test_hops_have_the_frames_of_their_indices(tmp_path, targets):
    batches = hop_batches(numbered_latents(tmp_path), targets=targets)
    for step in range(20):
        hops = hops_at(batches, step)
        clip, view, frame = hops.known[:, :, :, 0, 0].unbind(1)
        assert torch.equal(frame, hops.index)
        assert torch.equal(hops.target[:, 2, :, 0, 0], hops.target_index)
        # one clip and one view
        assert (hops.target[:, 0, :, 0, 0] == clip[:, :1]).all()
        assert (hops.target[:, 1, :, 0, 0] == view[:, :1]).all()
        assert (clip == clip[:, :1]).all() and (view == view[:, :1]).all()
        assert (hops.index.amax(dim=1, keepdim=True) < hops.target_index).all()
        assert hops.target.shape == (32, 3, targets, 2, 2)
        assert hops.target_index.unique().numel() > 5 and view.unique().numel() == 2


def test_half_of_the_hops_are_read_backwards_where_asked(tmp_path):
    """Frames then count from the end of the clip; frame indices still ascend to the target."""
    batches, backwards = hop_batches(numbered_latents(tmp_path), targets=2, reverse=True), 0
    for step in range(20):
        hops = hops_at(batches, step)
        index = torch.cat([hops.index, hops.target_index], dim=1)
        frames = torch.cat([hops.known[:, 2, :, 0, 0], hops.target[:, 2, :, 0, 0]], dim=1)
        flipped = (frames == 21 - index).all(dim=1)
        assert (flipped | (frames == index).all(dim=1)).all()
        assert (hops.index.amax(dim=1, keepdim=True) < hops.target_index).all()
        assert 0 < flipped.sum() < 32  # drawn per hop
        backwards += int(flipped.sum())
    assert 250 < backwards < 390  # of 640; the standard deviation is 12.6


def test_reversal_changes_only_which_frames_are_read(tmp_path):
    latents = numbered_latents(tmp_path)
    forwards, both = (hops_at(hop_batches(latents, reverse=reverse), 0) for reverse in (False, True))
    assert torch.equal(forwards.index, both.index)
    assert torch.equal(forwards.target_index, both.target_index)
    assert torch.equal(forwards.known[:, :2], both.known[:, :2])
    assert not torch.equal(forwards.known[:, 2], both.known[:, 2])


def test_an_epoch_of_hops_has_every_clip_once_and_every_view_comes_up(tmp_path):
    batches = hop_batches(numbered_latents(tmp_path, clips=7, views=3), batch_size=4)
    steps = [hops_at(batches, step) for step in range(70)]
    seen = [(int(c), int(v)) for hops in steps for c, v in hops.target[:, :2, 0, 0, 0].tolist()]
    for epoch in range(40):
        assert sorted(clip for clip, _ in seen[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert set(seen) == {(clip, view) for clip in range(7) for view in range(3)}


def test_the_seed_shuffles_the_clips(tmp_path):
    latents = numbered_latents(tmp_path, clips=40)
    first, again, other = (hops_at(hop_batches(latents, 40, seed=seed), 0).known for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first[:, 0], other[:, 0])  # channel 0: the clip


def test_most_batches_have_all_context_frames_and_some_have_fewer(tmp_path):
    batches = hop_batches(numbered_latents(tmp_path), batch_size=2)
    counts = [hops_at(batches, step).known.shape[2] for step in range(400)]
    assert set(counts) == set(range(1, 7))
    assert 0.8 < counts.count(6) / 400 < 0.95


def test_a_batch_of_hops_depends_on_seed_and_step_alone(tmp_path):
    batches = hop_batches(numbered_latents(tmp_path))
    first = hops_at(batches, 3)
    assert equal(first, hops_at(batches, 3))
    assert not torch.equal(first.target_index, hops_at(batches, 4).target_index)
    assert equal(first, hops_at(pickle.loads(pickle.dumps(batches)), 3))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("tasks", [None, MIX], ids=["predict", "all tasks"])
def test_parts_of_a_batch_of_hops_are_its_rows(tmp_path, size, tasks):
    latents = numbered_latents(tmp_path, degraded=3)
    batches = hop_batches(latents, 6, tasks, context_frames=4, targets=2, reverse=True)
    for step in range(12):
        parts = [batches(step, np.random.default_rng(step), rows) for rows in row_parts(6, size)]
        assert equal(joined(parts), hops_at(batches, step))


def test_a_batch_of_hops_names_its_clips_by_split_and_number(tmp_path):
    """Two splits, the second with a shard for each clip."""
    for split, shard_mb, clips in (("train", 9, 3), ("unlabeled", 1, 5)):
        size = (1, 22, 3, 80, 80)  # 844,800 bytes: one to a shard of a MiB
        encoded = [EncodedClip(np.full(size, n, np.float16)) for n in range(clips)]
        write_latents(tmp_path / split, encoded, shard_mb, known=0)
    write_statistics(tmp_path, Normalisation((0.0,) * 3, (1.0,) * 3))
    latents = LatentClips(tmp_path, ["train", "unlabeled"])
    names = [latents.name(clip) for clip in range(8)]
    assert names == [f"train clip {n}" for n in range(3)] + [f"unlabeled clip {n}" for n in range(5)]
    batches = hop_batches(latents, batch_size=8)
    seen = hops_at(batches, 0).known[:, 0, 0, 0, 0]
    assert [int(name.split()[-1]) for name in batches.names(0)] == seen.tolist()
    assert sorted(batches.names(0)) == names


def test_hops_that_do_not_fit_are_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="clips of 6 frames.*train_denoiser.context_frames"):
        hop_batches(numbered_latents(tmp_path, frames=6))


def test_tasks_are_drawn_by_their_shares(tmp_path):
    tasks: dict[Task, float] = {task: 7 * share for task, share in MIX.items()}
    batches = hop_batches(numbered_latents(tmp_path, degraded=3), 8, tasks, context_frames=4)
    counts = Counter(hops_at(batches, step).task for step in range(600))
    for task, share in MIX.items():
        assert counts[task] / 600 == pytest.approx(share, abs=0.08)  # four standard deviations


def test_a_single_task_is_drawn_as_if_there_were_no_others(tmp_path):
    latents = numbered_latents(tmp_path, degraded=3)
    alone = hop_batches(latents, 8, context_frames=4, reverse=True)
    others = hop_batches(latents, 8, MIX, context_frames=4, reverse=True).for_task("predict")
    for step in range(3):
        assert equal(hops_at(alone, step), hops_at(others, step))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("targets", [1, 3])
def test_a_restore_hop_has_degraded_frames_of_its_view(tmp_path, targets, reverse):
    latents = numbered_latents(tmp_path, degraded=3)
    batches = hop_batches(latents, 8, {"restore": 1.0}, context_frames=4, targets=targets, reverse=reverse)
    forms = set()
    for step in range(20):
        hops = hops_at(batches, step)
        clip, form, frame = hops.known[..., 0, 0].transpose(0, 1)
        target_clip, view, target = hops.target[..., 0, 0].transpose(0, 1)
        assert torch.equal(target_clip, clip[:, :1].expand_as(target_clip)) and (form >= 100).all()
        assert torch.equal(view, (form[:, :1] % 100 % 2).expand_as(view))
        flipped = (frame == 21 - hops.index).all(dim=1)
        assert (flipped | (frame == hops.index).all(dim=1)).all() and (reverse or not flipped.any())
        expected = torch.where(flipped[:, None], 21 - hops.target_index, hops.target_index)
        assert torch.equal(target, expected)
        assert (hops.index[:, :, None] == hops.target_index[:, None]).any(dim=1).all()
        forms |= set(form[:, 0].tolist())
    assert forms == {100, 101, 102}


def test_a_generate_hop_has_no_context_and_an_interpolate_hop_has_both_sides(tmp_path):
    latents = numbered_latents(tmp_path, degraded=3)
    generate = hops_at(hop_batches(latents, 8, {"generate": 1.0}), 0)
    assert generate.known.shape == (8, 3, 0, 2, 2) and generate.index.shape == (8, 0)
    assert torch.equal(generate.target[:, 2, :, 0, 0], generate.target_index)
    interpolate = hops_at(hop_batches(latents, 8, {"interpolate": 1.0}, context_frames=4), 0)
    assert (interpolate.index.amin(dim=1) < interpolate.target_index[:, 0]).all()
    assert (interpolate.index.amax(dim=1) > interpolate.target_index[:, 0]).all()


def test_validation_has_a_batch_of_every_task_at_each_step(tmp_path):
    batches = AllTaskBatches(hop_batches(numbered_latents(tmp_path, degraded=3), 8, MIX, context_frames=4))
    hops = batches(3, np.random.default_rng(3), range(8))
    assert [part.task for part in hops.parts] == list(MIX)
    assert all(len(part.target) == 8 for part in hops.parts)
    moved = hops.to(torch.device("meta"))
    assert all(part.known.is_meta and part.task == task for part, task in zip(moved.parts, MIX, strict=True))


def test_restore_without_degraded_clips_is_refused(tmp_path):
    with pytest.raises(ValueError, match="encode_latents.degraded"):
        hop_batches(numbered_latents(tmp_path), tasks=MIX)


# --- Hops with composed frames ---------------------------------------------------------------------------

COMPOSED = (0, 2, 3)  # of five clips


def composed_batches(root: Path, tasks: dict[Task, float] | None = None, reverse: bool = False) -> HopBatches:
    latents = numbered_latents(root, degraded=2, composed=COMPOSED)
    return hop_batches(
        latents, 8, tasks, context_frames=3, targets=2, reverse=reverse, given_frames=2
    )  # fmt: skip


def has_composed(hops: HopBatch) -> bool:
    """Whether the first context frames are at the indices of the targets."""
    count = hops.target_index.shape[1]
    return hops.task == "predict" and torch.equal(hops.index[:, :count], hops.target_index)


def test_the_composed_frames_of_the_targets_are_context_frames_at_their_indices(tmp_path):
    """The given frames are true ones; those of earlier hops are composed, as are all from `KNOWN` on."""
    batches, targets = composed_batches(tmp_path, reverse=True), set[int]()
    for step in range(60):
        hops = hops_at(batches, step)
        if not has_composed(hops):
            continue
        clip, view, frame = hops.known[..., 0, 0].unbind(1)
        assert torch.equal(frame, hops.index)
        assert torch.equal(view >= 200, hops.index >= KNOWN)
        assert (view[:, :2] >= 200).all() and (hops.target_index >= KNOWN).all()
        target_clip, target_view, target = hops.target[..., 0, 0].unbind(1)
        assert torch.equal(target, hops.target_index)
        assert (clip == clip[:, :1]).all() and torch.equal(target_clip, clip[:, :2])
        assert (target_view < 100).all() and (view % 200 == target_view[:, :1]).all()
        context = hops.index[:, 2:]
        assert ((context < KNOWN).sum(dim=1) >= min(2, context.shape[1])).all()
        assert (context.amax(dim=1) < hops.target_index[:, 0]).all()
        targets |= set(hops.target_index.flatten().tolist())
    assert targets == set(range(KNOWN, 22))


def test_earlier_hops_are_composed_frames_in_the_context(tmp_path):
    hops = [hops_at(composed_batches(tmp_path), step) for step in range(20)]
    context = torch.cat([batch.index[:, 2:].flatten() for batch in hops if has_composed(batch)])
    assert set(context.tolist()) == {8, 9, 10, 12, 14, 16, 18, 20}


def test_some_batches_are_hops_anywhere_without_composed_frames(tmp_path):
    batches, without = composed_batches(tmp_path, reverse=True), 0
    indices, flipped = set[int](), 0
    for step in range(400):
        hops = hops_at(batches, step)
        if not has_composed(hops):
            without += 1
            _, view, frame = hops.known[..., 0, 0].unbind(1)
            assert (view < 100).all() and hops.index.shape[1] <= 3
            flipped += int((frame != hops.index).any(dim=1).sum())
            indices |= set(hops.target_index.flatten().tolist())
    assert 0.05 < without / 400 < 0.16
    assert flipped > 0 and indices >= set(range(4, 20))


def test_clips_without_composed_frames_are_not_drawn(tmp_path):
    batches = composed_batches(tmp_path, MIX)
    drawn = torch.cat([hops_at(batches, step).target[:, 0].flatten() for step in range(30)])
    assert set(drawn.tolist()) == set(COMPOSED)
    named = {name for step in range(10) for name in batches.names(step)}
    assert named == {f"train clip {clip}" for clip in COMPOSED}


def test_other_tasks_have_no_composed_frames(tmp_path):
    batches = composed_batches(tmp_path, {"interpolate": 0.5, "restore": 0.5})
    for step in range(20):
        hops = hops_at(batches, step)
        assert (hops.known[:, 1] < 200).all() and (hops.target[:, 1] < 100).all()


@pytest.mark.parametrize("size", [1, 3])
def test_parts_of_a_batch_with_composed_frames_are_its_rows(tmp_path, size):
    batches = composed_batches(tmp_path, MIX, reverse=True)
    for step in range(12):
        parts = [batches(step, np.random.default_rng(step), rows) for rows in row_parts(8, size)]
        assert equal(joined(parts), hops_at(batches, step))


def test_more_context_frames_than_the_composed_ones_come_from_are_refused(tmp_path):
    with pytest.raises(ValueError, match="lower train_denoiser.context_frames"):
        hop_batches(numbered_latents(tmp_path, composed=COMPOSED), context_frames=KNOWN + 1)


def test_composed_frames_are_read_only_where_asked(tmp_path):
    latents = numbered_latents(tmp_path, composed=COMPOSED)
    rule = HopRule(3, [1, 2], max_hops=5, targets=1, max_span=6, given_frames=2)
    batches = HopBatches(latents, 32, {"predict": 1.0}, rule, False, False, 0)
    drawn = [hops_at(batches, step) for step in range(20)]
    assert not any(hops.bases or has_composed(hops) for hops in drawn)
    clips = {int(clip) for hops in drawn for clip in hops.target[:, 0, 0, 0, 0]}
    assert clips == set(range(len(latents)))  # those without composed frames too


def test_composed_frames_that_are_not_encoded_are_refused(tmp_path):
    rule = HopRule(3, [1, 2], max_hops=5, targets=1, max_span=6, given_frames=2)
    with pytest.raises(ValueError, match="diffusion.base: there are no composed frames") as error:
        HopBatches(numbered_latents(tmp_path), 32, {"predict": 1.0}, rule, True, False, 0)
    assert "\n" not in str(error.value)
