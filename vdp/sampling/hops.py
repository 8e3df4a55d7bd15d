"""Which frames are made in which hop: all that are wanted, in groups that a network was trained for."""

from collections.abc import Sequence

Plan = tuple[tuple[float, ...], ...]  # times of the frames of each hop, in the order of prediction


def future_hops(last: float, frames: int, gaps: Sequence[int], targets: int | None) -> Plan:
    """Hops to the frames that follow a known one, none left out.

    As many frames as the trained distances reach are made at once from the same known ones, so that the
    frames that follow are as few hops away as they can be.

    Args:
        last: time of the last known frame.
        frames: how many are wanted, 1 or more.
        gaps: distances from the last known frame to a target that were trained.
        targets: frames of a hop where these see each other; None where each is made as if it were alone.

    Returns:
        Hops to at least so many frames: with `targets`, whole ones.

    Raises:
        ValueError: if the gaps leave frames out.
    """
    reach = 0
    while reach + 1 in gaps:
        reach += 1
    size = reach if targets is None else targets
    if not 1 <= size <= reach:
        raise ValueError(
            f"train_denoiser.target_offsets={sorted(gaps)}: expected all distances from 1 to {max(size, 1)} among "
            "them, so that no frame is left out; train with them"
        )
    starts = range(0, frames, size)
    wanted = [size if targets is not None else min(size, frames - start) for start in starts]
    return tuple(
        tuple(last + start + step + 1.0 for step in range(count))
        for start, count in zip(starts, wanted, strict=True)
    )


def groups(count: int, size: int | None) -> list[range]:
    """Places 0..count-1 in groups of one size; the last two overlap where it does not divide the count.

    Args:
        count: of places, at least `size`.
        size: of a group; None for one group of all.

    Raises:
        ValueError: if there are fewer places than a group has.
    """
    if size is None:
        return [range(count)]
    if count < size:
        raise ValueError(
            f"frames: this network makes {size} frames at once (train_denoiser.targets), got {count}; ask "
            f"for {size} or more"
        )
    starts = [*range(0, count - size, size), count - size]
    return [range(start, start + size) for start in starts]
