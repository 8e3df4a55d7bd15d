"""Which splits have masks, and what follows for a run where some or all have none."""

from collections.abc import Mapping

from vdp.data.params import key_of

NONE = (
    "no training clip has masks: no classifier, segmenter or motion model is trained, and score has the "
    "metrics of frames alone"
)


def mask_notes(labelled: Mapping[str, bool]) -> list[str]:
    """What follows where splits have no masks, one line each; nothing follows from `unlabeled`.

    Args:
        labelled: whether clips have masks, by split: train, val, unlabeled, test/<name>.
    """
    tests = [split for split in labelled if split.startswith("test/")]
    if not labelled.get("train", False):
        unused = [key_of(split) for split in ("val", *tests) if labelled.get(split, False)]
        return [f"{NONE}; the masks of {', '.join(unused)} are not used" if unused else NONE]
    notes = []
    if not labelled.get("val", True):
        notes.append(
            f"{key_of('val')}: its clips have no masks: training clips validate the classifier and the "
            "segmenter, and the baselines decayed_velocity have a constant decay"
        )
    for split in tests:
        if not labelled[split]:
            notes.append(f"{key_of(split)}: its clips have no masks: only its frames are scored")
    return notes
