"""Imports go one way: core and config import no other part, siblings do not import each other."""

from pathlib import Path

import pytest

from tests.runtime_imports import imported_modules

VDP = Path(__file__).parents[1] / "vdp"
SHARED = {"core", "config"}
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "config": {"core"},
    **{part: SHARED for part in ("data", "models", "diffusion", "evaluation", "tracking", "launch")},
    "sampling": SHARED | {"diffusion"},
    "training": SHARED | {"diffusion", "launch"},
}
JOINING = {"api", "cli"}  # may import every part
TOP = {"__init__.py", "__init__.pyi", "__main__.py", "parts.py", "py.typed"}  # parts: names of `api` alone


def imported_parts(path: Path) -> set[str]:
    """`from vdp.data.degrade import x` gives data."""
    return {name.split(".")[1] for name in imported_modules(path) if name.startswith("vdp.")}


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_allowed_parts(part):
    wrong = {
        f"{path.relative_to(VDP)} imports vdp.{other}"
        for path in (VDP / part).rglob("*.py")
        for other in imported_parts(path) - ALLOWED[part] - {part}
    }
    assert not wrong


def test_every_part_has_a_rule_and_no_module_lies_at_the_top():
    names = {path.name for path in VDP.iterdir() if path.is_file() or any(path.rglob("*.py"))}
    assert names <= {*ALLOWED, *JOINING, *TOP}


def test_runtime_imports_are_found_and_type_checking_ones_skipped(tmp_path):
    (tmp_path / "x.py").write_text(
        "import vdp.models.layers\nfrom vdp import api\nfrom vdp.data.degrade import degrade\nimport os\n"
        "if TYPE_CHECKING:\n    import vdp.cli.app\nelse:\n    import vdp.training.cost\n"
    )
    assert imported_parts(tmp_path / "x.py") == {"models", "api", "data", "training"}
