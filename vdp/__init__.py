"""Video diffusion prediction: `load` opens trained models, `train` trains them, `parts` builds their parts.

docs/api.md has an example of each.
"""

from importlib import import_module

from vdp.core.user import name_user

# Imported on first use: `import vdp` loads no torch.
MODULES = {
    "load": "vdp.api.model",
    "Model": "vdp.api.model",
    "Sampling": "vdp.api.sampling",
    "train": "vdp.api.train",
}

name_user()  # before any import of torch


def __getattr__(name: str) -> object:
    if name == "parts":
        return import_module("vdp.parts")
    if name not in MODULES:
        raise AttributeError(f"module 'vdp' has no attribute {name!r}")
    return getattr(import_module(MODULES[name]), name)
