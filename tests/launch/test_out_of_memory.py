"""Suggestions for a training that does not fit into memory."""

import subprocess
import sys

import pytest
import torch

from vdp.core.errors import UserError
from vdp.launch.out_of_memory import (
    MemoryAdvisor,
    MemoryParam,
    advise_batch,
    is_out_of_memory,
    largest_that_fits,
)

pytestmark = pytest.mark.slow

CHANNELS = MemoryParam("denoiser.unet.base_channels", 64, 1, 8)
SIZE = MemoryParam("clip.height", 64, 2, 4, {"clip.width": 96})
CUDA = (
    "CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity of 8.00 GiB of which "
    "1.10 GiB is free. Including non-PyTorch memory, this process has 6.90 GiB memory in use."
)
IN_LITTLE_MEMORY = """
import resource
from vdp.launch.out_of_memory import is_out_of_memory, largest_that_fits
import torch
kept = []
free = 192 * 2**20
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + free,) * 2)

def attempt(samples):
    kept.clear()
    for _ in range(samples):
        kept.append(torch.empty(2**20 * 10))
    kept.clear()

fits = largest_that_fits(attempt, 24)
try:
    attempt(24)
except RuntimeError as error:
    print(fits, is_out_of_memory(error))
"""


def message(batch_size: int, accumulate: int, processes: int, fits: int, *params: MemoryParam) -> str:
    part = batch_size // accumulate // processes
    advisor = MemoryAdvisor(params, "a", batch_size, part, processes, lambda samples: None)
    return advisor.message(fits, CUDA)


def test_full_memory_is_recognised_and_the_largest_batch_found():
    """40 MiB a sample in an address space with 192 MiB free: four fit, or three."""
    run = subprocess.run([sys.executable, "-c", IN_LITTLE_MEMORY], capture_output=True, text=True)
    assert run.stdout.split() in (["3", "True"], ["4", "True"]), run.stderr


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(CUDA), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("DefaultCPUAllocator: can't allocate memory"), False),
    ],
)
def test_only_errors_of_memory_are_recognised(error, expected):
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize("room", range(10))
@pytest.mark.parametrize("samples", [0, 1, 7, 8])
def test_the_largest_number_that_fits_is_found_in_few_attempts(monkeypatch, room, samples):
    monkeypatch.setattr("vdp.launch.out_of_memory.release_memory", lambda: None)  # slow in a large process
    tried = []

    def attempt(count: int) -> None:
        tried.append(count)
        if count > room:
            raise MemoryError

    assert largest_that_fits(attempt, samples) == min(room, samples)
    assert len(tried) <= samples.bit_length()


def test_other_errors_of_an_attempt_are_raised():
    def attempt(count: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        largest_that_fits(attempt, 4)


def test_the_message_names_params_with_values_that_fit():
    assert message(24, 1, 1, 6, CHANNELS, SIZE) == (
        "a: out of memory (Tried to allocate 2.25 GiB, total capacity of 8.00 GiB): 6 samples of 24 would "
        "fit: set a.batch_size=6; or with the same batch, a.accumulate=4; or about "
        "denoiser.unet.base_channels=16; or about clip.height=32 and clip.width=48"
    )


@pytest.mark.parametrize(
    ("batch", "processes", "accumulate", "fits"),
    [(24, 1, 1, 5), (24, 2, 2, 4), (24, 2, 2, 1), (7, 1, 1, 3), (256, 8, 2, 9)],
)
def test_the_suggested_batch_fits_and_can_be_split(batch, processes, accumulate, fits):
    words = message(batch, accumulate, processes, fits).split()
    values = dict(word.rstrip(";").split("=") for word in words if "=" in word)
    lower, parts = int(values["a.batch_size"]), int(values["a.accumulate"])
    assert lower // (processes * accumulate) == fits and lower % (processes * accumulate) == 0
    assert lower < batch and parts > accumulate
    assert batch % (processes * parts) == 0 and batch // (processes * parts) <= fits


def test_where_not_one_sample_fits_other_params_are_suggested():
    assert message(4, 4, 1, 0, CHANNELS, SIZE).endswith(
        "no sample fits: try denoiser.unet.base_channels=32; or clip.height=40 and clip.width=60; or "
        "engine.checkpointing=true"
    )


@pytest.mark.parametrize(
    ("param", "share", "expected"),
    [
        (CHANNELS, 0.7, {CHANNELS.name: 40}),
        (CHANNELS, 0.001, {CHANNELS.name: 8}),  # never 0
        (SIZE, 0.25, {"clip.height": 32, "clip.width": 48}),
        (SIZE, 0.5, {"clip.height": 40, "clip.width": 60}),
        (MemoryParam("x", 100, 1, 1), 0.29, {"x": 29}),  # 28.999999999999996 in floating point
        (
            MemoryParam("h", 64, 2, 8, {"w": 104}),
            0.5,
            {"h": 40, "w": 72},
        ),  # none is 8:13
        (MemoryParam("vae.base_channels", 8, 1, 8), 0.5, {}),  # cannot be lowered
    ],
)
def test_a_scaled_param_keeps_its_multiple_and_its_ratio(param, share, expected):
    assert param.scaled(share) == expected


def test_a_param_that_cannot_be_lowered_is_not_suggested():
    assert "base_channels" not in message(16, 1, 1, 8, MemoryParam("vae.base_channels", 8, 1, 8))


@pytest.mark.parametrize(
    ("clips", "room", "advice"),
    [
        (12, 7, "with a batch of 48: set it to 28, the largest that fits"),
        (
            5,
            3,
            "with a batch of 20: set it to 12, the largest that fits",
        ),  # a set of fewer clips than a batch
        (12, 0, "with a batch of 48: 4 does not fit either; use a device with more memory"),
    ],
)
def test_a_batch_that_does_not_fit_ends_in_the_largest_that_does(clips, room, advice):
    """A clip has 4 samples, which `predict.batch_size` counts."""

    def sample(count: int) -> int:
        if count > room:
            raise torch.OutOfMemoryError(CUDA)
        return count

    with (
        pytest.raises(UserError, match=advice) as error,
        advise_batch("predict.batch_size", 4, clips, sample),
    ):
        sample(clips)
    assert str(error.value).startswith("predict.batch_size: out of memory (Tried to allocate 2.25 GiB, total")


def test_other_errors_of_a_batch_are_raised_as_they_are():
    with (
        pytest.raises(ValueError, match="clip 7"),
        advise_batch("predict.batch_size", 1, 2, lambda count: None),
    ):
        raise ValueError("clip 7")
