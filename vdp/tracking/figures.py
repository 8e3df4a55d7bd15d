"""Pictures of clips beside the truth, (H, W, 3) RGB uint8, drawn with numpy and OpenCV.

A class is drawn in its object's colour, lighter for metal and darker from cube to sphere to cylinder, under a
label of two letters, its material's and its shape's: a longer label would cover the object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from vdp.core.classes import COLORS, MATERIALS, NUM_CLASSES, SHAPES, factors

Picture = NDArray[np.uint8]

INK, PAPER, EMPTY = (20, 20, 20), (255, 255, 255), (38, 38, 38)
TILE_WIDTH = 180  # pixels; frames are enlarged by an integer factor to about this width
CAPTION, GAP = 18, 4  # pixels
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.4

BASE_COLORS = {
    "gray": (150, 150, 150), "red": (215, 45, 45), "blue": (50, 90, 230), "green": (40, 150, 50),
    "brown": (150, 95, 45), "cyan": (40, 205, 205), "purple": (150, 55, 205), "yellow": (250, 225, 50),
}  # fmt: skip
METAL_LIGHT = 0.35  # share of white
MATERIAL_LETTERS = {"metal": "m", "rubber": "r"}
SHAPE_LETTERS = {"cube": "C", "sphere": "S", "cylinder": "Y"}
SHAPE_SHADE = {"cube": 1.0, "sphere": 0.84, "cylinder": 0.68}
PATH_SHADE = 0.35  # of the line of one sample; where samples agree the lines add up
LEGEND = "masks: m metal, r rubber; C cube, S sphere, Y cylinder"


@dataclass(frozen=True)
class ClipPicture:
    """Contents of a strip: frames (H, W, 3) by 1-based number, masks (H, W) of the target.

    `true` lacks the frames, and `true_mask` is None, where a test set has no truth; `predicted_mask` is None
    without a segmenter.
    """

    title: str
    target: int
    known: dict[int, Picture]
    predicted: dict[int, Picture]  # every hop, the target included
    true: dict[int, Picture]
    predicted_mask: Picture | None
    true_mask: Picture | None
    composed: dict[int, Picture] = field(default_factory=dict)  # frames of the most likely motion, every hop
    paths: Sequence["ObjectPath"] = ()  # of its objects
    flow: dict[int, Picture] = field(default_factory=dict)  # the last context frame moved on, every hop


@dataclass(frozen=True)
class ObjectPath:
    """Places of an object, in pixels of a frame (column, row)."""

    label: int  # class id
    known: NDArray[np.float32]  # in the context frames where it is visible, (K, 2)
    samples: NDArray[np.float32]  # sampled places in the target frames, (R, T, 2)


def evenly_spaced(count: int, max_count: int) -> list[int]:
    """At most `max_count` evenly spaced indices below `count`, with the last and, of several, the first."""
    return [round(index) for index in np.linspace(count - 1, 0, min(count, max_count))][::-1]


def class_colors() -> Picture:
    """Colour of each class, (49, 3) RGB; all differ."""
    colors = np.empty((NUM_CLASSES, 3))
    colors[0] = EMPTY
    for label in range(1, NUM_CLASSES):
        shape, material, color = factors(label)
        base = np.array(BASE_COLORS[COLORS[color]], float)
        if MATERIALS[material] == "metal":
            base += METAL_LIGHT * (255 - base)
        colors[label] = base * SHAPE_SHADE[SHAPES[shape]]
    return np.rint(colors).astype(np.uint8)


def clip_strip(clip: ClipPicture) -> Picture:
    """Draw a clip: context frames, the target and its masks; below, every hop over its truth."""
    top = [tile(frame, f"frame {number}") for number, frame in clip.known.items()]
    if clip.target in clip.true:
        top.append(tile(clip.true[clip.target], f"true {clip.target}"))
    top.append(tile(clip.predicted[clip.target], f"predicted {clip.target}"))
    if clip.true_mask is not None:
        top.append(mask_tile(clip.true_mask, f"true mask {clip.target}"))
    if clip.predicted_mask is not None:
        top.append(mask_tile(clip.predicted_mask, f"predicted mask {clip.target}"))
    if clip.paths:
        last = max(clip.known)
        top.append(path_tile(clip.known[last], clip.paths, f"sampled tracks from {last}"))
    rows = [top, [tile(frame, f"predicted {number}") for number, frame in clip.predicted.items()]]
    if clip.composed:
        rows.append([tile(frame, f"composed {number}") for number, frame in clip.composed.items()])
    if clip.flow:
        rows.append([tile(frame, f"optical flow {number}") for number, frame in clip.flow.items()])
    if clip.true:
        rows.append([tile(frame, f"true {number}") for number, frame in clip.true.items()])
    return sheet(clip.title if clip.predicted_mask is None else f"{clip.title}; {LEGEND}", rows)


def sheet(title: str, rows: Sequence[Sequence[Picture]]) -> Picture:
    """Arrange rows of tiles under a title; the tiles of a row have one height."""
    body = _stack([_row(row) for row in rows])
    return _stack([_text_bar(title, body.shape[1]), body])


def sample_sheet(rows: Sequence[Sequence[tuple[str, Picture]]]) -> Picture:
    """Arrange captioned pictures, one row per sample, with the legend where there are masks.

    Args:
        rows: captions and pictures, of one size in a row: frames (H, W, 3), or masks (H, W) of class ids.

    Raises:
        ValueError: if a row is empty, or a picture is neither a frame nor a mask.
    """
    if not rows or not all(rows):
        raise ValueError(
            f"rows: expected at least one picture in at least one row, got {[len(row) for row in rows]}"
        )
    masks = any(picture.ndim == 2 for row in rows for _, picture in row)
    tiles = [[_tile(picture, caption) for caption, picture in row] for row in rows]
    return sheet(LEGEND if masks else "", tiles)


def sample_columns(columns: Mapping[str, Picture]) -> Picture:
    """`sample_sheet` of frames (B, H, W, 3) and masks (B, H, W) by caption, one row per sample."""
    return sample_sheet([list(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])


def tile(frame: Picture, caption: str) -> Picture:
    """A frame (H, W, 3), enlarged by an integer factor, under its caption."""
    frame = _enlarge(frame)
    return np.concatenate([_text_bar(caption, frame.shape[1]), frame])


def mask_tile(mask: Picture, caption: str) -> Picture:
    """A mask (H, W) of class ids in the classes' colours with a label on each object, under its caption."""
    picture = np.ascontiguousarray(_enlarge(class_colors()[mask]))
    factor = picture.shape[0] // mask.shape[0]
    for label in np.unique(mask):
        if label:
            row, column = (np.argwhere(mask == label).mean(0) + 0.5) * factor
            _label(picture, _short_name(int(label)), int(column), int(row))
    return np.concatenate([_text_bar(caption, picture.shape[1]), picture])


def path_tile(frame: Picture, paths: Sequence[ObjectPath], caption: str) -> Picture:
    """A frame with the known path of each object in white and its sampled paths in its colour."""
    picture = np.ascontiguousarray(_enlarge(frame))
    factor, colors = picture.shape[0] // frame.shape[0], class_colors()
    for path in paths:
        last = path.known[-1:]
        for sample in path.samples:
            over = picture.copy()
            _draw_path(over, np.concatenate([last, sample]), factor, colors[path.label].tolist())
            picture = np.rint(picture + PATH_SHADE * (over.astype(np.float32) - picture)).astype(np.uint8)
        _draw_path(picture, path.known, factor, list(PAPER))
    return np.concatenate([_text_bar(caption, picture.shape[1]), picture])


def encode_png(picture: Picture) -> bytes:
    """Encode as PNG; equal pictures give equal bytes."""
    return _encode(picture, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 9])


def encode_webp(picture: Picture) -> bytes:
    """Encode as a small lossy WebP, for embedding."""
    return _encode(picture, ".webp", [cv2.IMWRITE_WEBP_QUALITY, 80])


def decode_picture(data: bytes) -> Picture:
    """Decode an encoded picture, (H, W, 3) RGB."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError("picture: expected PNG or WebP bytes")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _encode(picture: Picture, suffix: str, options: list[int]) -> bytes:
    ok, data = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    if not ok:
        raise RuntimeError(f"OpenCV cannot write {suffix} pictures on this machine")
    return data.tobytes()


def _tile(picture: Picture, caption: str) -> Picture:
    if picture.ndim == 2:
        return mask_tile(picture, caption)
    if picture.ndim == 3 and picture.shape[2] == 3:
        return tile(picture, caption)
    raise ValueError(f"{caption}: expected a frame (H, W, 3) or a mask (H, W), got {picture.shape}")


def _short_name(label: int) -> str:
    shape, material, _ = factors(label)
    return MATERIAL_LETTERS[MATERIALS[material]] + SHAPE_LETTERS[SHAPES[shape]]


def _enlarge(frame: Picture) -> Picture:
    factor = max(1, round(TILE_WIDTH / frame.shape[1]))
    return np.asarray(frame).repeat(factor, axis=0).repeat(factor, axis=1)


def _label(picture: Picture, text: str, x: int, y: int) -> None:
    (width, height), _ = cv2.getTextSize(text, FONT, FONT_SCALE * 0.8, 1)
    x = int(np.clip(x - width // 2, 1, max(1, picture.shape[1] - width - 1)))
    y = int(np.clip(y + height // 2, height + 1, picture.shape[0] - 2))
    for color, thickness in ((INK, 2), (PAPER, 1)):
        cv2.putText(picture, text, (x, y), FONT, FONT_SCALE * 0.8, color, thickness, cv2.LINE_AA)


def _draw_path(picture: Picture, places: NDArray[np.float32], factor: int, color: list[int]) -> None:
    points = np.rint((places + 0.5) * factor).astype(np.int32)[:, None]
    cv2.polylines(picture, [points], isClosed=False, color=color, thickness=1, lineType=cv2.LINE_AA)


def _text_bar(text: str, width: int) -> Picture:
    bar = np.full((CAPTION, width, 3), PAPER, np.uint8)
    cv2.putText(bar, text, (2, CAPTION - 5), FONT, FONT_SCALE, INK, 1, cv2.LINE_AA)
    return bar


def _row(pictures: Sequence[Picture]) -> Picture:
    gap = np.full((pictures[0].shape[0], GAP, 3), PAPER, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


def _stack(pictures: list[Picture]) -> Picture:
    width = max(picture.shape[1] for picture in pictures)
    padded = [
        np.pad(p, ((0, GAP), (0, width - p.shape[1]), (0, 0)), constant_values=PAPER[0]) for p in pictures
    ]
    return np.concatenate(padded)
