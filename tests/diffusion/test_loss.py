from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.oracle import Oracle, OracleContext, moving_clips
from tests.processes import every_process, objective_of
from vdp.core.context_frames import Hops
from vdp.core.rng import BatchRng, whole_batch
from vdp.diffusion.loss import (
    LEVELS,
    HopLoss,
    LevelLoss,
    TaskLevelLoss,
    diffusion_loss,
    shift_time,
    times_at_levels,
)
from vdp.diffusion.objective import Objective
from vdp.diffusion.process import min_snr_weight, target
from vdp.diffusion.scheduled_sampling import ScheduledSampling
from vdp.models.layers import Unmoved

SCALE = torch.tensor([0.5, 2.0])
TRUTH = moving_clips(batch=3, channels=2, height=4, width=5)
FLOW = objective_of("flow", "flow", SCALE, True)
KEPT = torch.zeros(3, dtype=torch.bool)
CLEAN, NO_NOISE = torch.zeros(3, 4), torch.zeros(3, 2, 4, 4, 5)
with_and_without_residual = pytest.mark.parametrize("residual", [True, False])


def make_hops() -> Hops:
    index = torch.tensor([[8.0, 6.0, 5.0, 4.0]]).expand(3, -1)
    target_index = torch.tensor([[10.0, 2.5]]).expand(3, -1)
    return Hops(TRUTH(index), index, TRUTH(target_index), target_index)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def batch_rng(seed: int) -> BatchRng:
    return whole_batch(torch.Generator().manual_seed(seed), 3)


def clean_data(hops: Hops, objective: Objective) -> Tensor:
    return objective.to_data(hops.target, objective.base(hops.known, hops.index, hops.target_index))


class Zero(Unmoved):
    """A denoiser with an output of zero; records its inputs."""

    def __init__(self, joint: bool = False) -> None:
        self.joint = joint

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> Tensor:
        self.frames, self.level, self.dropped = frames, level, dropped
        return target_index

    def __call__(self, xt: Tensor, t: Tensor, context: Tensor) -> Tensor:
        self.xt, self.t = xt, t
        return torch.zeros_like(xt)

    def flow_noise(self, hops: Hops, draws: int) -> Tensor:
        """The noise in xt on the flow process."""
        t = self.t[:, None, :, None, None]
        return (self.xt - (1 - t) * clean_data(hops, FLOW).repeat_interleave(draws, dim=2)) / t


@every_process
@with_and_without_residual
def test_the_loss_of_a_perfect_denoiser_is_zero(schedule, prediction, residual):
    t, level = 0.05 + 0.9 * uniform(0, 3, 6), torch.full((3, 4), 0.2)
    noise, context_noise = normal(1, 3, 2, 6, 4, 5), normal(2, 3, 2, 4, 4, 5)
    objective = objective_of(schedule, prediction, SCALE, residual)

    def loss(scale: Tensor) -> float:
        oracle = Oracle(TRUTH, objective_of(schedule, prediction, scale, residual))
        inputs = (t, noise, level, context_noise, KEPT)
        return diffusion_loss(oracle, make_hops(), objective, None, *inputs)["loss"].item()

    assert loss(SCALE) == pytest.approx(0, abs=1e-7)
    assert loss(1.1 * SCALE) > 1e-4


@every_process
@with_and_without_residual
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_the_loss_of_an_output_of_zero_is_the_weighted_mean_square_of_the_target(
    schedule, prediction, residual, gamma
):
    objective, hops = objective_of(schedule, prediction, SCALE, residual), make_hops()
    t, noise = uniform(0, 3, 2), normal(1, 3, 2, 2, 4, 5)
    loss = diffusion_loss(Zero(), hops, objective, gamma, t, noise, CLEAN, NO_NOISE, KEPT)["loss"]
    squares = target(clean_data(hops, objective), noise, t, objective.process).square().mean(dim=(1, 3, 4))
    weight = 1 if gamma is None else min_snr_weight(t, objective.process, gamma)
    torch.testing.assert_close(loss, (squares * weight).mean())


def test_the_noise_level_of_context_frames_is_an_input_of_the_network():
    hops, network = make_hops(), Zero()
    level, context_noise = uniform(3, 3, 4), normal(2, 3, 2, 4, 4, 5)
    t, noise = torch.full((3, 2), 0.5), normal(1, 3, 2, 2, 4, 5)
    diffusion_loss(network, hops, FLOW, None, t, noise, level, context_noise, KEPT)
    added = (network.frames - hops.known) / context_noise
    torch.testing.assert_close(added, level[:, None, :, None, None].expand_as(added), atol=1e-3, rtol=1e-3)
    assert torch.equal(network.level, level)


def test_draws_of_a_target_frame_are_adjacent():
    network = Zero()
    t, noise = torch.zeros(3, 4), normal(1, 3, 2, 4, 4, 5)
    diffusion_loss(network, make_hops(), FLOW, None, t, noise, CLEAN, NO_NOISE, KEPT)
    torch.testing.assert_close(network.xt[:, :, 0], network.xt[:, :, 1])
    torch.testing.assert_close(network.xt[:, :, 2], network.xt[:, :, 3])
    assert not torch.allclose(network.xt[:, :, 0], network.xt[:, :, 2])


# --- HopLoss ---------------------------------------------------------------------------------------------

NO_SAMPLING = ScheduledSampling(share=0.0, frames=1, steps=1, temperature=1.0)


def hop_loss(
    draws: int = 1,
    context_noise: float = 0.0,
    context_dropout: float = 0.0,
    sampling: ScheduledSampling = NO_SAMPLING,
    objective: Objective = FLOW,
    task: str = "predict",
) -> HopLoss:
    return HopLoss({task: objective}, None, 1.0, draws, context_noise, context_dropout, sampling)


@pytest.mark.parametrize("context_noise", [0.0, 0.3])
def test_the_loss_is_deterministic_in_the_generator_and_draws_within_range(context_noise):
    def run(seed: int) -> tuple[Tensor, Zero]:
        network, loss = Zero(), hop_loss(3, context_noise, context_dropout=0.5)
        return loss(network, make_hops(), batch_rng(seed))["loss"], network

    (first, network), (again, _), (other, _) = run(0), run(0), run(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert network.t.shape == (3, 6) and network.t.min() >= 0 and network.t.max() <= 1
    assert network.level.min() >= 0 and network.level.max() <= context_noise
    assert (network.level == network.level[:, :1]).all()  # one level per clip


def test_target_frames_of_a_joint_denoiser_share_their_time():
    joint, independent = Zero(joint=True), Zero(joint=False)
    for network in (joint, independent):
        hop_loss(draws=3)(network, make_hops(), batch_rng(0))
    by_target = joint.t.reshape(3, 2, 3)
    assert torch.equal(by_target[:, 0], by_target[:, 1])
    assert joint.t.unique().numel() == 3 * 3
    assert independent.t.unique().numel() == 3 * 2 * 3


def test_times_are_shifted_by_time_shift():
    plain, shifted = Zero(), Zero()
    for network, shift in ((plain, 1.0), (shifted, 3.0)):
        replace(hop_loss(draws=3), time_shift=shift)(network, make_hops(), batch_rng(0))
    torch.testing.assert_close(shifted.t, shift_time(plain.t, 3.0))


def test_the_loss_is_weighted_with_min_snr_gamma():
    def run(gamma: float | None) -> float:
        loss = replace(hop_loss(draws=3), min_snr_gamma=gamma)
        return loss(Zero(), make_hops(), batch_rng(0))["loss"].item()

    assert 0 < run(1e-3) < 1e-3 * run(None)  # on the flow process no weight is above gamma


def test_draws_have_independent_standard_normal_noise():
    network, hops = Zero(), make_hops()
    hop_loss(draws=20)(network, hops, batch_rng(0))
    rows = network.flow_noise(hops, 20).transpose(1, 2)[network.t > 0.05].flatten(1)
    assert rows.mean().item() == pytest.approx(0, abs=0.05)
    assert rows.std().item() == pytest.approx(1, abs=0.05)
    assert ((rows[1:] - rows[:-1]).abs().amax(dim=1) > 0.1).all()


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_context_dropout_is_the_share_of_clips_with_dropped_context(share):
    network, generator, dropped = Zero(), torch.Generator().manual_seed(0), []
    for _ in range(300):
        hop_loss(context_dropout=share)(network, make_hops(), whole_batch(generator, 3))
        dropped.append(network.dropped)
    rates = torch.stack(dropped).float()
    assert rates.mean().item() == pytest.approx(share, abs=0.05)
    mixed = (rates != rates[:, :1]).any(dim=1).float().mean().item()  # clips are independent
    assert mixed == pytest.approx(1 - share**3 - (1 - share) ** 3, abs=0.1)


def test_clips_with_dropped_context_have_no_context_noise():
    network, generator = Zero(), torch.Generator().manual_seed(0)
    for _ in range(20):
        hop_loss(context_noise=0.3, context_dropout=0.5)(network, make_hops(), whole_batch(generator, 3))
        assert not network.level[network.dropped].any()
    assert network.level.any()


def test_context_noise_is_zero_for_half_of_the_clips_and_uniform_for_the_others():
    network, generator, hops = Zero(), torch.Generator().manual_seed(0), make_hops()
    levels, noise = [], []
    for _ in range(300):
        hop_loss(context_noise=0.3)(network, hops, whole_batch(generator, 3))
        levels.append(network.level[:, 0])
        noisy = network.level[:, 0] > 0.03
        noise.append((network.frames - hops.known)[noisy] / network.level[noisy, :1, None, None, None])
    drawn = torch.stack(levels)
    clean = drawn == 0
    assert clean.float().mean().item() == pytest.approx(0.5, abs=0.05)
    mixed = (clean != clean[:, :1]).any(dim=1).float().mean().item()  # clips are independent
    assert mixed == pytest.approx(0.75, abs=0.1)
    quartiles = drawn[~clean].quantile(torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quartiles, torch.tensor([0.075, 0.15, 0.225]), atol=0.03, rtol=0)
    assert torch.cat(noise).std().item() == pytest.approx(1, abs=0.01)


def test_scheduled_sampling_replaces_context_frames_in_its_share_of_steps():
    sampling = ScheduledSampling(share=0.3, frames=1, steps=1, temperature=1.0)
    network, generator, hops, replaced = Zero(), torch.Generator().manual_seed(0), make_hops(), 0
    for _ in range(300):
        hop_loss(sampling=sampling)(network, hops, whole_batch(generator, 3))
        replaced += int(not torch.equal(network.frames, hops.known))
    assert replaced / 300 == pytest.approx(0.3, abs=0.07)


class Linear(Unmoved, nn.Module):
    """A denoiser that is linear in all of its inputs."""

    def __init__(self, joint: bool) -> None:
        super().__init__()
        self.joint = joint
        self.weight = nn.Parameter(torch.tensor([0.3, 0.7], dtype=torch.float64))

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> Tensor:
        encoded = frames.mean(dim=2) + level.mean(dim=1)[:, None, None, None] + index.mean() / 10
        return encoded * ~dropped[:, None, None, None]

    def forward(self, xt: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.weight[0] * xt * (1 + t[:, None, :, None, None]) + self.weight[1] * context[:, :, None]


LOSSES = {
    **{
        f"sampling-{share}": hop_loss(2, 0.3, 0.4, ScheduledSampling(share, 2, 2, 0.5))
        for share in (0.0, 0.5, 1.0)
    },
    "levels": LevelLoss(FLOW),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("size", [1, 2])
def test_the_loss_and_gradient_of_a_batch_are_the_means_over_its_parts(loss, joint, size):
    truth = moving_clips(batch=4, channels=2, height=4, width=5)
    index = torch.tensor([[8.0, 6, 5, 4]]).expand(4, -1)
    target_index = torch.tensor([[10.0, 2.5]]).expand(4, -1)
    known, targets = truth(index).double(), truth(target_index).double()
    network = Linear(joint)

    def results(rows: range) -> dict[str, Tensor]:
        part = slice(rows.start, rows.stop)
        hops = Hops(known[part], index[part], targets[part], target_index[part])
        losses = loss(network, hops, BatchRng(torch.Generator().manual_seed(2), rows, 4))
        return {**losses, "gradient": torch.autograd.grad(losses["loss"], network.weight)[0]}

    parts = [results(range(first, first + size)) for first in range(0, 4, size)]
    for name, value in results(range(4)).items():
        mean = torch.stack([part[name] for part in parts]).mean(dim=0)
        torch.testing.assert_close(mean, value, rtol=1e-6, atol=1e-12)


# --- LevelLoss -------------------------------------------------------------------------------------------


def test_on_the_flow_process_the_time_of_a_level_is_the_level():
    times = times_at_levels([0.0, 0.1, 0.25, 0.9, 1.0], FLOW.process.schedule)
    torch.testing.assert_close(times, torch.tensor([0, 0.1, 0.25, 0.9, 1]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_times_at_levels_reach_the_levels_to_half_a_table_step(schedule, dtype):
    process = objective_of(schedule, "v", SCALE, True).process
    alpha, sigma = process.schedule(times_at_levels(LEVELS, process.schedule).to(dtype))
    torch.testing.assert_close(sigma / (alpha + sigma), torch.tensor(LEVELS, dtype=dtype), atol=2e-3, rtol=0)


def test_the_time_of_an_unreached_level_is_1():
    times = times_at_levels([0.2, 0.4, 0.41, 1.0], lambda t: (1 - 0.4 * t, 0.4 * t))
    torch.testing.assert_close(times, torch.tensor([0.5, 1, 1, 1]).double(), atol=1e-6, rtol=0)


@every_process
@with_and_without_residual
def test_the_errors_of_a_perfect_denoiser_are_zero(schedule, prediction, residual):
    objective = objective_of(schedule, prediction, SCALE, residual)
    oracle = Oracle(TRUTH, objective)
    losses = LevelLoss(objective)(oracle, make_hops(), batch_rng(0))
    assert list(losses) == ["loss", "x0", "base", *(f"x0_{level}" for level in LEVELS)]
    base = losses.pop("base").item()
    assert (base > 0.01) and all(value.item() == pytest.approx(0, abs=1e-6) for value in losses.values())
    assert oracle.calls == len(oracle.indices) == 1 and oracle.levels == [[0.0] * 4]


@pytest.mark.parametrize("joint", [True, False])
def test_target_frames_are_noised_to_each_level_with_clean_context_frames(joint):
    network, hops = Zero(joint), make_hops()
    LevelLoss(FLOW)(network, hops, batch_rng(0))
    assert torch.equal(network.frames, hops.known)
    assert not network.dropped.any() and not network.level.any()
    torch.testing.assert_close(network.t, torch.tensor(LEVELS).repeat(3, 2), atol=1e-6, rtol=0)
    assert network.flow_noise(hops, 5).std().item() == pytest.approx(1, abs=0.05)


@with_and_without_residual
def test_the_error_in_x0_is_in_units_of_the_latents(residual):
    """An x0 of zero is the base."""
    hops, objective = make_hops(), objective_of("cosine", "x0", SCALE, residual)
    losses = LevelLoss(objective)(Zero(), hops, batch_rng(0))
    base = objective.base(hops.known, hops.index, hops.target_index)
    expected = (hops.target - base).square().mean()
    for name in ("x0", "base", *(f"x0_{level}" for level in LEVELS)):
        torch.testing.assert_close(losses[name], expected)
    torch.testing.assert_close(losses["loss"], clean_data(hops, objective).square().mean())


@every_process
def test_the_error_at_a_level_is_that_of_its_draws(schedule, prediction):
    class PerfectAtOneLevel(Oracle):
        def __call__(self, xt: Tensor, t: Tensor, context: OracleContext) -> Tensor:
            output = super().__call__(xt, t, context).unflatten(2, (2, 5))
            below, at, above = output.split([3, 1, 1], dim=3)
            return torch.cat([below + 1, at, above - 1], dim=3).flatten(2, 3)

    objective = objective_of(schedule, prediction, SCALE, True)
    losses = LevelLoss(objective)(PerfectAtOneLevel(TRUTH, objective), make_hops(), batch_rng(0))
    errors = {level: losses[f"x0_{level}"].item() for level in LEVELS}
    assert errors.pop(0.7) == pytest.approx(0, abs=1e-6)
    assert min(errors.values()) > 1e-3
    assert losses["x0"].item() == pytest.approx(sum(errors.values()) / 5)
    assert losses["loss"].item() == pytest.approx(0.8, abs=1e-4)


# --- Times -----------------------------------------------------------------------------------------------


def test_a_shift_above_1_moves_times_towards_1_and_its_inverse_undoes_it():
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(shift_time(t, 1.0), t)
    assert (shift_time(t, 3.0)[1:-1] > t[1:-1]).all()
    assert shift_time(t, 3.0)[[0, -1]].tolist() == [0, 1]
    assert shift_time(torch.tensor(0.5), 3.0).item() == pytest.approx(0.75)
    torch.testing.assert_close(shift_time(shift_time(t, 4.0), 0.25), t)


# --- Tasks -----------------------------------------------------------------------------------------------


class Parts:
    """A batch with hops of several tasks."""

    def __init__(self, *parts: Hops) -> None:
        self.parts = parts


def with_task(task: str, hops: Hops) -> Hops:
    if task == "generate":
        hops = Hops(hops.known[:, :, :0], hops.index[:, :0], hops.target, hops.target_index)
    return replace(hops, task=task)


def test_each_task_has_its_own_scale():
    losses = []
    for task, size in (("predict", 1.0), ("restore", 2.0)):
        loss = hop_loss(objective=objective_of("cosine", "x0", size * SCALE, residual=True), task=task)
        losses.append(loss(Zero(), with_task(task, make_hops()), batch_rng(0))["loss"])
    torch.testing.assert_close(losses[0], 4 * losses[1])


def test_generate_diffuses_frames_without_context():
    hops, network = with_task("generate", make_hops()), Zero()
    objective = objective_of("cosine", "x0", SCALE, residual=True)
    loss = hop_loss(1, 0.5, 0.5, ScheduledSampling(1.0, 1, 1, 1.0), objective, "generate")
    expected = (hops.target / SCALE[:, None, None, None]).square().mean()
    torch.testing.assert_close(loss(network, hops, batch_rng(0))["loss"], expected)
    assert network.frames.shape[2] == 0


@pytest.mark.parametrize(
    ("task", "replaced"), [("predict", True), ("interpolate", False), ("restore", False)]
)
def test_scheduled_sampling_applies_to_predict_only(task, replaced):
    hops, network = make_hops(), Zero()
    loss = hop_loss(sampling=ScheduledSampling(1.0, 2, 1, 1.0), task=task)
    loss(network, with_task(task, hops), batch_rng(0))
    assert torch.equal(network.frames, hops.known) != replaced


def test_validation_reports_each_task_and_their_mean_weighted_by_shares():
    hops, objective = make_hops(), objective_of("cosine", "x0", SCALE, True)
    objectives = dict.fromkeys(("predict", "generate"), objective)
    batch = Parts(*(with_task(task, hops) for task in objectives))
    shares = {"predict": 3.0, "generate": 1.0, "restore": 9.0}
    losses = TaskLevelLoss(objectives, shares)(Zero(), batch, batch_rng(0))
    # the error of an output of zero does not depend on the noise
    predict, generate = (LevelLoss(objective)(Zero(), part, batch_rng(0)) for part in batch.parts)
    assert list(losses) == ["loss", *list(predict)[1:], *(f"generate_{name}" for name in list(predict)[1:])]
    torch.testing.assert_close(losses["x0"], predict["x0"])
    torch.testing.assert_close(losses["generate_x0"], generate["x0"])
    torch.testing.assert_close(losses["loss"], 0.75 * predict["loss"] + 0.25 * generate["loss"])


# --- Moved frames ----------------------------------------------------------------------------------------


class Mover(Zero):
    """Moves its context frames to the truth plus `error`, a parameter."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.error = torch.tensor(error, requires_grad=True)

    def move(self, frames: Tensor, index: Tensor, target_index: Tensor) -> Tensor | None:
        return TRUTH(target_index) + self.error

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> Tensor:
        self.index = index
        return super().context(frames, index, level, dropped, target_index)


def test_moved_frames_are_the_base_and_their_error_is_added_to_the_loss():
    hops, t, noise = make_hops(), torch.full((3, 2), 0.5), normal(1, 3, 2, 2, 4, 5)
    exact, off = Mover(), Mover(0.1)
    for network, moved in ((exact, 0.0), (off, 0.1)):
        losses = diffusion_loss(network, hops, FLOW, None, t, noise, CLEAN, NO_NOISE, KEPT)
        x0 = torch.full_like(noise, -moved) / SCALE[:, None, None, None]
        assert losses["moved"].item() == pytest.approx(x0.square().mean().item(), rel=1e-5, abs=1e-9)
        torch.testing.assert_close(losses["loss"] - losses["moved"], (noise - x0).square().mean())
        torch.testing.assert_close(network.xt, 0.5 * x0 + 0.5 * noise)


def test_moved_frames_are_clean_context_frames_at_the_indices_of_the_targets():
    hops, network = make_hops(), Mover(0.1)
    level, context_noise = torch.full((3, 4), 0.3), normal(2, 3, 2, 4, 4, 5)
    t, noise = torch.full((3, 2), 0.5), normal(1, 3, 2, 2, 4, 5)
    diffusion_loss(network, hops, FLOW, None, t, noise, level, context_noise, KEPT)
    assert torch.equal(network.index, torch.cat([hops.target_index, hops.index], dim=1))
    assert torch.equal(network.level, torch.cat([torch.zeros(3, 2), level], dim=1))
    torch.testing.assert_close(network.frames[:, :, :2], hops.target + 0.1)
    assert not network.frames.requires_grad  # trained by their own loss alone


def test_the_gradient_of_the_mover_is_that_of_its_own_loss():
    hops, network = make_hops(), Mover(0.1)
    losses = hop_loss(draws=2)(network, hops, batch_rng(0))
    whole, own = (
        torch.autograd.grad(losses[k], network.error, retain_graph=True)[0] for k in ("loss", "moved")
    )
    torch.testing.assert_close(whole, own)
    torch.testing.assert_close(own, 0.2 * (1 / SCALE.square()).mean())


def test_the_validation_measures_the_error_of_the_moved_base():
    losses = LevelLoss(FLOW)(Mover(0.1), make_hops(), batch_rng(0))
    assert losses["base"].item() == pytest.approx(0.01, rel=1e-4)


def test_a_hop_without_a_mover_has_no_loss_of_moved_frames():
    assert set(hop_loss()(Zero(), make_hops(), batch_rng(0))) == {"loss"}
