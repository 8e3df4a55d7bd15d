"""Log the trained networks as one MLflow model, for `mlflow models predict` and `mlflow models serve`.

It holds their folders (weights as safetensors), the code of this package and pinned requirements. Nothing is
pickled.
"""

import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vdp.config.choices import SAMPLING_DEFAULTS
from vdp.config.project import PACKAGE, project_files
from vdp.core.model_files import CONFIG, WEIGHTS, weights_file
from vdp.tracking.mlflow_run import Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model, ModelSignature

NAME = "predictor"
MODELS = "models"  # artifact: the folder of the networks
DENOISER = "denoiser"
NETWORKS = ("codec", DENOISER, "segmenter", "classifier", "motion")  # the last three where trained
FILES = (CONFIG, WEIGHTS)  # of each network
MODEL_CODE = PACKAGE / "api" / "mlflow_model.py"
NEEDED = (  # requirements that `vdp.api.mlflow_model` imports, and torchvision for the segmenter's encoders
    "torch",
    "torchvision",
    "numpy",
    "einops",
    "scipy",
    "segmentation-models-pytorch",
    "opencv-python-headless",
    "mlflow",
    "pydantic",
    "ruamel.yaml",
    "safetensors",
    "tqdm",
)
DEFAULTS: dict[str, float] = {  # of a request
    "frames": 11,
    "samples": 1,
    "steps": SAMPLING_DEFAULTS.steps,
    "temperature": SAMPLING_DEFAULTS.temperature,
    "seed": SAMPLING_DEFAULTS.seed,
}


def log_predictor(tracker: Tracker, models: Path, checkpoint: int | None = None) -> str | None:
    """Log the networks with the stage's run as the MLflow model `predictor`.

    Args:
        tracker: of the stage; if its store fails, a warning is printed.
        models: folder of the trained networks.
        checkpoint: step of kept weights of the denoiser; None for those of its training's end.

    Returns:
        The URI of the model; None if it was not logged.
    """
    return tracker.send(lambda client, run: _log(client, run, models, checkpoint))


def save_predictor(
    folder: Path, models: Path, model: "Model | None" = None, checkpoint: int | None = None
) -> None:
    """Write the MLflow model to a new folder.

    Args:
        folder: must not exist.
        models: folder of the trained networks; of their weights, those in use are copied.
        model: metadata to extend, such as the id in a store.
        checkpoint: as of `log_predictor`.
    """
    from mlflow.pyfunc import save_model

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no input example: even one clip is too long
        networks = Path(scratch) / MODELS
        for network in NETWORKS:
            for file in FILES:
                if (models / network / file).is_file():  # the pixel codec has no weights
                    (networks / network).mkdir(parents=True, exist_ok=True)
                    shutil.copy(models / network / file, networks / network / file)
        if checkpoint is not None:
            shutil.copy(weights_file(models / DENOISER, checkpoint), networks / DENOISER / WEIGHTS)
        save_model(
            folder,
            python_model=MODEL_CODE,
            artifacts={MODELS: str(networks)},
            code_paths=[str(PACKAGE)],
            pip_requirements=pinned_requirements(),
            signature=signature(),
            mlflow_model=model,
        )


def signature() -> "ModelSignature":
    """Return the signature: uint8 clips (N, T, H, W, 3) to (N, S, F, H, W, 3)."""
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    pixel = np.dtype(np.uint8)
    kinds = {int: DataType.long, float: DataType.double}
    return ModelSignature(
        inputs=Schema([TensorSpec(pixel, (-1, -1, -1, -1, 3))]),
        outputs=Schema([TensorSpec(pixel, (-1, -1, -1, -1, -1, 3))]),
        params=ParamSchema([ParamSpec(name, kinds[type(value)], value) for name, value in DEFAULTS.items()]),
    )


def pinned_requirements() -> list[str]:
    """Return the pins of requirements.txt that prediction needs."""
    text = (project_files() / "requirements.txt").read_text()
    pins = re.findall(r"^[\w.-]+==[^\s#]+", text, re.MULTILINE)
    return [pin for pin in pins if pin.partition("==")[0] in NEEDED]


def _log(client: "MlflowClient", run: str, models: Path, checkpoint: int | None) -> str:
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    logged = client.create_logged_model(client.get_run(run).info.experiment_id, NAME, source_run_id=run)
    model = Model(
        artifact_path=logged.artifact_location,
        run_id=run,
        model_id=logged.model_id,
        model_uuid=logged.model_id,
    )
    with tempfile.TemporaryDirectory() as scratch:
        save_predictor(Path(scratch) / NAME, models, model, checkpoint)
        client.log_model_artifacts(logged.model_id, str(Path(scratch) / NAME))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=0)])
    return f"models:/{logged.model_id}"
