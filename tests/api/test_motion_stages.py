"""Stages track_objects, predict_motion, segment and score on small random models."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from stages import predict_motion, score, segment, track_objects
from tests.evaluation.recorder import Recorder
from tests.small_models import CHANNELS, HEIGHT, LEVELS, WIDTH, RedSegmenter, save_small_models
from vdp.api import tracks
from vdp.config.yaml_file import read_file
from vdp.core.empty import NO_MASKS, empty_reason, write_empty
from vdp.core.objects import FEATURES, SEEN
from vdp.data.object_states import class_labels, object_states
from vdp.data.stores.clips import Clip, write_clips
from vdp.data.stores.predictions import kept_arrays, write_predictions
from vdp.data.stores.tracks import FRAME_MASKS, TrackStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("error:The given NumPy array is not writable"),  # of memory maps
]

REPO = Path(__file__).parents[2]
FRAMES, KNOWN, HOPS, SAMPLES = 7, 4, [5, 7], 3
STAGES = (track_objects, predict_motion, segment, score)


def clip(name: str, frames: int = FRAMES, labelled: bool = True, seed: int = 0) -> Clip:
    """Two squares that move, the first from `seed` on; red names the class, green and blue are noise."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((frames, HEIGHT, WIDTH), np.uint8)
    for k in range(frames):
        masks[k, 4:12, 3 + seed + k : 11 + seed + k] = 5
        masks[k, 18:26, 30 - k : 38 - k] = 40
    pixels = rng.integers(0, 256, (*masks.shape, 3), dtype=np.uint8)
    pixels[..., 0] = LEVELS * masks
    return Clip(name, pixels, masks if labelled else None)


def known_part(whole: Clip) -> Clip:
    """The context frames without masks, as of a hidden test video."""
    return Clip(whole.name, whole.frames[:KNOWN], None)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run_stages() -> None:
    for stage in STAGES:
        stage.main()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The stages on a test set `whole` with truth and on its context frames alone, `hidden`."""
    folder = tmp_path_factory.mktemp("stages")
    data = read_file(REPO / "params.yaml")
    data["clip"] = {"frames": FRAMES, "known": KNOWN, "height": HEIGHT, "width": WIDTH}
    data["predict"]["hops"] = HOPS
    data["track_objects"]["unlabeled"] = 1
    data["sample_motion"] |= {"steps": 2, "samples": SAMPLES}
    data["segment"] |= {"motion_vote": 0.5, "codec_vote": 0.0}
    data["score"]["strips"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(data))
    (folder / "dvc.yaml").write_text((REPO / "dvc.yaml").read_text())
    save_small_models(folder / "data" / "models")
    test = [clip(f"video_{n}", seed=n) for n in range(2)]
    splits = {
        "train": [clip("a"), clip("short", frames=FRAMES - 1), clip("unlabelled", labelled=False)],
        "val": [clip("v", frames=FRAMES + 2, seed=5)],
        "unlabeled": [clip(f"u{n}", labelled=False, seed=n) for n in range(2)],
        "test/whole": test,
        "test/hidden": [known_part(each) for each in test],
    }
    for split, clips in splits.items():
        write_clips(folder / "data/clips" / split, clips, shard_mb=1)
    (folder / "results").mkdir()
    (folder / "results/tasks.json").write_text("{}")  # of evaluate_tasks
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 2, len(HOPS), HEIGHT, WIDTH, 3), dtype=np.uint8)
    for name in ("whole", "hidden"):
        latents = np.ones((2, 2, CHANNELS, HEIGHT // 4, WIDTH // 4))
        part = kept_arrays(frames, latents, "all")
        names = [each.name for each in test]
        write_predictions(folder / "data/predictions" / name, names, HOPS, 2, [part])
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        for stage in STAGES:
            monkeypatch.setattr(stage, "track_stage", Recorder().track_stage)
        for module in (tracks, segment):
            monkeypatch.setattr(module, "load_segmenter", lambda folder: RedSegmenter())
        run_stages()
        yield folder


def test_labelled_clips_are_tracked_by_their_true_masks(project):
    train, val = TrackStore(project / "data/tracks/train"), TrackStore(project / "data/tracks/val")
    assert (train.names, val.names) == (["a"], ["v"])
    for store, source in ((train, clip("a")), (val, clip("v", frames=FRAMES + 2, seed=5))):
        labels, classes = class_labels(source.masks[:FRAMES])
        np.testing.assert_array_equal(store.states[0], object_states(labels, 2))
        assert store.classes[0].tolist() == classes.tolist() == [5, 40]
        assert store.labels is None


def test_some_unlabelled_clips_are_tracked_in_all_frames(project):
    store = TrackStore(project / "data/tracks/unlabeled")
    assert store.names == ["u0"] and store.frames == FRAMES
    assert sorted(store.classes[0].tolist()) == [5, 40] and store.states[..., SEEN].all()


def test_a_test_clip_is_predicted_from_its_context_frames_alone(project):
    """Its other frames and its masks change neither tracks nor motion nor predicted masks."""
    for folder in ("data/tracks/test", "data/motion"):
        assert read_tree(project / folder / "whole") == read_tree(project / folder / "hidden") != {}
    for kind in ("prediction", "known", "motion_only", "tracked"):
        whole, hidden = (np.load(project / f"data/masks/{name}/{kind}.npy") for name in ("whole", "hidden"))
        np.testing.assert_array_equal(whole, hidden)
        assert whole.any() or kind == "motion_only"  # random weights may hide every object
    assert np.load(project / "data/masks/whole/truth.npy").any()
    assert not np.load(project / "data/masks/hidden/truth.npy").any()


def test_tracked_test_clips_have_states_pixels_and_masks_of_their_context(project):
    store = TrackStore(project / "data/tracks/test/whole")
    count = store.classes.shape[1]
    assert store.names == ["video_0", "video_1"] and count == 2
    assert store.states.shape == (2, count, KNOWN, len(FEATURES))
    masks = np.load(project / "data/tracks/test/whole" / FRAME_MASKS)
    assert masks.shape == (2, KNOWN, HEIGHT, WIDTH) and masks.dtype == np.uint8
    np.testing.assert_array_equal(np.load(project / "data/masks/whole/known.npy"), masks)
    tracked = np.load(project / "data/masks/whole/tracked.npy")
    for row in range(2):
        labels, classes = store.pixels(row), store.classes[row]
        np.testing.assert_array_equal(object_states(np.asarray(labels), count), store.states[row])
        for number in range(count):
            assert (tracked[row][labels == number + 1] == classes[number]).all()
        assert not tracked[row][labels == 0].any()
        np.testing.assert_array_equal(tracked[row], clip("", seed=row).masks[:KNOWN])


def test_motion_has_places_and_composed_masks_of_every_sample_and_hop(project):
    count = TrackStore(project / "data/tracks/test/whole").classes.shape[1]
    arrays = {path.stem: np.load(path) for path in (project / "data/motion/whole").iterdir()}
    assert {kind: array.shape for kind, array in arrays.items()} == {
        "places": (2, SAMPLES, count, len(HOPS), 3),
        "masks": (2, SAMPLES, HEIGHT, WIDTH),
        "composed": (2, len(HOPS), HEIGHT, WIDTH, 3),
        "motion_only": (2, HEIGHT, WIDTH),
    }
    assert arrays["places"].dtype == np.float32 and np.isfinite(arrays["places"]).all()
    first = arrays["places"][0, :, 0, :, :2]
    assert not np.allclose(first[0], first[1]), "samples differ"
    np.testing.assert_array_equal(
        arrays["motion_only"], np.load(project / "data/masks/whole/motion_only.npy")
    )


def test_scores_have_the_rows_of_the_motion_and_hidden_clips_have_a_strip(project):
    metrics = json.loads((project / "results/metrics.json").read_text())
    assert list(metrics) == ["whole"]
    optional = {"copy_last_tracked", "decayed_velocity_tracked", "motion_only"}
    assert optional <= set(metrics["whole"]["baseline"])
    assert {path.name for path in (project / "results/strips").iterdir()} == {
        "hidden_video_0.png", "whole_video_0.png",
    }  # fmt: skip
    head = (project / "results/plots/whole_hops.csv").read_text().splitlines()[0]
    assert head == ("frame,psnr,ssim,copy_psnr,copy_ssim,flow_psnr,flow_ssim,composed_psnr,composed_ssim")


def test_a_second_run_gives_the_same_bytes(project):
    folders = [project / name for name in ("data/tracks", "data/motion", "data/masks", "results")]
    before = [read_tree(folder) for folder in folders]
    shutil.rmtree(project / ".resume")
    run_stages()
    assert [read_tree(folder) for folder in folders] == before


@pytest.fixture
def restored(project):
    """Params and outputs are as before afterwards."""
    before = read_tree(project)
    yield project
    for folder in ("data/tracks", "data/motion", "data/masks"):
        shutil.rmtree(project / folder)
    for name, content in before.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(content)


def test_test_sets_without_objects_are_predicted(restored):
    """No probability reaches the threshold: nothing is tracked, moved or predicted."""
    data = read_file(restored / "params.yaml")
    data["track_objects"]["object_threshold"] = 0.9999999
    data["segment"]["motion_vote"] = 1.0
    (restored / "params.yaml").write_text(yaml.safe_dump(data))
    for stage in (track_objects, predict_motion, segment):
        stage.main()
    assert TrackStore(restored / "data/tracks/test/hidden").classes.shape == (2, 0)
    assert not np.load(restored / "data/masks/hidden/prediction.npy").any()


@pytest.fixture
def without_masks(tmp_path, monkeypatch):
    """A project of clips without masks, in which no classifier and no motion model is trained."""
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((REPO / name).read_text())
    for split in ("train", "val", "test/hidden"):
        write_clips(tmp_path / "data/clips" / split, [clip("a", labelled=False)], shard_mb=1)
    for model in ("classifier", "motion", "segmenter"):
        write_empty(tmp_path / "data/models" / model, NO_MASKS)
    for stage in (track_objects, predict_motion, segment):
        monkeypatch.setattr(stage, "track_stage", Recorder().track_stage)


def test_without_masks_the_outputs_hold_the_reason_alone(without_masks):
    outputs = ((track_objects, "data/tracks"), (predict_motion, "data/motion"), (segment, "data/masks"))
    for stage, folder in outputs:
        stage.main()
        assert [path.name for path in Path(folder).iterdir()] == ["empty.json"]
        assert empty_reason(Path(folder)) == NO_MASKS
