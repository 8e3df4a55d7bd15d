"""The MLflow model: its files, its signature, and the requests that it refuses."""

import ast
import os
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import infer_and_parse_data

from tests.small_models import save_small_models
from vdp.api.model import Sampling, load
from vdp.tracking.mlflow_model import log_predictor, save_predictor
from vdp.tracking.mlflow_run import track_stage

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
PACKAGES = {
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "cv2": "opencv-python-headless",
    "ruamel": "ruamel.yaml",
}


class CopyModel:
    """Predicts the last context frame, one level brighter in each sample; records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, Sampling]] = []

    def predictable(self, limit: int) -> list[int]:
        return list(range(1, limit + 1))

    def predict(
        self, clip: np.ndarray, whole: None, samples: int, sampling: Sampling, at: list[int]
    ) -> np.ndarray:
        frames = len(at)
        assert clip.dtype == np.uint8 and clip.shape[-1] == 3
        self.calls.append((frames, samples, sampling))
        last = np.stack([clip[-1] + number for number in range(samples)])
        return np.repeat(last[:, None], frames, axis=1).astype(np.uint8)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of trained networks with placeholder files; the codec has no weights."""
    models = tmp_path_factory.mktemp("data") / "models"
    for name in ("codec", "denoiser", "segmenter"):
        (models / name).mkdir(parents=True)
        (models / name / "config.json").write_text("{}")
        (models / name / "best.safetensors").write_bytes(b"spare")
    for name in ("denoiser", "segmenter"):
        (models / name / "model.safetensors").write_bytes(b"weights")
    return models


@pytest.fixture(scope="module")
def saved(networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow") / "predictor"
    save_predictor(folder, networks)
    return folder


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> CopyModel:
    model = CopyModel()
    monkeypatch.setattr("vdp.api.model.load", lambda folder: model)
    return model


def clips(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(2, 250, (count, 3, 4, 6, 3), np.uint8)


def test_it_holds_weights_and_code_and_no_pickle(saved):
    names = {path.name for path in saved.rglob("*") if path.is_file()}
    assert {"MLmodel", "model.safetensors", "config.json", "mlflow_model.py"} <= names
    assert "best.safetensors" not in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pyc", ".nbc", ".nbi"))]
    assert sum(path.stat().st_size for path in saved.rglob("*") if path.is_file()) < 2**21


def test_a_request_without_params_gets_one_sample_of_each_clip(saved, model):
    predicted = mlflow.pyfunc.load_model(str(saved)).predict(clips())
    assert predicted.dtype == np.uint8 and predicted.shape == (2, 1, 11, 4, 6, 3)
    assert np.array_equal(predicted[:, 0, 0], clips()[:, -1])
    assert model.calls == [(11, 1, Sampling(steps=10, temperature=0.4, seed=0))] * 2


def test_the_params_of_a_request_set_the_sampling(saved, model):
    params = {"frames": 2, "samples": 3, "steps": 4, "temperature": 0.0, "seed": 7}
    assert mlflow.pyfunc.load_model(str(saved)).predict(clips(1), params=params).shape == (1, 3, 2, 4, 6, 3)
    assert model.calls == [(2, 3, Sampling(steps=4, temperature=0.0, seed=7))]


@pytest.mark.parametrize("base", ["nearest", "composed"])
def test_it_predicts_as_the_networks_do(tmp_path, base):
    models = save_small_models(tmp_path / "models", base=base)
    save_predictor(tmp_path / "predictor", models)
    params = {"frames": 2, "samples": 2, "steps": 2, "seed": 5}
    predicted = mlflow.pyfunc.load_model(str(tmp_path / "predictor")).predict(clips(), params=params)
    sampling = Sampling(steps=2, seed=5)
    assert np.array_equal(predicted, [load(models).predict(clip, 2, 2, sampling) for clip in clips()])


def test_it_holds_the_weights_of_a_kept_step(tmp_path):
    models = save_small_models(tmp_path / "models", segmenter=False)
    (models / "denoiser/step_00000030.safetensors").write_bytes(b"kept")
    save_predictor(tmp_path / "predictor", models, checkpoint=30)
    (weights,) = (tmp_path / "predictor").rglob("denoiser/model.safetensors")
    assert weights.read_bytes() == b"kept"


def test_clips_as_json_equal_clips_as_an_array(saved, model):
    loaded = mlflow.pyfunc.load_model(str(saved))
    request = infer_and_parse_data({"inputs": clips().tolist()}, loaded.metadata.get_input_schema())
    assert np.array_equal(loaded.predict(request), loaded.predict(clips()))


@pytest.mark.parametrize(
    ("inputs", "params", "message"),
    [
        (clips().astype(np.float32), None, "dtype of input float32 does not match expected dtype uint8"),
        (clips()[0], None, "does not match expected shape"),
        (clips()[..., :1], None, "does not match expected shape"),
        (clips() // 255, None, "expected pixels in 0..255"),
        (clips()[:, :0], None, "expected clips of one length and size"),
        (clips(), {"steps": 0}, "steps=0: expected an integer 1..1000"),
        (clips(), {"frames": "many"}, "frames"),
    ],
)
def test_an_invalid_request_is_refused(saved, model, inputs, params, message):
    with pytest.raises(MlflowException, match=message):
        mlflow.pyfunc.load_model(str(saved)).predict(inputs, params=params)
    assert model.calls == []


def test_its_requirements_are_the_pins_of_its_imports(saved):
    """All files that the model's code imports, directly or not, are searched."""
    waiting, seen, packages = [Path("vdp/api/mlflow_model.py")], set(), set()
    while waiting:
        path = waiting.pop()
        if path in seen or not (REPO / path).is_file():
            continue
        seen.add(path)
        for node in ast.walk(ast.parse((REPO / path).read_text())):
            for module in imported(node):
                packages.add(module.split(".")[0])
                parts = module.split(".")
                waiting += [Path(*parts).with_suffix(".py"), Path(*parts, "__init__.py")]
    pins = {pin for pin in (REPO / "requirements.txt").read_text().split() if "==" in pin}
    names = {PACKAGES.get(name, name).lower() for name in packages} | {"torchvision"}
    names -= {"tensorboardx"}  # imported by stages alone, where params ask for event files
    expected = {pin for pin in pins if pin.partition("==")[0].lower() in names}
    assert set((saved / "requirements.txt").read_text().split()) == expected


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: bytes) -> Path:
    """The current folder and DVC's root: a project without git."""
    (tmp_path / "params.yaml").write_text("seed: 3\n")
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_stage_logs_it_with_its_run(project, networks, model, capfd):
    with track_stage("evaluate_tasks") as tracker:
        uri = log_predictor(tracker, networks)
    assert capfd.readouterr() == ("", "")
    assert "MLFLOW_TRACKING_URI" not in os.environ
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    (run,) = client.search_runs(["1"], "attributes.run_name = 'evaluate_tasks'")
    assert uri == f"models:/{run.outputs.model_outputs[0].model_id}"
    assert client.get_logged_model(uri.removeprefix("models:/")).status == "READY"
    (folder,) = (project / "mlartifacts" / "models").glob("*/artifacts")
    assert mlflow.pyfunc.load_model(str(folder)).predict(clips(1)).shape == (1, 1, 11, 4, 6, 3)


def test_a_failing_store_costs_a_warning(project, networks, capsys):
    (project / "mlartifacts").write_text("a file in the way")
    with track_stage("evaluate_tasks") as tracker:
        assert log_predictor(tracker, networks) is None
    assert capsys.readouterr().err.count("evaluate_tasks: continuing without MLflow") == 1
