"""Objective and loss of the motion of objects."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vdp.core.anchor import find_anchor
from vdp.core.context_frames import Hops
from vdp.core.ground import Ground, slide
from vdp.core.objects import DIFFUSED, FEATURES, SEEN, X, Y
from vdp.core.rng import whole_batch
from vdp.data.batches.motion import object_latents
from vdp.diffusion.motion import (
    MotionLevelLoss,
    MotionLoss,
    MotionObjective,
    motion_process,
    motion_scale,
)
from vdp.diffusion.process import Process, add_noise, predict_x0_eps, target
from vdp.models.layers import Unmoved

PROCESS = Process(lambda t: (1 - t, t), "flow")
GROUND = Ground(0.15, 0.16, 2.0, (0.03, 0.02, 0.03))
OBJECTIVE = MotionObjective(PROCESS, GROUND, torch.tensor([1.5, 0.7]))
K, T = 4, 3


def hops(clips: int = 2, objects: int = 3, speed: float = 0.05, seed: int = 0) -> Hops:
    """Objects at constant velocity."""
    rng = np.random.default_rng(seed)
    states = np.zeros((clips, objects, K + T, len(FEATURES)), np.float32)
    states[..., SEEN] = 1
    velocity = rng.normal(0, speed, (clips, objects, 1, 2))
    states[..., [X, Y]] = rng.normal(0, 0.3, (clips, objects, 1, 2)) + velocity * np.arange(K + T)[:, None]
    latents = object_latents(states, np.ones((clips, objects), np.uint8))
    index = torch.arange(float(K + T)).expand(clips, -1)
    return Hops(latents[:, :, :K], index[:, :K], latents[:, :, K:], index[:, K:])


class Oracle(Unmoved):
    """A denoiser that knows the answer; `wrong` is added to the output where `where` holds."""

    joint = True

    def __init__(self, hops: Hops, wrong: float = 0.0, where: torch.Tensor | None = None) -> None:
        self.x0 = OBJECTIVE.to_data(hops.target, OBJECTIVE.base(hops.known, hops.index, hops.target_index))
        self.wrong, self.where = wrong, where

    def context(self, known, index, level, dropped, target_index):
        return None

    def __call__(self, xt, t, context):
        draws = xt.shape[2] // self.x0.shape[2]
        x0 = self.x0.repeat_interleave(draws, dim=2)
        output = (xt - x0) / t[:, None, :, None, None]  # flow: eps - x0
        if self.where is not None:
            output = output + self.wrong * self.where.repeat_interleave(draws, dim=2)
        return output


def loss(draws: int = 2) -> MotionLoss:
    return MotionLoss(OBJECTIVE, 1.0, draws, 0.5)


def rng() -> object:
    return whole_batch(torch.Generator().manual_seed(0), 2)


def floor(frames: torch.Tensor) -> torch.Tensor:
    """Places on the floor of frames (B, C, T, 1, N), (B, 2, T, N)."""
    return torch.stack(GROUND.to_floor(frames[:, X, :, 0], frames[:, Y, :, 0]), dim=1)


def test_the_anchor_is_the_last_visible_state():
    h = hops()
    known = h.known.clone()
    known[0, :, 2:, 0, 1] = 0  # hidden from frame 2 on
    known[1, :, 1:, 0, 2] = 0  # visible once
    known[1, :, :, 0, 0] = 0  # never visible
    found = find_anchor(known, h.index, GROUND)
    assert found.index[0].tolist() == [3, 1, 3]
    torch.testing.assert_close(found.frame[0, :, 1], h.known[0, :, 1, 0, 1])
    torch.testing.assert_close(found.place[0, :, 1], floor(h.known)[0, :, 1, 1])
    assert not found.velocity[1, :, 2].any()
    assert found.present[1].tolist() == [False, True, True]


def test_the_anchor_does_not_depend_on_the_order_of_the_context():
    h = hops()
    order = torch.tensor([2, 0, 3, 1])
    one = find_anchor(h.known, h.index, GROUND)
    other = find_anchor(h.known[:, :, order], h.index[:, order], GROUND)
    torch.testing.assert_close(one.frame, other.frame)
    torch.testing.assert_close(one.velocity, other.velocity)


def sliding(seed: int = 0) -> Hops:
    """Objects that slide over the floor, each with the friction of its shape."""
    h = hops(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(2, 2, 3, generator=generator)
    heading = torch.nn.functional.normalize(torch.randn(2, 2, 3, generator=generator), dim=1)
    speed = 0.1 + 0.4 * torch.rand(2, 3, generator=generator)
    times = torch.arange(float(K + T))
    distance = slide(speed[:, None], torch.tensor(GROUND.deceleration[0]), times[:, None])  # class 1: a cube
    across, along = (start[:, :, None] + heading[:, :, None] * distance[:, None]).unbind(1)
    clip = torch.cat([h.known, h.target], dim=2)
    clip[:, X, :, 0], clip[:, Y, :, 0] = GROUND.to_frame(across, along)
    return replace(h, known=clip[:, :, :K], target=clip[:, :, K:])


def test_the_base_is_the_path_of_an_object_that_slides_without_a_collision():
    h = sliding()
    base = OBJECTIVE.base(h.known, h.index, h.target_index)
    torch.testing.assert_close(base[:, [X, Y]], h.target[:, [X, Y]], atol=5e-4, rtol=0)
    assert (h.target[:, [X, Y]] - h.known[:, [X, Y], -1:]).abs().max() > 0.05


def test_a_resting_object_stays():
    h = hops(speed=0.0)
    base = OBJECTIVE.base(h.known, h.index, h.target_index)
    torch.testing.assert_close(base[:, [X, Y]], h.target[:, [X, Y]], atol=1e-6, rtol=0)


def test_data_and_states_are_inverse():
    h = sliding()
    generator = torch.Generator().manual_seed(0)
    h.target[:, [X, Y]] = torch.rand(h.target[:, [X, Y]].shape, generator=generator) - 0.5
    base = OBJECTIVE.base(h.known, h.index, h.target_index)
    x0 = OBJECTIVE.to_data(h.target, base)
    assert x0.shape[1] == DIFFUSED == OBJECTIVE.channels(h.target.shape[1])
    frames = OBJECTIVE.to_frames(x0, base)
    torch.testing.assert_close(frames[:, [X, Y, SEEN]], h.target[:, [X, Y, SEEN]], atol=1e-4, rtol=1e-4)


def test_the_scale_brings_the_changes_to_unit_mean_square():
    h = hops()
    scale = motion_scale(h, PROCESS, GROUND)
    objective = MotionObjective(PROCESS, GROUND, scale)
    x0 = objective.to_data(h.target, objective.base(h.known, h.index, h.target_index))
    torch.testing.assert_close(x0[:, :2].square().mean(dim=(0, 2, 3, 4)), torch.ones(2))
    with pytest.raises(ValueError, match="no object moves"):
        motion_scale(hops(speed=0.0), PROCESS, GROUND)


@pytest.mark.parametrize("schedule", ["flow", "cosine"])
@pytest.mark.parametrize("prediction", ["flow", "v", "x0"])
def test_pure_noise_has_data_to_recover_in_every_process(schedule, prediction):
    process = motion_process(schedule, prediction)
    x0, noise = torch.randn(2, 3, 4, 1, 2), torch.randn(2, 3, 4, 1, 2)
    t = torch.ones(2, 4)
    xt = add_noise(x0, noise, t, process.schedule)
    recovered, _ = predict_x0_eps(xt, target(x0, noise, t, process), t, process)
    torch.testing.assert_close(recovered, x0, atol=1e-4, rtol=1e-4)


def test_an_error_in_x0_weighs_more_at_low_noise():
    h, where = hops(), torch.ones(2, DIFFUSED, T, 1, 3)
    objective = MotionObjective(motion_process("flow", "x0"), GROUND, torch.ones(2))

    class Constant(Oracle):
        def __call__(self, xt, t, context):
            return self.x0.repeat_interleave(xt.shape[2] // T, dim=2) + self.wrong

    denoiser = Constant(h, 1.0, where)
    denoiser.x0 = objective.to_data(h.target, objective.base(h.known, h.index, h.target_index))
    generator = torch.Generator().manual_seed(3)
    place = MotionLoss(objective, 1.0, 1, 0.0)(denoiser, h, whole_batch(generator, 2))["place"]
    t = torch.rand(2, 1, generator=torch.Generator().manual_seed(3))
    assert place.item() == pytest.approx((1 / (t.square() + 0.05)).mean().item(), rel=1e-4)


@pytest.mark.parametrize("kind", [MotionLoss, MotionLevelLoss])
def test_the_right_answer_has_no_loss(kind):
    h = hops()
    losses = kind(OBJECTIVE, 1.0, 2, 0.5)(Oracle(h), h, rng())
    assert losses["loss"].item() == pytest.approx(0, abs=1e-6)
    if kind is MotionLevelLoss:
        assert losses["distance"].item() == pytest.approx(0, abs=1e-4)


def test_errors_count_where_an_object_is_visible_only():
    h = hops()
    target = h.target.clone()
    target[:, SEEN, 1, 0, 0] = 0  # hidden in one target frame
    h = replace(h, target=target)
    where = torch.zeros(2, DIFFUSED, T, 1, 3)
    where[:, :2, 1, 0, 0] = 1
    assert loss()(Oracle(h, 1.0, where), h, rng())["place"].item() == pytest.approx(0, abs=1e-6)
    where[:, 2, 1, 0, 0] = 1  # its visibility counts
    assert loss()(Oracle(h, 1.0, where), h, rng())["seen"].item() == pytest.approx(1 / 9, rel=1e-4)
    where[:, 0, 0, 0, 0] = 1
    visible = 2 * (T * 3 - 1)
    assert loss()(Oracle(h, 1.0, where), h, rng())["place"].item() == pytest.approx(
        2 / (2 * visible), rel=1e-3
    )


def test_the_loss_of_a_batch_is_the_mean_over_its_clips():
    """Also where they show different numbers of objects, so that a batch may be split."""
    h = hops()
    known, target = h.known.clone(), h.target.clone()
    known[0, :, :, :, 2] = 0
    target[0, SEEN, 1:, 0, :2] = 0
    h = replace(h, known=known, target=target)
    where = torch.zeros(2, DIFFUSED, T, 1, 3)
    where[:, :, 0, 0, 0] = 1
    clips = [
        Hops(*(getattr(h, name)[i : i + 1] for name in ("known", "index", "target", "target_index")))
        for i in range(2)
    ]
    parts = [
        loss()(Oracle(clip, 1.0, where[:1]), clip, whole_batch(torch.Generator().manual_seed(0), 1))
        for clip in clips
    ]
    whole = loss()(Oracle(h, 1.0, where), h, rng())
    for name in ("loss", "place", "seen"):
        torch.testing.assert_close(whole[name], (parts[0][name] + parts[1][name]) / 2)
    assert parts[0]["place"] > 2 * parts[1]["place"]


def test_objects_absent_from_the_context_do_not_count():
    h = hops()
    known = h.known.clone()
    known[:, :, :, :, 0] = 0
    h = replace(h, known=known)
    where = torch.zeros(2, DIFFUSED, T, 1, 3)
    where[..., 0] = 1
    losses = loss()(Oracle(h, 1.0, where), h, rng())
    assert losses["loss"].item() == pytest.approx(0, abs=1e-6)


class LastStep(Unmoved):
    """A denoiser whose context is the newest frame: it predicts that nothing changes from the base."""

    joint = True

    def __init__(self) -> None:
        self.contexts: list[torch.Tensor] = []

    def context(self, known, index, level, dropped, target_index):
        self.contexts.append(known)
        return None

    def __call__(self, xt, t, context):
        x0 = torch.zeros_like(xt)
        x0[:, 2] = 1  # visible
        return (xt - x0) / t[:, None, :, None, None].clamp(min=1e-3)


@pytest.mark.parametrize("hop_frames", [1, 2])
def test_an_unrolled_context_ends_with_the_network_s_own_frames(hop_frames):
    """A network that predicts the base moves objects on with their decaying velocity."""
    h = hops()
    known = h.known.clone()
    known[:, [X, Y], 2:] += 5.0  # true frames that a rollout would not see
    unrolled, predicted = replace(h, known=known), set()
    for seed in range(8):
        denoiser = LastStep()
        generator = torch.Generator().manual_seed(seed)
        MotionLoss(OBJECTIVE, 1.0, 1, 0.5, unroll=2, hop_frames=hop_frames)(
            denoiser, unrolled, whole_batch(generator, 2)
        )
        last = denoiser.contexts[-1]
        same = (last == known).flatten(3).all(dim=(0, 1, 3)).tolist()
        assert same[:2] == [True, True]
        predicted.add(same.count(False))
        if same.count(False) == 2:
            base = OBJECTIVE.base(known[:, :, :2], h.index[:, :2], h.index[:, 2:3])
            torch.testing.assert_close(last[:, [X, Y], 2], base[:, [X, Y], 0], atol=1e-4, rtol=1e-4)
    assert predicted == {0, 1, 2}
