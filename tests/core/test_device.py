from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vdp.core import machine
from vdp.core.device import autocast, pick_device, use_precision
from vdp.core.machine import cpu_flags, describe_machine

CPU = torch.device("cpu")
CPUINFO = "processor\t: 0\nmodel name\t: a CPU\nflags\t\t: {}\nbogomips\t: 1\n\nprocessor\t: 1\n"


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file in place of /proc/cpuinfo."""
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    cpu_flags.cache_clear()
    yield tmp_path / "cpuinfo"
    cpu_flags.cache_clear()


@pytest.mark.parametrize(
    ("text", "flags", "dtype"),
    [
        (CPUINFO.format("fpu avx2 avx512f"), {"fpu", "avx2", "avx512f"}, torch.float32),
        (CPUINFO.format("fpu avx512_bf16"), {"fpu", "avx512_bf16"}, torch.bfloat16),
        (CPUINFO.format("amx_bf16 amx_tile"), {"amx_bf16", "amx_tile"}, torch.bfloat16),
        (CPUINFO.format("avx512_bf16_not"), {"avx512_bf16_not"}, torch.float32),
        (None, set(), torch.float32),
        ("", set(), torch.float32),
        ("processor: 0\nFeatures: neon\n", set(), torch.float32),
    ],
)
def test_the_cpu_computes_in_bf16_only_with_hardware_support(cpuinfo, text, flags, dtype):
    if text is not None:
        cpuinfo.write_text(text)
    assert cpu_flags() == flags
    x = torch.ones(2, 2)
    with autocast(CPU):
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize("flags", ["avx2", "amx_bf16"])
@pytest.mark.parametrize(("precision", "dtype"), [(32, torch.float32), ("bf16", torch.bfloat16)])
def test_a_set_precision_overrides_the_hardware_in_its_block(cpuinfo, flags, precision, dtype):
    cpuinfo.write_text(CPUINFO.format(flags))
    x = torch.ones(2, 2)
    with use_precision(precision), autocast(CPU):
        assert (x @ x).dtype == dtype
    with autocast(CPU):
        assert (x @ x).dtype == (torch.bfloat16 if flags == "amx_bf16" else torch.float32)


@pytest.mark.parametrize(
    ("flags", "units"),
    [
        ("avx2 avx512f", "no AVX512-BF16"),
        ("avx512_bf16", "AVX512-BF16"),
        ("amx_bf16 avx512_bf16", "AVX512-BF16 and AMX-BF16"),
    ],
)
def test_a_machine_is_named_by_its_cpu_its_cores_and_its_bf16_units(cpuinfo, monkeypatch, flags, units):
    monkeypatch.setattr(machine, "cpu_cores", lambda: 2)
    cpuinfo.write_text(CPUINFO.format(flags))
    assert describe_machine() == f"a CPU, 2 cores, {units}"


@pytest.mark.parametrize(("available", "kind"), [(True, "cuda"), (False, "cpu")])
def test_the_gpu_is_picked_if_available(monkeypatch, available, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert pick_device().type == kind


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_computes_in_bf16_only_with_hardware_support():
    gpu = torch.device("cuda")
    x = torch.ones(2, 2, device=gpu)
    with autocast(gpu):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        assert (x @ x).dtype == (torch.bfloat16 if fast else torch.float32)
