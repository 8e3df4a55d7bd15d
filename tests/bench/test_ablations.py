from pathlib import Path

from bench import ablations
from bench.ablations import Bench, Result
from vdp.config.read import check_data
from vdp.config.recipes import merged
from vdp.config.yaml_file import read_file

REPO = Path(__file__).parents[2]
METRICS = {
    "simulated": {"jaccard": 0.3, "psnr": 25.0, "baseline": {"copy_last": 0.2}, "ceiling": {"codec": 0.7}}
}


def test_every_row_is_a_valid_experiment_and_the_table_shows_its_scores(tmp_path, monkeypatch):
    rows = ablations.read_rows(REPO / ablations.ROWS)
    params = read_file(REPO / "params.yaml")
    for row in ablations.experiments(rows):
        check_data(merged(params, ablations.nested(row.settings)))

    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((REPO / "params.yaml").read_text())
    monkeypatch.setattr(ablations, "step_seconds", lambda data: 0.1)
    bench = Bench(300.0, tmp_path / "results.jsonl", "c" * 40)
    base, dit = ablations.select(rows, ["flow", "dit"])  # flow: another name of the same experiment
    assert (base.name, dit.name) == ("base", "dit")
    steps = bench.plan(base)["train_denoiser.steps"]
    assert steps == 3000
    bench.write(
        Result("base", base.settings, 300.0, bench.commit, 3000, 0.1, 301.0, 350.0, "base", METRICS, None)
    )
    bench.write_failure(dit, "out of memory")
    assert Bench(300.0, bench.results, bench.commit).done == {base.key}
    shown = ablations.table(rows, ablations.read_results([bench.results])).splitlines()
    assert shown[0] == "300 processor seconds of training each, commit ccccccc"
    assert shown[4] == "| base | base | 3000 | 301 | 0.3000 | 0.2000 | 1.50 | 25.00 | 0.7000 |"
    assert any(line.startswith("| network | dit | - | failed: out of memory |") for line in shown)
