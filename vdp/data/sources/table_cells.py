"""Find the columns of videos and masks in a table, and decode one cell of them.

Columns hold what the Hugging Face `datasets` library or other parquet writers store.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from vdp.data.stores.clips import Pixels
from vdp.data.video.picture import content_reader

PAIR = ("input", "target")  # degraded and clean videos, which are used before any other column
PREFERRED = ("video", "frames", "images")  # of several columns of videos, the first of these names is used
MASKS = ("mask", "masks")
JPEG = b"\xff\xd8"

Kind = Literal["video", "pictures", "arrays"]


@dataclass(frozen=True)
class Columns:
    """The column of videos, how they are stored in it, and the column of masks or None.

    `degraded` is the column of the degraded videos, stored in the same way, of a set of pairs.
    """

    frames: str
    kind: Kind
    masks: str | None
    degraded: str | None = None

    def __str__(self) -> str:
        """Names and kind in a message."""
        pair = f"columns {self.degraded} and {self.frames}" if self.degraded else f"column {self.frames}"
        return f"{pair} ({self.kind}), masks in {self.masks or 'none'}"

    @property
    def names(self) -> list[str]:
        return [name for name in (self.frames, self.masks, self.degraded) if name is not None]


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    array: pa.Array  # of length 1
    label: str  # its name in messages
    folder: Path  # paths in it are relative to this folder

    @property
    def values(self) -> pa.Array:
        """The values of the list in the cell."""
        return _storage(self.array)[0].values

    def file(self, value: pa.Scalar, label: str) -> bytes | Path:
        """Return the content or the path of a stored file."""
        content = value.as_py()
        if isinstance(content, bytes):
            return content
        if content is None:
            raise ValueError(f"{label}: is null; remove the row")
        data, path = content.get("bytes"), content.get("path")
        if data is not None:
            return data
        if path is None or "://" in path or not (self.folder / path).is_file():
            raise ValueError(f"{label}: file {path} not found; save the data set again with its files")
        return self.folder / path


@dataclass(frozen=True)
class Stack:
    """Pictures (H, W, 3) or masks (H, W) of one video, uint8."""

    count: int
    read: Callable[[int], Pixels]  # decodes one by its index


def choose_columns(schema: pa.Schema, name: str) -> Columns:
    """Choose the columns of videos and masks of a table called `name`."""
    media = _media(schema)
    described = {field.name: _describe(field.type, media[field.name]) for field in schema}
    listed = ", ".join(f"{column} ({kind})" for column, kind in described.items())
    kinds = {field.name: _kind(field, media[field.name]) for field in schema if field.name not in MASKS}
    usable = {column: kind for column, kind in kinds.items() if kind}
    degraded, clean = PAIR
    pair = [usable.get(column) for column in PAIR]
    paired = all(pair)
    preferred = [column for column in PREFERRED if column in usable]
    if any(pair) and pair[0] != pair[1] and set(PAIR) <= described.keys():
        raise ValueError(
            f"{name}: expected columns {degraded} and {clean} of one type, got {listed}; store both alike, "
            "or, if they are no pairs of degraded and clean videos, rename them"
        )
    if len(usable) != 1 and not preferred and not paired:
        raise ValueError(
            f"{name}: expected one column of videos (Video, list of Images, or integers (T, H, W, 3)), got "
            f"{' and '.join(usable) or 'none'} of {listed}; name the right one {PREFERRED[0]} (pairs: "
            f"{' and '.join(PAIR)}), or for video files beside the table set kind to videos or images"
        )
    column = clean if paired else (preferred or list(usable))[0]
    masks = [field for field in schema if field.name in MASKS]
    if len(masks) > 1 or masks and not (_is_pictures(masks[0].type) or _nesting(masks[0].type) == 3):
        raise ValueError(
            f"{name}: expected one column of class ids (list of gray Images, or integers (T, H, W)), got "
            f"{' and '.join(field.name for field in masks)} of {listed}; remove or rename the others"
        )
    named_masks = masks[0].name if masks else None
    return Columns(column, usable[column], named_masks, degraded if paired else None)


def read_pictures(cell: Cell, kind: Literal["pictures", "arrays"]) -> Stack:
    """Read the pictures of a video."""
    if kind == "pictures":
        values = cell.values
        if not len(values):
            raise ValueError(f"{cell.label}: an empty list, expected pictures; remove the row")
        read = content_reader(lambda n: _content(cell, values, n), len(values), cell.label)
        return Stack(len(values), read)
    array = _integers(cell)
    if array.shape[-1] != 3:
        raise ValueError(f"{cell.label}: expected shape (T, H, W, 3), got {array.shape}; store colors last")
    return Stack(len(array), lambda n: np.array(array[n]))


def read_masks(cell: Cell) -> Stack | None:
    """Read the masks of a video; None if the cell is null or an empty list."""
    if cell.array.null_count or not len(values := cell.values):
        return None
    if _is_pictures(cell.array.type):
        return Stack(len(values), lambda n: _decode_mask(*_content(cell, values, n)))
    array = _integers(cell)
    return Stack(len(array), lambda n: np.array(array[n]))


def _content(cell: Cell, values: pa.Array, number: int) -> tuple[bytes, str]:
    """Content of a stored picture, and its name in messages."""
    label = f"{cell.label}[{number}]"
    stored = cell.file(values[number], label)
    return stored if isinstance(stored, bytes) else stored.read_bytes(), label


def _decode_mask(data: bytes, label: str) -> Pixels:
    if data.startswith(JPEG):
        raise ValueError(f"{label}: a mask stored as JPEG, which changes class ids; store it as PNG")
    try:
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # no bytes, or more pixels than OpenCV's limit
        mask = None
    if mask is None or mask.ndim != 2 or mask.dtype.kind != "u":
        got = "an unreadable one" if mask is None else f"{mask.dtype} {mask.shape}"
        raise ValueError(f"{label}: expected a gray picture of class ids, got {got}")
    return np.minimum(mask, 255).astype(np.uint8)


def _integers(cell: Cell) -> Pixels:
    """Convert nested lists to one array of 0..255."""
    shape, values = [], _storage(cell.array)
    while _is_list(values.type):
        lengths = pc.list_value_length(values).unique().to_pylist()
        if len(lengths) != 1 or not lengths[0]:  # None: of a null
            raise ValueError(
                f"{cell.label}: expected an array, got lists of different lengths, or empty ones"
            )
        shape.append(lengths[0])
        values = _storage(values.flatten())
    array = values.to_numpy(zero_copy_only=False)
    if values.null_count or array.min() < 0 or array.max() > 255:
        raise ValueError(f"{cell.label}: expected integers from 0 to 255, got others, or nulls")
    return array.astype(np.uint8, copy=False).reshape(shape)


# --- Types of columns ------------------------------------------------------------------------------------


def _kind(field: pa.Field, medium: str | None) -> Kind | None:
    # a struct of bytes and path may hold any file: the feature or the name of the column decides
    named = medium in (None, "Value") and field.name in (PREFERRED[0], *PAIR)
    if _is_file(field.type) and (medium == "Video" or named):
        return "video"
    if _is_pictures(field.type) and medium in (None, "Value", "Image"):
        return "pictures"
    return "arrays" if _nesting(field.type) == 4 else None


def _is_file(kind: pa.DataType) -> bool:
    """Whether values are the bytes of a file, or a struct of bytes and path."""
    if not types.is_struct(kind):
        return _is_bytes(kind)
    return kind.num_fields > 0 and all(
        _is_bytes(field.type) if field.name == "bytes" else field.name == "path" and _is_text(field.type)
        for field in kind
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _is_text(kind: pa.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_pictures(kind: pa.DataType) -> bool:
    return _is_list(kind) and _is_file(kind.value_type)


def _is_list(kind: pa.DataType) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _nesting(kind: pa.DataType) -> int:
    """Number of dimensions of nested lists of integers; 0 for another type."""
    depth = 0
    while _is_list(kind := kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind):
        kind, depth = kind.value_type, depth + 1
    return depth if types.is_integer(kind) else 0


def _storage(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _describe(kind: pa.DataType, medium: str | None) -> str:
    if depth := _nesting(kind):
        return f"integers of {depth} dimensions"
    if medium not in (None, "Value") and (_is_file(kind) or _is_pictures(kind)):
        return f"list of {medium}" if _is_pictures(kind) else str(medium)
    return str(kind)[:60]


def _media(schema: pa.Schema) -> dict[str, str | None]:
    """Innermost feature of each column, as stored by `datasets`: Image for List(Image); None if unknown."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        features = None
    media: dict[str, str | None] = {}
    for name in schema.names:
        feature = features.get(name) if isinstance(features, dict) else None
        while isinstance(feature, list) or (isinstance(feature, dict) and "feature" in feature):
            # old versions store a list type as a list of one
            feature = feature["feature"] if isinstance(feature, dict) else feature[0] if feature else None
        medium = feature.get("_type") if isinstance(feature, dict) else None
        media[name] = medium if isinstance(medium, str) else None
    return media
