"""The cost of a training."""

from collections.abc import Callable

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from tests.training.small import MemoryLogger, engine_params, fit_line, fit_params, line_training, regression
from vdp.core.flops import flop_counter
from vdp.core.rng import BatchRng
from vdp.training.checkpoint import TrainingCheckpoints
from vdp.training.cost import CostReport, counted_steps, matmul_rate, peak_memory_gb
from vdp.training.seeds import seed_weights

CPU = torch.device("cpu")
BATCH, STEPS = 16, 20  # of `fit_params`


class Rectified(torch.nn.Linear):
    """A layer of this file: torch does not compile its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


def test_the_lines_have_the_numbers_that_are_known():
    network = torch.nn.Linear(2_300_000, 2, bias=False)
    fabric = Fabric(accelerator="cpu", devices=1)
    whole, resumed = (
        CostReport("train_denoiser", network, 24, steps, fabric) for steps in (range(3000), range(1200, 3000))
    )
    whole.flops = resumed.flops = 31.2e12 / 8
    size = "train_denoiser: 4.60 M parameters, 3000 steps of 24, 11,700 TFLOP"
    assert whole.size_line() == size
    assert resumed.size_line() == f"{size}, of which 4,680 (40 %) are done"
    line = "train_denoiser: 192 samples/s, about 6.2 min for 3000 steps, 1.2 GB, 31.2 TFLOP/s"
    assert whole.speed_line(3000, 0.125, 1.24, None) == line
    assert "about 2.0 h" in whole.speed_line(7200, 1.0, 1.24, None)
    peak = "4 % of the 790 TFLOP/s of large bf16 matmuls"
    assert whole.speed_line(3000, 0.125, 1.24, 790e12) == f"{line}, {peak}"


# --- The FLOPs of a training -----------------------------------------------------------------------------


def flops_of(network: nn.Module, checkpoints: TrainingCheckpoints | None = None, **changes: object) -> float:
    logger, engine = MemoryLogger(), engine_params(save_steps=4)
    fit_line(line_training(network=network), fit_params(**changes), 0, logger, engine, checkpoints)
    return logger.flops


def test_the_flops_of_a_training_are_those_of_its_matmuls():
    """2 B per weight forward, and as many for its gradient; the second layer passes one on to the first.

    The loss computes the true line, of 3 weights.
    """
    line, layers = nn.Linear(3, 1), nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1))
    assert flops_of(line) == STEPS * 2 * BATCH * (2 * 3 + 3)
    assert flops_of(layers) == STEPS * 2 * BATCH * (2 * (3 * 5 + 5) + 5 + 3)


def test_the_flops_are_in_proportion_to_the_steps_and_do_not_depend_on_the_parts():
    flops = flops_of(nn.Linear(3, 1))
    assert flops_of(nn.Linear(3, 1), steps=2 * STEPS) == 2 * flops
    assert flops_of(nn.Linear(3, 1), steps=20 * STEPS) == 20 * flops  # of which several are counted
    assert flops_of(nn.Linear(3, 1), accumulate=4) == flops


@pytest.mark.parametrize("steps", [1, 3, 99, 100, 299, 700, 1600, 3001])
def test_the_counted_steps_are_few_and_spread_over_the_training(steps):
    counted = counted_steps(steps)
    assert counted[0] == 0 and counted[-1] < steps
    assert len(counted) <= min(8, max(1, steps / 100))
    assert steps < 200 or steps / 2 <= counted[-1]


def test_a_resumed_training_reports_the_flops_of_all_its_steps_and_the_share_done(tmp_path, capsys):
    checkpoints = TrainingCheckpoints(tmp_path / "a_training")
    whole = flops_of(nn.Linear(3, 1), checkpoints)  # the last checkpoint is of step 16
    size = "a_training: 0.00 M parameters, 20 steps of 16, 5.8e-09 TFLOP"
    assert capsys.readouterr().err.count(f"{size}\n") == 1
    assert flops_of(nn.Linear(3, 1), checkpoints) == whole == 5760
    assert f"{size}, of which 4.6e-09 (80 %) are done\n" in capsys.readouterr().err


def test_the_flops_are_reported_before_the_first_step():
    class Recorder(MemoryLogger):
        def add_flops(self, flops: float) -> None:
            weights.append(network.weight.clone())

    network = nn.Linear(3, 1)
    weights = [network.weight.clone()]
    fit_line(line_training(network=network), fit_params(), logger=Recorder())
    assert len(weights) == 2 and torch.equal(*weights)
    assert not torch.equal(weights[0], network.weight)


def test_counting_does_not_change_a_training(monkeypatch):
    """Neither the weights nor the statistics of batch norm, nor what dropout draws."""

    def with_dropout(network: nn.Module, batch: Tensor, batch_rng: BatchRng) -> dict[str, Tensor]:
        return regression(network, nn.functional.dropout(batch, 0.3), batch_rng)

    states, curves = [], []
    for counts in (True, False):
        if not counts:
            monkeypatch.setattr(CostReport, "count_flops", lambda *args: 0.0)
        seed_weights(0)
        network, logger = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), MemoryLogger()
        result = fit_line(line_training(with_dropout, network=network), fit_params(), logger=logger)
        states.append(
            {**result.network.state_dict(), **{f"last.{k}": v for k, v in network.state_dict().items()}}
        )
        curves.append(logger.points)
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    assert curves[0] == curves[1]
    assert states[0]["1.num_batches_tracked"] == STEPS


# --- Counters --------------------------------------------------------------------------------------------


def test_the_flops_of_a_linear_layer_are_those_of_its_matmuls():
    """2 m n k forward, and as many for the gradients of the input and of the weights each."""
    m, n, k = 5, 7, 11
    layer = torch.nn.Linear(k, n)
    x = torch.randn(m, k, requires_grad=True)
    with flop_counter() as forward:
        layer(x)
    with flop_counter() as both:
        layer(x).sum().backward()
    assert forward.get_total_flops() == 2 * m * n * k
    assert both.get_total_flops() == 3 * 2 * m * n * k


def test_the_flops_of_attention_are_those_of_its_two_products_on_the_cpu_too():
    q, k, v = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (5, 7, 7))
    with flop_counter() as forward:
        out = nn.functional.scaled_dot_product_attention(q, k, v)
    with flop_counter() as backward:
        out.sum().backward()
    product = 2 * (2 * 3) * 5 * 7 * 8
    assert forward.get_total_flops() == 2 * product
    assert backward.get_total_flops() == 5 * product  # the weights are computed again


def test_a_layer_is_compiled_after_its_flops_are_counted():
    compiled = []

    def backend(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        compiled.append(module)
        return module.forward

    layer = Rectified(11, 7)
    layer.compile(backend=backend)
    x = torch.randn(5, 11)
    with flop_counter() as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 5 * 7 * 11
    assert not compiled
    layer(x)
    assert len(compiled) == 1
    torch.compiler.reset()


def test_the_rate_of_a_matmul_is_plausible():
    assert 1e7 < matmul_rate(CPU, torch.float32) < 1e14


def test_the_peak_memory_on_a_cpu_is_that_of_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr("vdp.training.cost.STATUS", tmp_path / "status")
    (tmp_path / "status").write_text("VmPeak:\t 9000000 kB\nVmHWM:\t 2621440 kB\nVmRSS:\t 100 kB\n")
    assert peak_memory_gb(CPU) == 2.5
    (tmp_path / "status").unlink()
    assert 0.05 < peak_memory_gb(CPU) < 1000
