"""Imports go one way: a folder of vdp imports itself, the modules at the top, and what is granted to it."""

import ast
from pathlib import Path

import pytest

VDP = Path(__file__).parents[1] / "vdp"
TOP = {"batch_rng", "checks", "classes", "device", "files", "hops", "params", "pixels", "tasks"}
GRANTED = {
    "data": set(),
    "models": set(),
    "diffusion": set(),
    "metrics": set(),
    "tracking": set(),
    "training": {"diffusion"},
    "sampling": {"diffusion"},
}


def imported_parts(path: Path) -> set[str]:
    """First names below vdp that a file imports: `from vdp.data.stores.clips import x` gives data."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        parts |= {name.split(".")[1] for name in names if name.startswith("vdp.")}
    return parts


@pytest.mark.parametrize("folder", GRANTED)
def test_a_folder_imports_no_sibling(folder):
    for path in (VDP / folder).rglob("*.py"):
        strange = imported_parts(path) - TOP - GRANTED[folder] - {folder}
        assert not strange, f"{path.relative_to(VDP)} imports vdp.{strange.pop()}"


def test_the_top_modules_import_no_folder():
    for name in TOP:
        assert imported_parts(VDP / f"{name}.py") <= TOP, name


def test_every_folder_has_its_rule():
    assert {path.name for path in VDP.iterdir() if (path / "__init__.py").is_file()} == set(GRANTED)


def test_an_import_of_a_sibling_is_seen(tmp_path):
    (tmp_path / "x.py").write_text(
        "import vdp.models.layers\nfrom vdp.data.stores.clips import ClipStore\nimport os\n"
    )
    assert imported_parts(tmp_path / "x.py") == {"models", "data"}
