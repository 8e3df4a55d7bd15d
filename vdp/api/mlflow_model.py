"""The predictor as an MLflow model: MLflow copies this file into the model and runs it on load.

Shapes: N clips of T frames, S samples of each, F frames to predict, all H x W pixels of RGB.
"""

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from numpy.typing import NDArray

from vdp.api.model import Sampling, load
from vdp.core.errors import one_line
from vdp.tracking.mlflow_model import DEFAULTS, MODELS


class Predictor(PythonModel):
    """Predict the frames that follow clips; equal clips and seeds give equal samples."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the networks of the MLflow model."""
        self.model = load(context.artifacts[MODELS])

    # plain types: from others MLflow derives another signature
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, float] | None = None
    ) -> np.ndarray:
        """Predict.

        Args:
            context: not used.
            model_input: context frames, uint8 (N, T, H, W, 3) in 0..255.
            params: frames (F; of a model that skips frames, those up to this one that it predicts), samples
                (S), steps, temperature, seed; `DEFAULTS` for those left out.

        Returns:
            uint8 (N, S, F, H, W, 3).

        Raises:
            MlflowException: for a user error; a server reports no other exception's message.
        """
        values = {**DEFAULTS, **(params or {})}
        frames, samples, steps, seed = (int(values[name]) for name in ("frames", "samples", "steps", "seed"))
        try:
            clips = check_clips(model_input)
            sampling = Sampling(steps=steps, temperature=float(values["temperature"]), seed=seed)
            numbers = self.model.predictable(frames) or self.model.frame_numbers(frames)
            return np.stack([self.model.predict(clip, None, samples, sampling, numbers) for clip in clips])
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(one_line(error)) from error


def check_clips(clips: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Check the number of axes and the range of the pixels."""
    if clips.ndim != 5 or not clips.size:
        raise ValueError(f"inputs: expected clips of one length and size, (N, T, H, W, 3), got {clips.shape}")
    if clips.max() <= 1:  # JSON numbers have been truncated to integers
        raise ValueError(
            "inputs: expected pixels in 0..255, got none above 1; multiply floats in [0, 1] by 255"
        )
    return clips


set_model(Predictor())
