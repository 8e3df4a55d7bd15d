"""bench.train: the bare step trains the same weights as `fit`, and each is timed separately."""

import pytest
import torch

from bench import kills, train
from bench.train import BareTraining, NoLogger, Turn, table_row, time_turns
from tests.training.small import engine_params, fit_params, line_training
from vdp.training.engine import launch
from vdp.training.seeds import seed_weights

pytestmark = pytest.mark.slow


def test_every_training_is_timed():
    assert set(train.STAGES) == set(kills.TRAININGS)


def test_bare_steps_train_the_same_weights_and_each_turn_is_timed(monkeypatch):
    made = []
    monkeypatch.setattr(train, "BareTraining", lambda *args: made.append(BareTraining(*args)) or made[0])
    seed_weights(0)
    params = fit_params(accumulate=2, lr_schedule="constant", warmup_steps=0)
    training, engine = line_training(), engine_params()
    before = training.network.weight.clone()
    turns = time_turns(training, params, engine, 0, NoLogger(), launch(engine), steps=3, turns=4)
    assert len(turns) == 4 and all(min(turn.fit, turn.wait, turn.bare) > 0 for turn in turns)
    assert not torch.allclose(training.network.weight, before)
    torch.testing.assert_close(made[0].network.state_dict(), training.network.state_dict())
    turns = [Turn(fit=2.2, wait=0.2, bare=2.0), Turn(3.0, 1.0, 2.0), Turn(2.0, 0.05, 2.0)]
    row = ["a", "1000", "1100", "1.100 (1.000..1.500)", "100", "8.3 %"]
    assert table_row("a", turns, steps=2) == row
