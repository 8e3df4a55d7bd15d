from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.oracle import Oracle, OracleContext, moving_clips
from tests.processes import EVERY_PAIR, objective_of
from vdp.config.choices import SAMPLERS
from vdp.models.layers import Unmoved
from vdp.sampling.hops import used_context
from vdp.sampling.predict import SampleNoise, predict
from vdp.sampling.rollout import NoiseSource, Strategy, rollout
from vdp.sampling.samplers import make_sampler, time_grid

KNOWN = 11
SKIP = [[13], [15], [17], [19], [21], [22]]  # frame numbers of the skip-frame strategy
BATCH, CHANNELS, HEIGHT, WIDTH = 3, 2, 3, 4
SCALE = torch.tensor([0.5, 2.0])
TRUTH = moving_clips(BATCH, CHANNELS, HEIGHT, WIDTH)
FLOW = objective_of("flow", "flow", SCALE, True)
INDEX = torch.arange(float(KNOWN)).expand(BATCH, -1)
CONTEXT = TRUTH(INDEX)


def make_strategy(
    hops: list[list[float]],
    steps: int = 2,
    *,
    sampler: str = "ddim",
    spacing: str = "trailing",
    temperature: float = 1.0,
    guidance: float = 1.0,
    context_noise: float = 0.0,
    context_frames: int = 99,
    given_frames: int = 0,
) -> Strategy:
    return Strategy(
        hops=tuple(tuple(frame - 1.0 for frame in group) for group in hops),
        sampler=make_sampler(sampler, 0.0),
        times=time_grid(steps, spacing, 1000),
        temperature=temperature,
        guidance=guidance,
        context_noise=context_noise,
        context_frames=context_frames,
        given_frames=given_frames,
    )


def truth_of(hops: list[list[float]]) -> Tensor:
    return TRUTH(torch.tensor([frame - 1.0 for group in hops for frame in group]).expand(BATCH, -1))


def make_noise_source() -> NoiseSource:
    generator = torch.Generator().manual_seed(0)
    return lambda frames: torch.randn((BATCH, CHANNELS, frames, HEIGHT, WIDTH), generator=generator)


@pytest.mark.parametrize(("schedule", "prediction"), EVERY_PAIR)
@pytest.mark.parametrize("residual", [True, False])
def test_a_perfect_denoiser_predicts_the_truth_with_every_process(schedule, prediction, residual):
    objective = objective_of(schedule, prediction, SCALE, residual)
    strategy = make_strategy(SKIP, spacing="leading" if prediction == "eps" else "trailing")
    oracle = Oracle(TRUTH, objective)
    predicted = rollout(oracle, CONTEXT, INDEX, objective, strategy, make_noise_source())
    torch.testing.assert_close(predicted, truth_of(SKIP), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "hops",
    [SKIP, [[22]], [[n] for n in range(12, 23)], [[12.5], [17.25], [40]], [[13, 15, 17], [22]]],
    ids=["skip", "single", "dense", "real", "groups"],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 4])
def test_a_perfect_denoiser_predicts_the_truth_at_every_hop_with_every_sampler(hops, sampler, steps):
    oracle, strategy = Oracle(TRUTH, FLOW), make_strategy(hops, steps, sampler=sampler)
    predicted = rollout(oracle, CONTEXT, INDEX, FLOW, strategy, make_noise_source())
    torch.testing.assert_close(predicted, truth_of(hops), atol=1e-3, rtol=0)
    assert oracle.calls == len(hops) * (2 * steps - 1 if sampler == "heun" else steps)
    assert len(oracle.indices) == len(hops)  # one context encoding per hop


@pytest.mark.parametrize(
    ("hops", "context_frames", "given_frames", "expected"),
    [
        (
            [[13], [15], [17]],
            99,
            0,
            [[*range(10, -1, -1)], [12, *range(10, -1, -1)], [14, 12, *range(10, -1, -1)]],
        ),
        ([[13, 15], [22]], 99, 2, [[*range(10, -1, -1)], [14, 12, *range(10, -1, -1)]]),
        (SKIP, 3, 0, [[10, 9, 8], [12, 10, 9], [14, 12, 10], [16, 14, 12], [18, 16, 14], [20, 18, 16]]),
        (SKIP, 3, 2, [[10, 9, 8], *([frame, 10, 9] for frame in (12, 14, 16, 18, 20))]),
    ],
    ids=["all", "groups", "limited", "given"],
)
def test_context_frames_are_the_nearest_given_and_predicted_frames(
    hops, context_frames, given_frames, expected
):
    oracle = Oracle(TRUTH, FLOW)
    strategy = make_strategy(hops, context_frames=context_frames, given_frames=given_frames)
    rollout(oracle, CONTEXT, INDEX, FLOW, strategy, make_noise_source())
    assert oracle.indices == expected


class TargetIndexContext(Unmoved):
    """A denoiser without context."""

    joint = False

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> OracleContext:
        return OracleContext(target_index)


class PredictsZero(TargetIndexContext):
    def __call__(self, xt: Tensor, t: Tensor, context: OracleContext) -> Tensor:
        return xt / t[:, None, :, None, None]  # flow: x0 = xt - t velocity = 0


class PredictsItsInput(TargetIndexContext):
    def __init__(self) -> None:
        self.weight = torch.zeros((), requires_grad=True)

    def __call__(self, xt: Tensor, t: Tensor, context: OracleContext) -> Tensor:
        return self.weight * xt  # flow: x0 = xt


def test_a_predicted_residual_of_zero_copies_the_last_context_frame():
    strategy = make_strategy(SKIP, 3)
    predicted = rollout(PredictsZero(), CONTEXT, INDEX, FLOW, strategy, make_noise_source())
    torch.testing.assert_close(predicted, CONTEXT[:, :, -1:].expand_as(predicted), atol=1e-6, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_every_frame_starts_from_its_own_noise(temperature):
    objective = objective_of("flow", "flow", SCALE, False)
    strategy = make_strategy([[13, 15], [22]], 2, temperature=temperature)
    predicted = rollout(PredictsItsInput(), CONTEXT, INDEX, objective, strategy, make_noise_source())
    torch.testing.assert_close(predicted / SCALE[:, None, None, None], temperature * make_noise_source()(3))


def test_noise_of_another_shape_is_rejected():
    noise = torch.zeros(BATCH, CHANNELS, 6, 4, 4)
    with pytest.raises(ValueError, match=r"noise: expected shape \(3, 2, 6, 3, 4\)"):
        rollout(PredictsZero(), CONTEXT, INDEX, FLOW, make_strategy(SKIP), lambda frames: noise)


# --- Noise on predicted context frames -------------------------------------------------------------------


def test_predicted_context_frames_are_noised_and_their_level_is_an_input_of_the_network():
    contexts: list[Tensor] = []

    class RecordsFrames(Oracle):
        def context(
            self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
        ) -> OracleContext:
            contexts.append(frames)
            return super().context(frames, index, level, dropped, target_index)

    oracle = RecordsFrames(TRUTH, FLOW)
    strategy = make_strategy(SKIP, context_noise=0.25, context_frames=4)
    predicted = rollout(oracle, CONTEXT, INDEX, FLOW, strategy, make_noise_source())
    assert oracle.levels == [
        [0, 0, 0, 0], [0.25, 0, 0, 0], [0.25] * 2 + [0] * 2, [0.25] * 3 + [0], [0.25] * 4, [0.25] * 4
    ]  # fmt: skip
    torch.testing.assert_close(predicted, truth_of(SKIP), atol=1e-3, rtol=0)  # without the noise
    added = contexts[4] - TRUTH(torch.tensor(oracle.indices[4]).expand(BATCH, -1))
    assert added.std().item() == pytest.approx(0.25, rel=0.15)


def test_order_of_noise_draws():
    draws: list[int] = []

    def noise_source(frames: int) -> Tensor:
        draws.append(frames)
        return torch.zeros(BATCH, CHANNELS, frames, HEIGHT, WIDTH)

    hops, oracle = [[13, 15], [22]], Oracle(TRUTH, FLOW)
    rollout(oracle, CONTEXT, INDEX, FLOW, make_strategy(hops), noise_source)
    assert draws == [3]
    noisy = make_strategy(hops, 3, sampler="ddpm", context_noise=0.1)
    rollout(oracle, CONTEXT, INDEX, FLOW, noisy, noise_source)
    assert draws == [3, 3, 2, 2, 2, 1, 1, 1]  # per hop, fresh noise of two steps, then context noise


# --- Guidance --------------------------------------------------------------------------------------------


class ContextSwitch(Unmoved):
    """A denoiser that predicts a residual of 3 with its context and 1 without."""

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


@pytest.mark.parametrize(("weight", "residual"), [(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (1.5, 4.0)])
def test_guidance_extrapolates_from_the_unconditional_to_the_conditional_output(weight, residual):
    network, strategy = ContextSwitch(), make_strategy([[13]], 1, guidance=weight)
    predicted = rollout(network, CONTEXT, INDEX, FLOW, strategy, make_noise_source())
    expected = residual * SCALE[:, None, None, None].expand(BATCH, -1, 1, HEIGHT, WIDTH)
    torch.testing.assert_close(predicted - CONTEXT[:, :, -1:], expected, atol=1e-4, rtol=0)
    assert network.contexts == (1 if weight == 1 else 2)


# --- Composed and moved frames ---------------------------------------------------------------------------

COMPOSED = torch.randn((BATCH, CHANNELS, 6, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(7))
composed_hops = pytest.mark.parametrize(
    "hops", [SKIP, [[13, 15], [16, 17, 19], [22]]], ids=["skip", "groups"]
)


@composed_hops
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("given_frames", [0, 2])
def test_a_residual_of_zero_is_the_composed_frame_of_its_own_hop(hops, guidance, given_frames):
    strategy = make_strategy(hops, 3, guidance=guidance, context_frames=3, given_frames=given_frames)
    predicted = rollout(PredictsZero(), CONTEXT, INDEX, FLOW, strategy, make_noise_source(), COMPOSED)
    torch.testing.assert_close(predicted, COMPOSED, atol=1e-5, rtol=0)


def test_guidance_acts_on_the_change_from_the_composed_frame():
    strategy = make_strategy([[13]], 1, guidance=2.0)
    predicted = rollout(
        ContextSwitch(), CONTEXT, INDEX, FLOW, strategy, make_noise_source(), COMPOSED[:, :, :1]
    )
    expected = (5.0 * SCALE[:, None, None, None]).expand_as(predicted)
    torch.testing.assert_close(predicted - COMPOSED[:, :, :1], expected, atol=1e-4, rtol=0)


@composed_hops
def test_composed_frames_are_context_beside_the_nearest_ones_and_do_not_remain(hops):
    """They are clean, and a perfect denoiser corrects them."""
    oracle = Oracle(TRUTH, FLOW)
    strategy = make_strategy(hops, context_frames=3, given_frames=2, context_noise=0.25)
    predicted = rollout(oracle, CONTEXT, INDEX, FLOW, strategy, make_noise_source(), COMPOSED)
    torch.testing.assert_close(predicted, truth_of(hops), atol=1e-3, rtol=0)
    plain = Oracle(TRUTH, FLOW)
    rollout(plain, CONTEXT, INDEX, FLOW, strategy, make_noise_source())
    own = [[frame - 1.0 for frame in hop] for hop in hops]
    assert oracle.indices == [[*o, *p] for o, p in zip(own, plain.indices, strict=True)]
    assert oracle.levels == [[*(0.0 for _ in o), *p] for o, p in zip(own, plain.levels, strict=True)]


def test_every_sample_of_a_clip_has_the_composed_frames_of_its_clip():
    strategy = make_strategy(SKIP, 2, context_frames=3)
    predicted = predict(PredictsZero(), CONTEXT, range(KNOWN), [0, 1, 2], FLOW, strategy, 2, 0, COMPOSED)
    for sample in range(2):
        torch.testing.assert_close(predicted[:, sample], COMPOSED, atol=1e-5, rtol=0)


class MovesToTruth(PredictsZero):
    """Its residual is zero, and the frames that it moves are the true ones."""

    def __init__(self) -> None:
        self.moved_from: list[list[float]] = []
        self.indices: list[list[float]] = []

    def move(self, frames: Tensor, index: Tensor, target_index: Tensor) -> Tensor | None:
        self.moved_from.append(index[0].tolist())
        return TRUTH(target_index)

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> OracleContext:
        self.indices.append(index[0].tolist())
        return super().context(frames, index, level, dropped, target_index)


def test_a_residual_of_zero_is_the_frame_that_the_denoiser_moves():
    network, strategy = MovesToTruth(), make_strategy([[13], [15, 17]], 2, context_frames=3, given_frames=1)
    predicted = rollout(network, CONTEXT, INDEX, FLOW, strategy, make_noise_source())
    torch.testing.assert_close(predicted, truth_of([[13], [15, 17]]), atol=1e-5, rtol=0)
    assert network.moved_from == [[10, 9, 8], [12, 10, 9]]
    assert network.indices == [[12, 10, 9, 8], [14, 16, 12, 10, 9]]


# --- Samples of a clip -----------------------------------------------------------------------------------


class DependsOnEverything(Unmoved):
    """A denoiser whose output depends on all inputs of its clip."""

    joint = False

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> OracleContext:
        weight = torch.softmax(-(index - target_index[:, :1]).abs(), dim=1)
        return OracleContext((frames * weight[:, None, :, None, None]).sum(dim=2, keepdim=True))

    def __call__(self, xt: Tensor, t: Tensor, context: OracleContext) -> Tensor:
        return torch.sin(3 * xt) + context.x0 * t[:, None, :, None, None]


stochastic_and_deterministic = pytest.mark.parametrize("sampler", ["ddpm", "ddim"])


def predict_samples(
    clips: list[int], samples: int = 2, seed: int = 0, temperature: float = 1.0, sampler: str = "ddim"
) -> Tensor:
    strategy = make_strategy(
        [[13], [17, 19], [22]], 3, temperature=temperature, sampler=sampler, context_noise=0.1 * temperature
    )
    return predict(DependsOnEverything(), CONTEXT[clips], range(KNOWN), clips, FLOW, strategy, samples, seed)


@stochastic_and_deterministic
def test_predictions_of_a_clip_do_not_depend_on_its_batch(sampler):
    batch = predict_samples([0, 1, 2], sampler=sampler)
    assert batch.shape == (3, 2, CHANNELS, 4, HEIGHT, WIDTH)
    for clip in range(3):
        single = predict_samples([clip], sampler=sampler)[0]
        torch.testing.assert_close(single, batch[clip], atol=1e-6, rtol=0)
    torch.testing.assert_close(predict_samples([2, 0], sampler=sampler), batch[[2, 0]], atol=1e-6, rtol=0)


@stochastic_and_deterministic
def test_more_samples_leave_the_first_ones_unchanged(sampler):
    few, many = predict_samples([0, 1], 2, sampler=sampler), predict_samples([0, 1], 5, sampler=sampler)
    torch.testing.assert_close(many[:, :2], few, atol=1e-6, rtol=0)


def test_predict_takes_the_first_frames_as_context_and_keeps_no_graph():
    oracle = Oracle(TRUTH, FLOW)
    predicted = predict(oracle, CONTEXT, range(KNOWN), [0, 1, 2], FLOW, make_strategy(SKIP), 1, 0)
    torch.testing.assert_close(predicted[:, 0], truth_of(SKIP), atol=1e-3, rtol=0)
    assert oracle.indices[0] == [*reversed(range(KNOWN))]
    predicted = predict(PredictsItsInput(), CONTEXT, range(KNOWN), [0, 1, 2], FLOW, make_strategy(SKIP), 1, 0)
    assert not predicted.requires_grad


@pytest.mark.parametrize("given_frames", [0, 3])
def test_only_the_used_context_frames_are_needed(given_frames):
    strategy = make_strategy([[13], [17, 19], [22]], 3, context_frames=4, given_frames=given_frames)
    used = used_context(range(KNOWN), strategy.hops, strategy.context_frames, strategy.given_frames)
    assert 0 < len(used) < KNOWN
    settings = ([0, 1, 2], FLOW, strategy, 2, 0)
    every = predict(DependsOnEverything(), CONTEXT, range(KNOWN), *settings)
    assert torch.equal(predict(DependsOnEverything(), CONTEXT[:, :, used], used, *settings), every)
    fewer = predict(DependsOnEverything(), CONTEXT[:, :, used[1:]], used[1:], *settings)
    assert not torch.equal(fewer, every)


def test_samples_of_different_clips_and_seeds_have_different_noise():
    shape, device = (1, 2, 2), torch.device("cpu")
    noise = torch.cat([SampleNoise(seed, range(4), 3, shape, device)(1) for seed in range(3)])
    assert len(noise.flatten(1).unique(dim=0)) == 3 * 4 * 3


def test_noise_is_standard_normal_and_independent_between_calls():
    noise = SampleNoise(0, range(8), 64, (CHANNELS, HEIGHT, WIDTH), torch.device("cpu"))
    first, second = noise(1), noise(1)
    assert first.mean().item() == pytest.approx(0, abs=0.03)
    assert first.std().item() == pytest.approx(1, rel=0.03)
    assert (first * second).mean().item() == pytest.approx(0, abs=0.03)


@stochastic_and_deterministic
def test_temperature_zero_is_deterministic_for_all_samples_and_seeds(sampler):
    cold = predict_samples([0, 1], seed=0, temperature=0.0, sampler=sampler)
    assert torch.equal(cold[:, 0], cold[:, 1])
    assert torch.equal(predict_samples([0, 1], seed=99, temperature=0.0, sampler=sampler), cold)
    warm = predict_samples([0, 1], seed=0, sampler=sampler)
    assert (warm[:, 0] - warm[:, 1]).abs().max() > 0.1


def test_predictions_are_deterministic_in_the_seed():
    assert torch.equal(predict_samples([0, 1]), predict_samples([0, 1]))
    assert not torch.equal(predict_samples([0, 1], seed=1), predict_samples([0, 1]))


def test_gains_scale_the_changes_from_composed_frames():
    """By the number of frames after the last given one; predicted frames are context with them applied."""
    hops = [[13], [15], [22]]
    truth, composed = truth_of(hops), truth_of(hops) + 1.0
    gains = (1.0, 0.5, 1.0, 0.25)
    strategy = replace(make_strategy(hops), gains=gains)
    predicted = rollout(Oracle(TRUTH, FLOW), CONTEXT, INDEX, FLOW, strategy, make_noise_source(), composed)
    applied = torch.tensor([0.5, 0.25, 0.25])[None, None, :, None, None]
    torch.testing.assert_close(predicted, composed + applied * (truth - composed), atol=1e-3, rtol=0)
    plain = rollout(Oracle(TRUTH, FLOW), CONTEXT, INDEX, FLOW, strategy, make_noise_source())
    torch.testing.assert_close(plain, truth, atol=1e-3, rtol=0)
