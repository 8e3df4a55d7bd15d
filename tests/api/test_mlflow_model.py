"""The MLflow model: what it holds, what it takes and gives, and what it refuses."""

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
from vdp.tracking import mlflow_model as pyfunc
from vdp.tracking.mlflow_model import log_predictor, pinned, save_predictor
from vdp.tracking.mlflow_run import track_stage

REPO = Path(__file__).parents[2]
OF_PACKAGE = {"segmentation_models_pytorch": "segmentation-models-pytorch", "cv2": "opencv-python-headless"}


class CopyModel:
    """Answers with the last known frame, a level brighter for each future; notes how it was asked."""

    asked: list[tuple[int, int, Sampling]]

    def __init__(self) -> None:
        self.asked = []

    def predict(self, clip: np.ndarray, frames: int, samples: int, sampling: Sampling) -> np.ndarray:
        assert clip.dtype == np.uint8 and clip.shape[-1] == 3
        self.asked.append((frames, samples, sampling))
        futures = np.stack([clip[-1] + number for number in range(samples)])
        return np.repeat(futures[:, None], frames, axis=1).astype(np.uint8)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of trained networks, as far as they are copied; the codec has no weights of its own."""
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
def fake(monkeypatch: pytest.MonkeyPatch) -> CopyModel:
    model = CopyModel()
    monkeypatch.setattr("vdp.api.model.load", lambda folder: model)
    return model


def clips(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(2, 250, (count, 3, 4, 6, 3), np.uint8)


def test_it_holds_weights_and_code_and_no_pickle(saved):
    names = {path.name for path in saved.rglob("*") if path.is_file()}
    assert {"MLmodel", "model.safetensors", "config.json", "api.py", "pyfunc_model.py"} <= names
    assert "best.safetensors" not in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pyc", ".nbc", ".nbi"))]
    assert sum(path.stat().st_size for path in saved.rglob("*") if path.is_file()) < 2**20


def test_a_request_without_params_gets_one_future_of_each_clip(saved, fake):
    answer = mlflow.pyfunc.load_model(str(saved)).predict(clips())
    assert answer.dtype == np.uint8 and answer.shape == (2, 1, 11, 4, 6, 3)
    assert np.array_equal(answer[:, 0, 0], clips()[:, -1])
    assert fake.asked == [(11, 1, Sampling(steps=10, temperature=0.7, seed=0))] * 2


def test_the_params_of_a_request_are_those_of_the_sampling(saved, fake):
    params = {"frames": 2, "samples": 3, "steps": 4, "temperature": 0.0, "seed": 7}
    assert mlflow.pyfunc.load_model(str(saved)).predict(clips(1), params=params).shape == (1, 3, 2, 4, 6, 3)
    assert fake.asked == [(2, 3, Sampling(steps=4, temperature=0.0, seed=7))]


def test_it_predicts_what_the_networks_in_it_do(tmp_path):
    models = save_small_models(tmp_path / "models")
    save_predictor(tmp_path / "predictor", models)
    params = {"frames": 2, "samples": 2, "steps": 2, "seed": 5}
    answer = mlflow.pyfunc.load_model(str(tmp_path / "predictor")).predict(clips(), params=params)
    sampling = Sampling(steps=2, seed=5)
    assert np.array_equal(answer, [load(models).predict(clip, 2, 2, sampling) for clip in clips()])


def test_clips_as_json_are_what_they_are_as_an_array(saved, fake):
    model = mlflow.pyfunc.load_model(str(saved))
    request = infer_and_parse_data({"inputs": clips().tolist()}, model.metadata.get_input_schema())
    assert np.array_equal(model.predict(request), model.predict(clips()))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (clips().astype(np.float32), "dtype of input float32 does not match expected dtype uint8"),
        (clips()[0], "does not match expected shape"),
        (clips()[..., :1], "does not match expected shape"),
        (clips() // 255, "expected pixels in 0..255, and none is above 1"),
        (clips()[:, :0], "expected clips of one length and size"),
    ],
)
def test_what_is_no_batch_of_clips_is_refused_in_clear_words(saved, fake, given, said):
    with pytest.raises(MlflowException, match=said):
        mlflow.pyfunc.load_model(str(saved)).predict(given)
    assert fake.asked == []


def test_a_param_of_the_wrong_type_or_out_of_range_is_refused_by_name(saved, fake):
    with pytest.raises(MlflowException, match="steps=0: expected a whole number from 1 to 1000"):
        mlflow.pyfunc.load_model(str(saved)).predict(clips(), params={"steps": 0})
    with pytest.raises(MlflowException, match="frames"):
        mlflow.pyfunc.load_model(str(saved)).predict(clips(), params={"frames": "many"})


def test_its_requirements_are_the_pins_of_what_it_imports(saved):
    """Each file that the model's code loads, directly or not, is looked through for imports."""
    waiting, seen, packages = [Path("vdp/api/mlflow_model.py")], set(), set()
    while waiting:
        path = waiting.pop()
        if path in seen or not (REPO / path).is_file():
            continue
        seen.add(path)
        for node in ast.walk(ast.parse((REPO / path).read_text())):
            for module in imported(node):
                packages.add(module.split(".")[0])
                waiting += [
                    Path(*module.split(".")).with_suffix(".py"),
                    Path(*module.split("."), "__init__.py"),
                ]
    known = {pin.partition("==")[0].lower() for pin in (REPO / "requirements.txt").read_text().split()}
    used = {OF_PACKAGE.get(name, {"yaml": "pyyaml"}.get(name, name)).lower() for name in packages} & known
    pins = (saved / "requirements.txt").read_text().split()
    assert {pin.partition("==")[0].lower() for pin in pins} == used | {"torchvision"}
    assert set(pins) == set(pinned()) and set(pins) <= set((REPO / "requirements.txt").read_text().split())


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: bytes) -> Path:
    """A project folder without git: the current folder, and DVC's root."""
    (tmp_path / "params.yaml").write_text("seed: 3\n")
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_stage_logs_it_and_its_run_and_the_store_find_it(project, networks, fake, capfd):
    with track_stage("evaluate_tasks") as tracker:
        uri = log_predictor(tracker, networks)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert "MLFLOW_TRACKING_URI" not in os.environ, "what a stage logs changes no other process"
    store = f"sqlite:///{project / 'mlflow.db'}"
    client = MlflowClient(store)
    (run,) = client.search_runs(["1"], "attributes.run_name = 'evaluate_tasks'")
    assert uri == f"models:/{run.outputs.model_outputs[0].model_id}"
    assert client.get_logged_model(uri.removeprefix("models:/")).status == "READY"
    (folder,) = (project / "mlartifacts" / "models").glob("*/artifacts")
    assert mlflow.pyfunc.load_model(str(folder)).predict(clips(1)).shape == (1, 1, 11, 4, 6, 3)


def test_a_store_that_fails_costs_a_warning_not_the_stage(project, networks, capsys):
    (project / "mlartifacts").write_text("a file in the way")
    with track_stage("evaluate_tasks") as tracker:
        assert log_predictor(tracker, networks) is None
    assert capsys.readouterr().err.count("evaluate_tasks: continuing without MLflow") == 1


def test_the_stage_need_not_load_mlflow_to_name_the_model():
    assert pyfunc.MODEL_CODE.is_file()
    assert (
        "import mlflow"
        not in (REPO / "vdp/tracking/mlflow_model.py").read_text().split("if TYPE_CHECKING")[0]
    )
