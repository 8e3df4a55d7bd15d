"""Event files of TensorBoard, read back by the format of their records."""

import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from vdp.tracking.event_file import EventFile
from vdp.tracking.mlflow_run import Tracker


def events(path: Path) -> list[Event]:
    """The events of a file after the first, which gives the version."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(
            Event.FromString(data[12 : 12 + length])
        )  # each followed by a checksum, as the length is
        data = data[16 + length :]
    assert found[0].file_version == "brain.Event:2"
    return found[1:]


def test_scalars_and_pictures_are_read_back(tmp_path):
    file = EventFile(tmp_path / "stage")
    file.scalars({"loss": 0.25, "val_loss": -3.5}, 0)
    file.flush()
    picture = np.random.default_rng(0).integers(0, 256, (5, 300, 3), dtype=np.uint8)
    file.picture("samples", picture, 70_000)
    file.flush()
    *curves, shown = events(file.path)
    points = [
        (point.step, value.tag, value.simple_value) for point in curves for value in point.summary.value
    ]
    assert points == [(0, "loss", 0.25), (0, "val_loss", -3.5)]
    (value,) = shown.summary.value
    assert (shown.step, value.tag, value.image.height, value.image.width) == (70_000, "samples", 5, 300)
    decoded = cv2.imdecode(np.frombuffer(value.image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded[..., ::-1], picture)


def test_a_later_run_of_a_stage_replaces_its_file(tmp_path):
    EventFile(tmp_path).scalars({"loss": 1.0}, 1)
    again = EventFile(tmp_path)
    assert list(tmp_path.iterdir()) == [again.path] and events(again.path) == []


@pytest.mark.slow
@pytest.mark.parametrize("on", [True, False])
def test_a_stage_writes_event_files_where_params_ask_for_them(tmp_path, monkeypatch, on):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(Tracker, "_connect", lambda tracker: None)  # no MLflow
    Path("params.yaml").write_text(f"tracking: {{tensorboard: {str(on).lower()}}}\n")
    tracker = Tracker("train_denoiser")
    tracker.log({"loss": 0.5}, step=3)
    tracker.picture("samples", np.zeros((4, 4, 3), np.uint8), step=3)
    tracker.flush()
    files = list(tmp_path.glob("tensorboard/*/train_denoiser/events.out.tfevents.*"))
    assert len(files) == on
    if on:
        shown = [(event.step, value.tag) for event in events(files[0]) for value in event.summary.value]
        assert shown == [(3, "loss"), (3, "samples")]


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_gives_one_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(Tracker, "_connect", lambda tracker: None)
    Path("params.yaml").write_text("tracking: {tensorboard: true}\n")
    Path("tensorboard").write_text("a file")
    tracker = Tracker("score")
    tracker.log({"loss": 0.5}, step=3)
    tracker.flush()
    assert capsys.readouterr().err.count("warning: score: continuing without TensorBoard: ") == 1


def test_a_missing_package_gives_one_warning_that_names_the_installation(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(Tracker, "_connect", lambda tracker: None)
    monkeypatch.delitem(sys.modules, "vdp.tracking.event_file", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboardX.proto.event_pb2", None)
    Path("params.yaml").write_text("tracking: {tensorboard: true}\n")
    tracker = Tracker("score")
    tracker.log({"loss": 0.5}, step=3)
    tracker.flush()
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: score: continuing without TensorBoard: ")
    assert "tensorboardX" in warning and warning.endswith("pip install -r requirements.txt")
