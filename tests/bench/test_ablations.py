"""The ablation table: which rows run, with which settings, and what is shown of them."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml

import vdp.config.schema
from bench import ablations
from bench.ablations import Bench, Clock, Result, Row
from vdp.config.read import check_data
from vdp.config.recipes import merged
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError

REPO = Path(__file__).parents[2]
BUDGET, COMMIT = 300.0, "c" * 40
METRICS = {
    "simulated": {"jaccard": 0.3, "psnr": 25.0, "baseline": {"copy_last": 0.2}, "ceiling": {"codec": 0.7}}
}


@pytest.fixture
def rows() -> list[Row]:
    """The rows of the project."""
    return ablations.read_rows(REPO / ablations.ROWS)


def result(row: Row) -> Result:
    return Result(
        row.name, row.settings, BUDGET, COMMIT, 1000, 0.3, 301.0, 350.0, row.name, METRICS, failed=None
    )


def test_every_row_is_a_valid_params_file(rows, monkeypatch):
    monkeypatch.setattr(
        "vdp.config.schema._module", cache(vdp.config.schema._module)
    )  # each file loaded once, not per row
    params = read_file(REPO / "params.yaml")
    for row in ablations.experiments(rows):
        check_data(merged(params, ablations.nested(row.settings)))


def test_every_group_compares_another_experiment_with_the_base(rows):
    base, *others = rows
    for group in {row.group for row in others}:
        inside = {row.key for row in others if row.group == group}
        assert len(inside) >= 2, group
        assert base.key in inside or group == "context", group  # the context's base is the DiT


def test_the_first_rows_settings_are_under_all_others(tmp_path):
    path = tmp_path / "rows.yaml"
    path.write_text(yaml.safe_dump({"a": {"x": {"p.q": 1}}, "b": {"y": {"p.q": 2}, "z": {"p.r": 3}}}))
    assert [row.settings for row in ablations.read_rows(path)] == [
        {"p.q": 1},
        {"p.q": 2},
        {"p.q": 1, "p.r": 3},
    ]


def test_rows_of_equal_settings_run_once_whichever_name_asks_for_them(rows):
    assert [row.name for row in ablations.named(rows, ["flow", "dit_one_way_k1", "skip"])] == ["base", "dit"]
    keys = [row.key for row in ablations.experiments(rows)]
    assert len(keys) == len(set(keys))


def test_an_unknown_name_is_refused_with_the_known_ones(rows):
    with pytest.raises(UserError, match="flwo is not a row; known: base, .*flow"):
        ablations.named(rows, ["flwo"])


def test_the_parts_are_all_rows_once_and_a_shared_training_is_in_one_part(rows):
    chosen = ablations.experiments(rows)
    parts = [ablations.part_of(chosen, i, 2) for i in range(2)]
    assert sorted(row.name for part in parts for row in part) == sorted(row.name for row in chosen)
    trainings = [{row.training for row in part} for part in parts]
    assert not trainings[0] & trainings[1]
    assert all(trainings)


def test_the_parts_take_about_as_long_as_each_other():
    """One training shared by three rows takes less than two trainings: the fourth goes beside it."""
    shared = [Row("g", f"a{n}", {"predict.steps": n}) for n in range(3)]
    others = [Row("g", f"b{n}", {"train_denoiser.draws": n}) for n in range(3)]
    assert ablations.part_of([*shared, *others], 0, 2) == [*shared, others[2]]


@pytest.mark.parametrize("section", ["predict", "segment", "score"])
def test_what_comes_after_the_training_does_not_change_it(section):
    base, row = Row("g", "a", {}), Row("g", "b", {f"{section}.x": 1})
    assert base.training == row.training and base.key != row.key
    assert Row("g", "c", {"train_denoiser.draws": 2}).training != base.training


def test_a_short_training_warms_up_for_a_tenth_and_a_long_one_as_told():
    data = {"train_denoiser": {"steps": 9, "warmup_steps": 100, "log_every": 50, "validate_every": 500}}
    assert ablations.for_steps(data, 1000) == {"train_denoiser.steps": 1000}
    assert ablations.for_steps(data, 200) == {
        "train_denoiser.steps": 200,
        "train_denoiser.warmup_steps": 20,
        "train_denoiser.validate_every": 200,
    }


def test_dotted_keys_of_one_section_are_gathered():
    flat = {"a.b": 1, "a.c.d": [1, [2]], "e": None}
    assert ablations.nested(flat) == {"a": {"b": 1, "c": {"d": [1, [2]]}}, "e": None}


@pytest.mark.parametrize(
    "value", [[[13, 15], 22], [1, 2], 0.5, 1e-5, True, None, "dit"], ids=lambda value: str(value)
)
def test_dvc_reads_a_flag_as_the_value_that_was_meant(value, tmp_path):
    hydra = pytest.importorskip("dvc.utils.hydra")
    path = tmp_path / "params.yaml"
    path.write_text("a: {b: 7}\n")
    word, flag = ablations.flags({"a.b": value})
    hydra.apply_overrides(path, [flag])
    assert word == "-S" and read_file(path) == {"a": {"b": value}}


def test_a_step_takes_the_mean_over_steps_of_its_fastest_rounds():
    """Steps 1 and 2 take 1 s and 3 s; each round was held up once."""
    assert ablations.mean_step([[1.0, 9.0], [5.0, 3.0]]) == 2.0


def test_the_clock_leaves_the_warm_steps_and_the_validation_out(monkeypatch):
    times = iter([10.0, 20.0, 30.0, 31.0, 33.0, 99.0])
    monkeypatch.setattr("time.process_time", lambda: next(times))
    clock = Clock()
    for step in (1, 2, 3, 4, 5, 5):
        clock.log({}, step)
    assert clock.steps == [1.0, 2.0]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """In a folder of the project's params.yaml alone, where every step takes 0.1 s."""
    (tmp_path / "params.yaml").write_text((REPO / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    measured: list[float] = []
    monkeypatch.setattr(ablations, "step_seconds", lambda data: measured.append(0.1) or sum(measured))
    return Bench(BUDGET, tmp_path / "results.jsonl", COMMIT)


def test_the_budget_buys_steps_and_rows_of_one_training_get_the_same_number(bench, rows):
    """Were the time measured anew, the second number would be half of the first."""
    by_name = {row.name: row for row in rows}
    assert bench.plan(by_name["base"])["train_denoiser.steps"] == 3000
    assert bench.plan(by_name["steps_50"])["train_denoiser.steps"] == 3000
    assert bench.plan(by_name["dit"])["train_denoiser.steps"] == 1500


def test_a_row_that_is_done_is_not_run_again_but_a_failed_or_another_budgets_is(bench, rows):
    by_name = {row.name: row for row in rows}
    bench.write(result(by_name["base"]))
    bench.write(replace(result(by_name["dit"]), failed="killed"))
    bench.write(replace(result(by_name["x0"]), budget=1.0))
    again = Bench(BUDGET, bench.results, COMMIT)
    assert again.done == {by_name["base"].key}
    assert again.plan(by_name["samples_1"])["train_denoiser.steps"] == 1000  # the step time on file
    assert Bench(BUDGET, bench.results, "d" * 40).done == set()


def test_a_row_that_does_not_fit_is_written_as_failed_and_the_next_one_goes_on(bench, monkeypatch, capsys):
    ran: list[str] = []
    monkeypatch.setattr(ablations, "experiment_names", lambda commit: ["good"])
    monkeypatch.setattr(bench, "run", lambda row, settings, experiment: ran.append(experiment))
    ablations.ablate([Row("g", "bad", {"predict.stepz": 1}), Row("g", "good", {})], bench, dry=False)
    (written,) = ablations.read_results([bench.results])
    assert written.row == "bad" and "did you mean predict.steps?" in str(written.failed)
    assert ran == ["good-2"]
    assert "dvc exp run --name good-2 -S train_denoiser.steps=3000" in capsys.readouterr().out


def test_a_dry_run_runs_and_writes_nothing(bench, monkeypatch):
    monkeypatch.setattr(ablations, "experiment_names", lambda commit: [])
    monkeypatch.setattr(bench, "run", lambda row, settings, experiment: pytest.fail("has run"))
    ablations.ablate([Row("g", "bad", {"predict.stepz": 1}), Row("g", "good", {})], bench, dry=True)
    assert not bench.results.exists()


def test_a_failure_is_told_in_the_stages_own_words():
    output = "error: first\rstep 1\rerror: the loss is gone\nERROR: failed to reproduce 'train_denoiser'\n"
    assert ablations.reason(output) == "the loss is gone"
    assert (
        ablations.reason("Traceback:\n  x\nKeyError: 'a'\nERROR: failed to reproduce 'a'") == "KeyError: 'a'"
    )
    assert ablations.reason("x\nERROR: failed to reproduce 'a': exited with -9") == (
        "ERROR: failed to reproduce 'a': exited with -9"
    )


def test_a_command_that_fails_is_heard_and_its_time_is_counted():
    ran = ablations.run_watched(["json.tool", "not-there"])
    assert ran.code != 0 and "not-there" in ablations.reason(ran.output)
    assert ran.cpu_seconds > 0 and ran.train_cpu_seconds is None


def test_the_table_has_the_rows_of_the_yaml_in_order_with_their_scores(rows):
    by_name = {row.name: row for row in rows}
    results = [result(by_name[name]) for name in ("dit", "unet_spade", "base")]
    results[0] = replace(results[0], metrics=None, failed="out of memory")
    shown = ablations.table(rows, results).splitlines()
    assert shown[0] == "300 processor seconds of training each, commit ccccccc"
    assert shown[4] == "| base | base | 1000 | 301 | 0.3000 | 0.2000 | 1.50 | 25.00 | 0.7000 |"
    assert [line.split(" | ")[1] for line in shown[5:]][:3] == ["unet_features", "unet_spade", "dit"]
    assert "| network | dit | 1000 | failed: out of memory |" in shown[7]


def test_a_row_that_was_run_again_is_shown_once_as_it_is_now(rows):
    failed = replace(result(rows[0]), metrics=None, failed="killed")
    shown = ablations.table(rows, [failed, result(rows[0])])
    assert "killed" not in shown and "| base | base | 1000 | 301 |" in shown
    assert "unet_features" not in shown  # a group of the base alone compares nothing


def test_budgets_are_not_mixed(rows):
    other = replace(result(rows[0]), budget=60.0)
    shown = ablations.table(rows, [result(rows[0]), other])
    assert shown.count("processor seconds of training each") == 2


def test_results_survive_the_file(bench, rows):
    bench.write(result(rows[1]))
    assert ablations.read_results([bench.results, Path("not-there")]) == [result(rows[1])]
    assert json.loads(bench.results.read_text())["metrics"] == METRICS


@pytest.mark.parametrize("words", [["2", "2"], ["1"], ["a", "2"], ["-1", "2"], ["0", "0"]])
def test_a_part_that_is_none_is_refused(words):
    with pytest.raises(UserError, match="expected 0/2 or 1/2"):
        ablations.parsed_part(words)
    assert ablations.parsed_part(["1", "3"]) == (1, 3)


def test_a_file_of_rows_that_share_a_name_is_refused(tmp_path):
    path = tmp_path / "rows.yaml"
    path.write_text(yaml.safe_dump({"a": {"x": {}}, "b": {"x": {"seed": 1}}}))
    with pytest.raises(UserError, match="x is given twice"):
        ablations.read_rows(path)
