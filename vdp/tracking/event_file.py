"""Event files of TensorBoard: curves and pictures of one run."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

VERSION = "brain.Event:2"  # of the first record of a file
RGB = 3  # colour space of a picture


class EventFile:
    """An event file of one run; replaces those in its folder. Points are written at `flush`.

    The records of tensorboardX without its writer, whose thread reports no error.

    Raises:
        OSError: from every method, if the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.path = folder / f"events.out.tfevents.{int(time.time())}.vdp"
        self._records = RecordWriter(str(self.path))
        self._add(Event(file_version=VERSION))
        self.flush()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each named curve."""
        for name, value in values.items():
            self._add_value(Summary.Value(tag=name, simple_value=value), step)

    def picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Add a picture (H, W, 3), RGB."""
        import cv2

        png = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
        height, width = picture.shape[:2]
        image = Summary.Image(height=height, width=width, colorspace=RGB, encoded_image_string=png)
        self._add_value(Summary.Value(tag=name, image=image), step)

    def flush(self) -> None:
        """Write what was added to the disk."""
        self._records.flush()

    def _add_value(self, value: Summary.Value, step: int) -> None:
        self._add(Event(step=step, summary=Summary(value=[value])))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
