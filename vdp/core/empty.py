"""Outputs of stages that had nothing to do: a folder with one file that gives the reason."""

import json
from pathlib import Path

from vdp.core.files import replacing

EMPTY = "empty.json"
NO_MASKS = "no training clip has masks"  # reason of the stages of objects and masks
NO_TARGETS = "nothing is predicted, as train_denoiser.tasks.predict is 0"  # of those of motion and prediction


def write_empty(folder: Path, reason: str) -> None:
    """Replace a folder by one without contents that gives the reason; DVC and git keep no empty folder."""
    with replacing(folder) as part:
        (part / EMPTY).write_text(json.dumps({"empty": reason}) + "\n")
    print(f"{folder}: left empty: {reason}")


def empty_reason(folder: Path) -> str | None:
    """Why a folder has no contents; None if `write_empty` has not written it."""
    path = folder / EMPTY
    return str(json.loads(path.read_text())["empty"]) if path.is_file() else None
