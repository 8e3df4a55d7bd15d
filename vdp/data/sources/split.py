"""Which videos of a source belong to which split: by its folders, else by a hash of their names."""

import hashlib
import re
from collections.abc import Callable, Sequence

ROLES = ("train", "val", "unlabeled", "test")
# train, train2, train_2, Training, video_train (CLEVRER), val_easy, dev, hidden ...
_FOLDER = re.compile(
    r"(?:video_)?(?:(train)(?:ing)?|(val)(?:id|idation)?|(dev)|(eval)|(unlabell?ed)|(test)(?:ing)?|(hidden))"
    r"[0-9]*(?:[_\-. ].*)?",
    re.IGNORECASE,
)


def videos_of(items: Sequence[str], role: str) -> list[str]:
    """The videos that a source's folders give to a role; all of them where the folders do not say.

    Folders say it where those at the top are named after `train` and after another role: `train_a/`, `val/`.

    Raises:
        ValueError: if they do, and none is named after this role.
    """
    groups = _by_folder(items)
    if groups is None:
        return list(items)
    if not groups[role]:
        there = ", ".join(name for name in ROLES if groups[name])
        raise ValueError(f"has folders for {there} and none for {role}; name the folder itself, or null")
    return groups[role]


def in_no_role(items: Sequence[str]) -> list[str]:
    """The videos that no role gets, where a source's folders give each role its own."""
    groups = _by_folder(items)
    if groups is None:
        return []
    taken = {item for group in groups.values() for item in group}
    return [item for item in items if item not in taken]


def train_and_val(
    items: Sequence[str], val_share: float, label: Callable[[str], str] = str
) -> tuple[list[str], list[str]]:
    """Split a training source by video: by its folders, else by a hash of the videos' names.

    A video stays on its side when others come or go, but for sets so small that the share takes none: then
    the video with the lowest hash is taken.

    Args:
        items: all videos of the source, `train_*/...` and `val_*/...` where folders say it.
        val_share: about this share of the training videos is to validate on; 0: none.
        label: what a video is read from; those of one label (pairs of one target, links) stay together.

    Raises:
        ValueError: if there is only one video to share.
    """
    groups = _by_folder(items)
    if groups is not None and groups["val"]:
        return groups["train"], groups["val"]
    train = list(items) if groups is None else groups["train"]
    if not val_share:
        return train, []
    first: dict[str, str] = {}  # of each label, the item whose hash places all
    for item in train:
        name = label(item)
        first[name] = min(first.get(name, item), item)
    if len(first) < 2:
        raise ValueError(
            "has one video, which cannot be both trained and validated on; name a source for val"
        )
    place = {name: _place(item) for name, item in first.items()}
    val = {name for name in place if place[name] < val_share} or {min(place, key=lambda name: place[name])}
    if len(val) == len(place):
        val.remove(max(place, key=lambda name: place[name]))
    return (
        [item for item in train if label(item) not in val],
        [item for item in train if label(item) in val],
    )


def _by_folder(items: Sequence[str]) -> dict[str, list[str]] | None:
    """Videos of each role, or None where the folders at the top do not name roles."""
    groups: dict[str, list[str]] = {role: [] for role in ROLES}
    for item in items:
        top, deeper, _ = item.partition("/")
        match = _FOLDER.fullmatch(top) if deeper else None
        if match:
            role = next(name.lower() for name in match.groups() if name)
            role = {"unlabelled": "unlabeled", "hidden": "test", "dev": "val", "eval": "val"}.get(role, role)
            groups[role].append(item)
    named = [role for role in ROLES if groups[role]]
    return groups if "train" in named and len(named) > 1 else None


def _place(item: str) -> float:
    """A number in [0, 1) that depends on the name alone, on every machine."""
    digest = hashlib.sha256(item.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
