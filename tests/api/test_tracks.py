"""The tracker of a models folder."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.small_models import CLASSIFIER, HEIGHT, WIDTH, save_small_models
from vdp.api.tracks import has_classifier, load_tracker
from vdp.config.messages import validate
from vdp.config.yaml_file import read_file
from vdp.models.segmenters.params import SegmentParams, TrackParams

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
REPO = Path(__file__).parents[2]


@pytest.fixture
def params() -> tuple[SegmentParams, TrackParams]:
    data = read_file(REPO / "params.yaml")
    return (
        validate(SegmentParams, data["segment"], "segment"),
        validate(TrackParams, data["track_objects"] | {"min_pixels": 20}, "track_objects"),
    )


def test_crops_have_the_size_of_the_classifier_and_its_share_of_the_frame(tmp_path, params):
    tracker = load_tracker(save_small_models(tmp_path), *params, CPU)
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    side = round(CLASSIFIER["crop_scale"] * HEIGHT)
    frame[10 : 10 + side, 20 : 20 + side] = 200
    crop = tracker.cropper(frame, 10 + (side - 1) / 2, 20 + (side - 1) / 2)
    assert crop.shape == (CLASSIFIER["crop"], CLASSIFIER["crop"], 3)
    assert (crop == 200).all()
    assert not tracker.classifier.training and not tracker.masks.segmenter.training
    assert (tracker.masks.params, tracker.params) == params


def test_a_classifier_is_present_where_its_weights_are(tmp_path, params):
    assert not has_classifier(tmp_path)
    (tmp_path / "classifier").mkdir()  # as the stage leaves it without masks
    assert not has_classifier(tmp_path)
    assert has_classifier(save_small_models(tmp_path))
    with pytest.raises(FileNotFoundError):
        load_tracker(tmp_path / "none", *params, CPU)
