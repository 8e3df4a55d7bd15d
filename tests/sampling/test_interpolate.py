"""Frames between two clips, from nothing and from degraded ones, by networks whose answer is known."""

import pytest
import torch
from torch import Tensor

from tests.oracle import Oracle, moving_clips
from tests.processes import objective_of
from vdp.diffusion.objective import Objective
from vdp.diffusion.process import target
from vdp.sampling.generate import generate
from vdp.sampling.hops import plan_hops, groups
from vdp.sampling.interpolate import between, blended
from vdp.sampling.restore import restore
from vdp.sampling.rollout import Normal, Strategy
from vdp.sampling.samplers import make_sampler, time_grid

BATCH, CHANNELS, HEIGHT, WIDTH = 2, 3, 3, 4
FLOW = objective_of("flow", "flow", torch.tensor([0.5, 2.0, 1.0]), True)
TRUTH = moving_clips(BATCH, CHANNELS, HEIGHT, WIDTH)
SPAN = 5


def strategy(steps: int = 2, temperature: float = 1.0, context_frames: int = 4) -> Strategy:
    times = time_grid(steps, "trailing", 1000)
    return Strategy((), make_sampler("ddim", 0.0), times, temperature, 1.0, 0.0, context_frames)


def normal_of(batch: int = BATCH, seed: int = 0) -> Normal:
    generator = torch.Generator().manual_seed(seed)
    return lambda frames: torch.randn((batch, CHANNELS, frames, HEIGHT, WIDTH), generator=generator)


def at(*times: float) -> Tensor:
    return torch.tensor(times).expand(BATCH, -1)


class Line:
    """A denoiser that draws a straight line, in the times it is told, between the known frames around."""

    joint = False

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.gaps: list[float] = []  # told, from the last known frame before a target to the first after it
        self.told: list[list[float]] = []

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> Tensor:
        times = index[0].tolist()
        self.told.append(sorted(times))
        made = []
        for wanted in target_index[0].tolist():
            left, right = max(t for t in times if t < wanted), min(t for t in times if t > wanted)
            self.gaps.append(right - left)
            share = (wanted - left) / (right - left)
            one, other = (frames[:, :, times.index(t)] for t in (left, right))
            made.append((1 - share) * one + share * other)
        base = self.objective.base(frames, index, target_index)
        return self.objective.to_data(torch.stack(made, dim=2), base)

    def __call__(self, xt: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        alpha, sigma = (s[:, None, :, None, None] for s in self.objective.process.schedule(t))
        noise = torch.where(sigma > 0, (xt - alpha * x0) / sigma, 0)
        return target(x0, noise, t, self.objective.process)


@pytest.mark.parametrize("frames", [1, 2, SPAN - 1])
@pytest.mark.parametrize("targets", [None, 1, 2])
def test_a_gap_that_was_trained_is_filled_with_the_truth_by_a_network_that_knows_it(frames, targets):
    oracle = Oracle(TRUTH, FLOW)
    ends = TRUTH(at(-2, -1, 0)), TRUTH(at(frames + 1, frames + 2, frames + 3))
    made = between(oracle, *ends, frames, SPAN, targets, FLOW, strategy(), normal_of())
    torch.testing.assert_close(made, TRUTH(at(*range(1, frames + 1))), atol=1e-3, rtol=0)
    assert sorted(oracle.shown[0]) == [-1, 0, frames + 1, frames + 2]  # both sides alike


@pytest.mark.parametrize("gap", [2 * SPAN, 3 * SPAN, SPAN**2, 10 * SPAN])
@pytest.mark.parametrize("known", [1, 30])
def test_a_longer_gap_is_crossed_in_strides_that_tell_no_longer_one(gap, known):
    line = Line(FLOW)
    moved = torch.arange(1.0 - known, gap + known)[None, None, :, None, None]
    clip = (moved * torch.linspace(-1, 1, CHANNELS)[:, None, None, None]).expand(
        BATCH, CHANNELS, -1, HEIGHT, WIDTH
    )
    before, inside, after = clip.split([known, gap - 1, known], dim=2)
    made = between(line, before, after, gap - 1, SPAN, None, FLOW, strategy(), normal_of())
    torch.testing.assert_close(made, inside, atol=1e-3 * gap, rtol=1e-3)
    assert max(line.gaps) <= SPAN
    steps = {round(b - a, 3) for told in line.told for a, b in zip(told, told[1:], strict=False)}
    assert max(steps) <= SPAN and min(steps) >= 1


@pytest.mark.parametrize("frames", [SPAN, SPAN + 1, 17, 101])
@pytest.mark.parametrize("targets", [None, 2, 3])
def test_any_number_of_frames_comes_between(frames, targets):
    line = Line(FLOW)
    made = between(
        line, TRUTH(at(-1, 0)), TRUTH(at(1, 2)), frames, SPAN, targets, FLOW, strategy(1), normal_of()
    )
    assert made.shape == (BATCH, CHANNELS, frames, HEIGHT, WIDTH) and made.isfinite().all()
    assert max(line.gaps) <= SPAN


def test_a_morph_of_a_frame_into_itself_is_that_frame_where_the_network_knows_it():
    frame = TRUTH(at(3))
    plain = objective_of("flow", "flow", torch.ones(CHANNELS), True)
    oracle = Oracle(lambda index: frame.expand(-1, -1, index.shape[1], -1, -1), plain)
    made = blended(oracle, frame, frame, 4, 0.5, None, plain, strategy(10), normal_of())
    torch.testing.assert_close(made, frame.expand(-1, -1, 4, -1, -1), atol=1e-3, rtol=0)
    assert oracle.shown == [[]]  # nothing is known
    assert oracle.calls == 5 + 1 - 1  # the steps below its strength alone


class Keeps(Oracle):
    """A denoiser that takes what it sees for clean: nothing is changed but the noise's size."""

    def __call__(self, xt: Tensor, t: Tensor, context: object) -> Tensor:
        return target(xt, torch.zeros_like(xt), t, self.objective.process)


def test_a_morph_goes_evenly_from_one_frame_to_the_other():
    plain = objective_of("flow", "x0", torch.ones(CHANNELS), True)
    one = torch.ones(BATCH, CHANNELS, 1, HEIGHT, WIDTH)
    network = Keeps(TRUTH, plain)
    made = blended(network, one, 3 * one, 3, 0.5, None, plain, strategy(2, temperature=0.0), normal_of())
    levels = made[0, 0, :, 0, 0]
    assert torch.allclose(levels / levels[-1], torch.tensor([1.5, 2.0, 2.5]) / 2.5)


@pytest.mark.parametrize("targets", [1, 2])
def test_clips_from_nothing_begin_with_nothing_known_and_are_rolled_out(targets):
    plain = objective_of("flow", "flow", torch.ones(CHANNELS), True)
    oracle = Oracle(TRUTH, plain)
    hops = plan_hops(targets - 1.0, 7 - targets, [1, 2], targets)
    made = generate(
        oracle, plain, plain, targets, hops, (BATCH, CHANNELS, HEIGHT, WIDTH), strategy(), normal_of(),
        torch.device("cpu"),
    )  # fmt: skip
    frames = targets + sum(map(len, hops))
    torch.testing.assert_close(made, TRUTH(at(*range(frames))), atol=1e-3, rtol=0)
    assert oracle.shown[0] == [] and sorted(oracle.shown[1]) == [*range(targets)]


@pytest.mark.parametrize("targets", [None, 3])
@pytest.mark.parametrize("frames", [3, 4, 9])
def test_every_frame_is_restored_from_the_degraded_ones_around_it(targets, frames):
    """Truth is told by times from a hop's first frame, so a still clip has one truth."""
    oracle = Oracle(lambda index: 0 * index[:, None, :, None, None] + 2.5, FLOW)
    degraded = torch.randn(CHANNELS, frames, 1, 1, generator=torch.Generator().manual_seed(1))
    degraded = degraded.expand(-1, -1, HEIGHT, WIDTH)
    seen: list[list[int]] = []

    def normal(starts: list[int]) -> Normal:
        seen.append(list(starts))
        return normal_of(len(starts))

    made = restore(oracle, degraded, targets, FLOW, strategy(), normal, rows=2)
    torch.testing.assert_close(made, torch.full_like(degraded, 2.5), atol=1e-3, rtol=0)
    assert {len(starts) for starts in seen} <= {1, 2}
    starts = [start for chunk in seen for start in chunk]
    assert {start + step for start in starts for step in range(targets or 1)} == set(range(frames))
    size = targets or 1
    for start, shown in zip([chunk[0] for chunk in seen], oracle.shown, strict=True):
        times = sorted(round(time) + start for time in shown)
        assert times == [*range(times[0], times[0] + min(4, frames))]
        assert {start, start + size - 1} <= set(times)


@pytest.mark.parametrize(
    ("frames", "gaps", "targets", "hops"),
    [
        (5, [1, 2], None, [[1, 2], [3, 4], [5]]),
        (3, [1], None, [[1], [2], [3]]),
        (4, [3, 1, 2], None, [[1, 2, 3], [4]]),
        (3, [1, 2], 2, [[1, 2], [3, 4]]),
        (2, [1, 2, 4], 1, [[1], [2]]),
    ],
)
def test_no_future_frame_is_left_out_and_no_distance_untrained(frames, gaps, targets, hops):
    assert plan_hops(10.0, frames, gaps, targets) == tuple(tuple(10.0 + n for n in hop) for hop in hops)


def test_a_network_without_the_distance_of_one_frame_is_refused():
    with pytest.raises(ValueError, match=r"gaps=\[2\]: expected all distances from 1 to 1"):
        plan_hops(0.0, 3, [2], None)
    with pytest.raises(ValueError, match="from 1 to 3"):
        plan_hops(0.0, 3, [1, 2], 3)


def test_groups_cover_all_places_and_are_whole():
    assert groups(5, None) == [range(5)]
    assert groups(5, 2) == [range(0, 2), range(2, 4), range(3, 5)]
    assert groups(4, 2) == [range(0, 2), range(2, 4)]
    with pytest.raises(ValueError, match="makes 3 frames at once .* got 2"):
        groups(2, 3)
