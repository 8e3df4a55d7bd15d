"""Section `tracking` of params.yaml."""

from vdp.config.schema import Params


class TrackingParams(Params):
    """Section `tracking`: where curves and pictures go, beside MLflow."""

    tensorboard: bool  # write event files of TensorBoard
