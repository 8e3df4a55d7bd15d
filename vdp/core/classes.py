"""The 49 classes of the data set: background and 3 shapes x 2 materials x 8 colours.

Source: the id rule of the field's public competition code, `1 + 16 shape + 8 material + colour`.
"""

SHAPES = ("cube", "sphere", "cylinder")
MATERIALS = ("metal", "rubber")
COLORS = ("gray", "red", "blue", "green", "brown", "cyan", "purple", "yellow")
NUM_CLASSES = 1 + len(SHAPES) * len(MATERIALS) * len(COLORS)  # 0 is the background


def class_id(shape: int, material: int, color: int) -> int:
    """Class id, 1..48, of an object by the positions of its factors in `SHAPES`, `MATERIALS` and `COLORS`.

    Raises:
        ValueError: if a factor lies outside its tuple.
    """
    if not (0 <= shape < len(SHAPES) and 0 <= material < len(MATERIALS) and 0 <= color < len(COLORS)):
        raise ValueError(
            f"class factors: expected shape 0..{len(SHAPES) - 1}, material 0..{len(MATERIALS) - 1}, "
            f"color 0..{len(COLORS) - 1}, got {(shape, material, color)}"
        )
    return 1 + (shape * len(MATERIALS) + material) * len(COLORS) + color


def factors(class_number: int) -> tuple[int, int, int]:
    """Inverse of `class_id`: (shape, material, color) of a foreground class 1..48.

    Raises:
        ValueError: if `class_number` is the background or above 48.
    """
    if not 1 <= class_number < NUM_CLASSES:
        raise ValueError(f"class id: expected 1..{NUM_CLASSES - 1}, got {class_number}; 0 is the background")
    rest, color = divmod(class_number - 1, len(COLORS))
    shape, material = divmod(rest, len(MATERIALS))
    return shape, material, color


def class_name(class_number: int) -> str:
    """Name that people read, such as 'brown metal cube'; 'background' for 0."""
    if class_number == 0:
        return "background"
    shape, material, color = factors(class_number)
    return f"{COLORS[color]} {MATERIALS[material]} {SHAPES[shape]}"
