"""bench.train: the bare step trains the same weights as `fit`, and each is timed separately."""

import time

import pytest
import torch

from bench import train
from bench.train import BareTraining, NoLogger, Turn, TurnBatches, table_row, temporary_project, time_turns
from tests.training.small import Points, engine_params, fit_params, line_training
from vdp.core.errors import UserError
from vdp.training.engine import launch
from vdp.training.seeds import seed_weights, step_rng

pytestmark = pytest.mark.slow

CONSTANT = {"lr_schedule": "constant", "warmup_steps": 0}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_bare_steps_train_the_same_weights(monkeypatch, accumulate):
    made = []
    monkeypatch.setattr(train, "BareTraining", lambda *args: made.append(BareTraining(*args)) or made[0])
    seed_weights(0)
    training, params, engine = line_training(), fit_params(accumulate=accumulate, **CONSTANT), engine_params()
    before = training.network.weight.clone()
    turns = time_turns(training, params, engine, 0, NoLogger(), launch(engine), steps=3, turns=4)
    assert len(turns) == 4
    assert not torch.allclose(training.network.weight, before)
    torch.testing.assert_close(made[0].network.state_dict(), training.network.state_dict())


def test_bare_steps_and_the_wait_for_batches_are_not_counted_as_time_of_fit(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])

    def take(cost, value=None):
        seconds[0] += cost
        return value

    class SlowPoints(Points):
        def __call__(self, step, rng, rows):
            return take(0.25, super().__call__(step, rng, rows))

    bare = BareTraining(line_training(), fit_params(**CONSTANT), 0, launch(engine_params()))
    monkeypatch.setattr(bare, "step", lambda parts: take(2.0))
    batches = TurnBatches(SlowPoints(), bare, steps=2, turns=2)
    rows = range(batches.batch_size)
    for step in range(4):
        batches(step, step_rng(0, step), rows)
        take(3.0)  # of `fit`
    with pytest.raises(train._Finished):
        batches(4, step_rng(0, 4), rows)
    assert batches.turns == [Turn(fit=6.0, wait=0.5, bare=4.0)] * 2


def test_a_row_has_milliseconds_per_step_the_median_ratio_and_the_share_of_the_wait():
    turns = [Turn(fit=2.2, wait=0.2, bare=2.0), Turn(3.0, 1.0, 2.0), Turn(2.0, 0.05, 2.0)]
    row = ["a", "1000", "1100", "1.100 (1.000..1.500)", "100", "8.3 %"]
    assert table_row("a", turns, steps=2) == row


def test_missing_data_are_reported_with_the_command_that_writes_them(tmp_path):
    with pytest.raises(UserError, match="dvc repro encode_latents"), temporary_project(tmp_path, None):
        pass
