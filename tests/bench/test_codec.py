from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, interpolate

from bench.codec import codec_score, first_middle_last
from tests.small_models import LEVELS, RedSegmenter
from vdp.data.stores.clips import Clip, ClipStore, write_clips
from vdp.models.codecs.pixel import PixelCodec
from vdp.models.codecs.vae import VAE


class Averaging(VAE):
    """Averages 2x2 pixels and reads masks from the red channel."""

    def __init__(self, red_offset: int = 0) -> None:
        nn.Module.__init__(self)
        self.has_masks, self.channels, self.factor, self.temporal_factor = True, 3, 2, 1
        self.offset = red_offset * 2 * LEVELS / 255

    def encode(self, clip: Tensor) -> Tensor:
        return avg_pool3d(clip, (1, 2, 2))

    def decode(self, latents: Tensor) -> Tensor:
        return interpolate(latents, scale_factor=(1.0, 2.0, 2.0))

    def mask_logits(self, latents: Tensor) -> Tensor:
        frames = self.decode(latents)[0].transpose(0, 1).clone()
        frames[:, 0] += self.offset * (frames[:, 0] > -1)
        return RedSegmenter()(frames).transpose(0, 1)[None]


def clip_of_classes(ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """One frame of 4x4 pixels per class: its upper half is an object of that class."""
    masks = np.zeros((len(ids), 4, 4), np.uint8)
    for mask, number in zip(masks, ids, strict=True):
        mask[:2] = number
    frames = np.zeros((*masks.shape, 3), np.uint8)
    frames[..., 0] = LEVELS * masks
    return frames, masks


def test_a_lossless_codec_has_the_highest_psnr_and_true_masks():
    score = codec_score(Averaging(), [clip_of_classes([3, 7])])
    assert (score.psnr, score.psnr_objects) == (100, 100)
    assert (score.jaccard, score.foreground) == (1, 1)


def test_errors_of_the_background_are_not_those_of_objects():
    """In the background, one pixel in four of value 200 becomes 50 in four."""
    frames, masks = clip_of_classes([3])
    frames[0, 2, 0, 1] = 200
    score = codec_score(Averaging(), [(frames, masks)])
    expected = (150**2 + 3 * 50**2) / frames.size
    assert score.psnr == pytest.approx(10 * np.log10(255**2 / expected)) and score.psnr_objects == 100


def test_wrong_classes_cost_jaccard_but_not_the_foreground():
    """Every object is read as the next class: intersections are empty but for the background."""
    score = codec_score(Averaging(red_offset=1), [clip_of_classes([3]), clip_of_classes([3])])
    assert score.jaccard == pytest.approx(1 / 3) and score.foreground == 1


def test_the_pixel_codec_has_no_masks_and_no_arithmetic():
    score = codec_score(PixelCodec(), [clip_of_classes([3])])
    assert np.isnan(score.jaccard) and (score.psnr, score.encode_gflop, score.decode_gflop) == (100, 0, 0)


def test_no_clips_are_an_error():
    with pytest.raises(ValueError, match="at least one"):
        codec_score(PixelCodec(), [])


def test_the_first_middle_and_last_frames_of_labelled_clips_are_scored(tmp_path: Path):
    frames = np.arange(22, dtype=np.uint8)[:, None, None, None] * np.ones((22, 4, 4, 3), np.uint8)
    masks = frames[..., 0]
    clips = [Clip("a", frames, masks), Clip("b", frames, masks), Clip("c", frames, None)]
    store: ClipStore = write_clips(tmp_path / "val", clips, shard_mb=1)
    taken = list(first_middle_last(store, 9))
    assert len(taken) == 2 and len(list(first_middle_last(store, 1))) == 1
    assert taken[0][0][:, 0, 0, 0].tolist() == taken[0][1][:, 0, 0].tolist() == [0, 10, 21]
    assert torch.from_numpy(taken[0][0]).shape == (3, 4, 4, 3)
