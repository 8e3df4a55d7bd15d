"""The command line: recipes, check, summary."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from vdp.cli import app as cli
from vdp.config.read import check_data
from vdp.config.recipes import apply_recipe, merged, recipe_flags, recipe_names
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
    (toy_project / "recipes").mkdir()
    (toy_project / "recipes" / "smoke.yaml").write_text(SMOKE)
    return toy_project


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command line; its exit code."""
    monkeypatch.setattr(sys, "argv", ["vdp", *words])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
        raise SystemExit(0)
    return int(exit_.value.code or 0)


def test_a_recipe_changes_its_values_and_nothing_else(project):
    before = (project / "params.yaml").read_text()
    apply_recipe("smoke")
    after = (project / "params.yaml").read_text()
    expected = (
        before.replace("seed: 7", "seed: 3")
        .replace("lr: 1e-3", "lr: 0.0002")
        .replace("steps: 10 ", "steps: 2  ")
        .replace("[13, 22]     #", "[12, 16, 22] #")
    )
    assert [line.split() for line in after.splitlines()] == [line.split() for line in expected.splitlines()]
    assert read_file() == merged(read_file(), read_file(Path("recipes/smoke.yaml")))


def test_a_recipe_leaves_a_null_as_it_is_written(project):
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("flip: true", "flip: null  # or true"))
    apply_recipe("smoke")
    assert "flip: null  # or true" in file.read_text()


def test_a_recipe_applied_twice_changes_nothing_the_second_time(project):
    assert apply_recipe("smoke")
    text = (project / "params.yaml").read_text()
    assert apply_recipe("smoke") == {}
    assert (project / "params.yaml").read_text() == text


def test_an_unknown_recipe_is_told_with_the_known_ones(project, monkeypatch, capsys):
    assert run(monkeypatch, "recipe", "smok") == 1
    assert capsys.readouterr().err == "error: smok is not a recipe in recipes/: known: smoke\n"


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("predict: {stepz: 3}", "predict.stepz is not a known key; did you mean predict.steps?"),
        ("predict: {steps: 0}", "predict.steps=0 is out of range"),
        ("predict: {steps: 1, steps: 2}", "predict.steps is given twice"),
        ("predicts: {steps: 1}", "predicts is not a known key; did you mean predict?"),
        ("predict: 3", "predict=3: expected a section"),
    ],
)
def test_a_recipe_with_a_mistake_leaves_the_file_alone(project, overlay, message):
    before = (project / "params.yaml").read_bytes()
    (project / "recipes" / "bad.yaml").write_text(overlay)
    with pytest.raises(UserError, match="recipes/bad.yaml") as caught:
        apply_recipe("bad")
    assert message in str(caught.value)
    assert (project / "params.yaml").read_bytes() == before
    assert sorted(path.name for path in project.iterdir()) == ["params.yaml", "recipes"]


def test_flags_name_only_what_differs_and_survive_a_shell(project, monkeypatch, capsys):
    assert run(monkeypatch, "recipe", "smoke", "--flags") == 0
    flags = capsys.readouterr().out.strip()
    assert flags == "-S seed=3 -S vae.optim.lr=0.0002 -S predict.steps=2 -S predict.hops=[12,16,22]"
    assert flags.split() == shlex.split(flags)


def test_a_value_that_a_shell_would_split_is_no_flag(project):
    (project / "recipes" / "space.yaml").write_text("predict: {folders: {simulated: my videos}}")
    with pytest.raises(UserError, match="cannot be a flag"):
        recipe_flags("space")


def test_a_new_name_in_a_free_section_is_added(project):
    (project / "recipes" / "more.yaml").write_text("predict: {folders: {mine: data/mine}}")
    assert recipe_flags("more") == "-S +predict.folders.mine=data/mine"
    apply_recipe("more")
    assert read_file()["predict"]["folders"] == {"simulated": "data/raw", "mine": "data/mine"}


def test_check_says_what_is_wrong_or_that_nothing_is(project, monkeypatch, capsys):
    assert run(monkeypatch, "check") == 0
    assert "is valid" in capsys.readouterr().out
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("seed: 7", "seed: -1"))
    assert run(monkeypatch, "check") == 1
    assert capsys.readouterr().err.startswith("error: params.yaml: seed=-1 is out of range")


def test_check_tells_of_a_source_that_has_changed(project, monkeypatch, capsys):
    (project / "data" / "clips").mkdir(parents=True)
    monkeypatch.setattr("vdp.cli.app.read_section", lambda cls, name: name)
    monkeypatch.setattr("vdp.data.extract.changes.changed_sources", lambda params, clips: [f"{params}.train"])
    assert run(monkeypatch, "check") == 0
    assert "extract_frames.train: its files are not those" in capsys.readouterr().err


def test_summary_shows_scores_costs_and_places(project, monkeypatch, capsys):
    assert run(monkeypatch, "summary") == 1
    assert "run the pipeline first" in capsys.readouterr().err
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
    save_stats("simulate", {"seconds": 61.0, "peak_memory_mb": 100.0})
    save_stats("score", {"seconds": 5.0, "peak_memory_mb": 50.0})
    assert run(monkeypatch, "summary") == 0
    said = capsys.readouterr().out
    for part in (
        "0.5000",
        "simulate",
        "1m   1s",
        "1m   6s",
        "results/report.html",
        "mlflow.db",
        "make mlflow",
    ):
        assert part in said


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPO / "recipes").glob("*.yaml")))
def test_every_recipe_of_the_project_fits_its_params(monkeypatch, name):
    monkeypatch.chdir(REPO)
    assert name in recipe_names()
    check_data(merged(read_file(), read_file(REPO / "recipes" / f"{name}.yaml")))
    recipe_flags(name)
