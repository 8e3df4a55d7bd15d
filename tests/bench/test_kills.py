from dataclasses import replace
from pathlib import Path

import yaml

from bench import kills
from bench.kills import Trial

OUTPUT = """\
Running stage 'simulate':
Updating lock file 'dvc.lock'

Running stage 'pretrain_vae':
> python -m stages.pretrain_vae
"""
GOOD = Trial(3, 12.34, 0.5, "pretrain_vae", 14, 14, "", ())


def test_every_stage_is_killed_and_trainings_are_longer_than_their_checkpoints():
    stages = yaml.safe_load((Path(__file__).parents[2] / "dvc.yaml").read_text())["stages"]
    assert {*kills.TRAININGS, *kills.SHARED, "simulate", "score"} == set(stages)
    longer = yaml.safe_load(kills.LONGER)
    assert all(longer[name]["steps"] > 10 * longer["engine"]["save_steps"] for name in kills.TRAININGS)


def test_batches_of_an_earlier_run_are_counted():
    output = "predict a: 3 of 4 batches are those of an earlier run (x)\npredict b: 1 of 9 batches are those"
    assert kills.reused_batches(output) == 4
    assert kills.reused_batches("predict a: 100%") == 0


def test_the_table_is_ordered_by_time_and_names_the_stage_and_the_errors():
    assert kills.stage_at(OUTPUT) == "pretrain_vae"
    assert kills.stage_at(OUTPUT + "Updating lock file 'dvc.lock'\n") == "after pretrain_vae"
    bad = replace(
        GOOD, seconds=1.0, checkpoint=None, resumed=None, errors=("dvc.lock", "results/metrics.json")
    )
    head, _, first, second = kills.table([GOOD, bad]).splitlines()
    assert first.endswith("| - | - | - | NO: dvc.lock; results/metrics.json |")
    assert second.endswith("| pretrain_vae | 14 | 14 | - | yes |")
    assert len({line.count("|") for line in (head, first, second)}) == 1
