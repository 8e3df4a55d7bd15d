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
    "fit": "crop",
    "on_bad_video": "error",
    "max_bad_share": 0.05,
    "shard_mb": 256,
    "workers": 0,
}


def read(**change: object) -> ExtractParams:
    return ExtractParams.model_validate_json(json.dumps(PARAMS | change))


def test_params_name_the_splits_that_have_a_source():
    assert {split: source.folder for split, source in read().splits().items()} == {
        "train": Path("a"),
        "test/made": Path("b"),
        "test/real": Path("c"),
    }


def test_what_a_source_does_not_say_is_as_in_the_section():
    train, made, _ = read().splits().values()
    assert (train.interval, train.fps, train.offset, train.stride, train.kind) == (1, None, 3, 22, "auto")
    assert (made.interval, made.fps, made.offset, made.stride) == (5, None, 3, 22)


def test_a_source_that_says_its_pace_takes_none_of_the_sections():
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
        ({"train": None, "test_sets": {}}, "names no source"),
        ({"test_sets": {"a" * 101: "c"}}, "expected up to 100 letters"),
        ({"stride": 0}, "greater than or equal to 1"),
        ({"offset": 2**31}, "less than or equal to 2147483647"),
        ({"fps": 1e-320}, "greater than or equal to 0.001"),
        ({"interval": 2, "fps": 10}, "extract_frames.interval=2 and extract_frames.fps=10 both say"),
        ({"train": {"folder": "a", "interval": 2, "fps": 10}}, "extract_frames.train.interval=2 and"),
        ({"train": {"interval": 2}}, "needs folder or hub"),
        ({"train": {"folder": "a", "hub": "b/c"}}, "needs folder or hub"),
        ({"train": {"hub": "b/c", "kind": "videos"}}, "kind=videos does not go with hub"),
        ({"train": {"folder": "a", "pace": 3}}, "pace"),
        ({"train": ""}, "extract_frames.train='.' is the project's own folder"),
        (
            {"train": "data/clips/mine"},
            "extract_frames.train='data/clips/mine' lies in data/clips, which each",
        ),
        ({"train": {"folder": "a", "revision": "b"}}, "revision and config are of a data set of the hub"),
        ({"on_bad_video": "ignore"}, "'error' or 'skip'"),
    ],
)
def test_params_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        read(**change)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"folder": "x", "kind": "video"}, r"extract_frames\.train\.kind=\"video\": expected .*videos"),
        ({"folder": "x", "interval": 0}, r"extract_frames\.train\.interval=0 is out of range: expected .*1"),
        ({"folder": "x", "pace": 3}, r"extract_frames\.train\.pace is not a known key"),
        ({"folder": "x", "hub": "a/b"}, "a source needs folder or hub, and not both"),
        (7, "extract_frames.train=7: expected a path"),
    ],
)
def test_a_mistake_in_a_source_is_named_with_its_key_and_range(source, message):
    with pytest.raises(UserError, match=message) as error:
        validate(ExtractParams, PARAMS | {"train": source}, "extract_frames")
    assert "(and" not in str(error.value)


def test_a_source_is_named_by_its_place():
    assert SourceParams(folder=Path("a/b")).place == "a/b"
    assert SourceParams(hub="user/name").place == "hub:user/name"
