"""The examples of docs/api.md run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_models import save_small_models

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[1]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_api_page_run_in_their_order(tmp_path):
    """As one program, in a folder with models in data/models."""
    save_small_models(tmp_path / "data/models")
    program = tmp_path / "examples.py"
    program.write_text("\n".join(FENCE.findall((REPO / "docs/api.md").read_text())))
    environment = os.environ | {"PYTHONPATH": str(REPO), "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'tasks':" in done.stdout
    assert (tmp_path / "my_model/denoiser/model.safetensors").is_file()
