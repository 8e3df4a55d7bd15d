"""bench.motion on a small store and small random models: its tables, and ceilings whose value is known."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from bench import motion as bench
from bench.motion import KnownTracks, class_accuracy, decide, true_tracks, vote_shares, with_true_classes
from tests.small_models import HEIGHT, LEVELS, WIDTH, RedSegmenter, save_small_models
from vdp.api import tracks
from vdp.config.yaml_file import read_file
from vdp.core.device import pick_device
from vdp.data.stores.clips import Clip, write_clips

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
FRAMES, KNOWN = 6, 4


def masks(moved: int = 1) -> np.ndarray:
    """Two squares of which the first moves, (FRAMES, H, W)."""
    masks = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for k in range(FRAMES):
        masks[k, 4:12, 3 + moved * k : 11 + moved * k] = 5
        masks[k, 18:26, 30:38] = 40
    return masks


def test_tracks_of_true_masks_have_the_true_masks():
    tracks = true_tracks(masks())
    np.testing.assert_array_equal(tracks.masks, masks())
    assert tracks.classes.tolist() == [5, 40] and tracks.states.shape[:2] == (2, FRAMES)


def test_a_wrong_class_is_counted_and_mended_by_the_true_masks():
    right = true_tracks(masks())
    wrong = KnownTracks(right.labels, np.array([5, 41], np.uint8), right.states)
    assert class_accuracy([right, wrong], [masks(), masks()]) == 0.75
    assert with_true_classes(wrong, masks()).classes.tolist() == [5, 40]
    corners = masks()
    corners[:, 5:18] = corners[:, 19:] = 0  # most pixels of the tracks are background
    assert with_true_classes(wrong, corners).classes.tolist() == [5, 40]
    nowhere = with_true_classes(wrong, np.zeros_like(masks()))
    assert nowhere.classes.tolist() == [5, 41], "tracks of background keep their class"


def test_votes_are_shares_of_the_samples_and_decided_as_in_the_stage():
    samples = np.zeros((4, 2, 3), np.uint8)
    samples[:3, 0, 0], samples[0, 1, 1] = 7, 9
    shares = vote_shares(samples)
    assert (shares[7, 0, 0], shares[9, 1, 1], shares[0, 1, 2]) == (0.75, 0.25, 1)
    assert decide(shares, 0.5).tolist() == [[7, 0, 0], [0, 0, 0]]
    assert decide(shares, 0.2)[1, 1] == 9


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The current folder: params, models, and val clips of which one is short and one has no masks."""
    folder = tmp_path_factory.mktemp("bench")
    data = read_file(REPO / "params.yaml")
    data["clip"] = {"frames": FRAMES, "known": KNOWN, "height": HEIGHT, "width": WIDTH}
    data["predict"] |= {"hops": [6], "steps": 1, "samples": 1, "batch_size": 2}
    data["sample_motion"] |= {"steps": 2, "samples": 3}
    data["segment"]["codec_vote"] = 0.0
    (folder / "params.yaml").write_text(yaml.safe_dump(data))
    save_small_models(folder / "data/models")
    clips = []
    for number in range(4):
        true = masks(moved=number % 2)[: FRAMES - (number == 2)]
        frames = np.repeat(LEVELS * true[..., None], 3, axis=3)
        clips.append(Clip(f"c{number}", frames, None if number == 3 else true))
    write_clips(folder / "data/clips/val", clips, shard_mb=1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(tracks, "load_segmenter", lambda folder: RedSegmenter())
        yield folder


@pytest.fixture(scope="module")
def output(project):
    """What the benchmark prints, with --votes."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("builtins.print", lambda text="": lines.append(str(text)))
        bench.main(["--votes", "--clips", "5"])
    return "\n".join(lines)


def scores(output: str, known: str) -> dict[str, float]:
    """Jaccard index of each answer from known masks of one kind."""
    rows = re.findall(rf"^\| {known} \| (.+?) \| ([\d.]+) \|$", output, re.MULTILINE)
    return {name.strip(): float(value) for name, value in rows}


def test_only_labelled_clips_of_full_length_are_rolled_out(output):
    assert output.startswith("2 clips of data/clips/val")


def test_answers_and_ceilings_of_each_kind_of_known_masks_are_scored(output):
    """A resting object is predicted by a copy; true places give its true mask, and that of a moving one."""
    for known in ("true", "segmented", "true classes"):
        found = scores(output, known)
        assert {"copy", "decay 0.9", "one sample", "most likely", "median of samples", "vote 0.4"} <= set(
            found
        )
        assert all(0 <= value <= 1 for value in found.values())
    found = scores(output, "true")
    assert found == scores(output, "segmented") == scores(output, "true classes"), "nothing is confused"
    assert found["true displacement"] == 1 > found["copy"] > 0.5
    assert found["decay 0.95"] > found["copy"]


def test_errors_and_qualities_of_tracks_and_votes_are_tables(output):
    assert (
        "| right class, objects of the context | 1.0000 |" in output
        and "| Jaccard, all known frames | 1.0000 |" in output
    )
    assert output.count("inside 50 % and 90 % regions") == 3
    votes = [line for line in output.splitlines() if line.startswith("| 0.5 |")]
    assert len(votes) == 1 and votes[0].count("|") == len(bench.THRESHOLDS) + 2


def test_true_displacements_of_a_still_clip_give_its_mask(project):
    still = masks(moved=0)
    frames = np.repeat(still[..., None], 3, axis=3)
    tracks = true_tracks(still[:KNOWN])
    motion = bench.load_motion(project / "data/models", torch.device(pick_device()))
    np.testing.assert_array_equal(bench.moved_truly(tracks, frames[:KNOWN], still, motion), still[-1])
    gone = still.copy()
    gone[-1] = 0
    assert not bench.moved_truly(tracks, frames[:KNOWN], gone, motion).any()
