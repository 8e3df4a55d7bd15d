"""bench.train: the bare step is the engine's step by hand, and each is timed alone."""

import time

import pytest
import torch

from bench import train
from bench.train import Bare, Silence, Turn, Turns, line, turns_of, workplace
from tests.training.small import Points, engine_of, params_of, training_of
from vdp.core.errors import UserError
from vdp.training.dataloader import rng_of
from vdp.training.engine import launch
from vdp.training.trainer import training_seed

CONSTANT = {"schedule": "constant", "warmup_steps": 0}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_bare_steps_train_the_weights_that_the_engine_trains(monkeypatch, accumulate):
    made = []
    monkeypatch.setattr(train, "Bare", lambda *of: made.append(Bare(*of)) or made[0])
    training_seed(0)
    training, params = training_of(), params_of(accumulate=accumulate, **CONSTANT)
    before = training.network.weight.clone()
    turns = turns_of(training, params, engine_of(), 0, Silence(), launch(engine_of()), steps=3, turns=4)
    assert len(turns) == 4
    assert not torch.allclose(training.network.weight, before)
    torch.testing.assert_close(made[0].network.state_dict(), training.network.state_dict())


def test_the_bare_turn_and_the_making_of_batches_are_not_the_engines_time(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])

    def work(cost, value=None):
        seconds[0] += cost
        return value

    class Slow(Points):
        def __call__(self, step, rng, rows):
            return work(0.25, super().__call__(step, rng, rows))

    params, engine = params_of(**CONSTANT), engine_of()
    bare = Bare(training_of(), params, 0, launch(engine))
    monkeypatch.setattr(bare, "step", lambda parts: work(2.0))
    turns = Turns(Slow(), bare, steps=2, turns=2)
    rows = range(turns.batch_size)
    for step in range(4):
        turns(step, rng_of(0, step), rows)
        work(3.0)  # the engine's
    with pytest.raises(train._Enough):
        turns(4, rng_of(0, 4), rows)
    assert turns.done == [Turn(engine=6.0, waited=0.5, bare=4.0)] * 2


def test_a_line_has_milliseconds_a_step_the_median_ratio_and_the_share_of_waiting():
    turns = [Turn(engine=2.2, waited=0.2, bare=2.0), Turn(3.0, 1.0, 2.0), Turn(2.0, 0.05, 2.0)]
    assert line("a", turns, steps=2) == [
        "a", "1000", "1100", "1.100 (1.000..1.500)", "100", "8.3 %",
    ]  # fmt: skip


def test_without_data_the_command_that_makes_them_is_named(tmp_path):
    with pytest.raises(UserError, match="dvc repro encode_latents"), workplace(tmp_path, None):
        pass
