"""What the columns of a table hold, and the pictures and masks that are in one of its cells.

Columns are as the Hugging Face `datasets` library stores its features, or as others write them to parquet.
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
from pydantic import JsonValue

from vdp.data.stores.clips import Pixels
from vdp.data.video.picture import check_classes, decode_picture

PREFERRED = ("video", "frames", "images")  # of several columns that fit, the first of these names is taken
MASKS = ("mask", "masks")
JPEG = b"\xff\xd8"

Kind = Literal["video", "pictures", "arrays"]


@dataclass(frozen=True)
class Columns:
    """The column of the videos, how they are stored in it, and the column of their masks or None."""

    frames: str
    kind: Kind
    masks: str | None


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        array: of length 1.
        label: how messages name it.
        folder: what a path in it is relative to.
    """

    array: pa.Array
    label: str
    folder: Path

    def is_null(self) -> bool:
        return self.array.null_count > 0


@dataclass(frozen=True)
class Stack:
    """Pictures (H, W, 3) or masks (H, W) of one video, uint8: their number, and how to decode one of them."""

    count: int
    read: Callable[[int], Pixels]


def choose_columns(schema: pa.Schema, name: str) -> Columns:
    """The columns to read videos and masks from.

    Args:
        schema: the table's.
        name: the table's, for messages.

    Raises:
        ValueError: if no column holds videos, or several may be meant; lists the columns.
    """
    features = _features(schema)
    media = {field.name: _innermost(features.get(field.name)) for field in schema}
    described = {field.name: _described(field.type, media[field.name]) for field in schema}
    listed = ", ".join(f"{column} ({kind})" for column, kind in described.items())
    kinds = {field.name: _kind(field, media[field.name]) for field in schema if field.name not in MASKS}
    fit = {column: kind for column, kind in kinds.items() if kind}
    if not fit:
        raise ValueError(
            f"{name}: no column holds videos; expected a Video, a list of Images, or integers (T, H, W, 3); "
            f"there are {listed}; if the videos are files beside the table, set kind to videos or images"
        )
    column = next((column for column in PREFERRED if column in fit), None)
    if column is None and len(fit) > 1:
        raise ValueError(
            f"{name}: {' and '.join(fit)} may each hold the videos; name the right column {PREFERRED[0]}, "
            f"or remove the others; there are {listed}"
        )
    column = column or next(iter(fit))
    masks = [field for field in schema if field.name in MASKS]
    if len(masks) > 1:
        raise ValueError(f"{name}: has two columns of masks, {' and '.join(MASKS)}; remove one of them")
    if masks and not (_is_pictures(masks[0].type) or _nesting(masks[0].type) == 3):
        raise ValueError(
            f"{name}: column {masks[0].name} holds {described[masks[0].name]}; expected class ids, a list of "
            "gray Images or integers (T, H, W); rename it if it holds something else"
        )
    return Columns(column, fit[column], masks[0].name if masks else None)


def read_pictures(cell: Cell, kind: Literal["pictures", "arrays"]) -> Stack:
    """The pictures of a video.

    Raises:
        ValueError: if there are none, or the array is not (T, H, W, 3) of 0..255; from `read`, if the picture
            cannot be decoded.
    """
    if kind == "pictures":
        values = _list_in(cell)
        if not len(values):
            raise ValueError(f"{cell.label}: an empty list, expected pictures; remove the row")
        return Stack(len(values), lambda n: _picture(values[n], cell, n))
    array = _integers(cell)
    if array.shape[-1] != 3:
        raise ValueError(
            f"{cell.label}: expected shape (T, H, W, 3), got {array.shape}; store the colours last"
        )
    return Stack(len(array), lambda n: np.array(array[n]))


def read_masks(cell: Cell) -> Stack | None:
    """The masks of a video, or None where the cell is null or an empty list.

    Raises:
        ValueError: if the array is not (T, H, W) of class ids; from `read`, if the picture is not.
    """
    if cell.is_null() or not len(_list_in(cell)):
        return None
    if _is_pictures(cell.array.type):
        values = _list_in(cell)
        return Stack(len(values), lambda n: _mask(values[n], cell, n))
    array = check_classes(_integers(cell), cell.label)
    return Stack(len(array), lambda n: np.array(array[n]))


def stored_file(value: pa.Scalar, label: str, folder: Path) -> bytes | Path:
    """The bytes of a picture or video file, or where it lies.

    Raises:
        ValueError: if there is neither, or the file is not there.
    """
    content = value.as_py()
    if isinstance(content, bytes):
        return content
    if content is None:
        raise ValueError(f"{label}: is null; remove the row")
    data, path = content.get("bytes"), content.get("path")
    if data is not None:
        return data
    if path is None:
        raise ValueError(f"{label}: has neither bytes nor a path; save the data set again with its files")
    if "://" in path or not (folder / path).is_file():
        raise ValueError(f"{label}: {path} is not here; save the data set again where its files are")
    return folder / path


def _picture(value: pa.Scalar, cell: Cell, number: int) -> Pixels:
    label = f"{cell.label}[{number}]"
    return decode_picture(_bytes(value, label, cell.folder), label)


def _mask(value: pa.Scalar, cell: Cell, number: int) -> Pixels:
    label = f"{cell.label}[{number}]"
    data = _bytes(value, label, cell.folder)
    if data.startswith(JPEG):
        raise ValueError(f"{label}: a mask stored as JPEG, which changes class ids; store it as PNG")
    try:
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # no bytes, or more pixels than OpenCV's own limit
        mask = None
    if mask is None or mask.ndim != 2 or mask.dtype.kind != "u":
        got = "an unreadable one" if mask is None else f"{mask.dtype} {mask.shape}"
        raise ValueError(f"{label}: expected a gray picture whose levels are class ids, got {got}")
    return check_classes(np.minimum(mask, 255).astype(np.uint8), label)


def _bytes(value: pa.Scalar, label: str, folder: Path) -> bytes:
    stored = stored_file(value, label, folder)
    return stored if isinstance(stored, bytes) else stored.read_bytes()


def _integers(cell: Cell) -> Pixels:
    """Nested lists as one array of 0..255."""
    shape, values = [], _storage(cell.array)
    while _is_list(values.type):
        lengths = pc.list_value_length(values).unique().to_pylist()
        if len(lengths) != 1 or not lengths[0]:  # also None, of a null
            raise ValueError(
                f"{cell.label}: expected an array, got lists of different lengths, or empty ones"
            )
        shape.append(lengths[0])
        values = _storage(values.flatten())
    array = values.to_numpy(zero_copy_only=False)
    if values.null_count or array.min() < 0 or array.max() > 255:
        raise ValueError(f"{cell.label}: expected integers from 0 to 255, got others, or gaps")
    return array.astype(np.uint8, copy=False).reshape(shape)


def _list_in(cell: Cell) -> pa.Array:
    return _storage(cell.array)[0].values


# --- Types of columns ------------------------------------------------------------------------------------


def _kind(field: pa.Field, medium: str | None) -> Kind | None:
    # a struct of bytes and path may hold anything: a feature's name says what, else the column's
    if _is_file(field.type) and (
        medium == "Video" or (medium in (None, "Value") and field.name == PREFERRED[0])
    ):
        return "video"
    if _is_pictures(field.type) and medium in (None, "Value", "Image"):
        return "pictures"
    return "arrays" if _nesting(field.type) == 4 else None


def _is_file(kind: pa.DataType) -> bool:
    """Bytes of a file, or a struct of bytes and path."""
    if pa.types.is_struct(kind):
        fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        return bool(fields) and all(
            _is_bytes(kind) if name == "bytes" else name == "path" and _is_text(kind)
            for name, kind in fields.items()
        )
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_pictures(kind: pa.DataType) -> bool:
    return _is_list(kind) and _is_file(kind.value_type)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _nesting(kind: pa.DataType) -> int:
    """Dimensions of nested lists of integers; 0 for another type."""
    depth = 0
    while _is_list(kind := kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind):
        kind, depth = kind.value_type, depth + 1
    return depth if pa.types.is_integer(kind) else 0


def _storage(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _described(kind: pa.DataType, medium: str | None) -> str:
    if depth := _nesting(kind):
        return f"integers of {depth} dimensions"
    if medium not in (None, "Value") and (_is_file(kind) or _is_pictures(kind)):
        return f"list of {medium}" if _is_pictures(kind) else str(medium)
    return str(kind)[:60]


def _features(schema: pa.Schema) -> dict[str, JsonValue]:
    """What `datasets` writes of each column beside the table; {} where it did not write it."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _innermost(feature: JsonValue) -> str | None:
    """Name of the feature in nested lists: Image for List(Image); None where it is not said."""
    while isinstance(feature, list | dict):
        if isinstance(feature, list):  # as old versions wrote a list
            feature = feature[0] if feature else None
        elif "feature" in feature:
            feature = feature["feature"]
        else:
            name = feature.get("_type")
            return name if isinstance(name, str) else None
    return None
