import pytest

from vdp.data.sources.split import ROLES, take_of, train_and_val, videos_of

NAMES = [f"video_{n:05d}.mp4" for n in range(1000)]


@pytest.mark.parametrize(
    "items", [["a.mp4", "deep/b.mp4", "train/c.mp4"], ["train/a.mp4", "bus/b.mp4", "trains/c.mp4"]]
)
def test_without_named_folders_every_role_has_all_videos(items):
    assert all(videos_of(items, role) == items for role in ROLES)


@pytest.mark.parametrize(
    ("item", "role"),
    [
        ("train_1/a.mp4", "train"),
        ("Train 2/b.mp4", "train"),
        ("train10/b.mp4", "train"),
        ("video_train/video_00000-01000/video_00000.mp4", "train"),
        ("val1/c.mp4", "val"),
        ("dev/c.mp4", "val"),
        ("video_validation/video_00000-01000/video_00000.mp4", "val"),
        ("hidden/d.mp4", "test"),
        ("video_test/video_00000-01000/video_00000.mp4", "test"),
        ("unlabelled/e.mp4", "unlabeled"),
    ],
)
def test_named_folders_give_their_videos_a_role(item, role):
    items = ["notes/x.mp4", "train/x", "val/x", "test/x", "unlabeled/x", "y", item]
    for name in ROLES:
        assert videos_of(items, name) == [f"{name}/x"] + ([item] if name == role else [])
    train = ["train/x"] + ([item] if role == "train" else [])
    assert train_and_val(items, 0.5) == (train, ["val/x"] + ([item] if role == "val" else []))


@pytest.mark.parametrize("group", [r"^(take\d+)_", r"^take\d+"])
def test_videos_of_one_take_stay_together_when_others_are_added(group):
    names = [f"take{n // 5}_part{n % 5}.mp4" for n in range(500)]
    train, val = train_and_val(names, 0.2, group=group)
    takes = [{name.partition("_")[0] for name in side} for side in (train, val)]
    assert sorted(train + val) == sorted(names) and 10 < len(takes[1]) < 30 and not takes[0] & takes[1]
    more = [*names, *(f"take{n}_0before.mp4" for n in range(100))]
    assert {take_of(group, name) for name in train_and_val(more, 0.2, group=group)[1]} == {
        take_of(group, name) for name in val
    }


def test_one_take_cannot_be_split():
    with pytest.raises(ValueError, match="one take by group='take', expected at least 2"):
        train_and_val(["take_1.mp4", "take_2.mp4"], 0.5, group="take")


def test_a_role_without_a_folder_is_refused():
    with pytest.raises(ValueError, match="has folders for train, val and none for test"):
        videos_of(["train/a.mp4", "val/b.mp4"], "test")


def test_videos_of_the_same_label_stay_together():
    target = {name: f"clean{int(name[6:11]) // 4}" for name in NAMES}
    train, val = train_and_val(NAMES, 0.2, label=target.__getitem__)
    assert sorted(train + val) == NAMES and 120 < len(val) < 280
    assert not {target[name] for name in train} & {target[name] for name in val}


def test_a_hash_selects_about_the_given_share():
    train, val = train_and_val(NAMES, 0.2)
    assert sorted(train + val) == NAMES and 150 < len(val) < 250
    assert train == sorted(train) and val == sorted(val)


def test_a_video_keeps_its_split_when_others_are_added_or_removed():
    _, val = train_and_val(NAMES, 0.2)
    _, of_half = train_and_val(NAMES[::2], 0.2)
    assert of_half == [name for name in val if name in NAMES[::2]]
    assert train_and_val(NAMES[::-1], 0.2)[1] == val[::-1]


def test_train_and_val_never_share_a_video_and_are_never_empty():
    for count in range(2, 12):
        for share in (0.01, 0.5, 0.99):
            train, val = train_and_val(NAMES[:count], share)
            assert train and val and not set(train) & set(val)


def test_without_a_folder_for_val_a_share_of_the_training_folders_validates():
    items = [f"train/{name}" for name in NAMES] + ["test/x.mp4"]
    train, val = train_and_val(items, 0.2)
    assert sorted(train + val) == items[:-1] and val
    assert train_and_val(NAMES, 0) == (NAMES, [])


def test_one_video_cannot_be_split():
    with pytest.raises(ValueError, match="has one video"):
        train_and_val(["a.mp4"], 0.5)
