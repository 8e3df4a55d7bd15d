"""Stages train_classifier and train_motion pass the values of params.yaml on and skip data without masks."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from stages import train_classifier, train_motion
from vdp.config.yaml_file import read_file
from vdp.core.empty import NO_MASKS, empty_reason
from vdp.core.objects import AREA, FEATURES, SEEN, X, Y
from vdp.core.rng import whole_batch
from vdp.data.batches.crops import Crops
from vdp.data.ground import fit_ground
from vdp.data.stores.clips import Clip, write_clips
from vdp.data.stores.tracks import Tracks, TrackStore, write_tracks
from vdp.diffusion.motion import MotionLevelLoss, motion_scale
from vdp.models.classifiers.crops import FACTORS, load_classifier
from vdp.models.motion.factory import load_motion_model
from vdp.training.dataloader import first_batches
from vdp.training.definition import TrainingResult

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
FRAMES, KNOWN, TARGETS = 8, 4, 3
CLASSIFIER = {"crop": 16, "crop_scale": 0.5, "base_channels": 8}
MOTION = {
    "name": "interaction", "schedule": "flow", "prediction": "x0", "hidden_dim": 16, "pair_dim": 4,
    "depth": 1, "head_depth": 1, "num_heads": 2, "context_slots": 3, "target_slots": TARGETS,
}  # fmt: skip
TRAIN_MOTION = {
    "batch_size": 3, "draws": 4, "time_shift": 2.0, "unroll": 2, "seen_weight": 0.3, "jitter": 0.002,
}  # fmt: skip
CPU = torch.device("cpu")


class FakeFit:
    """Stands for `fit` and keeps its arguments."""

    def __call__(self, training, params, engine, seed, logger, fabric, checkpoints):
        self.training, self.params, self.seed = training, params, seed
        network = training.network.eval()
        return TrainingResult(network, {"best": network.state_dict()})


def params() -> dict[str, dict[str, object]]:
    data = read_file(REPO / "params.yaml")
    data["seed"] = 9
    data["clip"] = {"frames": FRAMES, "known": KNOWN, "height": 32, "width": 48}
    data["classifier"] = CLASSIFIER
    data["motion"] = MOTION
    data["train_classifier"] |= {"batch_size": 4, "jitter": 0.1}
    data["train_motion"] |= TRAIN_MOTION
    return data


def tracks(folder: Path, name: str, clips: int, frames: int = FRAMES, seed: int = 0) -> None:
    """Write clips of two objects that slide at a steady velocity."""
    rng = np.random.default_rng(seed)
    written = []
    for number in range(clips):
        states = np.zeros((2, frames, len(FEATURES)), np.float32)
        states[..., SEEN], states[..., AREA] = 1, 0.03
        start, step = rng.uniform(-0.3, 0.3, (2, 2, 1, 2))
        states[..., [X, Y]] = start + 0.2 * step * np.arange(frames)[:, None]
        written.append(Tracks(f"{name}_{number}", states, np.array([3, 40], np.uint8)))
    write_tracks(folder / name, written, frames)


def clip(name: str, labelled: bool = True) -> Clip:
    masks = np.zeros((3, 32, 48), np.uint8)
    masks[:, 8:18, 8:18] = 7
    frames = np.repeat(30 * masks[..., None], 3, axis=3).astype(np.uint8)
    return Clip(name, frames, masks if labelled else None)


@pytest.fixture
def fit(tmp_path, monkeypatch) -> FakeFit:
    """The current folder has params; both stages use a fake `fit`."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(params()))
    Path("dvc.yaml").write_text((REPO / "dvc.yaml").read_text())
    fake = FakeFit()
    for stage in (train_classifier, train_motion):
        tracker = nullcontext(SimpleNamespace(is_main=True))
        monkeypatch.setattr(stage, "track_stage", lambda name, tracker=tracker: tracker)
        monkeypatch.setattr(stage, "fit", fake)
    return fake


# --- train_motion ----------------------------------------------------------------------------------------


def write_tracks_of_all_splits(simulated: int = 4) -> None:
    tracks(Path("data/raw/simulated"), "tracks", simulated)
    for split in ("train", "unlabeled", "val"):
        tracks(Path("data/tracks"), split, 2, seed=len(split))


def test_the_motion_loss_and_batches_follow_params(fit):
    write_tracks_of_all_splits()
    train_motion.main()
    loss, val_loss, batches = fit.training.loss, fit.training.val_loss, fit.training.batches
    assert (loss.time_shift, loss.draws, loss.seen_weight) == (2.0, 4, 0.3)
    assert (loss.unroll, loss.hop_frames) == (2, TARGETS)
    assert isinstance(val_loss, MotionLevelLoss) and val_loss.objective is loss.objective
    assert loss.objective.process.prediction == "x0" and fit.seed == 9
    assert (batches.batch_size, batches.context_frames, batches.max_targets) == (3, KNOWN, TARGETS)
    assert batches.augment and batches.jitter == 0.002
    names = {name for step in range(8) for name in batches.names(step)}
    assert names == {f"tracks_{n}" for n in range(4)} | {
        f"{s}_{n}" for s in ("train", "unlabeled") for n in (0, 1)
    }


def test_the_motion_is_validated_on_val_clips_as_they_are(fit):
    write_tracks_of_all_splits()
    train_motion.main()
    batches = fit.training.val_batches
    assert not batches.augment and batches.jitter == 0
    assert set(batches.names(0)) == {"val_0", "val_1"}


def test_floor_and_scale_are_measured_on_the_training_tracks_and_saved(fit):
    write_tracks_of_all_splits()
    train_motion.main()
    trained = load_motion_model(train_motion.MOTION, CPU)
    store, objective = TrackStore(Path("data/raw/simulated/tracks")), fit.training.loss.objective
    assert trained.config.ground.floor() == objective.ground == fit_ground(store.states, store.classes)
    batches = first_batches(fit.training.batches, 9)
    scale = torch.stack([motion_scale(batch, objective.process, objective.ground) for batch in batches]).mean(
        0
    )
    torch.testing.assert_close(objective.scale, scale)
    assert trained.config.data_scale == pytest.approx(scale.tolist())
    assert trained.config.motion.model_dump() == MOTION
    for name, value in fit.training.network.state_dict().items():
        assert torch.equal(trained.network.state_dict()[name], value)
    assert (train_motion.MOTION / "best.safetensors").is_file()


def test_the_motion_is_trained_without_simulated_tracks(fit):
    """simulate.tracks=0 leaves a store without clips."""
    write_tracks_of_all_splits(simulated=0)
    train_motion.main()
    names = {name for step in range(4) for name in fit.training.batches.names(step)}
    assert names == {f"{split}_{n}" for split in ("train", "unlabeled") for n in (0, 1)}


def test_the_motion_is_validated_on_training_clips_where_val_has_no_tracks(fit):
    tracks(Path("data/raw/simulated"), "tracks", 2)
    tracks(Path("data/tracks"), "train", 2)
    train_motion.main()
    assert set(fit.training.val_batches.names(0)) == {"tracks_0", "tracks_1", "train_0", "train_1"}


def test_without_tracks_of_clips_no_motion_is_trained(fit):
    tracks(Path("data/raw/simulated"), "tracks", 2)
    Path("data/tracks").mkdir()
    train_motion.main()
    assert empty_reason(train_motion.MOTION) == NO_MASKS
    assert not hasattr(fit, "training")


# --- train_classifier ------------------------------------------------------------------------------------


def test_the_classifier_follows_params_and_is_saved(fit):
    for split in ("train", "val"):
        write_clips(Path("data/clips") / split, [clip(f"{split}{n}") for n in range(3)], shard_mb=1)
    train_classifier.main()
    batches, val_batches = fit.training.batches, fit.training.val_batches
    assert (batches.batch_size, batches.size, batches.side, batches.jitter) == (4, 16, 16, 0.1)
    assert val_batches.jitter == 0 and set(val_batches.names(0)) == {"val0", "val1", "val2"}
    assert set(batches.names(0)) == {"train0", "train1", "train2"}
    loaded = load_classifier(train_classifier.CLASSIFIER)
    assert loaded.params.model_dump() == CLASSIFIER
    crops = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(crops), fit.training.network(crops))
    assert (train_classifier.CLASSIFIER / "best.safetensors").is_file()


def test_the_classifier_is_validated_on_training_clips_where_val_has_no_masks(fit):
    for split, labelled in (("train", True), ("val", False)):
        clips = [clip(f"{split}{n}", labelled) for n in range(2)]
        write_clips(Path("data/clips") / split, clips, shard_mb=1)
    train_classifier.main()
    assert set(fit.training.val_batches.names(0)) == {"train0", "train1"}


def test_without_masks_no_classifier_is_trained(fit):
    for split in ("train", "val"):
        write_clips(Path("data/clips") / split, [clip(split, labelled=False)], shard_mb=1)
    train_classifier.main()
    assert empty_reason(train_classifier.CLASSIFIER) == NO_MASKS
    assert not hasattr(fit, "training")


class Answer(torch.nn.Module):
    """Logits of a class for every crop, right in all factors or wrong in the colour."""

    def __init__(self, label: int, wrong_color: bool = False) -> None:
        super().__init__()
        shapes, materials, colors = FACTORS
        shape, rest = divmod(label - 1, materials * colors)
        material, color = divmod(rest, colors)
        self.logits = torch.zeros(sum(FACTORS))
        color = (color + 1) % colors if wrong_color else color
        self.logits[[shape, shapes + material, shapes + materials + color]] = 20.0

    def forward(self, crops):
        return self.logits.expand(len(crops), -1)


def test_crops_without_an_object_count_neither_in_loss_nor_accuracy():
    crops = Crops(
        torch.zeros(4, 3, 8, 8),
        torch.zeros(4, 8, 8, dtype=torch.uint8),
        torch.tensor([1, 1, 1, 0]),
        torch.tensor([1.0, 1.0, 1.0, 0.0]),
    )
    rng = whole_batch(torch.Generator(), 4)
    right = train_classifier.val_loss(Answer(1), crops, rng)
    assert {name: right[name].item() for name in ("shape", "material", "color")} == pytest.approx(
        {"shape": 1, "material": 1, "color": 1}
    )
    wrong = train_classifier.val_loss(Answer(1, wrong_color=True), crops, rng)
    assert (wrong["shape"].item(), wrong["material"].item(), wrong["color"].item()) == (1, 1, 0)
    assert wrong["loss"] > right["loss"]
    empty = Crops(crops.frames, crops.masks, torch.zeros(4, dtype=torch.long), torch.zeros(4))
    assert train_classifier.loss(Answer(1), empty, rng)["loss"] == 0
    assert train_classifier.val_loss(Answer(1), empty, rng)["shape"] == 0
