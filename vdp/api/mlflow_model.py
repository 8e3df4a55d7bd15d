"""The predictor as an MLflow model: this file is copied into it, and run when it is loaded.

Shapes: N clips of T frames, S futures of each, F frames to predict, all H x W pixels of RGB.
"""

from collections.abc import Mapping

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from numpy.typing import NDArray

from vdp.api.model import Sampling, load
from vdp.core.errors import one_line
from vdp.tracking.mlflow_model import DEFAULTS, MODELS


class Predictor(PythonModel):
    """Predicts the frames that follow on given clips; the same clip and seed give the same future."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the networks that lie in the MLflow model."""
        self.model = load(context.artifacts[MODELS])

    # the plain type: of any other MLflow would make a signature of its own
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, float] | None = None
    ) -> np.ndarray:
        """Predict.

        Args:
            context: not looked at.
            model_input: known frames, uint8 (N, T, H, W, 3) in 0..255.
            params: frames (F), samples (S), steps, temperature, seed; those of `DEFAULTS` where left out.

        Returns:
            uint8 (N, S, F, H, W, 3).

        Raises:
            MlflowException: for a bad value, in one line; of any other error a server tells nothing.
        """
        try:
            return self._futures(checked(model_input), {**DEFAULTS, **(params or {})})
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(one_line(error)) from error

    def _futures(self, clips: NDArray[np.uint8], asked: Mapping[str, float]) -> NDArray[np.uint8]:
        frames, samples, steps, seed = (int(asked[name]) for name in ("frames", "samples", "steps", "seed"))
        sampling = Sampling(steps=steps, temperature=float(asked["temperature"]), seed=seed)
        return np.stack([self.model.predict(clip, frames, samples, sampling) for clip in clips])


def checked(clips: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What MLflow's check of the signature lets through and is no batch of clips."""
    if clips.ndim != 5 or not clips.size:
        raise ValueError(
            "inputs: expected clips of one length and size, (clips, frames, height, width, 3), "
            f"got {clips.shape}"
        )
    if clips.max() <= 1:  # JSON's numbers are cut to whole ones before they come here
        raise ValueError(
            "inputs: expected pixels in 0..255, and none is above 1; multiply shares of 1 by 255"
        )
    return clips


set_model(Predictor())
