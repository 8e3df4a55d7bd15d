"""The cost of a training."""

from collections.abc import Callable

import torch
from lightning_fabric import Fabric

from vdp.training.cost import CostReport, flop_counter, matmul_rate, peak_memory_gb

CPU = torch.device("cpu")


class Rectified(torch.nn.Linear):
    """A layer of this file: torch does not compile its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


def test_the_line_has_the_numbers_that_are_known():
    network = torch.nn.Linear(2_300_000, 2, bias=False)
    report = CostReport("train_denoiser", network, 24, 1, Fabric(accelerator="cpu", devices=1))
    line = "train_denoiser: 4.60 M parameters, 3000 steps of 24, 192 samples/s, about 6.2 min, 1.2 GB"
    assert report.line(3000, 0.125, 1.24, None) == line
    assert "about 2.0 h" in report.line(7200, 1.0, 1.24, None)
    report.flops = 31e12 / 8
    assert report.line(3000, 0.125, 1.24, None) == f"{line}, 31 TFLOP/s"
    peak = "31 TFLOP/s, 4 % of the 790 TFLOP/s of large bf16 matmuls"
    assert report.line(3000, 0.125, 1.24, 790e12) == f"{line}, {peak}"


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
