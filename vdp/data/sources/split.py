"""Assign the videos of a source to splits, by the names of its folders or a hash of the videos' names."""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import partial

ROLES = ("train", "val", "unlabeled", "test")
# train, train2, train_2, Training, video_train (CLEVRER), val_easy, dev, hidden ...
_FOLDER = re.compile(
    r"(?:video_)?(?:(train)(?:ing)?|(val)(?:id|idation)?|(dev)|(eval)|(unlabell?ed)|(test)(?:ing)?|(hidden))"
    r"[0-9]*(?:[_\-. ].*)?",
    re.IGNORECASE,
)


def videos_of(items: Sequence[str], role: str) -> list[str]:
    """Return the videos of a role: by folder if top folders name train and another role, else all."""
    groups = _by_folder(items)
    if groups is None:
        return list(items)
    if not groups[role]:
        present = ", ".join(name for name in ROLES if groups[name])
        raise ValueError(f"has folders for {present} and none for {role}; name the folder itself, or null")
    return groups[role]


def train_and_val(
    items: Sequence[str], val_share: float, label: Callable[[str], str] = str, group: str | None = None
) -> tuple[list[str], list[str]]:
    """Split a training source by video: by its folders, else by a hash of the videos' names.

    A video keeps its split when others are added or removed, unless the share of a small set selects none:
    then the video with the lowest hash is selected. Videos of equal `label` (pairs of one target, links)
    have the same split. With the regular expression `group`, videos of equal match (its first group, or the
    whole match) have the same split, by a hash of the match; a name without a match is a group of its own.
    """
    groups = _by_folder(items)
    if groups is not None and groups["val"]:
        return groups["train"], groups["val"]
    train = list(items) if groups is None else groups["train"]
    if not val_share:
        return train, []
    if group is not None:
        label = partial(take_of, group)
    first: dict[str, str] = {}  # of each label, the name that is hashed
    for item in train:
        name = label(item)
        first[name] = name if group is not None else min(first.get(name, item), item)
    if len(first) < 2:
        one = "one video" if group is None else f"one take by group={group!r}"
        raise ValueError(f"has {one}, expected at least 2 to train and validate on; set val to a source")
    order = sorted(first, key=lambda name: _uniform_hash(first[name]))
    selected = sum(_uniform_hash(first[name]) < val_share for name in order)
    val = set(order[: min(max(selected, 1), len(order) - 1)])
    return [x for x in train if label(x) not in val], [x for x in train if label(x) in val]


def take_of(group: str, item: str) -> str:
    """Return the take of a video: the first group of the expression, its whole match, or the name itself."""
    match = re.search(group, item)
    if match is None:
        return item
    return (match[1] if match.re.groups else match[0]) or item


def _by_folder(items: Sequence[str]) -> dict[str, list[str]] | None:
    """Videos of each role, or None if the top folders do not name roles."""
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


def _uniform_hash(item: str) -> float:
    """Hash of a name, in [0, 1), the same on every machine."""
    digest = hashlib.sha256(item.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
