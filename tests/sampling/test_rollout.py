import pytest
import torch
from torch import Tensor

from tests.oracle import Oracle, OracleContext, moving_clips
from tests.processes import EVERY_PAIR, objective_of
from vdp.sampling.predict import SampleNoise, predict
from vdp.sampling.rollout import Normal, Strategy, rollout
from vdp.sampling.samplers import make_sampler, time_grid

KNOWN = 11
SKIP = [[13], [15], [17], [19], [21], [22]]  # frame numbers of the skip-frame strategy
BATCH, CHANNELS, HEIGHT, WIDTH = 3, 2, 3, 4
SCALE = torch.tensor([0.5, 2.0])
TRUTH = moving_clips(BATCH, CHANNELS, HEIGHT, WIDTH)
FLOW = objective_of("flow", "flow", SCALE, True)

some_hops = pytest.mark.parametrize(
    "hops",
    [SKIP, [[22]], [[n] for n in range(12, 23)], [[12.5], [17.25], [40]], [[13, 15, 17], [22]]],
    ids=["skip", "at-once", "dense", "real", "blocks"],
)


def known_index() -> Tensor:
    return torch.arange(float(KNOWN)).expand(BATCH, -1)


def make_strategy(
    hops: list[list[float]],
    steps: int = 2,
    *,
    sampler: str = "ddim",
    spacing: str = "trailing",
    eta: float = 0.0,
    temperature: float = 1.0,
    guidance: float = 1.0,
    context_noise: float = 0.0,
    context_frames: int = 99,
) -> Strategy:
    return Strategy(
        hops=tuple(tuple(frame - 1.0 for frame in group) for group in hops),
        sampler=make_sampler(sampler, eta),
        times=time_grid(steps, spacing, 1000),
        temperature=temperature,
        guidance=guidance,
        context_noise=context_noise,
        context_frames=context_frames,
    )


def times_of(hops: list[list[float]]) -> Tensor:
    return torch.tensor([frame - 1.0 for group in hops for frame in group]).expand(BATCH, -1)


def normal_of(seed: int = 0) -> Normal:
    generator = torch.Generator().manual_seed(seed)
    return lambda frames: torch.randn((BATCH, CHANNELS, frames, HEIGHT, WIDTH), generator=generator)


@pytest.mark.parametrize(("schedule", "prediction"), EVERY_PAIR)
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "plain"])
def test_a_denoiser_that_knows_the_truth_recovers_it_with_every_process(schedule, prediction, residual):
    objective = objective_of(schedule, prediction, SCALE, residual)
    spacing = "leading" if prediction == "eps" else "trailing"
    made = rollout(
        Oracle(TRUTH, objective),
        TRUTH(known_index()),
        known_index(),
        objective,
        make_strategy(SKIP, spacing=spacing),
        normal_of(),
    )
    torch.testing.assert_close(made, TRUTH(times_of(SKIP)), atol=1e-3, rtol=0)


@some_hops
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp", "euler", "heun"])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_denoiser_that_knows_the_truth_recovers_it_at_every_hop_by_every_sampler(hops, sampler, steps):
    oracle, index = Oracle(TRUTH, FLOW), known_index()
    made = rollout(oracle, TRUTH(index), index, FLOW, make_strategy(hops, steps, sampler=sampler), normal_of())
    torch.testing.assert_close(made, TRUTH(times_of(hops)), atol=1e-3, rtol=0)
    assert oracle.calls == len(hops) * (2 * steps - 1 if sampler == "heun" else steps)
    assert len(oracle.shown) == len(hops)  # the context is encoded once a hop


def test_each_made_frame_joins_the_known_ones():
    oracle, index = Oracle(TRUTH, FLOW), known_index()
    rollout(oracle, TRUTH(index), index, FLOW, make_strategy(SKIP), normal_of())
    made = times_of(SKIP)[0].tolist()
    known = [[*range(KNOWN), *made[:hop]] for hop in range(6)]
    assert oracle.shown == [sorted(times, reverse=True) for times in known]  # nearest first


def test_the_frames_of_one_hop_are_made_from_the_same_known_ones():
    oracle, index = Oracle(TRUTH, FLOW), known_index()
    rollout(oracle, TRUTH(index), index, FLOW, make_strategy([[13, 15], [22]]), normal_of())
    assert oracle.shown == [[*reversed(range(KNOWN))], [14, 12, *reversed(range(KNOWN))]]


def test_the_network_is_given_the_nearest_frames_alone_as_in_training():
    oracle, index = Oracle(TRUTH, FLOW), known_index()
    rollout(oracle, TRUTH(index), index, FLOW, make_strategy(SKIP, context_frames=3), normal_of())
    assert oracle.shown == [
        [10, 9, 8], [12, 10, 9], [14, 12, 10], [16, 14, 12], [18, 16, 14], [20, 18, 16]
    ]  # fmt: skip


class Unmoved:
    """A denoiser that sees no change: at every time its clean change is zero."""

    joint = False

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> OracleContext:
        assert not level.any() and not dropped.any()
        return OracleContext(target_index)

    def __call__(self, xt: Tensor, t: Tensor, context: OracleContext) -> Tensor:
        return xt / t[:, None, :, None, None]  # flow: x0 = xt - t velocity = 0


def test_a_denoiser_that_sees_no_change_copies_the_last_known_frame():
    index = known_index()
    made = rollout(Unmoved(), TRUTH(index), index, FLOW, make_strategy(SKIP, 3), normal_of())
    copied = TRUTH(index)[:, :, -1:].expand_as(made)
    torch.testing.assert_close(made, copied, atol=1e-6, rtol=0)


class Passing:
    """A denoiser that takes noise for clean data; its weight could learn."""

    joint = False

    def __init__(self) -> None:
        self.weight = torch.zeros((), requires_grad=True)

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> OracleContext:
        return OracleContext(target_index)

    def __call__(self, xt: Tensor, t: Tensor, context: OracleContext) -> Tensor:
        return self.weight * xt  # flow: x0 = xt


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_every_frame_starts_from_noise_of_its_own(temperature):
    index, objective = known_index(), objective_of("flow", "flow", SCALE, False)
    strategy = make_strategy([[13, 15], [22]], 2, temperature=temperature)
    made = rollout(Passing(), TRUTH(index), index, objective, strategy, normal_of())
    torch.testing.assert_close(made / SCALE[:, None, None, None], temperature * normal_of()(3))


def test_noise_for_other_frames_is_refused():
    index, four = known_index(), torch.zeros(BATCH, CHANNELS, 6, 4, 4)
    with pytest.raises(ValueError, match=r"noise: expected shape \(3, 2, 6, 3, 4\), as the known frames"):
        rollout(Unmoved(), TRUTH(index), index, FLOW, make_strategy(SKIP), lambda frames: four[:, :, :frames])


# --- Noise on frames that were made ----------------------------------------------------------------------


def test_made_frames_are_noised_for_the_next_hops_and_the_network_is_told():
    shown: list[Tensor] = []

    class Watching(Oracle):
        def context(
            self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
        ) -> OracleContext:
            shown.append(frames)
            return super().context(frames, index, level, dropped, target_index)

    oracle, index = Watching(TRUTH, FLOW), known_index()
    strategy = make_strategy(SKIP, context_noise=0.25, context_frames=4)
    made = rollout(oracle, TRUTH(index), index, FLOW, strategy, normal_of())
    assert oracle.levels == [
        [0, 0, 0, 0], [0.25, 0, 0, 0], [0.25] * 2 + [0] * 2, [0.25] * 3 + [0], [0.25] * 4, [0.25] * 4
    ]  # fmt: skip
    torch.testing.assert_close(made, TRUTH(times_of(SKIP)), atol=1e-3, rtol=0)  # what is given out is clean
    added = shown[4] - TRUTH(torch.tensor(oracle.shown[4]).expand(BATCH, -1))
    assert added.std().item() == pytest.approx(0.25, rel=0.15)


def test_without_noise_on_made_frames_none_is_drawn():
    asked: list[int] = []

    def normal(frames: int) -> Tensor:
        asked.append(frames)
        return torch.zeros(BATCH, CHANNELS, frames, HEIGHT, WIDTH)

    index = known_index()
    rollout(Oracle(TRUTH, FLOW), TRUTH(index), index, FLOW, make_strategy([[13, 15], [22]]), normal)
    assert asked == [3]
    noisy = make_strategy([[13, 15], [22]], 3, sampler="ddpm", context_noise=0.1)
    rollout(Oracle(TRUTH, FLOW), TRUTH(index), index, FLOW, noisy, normal)
    assert asked == [3, 3, 2, 2, 2, 1, 1, 1]  # two steps of fresh noise a hop, then that on what was made


# --- Guidance --------------------------------------------------------------------------------------------


class TwoMinds:
    """A denoiser whose clean change is 3 with its context and 1 without."""

    joint = False

    def __init__(self) -> None:
        self.contexts = 0

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> Tensor:
        self.contexts += 1
        return torch.where(dropped, 1.0, 3.0)[:, None, None, None, None]

    def __call__(self, xt: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return (xt - context) / t[:, None, :, None, None]


@pytest.mark.parametrize(("weight", "change"), [(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (1.5, 4.0)])
def test_guidance_goes_from_what_is_said_without_the_context_to_what_is_said_with_it(weight, change):
    index, network = known_index(), TwoMinds()
    made = rollout(network, TRUTH(index), index, FLOW, make_strategy([[13]], 1, guidance=weight), normal_of())
    per_channel = SCALE[:, None, None, None].expand(BATCH, -1, 1, HEIGHT, WIDTH)
    torch.testing.assert_close(made - TRUTH(index)[:, :, -1:], change * per_channel, atol=1e-4, rtol=0)
    assert network.contexts == (1 if weight == 1 else 2)


# --- Several futures of a clip ---------------------------------------------------------------------------


class Curious:
    """A denoiser whose answer depends on all it is given, and on each clip alone."""

    joint = False

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> OracleContext:
        weight = torch.softmax(-(index - target_index[:, :1]).abs(), dim=1)
        return OracleContext((frames * weight[:, None, :, None, None]).sum(dim=2, keepdim=True))

    def __call__(self, xt: Tensor, t: Tensor, context: OracleContext) -> Tensor:
        return torch.sin(3 * xt) + context.x0 * t[:, None, :, None, None]


every_sampler = pytest.mark.parametrize("sampler", ["ddpm", "ddim"])


def futures(
    clips: list[int], samples: int = 2, seed: int = 0, temperature: float = 1.0, sampler: str = "ddim"
) -> Tensor:
    known = TRUTH(known_index())[clips]
    strategy = make_strategy(
        [[13], [17, 19], [22]], 3, temperature=temperature, sampler=sampler, context_noise=0.1 * temperature
    )
    return predict(Curious(), known, clips, FLOW, strategy, samples, seed)


@every_sampler
def test_every_clip_gets_all_its_futures_at_every_hop(sampler):
    assert futures([0, 1, 2], sampler=sampler).shape == (3, 2, CHANNELS, 4, HEIGHT, WIDTH)


@every_sampler
def test_what_is_predicted_for_a_clip_does_not_depend_on_its_neighbours(sampler):
    together = futures([0, 1, 2], sampler=sampler)
    for clip in range(3):
        alone = futures([clip], sampler=sampler)[0]
        torch.testing.assert_close(alone, together[clip], atol=1e-6, rtol=0)
    torch.testing.assert_close(futures([2, 0], sampler=sampler), together[[2, 0]], atol=1e-6, rtol=0)


@every_sampler
def test_more_futures_leave_the_first_ones_as_they_are(sampler):
    few, many = futures([0, 1], 2, sampler=sampler), futures([0, 1], 5, sampler=sampler)
    torch.testing.assert_close(many[:, :2], few, atol=1e-6, rtol=0)


def test_the_given_frames_are_the_clip_s_first():
    oracle = Oracle(TRUTH, FLOW)
    made = predict(oracle, TRUTH(known_index()), [0, 1, 2], FLOW, make_strategy(SKIP), 1, 0)
    torch.testing.assert_close(made[:, 0], TRUTH(times_of(SKIP)), atol=1e-3, rtol=0)
    assert oracle.shown[0] == [*reversed(range(KNOWN))]


def test_what_is_predicted_keeps_no_graph():
    made = predict(Passing(), TRUTH(known_index()), [0, 1, 2], FLOW, make_strategy(SKIP), 1, 0)
    assert not made.requires_grad


def test_no_two_futures_of_neighbouring_clips_and_seeds_are_alike():
    shape, device = (1, 2, 2), torch.device("cpu")
    noise = torch.cat([SampleNoise(seed, range(4), 3, shape, device)(1) for seed in range(3)])
    assert len(noise.flatten(1).unique(dim=0)) == 3 * 4 * 3


def test_the_noise_of_a_clip_is_its_own_whatever_stands_beside_it():
    shape, device = (CHANNELS, HEIGHT, WIDTH), torch.device("cpu")
    noise = SampleNoise(7, [3, 5], 2, shape, device)(3)
    assert noise.shape == (4, CHANNELS, 3, HEIGHT, WIDTH)
    assert torch.equal(SampleNoise(7, [5], 2, shape, device)(3), noise[2:])
    rows = noise.flatten(1)
    assert len({tuple(row.tolist()) for row in rows}) == 4  # no two futures of any clips are alike
    assert not torch.equal(SampleNoise(8, [3, 5], 2, shape, device)(3), noise)


def test_noise_is_standard_normal_and_new_at_each_call():
    noise = SampleNoise(0, range(8), 64, (CHANNELS, HEIGHT, WIDTH), torch.device("cpu"))
    first, second = noise(1), noise(1)
    assert first.mean().item() == pytest.approx(0, abs=0.03)
    assert first.std().item() == pytest.approx(1, rel=0.03)
    assert (first * second).mean().item() == pytest.approx(0, abs=0.03)


@every_sampler
def test_at_temperature_zero_there_is_one_future_whatever_the_seed(sampler):
    cold = futures([0, 1], seed=0, temperature=0.0, sampler=sampler)
    assert torch.equal(cold[:, 0], cold[:, 1])
    assert torch.equal(futures([0, 1], seed=99, temperature=0.0, sampler=sampler), cold)
    warm = futures([0, 1], seed=0, sampler=sampler)
    assert (warm[:, 0] - warm[:, 1]).abs().max() > 0.1


def test_equal_seeds_predict_equal_futures():
    assert torch.equal(futures([0, 1]), futures([0, 1]))
    assert not torch.equal(futures([0, 1], seed=1), futures([0, 1]))
