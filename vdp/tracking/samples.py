"""Pictures of what a network makes of a few samples, for people to watch while it trains; RGB uint8."""

from collections.abc import Mapping, Sequence

from vdp.tracking.strips import LEGEND, Picture, mask_tile, sheet, tile


def sample_sheet(rows: Sequence[Sequence[tuple[str, Picture]]]) -> Picture:
    """One picture of captioned frames and masks, a row for each sample.

    Args:
        rows: captions and pictures, in a row of one size: frames (H, W, 3), or masks (H, W) of class ids.

    Returns:
        (height, width, 3); frames are enlarged by a whole factor, and the legend is told where masks are.

    Raises:
        ValueError: if there is nothing to show, or a picture is neither a frame nor a mask.
    """
    if not rows or not all(rows):
        raise ValueError(
            f"rows: expected a picture in each of one row or more, got {[len(row) for row in rows]}"
        )
    masks = any(picture.ndim == 2 for row in rows for _, picture in row)
    return sheet(
        LEGEND if masks else "", [[_tile(picture, caption) for caption, picture in row] for row in rows]
    )


def sample_columns(columns: Mapping[str, Picture]) -> Picture:
    """`sample_sheet` of frames (B, H, W, 3) and masks (B, H, W) by their caption, a row for each sample."""
    return sample_sheet([list(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])


def _tile(picture: Picture, caption: str) -> Picture:
    if picture.ndim == 2:
        return mask_tile(picture, caption)
    if picture.ndim == 3 and picture.shape[2] == 3:
        return tile(picture, caption)
    raise ValueError(f"{caption}: expected a frame (H, W, 3) or a mask (H, W), got {picture.shape}")
