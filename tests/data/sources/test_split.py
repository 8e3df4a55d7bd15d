import pytest

from vdp.data.sources.split import outside_roles, train_and_val, videos_of

NAMES = [f"video_{n:05d}.mp4" for n in range(1000)]


def test_without_named_folders_every_role_takes_all():
    for role in ("train", "val", "unlabeled", "test"):
        assert videos_of(["a.mp4", "deep/b.mp4", "train/c.mp4"], role) == [
            "a.mp4",
            "deep/b.mp4",
            "train/c.mp4",
        ]


def test_named_folders_give_their_role_its_videos():
    items = [
        "notes/x.mp4",
        "train_1/a.mp4",
        "Train 2/b.mp4",
        "val_1/c.mp4",
        "hidden/d.mp4",
        "unlabelled/e.mp4",
    ]
    assert videos_of(items, "train") == ["train_1/a.mp4", "Train 2/b.mp4"]
    assert videos_of(items, "val") == ["val_1/c.mp4"]
    assert videos_of(items, "test") == ["hidden/d.mp4"]
    assert videos_of(items, "unlabeled") == ["unlabelled/e.mp4"]
    assert train_and_val(items, 0.5) == (["train_1/a.mp4", "Train 2/b.mp4"], ["val_1/c.mp4"])


def test_numbered_folders_and_dev_are_named_folders():
    items = ["train/a", "train2/b", "train10/c", "val1/d", "dev/e"]
    assert train_and_val(items, 0.1) == (items[:3], items[3:])


def test_videos_in_folders_of_no_role_are_told():
    assert outside_roles(["train/a", "val/b", "extra/c", "d"]) == ["extra/c", "d"]
    assert outside_roles(["a/a", "b/b"]) == []


def test_videos_of_one_label_stay_together():
    """Several degraded inputs of one clean target."""
    target = {name: f"clean{int(name[6:11]) // 4}" for name in NAMES}
    train, val = train_and_val(NAMES, 0.2, label=target.__getitem__)
    assert sorted(train + val) == NAMES and 120 < len(val) < 280
    assert not {target[name] for name in train} & {target[name] for name in val}


def test_the_folders_of_clevrer_are_named_folders():
    items = [f"video_{name}/video_00000-01000/video_00000.mp4" for name in ("test", "train", "validation")]
    assert [videos_of(items, role) for role in ("test", "train", "val")] == [[item] for item in items]


def test_a_folder_of_trains_is_no_split():
    items = ["train/a.mp4", "bus/b.mp4", "trains/c.mp4"]
    assert videos_of(items, "train") == items


def test_a_role_without_a_folder_is_told():
    with pytest.raises(ValueError, match="has folders for train, val and none for test"):
        videos_of(["train/a.mp4", "val/b.mp4"], "test")


def test_a_hash_parts_videos_in_about_the_share_asked_for():
    train, val = train_and_val(NAMES, 0.2)
    assert sorted(train + val) == NAMES and 150 < len(val) < 250
    assert train == sorted(train) and val == sorted(val)


def test_a_video_stays_on_its_side_when_others_come_or_go():
    _, val = train_and_val(NAMES, 0.2)
    _, of_half = train_and_val(NAMES[::2], 0.2)
    assert of_half == [name for name in val if name in NAMES[::2]]
    assert train_and_val(NAMES[::-1], 0.2)[1] == val[::-1]


def test_train_and_val_never_share_a_video_and_are_never_empty():
    for count in range(2, 12):
        for share in (0.01, 0.5, 0.99):
            train, val = train_and_val(NAMES[:count], share)
            assert train and val and not set(train) & set(val)


def test_a_share_of_named_training_folders_validates_where_none_is_named_val():
    items = [f"train/{name}" for name in NAMES] + ["test/x.mp4"]
    train, val = train_and_val(items, 0.2)
    assert sorted(train + val) == items[:-1] and val


def test_a_share_of_zero_validates_on_nothing():
    assert train_and_val(NAMES, 0) == (NAMES, [])


def test_one_video_cannot_be_parted():
    with pytest.raises(ValueError, match="has one video"):
        train_and_val(["a.mp4"], 0.5)
