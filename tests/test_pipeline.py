"""The pipeline: dvc.yaml names all that its stages use, and a run of it in a clone keeps its promises."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest
import yaml

REPO = Path(__file__).parents[1]
Stage: TypeAlias = dict[str, list[str]]  # a stage of dvc.yaml, as far as it is looked at here: deps, params

# --- What a stage uses -----------------------------------------------------------------------------------


def imported_files(script: Path, root: Path) -> set[Path]:
    """The script and every file of vdp that it imports, directly or not, relative to the root.

    Empty `__init__.py` files are left out: they cannot change a result.
    """
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for module in imported_modules(parsed(root / path), path):
            waiting += module_files(module, root)
    return {path for path in found if path.name != "__init__.py" or (root / path).stat().st_size}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported_modules(tree: ast.AST, path: Path) -> Iterator[str]:
    """Dotted names that may be modules: `from vdp.data import clips` gives vdp.data and vdp.data.stores.clips."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(path.parts[: -node.level]) if node.level else ""
            module = ".".join(filter(None, [above, node.module]))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def module_files(module: str, root: Path) -> list[Path]:
    """The files that importing a module of this project loads: its packages' `__init__.py` and itself."""
    parts = module.split(".")
    if parts[0] not in ("vdp", "stages"):
        return []
    packages = [Path(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    return [path for path in [*packages, Path(*parts).with_suffix(".py")] if (root / path).is_file()]


def read_params(script: Path, root: Path) -> set[str]:
    """The sections and values of params.yaml that a stage's script and what it imports read."""
    names: set[str] = set()
    for path in imported_files(script, root) - {Path("vdp/config/schema.py")}:
        for node in ast.walk(parsed(root / path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id == "read_section":
                    names.add(literal(node.args[1], path))
                elif node.func.id == "read_value":
                    names.add(literal(node.args[0], path))
    return names


def literal(node: ast.expr, path: Path) -> str:
    assert isinstance(node, ast.Constant) and isinstance(node.value, str), (
        f"{path}, line {node.lineno}: name the section by a literal, so that it can be compared with dvc.yaml"
    )
    return node.value


def gaps(name: str, stage: Stage, root: Path) -> list[str]:
    """What the stage uses and dvc.yaml does not say: a change there would not make DVC run it again."""
    script = Path("stages", f"{name}.py")
    deps = [Path(dep) for dep in stage.get("deps", [])]
    files = [
        f"{name}: {path} is imported and not under deps"
        for path in sorted(imported_files(script, root))
        if not any(path.is_relative_to(dep) for dep in deps)
    ]
    listed = [entry for entry in stage.get("params", []) if isinstance(entry, str)]
    params = [
        f"{name}: {key} of params.yaml is read and not under params"
        for key in sorted(read_params(script, root))
        if not any(f"{key}.".startswith(f"{entry}.") or entry.startswith(f"{key}.") for entry in listed)
    ]
    return files + params


def stages() -> dict[str, Stage]:
    """The stages of dvc.yaml."""
    path = REPO / "dvc.yaml"
    return yaml.safe_load(path.read_text())["stages"] if path.is_file() else {}


@pytest.mark.parametrize("name", stages())
def test_dvc_yaml_names_all_that_a_stage_uses(name):
    assert gaps(name, stages()[name], REPO) == []


def test_every_stage_has_its_script_and_every_script_its_stage():
    scripts = {path.stem for path in (REPO / "stages").glob("*.py")} - {"__init__"}
    assert scripts == set(stages())


@pytest.fixture
def small_project(tmp_path: Path) -> Path:
    """A stage that imports `vdp.a`, which imports `vdp.deep.b` inside a function; it reads two sections."""
    files = {
        "stages/work.py": "from vdp.a import go\nfrom vdp.config.schema import read_section, read_value\n"
        "read_section(go, 'model.unet')\nread_value('seed')\n",
        "vdp/__init__.py": "",
        "vdp/config/schema.py": "",
        "vdp/a.py": "import os\ndef go():\n    from vdp.deep import b\n",
        "vdp/deep/__init__.py": "registry = {}\n",
        "vdp/deep/b.py": "from .c import x\n",
        "vdp/deep/c.py": "x = 1\n",
        "vdp/unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_planted_gap_is_found_and_named(small_project):
    stage = {
        "deps": ["stages/work.py", "vdp/a.py", "vdp/config/schema.py", "vdp/deep"],
        "params": ["model", "seed"],
    }
    assert gaps("work", stage, small_project) == []
    without = {
        "deps": ["stages/work.py", "vdp/a.py", "vdp/config/schema.py", "vdp/deep/b.py"],
        "params": ["model.dit"],
    }
    assert gaps("work", without, small_project) == [
        "work: vdp/deep/__init__.py is imported and not under deps",
        "work: vdp/deep/c.py is imported and not under deps",
        "work: model.unet of params.yaml is read and not under params",
        "work: seed of params.yaml is read and not under params",
    ]


@pytest.mark.parametrize("name", stages())
def test_a_gap_planted_in_the_real_file_is_found(name):
    stage = stages()[name]
    for dep in [dep for dep in stage["deps"] if dep.startswith(("vdp/", "stages/"))]:
        others = {**stage, "deps": [other for other in stage["deps"] if other != dep]}
        assert any(dep in gap for gap in gaps(name, others, REPO)), (
            f"{name}: {dep} is under deps and not imported"
        )


# --- A run of it -----------------------------------------------------------------------------------------

SCORES = {"jaccard", "jaccard_foreground", "jaccard_per_video", "jaccard_over_copy", "psnr", "ssim", "clips"}
BASELINES = {"copy_last", "copy_last_truth", "constant_velocity", "decayed_velocity"}
CEILINGS = {"segmenter", "codec", "seen_classes", "unetpp_alone"}


def environment() -> dict[str, str]:
    """Variables as `make run` sets them, whatever runs these tests."""
    hidden = ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_TRACKING_URI")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {
        f"GIT_{who}_{what}": "tester@vdp" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return env


def command(project: Path, *words: str) -> str:
    """Run a command in the clone; what it printed."""
    done = subprocess.run(
        words, cwd=project, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-6000:]}"
    return done.stdout


def stages_run(output: str) -> list[str]:
    """The stages that DVC says it ran."""
    return re.findall(r"Running stage '(\w+)'", output)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree, uncommitted files included, in which the smoke recipe has been run."""
    clone = tmp_path_factory.mktemp("clone")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=REPO, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (REPO / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_bytes((REPO / name).read_bytes())
    command(clone, "git", "init", "--quiet")
    command(clone, "git", "add", "--all")
    command(clone, "git", "commit", "--quiet", "--message", "clone")
    command(clone, sys.executable, "-m", "vdp", "recipe", "smoke")
    command(clone, "dvc", "repro")
    return clone


pipeline = pytest.mark.skipif(not stages(), reason="no dvc.yaml")


@pipeline
@pytest.mark.end_to_end
def test_a_run_in_a_clone_scores_every_test_set_with_its_baselines_and_ceilings(project):
    metrics = json.loads((project / "results" / "metrics.json").read_text())
    assert "simulated" in metrics
    for scores in metrics.values():
        assert set(scores) == {*SCORES, "baseline", "ceiling"}
        assert set(scores["baseline"]) == BASELINES
        assert set(scores["ceiling"]) == CEILINGS
        numbers = [value for value in scores.values() if not isinstance(value, dict)]
        numbers += [*scores["baseline"].values(), *scores["ceiling"].values()]
        assert all(isinstance(number, int | float) for number in numbers)
    assert "jaccard" in command(project, sys.executable, "-m", "vdp", "summary")


@pipeline
@pytest.mark.end_to_end
def test_a_second_repro_does_nothing(project):
    output = command(project, "dvc", "repro")
    assert stages_run(output) == []
    assert "up to date" in output


@pipeline
@pytest.mark.end_to_end
def test_a_forced_repro_gives_the_same_bytes(project):
    before = (project / "dvc.lock").read_bytes()
    output = command(project, "dvc", "repro", "--force")
    assert set(stages_run(output)) == set(stages())
    assert (project / "dvc.lock").read_bytes() == before


def stopped(project: Path, stage: str, by: signal.Signals) -> tuple[int, str]:
    """A run in which this training is needed; all processes get a signal as soon as it has saved a state.

    Returns:
        The run's exit code and what it printed.
    """
    for out in yaml.safe_load((project / "dvc.lock").read_text())["stages"][stage]["outs"]:
        shutil.rmtree(project / out["path"])
        # without its entry in the cache, from which DVC would take it
        (project / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]).unlink()
    with subprocess.Popen(
        ["dvc", "repro"], cwd=project, env=environment(), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as run:  # fmt: skip
        while run.poll() is None and not states(project, stage):
            time.sleep(0.002)
        os.killpg(run.pid, by)
        output, _ = run.communicate()  # to the end of the last process
    return run.returncode, output


def states(project: Path, stage: str) -> list[Path]:
    return list(project.glob(f".resume/{stage}-*/[0-9]*.json"))


def assert_goes_on(project: Path, stage: str, lock: bytes) -> None:
    """Run again, the stage goes on from its state and ends in the same dvc.lock."""
    assert states(project, stage)
    output = command(project, "dvc", "repro")
    assert stages_run(output) == [stage]
    assert f"{stage}: goes on after step " in output
    assert (project / "dvc.lock").read_bytes() == lock
    assert not list(project.glob(f".resume/{stage}-*"))


@pipeline
@pytest.mark.end_to_end
def test_a_killed_repro_goes_on_and_ends_in_the_same_bytes(project):
    lock = (project / "dvc.lock").read_bytes()
    code, output = stopped(project, "train_denoiser", signal.SIGKILL)
    assert code == -signal.SIGKILL, output
    assert_goes_on(project, "train_denoiser", lock)


@pipeline
@pytest.mark.end_to_end
def test_a_repro_that_is_asked_to_end_says_so_in_one_line_and_goes_on(project):
    lock = (project / "dvc.lock").read_bytes()
    code, output = stopped(project, "pretrain_vae", signal.SIGTERM)
    assert code != 0
    told = [line for line in output.splitlines() if "stopped after step" in line]
    assert len(told) == 1 and told[0].startswith("pretrain_vae: ") and "it goes on from there" in told[0], (
        output
    )
    assert "Traceback" not in output
    assert_goes_on(project, "pretrain_vae", lock)


@pipeline
@pytest.mark.end_to_end
def test_an_experiment_with_the_sampler_reruns_what_follows_it_and_nothing_before(project):
    steps = yaml.safe_load((project / "params.yaml").read_text())["predict"]["steps"]
    output = command(project, "dvc", "exp", "run", "--set-param", f"predict.steps={steps + 1}")
    assert stages_run(output) == ["predict", "segment", "score"]
