"""Progress bars over batches of rows."""

import sys
from collections.abc import Iterator, Sequence

from tqdm import tqdm


def progress(rows: Sequence[int], batch_size: int, label: str) -> Iterator[list[int]]:
    """Yield batches of rows under a progress bar with the remaining time."""
    with tqdm(total=len(rows), desc=label, unit="clip", file=sys.stderr, mininterval=2) as bar:
        for start in range(0, len(rows), batch_size):
            batch = list(rows[start : start + batch_size])
            yield batch
            bar.update(len(batch))
