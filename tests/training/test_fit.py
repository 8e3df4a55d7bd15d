import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vdp import device
from vdp.params import UserError
from vdp.training.fit import (
    averaged_decay,
    fit,
    fixed_batches,
    learning_rate,
    make_average,
    make_optimizer,
    mean_losses,
    noise_of,
    training_seed,
)
from vdp.training.params import FitParams
from vdp.training.read_ahead import rng_of

CPU = torch.device("cpu")
SLOPE, OFFSET = torch.tensor([[2.0, -1.0, 0.5]]), 0.25


def params_of(
    steps: int = 20,
    learning_rate: float = 0.05,
    warmup_steps: int = 5,
    ema_decay: float = 0.9,
    log_every: int = 5,
    validate_every: int = 10,
    grad_clip: float = 100.0,
) -> FitParams:
    return FitParams(
        steps=steps,
        batch_size=16,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        weight_decay=0.0,
        grad_clip=grad_clip,
        ema_decay=ema_decay,
        log_every=log_every,
        validate_every=validate_every,
        num_workers=0,
    )


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers on a machine whose CPU computes in bf16."""
    monkeypatch.setattr(device, "BF16_FLAGS", set())


class Notes:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.lines.append((step, metrics))


def batch_of(step: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal((16, 3)).astype(np.float32))


def regression(network: nn.Linear, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Squared error on a line with a little noise from the generator."""
    truth = batch @ SLOPE.T + OFFSET + 0.01 * torch.randn((16, 1), generator=generator)
    return {"loss": (network(batch) - truth).square().mean()}


def train(params: FitParams, seed: int = 0) -> tuple[nn.Linear, Notes]:
    training_seed(seed)
    notes = Notes()
    network = fit(
        nn.Linear(3, 1), regression, batch_of, params, seed, notes, CPU, lambda net: {"bias": net.bias.item()}
    )
    return network, notes


# --- Schedule --------------------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_in_a_line_and_falls_by_half_a_cosine():
    params = params_of(steps=1000, learning_rate=0.1, warmup_steps=10)
    assert learning_rate(0, params) == pytest.approx(0.1 / 10)
    assert learning_rate(4, params) == pytest.approx(0.1 / 2, rel=1e-3)
    assert learning_rate(500, params) == pytest.approx(0.1 / 2)
    assert learning_rate(250, params) == pytest.approx(0.1 * (1 + math.cos(math.pi / 4)) / 2)
    assert 0 < learning_rate(999, params) < 1e-5


def test_without_a_warm_up_training_starts_at_the_peak():
    assert learning_rate(0, params_of(learning_rate=0.1, warmup_steps=0)) == pytest.approx(0.1)


def test_after_the_warm_up_the_learning_rate_only_falls():
    params = params_of(steps=100, warmup_steps=10)
    rates = [learning_rate(step, params) for step in range(10, 100)]
    assert rates == sorted(rates, reverse=True)


# --- Averaged weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (1, 2 / 11), (8, 0.5), (890, 0.99), (10**6, 0.99)])
def test_the_average_forgets_fast_at_first_and_slowly_later(step, decay):
    assert averaged_decay(step, 0.99) == pytest.approx(decay)


def test_the_averaged_weights_are_worked_by_hand():
    network = nn.Linear(1, 1, bias=False)
    average = make_average(network, 0.3)
    expected = 0.0
    for step, weight in enumerate([4.0, 15.0, 1.0, -2.0]):
        nn.init.constant_(network.weight, weight)
        average.update_parameters(network)
        decay = 0.0 if step == 0 else min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
        assert average.module.weight.item() == pytest.approx(expected)
    assert network.weight.item() == -2  # the network itself goes on


def test_the_statistics_of_batch_norm_are_averaged_and_its_counter_copied():
    network = nn.BatchNorm1d(2)
    average = make_average(network, 0.9)
    for step in range(3):
        network(torch.randn((8, 2), generator=torch.Generator().manual_seed(step)))
        average.update_parameters(network)
    assert average.module.num_batches_tracked == 3
    assert not torch.equal(average.module.running_mean, network.running_mean)


# --- Randomness ------------------------------------------------------------------------------------------


def test_equal_seeds_give_bit_identical_weights_and_curves():
    (first, curve), (again, same) = train(params_of()), train(params_of())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert curve.lines == same.lines
    other, _ = train(params_of(), seed=1)
    assert not torch.equal(other.weight, first.weight)


def test_what_a_step_sees_depends_on_the_seed_and_its_number_alone():
    seen: dict[int, Tensor] = {}
    for step in (5, 2, 5, 3):
        noise = torch.randn((1, 3), generator=noise_of(0, step, 2, CPU))
        batch = torch.cat([batch_of(step, rng_of(0, step)), noise])
        assert torch.equal(seen.setdefault(step, batch), batch)
    assert not torch.equal(seen[5], seen[2])
    assert not torch.equal(batch_of(5, rng_of(0, 5, stream=1)), seen[5][:16])


def noise_seen(draws: int, num_steps: int = 4) -> list[float]:
    """The noise of each step of a training and of a validation, where a batch draws so many numbers first."""
    seen: list[float] = []

    def noted(network: nn.Linear, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        seen.append(torch.rand(1, generator=generator).item())
        return {"loss": network(batch).square().mean()}

    def drawing(step: int, rng: np.random.Generator) -> Tensor:
        rng.random(draws)
        return batch_of(step, rng)

    network = nn.Linear(3, 1)
    fit(network, noted, drawing, params_of(steps=num_steps), 0, Notes(), CPU, lambda net: {})
    mean_losses(network, noted, fixed_batches(drawing, 0), 0, CPU)
    return seen


def test_the_noise_of_a_step_is_its_own_and_does_not_depend_on_what_its_batch_drew():
    noise = noise_seen(draws=0)
    assert noise_seen(draws=7) == noise
    assert len(set(noise)) == len(noise) == 8


def test_noise_is_not_seeded_by_the_numbers_that_a_batch_draws():
    drawn: set[int] = set()
    seeds: set[int] = set()

    def drawing(step: int, rng: np.random.Generator) -> Tensor:
        drawn.add(int(rng.integers(2**63)))
        return torch.ones((16, 3))

    def noted(network: nn.Linear, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        seeds.add(generator.initial_seed())
        return {"loss": network(batch).square().mean()}

    network = nn.Linear(3, 1)
    fit(network, noted, drawing, params_of(steps=4), 0, Notes(), CPU, lambda net: {})
    mean_losses(network, noted, fixed_batches(drawing, 0), 0, CPU)
    assert len(seeds) == len(drawn) == 8 and not seeds & drawn


def test_each_step_gets_the_batch_of_its_number():
    numbers: list[int] = []

    def counted(step: int, rng: np.random.Generator) -> Tensor:
        return torch.full((16, 3), float(step))

    def noted(network: nn.Linear, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        numbers.append(int(batch[0, 0]))
        return {"loss": network(batch).square().mean()}

    fit(nn.Linear(3, 1), noted, counted, params_of(steps=6), 0, Notes(), CPU, lambda net: {})
    assert numbers == list(range(6))


def test_training_does_not_touch_or_need_the_global_generators():
    first, _ = train(params_of())
    training_seed(0)
    network = nn.Linear(3, 1)
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    again = fit(network, regression, batch_of, params_of(), 0, Notes(), CPU, lambda net: {})
    assert torch.equal(again.weight, first.weight)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


def test_validations_compare_for_their_batches_and_noise_are_fixed():
    batches = fixed_batches(batch_of, seed=0)
    assert len(batches) > 1 and not torch.equal(batches[0], batches[1])
    assert all(torch.equal(a, b) for a, b in zip(batches, fixed_batches(batch_of, seed=0), strict=True))
    network, _ = train(params_of())
    losses = [mean_losses(network, regression, batches, 0, CPU) for _ in range(2)]
    assert losses[0] == losses[1]


def test_a_mean_loss_is_the_mean_over_the_batches():
    def mean_of(network: nn.Linear, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": batch.mean()}

    batches = [torch.full((2, 2), float(value)) for value in (1, 2, 6)]
    assert mean_losses(nn.Linear(1, 1), mean_of, batches, 0, CPU) == {"loss": pytest.approx(3)}


# --- The loop --------------------------------------------------------------------------------------------


def test_a_line_is_found_through_its_points():
    network, _ = train(params_of(steps=300))
    torch.testing.assert_close(network.weight.data, SLOPE, atol=0.01, rtol=0)
    assert network.bias.item() == pytest.approx(OFFSET, abs=0.01)
    assert not network.training


def test_the_result_is_the_average_and_not_the_last_weights():
    training_seed(0)
    network = nn.Linear(3, 1)
    average = fit(network, regression, batch_of, params_of(), 0, Notes(), CPU, lambda net: {})
    assert average is not network
    assert not torch.equal(average.weight, network.weight)


def test_curves_have_a_point_at_each_interval_and_end_with_a_validation():
    _, notes = train(params_of(steps=25, log_every=5, validate_every=10))
    assert [step for step, line in notes.lines if "loss" in line] == [5, 10, 15, 20, 25]
    assert [step for step, line in notes.lines if "val_bias" in line] == [10, 20, 25]
    losses = [line["loss"] for _, line in notes.lines if "loss" in line]
    assert losses[-1] < losses[0]


def test_a_point_of_a_curve_is_the_mean_since_the_last_one():
    _, every = train(params_of(log_every=1))
    _, fifth = train(params_of(log_every=5))
    losses = [line["loss"] for _, line in every.lines if "loss" in line]
    means = [line["loss"] for _, line in fifth.lines if "loss" in line]
    assert means == pytest.approx([sum(losses[i : i + 5]) / 5 for i in range(0, 20, 5)])


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_ends_training_with_one_line_that_says_what_to_do(poison):
    def poisoned(network: nn.Linear, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": (poison * network(batch)).sum()}

    network = nn.Linear(3, 1)
    before = network.weight.clone()
    with pytest.raises(UserError, match="not finite at step 1; lower learning_rate=0.05") as error:
        fit(network, poisoned, batch_of, params_of(), 0, Notes(), CPU, lambda net: {})
    assert "\n" not in str(error.value)
    assert torch.equal(network.weight, before)  # the step was not taken


def test_large_gradients_are_clipped():
    """With a gradient of norm 1e6 clipped to 1e-12, AdamW's epsilon keeps the weights where they are."""

    def steep(network: nn.Linear, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": 1e6 * network.weight.sum()}

    network = nn.Linear(3, 1)
    before = network.weight.clone()
    fit(network, steep, batch_of, params_of(steps=2, grad_clip=1e-12), 0, Notes(), CPU, lambda net: {})
    torch.testing.assert_close(network.weight, before, atol=1e-4, rtol=0)


def test_weight_decay_is_for_matrices_and_kernels_and_not_for_biases_and_norms():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Linear(2, 2))
    network[2].weight.requires_grad_(False)
    params = params_of().model_copy(update={"weight_decay": 0.3})
    decay = {
        id(p): group["weight_decay"]
        for group in make_optimizer(network, params).param_groups
        for p in group["params"]
    }
    names = {name: decay.get(id(p)) for name, p in network.named_parameters()}
    assert names == {
        "0.weight": 0.3,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "2.weight": None,
        "2.bias": 0.0,
    }


def test_the_cost_is_told_once_the_first_steps_are_timed(capsys):
    train(params_of(steps=20))
    told = [line for line in capsys.readouterr().err.splitlines() if "parameters" in line]
    assert len(told) == 1
    assert "20 steps of 16" in told[0] and "samples/s" in told[0] and "GB" in told[0]
