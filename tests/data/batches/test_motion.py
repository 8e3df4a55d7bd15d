"""Training batches of clips of objects."""

import numpy as np
import pytest
import torch

from vdp.core.borders import whole_places
from vdp.core.ground import Ground
from vdp.core.objects import FEATURES, SEEN, X, Y
from vdp.data.batches.motion import MotionBatches, object_latents
from vdp.data.stores.tracks import Tracks, TrackStore, write_tracks
from vdp.training.seeds import step_rng

FRAMES, KNOWN = 10, 5
GROUND = Ground(0.2, 0.1, 2.0, (0.03, 0.02, 0.03))  # places are as measured: objects have no reach


def store(folder, clips: int, objects: int, frames: int = FRAMES, seed: int = 0) -> TrackStore:
    rng = np.random.default_rng(seed)
    tracks = []
    for number in range(clips):
        states = rng.normal(0, 0.3, (objects, frames, len(FEATURES))).astype(np.float32)
        states[..., SEEN] = rng.random((objects, frames)) < 0.8
        states *= states[..., SEEN : SEEN + 1]
        tracks.append(Tracks(f"{seed}_{number}", states, rng.integers(1, 49, objects).astype(np.uint8)))
    write_tracks(folder, tracks, frames)
    return TrackStore(folder)


def batches(stores, augment: bool = True, jitter: float = 0.01, size: int = 4) -> MotionBatches:
    return MotionBatches(stores, size, KNOWN, 4, augment, jitter, 3, GROUND)


def draw(source: MotionBatches, step: int, rows: range | None = None):
    return source(step, step_rng(1, step), rows or range(source.batch_size))


def test_rows_of_a_batch_are_the_rows_of_the_whole(tmp_path):
    source = batches([store(tmp_path / "a", 5, 3), store(tmp_path / "b", 4, 2, seed=1)])
    for step in range(6):
        whole, part = draw(source, step), draw(source, step, range(1, 3))
        for name in ("known", "index", "target", "target_index"):
            torch.testing.assert_close(getattr(part, name), getattr(whole, name)[1:3])


def test_a_validation_batch_has_the_context_of_a_test_clip_unchanged(tmp_path):
    clips = store(tmp_path / "a", 6, 3)
    source = batches([clips], augment=False, size=6)
    batch = draw(source, 0)
    assert batch.index[0].tolist() == list(range(KNOWN))
    assert batch.target_index[0].tolist() == list(range(KNOWN, KNOWN + 4))
    rows = [clips.names.index(name) for name in source.names(0)]
    expected = torch.from_numpy(clips.states[rows][:, :, :KNOWN].copy()).permute(0, 3, 2, 1)
    torch.testing.assert_close(batch.known[:, : len(FEATURES), :, 0], expected)


def test_mirrored_clips_differ_in_the_sign_of_x_alone(tmp_path):
    clips = store(tmp_path / "a", 8, 3)
    source = batches([clips], jitter=0.0, size=8)
    signs = set()
    for step in range(8):
        batch = draw(source, step)
        rows = [clips.names.index(name) for name in source.names(step)]
        first = int(batch.target_index[0, 0])
        true = torch.from_numpy(clips.states[rows].copy()).permute(0, 3, 2, 1)
        true = true[:, :, first : first + batch.target.shape[2]]
        torch.testing.assert_close(batch.target[:, Y, :, 0], true[:, Y])
        for row in range(8):
            ratio = (batch.target[row, X, :, 0] * true[row, X]).sum().sign().item()
            torch.testing.assert_close(batch.target[row, X, :, 0], ratio * true[row, X])
            signs.add(ratio)
    assert signs == {-1, 1}


def test_contexts_end_at_many_frames_and_targets_follow_them(tmp_path):
    source = batches([store(tmp_path / "a", 8, 3)])
    seen = set()
    for step in range(40):
        batch = draw(source, step)
        assert batch.target_index[0, 0] == batch.index[0, -1] + 1
        assert batch.index.shape[1] <= KNOWN and batch.target_index[0, -1] < FRAMES
        seen.add(int(batch.index[0, -1]))
    assert len(seen) > 2


def test_jitter_moves_visible_places_of_the_context_alone(tmp_path):
    clips = [store(tmp_path / "a", 8, 3)]
    still, moved = draw(batches(clips, jitter=0.0), 2), draw(batches(clips, jitter=0.01), 2)
    torch.testing.assert_close(moved.target, still.target)
    change = moved.known - still.known
    visible = still.known[:, SEEN] > 0
    assert change[:, [X, Y]].abs()[visible[:, None].expand(-1, 2, -1, -1, -1)].min() > 0
    assert not change[:, [X, Y]][~visible[:, None].expand(-1, 2, -1, -1, -1)].any()
    assert not change[:, Y + 1 :].any()


def test_an_epoch_has_every_clip_of_every_store_once(tmp_path):
    source = batches([store(tmp_path / "a", 5, 3), store(tmp_path / "b", 3, 2, seed=1)])
    names = source.names(0) + source.names(1)
    assert len(set(names)) == 8


@pytest.mark.parametrize(("frames", "known"), [(2, 1), (5, 4), (6, 4), (7, 6)])
def test_clips_of_few_frames_have_a_context_and_a_target(tmp_path, frames, known):
    source = MotionBatches([store(tmp_path / "a", 4, 2, frames)], 4, known, 3, True, 0.0, 3, GROUND)
    for step in range(20):
        batch = draw(source, step)
        assert 1 <= batch.index.shape[1] <= known
        assert batch.target_index[0, 0] == batch.index[0, -1] + 1 and batch.target_index[0, -1] < frames


def test_short_clips_and_no_clips_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no clips"):
        batches([])
    with pytest.raises(ValueError, match="clip.known"):
        batches([store(tmp_path / "a", 2, 2, frames=KNOWN)])


def test_objects_that_the_border_cuts_have_the_places_of_whole_objects(tmp_path):
    clips = store(tmp_path / "a", 6, 3)
    ground = Ground(0.2, 0.1, 2.0, (0.03, 0.02, 0.03), border=0.75, reach=((0.5, 0.6),) * 3)
    source = MotionBatches([clips], 6, KNOWN, 4, False, 0.0, 3, ground)
    batch = draw(source, 0)
    rows = [clips.names.index(name) for name in source.names(0)]
    measured = object_latents(clips.states[rows][:, :, : KNOWN + 4], clips.classes[rows])
    whole = whole_places(measured, ground)
    assert not torch.equal(whole[:, :, KNOWN:], measured[:, :, KNOWN:])
    assert torch.equal(batch.known, whole[:, :, :KNOWN]) and torch.equal(batch.target, whole[:, :, KNOWN:])
