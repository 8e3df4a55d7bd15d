from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.oracle import Oracle, OracleContext, moving_clips
from tests.processes import every_process, objective_of
from vdp.core.context_frames import Hops
from vdp.core.rng import BatchRng, whole_batch
from vdp.diffusion.loss import LEVELS, HopLoss, LevelLoss, TaskLevelLoss, diffusion_loss, shift_time, times_of
from vdp.diffusion.objective import Objective
from vdp.diffusion.process import min_snr_weight, target
from vdp.diffusion.scheduled_sampling import ScheduledSampling

SCALE = torch.tensor([0.5, 2.0])
TRUTH = moving_clips(batch=3, channels=2, height=4, width=5)
SEEN = torch.zeros(3, dtype=torch.bool)
NO_OWN = ScheduledSampling(share=0.0, frames=1, steps=1, temperature=1.0)
either_target = pytest.mark.parametrize("residual", [True, False], ids=["residual", "plain"])


def make_hops() -> Hops:
    index = torch.tensor([[8.0, 6.0, 5.0, 4.0]]).expand(3, -1)
    target_index = torch.tensor([[10.0, 2.5]]).expand(3, -1)
    return Hops(TRUTH(index), index, TRUTH(target_index), target_index)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch_rng(seed: int) -> BatchRng:
    return whole_batch(torch.Generator().manual_seed(seed), 3)


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def flow(residual: bool = True) -> Objective:
    return objective_of("flow", "flow", SCALE, residual)


class Silent:
    """A denoiser that always says zero; remembers what it was given."""

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


@every_process
@either_target
def test_the_loss_of_a_network_that_knows_the_truth_is_zero(schedule, prediction, residual):
    hops, t = make_hops(), 0.05 + 0.9 * uniform(0, 3, 6)
    level = torch.full((3, 4), 0.2)
    noise, context_noise = normal(1, 3, 2, 6, 4, 5), normal(2, 3, 2, 4, 4, 5)

    def loss(objective: Objective, network: Oracle) -> float:
        return diffusion_loss(
            network, hops, objective, None, t, noise, level, context_noise, SEEN
        ).item()  # fmt: skip

    right = objective_of(schedule, prediction, SCALE, residual)
    assert loss(right, Oracle(TRUTH, right)) == pytest.approx(0, abs=1e-7)
    wrong = objective_of(schedule, prediction, 1.1 * SCALE, residual)
    assert loss(right, Oracle(TRUTH, wrong)) > 1e-4


@every_process
@either_target
def test_the_loss_of_a_network_that_says_nothing_is_the_mean_square_of_the_target(
    schedule, prediction, residual
):
    objective, hops, t = objective_of(schedule, prediction, SCALE, residual), make_hops(), uniform(0, 3, 2)
    noise, none = normal(1, 3, 2, 2, 4, 5), torch.zeros(3, 2, 4, 4, 5)
    loss = diffusion_loss(Silent(), hops, objective, None, t, noise, torch.zeros(3, 4), none, SEEN)
    x0 = objective.to_data(hops.target, objective.base(hops.known, hops.index, hops.target_index))
    torch.testing.assert_close(loss, target(x0, noise, t, objective.process).square().mean())


@every_process
def test_min_snr_weighs_the_error_at_each_time(schedule, prediction):
    objective, hops, t = objective_of(schedule, prediction, SCALE, True), make_hops(), uniform(0, 3, 2)
    noise, none = normal(1, 3, 2, 2, 4, 5), torch.zeros(3, 2, 4, 4, 5)
    loss = diffusion_loss(Silent(), hops, objective, 5.0, t, noise, torch.zeros(3, 4), none, SEEN)
    x0 = objective.to_data(hops.target, objective.base(hops.known, hops.index, hops.target_index))
    squares = target(x0, noise, t, objective.process).square().mean(dim=(1, 3, 4))
    torch.testing.assert_close(loss, (squares * min_snr_weight(t, objective.process, 5.0)).mean())


def test_known_frames_are_noised_to_the_level_that_the_network_is_told():
    hops, network = make_hops(), Silent()
    level = uniform(3, 3, 4)
    context_noise = normal(2, 3, 2, 4, 4, 5)
    t, noise = torch.full((3, 2), 0.5), normal(1, 3, 2, 2, 4, 5)
    diffusion_loss(network, hops, flow(), None, t, noise, level, context_noise, SEEN)
    added = (network.frames - hops.known) / context_noise
    torch.testing.assert_close(added, level[:, None, :, None, None].expand_as(added), atol=1e-3, rtol=1e-3)
    assert torch.equal(network.level, level)


def test_draws_of_one_target_stand_side_by_side():
    """Without noise the network sees the change itself, twice for each of the two targets."""
    hops, network = make_hops(), Silent()
    clean, none, noise = torch.zeros(3, 4), torch.zeros(3, 2, 4, 4, 5), normal(1, 3, 2, 4, 4, 5)
    diffusion_loss(network, hops, flow(), None, clean, noise, torch.zeros(3, 4), none, SEEN)
    torch.testing.assert_close(network.xt[:, :, 0], network.xt[:, :, 1])
    torch.testing.assert_close(network.xt[:, :, 2], network.xt[:, :, 3])
    assert not torch.allclose(network.xt[:, :, 0], network.xt[:, :, 2])


# --- What is drawn ---------------------------------------------------------------------------------------


def drawn_loss(
    draws: int = 1, context_noise: float = 0.0, context_dropout: float = 0.0, own: ScheduledSampling = NO_OWN
) -> HopLoss:
    return HopLoss({"predict": flow()}, None, 1.0, draws, context_noise, context_dropout, own)


@pytest.mark.parametrize("context_noise", [0.0, 0.3])
def test_the_drawn_loss_takes_its_chance_from_the_generator_alone(context_noise):
    def drawn(seed: int) -> tuple[Tensor, Silent]:
        network, loss = Silent(), drawn_loss(3, context_noise, context_dropout=0.5)
        return loss(network, make_hops(), batch_rng(seed))["loss"], network

    (first, network), (again, _), (other, _) = drawn(0), drawn(0), drawn(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert network.t.shape == (3, 6) and network.t.min() >= 0 and network.t.max() <= 1
    assert network.level.min() >= 0 and network.level.max() <= context_noise
    assert (network.level == network.level[:, :1]).all()  # one level for all known frames of a clip


def test_frames_that_are_made_together_are_at_one_time_and_draws_are_not():
    together, alone = Silent(joint=True), Silent(joint=False)
    for network in (together, alone):
        drawn_loss(draws=3)(network, make_hops(), batch_rng(0))
    by_target = together.t.reshape(3, 2, 3)
    assert torch.equal(by_target[:, 0], by_target[:, 1])
    assert (by_target[:, 0, 0] != by_target[:, 0, 1]).all()
    assert alone.t.unique().numel() == 3 * 2 * 3
    assert together.t.unique().numel() == 3 * 3


def test_times_are_drawn_with_the_shift_asked_for():
    plain, shifted = Silent(), Silent()
    for network, shift in ((plain, 1.0), (shifted, 3.0)):
        loss = replace(drawn_loss(draws=3), time_shift=shift)
        loss(network, make_hops(), batch_rng(0))
    torch.testing.assert_close(shifted.t, shift_time(plain.t, 3.0))


def test_the_drawn_loss_is_weighed_with_the_gamma_asked_for():
    def drawn(gamma: float | None) -> float:
        loss = replace(drawn_loss(draws=3), min_snr_gamma=gamma)
        return loss(Silent(), make_hops(), batch_rng(0))["loss"].item()

    assert 0 < drawn(1e-3) < 1e-3 * drawn(None)  # on the flow process no weight is above gamma


def test_every_draw_has_standard_normal_noise_of_its_own():
    network, hops = Silent(), make_hops()
    drawn_loss(draws=20)(network, hops, batch_rng(0))
    x0 = flow().to_data(hops.target, flow().base(hops.known, hops.index, hops.target_index))
    t = network.t[:, None, :, None, None]
    noise = (network.xt - (1 - t) * x0.repeat_interleave(20, dim=2)) / t
    rows = noise.transpose(1, 2)[network.t > 0.05].flatten(1)
    assert rows.mean().item() == pytest.approx(0, abs=0.05)
    assert rows.std().item() == pytest.approx(1, abs=0.05)
    assert ((rows[1:] - rows[:-1]).abs().amax(dim=1) > 0.1).all()


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (0.3, 0.3)])
def test_a_share_of_the_clips_is_learnt_without_known_pictures(share, expected):
    network, generator, dropped = Silent(), torch.Generator().manual_seed(0), []
    for _ in range(300):
        drawn_loss(context_dropout=share)(network, make_hops(), whole_batch(generator, 3))
        dropped.append(network.dropped)
    among = torch.stack(dropped).float()
    assert among.mean().item() == pytest.approx(expected, abs=0.05)
    mixed = (among != among[:, :1]).any(dim=1).float().mean().item()  # each clip draws its own numbers
    assert mixed == pytest.approx(1 - expected**3 - (1 - expected) ** 3, abs=0.1)


def test_clips_whose_pictures_are_withheld_have_no_noise_on_them():
    """The change to a noised frame that the network does not see would be noise to it."""
    network, generator = Silent(), torch.Generator().manual_seed(0)
    for _ in range(20):
        drawn_loss(context_noise=0.3, context_dropout=0.5)(network, make_hops(), whole_batch(generator, 3))
        assert not network.level[network.dropped].any()
    assert network.level.any()


def test_half_of_the_clips_have_clean_known_frames_and_the_others_noise_of_any_size_up_to_the_largest():
    network, generator, hops = Silent(), torch.Generator().manual_seed(0), make_hops()
    levels, noise = [], []
    for _ in range(300):
        drawn_loss(context_noise=0.3)(network, hops, whole_batch(generator, 3))
        levels.append(network.level[:, 0])
        noisy = network.level[:, 0] > 0.03
        noise.append((network.frames - hops.known)[noisy] / network.level[noisy, :1, None, None, None])
    drawn = torch.stack(levels)
    clean = drawn == 0
    assert clean.float().mean().item() == pytest.approx(0.5, abs=0.05)
    mixed = (clean != clean[:, :1]).any(dim=1).float().mean().item()  # each clip draws its own numbers
    assert mixed == pytest.approx(0.75, abs=0.1)
    at = drawn[~clean].quantile(torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(at, torch.tensor([0.075, 0.15, 0.225]), atol=0.03, rtol=0)
    assert torch.cat(noise).std().item() == pytest.approx(1, abs=0.01)


def test_a_share_of_the_steps_has_known_frames_of_the_networks_own_making():
    own = ScheduledSampling(share=0.3, frames=1, steps=1, temperature=1.0)
    network, generator, hops, made = Silent(), torch.Generator().manual_seed(0), make_hops(), 0
    for _ in range(300):
        drawn_loss(own=own)(network, hops, whole_batch(generator, 3))
        made += int(not torch.equal(network.frames, hops.known))
    assert made / 300 == pytest.approx(0.3, abs=0.07)


class Taught(nn.Module):
    """A denoiser whose output mixes all that it is given, of each clip alone."""

    def __init__(self, joint: bool) -> None:
        super().__init__()
        self.joint = joint
        self.weight = nn.Parameter(torch.tensor([0.3, 0.7], dtype=torch.float64))

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> Tensor:
        shown = frames.mean(dim=2) + level.mean(dim=1)[:, None, None, None] + index.mean() / 10
        return shown * ~dropped[:, None, None, None]

    def forward(self, xt: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.weight[0] * xt * (1 + t[:, None, :, None, None]) + self.weight[1] * context[:, :, None]


def part_of(hops: Hops, rows: range) -> Hops:
    taken = slice(rows.start, rows.stop)
    return Hops(hops.known[taken], hops.index[taken], hops.target[taken], hops.target_index[taken])


PARTED = [
    *(
        drawn_loss(2, 0.3, 0.4, ScheduledSampling(share, frames=2, steps=2, temperature=0.5))
        for share in (0.0, 0.5, 1.0)
    ),
    LevelLoss(flow()),
]


@pytest.mark.parametrize("loss", PARTED, ids=["plain", "own frames at times", "own frames", "at levels"])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("size", [1, 2])
def test_the_loss_of_a_batch_and_its_gradient_are_the_means_of_those_of_its_parts(loss, joint, size):
    truth = moving_clips(batch=4, channels=2, height=4, width=5)
    index, target_index = (
        torch.tensor([[8.0, 6, 5, 4]]).expand(4, -1),
        torch.tensor([[10.0, 2.5]]).expand(4, -1),
    )
    hops = Hops(truth(index).double(), index, truth(target_index).double(), target_index)
    network = Taught(joint)

    def results(rows: range) -> dict[str, Tensor]:
        losses = loss(network, part_of(hops, rows), BatchRng(torch.Generator().manual_seed(2), rows, 4))
        return {**losses, "gradient": torch.autograd.grad(losses["loss"], network.weight)[0]}

    parts = [results(range(first, first + size)) for first in range(0, 4, size)]
    for name, value in results(range(4)).items():
        mean = torch.stack([part[name] for part in parts]).mean(dim=0)
        torch.testing.assert_close(mean, value, rtol=1e-6, atol=1e-12)


# --- At fixed levels of noise ----------------------------------------------------------------------------


def test_on_the_straight_path_a_time_is_its_level():
    times = times_of([0.0, 0.1, 0.25, 0.9, 1.0], objective_of("flow", "flow", SCALE, True).process.schedule)
    torch.testing.assert_close(times, torch.tensor([0, 0.1, 0.25, 0.9, 1]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_times_of_levels_have_these_levels(schedule, dtype):
    """To half of a step of a table of a thousand."""
    process = objective_of(schedule, "v", SCALE, True).process
    alpha, sigma = process.schedule(times_of(LEVELS, process.schedule).to(dtype))
    torch.testing.assert_close(sigma / (alpha + sigma), torch.tensor(LEVELS, dtype=dtype), atol=2e-3, rtol=0)


def test_a_level_that_a_schedule_does_not_reach_is_at_its_end():
    def faint(t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - 0.4 * t, 0.4 * t

    times = times_of([0.2, 0.4, 0.41, 1.0], faint)
    torch.testing.assert_close(times, torch.tensor([0.5, 1, 1, 1]).double(), atol=1e-6, rtol=0)


@every_process
@either_target
def test_a_network_that_knows_the_truth_has_no_error_at_any_level(schedule, prediction, residual):
    objective = objective_of(schedule, prediction, SCALE, residual)
    oracle = Oracle(TRUTH, objective)
    losses = LevelLoss(objective)(oracle, make_hops(), batch_rng(0))
    assert list(losses) == ["loss", "x0", *(f"x0_{level}" for level in LEVELS)]
    assert all(value.item() == pytest.approx(0, abs=1e-6) for value in losses.values())
    assert oracle.calls == len(oracle.shown) == 1 and oracle.levels == [[0.0] * 4]


@pytest.mark.parametrize("joint", [True, False])
def test_every_target_is_noised_at_each_level_with_clean_frames_known(joint):
    network, hops = Silent(joint), make_hops()
    LevelLoss(flow())(network, hops, batch_rng(0))
    assert torch.equal(network.frames, hops.known)
    assert not network.dropped.any() and not network.level.any()
    torch.testing.assert_close(network.t, torch.tensor(LEVELS).repeat(3, 2), atol=1e-6, rtol=0)
    x0 = flow().to_data(hops.target, flow().base(hops.known, hops.index, hops.target_index))
    t = network.t[:, None, :, None, None]
    noise = (network.xt - (1 - t) * x0.repeat_interleave(5, dim=2)) / t
    assert noise.std().item() == pytest.approx(1, abs=0.05)


@either_target
def test_the_error_of_the_clean_frame_is_in_units_of_the_latents_whatever_is_diffused(residual):
    """A network that always gives clean data of zero stands for the base."""
    hops, objective = make_hops(), objective_of("cosine", "x0", SCALE, residual)
    losses = LevelLoss(objective)(Silent(), hops, batch_rng(0))
    base = objective.base(hops.known, hops.index, hops.target_index)
    expected = (hops.target - base).square().mean()
    for name in ("x0", *(f"x0_{level}" for level in LEVELS)):
        torch.testing.assert_close(losses[name], expected)
    torch.testing.assert_close(losses["loss"], objective.to_data(hops.target, base).square().mean())


@every_process
def test_the_error_at_a_level_is_that_of_its_own_draws(schedule, prediction):
    """A network that knows the truth at one level alone."""
    objective = objective_of(schedule, prediction, SCALE, True)

    class Partial(Oracle):
        def __call__(self, xt: Tensor, t: Tensor, context: OracleContext) -> Tensor:
            told = super().__call__(xt, t, context).unflatten(2, (2, 5))
            return torch.cat([told[:, :, :, :3] + 1, told[:, :, :, 3:4], told[:, :, :, 4:] - 1], 3).flatten(
                2, 3
            )

    losses = LevelLoss(objective)(Partial(TRUTH, objective), make_hops(), batch_rng(0))
    wrong = {level: losses[f"x0_{level}"].item() for level in LEVELS}
    assert wrong.pop(0.7) == pytest.approx(0, abs=1e-6)
    assert min(wrong.values()) > 1e-3
    assert losses["x0"].item() == pytest.approx(sum(wrong.values()) / 5)
    assert losses["loss"].item() == pytest.approx(0.8, abs=1e-4)


# --- Times -----------------------------------------------------------------------------------------------


def test_a_shift_of_one_leaves_times_alone_and_a_larger_one_moves_them_towards_one():
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(shift_time(t, 1.0), t)
    assert (shift_time(t, 3.0)[1:-1] > t[1:-1]).all()
    assert shift_time(t, 3.0)[[0, -1]].tolist() == [0, 1]
    assert shift_time(torch.tensor(0.5), 3.0).item() == pytest.approx(0.75)


def test_opposite_shifts_undo_each_other():
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(shift_time(shift_time(t, 4.0), 0.25), t)


# --- Several tasks ---------------------------------------------------------------------------------------


class Several:
    """A batch of several tasks."""

    def __init__(self, *parts: Hops) -> None:
        self.parts = parts


def of_task(task: str, hops: Hops) -> Hops:
    if task == "generate":
        hops = Hops(hops.known[:, :, :0], hops.index[:, :0], hops.target, hops.target_index)
    return replace(hops, task=task)


def test_each_task_is_noised_by_the_scale_of_its_own():
    """A network that gives zero is wrong by the clean data's size, which the scale divides."""
    hops, objectives = make_hops(), {}
    for task, size in (("predict", 1.0), ("restore", 2.0)):
        objectives[task] = objective_of("cosine", "x0", size * SCALE, residual=True)
    losses = [
        HopLoss(objectives, None, 1.0, 1, 0.0, 0.0, ScheduledSampling(0.0, 1, 1, 1.0))(
            Silent(), of_task(task, hops), batch_rng(0)
        )["loss"]
        for task in objectives
    ]
    torch.testing.assert_close(losses[0], 4 * losses[1])


def test_with_nothing_known_the_frame_itself_is_diffused_without_a_context():
    hops = of_task("generate", make_hops())
    objective = objective_of("cosine", "x0", SCALE, residual=True)
    loss = HopLoss({"generate": objective}, None, 1.0, 1, 0.5, 0.5, ScheduledSampling(1.0, 1, 1, 1.0))
    expected = (hops.target / SCALE[:, None, None, None]).square().mean()
    torch.testing.assert_close(loss(network := Silent(), hops, batch_rng(0))["loss"], expected)
    assert network.frames.shape[2] == 0


def test_made_frames_are_known_in_predictions_alone():
    own = ScheduledSampling(1.0, 2, 1, 1.0)
    hops, calls = make_hops(), {}
    for task in ("predict", "interpolate", "restore"):
        network = Silent()
        HopLoss({task: flow()}, None, 1.0, 1, 0.0, 0.0, own)(network, of_task(task, hops), batch_rng(0))
        calls[task] = torch.equal(network.frames, hops.known)
    assert calls == {"predict": False, "interpolate": True, "restore": True}


def test_validations_tell_every_task_under_its_name_and_their_mean_by_shares():
    hops, objective = make_hops(), objective_of("cosine", "x0", SCALE, True)
    objectives = dict.fromkeys(("predict", "generate"), objective)
    batch = Several(*(of_task(task, hops) for task in objectives))
    losses = TaskLevelLoss(objectives, {"predict": 3.0, "generate": 1.0, "restore": 9.0})(
        Silent(), batch, batch_rng(0)
    )
    single = LevelLoss(objective)(Silent(), batch.parts[0], batch_rng(0))
    other = LevelLoss(objective)(Silent(), batch.parts[1], batch_rng(1))
    assert list(losses) == ["loss", *list(single)[1:], *(f"generate_{name}" for name in list(single)[1:])]
    torch.testing.assert_close(losses["x0"], single["x0"])
    torch.testing.assert_close(losses["generate_x0"], other["x0"])  # a silent network sees no noise
    torch.testing.assert_close(losses["loss"], 0.75 * single["loss"] + 0.25 * other["loss"])
