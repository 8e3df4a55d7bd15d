"""Video diffusion prediction: `vdp.load` gives trained models, `vdp.train` makes them; see docs/api.md."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vdp.api import Model as Model
    from vdp.api import Sampling as Sampling
    from vdp.api import load as load
    from vdp.learn import train as train

# found when they are asked for: stages import parts of this package, and must not load the networks for that
PLACES = {"load": "vdp.api", "Model": "vdp.api", "Sampling": "vdp.api", "train": "vdp.learn"}


def __getattr__(name: str) -> object:
    if name not in PLACES:
        raise AttributeError(f"module 'vdp' has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)
