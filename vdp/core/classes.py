"""The 49 classes of the data set: background and 3 shapes x 2 materials x 8 colours.

Source: the class ids of the public competition, `1 + 16 shape + 8 material + colour`.
"""

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

SHAPES = ("cube", "sphere", "cylinder")
MATERIALS = ("metal", "rubber")
COLORS = ("gray", "red", "blue", "green", "brown", "cyan", "purple", "yellow")
NUM_CLASSES = 1 + len(SHAPES) * len(MATERIALS) * len(COLORS)  # 0 is the background

Ids = TypeVar("Ids", int, NDArray[np.int64], "Tensor")


def class_id(shape: int, material: int, color: int) -> int:
    """Return the class id, 1..48, of indices into `SHAPES`, `MATERIALS` and `COLORS`.

    Raises:
        ValueError: if an index is out of range.
    """
    if not (0 <= shape < len(SHAPES) and 0 <= material < len(MATERIALS) and 0 <= color < len(COLORS)):
        raise ValueError(
            f"(shape, material, color)={(shape, material, color)}: expected 0..{len(SHAPES) - 1}, "
            f"0..{len(MATERIALS) - 1}, 0..{len(COLORS) - 1}"
        )
    return 1 + (shape * len(MATERIALS) + material) * len(COLORS) + color


def factor_indices(class_ids: Ids) -> tuple[Ids, Ids, Ids]:
    """Return (shape, material, color) of foreground classes: of a number, an array or a tensor; unchecked."""
    per_shape = len(MATERIALS) * len(COLORS)
    index = class_ids - 1
    return index // per_shape, index % per_shape // len(COLORS), index % len(COLORS)


def factors(class_number: int) -> tuple[int, int, int]:
    """Return (shape, material, color) of a foreground class; inverse of `class_id`.

    Raises:
        ValueError: if `class_number` is not 1..48.
    """
    if not 1 <= class_number < NUM_CLASSES:
        raise ValueError(f"class id={class_number}: expected 1..{NUM_CLASSES - 1}; 0 is the background")
    return factor_indices(class_number)


def class_name(class_number: int) -> str:
    """Return a name such as 'brown metal cube', or 'background' for 0."""
    if class_number == 0:
        return "background"
    shape, material, color = factors(class_number)
    return f"{COLORS[color]} {MATERIALS[material]} {SHAPES[shape]}"
