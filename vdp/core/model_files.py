"""Files of a model folder: weights, kept weights of single steps, weights that a training starts from."""

import re
from pathlib import Path

from vdp.core.checkout import from_checkout, project_root
from vdp.core.errors import UserError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TRAINED = {  # name of the model folder that each training writes
    "pretrain_vae": "codec",
    "train_classifier": "classifier",
    "train_segmenter": "segmenter",
    "train_motion": "motion",
    "train_denoiser": "denoiser",
}
KEPT = re.compile(r"step_(\d+)\.safetensors")


def kept_name(step: int) -> str:
    """Name of the kept weights of a step, without suffix; names sort as their steps."""
    return f"step_{step:08d}"


def kept_steps(folder: Path) -> list[int]:
    """Steps whose weights a training has kept (`keep_every`), ascending."""
    found = (KEPT.fullmatch(path.name) for path in folder.glob("step_*.safetensors"))
    return sorted(int(match[1]) for match in found if match)


def weights_file(folder: Path, checkpoint: int | None) -> Path:
    """Return the file of a model's weights: those of its training's end, or kept ones.

    Args:
        folder: of the model.
        checkpoint: step of kept weights; None for those that `keep` names.

    Raises:
        UserError: if the weights of this step are not kept; names those that are.
    """
    if checkpoint is None:
        return folder / WEIGHTS
    steps = kept_steps(folder)
    if checkpoint not in steps:
        kept = f"expected one of {', '.join(map(str, steps))}" if steps else "no checkpoints are kept"
        advice = "choose one" if steps else "train with keep_every, or leave it out"
        raise UserError(f"checkpoint={checkpoint}: {kept} in {folder}; {advice}")
    return folder / f"{kept_name(checkpoint)}.safetensors"


def initial_file(section: str, init_from: Path | None, output: Path) -> Path | None:
    """Return the weights that a training starts from, `<section>.init_from`; None for random ones.

    Args:
        section: of the training, for messages.
        init_from: a model folder, a folder of models with one named as `output`, or a file of weights in a
            model folder, such as kept ones; relative to the main checkout.
        output: the folder that the training writes.

    Raises:
        UserError: if there are no weights, or they are in the output, which is replaced.
    """
    if init_from is None:
        return None
    what, path = f"{section}.init_from={init_from}", from_checkout(init_from)
    if path.is_dir() and not (path / CONFIG).is_file():
        path = path / output.name
    file = path if path.suffix == ".safetensors" else path / WEIGHTS
    own = [folder.resolve() for folder in (output, project_root() / output)]
    if any(file.resolve().is_relative_to(folder) for folder in own):
        raise UserError(f"{what}: is replaced by the training; copy the folder, and name the copy")
    if not file.is_file() or not (file.parent / CONFIG).is_file():
        raise UserError(
            f"{what}: expected a model folder with {WEIGHTS} and {CONFIG}, or a file of weights in one; name "
            "another, or set it to null"
        )
    return file
