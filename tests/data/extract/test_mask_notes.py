from vdp.data.extract.mask_notes import NONE, mask_notes

ALL = {"train": True, "val": True, "unlabeled": False, "test/a": True}


def test_splits_with_masks_need_no_note():
    assert mask_notes(ALL) == mask_notes({"train": True}) == []


def test_without_masks_of_train_nothing_is_trained_on_those_of_others():
    assert mask_notes(dict.fromkeys(ALL, False)) == [NONE]
    assert mask_notes(ALL | {"train": False, "val": False}) == [
        f"{NONE}; the masks of extract_frames.test_sets.a are not used"
    ]


def test_each_split_without_masks_has_a_note_beside_a_labelled_train():
    found = mask_notes(ALL | {"val": False, "test/a": False, "test/b": False})
    assert [note.partition(":")[0] for note in found] == [
        "extract_frames.val",
        "extract_frames.test_sets.a",
        "extract_frames.test_sets.b",
    ]
