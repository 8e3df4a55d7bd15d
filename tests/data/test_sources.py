import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from vdp.data.clips import ClipStore
from vdp.data.extract import decoding_pool, extract_clips
from vdp.data.params import ExtractParams
from vdp.data.resize import resize_frame, resize_mask
from vdp.data.sources.competition import CompetitionSource
from vdp.data.sources.detect import SOURCES, Source, detect_source
from vdp.data.sources.rule import ClipRule
from vdp.data.sources.videos import SUFFIXES, VideoSource

SHARED = Path(__file__).resolve().parents[3] / "shared"
REAL_CLIPS = SHARED / "real_clips"
REAL_VIDEOS = SHARED / "videos"

RULE = ClipRule(frames=22, at_least=22, height=32, width=48, fit="crop", interval=1, stride=22)


def gray_frame(level: int, height: int = 64, width: int = 96) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def make_video_folder(folder: Path, frames: int = 22, masks: bool = True) -> Path:
    """Frame k is of gray level 10 k and its mask of class k + 1."""
    folder.mkdir(parents=True)
    for k in range(frames):
        cv2.imwrite(str(folder / f"image_{k}.png"), gray_frame(10 * k))
    if masks:
        np.save(folder / "mask.npy", np.stack([np.full((64, 96), k + 1, np.uint8) for k in range(frames)]))
    return folder


def make_video_file(path: Path, frames: int = 50) -> Path:
    """Frame k is of gray level 4 k."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (96, 64))
    for k in range(frames):
        writer.write(gray_frame(4 * k))
    writer.release()
    return path


def make_competition(folder: Path) -> None:
    for number in (0, 10, 2):
        make_video_folder(folder / f"video_{number}", masks=number != 10)


def make_videos(folder: Path) -> None:
    make_video_file(folder / "b.mp4")
    make_video_file(folder / "deep" / "a.mp4", frames=22)


def extract(source: Source, folder: Path, rule: ClipRule = RULE) -> ClipStore:
    with ThreadPoolExecutor(2) as pool:
        return extract_clips(source, rule, folder, 1, pool, "test")


def levels(store: ClipStore, index: int) -> list[int]:
    return store.frames(index).mean((1, 2, 3)).round().astype(int).tolist()


class SourceContract:
    """What every source owes, whatever its folder holds. A new source adds a subclass."""

    kind: type[Source]
    fill: Callable[[Path], None]
    real: Path

    @pytest.fixture
    def source(self, tmp_path):
        type(self).fill(tmp_path / "source")
        return self.kind(tmp_path / "source")

    def test_is_detected(self, source):
        assert type(detect_source(source.folder, "extract_frames.train")) is self.kind

    def test_finds_nothing_in_an_empty_folder(self, tmp_path):
        assert self.kind(tmp_path).items() == []

    def test_items_have_a_fixed_order(self, source):
        assert source.items() == self.kind(source.folder).items()
        assert len(set(source.items())) == len(source.items()) > 0

    def test_clips_have_the_length_size_and_type_asked_for(self, source):
        rule = replace(RULE, frames=10, at_least=10, height=24, width=20)
        for item in source.items():
            clips = list(source.read(item, rule))
            assert clips
            for clip in clips:
                assert clip.frames.shape == (10, 24, 20, 3) and clip.frames.dtype == np.uint8
                assert clip.masks is None or clip.masks.shape == (10, 24, 20)

    def test_names_are_unique_and_fit_in_a_file_name(self, source):
        names = [clip.name for item in source.items() for clip in source.read(item, RULE)]
        assert len(set(names)) == len(names)
        assert not any("/" in name for name in names)

    def test_reading_twice_gives_the_same_pixels(self, source):
        first, second = (list(source.read(source.items()[0], RULE)) for _ in range(2))
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a.frames, b.frames)

    def test_too_few_frames_name_the_file(self, source):
        item = source.items()[0]
        with pytest.raises(ValueError, match="too few frames: .* expected at least 99") as error:
            list(source.read(item, replace(RULE, frames=99, at_least=99)))
        assert str(source.folder / item) in str(error.value) and "\n" not in str(error.value)

    def test_a_test_clip_may_end_with_the_known_frames(self, source):
        clips = list(source.read(source.items()[0], replace(RULE, frames=99, at_least=11)))
        assert [len(clip.frames) for clip in clips] == [11]
        whole = next(iter(source.read(source.items()[0], replace(RULE, frames=11, at_least=11))))
        np.testing.assert_array_equal(clips[0].frames, whole.frames)

    def test_extraction_keeps_every_clip(self, source, tmp_path):
        store = extract(source, tmp_path / "store")
        clips = {clip.name: clip for item in source.items() for clip in source.read(item, RULE)}
        assert sorted(store.names) == sorted(clips)
        for index, name in enumerate(store.names):
            np.testing.assert_array_equal(store.frames(index), clips[name].frames)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "store"]

    def test_real_data_is_read(self):
        if not self.real.is_dir():
            pytest.skip(f"{self.real} is not here")
        source = detect_source(self.real, "real")
        assert type(source) is self.kind
        clip = next(iter(source.read(source.items()[0], replace(RULE, height=64, width=96))))
        assert clip.frames.shape == (22, 64, 96, 3)
        assert 20 < clip.frames.mean() < 235 and clip.frames.std() > 5


class TestCompetition(SourceContract):
    kind = CompetitionSource
    fill = staticmethod(make_competition)
    real = REAL_CLIPS / "train"

    def test_folders_and_pictures_are_in_the_order_of_their_numbers(self, source, tmp_path):
        assert source.items() == ["video_0", "video_2", "video_10"]
        store = extract(source, tmp_path / "store")
        assert store.names == ["video_0", "video_2", "video_10"]
        assert levels(store, 0) == [10 * k for k in range(22)]

    def test_masks_go_with_their_frames(self, source, tmp_path):
        store = extract(source, tmp_path / "store")
        assert store.labelled.tolist() == [0, 1]
        assert store.masks(0)[:, 0, 0].tolist() == list(range(1, 23))

    def test_numbers_may_have_leading_zeros(self, tmp_path):
        make_video_folder(tmp_path / "hidden" / "video_15000", frames=11, masks=False)
        make_video_folder(tmp_path / "hidden" / "video_00003", frames=11, masks=False)
        assert CompetitionSource(tmp_path / "hidden").items() == ["video_00003", "video_15000"]

    def test_real_masks_hold_the_classes_of_their_clip(self):
        if not self.real.is_dir():
            pytest.skip(f"{self.real} is not here")
        clip = next(iter(CompetitionSource(self.real).read("video_0", replace(RULE, height=64, width=96))))
        assert set(np.unique(clip.masks)) <= {0, 5, 12, 20, 22, 25, 30}
        assert len(np.unique(clip.masks)) >= 5

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (np.zeros((22, 64, 95), np.uint8), r"mask.npy: expected uint8 masks of shape \(22, 64, 96\)"),
            (np.zeros((21, 64, 96), np.uint8), r"mask.npy: .* got uint8 \(21, 64, 96\)"),
            (np.zeros((22, 64, 96), np.int64), r"mask.npy: .* got int64"),
            (np.full((22, 64, 96), 49, np.uint8), r"mask.npy: class id 49 is over 48"),
            (np.full((22, 64, 96), {}, object), r"mask.npy: not a readable .npy array"),
        ],
    )
    def test_a_wrong_mask_is_named(self, tmp_path, mask, message):
        folder = make_video_folder(tmp_path / "source" / "video_7")
        np.save(folder / "mask.npy", mask)
        self.assert_refused(tmp_path, "video_7/" + message)

    @pytest.mark.parametrize("content", [b"", b"not a picture"])
    def test_an_unreadable_picture_is_named(self, tmp_path, content, capfd):
        folder = make_video_folder(tmp_path / "source" / "video_7")
        (folder / "image_5.png").write_bytes(content)
        self.assert_refused(tmp_path, "video_7/image_5.png: not a readable picture")
        assert "imread" not in capfd.readouterr().err

    def test_a_truncated_mask_is_named(self, tmp_path):
        folder = make_video_folder(tmp_path / "source" / "video_7")
        (folder / "mask.npy").write_bytes((folder / "mask.npy").read_bytes()[:1000])
        self.assert_refused(tmp_path, "video_7/mask.npy: not a readable .npy array")

    def test_a_gap_in_the_pictures_is_named(self, tmp_path):
        folder = make_video_folder(tmp_path / "source" / "video_7", frames=23)
        (folder / "image_5.png").unlink()
        self.assert_refused(tmp_path, "video_7/image_5.png: missing")

    def test_a_picture_of_another_size_is_named(self, tmp_path):
        folder = make_video_folder(tmp_path / "source" / "video_7")
        cv2.imwrite(str(folder / "image_5.png"), gray_frame(0, height=60))
        self.assert_refused(
            tmp_path, "video_7/image_5.png: expected the size of image_0.png, 96x64, got 96x60"
        )

    def test_an_empty_video_folder_is_named(self, tmp_path):
        (tmp_path / "source" / "video_7").mkdir(parents=True)
        self.assert_refused(tmp_path, "source/video_7: too few frames: 0, expected at least 22")

    def assert_refused(self, tmp_path: Path, message: str) -> None:
        """One line names the file, and nothing is left behind."""
        with pytest.raises(ValueError, match=message) as error:
            extract(CompetitionSource(tmp_path / "source"), tmp_path / "store")
        assert "\n" not in str(error.value)
        assert [p.name for p in tmp_path.iterdir()] == ["source"]


class TestVideos(SourceContract):
    kind = VideoSource
    fill = staticmethod(make_videos)
    real = REAL_VIDEOS

    def test_clips_are_cut_at_the_stride(self, source):
        starts = [clip.name for clip in source.read("b.mp4", replace(RULE, stride=10))]
        assert starts == ["b_000000", "b_000010", "b_000020"]

    def test_a_clip_takes_every_nth_frame(self, source):
        clips = list(source.read("b.mp4", replace(RULE, frames=11, at_least=11, stride=5, interval=2)))
        assert [clip.name for clip in clips] == ["b_000000", "b_000010", "b_000020"]
        level = clips[1].frames.mean((1, 2, 3))
        np.testing.assert_allclose(level, 4 * np.arange(10, 32, 2), atol=3.9)  # lossy; the step is 8

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_every_promised_container_is_a_source(self, tmp_path, suffix):
        (tmp_path / f"A{suffix.upper()}").touch()
        assert VideoSource(tmp_path).items() == [f"A{suffix.upper()}"]

    def test_an_unreadable_file_is_named(self, tmp_path):
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "x.mp4").write_bytes(b"not a video")
        with pytest.raises(ValueError, match="source/x.mp4: not a readable video") as error:
            extract(VideoSource(tmp_path / "source"), tmp_path / "store")
        assert "\n" not in str(error.value)
        assert [p.name for p in tmp_path.iterdir()] == ["source"]

    def test_two_files_of_one_name_are_told(self, tmp_path):
        make_video_file(tmp_path / "source" / "a.mp4", frames=22)
        make_video_file(tmp_path / "source" / "a.avi", frames=22)
        with pytest.raises(ValueError, match="clip a_000000: two clips have this name; rename"):
            extract(VideoSource(tmp_path / "source"), tmp_path / "store")

    def test_a_file_that_breaks_off_early_gives_what_decodes_and_a_line(self, capfd):
        if not self.real.is_dir():
            pytest.skip(f"{self.real} is not here")
        clips = list(VideoSource(self.real).read("tree.avi", RULE))
        assert [clip.name for clip in clips] == ["tree_000000", "tree_000022", "tree_000044"]
        assert "tree.avi: the header says 444 frames, 68 decode" in capfd.readouterr().err


def test_every_source_has_a_contract_test():
    assert {test.kind for test in SourceContract.__subclasses__()} == set(SOURCES)


def test_a_missing_folder_is_told_with_its_key_and_neighbours(tmp_path):
    (tmp_path / "hidden").mkdir()
    with pytest.raises(FileNotFoundError, match="test_sets.real: folder .*/test is not there; .*/hidden"):
        detect_source(tmp_path / "test", "extract_frames.test_sets.real")


def test_a_folder_without_videos_says_what_was_expected(tmp_path):
    make_video_folder(tmp_path / "train" / "video_0", frames=1)
    with pytest.raises(FileNotFoundError, match="no usable videos in .*video_<digits>.*mp4.*/train"):
        detect_source(tmp_path, "extract_frames.train")


def test_processes_give_the_same_store_as_threads(tmp_path):
    make_competition(tmp_path / "source")
    source = CompetitionSource(tmp_path / "source")
    one = extract(source, tmp_path / "one")
    with decoding_pool() as pool:
        two = extract_clips(source, RULE, tmp_path / "two", 1, pool, "test")
    for path in sorted(one.folder.iterdir()):
        assert path.read_bytes() == (two.folder / path.name).read_bytes()


def test_area_resizing_keeps_the_mean():
    frame = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    small = resize_frame(frame, 16, 24, "stretch")
    np.testing.assert_allclose(small, frame.reshape(16, 4, 24, 4, 3).mean((1, 3)), atol=0.51)


def test_a_resized_mask_stays_over_its_object():
    """Frame and mask are sampled by different rules; an object's centre must not part."""
    mask = np.zeros((160, 240), np.uint8)
    mask[40:90, 100:160] = 7
    frame = np.repeat((mask == 7).astype(np.uint8)[..., None] * 255, 3, axis=2)
    small_mask, small_frame = resize_mask(mask, 64, 96, "crop"), resize_frame(frame, 64, 96, "crop")
    assert set(np.unique(small_mask)) == {0, 7}
    weight = small_frame[..., 0] / 255.0
    rows, columns = np.mgrid[:64, :96]
    centre = [(rows * weight).sum() / weight.sum(), (columns * weight).sum() / weight.sum()]
    np.testing.assert_allclose(np.argwhere(small_mask == 7).mean(0), centre, atol=0.2)


def test_cropping_keeps_the_middle_and_the_shapes():
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 255  # the middle square
    assert (resize_frame(wide, 32, 32, "crop") == 255).all()
    assert not (resize_frame(wide, 32, 32, "stretch") == 255).all()
    assert (resize_frame(wide.transpose(1, 0, 2), 32, 32, "crop") == 255).all()


def test_resizing_to_the_same_size_changes_nothing():
    frame = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_frame(frame, 32, 48, "crop"), frame)


PARAMS = {
    "train": "a",
    "val": None,
    "unlabeled": None,
    "test_sets": {"real": "c", "made": "b"},
    "interval": 1,
    "stride": 22,
    "fit": "crop",
    "shard_mb": 256,
}


def test_params_name_the_splits_that_have_a_source():
    params = ExtractParams.model_validate_json(json.dumps(PARAMS))
    assert params.splits() == {"train": Path("a"), "test/made": Path("b"), "test/real": Path("c")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_sets": {"a/b": "c"}}, "not a usable name"),
        ({"train": None, "test_sets": {}}, "names no source"),
        ({"stride": 0}, "greater than or equal to 1"),
    ],
)
def test_params_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ExtractParams.model_validate_json(json.dumps(PARAMS | change))
