"""The commands recipe, check and summary."""

import io
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from vdp.cli import app as cli
from vdp.config import recipes
from vdp.config.read import check_data
from vdp.config.recipes import apply_recipe, merged, recipe_flags
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.tracking.mlflow_run import save_stats

REPO = Path(__file__).parents[2]
SMOKE = """\
seed: 3
vae:
  optim: {lr: 2e-4}
predict:
  steps: 2
  hops: [12, 16, 22]
"""


@pytest.fixture
def project(toy_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(toy_project))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # toy params have no sources, and their folder is no repository
    monkeypatch.setattr("vdp.cli.place_check.check_place", list)
    checks = ModuleType("vdp.cli.preflight")
    checks.check_run = lambda: SimpleNamespace(notes=["a note"], left_out=[], labelled=True)
    monkeypatch.setitem(sys.modules, "vdp.cli.preflight", checks)
    (toy_project / "recipes").mkdir()
    (toy_project / "recipes" / "smoke.yaml").write_text(SMOKE)
    return toy_project


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command line and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["vdp", *words])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
        raise SystemExit(0)
    return int(exit_.value.code or 0)


def test_a_recipe_changes_its_values_once_and_keeps_everything_else(project):
    file = project / "params.yaml"
    before = file.read_text().replace("flip: true", "flip: null  # or true")
    file.write_text(before)
    assert apply_recipe("smoke")
    expected = (
        before.replace("seed: 7", "seed: 3")
        .replace("lr: 1e-3", "lr: 0.0002")
        .replace("steps: 10 ", "steps: 2  ")
        .replace("[13, 22]     #", "[12, 16, 22] #")
    )
    after = file.read_text()
    assert [line.split() for line in after.splitlines()] == [line.split() for line in expected.splitlines()]
    assert read_file() == merged(read_file(), read_file(Path("recipes/smoke.yaml")))
    assert apply_recipe("smoke") == {} and file.read_text() == after


def test_an_unknown_recipe_is_reported_with_the_known_ones(project, monkeypatch, capsys):
    assert run(monkeypatch, "recipe", "smok") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "smok" in error and error.endswith(": smoke\n")


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("predict: {stepz: 3}", "predict.stepz"),
        ("predict: {steps: 0}", "predict.steps=0: expected"),
        ("predict: {steps: 1, steps: 2}", 'duplicate key "steps"'),
        ("predicts: {steps: 1}", "predicts"),
        ("predict: 3", "predict=3: expected a section"),
    ],
)
def test_an_invalid_recipe_leaves_params_unchanged(project, overlay, message):
    before = (project / "params.yaml").read_bytes()
    (project / "recipes" / "bad.yaml").write_text(overlay)
    with pytest.raises(UserError, match="recipes/bad.yaml") as caught:
        apply_recipe("bad")
    assert message in str(caught.value)
    assert (project / "params.yaml").read_bytes() == before
    assert sorted(path.name for path in project.iterdir()) == ["params.yaml", "recipes"]


def test_flags_list_the_differences_and_survive_a_shell(project, monkeypatch, capsys):
    assert run(monkeypatch, "recipe", "smoke", "--flags") == 0
    flags = capsys.readouterr().out.strip()
    assert flags == "-S seed=3 -S vae.optim.lr=0.0002 -S predict.steps=2 -S predict.hops=[12,16,22]"
    assert flags.split() == shlex.split(flags)


def test_a_value_that_a_shell_would_split_is_refused_as_a_flag(project):
    (project / "recipes" / "space.yaml").write_text("predict: {folders: {simulated: my videos}}")
    with pytest.raises(UserError, match="predict.folders.simulated='my videos'"):
        recipe_flags("space")


def test_a_recipe_adds_a_name_to_a_section_of_free_names(project):
    (project / "recipes" / "more.yaml").write_text("predict: {folders: {mine: data/mine}}")
    assert recipe_flags("more") == "-S +predict.folders.mine=data/mine"
    apply_recipe("more")
    assert read_file()["predict"]["folders"] == {"simulated": "data/raw", "mine": "data/mine"}


@pytest.mark.parametrize(
    "head", ["{_replace: true, mine: data/mine}", "\n      mine: data/mine\n      _replace: true"]
)
def test_a_mapping_replaces_that_of_params_where_the_recipe_marks_it(project, monkeypatch, capsys, head):
    """The other lines of the file, with their comments, stay."""
    file = project / "params.yaml"
    before = file.read_text().splitlines()
    (project / "recipes" / "own.yaml").write_text(f"predict:\n  steps: 3\n  folders: {head}\n")
    assert (
        recipe_flags("own")
        == "-S predict.steps=3 -S ~predict.folders.simulated -S +predict.folders.mine=data/mine"
    )
    assert run(monkeypatch, "recipe", "own") == 0
    printed = capsys.readouterr().out
    assert 'predict.folders.simulated: "data/raw" -> removed' in printed
    assert 'predict.folders.mine: null -> "data/mine"' in printed
    assert read_file()["predict"]["folders"] == {"mine": "data/mine"}
    after = [line.split() for line in file.read_text().splitlines()]
    kept = [line.split() for line in before if "simulated" not in line and "steps" not in line]
    assert [line for line in kept if line not in after and "folders:" not in line] == []
    assert apply_recipe("own") == {}


def test_comments_after_a_replaced_mapping_stay(project):
    """A comment below the last key of a mapping belongs to that key; it may be about the next section."""
    text = "a:\n  b:\n    x: 1  # of x\n\n# of c\nc: 2  # end\n"
    yaml = recipes._round_trip()
    for overlay in ({"y": 3}, {}):
        document = yaml.load(text)
        recipes._write_into(document, {"a": {"b": {"_replace": True, **overlay}}})
        written = io.StringIO()
        yaml.dump(document, written)
        assert "# of c\nc: 2  # end" in written.getvalue() and "of x" not in written.getvalue()


@pytest.mark.parametrize(
    ("text", "overlay"),
    [
        (
            "a:\n  b: {x: 1, y: 2}\n  c: 3\n",
            {"a": {"_replace": True, "b": {"y": 2}}},
        ),  # all below is replaced
        ("a:\n  b: null\n", {"a": {"b": {"_replace": True, "y": 2}}}),
        ("a:\n  b: 1\n", {"a": {"c": {"d": {"_replace": True, "y": 2}}}}),
        ("a:\n  b: {x: 1}\n", {"a": {"b": {"y": None}}}),  # a new key of null
    ],
)
def test_what_is_written_and_listed_is_what_is_merged(text, overlay):
    yaml = recipes._round_trip()
    document, data = yaml.load(text), yaml.load(text)
    expected = recipes.merged(data, overlay)
    found = recipes.changes(data, overlay)
    recipes._write_into(document, overlay)
    assert document == expected and found and "_replace" not in repr(found)
    assert recipes.changes(document, overlay) == {}
    removed = {name for name, (_, new) in found.items() if new is recipes.Removed.REMOVED}
    assert removed == ({"a.b.x", "a.c"} if "c: 3" in text else set())


def test_a_replacement_is_marked_by_true(project):
    (project / "recipes" / "bad.yaml").write_text("predict: {folders: {_replace: no way}}")
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(UserError, match='_replace="no way": expected true'):
        apply_recipe("bad")
    assert (project / "params.yaml").read_bytes() == before


def test_a_recipe_is_not_written_through_an_anchor(project):
    """An anchored mapping is one value at several places: the second would change unasked."""
    file = project / "params.yaml"
    text = file.read_text()
    text = text.replace("betas: [0.9, 0.99]", "betas: &shared [1, 2]").replace(
        "hops: [13, 22] ", "hops: *shared "
    )
    file.write_text(text)
    (project / "recipes" / "hops.yaml").write_text("predict: {hops: [3, 4]}")
    with pytest.raises(UserError, match="recipe hops changes a value that has an anchor"):
        apply_recipe("hops")
    assert file.read_text() == text


def test_check_reports_the_first_mistake_or_success(project, monkeypatch, capsys):
    assert run(monkeypatch, "check", "--no-cost") == 0
    assert "is valid" in capsys.readouterr().out
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("seed: 7", "seed: -1"))
    assert run(monkeypatch, "check") == 1
    assert capsys.readouterr().err.startswith("error: params.yaml: seed=-1: expected")


def test_check_ends_with_an_estimate_of_the_cost_unless_it_is_left_out(project, monkeypatch, capsys):
    estimate = ModuleType("vdp.cli.cost")
    estimate.cost_table = lambda labelled: f"estimate, {labelled}"
    monkeypatch.setitem(sys.modules, "vdp.cli.cost", estimate)
    disk = ModuleType("vdp.cli.disk")
    disk.run_disk_line = lambda: "disk, GB"
    monkeypatch.setitem(sys.modules, "vdp.cli.disk", disk)
    assert run(monkeypatch, "check") == 0
    assert capsys.readouterr().out == "params.yaml is valid\na note\nestimate, True\ndisk, GB\n"
    assert run(monkeypatch, "check", "--no-cost") == 0
    assert capsys.readouterr().out == "params.yaml is valid\na note\n"


def test_check_with_an_invalid_file_or_without_torch_does_not_estimate(project, monkeypatch, capsys):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    assert run(monkeypatch, "check") == 0
    assert capsys.readouterr().err == "the cost is not estimated: torch is not installed\n"
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("seed: 7", "seed: -1"))
    assert run(monkeypatch, "check") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: params.yaml: seed=-1")


def test_check_reports_a_changed_source(project, monkeypatch, capsys):
    (project / "data" / "clips").mkdir(parents=True)
    monkeypatch.setattr("vdp.cli.app.read_section", lambda cls, name: name)
    monkeypatch.setattr("vdp.data.extract.changes.changed_sources", lambda params, clips: [f"{params}.train"])
    assert run(monkeypatch, "check", "--no-cost") == 0
    assert "extract_frames.train: its files have changed" in capsys.readouterr().err


def test_summary_prints_scores_costs_and_paths(project, monkeypatch, capsys):
    assert run(monkeypatch, "summary") == 1
    assert "results/metrics.json: no such file" in capsys.readouterr().err
    scores = {
        **dict.fromkeys(("jaccard", "jaccard_foreground", "jaccard_per_video", "psnr", "ssim"), 0.5),
        "clips": 4,
        "jaccard_over_copy": 2.0,
        "baseline": dict.fromkeys(
            ("copy_last", "copy_last_truth", "constant_velocity", "decayed_velocity"), 0.25
        ),
        "ceiling": dict.fromkeys(("segmenter", "unetpp_alone", "codec", "seen_classes"), 0.75),
    }
    (project / "results").mkdir()
    (project / "results" / "metrics.json").write_text(json.dumps({"simulated": scores}))
    usage = {"machine": "a CPU", "workers": 2, "core_minutes": 1.96}
    save_stats("simulate", {**usage, "seconds": 61.0, "peak_memory_mb": 100.0})
    save_stats("train_denoiser", {**usage, "machine": "another", "seconds": 0.0, "tflop": 31.24})
    save_stats("segment", {"seconds": 5.0, "peak_memory_mb": 50.0, "tflop": 0.0121})
    assert run(monkeypatch, "summary") == 0
    printed = capsys.readouterr().out
    for part in ("0.500", "results/report.html", "mlflow.db"):
        assert part in printed
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.strip()}
    assert rows["simulate"] == ["-", "2.0", "2", *["1", "min", "1", "s"], "100", "MB"]
    assert rows["train_denoiser"] == ["31.2", "2.0", "2", "0.0", "s", "-"]
    assert rows["segment"] == ["0.012", "-", "-", "5.0", "s", "50", "MB"]
    assert rows["all"] == ["31.3", "3.9", "-", *["1", "min", "6", "s"], "100", "MB"]
    assert "a CPU: simulate\nanother: train_denoiser\n" in printed


def test_the_summary_lists_the_stages_in_the_order_of_the_pipeline(project, monkeypatch, capsys):
    (project / "results").mkdir()
    (project / "results" / "metrics.json").write_text("{}")
    (project / "dvc.yaml").write_text("stages: {simulate: {}, predict: {}, score: {}}\n")
    for stage in ("score", "own_stage", "simulate", "predict"):
        save_stats(stage, {"seconds": 1.0, "tflop": 2.0})
    assert run(monkeypatch, "summary") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    first = next(number for number, row in enumerate(rows) if row[:1] == ["stage"])
    names = [row[0] for row in rows[first + 1 : first + 6]]
    assert names == ["simulate", "predict", "score", "own_stage", "all"]
    assert rows[first + 5][1] == "8.0"


def test_the_summary_names_a_machine_that_ran_all_stages_once(project, monkeypatch, capsys):
    (project / "results").mkdir()
    (project / "results" / "metrics.json").write_text("{}")
    for stage in ("simulate", "score"):
        save_stats(stage, {"seconds": 1.0, "machine": "a CPU"})
    assert run(monkeypatch, "summary") == 0
    assert "core-minutes of a CPU\n" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["recipe smoke", "check", "summary"])
def test_outside_a_project_a_command_ends_in_one_line(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *command.split()) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: params.yaml: no such file in {tmp_path}; run this in the folder of a vdp project"
    ]


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPO / "recipes").glob("*.yaml")))
def test_every_recipe_of_the_project_is_valid_over_its_params(monkeypatch, name):
    monkeypatch.chdir(REPO)
    check_data(merged(read_file(), read_file(REPO / "recipes" / f"{name}.yaml")))
    recipe_flags(name)
