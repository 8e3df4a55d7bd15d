import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from tests.data.sources.source_contract import SourceContract, frames_of, make_video_file
from vdp.core.classes import NUM_CLASSES, class_name
from vdp.data.sources.clevrer import ClevrerSource, decode_rle, paint_mask, read_proposals
from vdp.data.sources.protocols import Pace

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
    """An object as proposals have it, with keys that nobody reads."""
    color, material, shape = name.split()
    return {
        "mask": {"size": list(mask.shape), "counts": rle(mask)},
        "color": color,
        "material": material,
        "shape": shape,
        "score": score,
        "video_index": 0,
    }


def proposals(frames: int = 128) -> dict[str, list[dict[str, object]]]:
    """In frame k there is a red metal cube from column k mod 60 on."""
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
        assert source.items() == [
            "video_train/video_00000-01000/video_00007.mp4",
            "video_validation/video_10000-11000/video_10000.mp4",
        ]

    def test_the_files_are_the_video_and_its_proposals(self, source):
        train, val = source.items()
        assert [path.name for path in source.files(train)] == ["video_00007.mp4", "proposal_00007.json"]
        assert [path.name for path in source.files(val)] == ["video_10000.mp4"]

    def test_masks_are_those_of_the_frames_that_are_taken_here_and_in_a_worker(self, source):
        for reader in (source, pickle.loads(pickle.dumps(source))):
            frames = frames_of(reader, source.items()[0], Pace(interval=50, offset=3))
            assert [frame.number for frame in frames] == [3, 53, 103]
            for frame in frames:
                expected = CLASSES["red metal cube"] * box(frame.number % 60)
                np.testing.assert_array_equal(frame.mask, expected)
                assert frame.condition is None

    def test_a_video_without_proposals_is_unlabelled(self, source):
        assert {frame.mask is None for frame in frames_of(source, source.items()[1])} == {True}


def test_any_folder_of_the_release_is_a_source_and_finds_the_proposals_above(tmp_path):
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


def test_a_folder_is_also_found_from_within(tmp_path, monkeypatch):
    write_video(tmp_path, 0)
    monkeypatch.chdir(tmp_path / "video_00000-01000")
    assert ClevrerSource(Path()).items() == ["video_00000.mp4"]


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


def test_what_is_not_named_as_in_the_release_is_no_item(tmp_path):
    write_video(tmp_path, 0)
    for name in ("video_00000.mp4", "videos/video_00001.mp4", "derender_proposals/video_0-1/video_0.mp4"):
        make_video_file(tmp_path / name, frames=1)
    make_video_file(tmp_path / "video_00000-01000" / "preview_00000.mp4", frames=1)
    assert ClevrerSource(tmp_path).items() == [FIRST]
    assert ClevrerSource(tmp_path / "videos").items() == []
    assert ClevrerSource(tmp_path / FIRST).items() == []


def test_two_proposals_of_one_number_are_told(tmp_path):
    write_proposals(tmp_path / "derender_proposals" / "proposal_00003.json")
    write_proposals(tmp_path / "derender_proposals" / "more" / "sim_3.json")
    with pytest.raises(
        ValueError, match="proposal_00003.json and .*more/sim_3.json: two files of one number"
    ):
        ClevrerSource(tmp_path)


@pytest.mark.parametrize("frames", [127, 129])
def test_a_video_that_has_not_128_frames_is_corrupt_whatever_is_taken(tmp_path, frames):
    write_video(tmp_path, 0, frames)
    with pytest.raises(ValueError, match=rf"video_00000.mp4: {frames} frames decode, expected 128; download"):
        frames_of(ClevrerSource(tmp_path), FIRST, Pace(interval=100))


def test_a_frame_that_is_taken_must_be_in_the_proposals(tmp_path):
    write_video(tmp_path, 0)
    data = proposals()
    del data["frames"][5]
    write_proposals(tmp_path / "derender_proposals" / "proposal_00000.json", data)
    source = ClevrerSource(tmp_path)
    assert len(frames_of(source, FIRST, Pace(interval=2))) == 64
    with pytest.raises(ValueError, match="proposal_00000.json: frame 5: expected an entry") as error:
        frames_of(source, FIRST)
    assert "\n" not in str(error.value)


def test_frames_are_known_by_their_index_or_else_by_their_place(tmp_path):
    path = tmp_path / "proposal_00000.json"
    entries = [{"frame_index": 9, "objects": [9]}, {"objects": [1]}, {"frame_index": 0, "objects": []}]
    write_proposals(path, {"frames": entries, "video_index": 0})
    assert read_proposals(path) == {9: [9], 1: [1], 0: []}


# --- Files of proposals that are wrong -------------------------------------------------------------------


def damage(frame: dict[str, object]) -> bytes:
    return json.dumps({"frames": [frame]}).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected JSON"),
        (json.dumps(proposals(3)).encode()[:-50], "expected JSON"),
        (b"\xff\xfe\x00", "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (
            b'{"frames": ' + b"[" * 900 + b"]" * 900 + b"}",
            "entry 0 of frames: expected an object with 'objects'",
        ),
        (b"9" * 5000, "expected JSON"),
        (b"null", "expected an object with 'frames', got None"),
        (b"[1, 2]", r"expected an object with 'frames', got \[1, 2\]"),
        (b'{"frames": {"0": 1}}', "expected 'frames' of type list"),
        (damage({"frame_index": 0}), "entry 0 of frames: expected an object with 'objects'"),
        (damage({"objects": None}), "entry 0 of frames: expected 'objects' of type list, got None"),
        (damage({"frame_index": "0", "objects": []}), "expected 'frame_index' of type int, got '0'"),
        (damage({"frame_index": True, "objects": []}), "expected 'frame_index' of type int, got True"),
        (b'{"frames": [{"objects": []}, {"frame_index": 0, "objects": []}]}', "each frame once, got frame 0"),
    ],
)
def test_a_broken_file_of_proposals_is_named(tmp_path, content, message):
    write_video(tmp_path, 0)
    path = write_proposals(tmp_path / "derender_proposals" / "proposal_00000.json")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"proposal_00000.json: .*{message}") as error:
        frames_of(ClevrerSource(tmp_path), FIRST)
    assert "\n" not in str(error.value) and len(str(error.value)) < len(str(path)) + 200


def changed(key: str, value: object) -> dict[str, object]:
    return {**found(box(0)), key: value}


def masked(**mask: object) -> dict[str, object]:
    return changed("mask", {"size": [HEIGHT, WIDTH], "counts": rle(box(0)), **mask})


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (7, "expected an object with 'score', got 7"),
        ({}, "expected an object with 'score'"),
        (changed("score", None), "expected 'score' of type int or float, got None"),
        (changed("score", float("nan")), "expected a finite score, got nan"),
        (changed("score", float("-inf")), "expected a finite score, got -inf"),
        (changed("color", "pink"), "expected color to be one of gray, red, .*, got 'pink'"),
        (changed("material", "Metal"), "expected material to be one of metal, rubber, got 'Metal'"),
        (changed("shape", 3), "expected 'shape' of type str, got 3"),
        (changed("mask", None), "expected 'mask' of type dict, got None"),
        (masked(size=[WIDTH, HEIGHT]), r"expected a mask of the video's size \[64, 96\], got \[96, 64\]"),
        (masked(size=None), "expected 'size' of type list"),
        (masked(counts=[100, 5, 6039]), "expected 'counts' of type str"),
        (masked(counts=""), "expected run lengths of 6144 pixels in all, got 0 in all"),
        (masked(counts=rle(box(0))[:-1]), "expected run lengths of 6144 pixels"),
        (masked(counts=rle(box(0)) + "5"), "expected run lengths of 6144 pixels in all, got"),
        (masked(counts=rle(box(0)[1:])), "expected run lengths of 6144 pixels in all, got 6048 in all"),
        (masked(counts="Z0" + rle(box(0))), "expected run lengths of 6144 pixels"),
        (masked(counts="o" * 50), "expected compressed run lengths, got the text 'ooo"),
        (masked(counts="a b"), "expected compressed run lengths, got the text 'a b'"),
        (masked(counts="\n"), "expected compressed run lengths"),
        (masked(counts="\ud800"), "expected compressed run lengths"),
        (masked(counts="日本"), "expected compressed run lengths"),
    ],
)
def test_an_object_that_cannot_be_used_is_named(item, message):
    with pytest.raises(ValueError, match=f"^p.json: frame 3, object 1: .*{message}") as error:
        paint_mask([found(box(0)), item], HEIGHT, WIDTH, "p.json: frame 3")
    assert "\n" not in str(error.value)


# --- Masks -----------------------------------------------------------------------------------------------


def test_the_highest_score_lies_on_top_and_of_equals_the_first():
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


def test_a_frame_without_objects_is_background():
    np.testing.assert_array_equal(paint_mask([], 4, 6, ""), np.zeros((4, 6), np.uint8))


def stripes(height: int, width: int) -> np.ndarray:
    return (np.add.outer(np.arange(height), np.arange(width)) % 2).astype(np.uint8)


@pytest.mark.parametrize(
    "make", [np.zeros, np.ones, lambda shape: stripes(*shape), lambda shape: 1 - stripes(*shape)]
)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (320, 480)])
def test_extreme_masks_are_decoded(make: Callable[[tuple[int, int]], np.ndarray], shape):
    mask = make(shape).astype(np.uint8)
    np.testing.assert_array_equal(decode_rle(rle(mask), *shape, ""), mask)


@settings(max_examples=100, deadline=None)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1)
)
def test_what_coco_encodes_is_decoded(height, width, share, seed):
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    np.testing.assert_array_equal(decode_rle(rle(mask), height, width, ""), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    place=st.floats(0, 1),
    damage=st.text(st.characters(min_codepoint=47, max_codepoint=112), max_size=2),
    lost=st.integers(0, 2),
)
def test_a_damaged_mask_is_refused_or_what_coco_takes_it_for(seed, place, damage, lost):
    text = rle(np.random.default_rng(seed).integers(0, 2, (4, 5)))
    cut = round(place * len(text))
    counts = text[:cut] + damage + text[cut + lost :]
    try:
        mask = decode_rle(counts, 4, 5, "p.json")
    except ValueError as error:
        assert str(error).startswith("p.json: expected")
        return
    np.testing.assert_array_equal(mask, coco.decode({"size": [4, 5], "counts": counts.encode()}))
