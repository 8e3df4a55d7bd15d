import pickle
import warnings
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from vdp.core.pixels import to_uint8
from vdp.data.augment import Augment
from vdp.data.batches.batch import Batch
from vdp.data.batches.frames import FrameBatches, Frames
from vdp.data.batches.hops import EachTask, HopBatch, HopBatches, HopRule
from vdp.data.batches.shuffle import Shuffled
from vdp.data.params import Changes
from vdp.data.stores.clips import Clip, ClipStore, write_clips
from vdp.data.stores.latents import LatentClips, Normalisation, write_latents, write_statistics

OFF = Changes(flip=False, crop_scale=1.0, brightness=0.0)
HEIGHT, WIDTH, FRAMES = 16, 24, 4
Made = TypeVar("Made", bound=Batch)


def block_mask(rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A few large rectangles of random classes."""
    mask = np.zeros((height, width), np.uint8)
    for _ in range(4):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        mask[top : top + height // 2, left : left + width // 2] = rng.integers(1, 49)
    return mask


def painted(mask: np.ndarray) -> np.ndarray:
    """A frame whose colour is five times the class, so that it tells its own mask."""
    return (5 * mask)[..., None].repeat(3, axis=-1)


def make_store(folder: Path, labelled: int, unlabelled: int) -> ClipStore:
    rng = np.random.default_rng(0)
    clips = []
    for number in range(labelled + unlabelled):
        masks = np.stack([block_mask(rng) for _ in range(FRAMES)])
        given = masks if number < labelled else None
        clips.append(Clip(f"video_{number}", painted(masks), given))
    return write_clips(folder, clips, shard_mb=1)


def frame_batches(
    store: ClipStore, labelled_only: bool = True, changes: Changes = OFF, batch_size: int = 64, seed: int = 0
) -> FrameBatches:
    return FrameBatches([store], batch_size, labelled_only, Augment(changes, HEIGHT, WIDTH), seed)


def frames_at(batches: FrameBatches, step: int = 0, seed: int | list[int] = 0) -> Frames:
    """A whole batch."""
    return batches(step, np.random.default_rng(seed), range(batches.batch_size))


def numbered_store(folder: Path, classes: range, labelled: bool) -> ClipStore:
    """Clips of one colour each, five times their class, of lengths 2, 3, 2, 3 ..."""
    clips = []
    for number in classes:
        masks = np.full((2 + number % 2, HEIGHT, WIDTH), number, np.uint8)
        clips.append(Clip(f"video_{number}", painted(masks), masks if labelled else None))
    return write_clips(folder, clips, shard_mb=1)


def drawn(batches: FrameBatches, steps: int) -> list[int]:
    """The numbers of the clips that some steps see, in order."""
    seen = [frames_at(batches, step, step) for step in range(steps)]
    return [int(frame[0, 0, 0]) // 5 for batch in seen for frame in to_uint8(batch.frames)]


# --- Frames ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
def test_frames_come_with_their_own_masks_mirrored_or_not(tmp_path, flip):
    store = make_store(tmp_path / "train", labelled=3, unlabelled=0)
    changes = Changes(flip=flip, crop_scale=1.0, brightness=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = frames_at(frame_batches(store, changes=changes))
    assert batch.frames.shape == (64, 3, HEIGHT, WIDTH)
    assert batch.labelled.all()
    np.testing.assert_array_equal(to_uint8(batch.frames), painted(batch.masks.numpy()))
    every = {store.masks(i)[t].tobytes() for i in range(3) for t in range(FRAMES)}
    mirrored = {
        np.ascontiguousarray(store.masks(i)[t, :, ::-1]).tobytes() for i in range(3) for t in range(FRAMES)
    }
    found = {mask.tobytes() for mask in batch.masks.numpy()}
    assert found <= every | mirrored
    assert len(found & every) > 8  # most of the frames come up in a batch of 64
    assert bool(found & (mirrored - every)) == flip


def test_unlabelled_frames_are_marked_and_their_masks_empty(tmp_path):
    store = make_store(tmp_path / "train", labelled=1, unlabelled=2)
    batch = frames_at(frame_batches(store, labelled_only=False))
    assert 0 < batch.labelled.sum() < 64
    assert not batch.masks[~batch.labelled].any()
    assert batch.masks[batch.labelled].flatten(1).any(dim=1).all()
    assert to_uint8(batch.frames[~batch.labelled]).any()


def test_labelled_frames_alone_are_drawn_where_asked(tmp_path):
    store = make_store(tmp_path / "train", labelled=1, unlabelled=9)
    assert frames_at(frame_batches(store, labelled_only=True)).labelled.all()


@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_an_epoch_sees_every_clip_of_every_store_once(tmp_path, batch_size):
    """The stores have 3 clips with masks and 8 without: 11 to an epoch, or 3, in batches of any size."""
    stores = [
        numbered_store(tmp_path / "train", range(3), labelled=True),
        numbered_store(tmp_path / "unlabeled", range(3, 11), labelled=False),
    ]
    batches = FrameBatches(stores, batch_size, False, Augment(OFF, HEIGHT, WIDTH), seed=0)
    numbers = drawn(batches, steps=44 // batch_size + 1)
    for epoch in range(len(numbers) // 11):
        assert sorted(numbers[11 * epoch : 11 * epoch + 11]) == list(range(11))
    labelled = FrameBatches(stores, batch_size, True, Augment(OFF, HEIGHT, WIDTH), seed=0)
    assert Counter(drawn(labelled, steps=60)[:60]) == {0: 20, 1: 20, 2: 20}


def test_every_frame_of_a_clip_comes_up(tmp_path):
    masks = np.arange(FRAMES, dtype=np.uint8)[:, None, None].repeat(HEIGHT, axis=1).repeat(WIDTH, axis=2)
    store = write_clips(tmp_path / "train", [Clip("video_0", painted(masks), masks)], shard_mb=1)
    assert set(drawn(frame_batches(store), steps=1)) == set(range(FRAMES))


@pytest.mark.parametrize("labelled_only", [True, False])
def test_without_a_clip_to_learn_from_the_error_says_what_to_do(tmp_path, labelled_only):
    store = make_store(tmp_path / "train", labelled=0, unlabelled=2)
    message = "found none; put mask.npy" if labelled_only else "found none; run `dvc repro extract_frames`"
    with pytest.raises(ValueError, match=message):
        FrameBatches([store] if labelled_only else [], 4, labelled_only, Augment(OFF, HEIGHT, WIDTH), seed=0)


def equal(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, part.name), getattr(other, part.name)) for part in fields(one)]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def joined(parts: list[Made]) -> Made:
    """One batch of the rows of some."""
    values = {part.name: [getattr(batch, part.name) for batch in parts] for part in fields(parts[0])}
    each = {name: torch.cat(v) if isinstance(v[0], Tensor) else v[0] for name, v in values.items()}
    return type(parts[0])(**each)


def parts_of(count: int, size: int) -> list[range]:
    """The rows of a batch of `count` in parts of one size."""
    return [range(first, first + size) for first in range(0, count, size)]


def test_a_batch_depends_on_the_seed_and_the_step_alone(tmp_path):
    store = make_store(tmp_path / "train", labelled=20, unlabelled=4)
    changes = Changes(flip=True, crop_scale=0.7, brightness=0.2)

    def batch(step: int, seed: int = 0, batches: FrameBatches | None = None) -> Frames:
        made = batches or frame_batches(store, False, changes, batch_size=6, seed=seed)
        return frames_at(made, step, [seed, step])

    kept = frame_batches(store, False, changes, batch_size=6)
    for step in (7, 0, 3, 7):
        assert equal(batch(step, batches=kept), batch(step))
    assert not equal(batch(0), batch(1))
    assert not equal(batch(0), batch(0, seed=1))


def test_a_source_that_went_to_another_process_gives_the_same_batches(tmp_path):
    store = make_store(tmp_path / "train", labelled=20, unlabelled=0)
    batches = frame_batches(store, changes=Changes(flip=True, crop_scale=0.7, brightness=0.2))
    first = frames_at(batches, 3)
    assert equal(frames_at(pickle.loads(pickle.dumps(batches)), 3), first)


def test_a_batch_keeps_what_it_holds_when_it_moves(tmp_path):
    store = make_store(tmp_path / "train", labelled=3, unlabelled=0)
    batch = frames_at(frame_batches(store))
    for moved in (batch.to(torch.device("cpu")), batch.share_memory_()):
        assert isinstance(moved, Frames) and equal(moved, batch)
    assert batch.share_memory_().masks.is_shared()
    assert batch.to(torch.device("meta")).labelled.device.type == "meta"


@pytest.mark.parametrize("changes", [OFF, Changes(flip=True, crop_scale=0.7, brightness=0.2)])
def test_a_sample_of_one_frame_is_drawn_as_written_here_and_has_no_axis_of_time(tmp_path, changes):
    """The draws are spelt out: the clip by the shuffle, then the frame, then the change."""
    store = make_store(tmp_path / "train", labelled=3, unlabelled=2)
    augment = Augment(changes, HEIGHT, WIDTH)
    batch = frames_at(FrameBatches([store], 4, False, augment, seed=3), 2, 5)
    rng, order = np.random.default_rng(5), Shuffled(5, 3)
    for place in range(4):
        clip = order[8 + place]
        t, seed = int(rng.integers(0, FRAMES)), int(rng.integers(2**31))
        labelled = clip < 3
        masks = store.masks(clip) if labelled else np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
        frame, mask = augment(store.frames(clip)[t : t + 1], masks[t : t + 1], seed)
        np.testing.assert_array_equal(to_uint8(batch.frames[place]), frame[0])
        np.testing.assert_array_equal(batch.masks[place].numpy(), mask[0])
        assert batch.labelled[place] == labelled
    frames, masks = batch.clips()
    assert (frames.shape, masks.shape) == ((4, 3, 1, HEIGHT, WIDTH), (4, 1, HEIGHT, WIDTH))
    assert torch.equal(frames[:, :, 0], batch.frames) and torch.equal(masks[:, 0], batch.masks)


@pytest.mark.parametrize(("size", "length"), [(1, 1), (2, 3), (3, 1)])
def test_the_parts_of_a_batch_are_its_rows_each_read_alone(tmp_path, monkeypatch, size, length):
    """Whatever is drawn is drawn for all of it, and each knows how many clips of all have masks."""
    store = make_store(tmp_path / "train", labelled=3, unlabelled=4)
    changes = Changes(flip=True, crop_scale=0.7, brightness=0.2)
    batches = FrameBatches([store], 6, False, Augment(changes, HEIGHT, WIDTH), 1, length)
    read: list[int] = []
    frames = ClipStore.frames
    monkeypatch.setattr(ClipStore, "frames", lambda store, clip: read.append(clip) or frames(store, clip))
    for step in range(3):
        whole = frames_at(batches, step, step)
        parts = [batches(step, np.random.default_rng(step), rows) for rows in parts_of(6, size)]
        assert equal(joined(parts), whole)
    assert len(read) == 2 * 3 * 6  # no part has read another one's


def test_the_mask_losses_of_a_batch_weigh_as_if_the_clips_without_masks_were_not_there(tmp_path):
    store = make_store(tmp_path / "train", labelled=2, unlabelled=3)
    batches = FrameBatches([store], 4, False, Augment(OFF, HEIGHT, WIDTH), 0)
    counts = set()
    for step in range(20):
        batch = frames_at(batches, step, step)
        losses = torch.arange(1.0, 5.0)
        if count := int(batch.labelled.sum()):
            torch.testing.assert_close((batch.weight * losses).mean(), losses[batch.labelled].mean())
        counts.add(count)
        assert not batch.weight[~batch.labelled].any() and batch.weight.dtype == torch.float32
    assert len(counts) > 1
    alone = FrameBatches([make_store(tmp_path / "other", 0, 3)], 2, False, Augment(OFF, HEIGHT, WIDTH), 0)
    assert not frames_at(alone).weight.any()


def test_a_batch_names_its_clips(tmp_path):
    stores = [
        numbered_store(tmp_path / "train", range(3), labelled=True),
        numbered_store(tmp_path / "unlabeled", range(3, 11), labelled=False),
    ]
    batches = FrameBatches(stores, 5, False, Augment(OFF, HEIGHT, WIDTH), seed=0)
    numbers = drawn(batches, steps=4)
    assert [name for step in range(4) for name in batches.names(step)] == [f"video_{n}" for n in numbers]


# --- Runs of frames --------------------------------------------------------------------------------------


def counting_store(folder: Path, clips: int, frames: int, labelled: bool = True) -> ClipStore:
    """Clips whose frames are of one colour each: five times their number within the clip."""
    masks = np.arange(frames, dtype=np.uint8)[:, None, None].repeat(HEIGHT, axis=1).repeat(WIDTH, axis=2)
    made = [Clip(f"video_{n}", painted(masks), masks if labelled else None) for n in range(clips)]
    return write_clips(folder, made, shard_mb=1)


def test_a_sample_of_some_frames_is_a_run_of_a_clip_with_its_masks_from_any_place_in_it(tmp_path):
    store = counting_store(tmp_path / "train", clips=3, frames=7)
    batch = frames_at(FrameBatches([store], 60, True, Augment(OFF, HEIGHT, WIDTH), 0, 5))
    assert batch.frames.shape == (60, 3, 5, HEIGHT, WIDTH)
    assert batch.masks.shape == (60, 5, HEIGHT, WIDTH)
    numbers = batch.masks[:, :, 0, 0].long()
    assert torch.equal(numbers, numbers[:, :1] + torch.arange(5))
    assert set(numbers[:, 0].tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(to_uint8(batch.frames.transpose(1, 2)), painted(batch.masks.numpy()))
    frames, masks = batch.clips()
    assert torch.equal(frames, batch.frames) and torch.equal(masks, batch.masks)


def test_all_frames_of_a_sample_are_changed_alike_and_samples_each_their_own_way(tmp_path):
    mask = block_mask(np.random.default_rng(0))[None].repeat(5, axis=0)
    store = write_clips(tmp_path / "train", [Clip("video_0", painted(mask), mask)], shard_mb=1)
    changes = Changes(flip=True, crop_scale=0.6, brightness=0.3)
    batch = frames_at(FrameBatches([store], 12, True, Augment(changes, HEIGHT, WIDTH), 0, 5))
    assert (batch.frames == batch.frames[:, :, :1]).all()
    assert (batch.masks == batch.masks[:, :1]).all()
    assert len({sample.numpy().tobytes() for sample in batch.frames}) > 6


def test_runs_without_masks_are_marked_and_their_masks_empty(tmp_path):
    store = make_store(tmp_path / "train", labelled=1, unlabelled=2)
    batch = frames_at(FrameBatches([store], 30, False, Augment(OFF, HEIGHT, WIDTH), 0, 3))
    assert batch.masks.shape == (30, 3, HEIGHT, WIDTH)
    assert batch.labelled.sum() == 10
    assert not batch.masks[~batch.labelled].any()
    assert batch.masks[batch.labelled].flatten(2).any(dim=2).all()


def test_a_clip_shorter_than_a_run_is_told_in_one_line_before_training_starts(tmp_path):
    """Unless it has no masks and is left out; a clip of just that length will do."""
    store = write_clips(
        tmp_path / "train",
        [
            Clip("video_0", painted(m := np.ones((5, HEIGHT, WIDTH), np.uint8)), m),
            Clip("short", painted(m[:4])),
        ],
        shard_mb=1,
    )
    augment = Augment(OFF, HEIGHT, WIDTH)
    assert frames_at(FrameBatches([store], 2, True, augment, 0, 5)).frames.shape[2] == 5
    line = "train: expected clips of 5 frames or more, .* got 4 in short; lower vae.temporal_factor"
    with pytest.raises(ValueError, match=line) as error:
        FrameBatches([store], 2, False, augment, 0, 5)
    assert "\n" not in str(error.value)


# --- Hops ------------------------------------------------------------------------------------------------


def telling_latents(root: Path, clips: int = 5, views: int = 2, frames: int = 22) -> LatentClips:
    """Latents whose values tell their place: channels hold the clip, the view and the frame."""
    arrays = []
    for clip in range(clips):
        values = np.zeros((views, frames, 3, 2, 2), np.float16)
        values[:, :, 0] = clip
        values[:, :, 1] = np.arange(views)[:, None, None, None]
        values[:, :, 2] = np.arange(frames)[None, :, None, None]
        arrays.append(values)
    write_latents(root / "train", arrays, shard_mb=1)
    write_statistics(root, Normalisation((0.0,) * 3, (1.0,) * 3))
    return LatentClips(root, ["train"])


def hop_batches(
    latents: LatentClips, batch_size: int = 32, known: int = 6, targets: int = 1, reverse: bool = False
) -> HopBatches:
    rule = HopRule(known, [1, 2], max_hops=5, targets=targets, span=8)
    return HopBatches(latents, batch_size, {"predict": 1.0}, rule, reverse, seed=0)


def hops_at(batches: HopBatches, step: int) -> HopBatch:
    """A whole batch."""
    return batches(step, np.random.default_rng(step), range(batches.batch_size))


@pytest.mark.parametrize("targets", [1, 2, 3])
def test_the_frames_of_a_hop_are_those_that_its_times_name(tmp_path, targets):
    batches = hop_batches(telling_latents(tmp_path), targets=targets)
    for step in range(20):
        hops = hops_at(batches, step)
        clip, view, frame = hops.known[:, 0, :, 0, 0], hops.known[:, 1, :, 0, 0], hops.known[:, 2, :, 0, 0]
        assert torch.equal(frame, hops.index)
        assert torch.equal(hops.target[:, 2, :, 0, 0], hops.target_index)
        # known frames and target are of one clip and one view
        assert (hops.target[:, 0, :, 0, 0] == clip[:, :1]).all()
        assert (hops.target[:, 1, :, 0, 0] == view[:, :1]).all()
        assert (clip == clip[:, :1]).all() and (view == view[:, :1]).all()
        assert (hops.index.amax(dim=1, keepdim=True) < hops.target_index).all()
        assert hops.target.shape == (32, 3, targets, 2, 2)
        assert hops.target_index.unique().numel() > 5 and view.unique().numel() == 2  # each its own


def test_half_of_the_hops_are_played_backwards_where_asked(tmp_path):
    """Frames count from the clip's end then; times still run forwards, to a target after what is known."""
    batches, backwards = hop_batches(telling_latents(tmp_path), targets=2, reverse=True), 0
    for step in range(20):
        hops = hops_at(batches, step)
        times = torch.cat([hops.index, hops.target_index], dim=1)
        frames = torch.cat([hops.known[:, 2, :, 0, 0], hops.target[:, 2, :, 0, 0]], dim=1)
        turned = (frames == 21 - times).all(dim=1)
        assert (turned | (frames == times).all(dim=1)).all()
        assert (hops.index.amax(dim=1, keepdim=True) < hops.target_index).all()
        assert 0 < turned.sum() < 32  # each hop draws its own numbers
        backwards += int(turned.sum())
    assert 250 < backwards < 390  # of 640; the standard deviation is 12.6


def test_reversal_changes_which_frames_are_read_and_nothing_else(tmp_path):
    latents = telling_latents(tmp_path)
    forwards, both = (hops_at(hop_batches(latents, reverse=reverse), 0) for reverse in (False, True))
    assert torch.equal(forwards.index, both.index)
    assert torch.equal(forwards.target_index, both.target_index)
    assert torch.equal(forwards.known[:, :2], both.known[:, :2])
    assert not torch.equal(forwards.known[:, 2], both.known[:, 2])


def test_an_epoch_sees_every_clip_once_and_in_time_every_view(tmp_path):
    batches = hop_batches(telling_latents(tmp_path, clips=7, views=3), batch_size=4)
    steps = [hops_at(batches, step) for step in range(70)]
    places = [(int(c), int(v)) for hops in steps for c, v in hops.target[:, :2, 0, 0, 0].tolist()]
    for epoch in range(40):
        assert sorted(clip for clip, _ in places[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert set(places) == {(clip, view) for clip in range(7) for view in range(3)}


def test_another_seed_shuffles_the_clips_another_way(tmp_path):
    latents = telling_latents(tmp_path, clips=40)
    first, again, other = (
        hops_at(HopBatches(latents, 40, {"predict": 1.0}, HopRule(6, [1, 2], 5, 1, 8), False, seed), 0).known
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first[:, 0], other[:, 0])  # channel 0: the clip


def test_most_batches_have_all_known_frames_and_some_have_fewer(tmp_path):
    batches = hop_batches(telling_latents(tmp_path), batch_size=2)
    counts = [hops_at(batches, step).known.shape[2] for step in range(400)]
    assert set(counts) == set(range(1, 7))
    assert 0.8 < counts.count(6) / 400 < 0.95


def test_a_batch_of_hops_depends_on_the_seed_and_the_step_alone(tmp_path):
    batches = hop_batches(telling_latents(tmp_path))
    first, again, other = (hops_at(batches, step) for step in (3, 3, 4))
    assert torch.equal(first.known, again.known) and torch.equal(first.target_index, again.target_index)
    assert not torch.equal(first.target_index, other.target_index)
    sent = hops_at(pickle.loads(pickle.dumps(batches)), 3)
    assert torch.equal(sent.known, first.known) and torch.equal(sent.index, first.index)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_parts_of_a_batch_of_hops_are_its_rows(tmp_path, size):
    batches = hop_batches(telling_latents(tmp_path), batch_size=6, targets=2, reverse=True)
    for step in range(10):
        parts = [batches(step, np.random.default_rng(step), rows) for rows in parts_of(6, size)]
        assert equal(joined(parts), hops_at(batches, step))


def test_a_batch_of_hops_names_its_clips_by_their_split_and_number(tmp_path):
    """Of two splits, the second in a shard for each clip."""
    for split, shard_mb, clips in (("train", 9, 3), ("unlabeled", 1, 5)):
        size = (1, 22, 3, 80, 80)  # 844,800 bytes: one to a shard of a MiB
        write_latents(tmp_path / split, [np.full(size, n, np.float16) for n in range(clips)], shard_mb)
    write_statistics(tmp_path, Normalisation((0.0,) * 3, (1.0,) * 3))
    latents = LatentClips(tmp_path, ["train", "unlabeled"])
    names = [latents.name(clip) for clip in range(8)]
    assert names == [f"train clip {n}" for n in range(3)] + [f"unlabeled clip {n}" for n in range(5)]
    batches = hop_batches(latents, batch_size=8)
    seen = hops_at(batches, 0).known[:, 0, 0, 0, 0]
    assert [int(name.split()[-1]) for name in batches.names(0)] == seen.tolist()
    assert sorted(batches.names(0)) == names


def test_hops_that_do_not_fit_fail_before_training_starts(tmp_path):
    latents = telling_latents(tmp_path, frames=6)
    with pytest.raises(
        ValueError, match="do not fit into clips of 6 frames; lower train_denoiser.context_frames"
    ):
        hop_batches(latents, known=6)


# --- Hops of several tasks -------------------------------------------------------------------------------

MIX = {"predict": 0.4, "interpolate": 0.2, "generate": 0.3, "restore": 0.1}


def telling_pairs(root: Path, degraded: int = 3) -> LatentClips:
    """As `telling_latents`, each clip with degraded forms, whose channel 1 holds their number plus 100."""
    arrays, conditions = [], []
    for clip in range(5):
        values = np.zeros((max(degraded, 2), 22, 3, 2, 2), np.float16)
        values[:, :, 0] = clip
        values[:, :, 1] = np.arange(len(values))[:, None, None, None]
        values[:, :, 2] = np.arange(22)[None, :, None, None]
        arrays.append(values[:2])
        worse = values[:degraded].copy()
        worse[:, :, 1] += 100
        conditions.append(worse)
    write_latents(root / "train", arrays, shard_mb=1, conditions=conditions)
    write_statistics(root, Normalisation((0.0,) * 3, (1.0,) * 3))
    return LatentClips(root, ["train"])


def mixed_batches(latents: LatentClips, tasks: dict, targets: int = 1, reverse: bool = False) -> HopBatches:
    return HopBatches(latents, 8, tasks, HopRule(4, [1, 2], 5, targets, 6), reverse, seed=0)


def test_tasks_are_drawn_by_their_shares(tmp_path):
    batches = mixed_batches(telling_pairs(tmp_path), {task: 7 * share for task, share in MIX.items()})
    tasks = Counter(hops_at(batches, step).task for step in range(600))
    for task, share in MIX.items():
        assert tasks[task] / 600 == pytest.approx(share, abs=0.08)  # four standard deviations


def test_one_task_alone_is_drawn_as_if_there_were_no_others(tmp_path):
    latents = telling_pairs(tmp_path)
    rule = HopRule(4, [1, 2], 5, 1, 6)
    alone = HopBatches(latents, 8, {"predict": 1.0}, rule, reverse=True, seed=3)
    others = HopBatches(latents, 8, MIX, rule, reverse=True, seed=3).of("predict")
    for step in range(3):
        assert equal(hops_at(alone, step), hops_at(others, step))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("targets", [1, 3])
def test_a_restored_hop_knows_degraded_frames_of_the_view_that_it_restores(tmp_path, targets, reverse):
    batches = mixed_batches(telling_pairs(tmp_path), {"predict": 1e-9, "restore": 1.0}, targets, reverse)
    numbers = set()
    for step in range(20):
        hops = hops_at(batches, step)
        (clip, number, frame), (of, view, at) = (
            x[..., 0, 0].transpose(0, 1) for x in (hops.known, hops.target)
        )
        assert torch.equal(of, clip[:, :1].expand_as(of)) and (number >= 100).all()
        assert torch.equal(view, (number[:, :1] % 100 % 2).expand_as(view))
        turned = (frame == 21 - hops.index).all(dim=1)
        assert (turned | (frame == hops.index).all(dim=1)).all() and (reverse or not turned.any())
        assert torch.equal(at, torch.where(turned[:, None], 21 - hops.target_index, hops.target_index))
        assert (hops.index[:, :, None] == hops.target_index[:, None]).any(dim=1).all()
        numbers |= set(number[:, 0].tolist())
    assert numbers == {100, 101, 102}


def test_a_generated_hop_knows_nothing_and_an_interpolated_one_both_sides(tmp_path):
    latents = telling_pairs(tmp_path)
    free = hops_at(mixed_batches(latents, {"predict": 1e-9, "generate": 1.0}), 0)
    assert free.known.shape == (8, 3, 0, 2, 2) and free.index.shape == (8, 0)
    assert torch.equal(free.target[:, 2, :, 0, 0], free.target_index)
    between = hops_at(mixed_batches(latents, {"predict": 1e-9, "interpolate": 1.0}), 0)
    assert (between.index.amin(dim=1) < between.target_index[:, 0]).all()
    assert (between.index.amax(dim=1) > between.target_index[:, 0]).all()


@pytest.mark.parametrize("size", [1, 2])
def test_the_parts_of_a_batch_of_any_task_are_its_rows(tmp_path, size):
    batches = mixed_batches(telling_pairs(tmp_path), MIX)
    for step in range(12):
        parts = [batches(step, np.random.default_rng(step), rows) for rows in parts_of(8, size)]
        assert equal(joined(parts), hops_at(batches, step))


def test_a_validation_has_a_batch_of_every_task_at_each_step(tmp_path):
    batches = EachTask(mixed_batches(telling_pairs(tmp_path), MIX))
    made = batches(3, np.random.default_rng(3), range(8))
    assert [hops.task for hops in made.parts] == list(MIX)
    assert all(len(hops.target) == 8 for hops in made.parts)
    moved = made.to(torch.device("meta"))
    assert all(hops.known.is_meta and hops.task == task for hops, task in zip(moved.parts, MIX, strict=True))


def test_restoring_without_degraded_clips_is_refused(tmp_path):
    with pytest.raises(ValueError, match="set encode_latents.degraded to 1 or more"):
        mixed_batches(telling_latents(tmp_path), MIX)
