"""`training.json` of a model folder: its videos, and which of their frames were selected."""

import json
from pathlib import Path

from pydantic import ValidationError

from vdp.config.schema import Params
from vdp.core.errors import UserError

TRAINING = "training.json"


class TrainingRecord(Params):
    """Content of `training.json`."""

    interval: int  # every n-th frame of a video; 1 with fps
    fps: float | None  # frames per second instead
    held_out: str  # how the videos of `val` were chosen, in words
    train: list[str]  # names of videos
    val: list[str]
    skipped: list[dict[str, str]]  # videos that could not be used: video, reason

    def interval_at(self, rate: float) -> int:
        """Return the interval that selects the frames of a clip of `rate` frames per second."""
        return self.interval if self.fps is None else max(1, round(rate / self.fps))


def write_record(folder: Path, record: TrainingRecord) -> None:
    """Write the file."""
    (folder / TRAINING).write_text(json.dumps(record.model_dump(), indent=1) + "\n")


def read_record(folder: Path) -> TrainingRecord | None:
    """Read the file; None for models of the pipeline, which have none."""
    path = folder / TRAINING
    if not path.is_file():
        return None
    try:
        return TrainingRecord.model_validate_json(path.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {where}: {first['msg']}; train the model again with this version") from None
