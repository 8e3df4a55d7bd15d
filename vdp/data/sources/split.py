"""Which videos of a source belong to which split: by its folders, else by a hash of their names."""

import hashlib
import re
from collections.abc import Sequence

ROLES = ("train", "val", "unlabeled", "test")
# train, train_2, Training, video_train (CLEVRER), val_easy, hidden ...
_FOLDER = re.compile(
    r"(?:video_)?(?:(train)(?:ing)?|(val)(?:id|idation)?|(unlabell?ed)|(test)(?:ing)?|(hidden))"
    r"(?:[_\-. ].*)?",
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


def train_and_val(items: Sequence[str], val_share: float) -> tuple[list[str], list[str]]:
    """Split a training source by video: by its folders, else by a hash of the videos' names.

    A video stays on its side when others come or go. If the share takes none, the video with the lowest hash
    is taken.

    Args:
        items: all videos of the source, `train_*/...` and `val_*/...` where folders say it.
        val_share: about this share of the training videos is to validate on; 0: none.

    Raises:
        ValueError: if there is only one video to share.
    """
    groups = _by_folder(items)
    if groups is not None and groups["val"]:
        return groups["train"], groups["val"]
    train = list(items) if groups is None else groups["train"]
    if not val_share:
        return train, []
    if len(train) < 2:
        raise ValueError(
            "has one video, which cannot be both trained and validated on; name a source for val"
        )
    place = {item: _unit_hash(item) for item in train}
    val = {item for item in train if place[item] < val_share} or {min(train, key=lambda item: place[item])}
    if len(val) == len(train):
        val.remove(max(train, key=lambda item: place[item]))
    return [item for item in train if item not in val], [item for item in train if item in val]


def _by_folder(items: Sequence[str]) -> dict[str, list[str]] | None:
    """Videos of each role, or None where the folders at the top do not name roles."""
    groups: dict[str, list[str]] = {role: [] for role in ROLES}
    for item in items:
        top, deeper, _ = item.partition("/")
        match = _FOLDER.fullmatch(top) if deeper else None
        if match:
            role = next(name.lower() for name in match.groups() if name)
            role = "unlabeled" if role.startswith("unlabel") else "test" if role == "hidden" else role
            groups[role].append(item)
    named = [role for role in ROLES if groups[role]]
    return groups if "train" in named and len(named) > 1 else None


def _unit_hash(item: str) -> float:
    """A number in [0, 1) that depends on the name alone, on every machine."""
    digest = hashlib.sha256(item.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
