"""Worker processes that read batches ahead; each takes seconds to start, so there are few tests of them."""

import multiprocessing
import os
import re
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.small import Notes, engine_of, params_of
from vdp.core.errors import UserError, one_line
from vdp.core.rng import BatchRng
from vdp.data.augment import Augment
from vdp.data.batches.frames import FrameBatches, Frames
from vdp.data.params import Changes
from vdp.data.stores.clips import Clip, write_clips
from vdp.training.dataloader import Places, _Failure, _Parts, read_ahead, rng_of
from vdp.training.engine import launch
from vdp.training.trainer import Training, fit, training_seed

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Whatever happens in a test, its workers end with it."""
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) <= before


@pytest.fixture(scope="module")
def frame_batches(tmp_path_factory: pytest.TempPathFactory) -> FrameBatches:
    """Augmented frames of seven noisy clips: 6 to a batch, so that workers share epochs."""
    rng = np.random.default_rng(0)
    clips = [
        Clip(f"video_{number}", *(rng.integers(0, 49, (3, 16, 24, *c), dtype=np.uint8) for c in ((3,), ())))
        for number in range(7)
    ]
    store = write_clips(tmp_path_factory.mktemp("clips") / "train", clips, shard_mb=1)
    changes = Changes(flip=True, crop_scale=0.6, brightness=0.2)
    return FrameBatches([store], 6, True, Augment(changes, 16, 24), seed=0)


def noisy_error(network: nn.Conv2d, batch: Frames, batch_rng: BatchRng) -> dict[str, Tensor]:
    """How far the network's only channel is from the mask, with a little noise."""
    noise = 0.1 * batch_rng.normal(*batch.masks.shape)
    return {"loss": (network(batch.frames)[:, 0] - batch.masks / 49 + noise).square().mean()}


def train(batches: FrameBatches, num_workers: int) -> tuple[Tensor, list[tuple[int, dict[str, float]]]]:
    """The weights and the curve of a small training, each batch in parts."""
    params = params_of(
        steps=6, batch_size=6, accumulate=2, warmup_steps=1, log_every=1, validate_every=6,
        num_workers=num_workers,
    )  # fmt: skip
    training_seed(0)
    network, notes = nn.Conv2d(3, 1, 1), Notes()
    state = torch.random.get_rng_state()
    training = Training("a_training", network, noisy_error, batches, noisy_error, batches)
    fitted = fit(training, params, engine_of(), 0, notes, launch(engine_of()), None)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is left alone
    return fitted.network.weight.data, notes.lines


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_training_is_the_same_whoever_reads_its_batches(frame_batches, num_workers):
    weights, curve = train(frame_batches, 0)
    same, again = train(frame_batches, num_workers)
    assert torch.equal(same, weights)
    assert again == curve
    assert len({line["loss"] for _, line in curve if "loss" in line}) == 6


@pytest.mark.parametrize("steps", [range(0), range(4), range(7, 10)])
def test_batches_come_in_the_order_of_the_steps_wherever_these_start(frame_batches, steps):
    places = Places(steps, batch_size=6, accumulate=1, rank=0, processes=1)
    with read_ahead(frame_batches, 3, places, 0, pin=False) as batches:
        received = list(batches)
    assert len(received) == len(steps)
    for step, batch in zip(steps, received, strict=True):
        assert torch.equal(batch.frames, frame_batches(step, rng_of(3, step), range(6)).frames)


def test_processes_and_their_parts_cover_each_batch_once():
    parts = [list(Places(range(4, 6), 12, accumulate=2, rank=rank, processes=3)) for rank in range(3)]
    for step in (4, 5):
        rows = [row for places in parts for at, part in places if at == step for row in part]
        assert sorted(rows) == list(range(12))
    assert all(len(part) == 2 for places in parts for _, part in places)
    assert [at for at, _ in parts[1]] == [4, 4, 5, 5]


def test_a_batch_that_cannot_be_shared_is_refused_with_one_that_can():
    with pytest.raises(UserError, match=r"batch_size=10 .* 4 equal parts, accumulate=2 .* 2 processes.* 12"):
        Places(range(3), 10, accumulate=2, rank=0, processes=2)


class Failing:
    """Batches of one number, of which the fourth is not to be had."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Tensor:
        if step == 3 and self.kind == "missing":
            raise FileNotFoundError(2, "No such file or directory", "data/x.npy")
        if step == 3 and self.kind == "wrong":
            raise ValueError("clips: expected frames, got none; run it again")
        if step == 3 and self.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(float(step))


def received(kind: str, num_workers: int) -> Iterator[float]:
    places = Places(range(6), batch_size=1, accumulate=1, rank=0, processes=1)
    with read_ahead(Failing(kind), 0, places, num_workers, pin=False) as batches:
        for batch in batches:
            yield float(batch)


@pytest.mark.parametrize(
    ("kind", "num_workers", "expected", "line"),
    [
        ("missing", 0, FileNotFoundError, r"data/x\.npy: no such file or folder"),
        ("missing", 1, FileNotFoundError, r"data/x\.npy: no such file or folder"),
        ("wrong", 0, ValueError, r"clips: expected frames, got none; run it again"),
        ("killed", 1, UserError, r"reading batches ahead failed \(.+\): lower num_workers or .+"),
    ],
)
def test_what_the_user_is_told_is_one_line_whoever_meets_it(kind, num_workers, expected, line):
    with pytest.raises(expected) as error:
        list(received(kind, num_workers))
    assert re.fullmatch(line, one_line(error.value)), error.value
    assert "Traceback" not in str(error.value)


def test_workers_leave_signals_that_ask_to_stop_to_the_training():
    """A Ctrl-C reaches every process of the terminal; a dead worker would end the training at once."""
    places = Places(range(60), batch_size=1, accumulate=1, rank=0, processes=1)
    with read_ahead(Failing("none"), 0, places, 1, pin=False) as batches:
        first = [float(next(batches)) for _ in range(2)]
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGINT)
            os.kill(worker.pid, signal.SIGTERM)
        assert first + [float(batch) for batch in batches] == list(range(60))


class Unshared:
    """A batch for which there is no room."""

    def share_memory_(self) -> "Unshared":
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </x>:\nNo space left on device (28)."
        )


def test_without_room_for_a_batch_a_worker_does_not_hang_but_says_what_to_do():
    """The loader's own way to share a batch ends in a hang where a container's shared memory is full."""
    failure = _Parts(lambda step, rng, rows: Unshared(), seed=0)[3, range(1)]
    assert isinstance(failure, _Failure)
    assert str(failure.error) == (
        "reading batches ahead failed (unable to allocate shared memory(shm) for file </x>: No space left on "
        "device (28)): lower num_workers or batch_size, or give the machine more memory (a container: more "
        "shared memory, docker run --shm-size)"
    )
