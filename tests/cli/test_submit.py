"""A submission: the pipeline's masks in the order of the videos' numbers, or one line that says why not."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from stages import predict, segment
from vdp.cli import submit as module
from vdp.cli.submit import submit
from vdp.config.recipes import merged, read_recipe
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.data.extract.cut import cut_clips
from vdp.data.sources.competition import CompetitionSource
from vdp.data.sources.protocols import ClipRule, Pace
from vdp.data.stores.clips import Clip, write_clips
from vdp.data.video.resize import resize_mask
from vdp.diffusion.params import DiffusionParams
from vdp.models.checkpoint import fingerprint, save_model
from vdp.models.codecs.params import CodecConfig, VAEParams
from vdp.models.codecs.vae import VAE
from vdp.models.denoisers.factory import build_denoiser
from vdp.models.denoisers.params import DenoiserConfig, DenoiserParams
from vdp.models.segmenters.params import SegmenterConfig, SegmenterParams
from vdp.models.segmenters.unetpp import UNetPlusPlus

REPO = Path(__file__).parents[2]
NUMBERS = (8, 9, 10, 11)  # as text, 10 is before 8
KNOWN, HEIGHT, WIDTH = 3, 16, 24


def params() -> dict[str, dict[str, object]]:
    data = merged(read_file(REPO / "params.yaml"), read_recipe("smoke"))
    data["clip"] = {"frames": 6, "known": KNOWN, "height": HEIGHT, "width": WIDTH}
    data["predict"] |= {"hops": [4, 6], "batch_size": 6}  # three clips at once, of four
    data["segment"] |= {"object_threshold": 0.5, "seen_classes_only": False}
    data["vae"]["spatial_factor"] = 2
    data["denoiser"]["unet"]["context_frames"] = 2
    data["train_denoiser"] |= {"known": 3, "span": 4}
    return data


def save_models(folder: Path, data: dict[str, dict[str, object]]) -> None:
    """Untrained networks, which give masks of noise."""
    torch.manual_seed(0)
    vae, denoiser = VAEParams.model_validate(data["vae"]), DenoiserParams.model_validate(data["denoiser"])
    codec = VAE(vae, True)
    save_model(folder / "codec", codec, CodecConfig(name="vae", vae=vae, has_masks=True))
    channels = vae.latent_channels
    config = DenoiserConfig[DiffusionParams](
        denoiser=denoiser, diffusion=DiffusionParams.model_validate(data["diffusion"]), channels=channels,
        codec=fingerprint(codec),
        height=HEIGHT, width=WIDTH, tasks={"predict": 1.0}, known=3, gaps=[1, 2], targets=1, span=4,
        context_dropout=0.0, data_scale={"predict": (1.0,) * channels}, latent_mean=(0.0,) * channels,
        latent_std=(1.0,) * channels,
    )  # fmt: skip
    network = build_denoiser(denoiser, channels)
    for weights in network.parameters():  # its last layer starts at zero: every future would be a copy
        torch.nn.init.normal_(weights, std=0.2)
    save_model(folder / "denoiser", network, config)
    segmenter = SegmenterParams.model_validate(data["segmenter"])
    save_model(folder / "segmenter", UNetPlusPlus(segmenter), SegmenterConfig(segmenter=segmenter))


def save_videos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in NUMBERS:
        (folder / f"video_{number}").mkdir(parents=True)
        for k in range(KNOWN + 1):  # one more than is read
            frame = cv2.resize(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8), (36, 24))
            assert cv2.imwrite(str(folder / f"video_{number}" / f"image_{k}.png"), frame)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("submit")
    data = params()
    (folder / "params.yaml").write_text(yaml.safe_dump(data))
    save_models(folder / "data" / "models", data)
    save_videos(folder / "hidden")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with params.yaml, models and a hidden set of videos 8 to 11."""
    shutil.copy(made / "params.yaml", tmp_path)
    shutil.copytree(made / "hidden", tmp_path / "hidden")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models").symlink_to(made / "data" / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(out: str = "out.pt", force: bool = False) -> tuple[int, ...]:
    return submit(Path("hidden"), Path(out), Path("data/models"), force)


def refusal(out: str = "out.pt", force: bool = False) -> str:
    """What is said, once it is sure that nothing was written."""
    before = sorted(Path().rglob("*"))
    with pytest.raises((UserError, FileNotFoundError)) as caught:
        run(out, force)
    assert sorted(Path().rglob("*")) == before and "\n" not in str(caught.value)
    return str(caught.value)


class Quick:
    """Stands for the predictor: masks whose class is their video's number; keeps the clips they are of."""

    clips_at_once = 3

    def __init__(self) -> None:
        self.seen: list[Clip] = []

    def masks(self, clips: list[Clip]) -> list[np.ndarray]:
        self.seen.extend(clips)
        return [np.full((HEIGHT, WIDTH), int(clip.name.removeprefix("video_")), np.uint8) for clip in clips]


@pytest.fixture
def quick(project: Path, monkeypatch: pytest.MonkeyPatch) -> Quick:
    """The project, with a predictor that takes no time."""
    made = Quick()
    monkeypatch.setattr(module, "_load_predictor", lambda models, clip: made)
    return made


@contextmanager
def untracked(name: str) -> Iterator[None]:
    yield


def test_hops_that_the_denoiser_has_not_learnt_are_refused(project):
    data = yaml.safe_load(Path("params.yaml").read_text())
    data["train_denoiser"]["gaps"] = [1, 2, 3]  # of params.yaml, not of the models
    data["predict"]["hops"] = [6]
    Path("params.yaml").write_text(yaml.safe_dump(data))
    assert refusal() == (
        "predict.hops=[6] jumps 3 frames, which the denoiser in data/models has not learnt, but only 1, 2: "
        "hop so, or run `dvc repro`"
    )


def test_a_submission_has_the_masks_of_the_pipeline_in_the_order_of_numbers(project, monkeypatch):
    assert run() == (4, 160, 240)
    result = torch.load("out.pt", weights_only=True)
    assert result.dtype == torch.uint8 and len(result.unique()) > 3

    monkeypatch.setattr(predict, "track_stage", untracked)
    monkeypatch.setattr(segment, "track_stage", untracked)
    source = CompetitionSource(Path("hidden"))
    rule = ClipRule(KNOWN, KNOWN, HEIGHT, WIDTH, "crop", Pace(), KNOWN)
    clips = [next(cut_clips(source, f"video_{number}", rule)) for number in NUMBERS]
    write_clips(Path("data/clips/test/hidden"), clips, shard_mb=1)
    predict.main()
    segment.main()
    masks = np.load("data/masks/hidden/prediction.npy")
    expected = np.stack([resize_mask(mask, 160, 240, "stretch") for mask in masks])
    np.testing.assert_array_equal(result.numpy(), expected)
    assert len({mask.tobytes() for mask in masks}) == 4


def test_zeros_before_a_number_and_later_frames_change_nothing_but_their_noise(quick):
    """Only the known frames are read, in the order of numbers, however these are written."""
    run()
    plain = [clip.frames for clip in quick.seen]
    for number in (8, 9):
        shutil.move(f"hidden/video_{number}", f"hidden/video_{number:05d}")
    for k in range(KNOWN):
        shutil.move(f"hidden/video_10/image_{k}.png", f"hidden/video_10/image_{k:02d}.png")
    Path(f"hidden/video_11/image_{KNOWN}.png").write_bytes(b"not read")
    quick.seen.clear()
    assert run("again.pt") == (4, 160, 240)
    assert [clip.name for clip in quick.seen] == ["video_00008", "video_00009", "video_10", "video_11"]
    for clip, frames in zip(quick.seen, plain, strict=True):
        np.testing.assert_array_equal(clip.frames, frames)


def test_missing_videos_are_named_by_their_numbers(quick):
    shutil.rmtree("hidden/video_9")
    assert "hidden: 1 of video_8 to video_11 missing, number 9; a submission needs every video" in refusal()
    shutil.move("hidden/video_11", "hidden/video_30")
    assert "20 of video_8 to video_30 missing, number 9, 11, 12, 13, 14, 15, 16, 17 and 12 more" in refusal()


def test_videos_that_cannot_be_used_are_named_by_their_numbers_before_any_work(quick):
    Path("hidden/video_8/image_1.png").write_bytes(b"no picture")
    Path("hidden/video_10/image_2.png").unlink()
    Path("hidden/video_10/image_3.png").unlink()
    Path("hidden/video_11/image_0.png").unlink()
    message = refusal()
    assert "hidden: 3 of 4 videos cannot be used, number 8, 10, 11; a submission needs every video" in message
    assert "video_8/image_1.png: not a readable picture" in message
    shutil.copy("hidden/video_8/image_0.png", "hidden/video_8/image_1.png")
    message = refusal()
    assert "number 10, 11;" in message and "video_10: 2 pictures, expected at least 3" in message
    shutil.copy("hidden/video_8/image_0.png", "hidden/video_10/image_2.png")
    assert "video_11: begins with image_1.png, expected image_0.png" in refusal()
    assert quick.seen == []


def test_two_folders_of_one_number_are_named(quick):
    shutil.copytree("hidden/video_8", "hidden/video_008")
    message = refusal()
    assert "two folders of one number" in message and "video_008" in message and "video_8" in message


def test_pictures_whose_masks_would_lose_their_sides_are_refused(quick):
    wide = np.zeros((24, 60, 3), np.uint8)
    for path in Path("hidden/video_9").iterdir():
        cv2.imwrite(str(path), wide)
    message = refusal()
    assert "number 9;" in message and "pictures of 60x24 would be cut" in message
    assert "set extract_frames.fit to stretch" in message


def test_an_output_is_replaced_only_where_that_is_asked_for(quick):
    Path("out.pt").write_text("precious")
    assert refusal() == "out.pt: exists already; give another name, or --force to replace it"
    assert Path("out.pt").read_text() == "precious"
    assert run(force=True) == (4, 160, 240)
    assert torch.load("out.pt", weights_only=True)[:, 9, 9].tolist() == list(NUMBERS)
    assert [path.name for path in Path().glob("*out.pt*")] == ["out.pt"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("nowhere/out.pt", "nowhere: no such folder; make it, or write to another one"),
        ("hidden", "hidden: a folder; name a file in it, as hidden/final_predictions.pt"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_at_once(quick, out, message):
    shutil.rmtree("hidden/video_9")  # what is wrong with the set would be told later
    assert refusal(out, force=True) == message


def test_a_file_that_came_into_being_during_the_work_is_kept_and_so_is_the_work(quick, monkeypatch):
    def late(self: Quick, clips: list[Clip]) -> list[np.ndarray]:
        Path("out.pt").write_text("precious")
        return masks(self, clips)

    masks = Quick.masks
    monkeypatch.setattr(Quick, "masks", late)
    with pytest.raises(UserError, match="out.pt: exists since; the submission is in out.pt") as caught:
        run()
    assert Path("out.pt").read_text() == "precious"
    assert torch.load(str(caught.value).rpartition(" ")[2], weights_only=True).shape == (4, 160, 240)


def test_what_was_not_written_as_it_should_be_is_not_given_its_name(quick, monkeypatch):
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda path, **how: load(path, **how).flip(0))
    with pytest.raises(ValueError, match="other masks were read than were written"):
        run()
    assert not list(Path().glob("out*"))


def test_a_missing_set_or_model_is_one_line_that_says_what_to_do(project):
    with pytest.raises(FileNotFoundError, match="no such folder; expected one of video_<number> folders"):
        submit(Path("nowhere"), Path("out.pt"), Path("data/models"), False)
    with pytest.raises(UserError, match="no folder video_<number> in it; give the folder that holds them"):
        submit(Path("data"), Path("out.pt"), Path("data/models"), False)
    with pytest.raises(FileNotFoundError, match="no model there; make it with `dvc repro`"):
        submit(Path("hidden"), Path("out.pt"), Path("nowhere"), False)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("height: 16", "height: 32").replace("width: 24", "width: 48"))
    with pytest.raises(UserError, match="clip.height=32, clip.width=48: the denoiser in data/models has"):
        run()
