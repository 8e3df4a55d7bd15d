"""Stage encode_latents composes frames by the motion model or by optical flow, as the base asks for."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from stages import encode_latents
from tests.evaluation.recorder import Recorder
from tests.small_models import CHANNELS, HEIGHT, LEVELS, WIDTH, save_small_models
from vdp.api.motion import labelled_objects, load_motion, resolve_base
from vdp.config.messages import validate
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.core.latent_time import LatentTime
from vdp.core.optical_flow import flow_extrapolation
from vdp.data.encode import encode_frames
from vdp.data.stores.clips import Clip, ClipStore, write_clips
from vdp.data.stores.latents import LatentClips
from vdp.models.codecs.factory import load_codec
from vdp.sampling.params import SampleMotionParams

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
FRAMES, KNOWN = 7, 4
CPU = torch.device("cpu")
SAMPLE_MOTION = {"sampler": "ddim", "steps": 2, "temperature": 1.0, "samples": 3}


def clip(name: str, objects: int = 2, labelled: bool = True, seed: int = 0) -> Clip:
    """Squares that move; the number of objects differs from clip to clip."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for k in range(FRAMES):
        for number in range(objects):
            row, column = 1 + 10 * number, 3 + seed + (k if number else 2 * k)
            masks[k, row : row + 8, column : column + 8] = 5 + number
    pixels = rng.integers(0, 256, (*masks.shape, 3), dtype=np.uint8)
    pixels[..., 0] = LEVELS * masks
    return Clip(name, pixels, masks if labelled else None)


TRAIN = [clip("a", seed=1), clip("b", labelled=False, seed=2), clip("c", objects=3, seed=3), clip("d", 0)]


def params(base: str) -> str:
    data = read_file(REPO / "params.yaml")
    data["clip"] = {"frames": FRAMES, "known": KNOWN, "height": HEIGHT, "width": WIDTH}
    data["diffusion"]["base"] = base
    data["sample_motion"] = SAMPLE_MOTION
    data["augment"]["denoiser"]["train"] |= {"flip": True, "random_views": 0}
    return yaml.safe_dump(data)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, of which some have masks, and models."""
    folder = tmp_path_factory.mktemp("encode")
    save_small_models(folder / "data/models")
    splits = {"train": TRAIN, "val": [clip("v")], "unlabeled": [clip("u", labelled=False)]}
    for split, clips in splits.items():
        write_clips(folder / "data/clips" / split, clips, shard_mb=1)
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; its models and clips are those of the template."""
    (tmp_path / "data").mkdir()
    for name in ("models", "clips"):
        (tmp_path / "data" / name).symlink_to(template / "data" / name)
    shutil.copy(REPO / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(encode_latents, "track_stage", Recorder().track_stage)
    return tmp_path


def encode(base: str) -> None:
    Path("params.yaml").write_text(params(base))
    encode_latents.main()


def without_motion() -> None:
    """As train_motion leaves the folder where no clip has masks."""
    Path("data/models").unlink()
    Path("data/models/motion").mkdir(parents=True)
    for name in ("codec", "denoiser"):
        shutil.copytree(encode_latents.CLIPS.resolve().parent / "models" / name, f"data/models/{name}")


def composed_files() -> list[Path]:
    return list(Path("data/latents").rglob("composed*"))


@pytest.mark.parametrize("base", ["auto", "composed"])
def test_frames_after_the_known_ones_are_composed_of_the_objects_in_those(project, base):
    """Each clip as if it were alone, in every view; clips without masks have none."""
    encode(base)
    latents = LatentClips(Path("data/latents"), ["train", "val"])
    stores = [ClipStore(encode_latents.CLIPS / split) for split in ("train", "val")]
    names = [name for store in stores for name in store.names]
    assert [names[row] for row in latents.composed] == ["a", "c", "d", "v"]
    assert latents.composed_from == KNOWN
    assert LatentClips(Path("data/latents"), ["unlabeled"]).composed_from is None
    motion, codec = load_motion(Path("data/models"), CPU), load_codec(Path("data/models/codec"))
    settings = validate(SampleMotionParams, SAMPLE_MOTION, "sample_motion")
    targets = range(KNOWN, FRAMES)
    for source in (TRAIN[0], TRAIN[2], clip("v")):
        row, views = names.index(source.name), 1 if source.name == "v" else 2
        known = labelled_objects(source.name, source.frames[:KNOWN], source.masks[:KNOWN])
        composed = motion.compose([known], targets, settings, read_file(Path("params.yaml"))["seed"])[0]
        assert composed.shape == (FRAMES - KNOWN, HEIGHT, WIDTH, 3)
        for view, frames in enumerate([composed, composed[:, :, ::-1].copy()][:views]):
            raw = encode_frames(codec.encode, frames, 64, CPU).half().float()
            read = latents.read_composed([row], [view], [list(targets)])
            torch.testing.assert_close(latents.normalisation.invert(read)[0], raw, atol=2e-3, rtol=2e-3)
    assert len(latents.read([0], [0], [range(FRAMES)])[0]) == CHANNELS


@pytest.mark.parametrize("base", ["moved", "nearest"])
def test_with_another_base_nothing_is_composed(project, base):
    encode(base)
    assert composed_files() == [] and LatentClips(Path("data/latents"), ["train"]).composed == []


@pytest.mark.parametrize("base", ["auto", "moved"])
def test_clips_are_padded_so_that_their_known_frames_end_a_group(project, base):
    """4 known frames are padded to 5, the others to 4: 1, 4 and 4 frames; nothing is composed."""
    models = project / "models"
    save_small_models(models, temporal_factor=4)
    (project / "data/models").unlink()
    (project / "data/models").symlink_to(models)
    encode(base)
    assert composed_files() == []
    latents, codec = LatentClips(Path("data/latents"), ["train"]), load_codec(models / "codec")
    assert latents.time == LatentTime(4, KNOWN) and latents.num_frames == 3
    frames = TRAIN[0].frames
    for view, shown in enumerate((frames, frames[:, :, ::-1])):
        padded = np.concatenate([shown[:1], shown, shown[-1:]])
        raw = encode_frames(codec.encode, padded, 64, CPU, factor=4)
        read = latents.normalisation.invert(latents.read([0], [view], [range(3)]))[0]
        torch.testing.assert_close(read, raw.half().float(), atol=2e-3, rtol=2e-3)


def test_the_other_latents_do_not_depend_on_the_base(project):
    encode("moved")
    kept = {path.name: path.read_bytes() for path in Path("data/latents").rglob("latents_*")}
    statistics = Path("data/latents/statistics.json").read_text()
    encode("auto")
    assert {path.name: path.read_bytes() for path in Path("data/latents").rglob("latents_*")} == kept
    assert json.loads(Path("data/latents/statistics.json").read_text()) == json.loads(statistics)


@pytest.mark.parametrize("base", ["auto", "optical_flow"])
def test_without_a_motion_model_all_clips_are_moved_by_optical_flow(project, base, monkeypatch):
    """With the decay of the training clips, in every view, with and without masks."""
    without_motion()
    measured = list[str]()

    def fit(clips: Iterable[np.ndarray], known: int) -> float:
        measured.extend(str(len(frames)) for frames in clips)
        assert known == KNOWN
        return 0.7

    monkeypatch.setattr(encode_latents, "fit_decay", fit)
    encode(base)
    assert len(measured) == len(TRAIN)
    latents = LatentClips(Path("data/latents"), ["train", "unlabeled"])
    assert latents.composed == list(range(len(TRAIN) + 1))
    assert (latents.composed_from, latents.flow_decay) == (KNOWN, 0.7)
    codec = load_codec(Path("data/models/codec"))
    names = ClipStore(encode_latents.CLIPS / "train").names
    for source in TRAIN[:2]:
        row = names.index(source.name)
        moved = flow_extrapolation(source.frames[:KNOWN], range(1, FRAMES - KNOWN + 1), 0.7)
        for view, frames in enumerate([moved, moved[:, :, ::-1].copy()]):
            raw = encode_frames(codec.encode, frames, 64, CPU).half().float()
            read = latents.read_composed([row], [view], [list(range(KNOWN, FRAMES))])
            torch.testing.assert_close(latents.normalisation.invert(read)[0], raw, atol=2e-3, rtol=2e-3)


def test_without_a_motion_model_composed_is_refused(project):
    without_motion()
    with pytest.raises(UserError, match="diffusion.base=composed: expected clips with masks.*auto or opti"):
        encode("composed")


def test_the_base_is_composed_where_a_motion_model_is(template, tmp_path):
    models = template / "data/models"
    assert [resolve_base(base, models, True) for base in ("auto", "composed", "moved", "nearest")] == [
        "composed", "composed", "moved", "nearest",
    ]  # fmt: skip
    assert [resolve_base(base, tmp_path, True) for base in ("auto", "moved", "nearest")] == [
        "optical_flow", "moved", "nearest",
    ]  # fmt: skip
    assert [resolve_base(base, models, single_frames=False) for base in ("auto", "nearest")] == [
        "moved", "nearest",
    ]  # fmt: skip
