"""The wheel is complete and works outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[1]
FOLDERS = ("vdp", "stages", "recipes", "bench")
FILES = (
    "pyproject.toml", "setup.py", "README.md", "LICENSE", "params.yaml", "dvc.yaml", "requirements.txt",
    "requirements-dev.txt",
)  # fmt: skip
PROJECT_FILES = ("params.yaml", "dvc.yaml", "requirements.txt", "recipes/*.yaml", "stages/*.py")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds nothing but the content of the wheel, built from a copy of the checkout."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in FOLDERS:
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(REPO / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", built]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True)
    (wheel,) = built.glob("vdp-*.whl")
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def run(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder outside the checkout, with the package of the wheel."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(site)
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def distribution(site: Path) -> PathDistribution:
    (info,) = site.glob("vdp-*.dist-info")
    return PathDistribution(info)


def test_it_holds_the_package_and_the_files_of_the_project(site):
    expected = {
        path.relative_to(REPO): path
        for path in (REPO / "vdp").rglob("*")
        if path.suffix in (".py", ".pyi", ".typed")
    }
    for pattern in PROJECT_FILES:
        expected |= {"vdp/project" / path.relative_to(REPO): path for path in REPO.glob(pattern)}
    shipped = {path.relative_to(site): path for path in (site / "vdp").rglob("*") if path.is_file()}
    assert set(shipped) == set(expected)
    assert all(path.read_bytes() == expected[name].read_bytes() for name, path in shipped.items())
    assert sorted(path.name for path in site.iterdir())[0] == "vdp" and len(list(site.iterdir())) == 2


def test_its_metadata_has_the_pins_extras_and_the_command(site):
    metadata = distribution(site).metadata
    requirements = [line for line in metadata.get_all("Requires-Dist") if ";" not in line]
    pins = [line.split()[0] for line in (REPO / "requirements.txt").read_text().splitlines() if "==" in line]
    assert requirements == pins
    assert metadata.get_all("Provides-Extra") == ["test", "bench"]
    assert distribution(site).entry_points.select(name="vdp")["vdp"].value == "vdp.cli.app:main"


def test_the_command_line_and_the_import_work_without_torch(site, tmp_path):
    assert "predict" in run(site, tmp_path, "-m", "vdp", "--help").stdout
    code = "import sys, vdp; vdp.Sampling(steps=3); print(vdp.__file__, 'torch' in sys.modules); vdp.nothing"
    done = run(site, tmp_path, "-c", code)
    assert done.stdout.split() == [str(site / "vdp/__init__.py"), "False"]
    assert done.stderr.strip().endswith("AttributeError: module 'vdp' has no attribute 'nothing'")


@pytest.mark.parametrize("words", ["check", "generate"])
def test_without_a_project_or_models_a_command_ends_in_one_line(site, tmp_path, words):
    done = run(site, tmp_path, "-m", "vdp", *words.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_training_uses_the_shipped_params_recipes_and_code(site, tmp_path):
    code = (
        "import numpy as np\n"
        "from vdp.api import model, train as module\n"
        "module._run = module._publish = model.load = lambda *given: None\n"
        "videos = [np.zeros((22, 64, 96, 3), np.uint8)] * 2\n"
        "module.train(videos, 'new', recipe='smoke')\n"
    )
    done = run(site, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    for name in ("dvc.yaml", "stages/pretrain_vae.py", "vdp/__init__.py"):
        path = tmp_path / "new.partial" / name
        assert path.read_bytes() == (REPO / name).read_bytes()
        assert REPO not in path.resolve().parents
    check = "from vdp.config.read import check_file; check_file()"
    assert run(site, tmp_path / "new.partial", "-c", check).returncode == 0
