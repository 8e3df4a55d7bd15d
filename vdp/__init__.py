"""Video diffusion prediction: `vdp.load` gives trained models, `vdp.train` makes them; see docs/api.md."""

from importlib import import_module

# found when they are asked for: stages import parts of this package, and must not load the networks for that
PLACES = {
    "load": "vdp.api.model",
    "Model": "vdp.api.model",
    "Sampling": "vdp.api.model",
    "train": "vdp.api.train",
}


def __getattr__(name: str) -> object:
    if name not in PLACES:
        raise AttributeError(f"module 'vdp' has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)
