import json
from pathlib import Path

import pytest

from vdp.config.messages import validate
from vdp.core.errors import UserError
from vdp.data.params import ExtractParams, SourceParams

PARAMS = {
    "train": "a",
    "val": None,
    "val_share": 0.1,
    "unlabeled": None,
    "test_sets": {"real": "c", "made": {"folder": "b", "interval": 5}},
    "interval": 1,
    "fps": None,
    "offset": 3,
    "stride": 22,
    "scene_cut": None,
    "fit": "crop",
    "on_bad_video": "error",
    "on_bad_masks": "error",
    "group": None,
    "max_bad_share": 0.05,
    "shard_mb": 256,
    "workers": 0,
}


def read(**change: object) -> ExtractParams:
    return ExtractParams.model_validate_json(json.dumps(PARAMS | change))


def test_splits_are_those_with_a_source():
    assert {split: source.folder for split, source in read().splits().items()} == {
        "train": Path("a"),
        "test/made": Path("b"),
        "test/real": Path("c"),
    }


def test_a_source_without_a_setting_uses_that_of_the_section():
    train, made, _ = read().splits().values()
    assert (train.interval, train.fps, train.offset, train.stride, train.kind) == (1, None, 3, 22, "auto")
    assert (made.interval, made.fps, made.offset, made.stride) == (5, None, 3, 22)


def test_a_source_with_its_own_rate_ignores_that_of_the_section():
    params = read(interval=4, val={"folder": "v", "fps": 10})
    assert (params.splits()["val"].interval, params.splits()["val"].fps) == (1, 10)
    params = read(fps=12, val={"folder": "v", "interval": 2, "offset": 0})
    assert (params.splits()["val"].interval, params.splits()["val"].fps) == (2, None)
    assert params.splits()["val"].offset == 0
    assert (params.splits()["train"].interval, params.splits()["train"].fps) == (1, 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_sets": {"a/b": "c"}}, "not a usable name"),
        ({"train": None, "test_sets": {}}, "has no source"),
        ({"test_sets": {"a" * 101: "c"}}, "expected up to 100 letters"),
        ({"stride": 0}, "greater than or equal to 1"),
        ({"offset": 2**31}, "less than or equal to 2147483647"),
        ({"fps": 1e-320}, "greater than or equal to 0.001"),
        ({"interval": 2, "fps": 10}, "extract_frames.interval=2: expected 1 with extract_frames.fps=10"),
        ({"train": {"folder": "a", "interval": 2, "fps": 10}}, "extract_frames.train.interval=2: expected 1"),
        ({"train": {"interval": 2}}, "needs either folder or hub"),
        ({"train": {"folder": "a", "hub": "b/c"}}, "needs either folder or hub"),
        ({"train": {"hub": "b/c", "kind": "videos"}}, "kind=videos: expected auto or huggingface"),
        ({"train": {"folder": "a", "pace": 3}}, "pace"),
        ({"train": ""}, "extract_frames.train='.': expected a folder of videos"),
        (
            {"train": "data/clips/mine"},
            "extract_frames.train='data/clips/mine': expected a folder outside data/clips",
        ),
        ({"train": {"folder": "a", "revision": "b"}}, "revision and config need hub"),
        ({"on_bad_video": "ignore"}, "'error' or 'skip'"),
    ],
)
def test_invalid_params_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        read(**change)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"folder": "x", "kind": "video"}, r"extract_frames\.train\.kind=\"video\": expected .*videos"),
        ({"folder": "x", "interval": 0}, r"extract_frames\.train\.interval=0: expected .*1"),
        ({"folder": "x", "pace": 3}, r"extract_frames\.train\.pace is not a known key"),
        ({"folder": "x", "hub": "a/b"}, "a source needs either folder or hub"),
        (7, "extract_frames.train=7: expected a path"),
    ],
)
def test_an_error_in_a_source_names_its_key_and_range(source, message):
    with pytest.raises(UserError, match=message) as error:
        validate(ExtractParams, PARAMS | {"train": source}, "extract_frames")
    assert "(and" not in str(error.value)


def test_a_source_is_named_by_its_place():
    assert SourceParams(folder=Path("a/b")).place == "a/b"
    assert SourceParams(hub="user/name").place == "hub:user/name"
