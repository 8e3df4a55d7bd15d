"""The training loop on a small training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn

from tests.training import small
from tests.training.small import (
    OFFSET,
    SLOPE,
    MemoryLogger,
    Points,
    engine_params,
    fit_line,
    fit_params,
    line_training,
    regression,
    train,
)
from vdp.core.errors import UserError
from vdp.core.rng import BatchRng
from vdp.launch.out_of_memory import MemoryParam
from vdp.training.checkpoint import TrainingCheckpoints
from vdp.training.definition import Samples
from vdp.training.ema import make_ema
from vdp.training.engine import ForwardWrapper
from vdp.training.optim import learning_rate, make_optimizer
from vdp.training.seeds import seed_weights, step_rng
from vdp.training.validation import VALIDATION_BATCHES, VALIDATION_SIZE, validation_losses

pytestmark = pytest.mark.slow

# --- Optimizer and average -------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_linearly_and_falls_by_half_a_cosine():
    params = fit_params(steps=1000, learning_rate=0.1, warmup_steps=10)
    assert learning_rate(0, params) == pytest.approx(0.1 / 10)
    assert learning_rate(4, params) == pytest.approx(0.1 / 2, rel=1e-3)
    assert learning_rate(500, params) == pytest.approx(0.1 / 2)
    assert learning_rate(250, params) == pytest.approx(0.1 * (1 + math.cos(math.pi / 4)) / 2)
    assert 0 < learning_rate(999, params) < 1e-5
    rates = [learning_rate(step, params) for step in range(10, 1000)]
    assert rates == sorted(rates, reverse=True)
    assert learning_rate(0, fit_params(learning_rate=0.1, warmup_steps=0)) == pytest.approx(0.1)


def test_a_constant_learning_rate_stays_after_its_warm_up():
    params = fit_params(steps=100, learning_rate=0.1, warmup_steps=10, lr_schedule="constant")
    assert learning_rate(4, params) == pytest.approx(0.05)
    assert learning_rate(10, params) == learning_rate(99, params) == pytest.approx(0.1)


def test_the_moving_average_equals_its_formula():
    network = nn.Linear(1, 1, bias=False)
    ema, expected = make_ema(network, 0.3), 0.0
    for step, weight in enumerate([4.0, 15.0, 1.0, -2.0]):
        nn.init.constant_(network.weight, weight)
        ema.update_parameters(network)
        decay = 0.0 if step == 0 else min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
        assert ema.module.weight.item() == pytest.approx(expected)
    assert network.weight.item() == -2  # the network itself is not averaged


def test_the_statistics_of_batch_norm_are_averaged_and_its_counter_copied():
    network = nn.BatchNorm1d(2)
    ema = make_ema(network, 0.9)
    for step in range(3):
        network(torch.randn((8, 2), generator=torch.Generator().manual_seed(step)))
        ema.update_parameters(network)
    assert ema.module.num_batches_tracked == 3
    assert not torch.equal(ema.module.running_mean, network.running_mean)


def test_weight_decay_is_for_matrices_and_kernels_and_not_for_biases_and_norms():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Linear(2, 2))
    network[2].weight.requires_grad_(False)
    groups = make_optimizer(network, fit_params(weight_decay=0.3)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    expected = {"0.weight": 0.3, "0.bias": 0, "1.weight": 0, "1.bias": 0, "2.weight": None, "2.bias": 0}
    assert {name: decay.get(id(p)) for name, p in network.named_parameters()} == expected


def test_large_gradients_are_clipped():
    """With a gradient of norm 1e6 clipped to 1e-12, AdamW's epsilon keeps the weights where they are."""

    def steep(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        return {"loss": 1e6 * network.weight.sum() + 0 * network.bias.sum()}

    network = nn.Linear(3, 1)
    before = network.weight.clone()
    fit_line(line_training(steep, network=network), fit_params(steps=2, grad_clip=1e-12))
    torch.testing.assert_close(network.weight, before, atol=1e-4, rtol=0)


# --- Random numbers --------------------------------------------------------------------------------------


def test_equal_seeds_give_bit_identical_weights_and_curves():
    (first, curve), (again, same) = train(fit_params()), train(fit_params())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert curve.points == same.points
    other, _ = train(fit_params(), seed=1)
    assert not torch.equal(other.weight, first.weight)


def drawn_noise(draws: int) -> list[float]:
    """Noise of each step and of the validation batches, after `draws` random numbers in a batch."""
    noise: list[float] = []

    def loss(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        noise.append(batch_rng.shared())
        return {"loss": network(batch).square().mean()}

    fit_line(line_training(loss, Points(draws=draws)), fit_params(steps=4, validate_every=99))
    validation_losses(ForwardWrapper(nn.Linear(3, 1)), loss, Points(), one_process())
    return noise


def one_process() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def test_the_noise_of_a_step_is_its_own_and_does_not_depend_on_the_draws_of_its_batch():
    noise = drawn_noise(draws=0)
    assert drawn_noise(draws=7) == noise
    assert noise[0] == noise[1]  # the FLOPs of the first step are counted with its own noise
    assert len(set(noise)) == len(noise) - 1 == 4 + VALIDATION_BATCHES


def test_training_neither_changes_nor_uses_the_global_generators():
    """Dropout draws from torch's global generator, which is seeded by the step."""

    def with_dropout(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        return regression(network, nn.functional.dropout(batch, 0.5), batch_rng)

    results = []
    for draws in (0, 5):
        seed_weights(0)
        training = line_training(with_dropout)
        torch.rand(draws)
        state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
        results.append(fit_line(training, fit_params()).network.weight)
        assert torch.equal(torch.random.get_rng_state(), state)
        np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(*results)
    assert not torch.equal(results[0], train(fit_params())[0].weight)


# --- Validation ------------------------------------------------------------------------------------------


def test_validations_compare_between_seeds_and_batch_sizes():
    """A network that does not learn has the same validation losses in every run."""
    curves = []
    for seed, size in ((0, 16), (3, 8)):
        seed_weights(0)
        logger = MemoryLogger()
        params = fit_params(batch_size=size, learning_rate=1e-30)
        fit_line(line_training(batches=Points(size)), params, seed, logger)
        curves.append(logger.curve("val_loss"))
    assert curves[0] == curves[1] and len(curves[0]) == 2


def test_a_validation_loss_is_the_mean_over_its_batches():
    def mean(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        return {"loss": batch.mean()}

    batches, rows = Points(VALIDATION_SIZE), range(VALIDATION_SIZE)
    expected = [batches(i, step_rng(0, i, 1), rows).mean() for i in range(VALIDATION_BATCHES)]
    found = validation_losses(ForwardWrapper(nn.Linear(1, 1)), mean, batches, one_process())
    assert found == {"loss": pytest.approx(torch.stack(expected).mean().item(), rel=1e-6)}


@pytest.mark.parametrize(("keep", "other"), [("last", "best"), ("best", "last")])
def test_the_best_and_the_last_weights_are_kept(keep, other):
    """With a rising validation loss the first validation is the best one."""
    seed_weights(0)
    validated: list[Tensor] = []

    def rising(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        validated.append(network.weight.detach().clone())
        return {"loss": torch.tensor(float(len(validated)))}

    result = fit_line(line_training(val_loss=rising), fit_params(keep=keep))
    weights = {"best": validated[0], "last": validated[-1]}
    assert not torch.equal(weights["best"], weights["last"])
    assert list(result.other_weights) == [other]
    assert torch.equal(result.network.weight, weights[keep])
    assert torch.equal(result.other_weights[other]["weight"], weights[other])


def test_a_picture_of_the_averaged_weights_is_logged_at_every_validation():
    seed_weights(0)
    logger, plotted = MemoryLogger(), []

    def plot(network: nn.Module) -> Samples:
        plotted.append(network.weight.detach().clone())
        frame = np.zeros((2, 2, 3), np.uint8)
        return Samples(frame, {"psnr": float(len(plotted))}, [frame] * 3)

    result = fit_line(replace(line_training(), plot=plot), fit_params(), logger=logger)
    assert [(name, step) for name, _, step in logger.pictures] == [("samples", 10), ("samples", 20)]
    assert torch.equal(plotted[-1], result.network.weight)
    assert logger.curve("val_psnr") == [(10, 1.0), (20, 2.0)]
    assert logger.films == [("samples", 3, 10), ("samples", 3, 20)]


# --- The loop --------------------------------------------------------------------------------------------


def test_a_line_is_fitted_to_its_points(capsys):
    network, _ = train(fit_params(steps=300))
    torch.testing.assert_close(network.weight.data, SLOPE, atol=0.01, rtol=0)
    assert network.bias.item() == pytest.approx(OFFSET, abs=0.01)
    assert not network.training
    size, speed = (line for line in capsys.readouterr().err.splitlines() if "TFLOP" in line)
    assert "300 steps of 16" in size and "TFLOP" in size
    assert "samples/s" in speed and "GB" in speed and "TFLOP/s" in speed


def test_curves_have_a_point_at_each_interval_and_end_with_a_validation():
    _, logger = train(fit_params(steps=25, log_every=5, validate_every=10))
    assert [step for step, _ in logger.curve("loss")] == [5, 10, 15, 20, 25]
    assert [step for step, _ in logger.curve("val_loss")] == [10, 20, 25]
    losses = [value for _, value in logger.curve("loss")]
    assert losses[-1] < losses[0]


def test_a_point_of_a_curve_is_the_mean_since_the_last_one():
    _, every = train(fit_params(log_every=1))
    _, fifth = train(fit_params(log_every=5))
    losses = [value for _, value in every.curve("loss")]
    means = [value for _, value in fifth.curve("loss")]
    assert means == pytest.approx([sum(losses[i : i + 5]) / 5 for i in range(0, 20, 5)])


def test_accumulate_has_to_divide_the_batch():
    with pytest.raises(ValueError, match="accumulate=3: expected a divisor of batch_size=16"):
        fit_params(accumulate=3)


class Normed(nn.Module):
    """A line through batch norm in a block."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.out = nn.Linear(4, 1)

    def blocks(self) -> list[nn.Module]:
        return [self.block]

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block(x))


def test_recomputed_activations_are_not_counted_twice_in_batch_norm():
    states = []
    for checkpointing in (False, True):
        seed_weights(0)
        engine = engine_params(checkpointing=checkpointing)
        result = fit_line(line_training(network=Normed()), fit_params(), engine=engine)
        states.append(result.network.state_dict())
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    assert states[0]["block.1.num_batches_tracked"] == 20


# --- Non-finite gradients and weights --------------------------------------------------------------------


class Poisoned:
    """A loss that is not finite in some steps, by its value or by its batch."""

    def __init__(self, steps: set[int], loss: float = math.nan, batch: float = 1.0) -> None:
        self.steps, self.loss, self.batch = steps, loss, batch
        self.calls = -1  # the first one counts FLOPs

    def __call__(self, network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        bad = self.calls in self.steps
        self.calls += 1
        losses = regression(network, batch * self.batch if bad else batch, batch_rng)
        return {"loss": losses["loss"] * self.loss} if bad else losses


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted(value):
    seed_weights(0)
    logger = MemoryLogger()
    training = line_training(Poisoned({4, 5, 11}, value))
    network = fit_line(training, fit_params(steps=195), logger=logger).network
    skipped = logger.curve("skipped_steps")
    assert skipped[0] == (5, 1.0) and skipped[-1] == (195, 3.0)
    assert all(math.isfinite(loss) for _, loss in logger.curve("loss"))
    torch.testing.assert_close(network.weight.data, SLOPE, atol=0.05, rtol=0)


def test_a_skipped_step_does_not_change_the_weights_and_their_average():
    seed_weights(0)
    training = line_training(Poisoned({0, 1}))
    before = training.network.weight.clone()
    average = fit_line(training, fit_params(steps=2)).network
    assert torch.equal(training.network.weight, before) and torch.equal(average.weight, before)


def test_a_skipped_step_does_not_change_batch_norm():
    seed_weights(0)
    training = line_training(Poisoned({2}, 1.0, batch=math.nan), network=Normed())
    state = fit_line(training, fit_params()).network.state_dict()
    assert all(bool(torch.isfinite(value).all()) for value in state.values())
    assert state["block.1.num_batches_tracked"] == 19


def test_too_many_skipped_steps_in_a_row_end_the_training():
    with pytest.raises(UserError, match=r"not finite at step 9 and the 2 before") as error:
        fit_line(line_training(Poisoned({2, 3, 6, 7, 8})), fit_params())
    text = str(error.value)
    assert "a_training.learning_rate=0.05" in text and "point 128" in text and "engine.precision" in text
    assert "\n" not in text


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """A finite gradient can still give infinite weights."""
    calls: list[int] = []

    def breaking(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) == 8:  # the first one counts FLOPs
            network.bias.data.fill_(math.inf)
        loss = regression(network, batch, batch_rng)["loss"].nan_to_num(0, 0, 0)
        return {"loss": loss + 0 * network.weight.sum()}

    checkpoints, engine = TrainingCheckpoints(tmp_path / "a"), engine_params(save_steps=4, max_skipped=99)
    with pytest.raises(UserError, match="weights are not finite after step 8.*learning_rate=0.05"):
        fit_line(line_training(breaking), fit_params(), engine=engine, checkpoints=checkpoints)
    _, notes = checkpoints.newest()
    assert notes["progress"]["step"] == 4


def fp16_on_cpu() -> Fabric:
    """fp16 with a scaler, as on a GPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=10**6)
    precision = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    return Fabric(accelerator="cpu", devices=1, plugins=[precision])


def test_the_scale_of_fp16_adapts_and_is_resumed(tmp_path, monkeypatch):
    """A scale of 2^40 overflows fp16 at first: those steps are skipped, and the scale is halved each time."""
    monkeypatch.setattr(small, "launch", lambda engine: fp16_on_cpu())
    engine = engine_params(max_skipped=40, save_steps=10)
    params = fit_params(steps=400, validate_every=400)
    logger, resumed, checkpoints = MemoryLogger(), MemoryLogger(), TrainingCheckpoints(tmp_path / "a")
    seed_weights(0)
    network = fit_line(line_training(), params, 0, logger, engine, checkpoints).network
    skipped = logger.curve("skipped_steps")
    assert 10 < skipped[-1][1] < 40 and skipped[-1][1] == skipped[20][1]
    torch.testing.assert_close(network.weight.data, SLOPE, atol=0.05, rtol=0)
    _, notes = checkpoints.newest()
    assert notes["scaler"]["scale"] < 2.0**30
    seed_weights(0)
    again = fit_line(line_training(), params, 0, resumed, engine, checkpoints).network
    assert torch.equal(again.weight, network.weight) and resumed.points == logger.points


# --- Memory ----------------------------------------------------------------------------------------------


def out_of_memory(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
    if len(batch) > 5:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
    return regression(network, batch, batch_rng)


def test_full_memory_in_a_step_is_reported_with_a_batch_that_fits():
    with pytest.raises(UserError, match="a_training.batch_size=5.*a_training.accumulate=4"):
        fit_line(line_training(out_of_memory), fit_params())


def test_full_memory_in_a_validation_is_reported_with_params_to_lower():
    training = replace(
        line_training(val_loss=out_of_memory), memory_params=[MemoryParam("network.width", 8, 1, 1)]
    )
    with pytest.raises(UserError, match="out of memory outside of a step: lower network.width"):
        fit_line(training, fit_params())


def test_other_errors_are_not_reported_as_full_memory():
    def broken(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        fit_line(line_training(broken), fit_params())
