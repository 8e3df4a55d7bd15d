"""Batches and the worker processes that prefetch them; a worker takes seconds to start."""

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.small import MemoryLogger, engine_params, fit_params
from vdp.core.errors import UserError, one_line
from vdp.core.rng import BatchRng
from vdp.data.augment import Augment
from vdp.data.batches.frames import FrameBatches, Frames
from vdp.data.params import Changes
from vdp.data.stores.clips import Clip, write_clips
from vdp.training.dataloader import BatchRows, _Failure, _PartDataset, prefetch_batches
from vdp.training.definition import Training
from vdp.training.engine import launch
from vdp.training.seeds import seed_weights, step_rng
from vdp.training.trainer import fit

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:This DataLoader will create")]


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    before = set(multiprocessing.active_children())
    yield
    deadline = time.monotonic() + 60  # a busy machine ends them late
    while (left := set(multiprocessing.active_children()) - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


@pytest.fixture(scope="module")
def frame_batches(tmp_path_factory: pytest.TempPathFactory) -> FrameBatches:
    """Augmented frames of seven noisy clips: 6 to a batch, so that workers share epochs."""
    rng = np.random.default_rng(0)
    clips = [
        Clip(f"video_{number}", *(rng.integers(0, 49, (3, 16, 24, *c), dtype=np.uint8) for c in ((3,), ())))
        for number in range(7)
    ]
    store = write_clips(tmp_path_factory.mktemp("clips") / "train", clips, shard_mb=1)
    changes = Changes(flip=True, crop_scale=0.6, brightness=0.2, rotation=0.0, noise=0.0, blur=0.0)
    return FrameBatches([store], 6, True, Augment(changes, 16, 24), seed=0)


def mask_error(network: nn.Conv2d, batch: Frames, batch_rng: BatchRng) -> dict[str, Tensor]:
    """Squared error of one channel on the mask, with a little noise."""
    noise = 0.1 * batch_rng.normal(*batch.masks.shape)
    return {"loss": (network(batch.frames)[:, 0] - batch.masks / 49 + noise).square().mean()}


def train(batches: FrameBatches, num_workers: int) -> tuple[Tensor, list[tuple[int, dict[str, float]]]]:
    """Return the weights and the curve of a small training."""
    params = fit_params(
        steps=6, batch_size=6, accumulate=2, warmup_steps=1, log_every=1, validate_every=6,
        num_workers=num_workers,
    )  # fmt: skip
    seed_weights(0)
    network, logger, engine = nn.Conv2d(3, 1, 1), MemoryLogger(), engine_params()
    state = torch.random.get_rng_state()
    training = Training("a_training", network, mask_error, batches, mask_error, batches)
    result = fit(training, params, engine, 0, logger, launch(engine), None)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is not used
    return result.network.weight.data, logger.points


def test_workers_do_not_change_a_training(frame_batches):
    weights, curve = train(frame_batches, 0)
    same, again = train(frame_batches, 2)
    assert torch.equal(same, weights) and again == curve
    assert len({line["loss"] for _, line in curve if "loss" in line}) == 6


@pytest.mark.parametrize("steps", [range(0), range(4), range(7, 10)])
def test_batches_come_in_the_order_of_the_steps(frame_batches, steps):
    rows = BatchRows("a", steps, 6, accumulate=1, rank=0, processes=1)
    with prefetch_batches(frame_batches, 3, rows, 0, pin_memory=False) as batches:
        received = list(batches)
    assert len(received) == len(steps)
    for step, batch in zip(steps, received, strict=True):
        assert torch.equal(batch.frames, frame_batches(step, step_rng(3, step), range(6)).frames)


def test_processes_and_their_parts_cover_each_batch_once():
    parts = [list(BatchRows("a", range(4, 6), 12, accumulate=2, rank=rank, processes=3)) for rank in range(3)]
    for step in (4, 5):
        rows = [row for process in parts for at, part in process if at == step for row in part]
        assert sorted(rows) == list(range(12))
    assert all(len(part) == 2 for process in parts for _, part in process)
    assert [at for at, _ in parts[1]] == [4, 4, 5, 5]


def test_a_batch_that_cannot_be_split_is_refused_with_one_that_can():
    with pytest.raises(UserError, match=r"a\.batch_size=10: expected a multiple of 4.*set it to 12"):
        BatchRows("a", range(3), 10, accumulate=2, rank=0, processes=2)


class Failing:
    """Batches of one number, of which the fourth fails."""

    batch_size = 1

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

    def names(self, step: int) -> list[str]:
        return [f"number {step}"]


ONE_ROW = BatchRows("a", range(6), 1, accumulate=1, rank=0, processes=1)


@pytest.mark.parametrize(
    ("kind", "num_workers", "expected", "line"),
    [
        ("missing", 0, FileNotFoundError, r"data/x\.npy: no such file or folder"),
        ("missing", 1, FileNotFoundError, r"data/x\.npy: no such file or folder"),
        ("wrong", 0, ValueError, r"clips: expected frames, got none; run it again"),
        ("killed", 1, UserError, r"reading batches in workers failed \(.+\): lower num_workers or .+"),
    ],
)
def test_an_error_is_the_same_line_in_every_process(kind, num_workers, expected, line):
    with (
        pytest.raises(expected) as error,
        prefetch_batches(Failing(kind), 0, ONE_ROW, num_workers, pin_memory=False) as batches,
    ):
        list(batches)
    assert re.fullmatch(line, one_line(error.value)), error.value
    assert "Traceback" not in str(error.value)


def test_workers_ignore_stop_signals():
    """Ctrl-C reaches every process of a terminal; a dead worker would end the training at once."""
    rows = BatchRows("a", range(60), 1, accumulate=1, rank=0, processes=1)
    with prefetch_batches(Failing("none"), 0, rows, 1, pin_memory=False) as batches:
        first = [float(next(batches)) for _ in range(2)]
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGINT)
            os.kill(worker.pid, signal.SIGTERM)
        assert first + [float(batch) for batch in batches] == list(range(60))


class Unshared:
    """A batch too large for the shared memory."""

    def share_memory_(self) -> "Unshared":
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </x>:\nNo space left on device (28)."
        )


def test_full_shared_memory_is_an_error_and_not_a_hang():
    """torch's loader hangs where it shares a batch itself."""
    failure = _PartDataset(lambda step, rng, rows: Unshared(), seed=0)[3, range(1)]
    assert isinstance(failure, _Failure)
    text = str(failure.error)
    assert (
        "No space left on device (28)): lower num_workers" in text
        and "--shm-size" in text
        and "\n" not in text
    )
