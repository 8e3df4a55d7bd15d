"""A submission has the pipeline's masks in the order of the videos' numbers, or one error line."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from stages import predict, predict_motion, segment, track_objects
from tests.evaluation.recorder import Recorder
from tests.small_models import HEIGHT, WIDTH, RedSegmenter, save_small_models
from vdp.api import tracks
from vdp.cli import submit as module
from vdp.cli.submit import submit
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.data.extract.cut import cut_clips
from vdp.data.sources.competition import CompetitionSource
from vdp.data.sources.protocols import ClipRule, Pace
from vdp.data.stores.clips import Clip, write_clips
from vdp.data.stores.tracks import TrackStore
from vdp.data.video.resize import resize_mask

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
NUMBERS = (8, 9, 10, 11)  # in the order of text, 10 precedes 8
KNOWN = 3


def params() -> dict[str, dict[str, object]]:
    data = read_file(REPO / "params.yaml")
    data["clip"] = {"frames": 6, "known": KNOWN, "height": HEIGHT, "width": WIDTH}
    data["predict"] |= {"hops": [4, 6], "steps": 2, "samples": 2, "batch_size": 6}  # batches of 3 of 4 clips
    data["segment"] |= {"object_threshold": 0.5, "seen_classes_only": False, "codec_vote": 0.3}
    data["motion"]["context_slots"] = KNOWN
    data["sample_motion"] |= {"steps": 2, "samples": 3}
    data["denoiser"]["unet"]["context_slots"] = 2
    data["train_denoiser"] |= {"context_frames": 3, "max_span": 4, "max_hops": 1}
    return data


@pytest.fixture(scope="module")
def composed_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_models(tmp_path_factory.mktemp("composed"), base="composed")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml, random models and a hidden set of videos of random pictures."""
    folder = tmp_path_factory.mktemp("submit")
    (folder / "params.yaml").write_text(yaml.safe_dump(params()))
    save_small_models(folder / "data" / "models")
    rng = np.random.default_rng(0)
    for number in NUMBERS:
        video = folder / "hidden" / f"video_{number}"
        video.mkdir(parents=True)
        for k in range(KNOWN + 1):  # one more than is read
            picture = cv2.resize(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8), (72, 48))
            assert cv2.imwrite(str(video / f"image_{k}.png"), picture)
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, a copy of the template."""
    for name in (template / "params.yaml", REPO / "dvc.yaml"):
        shutil.copy(name, tmp_path)
    shutil.copytree(template / "hidden", tmp_path / "hidden")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models").symlink_to(template / "data" / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(out: str = "out.pt", force: bool = False) -> tuple[int, ...]:
    return submit(Path("hidden"), Path(out), Path("data/models"), force)


def refusal(out: str = "out.pt", force: bool = False) -> str:
    """The error of a submission that writes nothing."""
    before = sorted(Path().rglob("*"))
    with pytest.raises((UserError, FileNotFoundError)) as caught:
        run(out, force)
    assert sorted(Path().rglob("*")) == before and "\n" not in str(caught.value)
    return str(caught.value)


class NumberPredictor:
    """Predicts the number of the video as the class of every pixel; records the clips."""

    batch_size = 3

    def __init__(self) -> None:
        self.clips: list[Clip] = []

    def masks(self, clips: list[Clip]) -> list[np.ndarray]:
        self.clips.extend(clips)
        return [np.full((HEIGHT, WIDTH), int(clip.name.removeprefix("video_")), np.uint8) for clip in clips]


@pytest.fixture
def predictor(project: Path, monkeypatch: pytest.MonkeyPatch) -> NumberPredictor:
    """The project, with a predictor that takes no time."""
    predictor = NumberPredictor()
    monkeypatch.setattr(module, "_load_predictor", lambda models, clip, checkpoint, device: predictor)
    return predictor


def test_after_a_kill_only_the_missing_batches_are_predicted(predictor, monkeypatch):
    predict, calls = predictor.masks, []

    def killed(clips):
        calls.append([clip.name for clip in clips])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(clips)

    monkeypatch.setattr(predictor, "masks", killed)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not Path("out.pt").exists()
    assert run() == (len(NUMBERS), 160, 240)
    assert len(calls) == 3 and calls[2] == calls[1], "the first batch is that of the first run"
    assert torch.load("out.pt", weights_only=True)[:, 9, 9].tolist() == list(NUMBERS)
    assert not list(Path(".resume").glob("submit-*"))


@pytest.mark.parametrize("change", ["params", "config", "picture"])
def test_other_params_models_or_pictures_start_anew(project, predictor, monkeypatch, change):
    def keys() -> set[str]:
        return {path.name for path in Path(".resume").glob("submit-*")}

    predict, calls = predictor.masks, []

    def stopped(clips):
        calls.append(clips)
        if len(calls) % 2 == 0:
            raise KeyboardInterrupt
        return predict(clips)

    monkeypatch.setattr(predictor, "masks", stopped)
    with pytest.raises(KeyboardInterrupt):
        run()
    before = keys()
    if change == "params":
        Path("params.yaml").write_text(Path("params.yaml").read_text().replace("seed: 0", "seed: 1"))
    elif change == "config":
        models = Path("data/models").resolve()
        Path("data/models").unlink()
        shutil.copytree(models, "data/models")
        config = Path("data/models/denoiser/config.json")
        config.write_text(config.read_text() + " ")
    else:
        picture = next(Path("hidden").rglob("*.png"))
        picture.write_bytes(picture.read_bytes() + b" ")
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(before) == 1 and len(keys()) == 2, "both have a batch to continue from"


@pytest.mark.parametrize("base", ["nearest", "composed"])
def test_a_submission_has_the_masks_of_the_stages_in_the_order_of_numbers(
    project, composed_models, monkeypatch, base
):
    if base == "composed":
        Path("data/models").unlink()
        Path("data/models").symlink_to(composed_models)
    for loader in (tracks, segment):  # random masks have no objects
        monkeypatch.setattr(loader, "load_segmenter", lambda folder: RedSegmenter())
    assert run() == (4, 160, 240)
    result = torch.load("out.pt", weights_only=True)
    assert result.dtype == torch.uint8 and len(result.unique()) > 3

    for stage in (track_objects, predict_motion, predict, segment):
        monkeypatch.setattr(stage, "track_stage", Recorder().track_stage)
    source = CompetitionSource(Path("hidden"))
    rule = ClipRule(KNOWN, KNOWN, HEIGHT, WIDTH, "crop", Pace(), KNOWN)
    clips = [next(cut_clips(source, f"video_{number}", rule)) for number in NUMBERS]
    write_clips(Path("data/clips/test/hidden"), clips, shard_mb=1)
    for stage in (track_objects, predict_motion, predict, segment):
        stage.main()
    assert TrackStore(Path("data/tracks/test/hidden")).classes.any(), "objects move"
    masks = np.load("data/masks/hidden/prediction.npy")
    expected = np.stack([resize_mask(mask, 160, 240, "stretch") for mask in masks])
    np.testing.assert_array_equal(result.numpy(), expected)
    assert len({mask.tobytes() for mask in masks}) == 4
    if base == "composed":  # the predictions start from composed frames
        first = np.load("data/predictions/hidden/frames.npy")
        composed = np.load("data/motion/hidden/composed.npy")
        np.save("data/motion/hidden/composed.npy", 255 - composed)
        predict.main()
        assert not np.array_equal(np.load("data/predictions/hidden/frames.npy"), first)


def test_a_composed_base_without_the_motion_model_is_refused(project, composed_models):
    Path("data/models").unlink()
    shutil.copytree(composed_models, "data/models")
    shutil.rmtree("data/models/motion")
    assert "motion: no model found" in refusal()


def test_hops_with_untrained_target_offsets_are_refused(project):
    data = params()
    data["train_denoiser"]["target_offsets"] = [1, 2, 3]  # of params.yaml, not of the models
    data["predict"]["hops"] = [6]
    Path("params.yaml").write_text(yaml.safe_dump(data))
    message = refusal()
    assert message.startswith("predict.hops=[6]") and "offset 3" in message and "1, 2" in message


def test_only_the_known_frames_are_read_in_the_order_of_numbers(predictor):
    """Leading zeros and later frames change nothing."""
    run()
    plain = [clip.frames for clip in predictor.clips]
    for number in (8, 9):
        shutil.move(f"hidden/video_{number}", f"hidden/video_{number:05d}")
    for k in range(KNOWN):
        shutil.move(f"hidden/video_10/image_{k}.png", f"hidden/video_10/image_{k:02d}.png")
    Path(f"hidden/video_11/image_{KNOWN}.png").write_bytes(b"not read")
    predictor.clips.clear()
    assert run("again.pt") == (4, 160, 240)
    names = ["video_00008", "video_00009", "video_10", "video_11"]
    assert [clip.name for clip in predictor.clips] == names
    for clip, frames in zip(predictor.clips, plain, strict=True):
        np.testing.assert_array_equal(clip.frames, frames)


def test_missing_videos_are_listed_by_number(predictor):
    shutil.rmtree("hidden/video_9")
    assert "hidden: 1 of video_8 to video_11 missing, number 9;" in refusal()
    shutil.move("hidden/video_11", "hidden/video_30")
    assert "20 of video_8 to video_30 missing, number 9, 11, 12, 13, 14, 15, 16, 17 and 12 more" in refusal()


def test_unusable_videos_are_listed_by_number_before_any_work(predictor):
    Path("hidden/video_8/image_1.png").write_bytes(b"no picture")
    Path("hidden/video_10/image_2.png").unlink()
    Path("hidden/video_10/image_3.png").unlink()
    Path("hidden/video_11/image_0.png").unlink()
    message = refusal()
    assert "hidden: 3 of 4 videos cannot be used, number 8, 10, 11;" in message
    assert "video_8/image_1.png" in message
    shutil.copy("hidden/video_8/image_0.png", "hidden/video_8/image_1.png")
    assert "video_10: 2 pictures, expected at least 3" in refusal()
    shutil.copy("hidden/video_8/image_0.png", "hidden/video_10/image_2.png")
    assert "video_11: starts at image_1.png, expected image_0.png" in refusal()
    assert predictor.clips == []


def test_two_folders_of_one_number_are_refused(predictor):
    shutil.copytree("hidden/video_8", "hidden/video_008")
    message = refusal()
    assert "same number" in message and "video_008" in message and "video_8" in message


def test_pictures_that_would_be_cropped_are_refused(predictor):
    for path in Path("hidden/video_9").iterdir():
        cv2.imwrite(str(path), np.zeros((24, 60, 3), np.uint8))
    message = refusal()
    assert "number 9;" in message and "60x24" in message and "extract_frames.fit" in message


def test_an_existing_output_is_replaced_with_force_alone(predictor):
    Path("out.pt").write_text("precious")
    assert refusal().startswith("out.pt: already exists")
    assert Path("out.pt").read_text() == "precious"
    assert run(force=True) == (4, 160, 240)
    assert torch.load("out.pt", weights_only=True)[:, 9, 9].tolist() == list(NUMBERS)
    assert [path.name for path in Path().glob("*out.pt*")] == ["out.pt"]


@pytest.mark.parametrize(
    ("out", "message"), [("nowhere/out.pt", "nowhere: no such folder"), ("hidden", "hidden: is a folder")]
)
def test_an_invalid_output_is_reported_before_the_set_is_checked(predictor, out, message):
    shutil.rmtree("hidden/video_9")
    assert refusal(out, force=True).startswith(message)


def test_a_file_created_during_the_work_is_kept_beside_the_submission(predictor, monkeypatch):
    def masks(self: NumberPredictor, clips: list[Clip]) -> list[np.ndarray]:
        Path("out.pt").write_text("precious")
        return predict_masks(self, clips)

    predict_masks = NumberPredictor.masks
    monkeypatch.setattr(NumberPredictor, "masks", masks)
    with pytest.raises(
        UserError, match="out.pt: was created meanwhile; the submission is in out.pt"
    ) as caught:
        run()
    assert Path("out.pt").read_text() == "precious"
    assert torch.load(str(caught.value).rpartition(" ")[2], weights_only=True).shape == (4, 160, 240)


def test_a_file_that_differs_from_the_masks_is_removed(predictor, monkeypatch):
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda path, **how: load(path, **how).flip(0))
    with pytest.raises(ValueError, match="differs from the predicted masks"):
        run()
    assert not list(Path().glob("out*"))


@pytest.mark.parametrize(
    ("hidden", "models", "message"),
    [
        ("nowhere", "data/models", "nowhere: no such folder"),
        ("data", "data/models", "data: expected video_<number> folders"),
        ("hidden", "nowhere", "nowhere/codec"),
    ],
)
def test_a_missing_set_or_model_is_reported(project, hidden, models, message):
    with pytest.raises((FileNotFoundError, UserError), match=message):
        submit(Path(hidden), Path("out.pt"), Path(models), False)


def test_models_of_another_frame_size_are_refused(project):
    data = params()
    data["clip"] |= {"height": 64, "width": 96}
    Path("params.yaml").write_text(yaml.safe_dump(data))
    assert refusal().startswith("clip.height=64, clip.width=96")
