"""Shared fixtures: a small project with toy sections in its params.yaml, an MLflow database."""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, model_validator

from vdp.config import checks, read, schema
from vdp.config.schema import Params

MINUTES = ("test_pipeline.py", "test_distributed.py", "test_docs.py")  # files that take minutes
SLOW_MODULE = re.compile(r"^pytestmark = \[?\s*pytest\.mark\.slow", re.MULTILINE)

TOY_PARAMS = """\
# Every value a run may change.
seed: 7

clip:
  frames: 22  # frames of a clip
  known: 11
  height: 64
  width: 96  # pixels

vae:
  name: small  # small or large
  base_channels: 32
  optim: {lr: 1e-3, betas: [0.9, 0.99]}

predict:
  steps: 10          # sampler steps
  hops: [13, 22]     # frame numbers
  folders:
    simulated: data/raw
  flip: true

launcher: python
"""


class OptimParams(Params):
    lr: float = Field(gt=0, le=1)
    betas: tuple[float, float]


class ToyVaeParams(Params):
    name: Literal["small", "large"]
    base_channels: int = Field(ge=1, description="finest level")
    optim: OptimParams

    @model_validator(mode="after")
    def betas_are_in_order(self) -> Self:
        if self.optim.betas[0] > self.optim.betas[1]:
            raise ValueError("vae.optim.betas: expected the smaller one first")
        return self


class ToyPredictParams(Params):
    steps: int = Field(ge=1)
    hops: tuple[Annotated[int, Field(ge=1)], ...]
    folders: dict[str, Path]
    flip: bool | None


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # xdist keeps the order below


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files, so that no process works alone at the end."""
    items.sort(key=lambda item: item.path.name not in MINUTES)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import modules marked slow where slow tests are deselected: the imports take seconds."""
    if collection_path.suffix == ".py" and "not slow" in config.option.markexpr:
        return bool(SLOW_MODULE.search(collection_path.read_text())) or None
    return None


@pytest.fixture
def toy_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a valid params.yaml of toy sections and no checks across them."""
    module = type(sys)("toy_params")
    module.__dict__.update(ToyVaeParams=ToyVaeParams, ToyPredictParams=ToyPredictParams)
    monkeypatch.setitem(sys.modules, "toy_params", module)
    sections = {
        "clip": "vdp.config.schema:ClipParams",
        "vae": "toy_params:ToyVaeParams",
        "predict": "toy_params:ToyPredictParams",
    }
    for owner in (schema, read):
        monkeypatch.setattr(owner, "SECTIONS", sections)
    monkeypatch.setattr(checks, "CHECKS", ())
    (tmp_path / "params.yaml").write_text(TOY_PARAMS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An initialised MLflow database; creating one takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()
