"""What a training is told to take."""

from collections.abc import Callable

import torch

from vdp.training.cost import cost_line, count_flops, matmul_rate, peak_memory_gb

CPU = torch.device("cpu")


class Rectified(torch.nn.Linear):
    """A layer of this file: those of torch alone are not compiled."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


def test_the_line_has_every_number():
    line = cost_line("train_denoiser", 4_600_000, 3000, 24, 0.125, 1.24, 31e12 / 8, 790e12)
    assert line == (
        "train_denoiser: 4.60 M parameters, 3000 steps of 24, 192 samples/s, about 6.2 min, 1.2 GB, "
        "31 TFLOP/s, 4 % of the 790 that large bf16 matmuls reach here"
    )


def test_the_line_leaves_out_what_is_not_known():
    args = ("a", 10**6, 7200, 8, 1.0, 0.5)
    assert (
        cost_line(*args, None, None)
        == "a: 1.00 M parameters, 7200 steps of 8, 8 samples/s, about 2.0 h, 0.5 GB"
    )
    assert cost_line(*args, 2.5e12, None).endswith(", 0.5 GB, 2.5 TFLOP/s")


def test_the_flops_of_a_linear_layer_are_those_of_its_matmuls():
    """2 m n k forward, and as many for the gradients of the input and of the weights each."""
    m, n, k = 5, 7, 11
    layer = torch.nn.Linear(k, n)
    x = torch.randn(m, k, requires_grad=True)
    assert count_flops(lambda: layer(x)) == 2 * m * n * k
    assert count_flops(lambda: layer(x).sum().backward()) == 3 * 2 * m * n * k


def test_what_is_counted_first_is_compiled_all_the_same():
    compiled = []

    def backend(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        compiled.append(module)
        return module.forward

    layer = Rectified(11, 7)
    layer.compile(backend=backend)
    x = torch.randn(5, 11)
    assert count_flops(lambda: layer(x)) == 2 * 5 * 7 * 11
    assert not compiled
    layer(x)
    assert len(compiled) == 1
    torch.compiler.reset()


def test_a_matmul_is_timed_at_a_rate_that_machines_have():
    assert 1e7 < matmul_rate(CPU, torch.float32) < 1e14


def test_the_peak_on_a_cpu_is_what_linux_notes_for_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr("vdp.training.cost.STATUS", tmp_path / "status")
    (tmp_path / "status").write_text("VmPeak:\t 9000000 kB\nVmHWM:\t 2621440 kB\nVmRSS:\t 100 kB\n")
    assert peak_memory_gb(CPU) == 2.5
    (tmp_path / "status").unlink()
    assert 0.05 < peak_memory_gb(CPU) < 1000
