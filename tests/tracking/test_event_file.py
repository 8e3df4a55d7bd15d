"""Event files of TensorBoard, read back by the formats of records and of protocol buffers."""

import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from vdp.tracking.event_file import EventFile, crc32c
from vdp.tracking.mlflow_run import Tracker

Fields = dict[int, list[int | float | bytes]]  # values of a message by the number of their field


def unmasked(checksum: int) -> int:
    rotated = (checksum - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def records(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    while data:
        length, of_length = struct.unpack("<QI", data[:12])
        content, of_content = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])[0]
        assert unmasked(of_length) == crc32c(data[:8]) and unmasked(of_content) == crc32c(content)
        yield content
        data = data[16 + length :]


def varint(data: bytes) -> tuple[int, bytes]:
    value = shift = 0
    for at, byte in enumerate(data):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, data[at + 1 :]
    raise AssertionError("cut")


def message(data: bytes) -> Fields:
    found: Fields = {}
    while data:
        head, data = varint(data)
        kind = head & 7
        if kind == 0:
            value, data = varint(data)
        elif kind == 2:
            size, data = varint(data)
            value, data = data[:size], data[size:]
        else:
            size = {1: 8, 5: 4}[kind]
            value, data = struct.unpack("<d" if kind == 1 else "<f", data[:size])[0], data[size:]
        found.setdefault(head >> 3, []).append(value)
    return found


def values(path: Path) -> list[tuple[int, Fields]]:
    """Step and value of each event after the first."""
    first, *events = map(message, records(path))
    assert first[3] == [b"brain.Event:2"]
    return [(event[2][0], message(message(event[5][0])[1][0])) for event in events]


def test_the_checksum_is_that_of_the_published_examples():
    """RFC 3720, appendix B.4, and the check value of the algorithm."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_scalars_and_pictures_are_read_back(tmp_path):
    file = EventFile(tmp_path / "stage")
    file.scalars({"loss": 0.25, "val_loss": -3.5}, 0)
    file.flush()
    picture = np.random.default_rng(0).integers(0, 256, (5, 300, 3), dtype=np.uint8)
    file.picture("samples", picture, 70_000)
    file.flush()
    loss, val_loss, (step, shown) = values(file.path)
    assert loss == (0, {1: [b"loss"], 2: [0.25]}) and val_loss == (0, {1: [b"val_loss"], 2: [-3.5]})
    image = message(shown[4][0])
    assert (step, shown[1], image[1], image[2], image[3]) == (70_000, [b"samples"], [5], [300], [3])
    decoded = cv2.imdecode(np.frombuffer(image[4][0], np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded[..., ::-1], picture)


def test_a_later_run_of_a_stage_replaces_its_file(tmp_path):
    EventFile(tmp_path).scalars({"loss": 1.0}, 1)
    again = EventFile(tmp_path)
    assert list(tmp_path.iterdir()) == [again.path] and values(again.path) == []


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
        assert [(step, found[1]) for step, found in values(files[0])] == [(3, [b"loss"]), (3, [b"samples"])]


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
