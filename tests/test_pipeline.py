"""dvc.yaml names all that a stage uses, and a run of the pipeline in a clone is complete and reproducible."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.runtime_imports import imported_modules
from vdp.tracking.mlflow_run import flatten

REPO = Path(__file__).parents[1]
STAGES = yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"]
TRAININGS = ("pretrain_vae", "train_denoiser", "train_segmenter", "train_classifier", "train_motion")

NO_DEPS = {  # modules that cannot change a stage's bytes, and why
    "vdp/__init__.py": "lazy exports",
    "vdp/core/flops.py": "counts arithmetic",
    "vdp/config": "reads and checks params; DVC tracks their values",
    "vdp/data/params.py": "schema of params; DVC tracks their values",
    "vdp/tracking/mlflow_run.py": "logs to MLflow",
    "vdp/tracking/event_file.py": "logs to TensorBoard",
    "vdp/tracking/params.py": "schema of params",
    "vdp/tracking/mlflow_model.py": "logs to MLflow",
    "vdp/tracking/progress.py": "prints",
    "vdp/training/cost.py": "prints",
    "vdp/launch": "starts processes and shares out work, of which the bytes do not depend",
}
MACHINE_SETTINGS = {"extract_frames": {"engine"}}  # read for the number of processes alone
NO_DEPS_OF_TRAININGS = {
    "vdp/tracking/figures.py": "its pictures go to MLflow",
    "vdp/evaluation/frame.py": "its scores go to MLflow",
}
SAMPLERS, LEVELS = Path("vdp/sampling/samplers.py"), Path("vdp/config/choices.py")  # a dep where sampled

# --- Deps and params of dvc.yaml -------------------------------------------------------------------------


def imported_files(script: Path, root: Path) -> set[Path]:
    """The script and all project files it imports, directly or not, without empty `__init__.py` files."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for module in modules_of(root / path, path.parts[:-1]):
            waiting += module_files(module, root)
    return {path for path in found if path.name != "__init__.py" or (root / path).stat().st_size}


@cache
def modules_of(path: Path, package: tuple[str, ...]) -> list[str]:
    return list(imported_modules(path, package))


def module_files(module: str, root: Path) -> list[Path]:
    """Files loaded when a module of the project is imported."""
    parts = module.split(".")
    if parts[0] not in ("vdp", "stages"):
        return []
    packages = [Path(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    return [path for path in [*packages, Path(*parts).with_suffix(".py")] if (root / path).is_file()]


def read_params(script: Path, root: Path) -> set[str]:
    """Keys of params.yaml that a stage's script and its imports read."""
    keys: set[str] = set()
    for path in imported_files(script, root):
        for node in ast.walk(ast.parse((root / path).read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                position = {"read_section": 1, "read_value": 0}.get(node.func.id)
                if position is not None:
                    key = node.args[position]
                    assert isinstance(key, ast.Constant), (
                        f"{path}:{node.lineno}: name the section by a literal"
                    )
                    keys.add(key.value)
    return keys


def is_under(path: Path, entries: list[str]) -> bool:
    return any(path.is_relative_to(entry) for entry in entries)


def errors(name: str, stage: dict[str, list[str]], root: Path) -> list[str]:
    """Missing and unused entries of a stage in dvc.yaml."""
    script = Path("stages", f"{name}.py")
    no_deps = [*NO_DEPS, *(NO_DEPS_OF_TRAININGS if name in TRAININGS else [])]
    imported = imported_files(script, root)
    files = {path for path in imported if not is_under(path, no_deps)}
    if SAMPLERS in imported:
        files |= {LEVELS} & imported
    code = [dep for dep in stage["deps"] if dep.startswith(("vdp/", "stages/"))]
    found = [f"deps: {path} is missing" for path in sorted(files) if not is_under(path, code)]
    found += [f"deps: {dep} is unused" for dep in code if not any(is_under(path, [dep]) for path in files)]
    keys, listed = read_params(script, root) - MACHINE_SETTINGS.get(name, set()), stage.get("params", [])
    found += [
        f"params: {key} is missing"
        for key in sorted(keys)
        if not any(f"{key}.".startswith(f"{entry}.") or entry.startswith(f"{key}.") for entry in listed)
    ]
    return found


@pytest.mark.parametrize("name", STAGES)
def test_dvc_yaml_names_all_that_a_stage_uses_and_nothing_else(name):
    assert errors(name, STAGES[name], REPO) == []


def test_one_command_runs_every_stage():
    assert {name: stage["cmd"] for name, stage in STAGES.items()} == {
        name: f"python -m vdp.launch {name}" for name in STAGES
    }


def test_another_number_of_processes_reruns_nothing():
    """They are settings of the machine, and so is where it keeps the states of trainings."""
    listed = {key for stage in STAGES.values() for key in stage["params"]}
    machine = {"launcher", "engine", "engine.devices", "engine.num_nodes", "engine.strategy"}
    assert not listed & (machine | {"engine.save_minutes", "engine.save_steps"})


def test_every_stage_has_a_script_of_its_name():
    assert {path.stem for path in (REPO / "stages").glob("*.py")} - {"__init__"} == set(STAGES)


def test_modules_that_are_no_deps_are_imported_and_ignored_by_dvc_inside_a_dep():
    imported = {path for name in STAGES for path in imported_files(Path("stages", f"{name}.py"), REPO)}
    for entry in [*NO_DEPS, *NO_DEPS_OF_TRAININGS]:
        assert any(is_under(path, [entry]) for path in imported), f"{entry} needs no exception"
    deps = {dep for stage in STAGES.values() for dep in stage["deps"]}
    ignored = [
        line[1:] for line in (REPO / ".dvcignore").read_text().splitlines() if line.startswith("/vdp/")
    ]
    assert sorted(ignored) == sorted(entry for entry in NO_DEPS if is_under(Path(entry), [*deps]))


def test_missing_and_unused_entries_are_found(tmp_path):
    files = {
        "stages/work.py": "from vdp.a import go\nread_section(go, 'model.unet')\nread_value('seed')\n",
        "vdp/__init__.py": "exports = 1\n",
        "vdp/a.py": "import os\ndef go():\n    from vdp.deep import b\n",
        "vdp/deep/__init__.py": "registry = {}\n",
        "vdp/deep/b.py": "from .c import x\n",
        "vdp/deep/c.py": "x = 1\n",
        "vdp/unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    right = {"deps": ["stages/work.py", "vdp/a.py", "vdp/deep"], "params": ["model", "seed"]}
    assert errors("work", right, tmp_path) == []
    wrong = {
        "deps": ["stages/work.py", "vdp/a.py", "vdp/deep/b.py", "vdp/unused.py"],
        "params": ["model.dit"],
    }
    assert errors("work", wrong, tmp_path) == [
        "deps: vdp/deep/__init__.py is missing",
        "deps: vdp/deep/c.py is missing",
        "deps: vdp/unused.py is unused",
        "params: model.unet is missing",
        "params: seed is missing",
    ]


# --- A run of the pipeline in a clone --------------------------------------------------------------------


def environment() -> dict[str, str]:
    """Environment variables as `make run` sets them."""
    hidden = ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_TRACKING_URI")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {f"GIT_{who}_{what}": "t@vdp" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return env


def run(project: Path, *words: str) -> str:
    """Run a command in the clone and return its output."""
    done = subprocess.run(
        words, cwd=project, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-6000:]}"
    return done.stdout


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree, uncommitted files included, after a run of the smoke recipe."""
    clone = tmp_path_factory.mktemp("clone")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=REPO, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (REPO / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_bytes((REPO / name).read_bytes())
    run(clone, "git", "init", "--quiet")
    run(clone, "git", "add", "--all")
    run(clone, "git", "commit", "--quiet", "--message", "clone")
    run(clone, sys.executable, "-m", "vdp", "recipe", "smoke")
    run(clone, "dvc", "repro")
    return clone


@pytest.mark.end_to_end
def test_a_run_scores_every_test_set_with_its_baselines_and_ceilings(project):
    metrics = json.loads((project / "results" / "metrics.json").read_text())
    assert "simulated" in metrics
    for scores in metrics.values():
        assert set(scores["baseline"]) == {
            "copy_last", "copy_last_truth", "copy_last_tracked", "constant_velocity", "decayed_velocity",
            "decayed_velocity_truth", "decayed_velocity_tracked", "motion_only",
        }  # fmt: skip
        assert set(scores["ceiling"]) == {"segmenter", "codec", "seen_classes", "unetpp_alone"}
        names = {
            "jaccard",
            *(f"{group}.{name}" for group in ("baseline", "difference") for name in scores["baseline"]),
        }
        numbers = flatten(scores)
        assert names | {f"interval.{name}.{end}" for name in names for end in ("low", "high")} <= set(numbers)
        assert numbers["decay_clips"] == 2
    assert "jaccard" in run(project, sys.executable, "-m", "vdp", "summary")


@pytest.mark.end_to_end
def test_a_run_tracks_objects_trains_their_motion_and_samples_it(project):
    """Tracks of true masks have all frames and no pixels; the motion has all samples and hops."""
    data, params = project / "data", yaml.safe_load((project / "params.yaml").read_text())
    simulate, clip, hops = params["simulate"], params["clip"], params["predict"]["hops"]
    expected = {
        "raw/simulated/tracks": (simulate["tracks"], clip["frames"]),
        "tracks/train": (simulate["train"], clip["frames"]),
        "tracks/val": (simulate["val"], clip["frames"]),
        "tracks/unlabeled": (params["track_objects"]["unlabeled"], clip["frames"]),
        "tracks/test/simulated": (simulate["test"], clip["known"]),
    }
    for folder, (clips, frames) in expected.items():
        states = np.load(data / folder / "states.npy")
        assert (states.shape[0], states.shape[2]) == (clips, frames), folder
        assert (data / folder / "labels.npy").exists() == ("unlabeled" in folder or "test" in folder)
    for model in ("classifier", "motion"):
        names = {path.name for path in (data / "models" / model).iterdir()}
        assert names == {"model.safetensors", "config.json", "best.safetensors"}
    motion = {path.stem: np.load(path).shape for path in (data / "motion/simulated").iterdir()}
    objects = np.load(data / "tracks/test/simulated/classes.npy").shape[1]
    size, clips = (clip["height"], clip["width"]), simulate["test"]
    samples = params["sample_motion"]["samples"]
    assert motion == {
        "places": (clips, samples, objects, len(hops), 3), "masks": (clips, samples, *size),
        "composed": (clips, len(hops), *size, 3), "motion_only": (clips, *size),
    }  # fmt: skip
    masks = {path.stem for path in (data / "masks/simulated").iterdir()}
    assert masks == {"prediction", "known", "truth", "truth_unetpp", "round_trip", "motion_only", "tracked"}


@pytest.mark.end_to_end
def test_the_estimate_of_the_disk_is_that_of_the_files(project):
    (line,) = [x for x in run(project, sys.executable, "-m", "vdp", "check").splitlines() if "disk, GB" in x]
    estimates = dict(re.findall(r"(\w+) ([\d.e-]+)[,;]", line))
    assert set(estimates) == {"clips", "latents", "predictions", "tracks", "motion", "masks"}
    for name, estimate in estimates.items():
        files = [path.stat().st_size for path in (project / "data" / name).rglob("*.npy")]
        assert float(estimate) == pytest.approx(sum(files) / 1e9, rel=0.3), name


@pytest.mark.end_to_end
def test_a_second_repro_does_nothing(project):
    output = run(project, "dvc", "repro")
    assert stages_run(output) == [] and "up to date" in output


@pytest.mark.end_to_end
def test_a_change_in_a_module_that_is_no_dep_changes_no_stage(project):
    changed = [path for entry in NO_DEPS for path in [project / entry, *(project / entry).glob("*.py")]]
    texts = {path: path.read_text() for path in changed if path.is_file() and path != project / LEVELS}
    assert len(texts) > len(NO_DEPS)
    try:
        for path, text in texts.items():
            path.write_text(text + "\n# changed\n")
        assert "up to date" in run(project, "dvc", "status")
        dep = project / "vdp/training/trainer.py"
        texts[dep] = dep.read_text()
        dep.write_text(texts[dep] + "\n# changed\n")
        status = run(project, "dvc", "status")
        assert all(f"{stage}:" in status for stage in TRAININGS)
    finally:
        for path, text in texts.items():
            path.write_text(text)


def stopped_repro(project: Path, stage: str, by: int, *options: str) -> str:
    """Send a signal to all processes of a repro at the first file of a stage; return the output.

    A repro that ends before the signal, on a machine under load, is run again.
    """
    pattern = f".resume/{stage}-*/" + ("[0-9]*.json" if stage in TRAININGS else "*/*.npz")
    outputs = []
    for _ in range(5):
        with subprocess.Popen(
            ["dvc", "repro", *options], cwd=project, env=environment(), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            while process.poll() is None and not list(project.glob(pattern)):
                time.sleep(0.002)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, by)
            outputs.append(process.communicate()[0])
        if process.returncode != 0 and list(project.glob(pattern)):
            return "".join(outputs)
    raise AssertionError("".join(outputs))


@pytest.mark.end_to_end
def test_a_forced_repro_resumes_after_each_stop_and_gives_the_same_bytes(project):
    """It is stopped in two trainings and in each stage that shares out its work."""
    lock = (project / "dvc.lock").read_bytes()
    outputs = [stopped_repro(project, "pretrain_vae", signal.SIGTERM, "--force")]
    stopped = [line for line in outputs[0].splitlines() if "stopped after step" in line]
    assert len(stopped) == 1 and stopped[0].startswith("pretrain_vae: ") and "Traceback" not in outputs[0]
    no_dep = project / "vdp/training/cost.py"
    no_dep.write_text(no_dep.read_text() + "\n# changed\n")
    again = ["--force", "--downstream"]
    stops = ["pretrain_vae", "track_objects", "encode_latents", "train_denoiser", "predict", "segment"]
    for before, stage in pairwise(stops):
        outputs.append(stopped_repro(project, stage, signal.SIGKILL, *again, before))
        assert_resumed(outputs[-1], before)
    outputs.append(run(project, "dvc", "repro", *again, stops[-1], "train_segmenter", "train_classifier"))
    assert_resumed(outputs[-1], stops[-1])
    assert set(stages_run("".join(outputs))) == set(STAGES)
    for stage in ("predict_motion", "evaluate_tasks"):  # which no other stop leads to
        alone = ("--force", "--single-item", stage)
        stopped_repro(project, stage, signal.SIGKILL, *alone)
        assert_resumed(run(project, "dvc", "repro", *alone), stage)
    run(project, "dvc", "repro", "--force", "--single-item", "score")
    assert (project / "dvc.lock").read_bytes() == lock
    assert not list(project.glob(".resume/*-*"))


def assert_resumed(output: str, stage: str) -> None:
    """A training from a step; another stage with the batches of the earlier run."""
    if stage in TRAININGS:
        assert f"{stage}: resumed after step " in output
    else:
        assert re.search(rf"{stage} .*: \d+ of \d+ batches are those of an earlier run", output), output


@pytest.mark.end_to_end
def test_two_processes_of_torchrun_rerun_nothing_and_give_the_same_bytes(project):
    params, lock = project / "params.yaml", (project / "dvc.lock").read_bytes()
    before = params.read_text()
    launcher = "torchrun --standalone --nproc-per-node 2"
    try:
        params.write_text(
            before.replace("launcher: python ", f"launcher: {launcher} ").replace(
                "  devices: 1 ", "  devices: 2 "
            )
        )
        assert "up to date" in run(project, "dvc", "status")
        shared = ("extract_frames", "track_objects", "predict")
        output = run(project, "dvc", "repro", "--force", "--single-item", *shared)
        assert stages_run(output) == list(shared) and "process 1 of 2" in output
        assert (project / "dvc.lock").read_bytes() == lock
    finally:
        params.write_text(before)


@pytest.mark.end_to_end
def test_an_experiment_with_the_sampler_reruns_what_depends_on_it(project):
    steps = yaml.safe_load((project / "params.yaml").read_text())["predict"]["steps"]
    output = run(project, "dvc", "exp", "run", "--set-param", f"predict.steps={steps + 1}")
    assert stages_run(output) == ["predict", "segment", "score"]


# --- A cache shared by a team: docs/team.md --------------------------------------------------------------


@pytest.fixture(scope="module")
def pushed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clone with its run committed and pushed to a remote, a local folder."""
    run(project, "dvc", "remote", "add", "--default", "team", str(tmp_path_factory.mktemp("remote")))
    run(project, "git", "commit", "--quiet", "--all", "--message", "run")
    run(project, "dvc", "push", "--run-cache")
    return project


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.end_to_end
def test_another_clone_gets_a_pushed_run_without_running_a_stage(pushed, tmp_path):
    run(tmp_path, "git", "clone", "--quiet", str(pushed), "clone")
    output = run(tmp_path / "clone", "dvc", "repro", "--pull")
    assert stages_run(output) == [] and "up to date" in output
    assert contents(tmp_path / "clone/data") == contents(pushed / "data")


@pytest.mark.end_to_end
def test_the_same_change_in_another_clone_is_taken_from_the_pushed_run_cache(pushed, tmp_path):
    """Without the dvc.lock of the run."""
    run(tmp_path, "git", "clone", "--quiet", str(pushed), "clone")
    clone = tmp_path / "clone"
    run(clone, "git", "checkout", "HEAD^", "--", "dvc.lock")
    output = run(clone, "dvc", "repro", "--pull", "train_denoiser")
    assert stages_run(output) == [] and "Stage 'train_denoiser' is cached" in output
    assert contents(clone / "data/models/denoiser") == contents(pushed / "data/models/denoiser")
