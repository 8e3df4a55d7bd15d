"""Hops of a rollout as params.yaml lists them, and where their sampling may start."""

FIRST_TIME = 0.8  # least time at which sampling may start from pure noise


def frame_groups(hops: list[int | list[int]]) -> list[list[int]]:
    """Hops of params.yaml, each as the list of its frame numbers."""
    return [hop if isinstance(hop, list) else [hop] for hop in hops]


def hop_gaps(hops: list[int | list[int]], known: int) -> set[int]:
    """Distances from the last frame before each hop to the hop's own, where the first `known` are given."""
    groups = frame_groups(hops)
    starts = [known, *(group[-1] for group in groups)]
    return {frame - start for start, group in zip(starts, groups, strict=False) for frame in group}
