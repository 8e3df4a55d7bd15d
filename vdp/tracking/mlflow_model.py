"""The trained networks logged as one MLflow model, for `mlflow models predict` and `mlflow models serve`.

It holds their folders (weights as safetensors), the code of this package and a list of requirements; nothing
in it is pickled.
"""

import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vdp.tracking.mlflow_run import Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model, ModelSignature

NAME = "predictor"
MODELS = "models"  # its artifact: the folder of the networks
NETWORKS = ("codec", "denoiser", "segmenter")
FILES = ("config.json", "model.safetensors")  # of each network; spare weights stay where they are
PACKAGE = Path(__file__).parents[1]
MODEL_CODE = PACKAGE / "api" / "mlflow_model.py"
REQUIREMENTS = PACKAGE.parent / "requirements.txt"
NEEDED = (  # of the requirements: what `vdp.api.mlflow_model` imports, directly or not; torchvision for encoders
    "torch",
    "torchvision",
    "numpy",
    "einops",
    "segmentation-models-pytorch",
    "opencv-python-headless",
    "mlflow",
    "pydantic",
    "PyYAML",
    "safetensors",
    "tqdm",
)
DEFAULTS: dict[str, float] = {
    "frames": 11,
    "samples": 1,
    "steps": 10,
    "temperature": 0.7,
    "seed": 0,
}  # of a request


def log_predictor(tracker: Tracker, models: Path) -> str | None:
    """Keep the networks with the stage's run as the MLflow model `predictor`.

    Args:
        tracker: of the stage; a store that fails costs a warning, as with all that it writes.
        models: folder of the trained networks.

    Returns:
        The URI by which MLflow finds the model; None if it was not logged.
    """
    return tracker.send(lambda client, run: _log(client, run, models))


def save_predictor(folder: Path, models: Path, model: "Model | None" = None) -> None:
    """Write the MLflow model to a new folder.

    Args:
        folder: where to; does not exist.
        models: folder of the trained networks; their weights in use are taken, spare ones are not.
        model: what is known of it already, such as its id in a store.
    """
    from mlflow.pyfunc import save_model

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has no example: one clip is a page of numbers
        networks = Path(scratch) / MODELS
        for name in NETWORKS:
            _copy_network(models / name, networks / name)
        save_model(
            folder,
            python_model=MODEL_CODE,
            artifacts={MODELS: str(networks)},
            code_paths=[str(PACKAGE)],
            pip_requirements=pinned(),
            signature=signature(),
            mlflow_model=model,
        )


def signature() -> "ModelSignature":
    """What the model takes and gives: uint8 clips (N, T, H, W, 3), to (N, S, F, H, W, 3)."""
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    pixel = np.dtype(np.uint8)
    kinds = {int: DataType.long, float: DataType.double}
    return ModelSignature(
        inputs=Schema([TensorSpec(pixel, (-1, -1, -1, -1, 3))]),
        outputs=Schema([TensorSpec(pixel, (-1, -1, -1, -1, -1, 3))]),
        params=ParamSchema([ParamSpec(name, kinds[type(value)], value) for name, value in DEFAULTS.items()]),
    )


def pinned() -> list[str]:
    """The pins of what prediction needs, as in requirements.txt."""
    pins = re.findall(r"^[\w-]+==[^\s#]+", REQUIREMENTS.read_text(), re.MULTILINE)
    return [pin for pin in pins if pin.partition("==")[0] in NEEDED]


def _log(client: "MlflowClient", run: str, models: Path) -> str:
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    logged = client.create_logged_model(client.get_run(run).info.experiment_id, NAME, source_run_id=run)
    known = Model(
        artifact_path=logged.artifact_location,
        run_id=run,
        model_id=logged.model_id,
        model_uuid=logged.model_id,
    )
    with tempfile.TemporaryDirectory() as scratch:
        save_predictor(Path(scratch) / NAME, models, known)
        client.log_model_artifacts(logged.model_id, str(Path(scratch) / NAME))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=0)])
    return f"models:/{logged.model_id}"


def _copy_network(folder: Path, to: Path) -> None:
    for name in FILES:
        if (folder / name).is_file():  # a codec may have no weights
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name, to / name)
