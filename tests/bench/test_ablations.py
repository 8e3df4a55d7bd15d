"""bench.ablations: the rows are valid, a budget gives the steps, and results become the table."""

import json
from pathlib import Path

import pytest

from bench import ablations
from bench.ablations import Result, Row
from vdp.cli.cost import DenoiserCost, RunParams
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError

REPO = Path(__file__).parents[2]


@pytest.fixture
def rows(tmp_path, monkeypatch) -> list[Row]:
    """The rows of the project, in a folder with its params.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((REPO / "params.yaml").read_text())
    return ablations.read_rows(REPO / ablations.ROWS)


def test_every_row_is_valid_and_rows_that_change_sampling_share_a_training(rows):
    for row in ablations.select(rows, None):
        params = ablations.row_params(row, 3)
        assert params["seed"] == 3
        sections = ablations.nested(row.settings)
        for section, values in sections.items():
            assert isinstance(values, dict) and set(values) <= set(read_file()[section]), row.name
    by_name = {row.name: row for row in rows}
    assert by_name["steps_1"].training == by_name["default"].training != by_name["dit"].training
    parts = [ablations.part_of(rows, part, 2) for part in (0, 1)]
    assert {row.name for part in parts for row in part} == set(by_name)
    assert not {row.training for row in parts[0]} & {row.training for row in parts[1]}


def test_a_row_of_another_section_or_of_a_used_or_unknown_name_is_refused(rows, tmp_path):
    path = tmp_path / "rows.yaml"
    path.write_text("a:\n  one: {vae.base_channels: 8}\n")
    with pytest.raises(UserError, match="one: vae.base_channels: expected a key of denoiser"):
        ablations.read_rows(path)
    path.write_text("a:\n  one: {}\nb:\n  one: {}\n")
    with pytest.raises(UserError, match="one occurs twice"):
        ablations.read_rows(path)
    with pytest.raises(UserError, match="dita is unknown"):
        ablations.select(rows, ["dita"])


def test_the_steps_of_a_budget_have_its_arithmetic(rows):
    params = RunParams.read()
    step = DenoiserCost(params, labelled=True).training() / params.train_denoiser.steps / 1e12
    assert ablations.steps_of_budget(10.5 * step) == 10
    assert ablations.length_settings(read_file(), 100)["warmup_steps"] == 10
    with pytest.raises(UserError, match="expected at least .*, one step"):
        ablations.steps_of_budget(0.5 * step)


def test_the_table_has_a_line_for_each_row_and_seed_with_its_last_result(rows, tmp_path):
    dit = next(row for row in rows if row.name == "dit")
    results = [
        Result("default", {}, 8.0, 0, 60, failed="out of memory"),
        Result("default", {}, 8.0, 0, 60, 500, 1_200_000, 25.5, 0.3, 0.9, 0.38),
        Result("dit", dit.settings, 8.0, 1, 60, failed="a | b"),
        Result("default", {}, 2.0, 0, 60, 100, 1_200_000, 24.5, 0.2, 0.8, 0.37),
    ]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(ablations.asdict(result)) + "\n" for result in results))
    assert ablations.read_results(tmp_path / "none.jsonl") == []
    shown = ablations.table(rows, ablations.read_results(path)).splitlines()
    assert shown[0] == "8.0 TFLOP of training each, 60 val clips"
    assert shown[4:6] == [
        "| default: default | - | 0 | 1.20 | 500 | 25.50 | 0.3000 | 0.90 | 0.3800 |",
        "| network: dit | `denoiser.name=dit` | 1 | - | - | failed: a \\| b |  |  |  |",
    ]
    assert shown[7] == "2.0 TFLOP of training each, 60 val clips"
