"""What is told when a training does not fit into memory."""

import subprocess
import sys

import pytest
import torch

from vdp.training.out_of_memory import Knob, advice, is_out_of_memory, largest_that_fits

CHANNELS = Knob("denoiser.unet.base_channels", 64, 1, 8)
SIZE = Knob("clip.height", 64, 2, 4, {"clip.width": 96})
CUDA = (
    "CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity of 8.00 GiB of which "
    "1.10 GiB is free. Including non-PyTorch memory, this process has 6.90 GiB memory in use."
)
IN_LITTLE_MEMORY = """
import resource
from vdp.training.memory import advice, is_out_of_memory, largest_that_fits
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
    print(fits, is_out_of_memory(error), advice("train_denoiser", 24, 1, fits, [], str(error)))
"""


def test_memory_that_really_ends_is_known_and_what_fits_is_found():
    """40 MiB a sample in an address space with 192 MiB to spare: four fit, or three."""
    run = subprocess.run([sys.executable, "-c", IN_LITTLE_MEMORY], capture_output=True, text=True)
    fits, known, said = run.stdout.split(maxsplit=2)
    assert int(fits) in (3, 4) and known == "True", run.stderr
    assert said.startswith("train_denoiser: out of memory (40 MB more were asked for): ")


def test_only_the_lack_of_memory_is_taken_for_it():
    for error in (
        torch.OutOfMemoryError(CUDA),
        MemoryError(),
        RuntimeError(
            "[enforce fail] err == 0. DefaultCPUAllocator: not enough memory: you tried to allocate 9"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ):
        assert is_out_of_memory(error), error
    for other in (RuntimeError("shapes differ"), ValueError("DefaultCPUAllocator: can't allocate memory")):
        assert not is_out_of_memory(other), other


@pytest.mark.parametrize("room", range(10))
@pytest.mark.parametrize("samples", [0, 1, 7, 8])
def test_the_largest_number_that_fits_is_found_in_few_attempts(monkeypatch, room, samples):
    monkeypatch.setattr("vdp.training.out_of_memory.release", lambda: None)  # slow in a large process
    tried = []

    def attempt(count: int) -> None:
        tried.append(count)
        if count > room:
            raise MemoryError

    assert largest_that_fits(attempt, samples) == min(room, samples)
    assert len(tried) <= samples.bit_length()
    assert all(1 <= count <= samples for count in tried)


def test_another_error_is_not_swallowed():
    def attempt(count: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        largest_that_fits(attempt, 4)


def test_the_advice_names_three_params_with_values_that_fit():
    assert advice("train_denoiser", 24, 1, 6, [CHANNELS, SIZE], CUDA) == (
        "train_denoiser: out of memory (2.2 GB more were asked for, the device has 8.0 GB): 6 samples "
        "at once would fit, not 24: set train_denoiser.batch_size=6; or with the same batch, "
        "train_denoiser.accumulate=4; or about denoiser.unet.base_channels=16; or about "
        "clip.height=32 and clip.width=48"
    )


@pytest.mark.parametrize(
    ("batch", "processes", "accumulate", "fits"),
    [(24, 1, 1, 5), (24, 2, 2, 4), (24, 2, 2, 1), (7, 1, 1, 3), (256, 8, 2, 9)],
)
def test_what_is_advised_fits_and_divides(batch, processes, accumulate, fits):
    said = advice("a", batch, processes * accumulate, fits, [], processes=processes)
    words = dict(word.rstrip(";").split("=") for word in said.split() if "=" in word)
    lower, parts = int(words["a.batch_size"]), int(words["a.accumulate"])
    assert lower // (processes * accumulate) == fits and lower % (processes * accumulate) == 0
    assert lower < batch and parts > accumulate
    assert batch % (processes * parts) == 0 and batch // (processes * parts) <= fits


def test_where_nothing_fits_it_says_so_and_only_suggests():
    said = advice("train_denoiser", 4, 4, 0, [CHANNELS, SIZE])
    assert said == (
        "train_denoiser: out of memory: not even one sample fits: try denoiser.unet.base_channels=32; or "
        "clip.height=40 and clip.width=60; or engine.checkpointing=true"
    )


def test_a_knob_keeps_its_multiple_and_its_ratio():
    assert CHANNELS.scaled(0.7) == {CHANNELS.name: 40}
    assert CHANNELS.scaled(0.001) == {CHANNELS.name: 8}  # never nothing
    assert SIZE.scaled(0.25) == {"clip.height": 32, "clip.width": 48}
    assert SIZE.scaled(0.5) == {"clip.height": 40, "clip.width": 60}
    assert Knob("x", 100, 1, 1).scaled(0.29) == {"x": 29}  # 28.999999999999996 in floating point
    odd = Knob("h", 64, 2, 8, {"w": 104})  # 8:13, which no smaller multiple of 8 has
    assert odd.scaled(0.5) == {"h": 40, "w": 72}


def test_a_knob_that_is_as_low_as_it_goes_is_not_named():
    lowest = Knob("vae.base_channels", 8, 1, 8)
    assert lowest.scaled(0.5) == {}
    assert "base_channels" not in advice("pretrain_vae", 16, 1, 8, [lowest])
