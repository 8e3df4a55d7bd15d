"""Broken videos, pictures and folders through the command line: `python -m bench.mutations [FIRST] [LAST]`.

Each seed is a small project whose source has one to three mutations: truncated, overwritten or swapped
content, large numbers in headers, wrong suffixes, odd names and places, links, pipes, closed and empty files,
masks that are too short or of unknown classes. `vdp check` and extract_frames run on it, and in every tenth
case `vdp predict` with a model of random weights: each ends well or with one line and exit code 1, with
nothing half-written, and what the check refuses the run refuses too. Permissions are tested only where this
is not run by root. The mutations are those of tests/data/sources, where the first 50 cases are tests. Prints
a line for each failure; exit code 1 if there is one.
"""

import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from unittest.mock import patch

from tests.data.sources import hostile
from tests.small_models import save_small_models
from vdp.cli import app
from vdp.core.errors import printable

CASES = 500
PREDICTED = 10  # every n-th case is predicted from too


def predict(case: hostile.Case, models: Path) -> int:
    """Predict from one video of a case by the command line, in this process; return the exit code."""
    videos = sorted(path for path in Path("raw").iterdir() if not path.is_symlink())
    words = ["vdp", "predict", str(videos[0] if videos else "raw"), "--frames", "1", "--steps", "5"]
    code = 0
    with (
        hostile.captured_stderr() as lines,
        hostile.limits(),
        patch.object(sys, "argv", [*words, "--models", str(models)]),
    ):
        try:
            app.main()
        except SystemExit as end:
            code = int(end.code or 0)
        except (Exception, hostile.Timeout):
            code = -1
            traceback.print_exc()
    assert code in (0, 1), "\n".join(lines)
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == code and all(line.isprintable() for line in lines), "\n".join(lines)
    written = sorted(path.name for path in Path().glob("*future*"))
    assert written == ([] if code else ["future.mp4", "future_strip.png"]), written
    assert hostile.listing("raw") == case.files, "the user's source has changed"
    return code


def main() -> None:
    """Run the cases of a range of seeds."""
    first, last = [int(word) for word in sys.argv[1:3]] if len(sys.argv) > 2 else (0, CASES)
    started, outcomes, failed = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory() as scratch:
        sources = hostile.build_sources(Path(scratch) / "sources")
        models = save_small_models(Path(scratch) / "models")
        for seed in range(first, last):
            folder = Path(scratch) / f"case{seed}"
            folder.mkdir()
            os.chdir(folder)
            case = hostile.prepare(sources, seed, further=True)
            try:
                before, after = hostile.run_case(case)
                outcomes[f"check {before.code}, extract {after.code}"] += 1
                if seed % PREDICTED == 0:
                    outcomes[f"predict {predict(case, models)}"] += 1
            except AssertionError as error:
                failed += 1
                text = printable(f"seed {seed}: {case.kind}: {case.done}: {error}")
                print(text[:2000], flush=True)
            os.chdir(scratch)
            shutil.rmtree(folder, ignore_errors=True)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    print(f"{last - first} cases in {time.monotonic() - started:.0f} s: {failed} failed; {counts}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
