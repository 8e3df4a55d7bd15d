import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn

from tests.training import small
from tests.training.small import (  # fmt: skip
    OFFSET,
    SLOPE,
    Notes,
    Points,
    Regression,
    engine_of,
    fitted,
    params_of,
    regression,
    train,
    training_of,
)
from vdp.core.errors import UserError
from vdp.core.rng import BatchRng
from vdp.training.checkpoint import States
from vdp.training.dataloader import noise_of, rng_of
from vdp.training.engine import Trained
from vdp.training.optim import averaged_decay, learning_rate, make_average, make_optimizer
from vdp.training.out_of_memory import Knob
from vdp.training.trainer import Training, training_seed
from vdp.training.validation import VALIDATION_BATCHES, VALIDATION_SIZE, validation_losses

CPU = torch.device("cpu")


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


def test_a_constant_learning_rate_stays_after_its_warm_up():
    params = params_of(steps=100, learning_rate=0.1, warmup_steps=10, schedule="constant")
    assert learning_rate(4, params) == pytest.approx(0.05)
    assert learning_rate(10, params) == learning_rate(99, params) == pytest.approx(0.1)


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
        batch = torch.cat([Points()(step, rng_of(0, step), range(16)), noise])
        assert torch.equal(seen.setdefault(step, batch), batch)
    assert not torch.equal(seen[5], seen[2])
    assert not torch.equal(Points()(5, rng_of(0, 5, stream=1), range(16)), seen[5][:16])


def noise_seen(draws: int, num_steps: int = 4) -> list[float]:
    """The noise of each step and of the validation's batches, where a batch draws so many numbers first."""
    seen: list[float] = []

    def noted(network: nn.Linear, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        seen.append(batch_rng.shared())
        return {"loss": network(batch).square().mean()}

    training = training_of(noted, Points(draws=draws))
    fitted(training, params_of(steps=num_steps, validate_every=99))
    validation_losses(Trained(nn.Linear(3, 1)), noted, Points(), one_process())
    return seen


def one_process() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def test_the_noise_of_a_step_is_its_own_and_does_not_depend_on_what_its_batch_drew():
    noise = noise_seen(draws=0)
    assert noise_seen(draws=7) == noise
    assert len(set(noise)) == len(noise) == 4 + VALIDATION_BATCHES


def test_each_step_gets_the_batch_of_its_number():
    batches = Points()
    fitted(training_of(batches=batches), params_of(steps=6))
    assert batches.seen == list(range(6))


def test_training_does_not_touch_or_need_the_global_generators():
    first, _ = train(params_of())
    training_seed(0)
    training = training_of()
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    again = fitted(training, params_of()).network
    assert torch.equal(again.weight, first.weight)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


def test_a_network_with_chance_of_its_own_learns_the_same_twice():
    """Dropout draws from torch's global generator, whose state in a training is a matter of the step."""

    def dropped(network: nn.Linear, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        return regression(network, nn.functional.dropout(batch, 0.5), batch_rng)

    results = []
    for burnt in (0, 5):
        training_seed(0)
        training = training_of(dropped)
        torch.rand(burnt)
        results.append(fitted(training, params_of()).network.weight)
    assert torch.equal(*results)
    assert not torch.equal(results[0], train(params_of())[0].weight)


def test_validations_compare_between_seeds_and_batch_sizes():
    """A network that does not learn has the same validation losses in every run."""
    curves = []
    for seed, size in ((0, 16), (3, 8)):
        training_seed(0)
        notes = Notes()
        still = params_of(batch_size=size, learning_rate=1e-30)
        fitted(training_of(batches=Points(size)), still, seed, notes)
        curves.append(notes.curve("val_loss"))
    assert curves[0] == curves[1] and len(curves[0]) == 2


def test_a_validation_is_the_mean_over_its_batches():
    def number(network: nn.Linear, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        return {"loss": batch.mean()}

    held_out = Points(VALIDATION_SIZE)
    expected = [
        held_out(i, rng_of(0, i, 1), range(VALIDATION_SIZE)).mean() for i in range(VALIDATION_BATCHES)
    ]
    found = validation_losses(Trained(nn.Linear(1, 1)), number, held_out, one_process())
    assert found == {"loss": pytest.approx(torch.stack(expected).mean().item(), rel=1e-6)}


# --- The loop --------------------------------------------------------------------------------------------


def test_a_line_is_found_through_its_points():
    network, _ = train(params_of(steps=300))
    torch.testing.assert_close(network.weight.data, SLOPE, atol=0.01, rtol=0)
    assert network.bias.item() == pytest.approx(OFFSET, abs=0.01)
    assert not network.training


def test_the_result_is_the_average_and_not_the_last_weights():
    training_seed(0)
    training = training_of()
    average = fitted(training, params_of()).network
    assert average is not training.network
    assert not torch.equal(average.weight, training.network.weight)


def test_curves_have_a_point_at_each_interval_and_end_with_a_validation():
    _, notes = train(params_of(steps=25, log_every=5, validate_every=10))
    assert [step for step, _ in notes.curve("loss")] == [5, 10, 15, 20, 25]
    assert [step for step, _ in notes.curve("val_loss")] == [10, 20, 25]
    losses = [value for _, value in notes.curve("loss")]
    assert losses[-1] < losses[0]


def test_a_point_of_a_curve_is_the_mean_since_the_last_one():
    _, every = train(params_of(log_every=1))
    _, fifth = train(params_of(log_every=5))
    losses = [value for _, value in every.curve("loss")]
    means = [value for _, value in fifth.curve("loss")]
    assert means == pytest.approx([sum(losses[i : i + 5]) / 5 for i in range(0, 20, 5)])


def test_the_best_weights_are_kept_beside_the_last_ones():
    """A measure that likes the start of the training best: the first validation wins."""
    training_seed(0)
    seen: list[Tensor] = []

    def worse_and_worse(network: nn.Linear, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        seen.append(network.weight.detach().clone())
        return {"loss": torch.tensor(float(len(seen)))}

    training = Training(
        "a_training", nn.Linear(3, 1), regression, Points(), worse_and_worse, Points(VALIDATION_SIZE)
    )
    last = fitted(training, params_of())
    assert set(last.spare) == {"best"}
    assert torch.equal(last.spare["best"]["weight"], seen[0])
    assert torch.equal(last.network.weight, seen[-1]) and not torch.equal(seen[0], seen[-1])


def test_the_weights_that_params_name_are_the_ones_in_use():
    training_seed(0)
    losses = iter([1.0] * VALIDATION_BATCHES + [2.0] * VALIDATION_BATCHES)

    def measure(network: nn.Linear, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        return {"loss": torch.tensor(next(losses))}

    training = Training("a", nn.Linear(3, 1), regression, Points(), measure, Points(VALIDATION_SIZE))
    best = fitted(training, params_of(keep="best"))
    _, notes = train(params_of(keep="last"))
    last = train(params_of(keep="last"))[0]
    assert set(best.spare) == {"last"}
    assert torch.equal(best.spare["last"]["weight"], last.weight)
    assert not torch.equal(best.network.weight, last.weight)


def test_a_picture_is_drawn_at_every_validation_by_the_averaged_weights():
    training_seed(0)
    notes, drawn = Notes(), []

    def draw(network: nn.Linear) -> np.ndarray:
        drawn.append(network.weight.detach().clone())
        return np.zeros((2, 2, 3), np.uint8)

    training = Training(
        "a", nn.Linear(3, 1), regression, Points(), regression, Points(VALIDATION_SIZE), draw=draw
    )
    result = fitted(training, params_of(), notes=notes)
    assert [(name, step) for name, _, step in notes.pictures] == [("samples", 10), ("samples", 20)]
    assert torch.equal(drawn[-1], result.network.weight)


def test_large_gradients_are_clipped():
    """With a gradient of norm 1e6 clipped to 1e-12, AdamW's epsilon keeps the weights where they are."""

    def steep(network: nn.Linear, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        return {"loss": 1e6 * network.weight.sum() + 0 * network.bias.sum()}

    network = nn.Linear(3, 1)
    before = network.weight.clone()
    fitted(training_of(steep, network=network), params_of(steps=2, grad_clip=1e-12))
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


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_batch_in_parts_gives_the_losses_and_weights_of_the_whole_one(accumulate):
    whole, whole_notes = train(params_of())
    parts, parts_notes = train(params_of(accumulate=accumulate))
    torch.testing.assert_close(parts.weight, whole.weight, atol=1e-6, rtol=0)
    for (_, loss), (_, expected) in zip(parts_notes.curve("loss"), whole_notes.curve("loss"), strict=True):
        assert loss == pytest.approx(expected, abs=1e-6)


def test_a_batch_that_cannot_be_parted_is_refused_with_the_nearest_that_can():
    with pytest.raises(UserError, match=r"a_training.batch_size=16 .* 3 equal parts.* 18"):
        fitted(training_of(), params_of().model_copy(update={"accumulate": 3}))
    with pytest.raises(ValueError, match="accumulate=3 does not divide batch_size=16"):
        params_of(accumulate=3)


def test_the_cost_is_told_once_the_first_steps_are_timed(capsys):
    train(params_of(steps=20))
    told = [line for line in capsys.readouterr().err.splitlines() if "parameters" in line]
    assert len(told) == 1
    assert "samples/s" in told[0] and "GB" in told[0]


class Normed(nn.Module):
    """A line found through batch norm, in a block of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.out = nn.Linear(4, 1)

    def blocks(self) -> list[nn.Module]:
        return [self.block]

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block(x))


def test_activations_that_are_computed_again_do_not_count_twice_in_batch_norm():
    states = []
    for checkpointing in (False, True):
        training_seed(0)
        result = fitted(
            training_of(network=Normed()), params_of(), engine=engine_of(checkpointing=checkpointing)
        )
        states.append(result.network.state_dict())
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    assert states[0]["block.1.num_batches_tracked"] == 20


# --- What is not finite ----------------------------------------------------------------------------------


def poisoned(steps: set[int], poison: float = math.nan) -> Regression:
    """A loss that is not finite at some steps."""
    calls: list[int] = []

    def loss(network: nn.Linear, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        calls.append(1)
        losses = regression(network, batch, batch_rng)
        return {"loss": losses["loss"] * poison} if len(calls) - 1 in steps else losses

    return loss


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted(poison):
    training_seed(0)
    notes = Notes()
    network = fitted(training_of(poisoned({4, 5, 11}, poison)), params_of(steps=200), notes=notes).network
    assert notes.curve("skipped_steps")[0] == (5, 1.0) and notes.curve("skipped_steps")[-1] == (200, 3.0)
    assert all(math.isfinite(loss) for _, loss in notes.curve("loss"))
    torch.testing.assert_close(network.weight.data, SLOPE, atol=0.05, rtol=0)


def test_a_skipped_step_leaves_the_weights_and_their_average_as_they_were():
    training_seed(0)
    training = training_of(poisoned({0, 1}))
    before = training.network.weight.clone()
    average = fitted(training, params_of(steps=2)).network
    assert torch.equal(training.network.weight, before) and torch.equal(average.weight, before)


def test_a_skipped_step_does_not_count_in_batch_norm():
    """Its forward pass has already seen what is not finite."""

    def poisoned_batch(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        calls.append(1)
        return regression(network, batch * (math.nan if len(calls) == 3 else 1), batch_rng)

    calls: list[int] = []
    training_seed(0)
    state = fitted(training_of(poisoned_batch, network=Normed()), params_of()).network.state_dict()
    assert all(bool(torch.isfinite(value).all()) for value in state.values())
    assert state["block.1.num_batches_tracked"] == 19


def test_too_many_skipped_steps_in_a_row_end_training_with_one_line_that_says_what_to_do():
    with pytest.raises(UserError, match=r"not finite at step 9, nor at the 2 before it") as error:
        fitted(training_of(poisoned({2, 3, 6, 7, 8})), params_of())
    told = str(error.value)
    assert "a_training.learning_rate=0.05" in told and "point 128" in told and "engine.precision" in told
    assert "\n" not in told


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """A finite gradient can still make infinite weights: the training ends, the last good state stays."""

    def breaking(network: nn.Linear, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        if batch_rng.samples == 16 and breaking.steps == 6:
            network.bias.data.fill_(math.inf)
        breaking.steps += batch_rng.samples == 16
        return {
            "loss": regression(network, batch, batch_rng)["loss"].nan_to_num(0, 0, 0)
            + 0 * network.weight.sum()
        }

    breaking.steps = 0
    states = States(tmp_path / "states")
    with pytest.raises(UserError, match="weights are not finite after step 8.*learning_rate=0.05"):
        fitted(
            training_of(breaking), params_of(), engine=engine_of(save_steps=4, max_skipped=99), states=states
        )
    _, notes = states.newest()
    assert notes["progress"]["step"] == 4


def in_fp16() -> Fabric:
    """fp16 with a scaler, which a GPU would have, on this CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=10**6)
    precision = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    return Fabric(accelerator="cpu", devices=1, plugins=[precision])


def test_fp16_finds_its_scale_and_goes_on_with_it_after_a_stop(tmp_path, monkeypatch):
    """A scale of 2^40 overflows fp16 at first: those steps are skipped, and the scale is halved each time."""
    monkeypatch.setattr(small, "launch", lambda engine: in_fp16())
    engine = engine_of(max_skipped=40, save_steps=10)
    params = params_of(steps=400, validate_every=400)
    training_seed(0)
    notes, states = Notes(), States(tmp_path / "states")
    network = fitted(training_of(), params, notes=notes, engine=engine, states=states).network
    skipped = notes.curve("skipped_steps")
    assert 10 < skipped[-1][1] < 40 and skipped[-1][1] == skipped[20][1]
    torch.testing.assert_close(network.weight.data, SLOPE, atol=0.05, rtol=0)
    _, saved = states.newest()
    assert saved["scaler"]["scale"] < 2.0**30
    training_seed(0)
    again = fitted(training_of(), params, notes=(resumed := Notes()), engine=engine, states=states).network
    assert torch.equal(again.weight, network.weight) and resumed.lines == notes.lines


# --- Memory ----------------------------------------------------------------------------------------------


def test_out_of_memory_is_told_with_a_batch_that_fits():
    def hungry(network: nn.Linear, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        if len(batch) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        return regression(network, batch, batch_rng)

    with pytest.raises(UserError, match="a_training.batch_size=5") as error:
        fitted(training_of(hungry), params_of())
    assert "a_training.accumulate=4" in str(error.value) and "\n" not in str(error.value)


def test_memory_that_ends_in_a_validation_is_told_in_one_line():
    def hungry(network: nn.Linear, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    training = replace(training_of(), measure=hungry, knobs=[Knob("network.width", 8, 1, 1)])
    with pytest.raises(
        UserError, match="a_training: out of memory outside of a step: lower network.width"
    ) as error:
        fitted(training, params_of())
    assert "\n" not in str(error.value)


def test_other_errors_are_not_taken_for_lack_of_memory():
    def broken(network: nn.Linear, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        fitted(training_of(broken), params_of())
