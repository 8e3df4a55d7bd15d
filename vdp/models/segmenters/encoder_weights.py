"""Weights that an encoder of UNet++ starts with (`segmenter.weights`): ImageNet's, or those of a file.

Those of ImageNet are on the Hugging Face hub and stay in its cache. Nothing is unpickled but tensors.
"""

import pickle
import sys
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vdp.core.checkout import from_checkout
from vdp.core.errors import UserError, one_line
from vdp.core.rank import process_rank
from vdp.models.segmenters.params import IMAGENET, SegmenterParams
from vdp.models.segmenters.unetpp import UNetPlusPlus

PROBE_SECONDS = 10.0  # timeout of the first request to the hub
HUB_FILE = "model.safetensors"
COUNTER = "num_batches_tracked"  # of batch norm; not in old files
PREFIXES = ("module.", "encoder.")  # of names in files
NESTED = ("state_dict", "model")  # keys under which files have the weights
MAX_NAMES = 4  # in a message


def encoder_file(params: SegmenterParams) -> Path | None:
    """Return the file that `segmenter.weights` names, if it names one; UserError if it does not exist."""
    if params.weights in (None, IMAGENET):
        return None
    file = from_checkout(Path(str(params.weights)))
    if not file.is_file():
        raise UserError(
            f"segmenter.weights={params.weights}: no such file; expected imagenet, or a file of weights "
            "(.safetensors or .pth)"
        )
    return file


def load_encoder(network: UNetPlusPlus, params: SegmenterParams) -> None:
    """Load the weights of `segmenter.weights` into the encoder of a network, which has them not yet.

    Raises:
        UserError: if they cannot be read or downloaded, or are those of another encoder.
    """
    file = encoder_file(params)
    weights = _imagenet(params) if file is None else _named(_read(file, params), params)
    encoder = network.network.encoder
    expected = {name: value.shape for name, value in encoder.state_dict().items()}
    wrong = [
        name
        for name, shape in expected.items()
        if not (name in weights and weights[name].shape == shape) and not name.endswith(COUNTER)
    ]
    if wrong:
        more = f" and {len(wrong) - MAX_NAMES} more" if len(wrong) > MAX_NAMES else ""
        raise UserError(
            f"segmenter.weights={params.weights}: expected weights of the encoder {params.encoder}, which "
            f"are missing or of another shape: {', '.join(wrong[:MAX_NAMES])}{more}; change one of them"
        )
    # not the encoder's own method, which also expects the layers below its depth
    nn.Module.load_state_dict(encoder, {n: weights[n] for n in expected if n in weights}, strict=False)


def _read(file: Path, params: SegmenterParams) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = one_line(ValueError(str(error).partition("\n")[0]))
        raise UserError(
            f"segmenter.weights={params.weights}: cannot be read ({reason}); copy it again"
        ) from None
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise UserError(f"segmenter.weights={params.weights}: expected a state dict; save one")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _named(weights: dict[str, Tensor], params: SegmenterParams) -> dict[str, Tensor]:
    """Rename weights to the names of the encoder."""
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in weights):
            weights = {
                name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)
            }
    if params.encoder.startswith("tu-") and not any(name.startswith("model.") for name in weights):
        return {f"model.{name}": value for name, value in weights.items()}
    return weights


def _imagenet(params: SegmenterParams) -> dict[str, Tensor]:
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    repo, revision = _repository(params.encoder)
    # the bases of HfHubHTTPError: errors of the HTTP library, which differs between versions of the client
    of_library = [kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception)]
    failures: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, *of_library)
    try:
        cached = isinstance(try_to_load_from_cache(repo, HUB_FILE, revision=revision), str)
        if not cached and not constants.HF_HUB_OFFLINE:
            # one request with a timeout: the library retries for half a minute
            HfApi().model_info(repo, revision=revision, timeout=PROBE_SECONDS)
            if process_rank() == 0:
                print(
                    f"segmenter.weights=imagenet: {repo}, cached in {constants.HF_HUB_CACHE}", file=sys.stderr
                )
        weights = True if params.encoder.startswith("tu-") else IMAGENET
        return smp.encoders.get_encoder(
            params.encoder, depth=params.encoder_depth, weights=weights
        ).state_dict()
    except failures as error:
        reason = one_line(ValueError(str(error).partition("\n")[0]))
        raise UserError(
            f"segmenter.weights=imagenet: {repo} cannot be downloaded ({reason}): run once with a network, "
            f"or name its file {HUB_FILE}, copied from https://huggingface.co/{repo}"
        ) from None


def _repository(encoder: str) -> tuple[str, str | None]:
    """Repository and revision of an encoder's ImageNet weights on the hub."""
    if encoder.startswith("tu-"):
        config = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        if config is not None and config.hf_hub_id:
            return str(config.hf_hub_id), None
    elif IMAGENET in (settings := smp.encoders.encoders[encoder]["pretrained_settings"]):
        return settings[IMAGENET]["repo_id"], settings[IMAGENET]["revision"]
    raise UserError(
        f"segmenter.weights=imagenet: there are none of the encoder {encoder}; name a file, or set it to null"
    )
