import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from tests.data.sources.source_contract import RULE, SourceContract, clips_of, frames_of, make_video_file
from vdp.core.classes import NUM_CLASSES, class_name
from vdp.data.extract.cut import FLAW, REST, cut_clips
from vdp.data.sources.clevrer import ClevrerSource, decode_rle, paint_mask, read_proposals
from vdp.data.sources.protocols import LeftOut, Pace

HEIGHT, WIDTH = 64, 96
FIRST = "video_00000-01000/video_00000.mp4"
CLASSES = {class_name(number): number for number in range(NUM_CLASSES)}


def write_video(folder: Path, number: int, frames: int = 128) -> Path:
    thousand = number // 1000 * 1000
    name = f"video_{thousand:05d}-{thousand + 1000:05d}/video_{number:05d}.mp4"
    return make_video_file(folder / name, frames, HEIGHT, WIDTH)


def box(left: int, width: int = 20) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:15, left : left + width] = 1
    return mask


def rle(mask: np.ndarray) -> str:
    return coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def found(mask: np.ndarray, name: str = "red metal cube", score: float = 0.9) -> dict[str, object]:
    """An object of the proposals, with keys that are not read."""
    color, material, shape = name.split()
    return {
        "mask": {"size": list(mask.shape), "counts": rle(mask)}, "score": score, "video_index": 0,
        "color": color, "material": material, "shape": shape,
    }  # fmt: skip


def proposals(frames: int = 128) -> dict[str, list[dict[str, object]]]:
    """In frame k a red metal cube starts at column k mod 60."""
    return {"frames": [{"frame_index": k, "objects": [found(box(k % 60))]} for k in range(frames)]}


def write_proposals(path: Path, data: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(proposals() if data is None else data))
    return path


class TestClevrer(SourceContract):
    kind = ClevrerSource

    def make(self, folder: Path) -> ClevrerSource:
        write_video(folder / "video_train", 7)
        write_video(folder / "video_validation", 10_000)
        write_proposals(folder / "derender_proposals" / "proposal_00007.json")
        return ClevrerSource(folder)

    def test_items_of_the_root_begin_with_their_split(self, source):
        train, val = source.items()
        assert train == "video_train/video_00000-01000/video_00007.mp4"
        assert val == "video_validation/video_10000-11000/video_10000.mp4"
        assert [path.name for path in source.files(train)] == ["video_00007.mp4", "proposal_00007.json"]
        assert [path.name for path in source.files(val)] == ["video_10000.mp4"]

    def test_masks_go_with_their_frames_in_any_process(self, source):
        train, val = source.items()
        for reader in (source, pickle.loads(pickle.dumps(source))):
            frames = frames_of(reader, train, Pace(interval=50, offset=3))
            assert [frame.number for frame in frames] == [3, 53, 103]
            for frame in frames:
                np.testing.assert_array_equal(frame.mask, CLASSES["red metal cube"] * box(frame.number % 60))
        assert {frame.mask is None for frame in frames_of(source, val)} == {True}


def test_any_folder_of_the_release_is_a_source_with_the_proposals_above(tmp_path, monkeypatch):
    write_video(tmp_path / "video_train", 7)
    proposal = write_proposals(tmp_path / "processed_proposals" / "sim_00007.json")
    expected = {
        "video_train": "video_00000-01000/video_00007.mp4",
        "video_train/video_00000-01000": "video_00007.mp4",
    }
    for folder, item in expected.items():
        source = ClevrerSource(tmp_path / folder)
        assert source.items() == [item]
        assert source.label(item) == str(tmp_path / folder / item)
        assert source.files(item) == [tmp_path / folder / item, proposal]
        assert frames_of(source, item)[0].mask is not None
    monkeypatch.chdir(tmp_path / folder)
    assert ClevrerSource(Path()).items() == ["video_00007.mp4"]


@pytest.mark.parametrize(
    "path",
    [
        "derender_proposals/proposal_00000.json",
        "processed_proposals/sim_00000.json",
        "derender_proposals/train/00000-01000/proposal_0.json",
    ],
)
def test_proposals_are_found_by_their_number(tmp_path, path):
    write_video(tmp_path, 0)
    write_proposals(tmp_path / path)
    write_proposals((tmp_path / path).with_name("sim_00001.json"), "of another video")
    assert frames_of(ClevrerSource(tmp_path), FIRST)[0].mask.any()


def test_other_names_than_those_of_the_release_are_no_items(tmp_path):
    write_video(tmp_path, 0)
    for name in ("video_00000.mp4", "videos/video_00001.mp4", "derender_proposals/video_0-1/video_0.mp4"):
        make_video_file(tmp_path / name, frames=1)
    make_video_file(tmp_path / "video_00000-01000" / "preview_00000.mp4", frames=1)
    assert ClevrerSource(tmp_path).items() == [FIRST]
    assert ClevrerSource(tmp_path / "videos").items() == []
    assert ClevrerSource(tmp_path / FIRST).items() == []


def test_two_proposals_of_the_same_number_are_refused(tmp_path):
    write_proposals(tmp_path / "derender_proposals" / "proposal_00003.json")
    write_proposals(tmp_path / "derender_proposals" / "more" / "sim_3.json")
    with pytest.raises(ValueError, match="proposal_00003.json and .*more/sim_3.json: two files"):
        ClevrerSource(tmp_path)


@pytest.mark.parametrize("frames", [127, 129])
def test_a_video_of_another_length_is_refused_at_any_pace(tmp_path, frames):
    write_video(tmp_path, 0, frames)
    with pytest.raises(ValueError, match=rf"video_00000.mp4: {frames} frames decode, expected 128"):
        frames_of(ClevrerSource(tmp_path), FIRST, Pace(interval=100))


def test_a_selected_frame_without_proposals_has_a_flaw(tmp_path):
    write_video(tmp_path, 0)
    data = proposals()
    del data["frames"][5]
    write_proposals(tmp_path / "derender_proposals" / "proposal_00000.json", data)
    source = ClevrerSource(tmp_path)
    assert all(frame.flaw is None for frame in frames_of(source, FIRST, Pace(interval=2)))
    flaws = {frame.number: frame.flaw for frame in frames_of(source, FIRST) if frame.flaw}
    assert list(flaws) == [5] and "proposal_00000.json: frame 5: expected an entry" in flaws[5]
    with pytest.raises(ValueError, match="frame 5: expected an entry .*on_bad_masks to repair"):
        clips_of(source)


def test_proposals_that_end_early_or_are_broken_cost_the_frames_they_touch(tmp_path):
    write_video(tmp_path, 0)
    data = proposals(100)
    data["frames"][30]["objects"][0]["color"] = "pink"
    write_proposals(tmp_path / "derender_proposals" / "proposal_00000.json", data)
    cut = cut_clips(ClevrerSource(tmp_path), FIRST, replace(RULE, repair_masks=True))
    names, left_out = [], []
    while True:
        try:
            clip = next(cut)
        except StopIteration as end:
            left_out = end.value
            break
        names.append(clip.name)
        assert clip.masks is not None and clip.masks.any(axis=(1, 2)).all()
    stem = FIRST.replace("/", "_").removesuffix(".mp4")
    assert names == [f"{stem}_{start:06d}" for start in (0, 31, 53, 75)]
    assert left_out == [LeftOut(FIRST, REST, 8 + 3), LeftOut(FIRST, FLAW, 1 + 28)]


def test_frames_are_identified_by_their_index_or_else_their_position(tmp_path):
    entries = [{"frame_index": 9, "objects": [9]}, {"objects": [1]}, {"frame_index": 0, "objects": []}]
    path = write_proposals(tmp_path / "proposal_00000.json", {"frames": entries, "video_index": 0})
    assert read_proposals(path) == {9: [9], 1: [1], 0: []}


# --- Invalid proposals -----------------------------------------------------------------------------------


def entry(**frame: object) -> bytes:
    return json.dumps({"frames": [frame]}).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected JSON"),
        (json.dumps(proposals(3)).encode()[:-50], "expected JSON"),
        (b"\xff\xfe\x00", "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (b'{"frames": ' + b"[" * 900 + b"]" * 900 + b"}", "entry 0 of frames: expected an object with 'obj"),
        (b"null", "expected an object with 'frames', got None"),
        (b'{"frames": {"0": 1}}', "expected 'frames' of type list"),
        (entry(frame_index=0), "entry 0 of frames: expected an object with 'objects'"),
        (entry(frame_index="0", objects=[]), "expected 'frame_index' of type int, got '0'"),
        (entry(frame_index=True, objects=[]), "expected 'frame_index' of type int, got True"),
        (b'{"frames": [{"objects": []}, {"frame_index": 0, "objects": []}]}', "each frame once, got frame 0"),
    ],
)
def test_an_invalid_file_of_proposals_is_named(tmp_path, content, message):
    path = write_proposals(tmp_path / "proposal_00000.json")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"proposal_00000.json: .*{message}") as error:
        read_proposals(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < len(str(path)) + 200


def changed(**keys: object) -> dict[str, object]:
    return {**found(box(0)), **keys}


def masked(**mask: object) -> dict[str, object]:
    return changed(mask={"size": [HEIGHT, WIDTH], "counts": rle(box(0)), **mask})


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (7, "an object with 'score', got 7"),
        (changed(score=None), "'score' of type int or float, got None"),
        (changed(score=float("nan")), "a finite score, got nan"),
        (changed(color="pink"), "color to be one of gray, red, .*, got 'pink'"),
        (changed(material="Metal"), "material to be one of metal, rubber, got 'Metal'"),
        (changed(shape=3), "'shape' of type str, got 3"),
        (changed(mask=None), "'mask' of type dict, got None"),
        (masked(size=[WIDTH, HEIGHT]), r"a mask of the video's size \[64, 96\], got \[96, 64\]"),
        (masked(counts=[100, 5, 6039]), "'counts' of type str"),
        (masked(counts=""), "run lengths of 6144 pixels in total, got 0"),
        (masked(counts=rle(box(0))[:-1]), "run lengths of 6144 pixels"),
        (masked(counts=rle(box(0)[1:])), "run lengths of 6144 pixels in total, got 6048"),
        (masked(counts="o" * 50), "compressed run lengths, got 'ooo"),
        (masked(counts="a b"), "compressed run lengths, got 'a b'"),
        (masked(counts="\ud800"), "compressed run lengths"),
        (masked(counts="日本"), "compressed run lengths"),
    ],
)
def test_an_invalid_object_is_named(item, message):
    with pytest.raises(ValueError, match=f"^p.json: frame 3, object 1: expected {message}") as error:
        paint_mask([found(box(0)), item], HEIGHT, WIDTH, "p.json: frame 3")
    assert "\n" not in str(error.value)


# --- Masks -----------------------------------------------------------------------------------------------


def test_the_highest_score_is_on_top_and_of_equal_scores_the_first():
    objects = [
        found(box(0), "gray metal cube", 0.5),
        found(box(10), "red rubber sphere", 0.8),
        found(box(20), "blue metal cylinder", 0.8),
        found(box(30), "green rubber cube", 1),
        found(np.zeros((HEIGHT, WIDTH)), "cyan rubber cube", 2),
    ]
    painted = paint_mask(objects, HEIGHT, WIDTH, "p.json: frame 0")
    names = ["gray metal cube"] * 10 + ["red rubber sphere"] * 20 + ["green rubber cube"] * 20
    assert [class_name(number) for number in painted[10, :50]] == names
    assert painted.dtype == np.uint8 and not painted[:5].any() and not painted[15:].any()
    assert not paint_mask([], HEIGHT, WIDTH, "").any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (320, 480)])
def test_empty_full_and_striped_masks_are_decoded(shape):
    stripes = (np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 2).astype(np.uint8)
    for mask in (0 * stripes, 0 * stripes + 1, stripes, 1 - stripes):
        np.testing.assert_array_equal(decode_rle(rle(mask), *shape, ""), mask)


@settings(max_examples=100, deadline=None)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1)
)
def test_masks_encoded_by_coco_are_decoded(height, width, share, seed):
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    np.testing.assert_array_equal(decode_rle(rle(mask), height, width, ""), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    position=st.floats(0, 1),
    damage=st.text(st.characters(min_codepoint=47, max_codepoint=112), max_size=2),
    lost=st.integers(0, 2),
)
@pytest.mark.slow
def test_a_damaged_mask_is_refused_or_decoded_as_by_coco(seed, position, damage, lost):
    text = rle(np.random.default_rng(seed).integers(0, 2, (4, 5)))
    cut = round(position * len(text))
    counts = text[:cut] + damage + text[cut + lost :]
    try:
        mask = decode_rle(counts, 4, 5, "p.json")
    except ValueError as error:
        assert str(error).startswith("p.json: expected")
        return
    np.testing.assert_array_equal(mask, coco.decode({"size": [4, 5], "counts": counts.encode()}))
