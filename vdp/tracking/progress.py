"""Progress bars over batches of rows."""

import sys
from collections.abc import Iterator, Sequence

from tqdm import tqdm


def progress(rows: Sequence[int], at_once: int, label: str) -> Iterator[list[int]]:
    """Some rows at a time, with a bar that counts rows and tells the time left."""
    with tqdm(total=len(rows), desc=label, unit="clip", file=sys.stderr, mininterval=2) as bar:
        for start in range(0, len(rows), at_once):
            batch = list(rows[start : start + at_once])
            yield batch
            bar.update(len(batch))
