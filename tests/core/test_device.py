from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vdp.core import device
from vdp.core.device import autocast, cpu_flags, pick_device

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def another_machine() -> Iterator[None]:
    """What is remembered of this machine is forgotten before a test, and of the test's one after it."""
    cpu_flags.cache_clear()
    yield
    cpu_flags.cache_clear()


def cpu_with(flags: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose CPU has these flags."""
    path = folder / "cpuinfo"
    path.write_text(
        f"processor\t: 0\nmodel name\t: a CPU\nflags\t\t: {flags}\nbogomips\t: 1\n\nprocessor\t: 1\n"
    )
    monkeypatch.setattr(device, "CPUINFO", path)


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("fpu sse avx2 avx512f", torch.float32),
        ("fpu avx512f avx512_bf16", torch.bfloat16),
        ("amx_bf16 amx_tile", torch.bfloat16),
        ("avx512_bf16_not", torch.float32),
    ],
)
def test_the_cpu_computes_in_bf16_only_where_its_hardware_does(tmp_path, monkeypatch, flags, dtype):
    cpu_with(flags, tmp_path, monkeypatch)
    x = torch.ones(2, 2)
    with autocast(CPU):
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32


def test_flags_are_read_from_the_first_cpu(tmp_path, monkeypatch):
    cpu_with("fpu sse", tmp_path, monkeypatch)
    assert cpu_flags() == {"fpu", "sse"}


@pytest.mark.parametrize("text", [None, "", "processor: 0\nFeatures: neon\n"])
def test_a_system_that_lists_no_flags_computes_in_full_precision(tmp_path, monkeypatch, text):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(device, "CPUINFO", path)
    assert cpu_flags() == set()
    with autocast(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(("there", "kind"), [(True, "cuda"), (False, "cpu")])
def test_the_accelerator_is_taken_where_there_is_one(monkeypatch, there, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device().type == kind


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_computes_in_bf16_where_its_hardware_does():
    gpu = torch.device("cuda")
    x = torch.ones(2, 2, device=gpu)
    with autocast(gpu):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        assert (x @ x).dtype == (torch.bfloat16 if fast else torch.float32)
