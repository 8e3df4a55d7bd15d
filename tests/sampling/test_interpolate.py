"""Interpolation, generation and restoration by denoisers with a known answer."""

import pytest
import torch
from torch import Tensor

from tests.oracle import Oracle, moving_clips, output_of
from tests.processes import objective_of
from vdp.diffusion.objective import Objective
from vdp.diffusion.process import target
from vdp.models.layers import Unmoved
from vdp.sampling.generate import generate
from vdp.sampling.hops import group_frames, plan_frames, plan_hops
from vdp.sampling.interpolate import interpolate, morph_latents
from vdp.sampling.restore import restore
from vdp.sampling.rollout import NoiseSource, Strategy
from vdp.sampling.samplers import make_sampler, time_grid

BATCH, CHANNELS, HEIGHT, WIDTH = 2, 3, 3, 4
FLOW = objective_of("flow", "flow", torch.tensor([0.5, 2.0, 1.0]), True)
UNSCALED = objective_of("flow", "flow", torch.ones(CHANNELS), True)
TRUTH = moving_clips(BATCH, CHANNELS, HEIGHT, WIDTH)
MAX_SPAN = 5


def make_strategy(steps: int = 2, temperature: float = 1.0) -> Strategy:
    times = time_grid(steps, "trailing", 1000)
    return Strategy((), make_sampler("ddim", 0.0), times, temperature, 1.0, 0.0, context_frames=4)


def make_noise_source(batch: int = BATCH) -> NoiseSource:
    generator = torch.Generator().manual_seed(0)
    return lambda frames: torch.randn((batch, CHANNELS, frames, HEIGHT, WIDTH), generator=generator)


def frames_at(*index: float) -> Tensor:
    return TRUTH(torch.tensor(index).expand(BATCH, -1))


class LinearInterpolation(Unmoved):
    """A denoiser that interpolates linearly between the two nearest context frames, by their indices."""

    joint = False

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.spans: list[float] = []
        self.indices: list[list[float]] = []

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> Tensor:
        times = index[0].tolist()
        self.indices.append(sorted(times))
        predicted = []
        for time in target_index[0].tolist():
            left, right = max(t for t in times if t < time), min(t for t in times if t > time)
            self.spans.append(right - left)
            share = (time - left) / (right - left)
            before, after = (frames[:, :, times.index(t)] for t in (left, right))
            predicted.append((1 - share) * before + share * after)
        base = self.objective.base(frames, index, target_index)
        return self.objective.to_data(torch.stack(predicted, dim=2), base)

    def __call__(self, xt: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        return output_of(x0, xt, t, self.objective)


@pytest.mark.parametrize("frames", [1, 2, MAX_SPAN - 1])
@pytest.mark.parametrize("targets", [None, 1, 2])
def test_a_perfect_denoiser_predicts_the_truth_in_a_trained_span(frames, targets):
    oracle = Oracle(TRUTH, FLOW)
    before, after = frames_at(-2, -1, 0), frames_at(frames + 1, frames + 2, frames + 3)
    predicted = interpolate(
        oracle, before, after, frames, MAX_SPAN, targets, FLOW, make_strategy(), make_noise_source()
    )
    torch.testing.assert_close(predicted, frames_at(*range(1, frames + 1)), atol=1e-3, rtol=0)
    assert sorted(oracle.indices[0]) == [-1, 0, frames + 1, frames + 2]  # as many on both sides


@pytest.mark.parametrize("span", [2 * MAX_SPAN, 3 * MAX_SPAN, MAX_SPAN**2, 10 * MAX_SPAN])
@pytest.mark.parametrize("known", [1, 30])
def test_a_longer_span_is_subdivided_into_trained_ones(span, known):
    network = LinearInterpolation(FLOW)
    position = torch.arange(1.0 - known, span + known)[None, None, :, None, None]
    clip = position * torch.linspace(-1, 1, CHANNELS)[:, None, None, None]
    clip = clip.expand(BATCH, CHANNELS, -1, HEIGHT, WIDTH)
    before, inside, after = clip.split([known, span - 1, known], dim=2)
    predicted = interpolate(
        network, before, after, span - 1, MAX_SPAN, None, FLOW, make_strategy(), make_noise_source()
    )
    torch.testing.assert_close(predicted, inside, atol=1e-3 * span, rtol=1e-3)
    assert max(network.spans) <= MAX_SPAN
    steps = {round(b - a, 3) for times in network.indices for a, b in zip(times, times[1:], strict=False)}
    assert max(steps) <= MAX_SPAN and min(steps) >= 1


@pytest.mark.parametrize("frames", [MAX_SPAN, MAX_SPAN + 1, 17, 101])
@pytest.mark.parametrize("targets", [None, 2, 3])
def test_number_of_interpolated_frames_is_free(frames, targets):
    network = LinearInterpolation(FLOW)
    before, after = frames_at(-1, 0), frames_at(1, 2)
    predicted = interpolate(
        network, before, after, frames, MAX_SPAN, targets, FLOW, make_strategy(1), make_noise_source()
    )
    assert predicted.shape == (BATCH, CHANNELS, frames, HEIGHT, WIDTH) and predicted.isfinite().all()
    assert max(network.spans) <= MAX_SPAN


def test_a_perfect_denoiser_morphs_a_frame_into_itself():
    frame = frames_at(3)
    oracle = Oracle(lambda index: frame.expand(-1, -1, index.shape[1], -1, -1), UNSCALED)
    morphed = morph_latents(
        oracle, frame, frame, 4, 0.5, None, UNSCALED, make_strategy(10), make_noise_source()
    )
    torch.testing.assert_close(morphed, frame.expand(-1, -1, 4, -1, -1), atol=1e-3, rtol=0)
    assert oracle.indices == [[]]
    assert oracle.calls == 5  # of ten steps, those below the strength


class PredictsItsInput(Oracle):
    def __call__(self, xt: Tensor, t: Tensor, context: object) -> Tensor:
        return target(xt, torch.zeros_like(xt), t, self.objective.process)


def test_a_morph_is_evenly_spaced():
    objective = objective_of("flow", "x0", torch.ones(CHANNELS), True)
    first = torch.ones(BATCH, CHANNELS, 1, HEIGHT, WIDTH)
    network, strategy = PredictsItsInput(TRUTH, objective), make_strategy(temperature=0.0)
    morphed = morph_latents(network, first, 3 * first, 3, 0.5, None, objective, strategy, make_noise_source())
    levels = morphed[0, 0, :, 0, 0]
    assert torch.allclose(levels / levels[-1], torch.tensor([1.5, 2.0, 2.5]) / 2.5)


@pytest.mark.parametrize("targets", [1, 2])
def test_generate_starts_without_context_and_rolls_out(targets):
    oracle = Oracle(TRUTH, UNSCALED)
    hops = plan_hops(targets - 1.0, 7 - targets, [1, 2], targets)
    shape, device = (BATCH, CHANNELS, HEIGHT, WIDTH), torch.device("cpu")
    generated = generate(
        oracle, UNSCALED, UNSCALED, targets, hops, shape, make_strategy(), make_noise_source(), device
    )
    frames = targets + sum(map(len, hops))
    torch.testing.assert_close(generated, frames_at(*range(frames)), atol=1e-3, rtol=0)
    assert oracle.indices[0] == [] and sorted(oracle.indices[1]) == [*range(targets)]


@pytest.mark.parametrize("targets", [None, 3])
@pytest.mark.parametrize("frames", [3, 4, 9])
def test_every_frame_is_restored_from_the_degraded_frames_around_it(targets, frames):
    oracle = Oracle(lambda index: 0 * index[:, None, :, None, None] + 2.5, FLOW)  # a static clip
    degraded = torch.randn(CHANNELS, frames, 1, 1, generator=torch.Generator().manual_seed(1))
    degraded = degraded.expand(-1, -1, HEIGHT, WIDTH)
    batches: list[list[int]] = []

    def noise_source_of(starts: list[int]) -> NoiseSource:
        batches.append(list(starts))
        return make_noise_source(len(starts))

    restored = restore(oracle, degraded, targets, FLOW, make_strategy(), noise_source_of, batch_size=2)
    torch.testing.assert_close(restored, torch.full_like(degraded, 2.5), atol=1e-3, rtol=0)
    assert {len(starts) for starts in batches} <= {1, 2}
    size = targets or 1
    starts = [start for batch in batches for start in batch]
    assert {start + step for start in starts for step in range(size)} == set(range(frames))
    for start, index in zip([batch[0] for batch in batches], oracle.indices, strict=True):
        context = sorted(round(time) + start for time in index)
        assert context == [*range(context[0], context[0] + min(4, frames))]
        assert {start, start + size - 1} <= set(context)


@pytest.mark.parametrize(
    ("frames", "target_offsets", "targets", "hops"),
    [
        (5, [1, 2], None, [[1, 2], [3, 4], [5]]),
        (3, [1], None, [[1], [2], [3]]),
        (4, [3, 1, 2], None, [[1, 2, 3], [4]]),
        (3, [1, 2], 2, [[1, 2], [3, 4]]),
        (2, [1, 2, 4], 1, [[1], [2]]),
    ],
)
def test_plan_hops_skips_no_frame_and_uses_trained_offsets(frames, target_offsets, targets, hops):
    plan = plan_hops(10.0, frames, target_offsets, targets)
    assert plan == tuple(tuple(10.0 + n for n in hop) for hop in hops)


@pytest.mark.parametrize(("target_offsets", "targets", "limit"), [([2], None, 1), ([1, 2], 3, 3)])
def test_offsets_that_would_skip_frames_are_rejected(target_offsets, targets, limit):
    with pytest.raises(ValueError, match=rf"train_denoiser\.target_offsets=.*1\.\.{limit}\b"):
        plan_hops(0.0, 3, target_offsets, targets)


def test_group_frames_covers_all_positions_with_whole_groups():
    assert group_frames(5, None) == [range(5)]
    assert group_frames(5, 2) == [range(0, 2), range(2, 4), range(3, 5)]
    assert group_frames(4, 2) == [range(0, 2), range(2, 4)]
    with pytest.raises(ValueError, match=r"frames=2: .*train_denoiser\.targets=3"):
        group_frames(2, 3)


@pytest.mark.parametrize(
    ("numbers", "target_offsets", "targets", "plans"),
    [
        ([11], [11], 1, [((11.0,),)]),  # direct
        ([22], [11], None, [((11.0,), (22.0,))]),
        ([11], [1, 2], 1, [((2.0,), (4.0,), (6.0,), (8.0,), (10.0,), (11.0,))]),
        ([2, 5], [2, 3], 1, [((2.0,), (5.0,))]),
        ([2, 3], [2, 3], 1, [((2.0,),), ((3.0,),)]),  # 3 is not reached from 2
        ([2, 3], [2, 3], None, [((2.0, 3.0),)]),  # independent targets of one hop
        ([7], [1, 2, 3], 3, [((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), (7.0, 8.0, 9.0))]),
        ([12], [10, 11, 12], 3, [((10.0, 11.0, 12.0),)]),
    ],
)
def test_the_fewest_trained_hops_lead_to_frames_by_number(numbers, target_offsets, targets, plans):
    assert plan_frames(numbers, target_offsets, targets) == plans


@pytest.mark.parametrize(
    ("number", "target_offsets", "targets"), [(10, [11], 1), (1, [2, 3], None), (3, [1, 2], 3)]
)
def test_frames_that_no_trained_hops_lead_to_are_refused(number, target_offsets, targets):
    with pytest.raises(ValueError, match=f"no hops over them lead to frame {number} after the context"):
        plan_frames([number], target_offsets, targets)
