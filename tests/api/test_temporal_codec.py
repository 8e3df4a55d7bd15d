"""Codecs that compress time, through `LatentDiffusion` and `Model`: every frame comes out at its own time.

A lossless codec and a perfect denoiser give the true frames, each of its own gray level.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

import vdp
from tests.oracle import Oracle, output_of
from tests.processes import objective_of
from tests.small_models import HEIGHT, WIDTH, predict_params, save_small_models
from vdp.api.loading import LatentDiffusion, load_latent_diffusion
from vdp.api.model import Model
from vdp.core import device
from vdp.core.errors import UserError
from vdp.core.latent_time import LatentTime
from vdp.core.tasks import TASKS, Task
from vdp.data.stores.latents import Normalisation
from vdp.diffusion.objective import Objective
from vdp.models.layers import Unmoved

FAST = vdp.Sampling(steps=2)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in fp32 also on a CPU with bf16 support."""
    monkeypatch.setattr(device, "BF16_FLAGS", set())


class Stacking(nn.Module):
    """Lossless codec: the channels of a latent frame are the frames of its group."""

    factor, has_masks = 1, False

    def __init__(self, temporal_factor: int) -> None:
        super().__init__()
        self.temporal_factor, self.channels = temporal_factor, 3 * temporal_factor

    def encode(self, clip: Tensor) -> Tensor:
        missing = -(clip.shape[2] - 1) % self.temporal_factor
        first, last = clip[:, :, :1], clip[:, :, -1:]
        whole = torch.cat([first] * (self.temporal_factor - 1) + [clip] + [last] * missing, dim=2)
        return rearrange(whole, "b c (n f) h w -> b (f c) n h w", f=self.temporal_factor)

    def decode(self, latents: Tensor) -> Tensor:
        frames = rearrange(latents, "b (f c) n h w -> b c (n f) h w", f=self.temporal_factor)
        return frames[:, :, self.temporal_factor - 1 :]


class Copies(Unmoved):
    """Predicts no change from the base."""

    joint = False

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def context(self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target: Tensor) -> None:
        return None

    def __call__(self, xt: Tensor, t: Tensor, context: None) -> Tensor:
        return output_of(torch.zeros_like(xt), xt, t, self.objective)


def gray_clip(count: int, start: int = 0) -> np.ndarray:
    """Frame n is of level 5 (n + start)."""
    levels = 5 * (start + np.arange(count, dtype=np.uint8))
    return np.broadcast_to(levels[:, None, None, None], (count, 8, 12, 3)).copy()


def truth_of(codec: Stacking, clip: np.ndarray, first: int) -> Callable[[Tensor], Tensor]:
    """True latents of a clip, of which latent frame `first` has index 0."""
    pixels = torch.from_numpy(clip).float().permute(3, 0, 1, 2)[None] / 127.5 - 1
    latents = codec.encode(pixels)
    return lambda index: latents[0, :, (index + first).long()].transpose(0, 1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return load_latent_diffusion(save_small_models(tmp_path_factory.mktemp("m"), segmenter=False), CPU)


def diffusion_of(
    small: LatentDiffusion,
    codec: Stacking,
    known: int,
    network: Callable[[Objective], Oracle | Copies],
    task: Task = "predict",
    **config: object,
) -> LatentDiffusion:
    """A model of 8x12 pixels; `task` selects the base of the network's objective."""
    objectives = {
        task: replace(objective_of("flow", "flow", torch.ones(codec.channels), True), task=task)
        for task in TASKS
    }
    changes = {"known": known, "height": 8, "width": 12, "channels": codec.channels, **config}
    return replace(
        small,
        codec=codec,
        network=network(objectives[task]),
        config=small.config.model_copy(update=changes),
        normalisation=Normalisation((0.0,) * codec.channels, (1.0,) * codec.channels),
        objectives=objectives,
    )


def oracle_model(
    small: LatentDiffusion,
    factor: int,
    clip: np.ndarray,
    known: int,
    first: int,
    task: Task = "predict",
    **config: object,
) -> LatentDiffusion:
    """A model that knows the latents of a clip with `known` context frames; `first` has index 0."""
    codec = Stacking(factor)
    truth = truth_of(codec, LatentTime(factor, known).pad(clip), first)
    return diffusion_of(small, codec, known, lambda objective: Oracle(truth, objective), task, **config)


def assert_equal_frames(frames: np.ndarray, expected: np.ndarray) -> None:
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).max() <= 1, (frames[..., 0, 0, 0], expected[..., 0, 0, 0])


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize(
    ("known", "hops"),
    [
        (11, [13, 15, 17, 19, 21, 22]),
        (11, [12, 14, 16, 18, 20, 22]),  # other frames of the same groups
        (5, [[6, 7, 8, 9, 10, 11, 12]]),
        (1, [2, 4, 6]),
        (12, [14, [15, 16], 18, 20]),
    ],
)
def test_the_pipeline_predicts_each_named_frame_at_its_own_time(small, factor, known, hops):
    true = gray_clip(22)
    model = oracle_model(small, factor, true, known, first=0)
    params = predict_params(hops)
    frames, latents = model.sample_clips(["a"], [true[:known]], params, seed=0)
    expected = true[[number - 1 for number in params.frames]]
    assert_equal_frames(frames, np.broadcast_to(expected, (1, 2, *expected.shape)))
    last = model.codec.encode(torch.from_numpy(expected[-1:]).float().permute(3, 0, 1, 2)[None] / 127.5 - 1)
    assert np.abs(latents - last[0, :, 0].numpy()).max() < 0.02


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize(("known", "frames"), [(11, 11), (5, 6), (1, 1), (3, 7)])
def test_the_api_predicts_every_frame_at_its_own_time(small, tmp_path, factor, known, frames):
    true = gray_clip(known + frames)
    first = LatentTime(factor, known).count(known) - 1
    model = Model(oracle_model(small, factor, true, known, first), tmp_path)
    predicted = model.predict(true[:known], frames, samples=2, sampling=FAST)
    assert_equal_frames(predicted, np.broadcast_to(true[known:], predicted.shape))


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize(
    ("before", "frames", "after"), [(7, 5, 6), (4, 4, 1), (1, 1, 3), (5, 8, 9), (6, 3, 1)]
)
def test_the_frames_between_two_clips_are_at_their_own_times(small, tmp_path, factor, before, frames, after):
    """A hop spans the gap; the first frames after it may complete its last group."""
    true = gray_clip(before + frames + after)
    first = LatentTime(factor, before).count(before) - 1
    model = Model(oracle_model(small, factor, true, before, first, "interpolate", max_span=12), tmp_path)
    between = model.interpolate(true[:before], true[before + frames :], frames, sampling=FAST)
    expected = true[before : before + frames]
    assert_equal_frames(between, expected[None])


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("frames", [1, 5, 6, 11])
def test_generated_clips_start_after_the_padding_of_the_training_clips(small, tmp_path, factor, frames):
    true = gray_clip(frames, start=3)
    model = Model(oracle_model(small, factor, true, known=11, first=0), tmp_path)
    assert_equal_frames(model.generate(1, frames, FAST), true[None])


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("frames", [1, 5, 6, 11])
def test_interpolated_clips_are_at_their_own_times(small, tmp_path, factor, frames):
    """A perfect denoiser, and without noise the mean of the two clips."""
    true = gray_clip(frames, start=3)
    model = Model(oracle_model(small, factor, true, known=11, first=0), tmp_path)
    assert_equal_frames(model.interpolate_clips(true, 255 - true, sampling=FAST), true[None])
    blended = model.interpolate_clips(true, true + 20, [0.0, 0.5, 1.0], 0.0, FAST)
    assert_equal_frames(blended, np.stack([true, true + 10, true + 20]))


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("frames", [1, 2, 9, 23])
def test_restored_frames_and_round_trips_are_at_their_own_times(small, tmp_path, monkeypatch, factor, frames):
    monkeypatch.setattr("vdp.api.loading.BATCH_FRAMES", 6)  # a clip in several parts
    model = Model(diffusion_of(small, Stacking(factor), 11, Copies), tmp_path)
    clip = gray_clip(frames)
    assert_equal_frames(model.restore(clip, FAST), clip)
    assert_equal_frames(model.round_trip(clip), clip)


# --- With networks ---------------------------------------------------------------------------------------


def noise_clip(count: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("joint", "base"), [(False, "moved"), (True, "nearest")])
def test_every_task_takes_clips_of_any_length(tmp_path, joint, base):
    save_small_models(tmp_path, targets=2 if joint else 1, temporal=joint, base=base, temporal_factor=4)
    model = vdp.load(tmp_path, "cpu")
    assert model.info()["temporal_factor"] == 4
    for count in (1, 6):
        clip = noise_clip(count, 17, 90)
        assert model.predict(clip, 6, 2, FAST).shape == (2, 6, 17, 90, 3)
        assert model.interpolate(clip, clip[:1], 10, sampling=FAST).shape == (1, 10, 17, 90, 3)
        assert model.restore(clip, FAST).shape == model.round_trip(clip).shape == clip.shape
        assert model.segment(clip).shape == clip.shape[:3]
    assert model.generate(1, 7, FAST).shape == (1, 7, HEIGHT, WIDTH, 3)
    assert model.interpolate_clips(clip, clip[::-1], [0.3, 0.6], 0.5, FAST).shape == (2, 6, 17, 90, 3)
    if joint:
        with pytest.raises(UserError, match="latent=True: expected a network of one target per hop, as"):
            model.interpolate(clip, clip, 2, latent=True, sampling=FAST)
    else:
        assert model.interpolate(clip, clip, 3, 2, latent=True, sampling=FAST).shape == (2, 3, 17, 90, 3)


def test_a_long_clip_is_coded_in_parts_as_a_whole(tmp_path, monkeypatch):
    save_small_models(tmp_path, temporal_factor=4, segmenter=False)
    model, clip = load_latent_diffusion(tmp_path, CPU), noise_clip(70, 16, 16)
    with torch.no_grad():
        whole = model.encode(clip)
        frames = Model(model, tmp_path).round_trip(clip)
        monkeypatch.setattr("vdp.api.loading.BATCH_FRAMES", 1)
        torch.testing.assert_close(model.encode(clip), whole, atol=1e-4, rtol=0)
        assert np.abs(Model(model, tmp_path).round_trip(clip).astype(int) - frames).max() <= 1


def test_predicted_frames_depend_on_all_frames_of_the_context(tmp_path):
    """The newest frame, the padded first one, and those within a group."""
    save_small_models(tmp_path, temporal_factor=4, segmenter=False)
    model, clip = vdp.load(tmp_path, "cpu"), noise_clip(11)
    predicted = model.predict(clip, 2, sampling=FAST)
    for index in (0, 1, 4, 10):
        changed = clip.copy()
        changed[index] = 255 - changed[index]
        assert not np.array_equal(model.predict(changed, 2, sampling=FAST), predicted)
