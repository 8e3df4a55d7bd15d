"""bench.segmenter on a small store and small random models: each decision has the evidence of its column."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from bench import segmenter as bench
from tests.small_models import HEIGHT, LEVELS, WIDTH, RedSegmenter, save_small_models
from vdp.api import tracks
from vdp.config.yaml_file import read_file
from vdp.data.stores.clips import Clip, write_clips

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
FRAMES, KNOWN, LABEL, OTHER = 6, 4, 5, 21


def clip(name: str, labelled: bool = True, confused: int = 1) -> Clip:
    """A square that looks like another class in one known frame, and in the upper third of the last frame."""
    masks = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    masks[:, 6:18, 6:18] = LABEL
    shown = masks.copy()
    shown[confused][masks[confused] > 0] = OTHER
    shown[-1, 6:9, 6:18] = OTHER
    return Clip(name, np.repeat(LEVELS * shown[..., None], 3, axis=3), masks if labelled else None)


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("bench")
    data = read_file(REPO / "params.yaml")
    data["clip"] = {"frames": FRAMES, "known": KNOWN, "height": HEIGHT, "width": WIDTH}
    data["segment"] |= {"codec_vote": 0.6, "flip_tta": False}
    (folder / "params.yaml").write_text(yaml.safe_dump(data))
    save_small_models(folder / "data/models")
    write_clips(folder / "data/clips/val", [clip("a"), clip("b"), clip("c", labelled=False)], shard_mb=1)
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(tracks, "load_segmenter", lambda folder: RedSegmenter())
        monkeypatch.setattr("builtins.print", lambda text="": lines.append(str(text)))
        bench.main(["--clips", "5"])
    return "\n".join(lines)


def scores(output: str, name: str) -> list[float]:
    [row] = re.findall(rf"^\| {re.escape(name)} \| (0.*|1.*) \|$", output, re.MULTILINE)
    return [float(cell) for cell in row.split(" | ")]


def test_only_labelled_clips_are_segmented(output):
    assert output.startswith("2 clips of data/clips/val; 4 known frames, last frame 6")


def test_evidence_of_parts_and_tracks_is_pooled(output):
    """The classes are the background, the object's and the one that it is mistaken for."""
    pixels, parts, frames, clip = scores(output, "UNet++")
    assert pixels == pytest.approx((1 + 3 / 4 + 0) / 3, abs=1e-4)
    assert frames == pytest.approx((1 + 3 / 4 + 0) / 3, abs=1e-4)
    assert (parts, clip) == (1, 1)


def test_the_codec_and_the_classifier_add_their_evidence(output):
    alone = scores(output, "UNet++")
    codec, classifier = scores(output, "UNet++ and codec"), scores(output, "UNet++ and classifier")
    assert codec[0] != alone[0] and classifier[0] == alone[0], "the classifier decides tracks alone"
    assert scores(output, "all, as track_objects")[0] == codec[0]


def test_arithmetic_of_a_frame_and_a_crop_is_counted(output):
    counted = dict(re.findall(r"^\| ([^|]+), a (?:frame|crop) \| ([\d.]+) \|$", output, re.MULTILINE))
    assert set(counted) == {"UNet++", "codec's encoder", "classifier"}
    assert float(counted["codec's encoder"]) > float(counted["classifier"]) > 0
