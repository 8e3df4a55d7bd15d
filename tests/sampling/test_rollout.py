import pytest
import torch
from torch import Tensor

from tests.oracle import Oracle, OracleContext, moving_clips
from vdp.sampling.predict import Strategy, predict, starting_noise
from vdp.sampling.rollout import rollout
from vdp.sampling.samplers import ddim

KNOWN = 11
SKIP = [13, 15, 17, 19, 21, 22]  # frame numbers of the skip-frame strategy
BATCH, CHANNELS, HEIGHT, WIDTH = 3, 2, 3, 4
SCALE = torch.tensor([0.5, 2.0])
TRUTH = moving_clips(BATCH, CHANNELS, HEIGHT, WIDTH)

both_processes = pytest.mark.parametrize("kind", ["flow", "v"])
some_hops = pytest.mark.parametrize(
    "hops", [SKIP, [22], list(range(12, 23)), [12.5, 17.25, 40]], ids=["skip", "at-once", "dense", "real"]
)


def known_index() -> Tensor:
    return torch.arange(float(KNOWN)).expand(BATCH, -1)


def times_of(hops: list[float]) -> list[float]:
    """0-based times of frame numbers."""
    return [hop - 1 for hop in hops]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@both_processes
@some_hops
@pytest.mark.parametrize("steps", [1, 4])
def test_a_denoiser_that_knows_the_truth_recovers_it_at_every_hop(kind, hops, steps):
    oracle, index, times = Oracle(TRUTH, SCALE, kind), known_index(), times_of(hops)
    noise = normal(BATCH, CHANNELS, len(hops), HEIGHT, WIDTH)
    made = rollout(oracle, TRUTH(index), index, times, SCALE, kind, ddim, steps, noise, 99)
    truth = TRUTH(torch.tensor(times).expand(BATCH, -1))
    torch.testing.assert_close(made, truth, atol=1e-4, rtol=0)
    assert oracle.calls == steps * len(hops)


def test_each_made_frame_joins_the_known_ones():
    oracle, index = Oracle(TRUTH, SCALE, "flow"), known_index()
    noise = normal(BATCH, CHANNELS, 6, HEIGHT, WIDTH)
    rollout(oracle, TRUTH(index), index, times_of(SKIP), SCALE, "flow", ddim, 2, noise, 99)
    known = [[*range(KNOWN), *times_of(SKIP)[:hop]] for hop in range(6)]
    assert oracle.shown == [sorted(times, reverse=True) for times in known]  # nearest first


def test_the_network_is_given_the_nearest_frames_alone_as_in_training():
    oracle, index = Oracle(TRUTH, SCALE, "flow"), known_index()
    noise = normal(BATCH, CHANNELS, 6, HEIGHT, WIDTH)
    rollout(oracle, TRUTH(index), index, times_of(SKIP), SCALE, "flow", ddim, 2, noise, 3)
    assert oracle.shown == [
        [10, 9, 8], [12, 10, 9], [14, 12, 10], [16, 14, 12], [18, 16, 14], [20, 18, 16]
    ]  # fmt: skip


class Unmoved:
    """A denoiser that sees no change: at every time its clean change is zero."""

    def context(self, frames: Tensor, index: Tensor, level: Tensor, target_index: Tensor) -> OracleContext:
        assert not level.any()
        return OracleContext(target_index)

    def __call__(self, xt: Tensor, t: Tensor, context: OracleContext) -> Tensor:
        return xt / t[:, None, :, None, None]  # flow: x0 = xt - t velocity = 0


def test_a_denoiser_that_sees_no_change_copies_the_last_known_frame():
    index = known_index()
    noise = normal(BATCH, CHANNELS, 6, HEIGHT, WIDTH)
    made = rollout(Unmoved(), TRUTH(index), index, times_of(SKIP), SCALE, "flow", ddim, 3, noise, 99)
    copied = TRUTH(index)[:, :, -1:].expand_as(made)
    torch.testing.assert_close(made, copied, atol=1e-6, rtol=0)


def test_noise_for_another_number_of_hops_is_refused():
    index = known_index()
    with pytest.raises(ValueError, match="noise: expected one frame for each of 6 hops, got 5"):
        noise = normal(BATCH, CHANNELS, 5, HEIGHT, WIDTH)
        rollout(Unmoved(), TRUTH(index), index, times_of(SKIP), SCALE, "flow", ddim, 3, noise, 99)


# --- Several futures of a clip ---------------------------------------------------------------------------


class Curious:
    """A denoiser whose answer depends on all it is given, and on each clip alone."""

    def context(self, frames: Tensor, index: Tensor, level: Tensor, target_index: Tensor) -> OracleContext:
        weight = torch.softmax(-(index - target_index).abs(), dim=1)
        return OracleContext((frames * weight[:, None, :, None, None]).sum(dim=2, keepdim=True))

    def __call__(self, xt: Tensor, t: Tensor, context: OracleContext) -> Tensor:
        return torch.sin(3 * xt) + context.change * t[:, None, :, None, None]


def futures(clips: list[int], strategy: Strategy, seed: int = 0) -> Tensor:
    known = TRUTH(known_index())[clips]
    return predict(Curious(), known, clips, SCALE, "flow", strategy, 99, seed)


def strategy_of(temperature: float = 1.0, samples: int = 2) -> Strategy:
    return Strategy(tuple(times_of([13, 17, 22])), ddim, steps=3, temperature=temperature, samples=samples)


def test_every_clip_gets_all_its_futures_at_every_hop():
    assert futures([0, 1, 2], strategy_of()).shape == (3, 2, CHANNELS, 3, HEIGHT, WIDTH)


def test_what_is_predicted_for_a_clip_does_not_depend_on_its_neighbours():
    together = futures([0, 1, 2], strategy_of())
    for clip in range(3):
        torch.testing.assert_close(futures([clip], strategy_of())[0], together[clip], atol=1e-6, rtol=0)
    torch.testing.assert_close(futures([2, 0], strategy_of()), together[[2, 0]], atol=1e-6, rtol=0)


def test_more_futures_leave_the_first_ones_as_they_are():
    few, many = futures([0, 1], strategy_of(samples=2)), futures([0, 1], strategy_of(samples=5))
    torch.testing.assert_close(many[:, :2], few, atol=1e-6, rtol=0)


def test_the_noise_of_a_clip_is_its_own_whatever_stands_beside_it():
    strategy, shape = strategy_of(), (CHANNELS, HEIGHT, WIDTH)
    noise = starting_noise(7, [3, 5], strategy, shape)
    assert noise.shape == (4, CHANNELS, 3, HEIGHT, WIDTH)
    assert torch.equal(starting_noise(7, [5], strategy, shape), noise[2:])
    rows = noise.flatten(1)
    assert len({tuple(row.tolist()) for row in rows}) == 4  # no two futures of any clips are alike
    assert not torch.equal(starting_noise(8, [3, 5], strategy, shape), noise)


def test_the_noise_is_standard_normal_times_the_temperature():
    strategy = Strategy((12.0,), ddim, steps=1, temperature=0.5, samples=64)
    noise = starting_noise(0, range(8), strategy, (CHANNELS, HEIGHT, WIDTH))
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(0.5, rel=0.03)


def test_at_temperature_zero_there_is_one_future_whatever_the_seed():
    cold = futures([0, 1], strategy_of(temperature=0.0), seed=0)
    assert torch.equal(cold[:, 0], cold[:, 1])
    assert torch.equal(futures([0, 1], strategy_of(temperature=0.0), seed=99), cold)
    warm = futures([0, 1], strategy_of(), seed=0)
    assert (warm[:, 0] - warm[:, 1]).abs().max() > 0.1


def test_equal_seeds_predict_equal_futures():
    assert torch.equal(futures([0, 1], strategy_of()), futures([0, 1], strategy_of()))
    assert not torch.equal(futures([0, 1], strategy_of(), seed=1), futures([0, 1], strategy_of()))
