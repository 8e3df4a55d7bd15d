"""What a later stage would refuse, found before any work from params.yaml, the sources and this machine."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pydantic import JsonValue

from vdp.cli.source_check import check_sources
from vdp.config.messages import validate
from vdp.config.read import read_section
from vdp.config.schema import PARAMS_FILE, ClipParams, schema
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError, one_line
from vdp.core.latent_time import LatentTime
from vdp.core.model_files import TRAINED, initial_file
from vdp.data.extract.mask_notes import mask_notes
from vdp.data.params import ExtractParams
from vdp.diffusion.params import DiffusionParams
from vdp.evaluation.params import ScoreParams
from vdp.launch.params import EngineParams
from vdp.models.codecs.params import CodecParams, VAEParams
from vdp.models.segmenters.params import SegmenterParams
from vdp.tracking.mlflow_run import project_root
from vdp.training.params import FitParams, TrainSegmenterParams

NOT_PREDICTED = (
    "train_denoiser.tasks.predict=0: nothing is predicted: track_objects, train_motion, predict_motion, "
    "predict and segment have nothing to do, and evaluate_tasks has the scores"
)
GPU_COMPILERS = ("gcc", "clang", "cc")  # that triton looks for


@dataclass(frozen=True)
class Preflight:
    """Result of the checks."""

    notes: list[str]  # what follows from the codec and from the masks of the splits, one line each
    left_out: list[str]  # a line for each source with files that are left out
    labelled: bool  # whether training clips have masks, as far as the sources show


def check_run() -> Preflight:
    """Check the sources, the machine and the files that params.yaml names.

    Raises:
        UserError: for the first thing that some stage would refuse.
    """
    clip = read_section(ClipParams, "clip")
    sources = check_sources(clip, read_section(ExtractParams, "extract_frames"))
    masks = sources.masks
    labelled = masks.get("train", True)
    base = read_section(DiffusionParams, "diffusion").base
    if base == "composed" and clip.predicts and not labelled:
        raise UserError(
            f"{PARAMS_FILE}: diffusion.base=composed: expected training clips with masks, from which "
            "the motion of objects is learned; set it to auto or optical_flow"
        )
    check_weights(read_section(ScoreParams, "score"))
    check_initial(read_file(), Path("data/models"))
    check_engine(read_section(EngineParams, "engine"), str(read_file()["launcher"]))
    segmenter = read_section(SegmenterParams, "segmenter")
    if labelled and segmenter.backbone_channels is None and find_spec("torch") is not None:
        from vdp.models.segmenters.encoder_weights import encoder_file

        encoder_file(segmenter)
        check_encoder_fits(segmenter, read_section(TrainSegmenterParams, "train_segmenter"), clip)
    notes = [*codec_notes(), *mask_notes(masks), *([] if clip.predicts else [NOT_PREDICTED])]
    return Preflight(notes, sources.left_out, labelled)


def codec_notes() -> list[str]:
    """Say what follows from a codec that compresses time."""
    clip, vae = read_section(ClipParams, "clip"), read_section(VAEParams, "vae")
    if read_section(CodecParams, "codec").name != "vae" or vae.temporal_factor == 1:
        return []
    time, notes = LatentTime(vae.temporal_factor, clip.known), []
    where = f"vae.temporal_factor={time.factor}"
    if time.padding and clip.predicts:
        notes.append(
            f"clip.known={clip.known}: padded to {clip.known + time.padding} frames by copies of the first "
            f"one at the start, 1 + {time.count(clip.known) - 1} x {where}"
        )
    if clip.predicts and read_section(DiffusionParams, "diffusion").base == "auto":
        notes.append(f"diffusion.base=auto: moved, as only single frames are composed and {where}")
    return notes


# --- Files and machine -----------------------------------------------------------------------------------


def check_weights(params: ScoreParams) -> None:
    """Raise a UserError for a network of `score` that is missing or, with torch, cannot be loaded."""
    root = project_root()
    paths = {"lpips_weights": params.lpips_weights, "fvd_weights": params.fvd_weights}
    given = {key: root / path for key, path in paths.items() if path is not None}
    for key, path in given.items():
        if not path.is_file():
            raise UserError(
                f"{PARAMS_FILE}: score.{key}={path}: no such file; expected a TorchScript file, or null"
            )
    if not given or find_spec("torch") is None:
        return
    import torch

    from vdp.evaluation.perceptual import Lpips, VideoFeatures

    kinds = {"lpips_weights": Lpips, "fvd_weights": VideoFeatures}
    for key, path in given.items():
        kinds[key](path, torch.device("cpu"))


def check_initial(data: Mapping[str, JsonValue], models: Path) -> None:
    """Raise a UserError if a training cannot start from its `init_from`; `models` is where it writes."""
    for section, name in TRAINED.items():
        params = validate(schema(section), data.get(section), section)
        assert isinstance(params, FitParams)
        initial_file(section, params.init_from, models / name)


def check_engine(params: EngineParams, launcher: str) -> None:
    """Raise a UserError for settings of `engine` that no training accepts.

    What depends on the machine is checked where `launcher` is python, which trains on this one.
    """
    processes = params.devices * params.num_nodes if isinstance(params.devices, int) else None
    if processes is not None:
        _check_parts(processes)
    if params.precision == 16 and params.strategy == "fsdp":
        raise _engine_error("precision=16: not supported with engine.strategy=fsdp; use bf16, or ddp")
    if params.strategy == "fsdp" and processes == 1:
        raise _engine_error("strategy=fsdp: expected several processes; raise engine.devices, or use auto")
    if not launcher.partition(" ")[0].startswith("python"):
        return
    if params.num_nodes > 1 and "NODE_RANK" not in os.environ:
        raise _engine_error(
            f"num_nodes={params.num_nodes}: expected 1 with launcher={launcher}; set it to torchrun or srun"
        )
    if find_spec("torch") is not None:
        _check_machine(params)


def _check_parts(processes: int) -> None:
    data = read_file()
    for section in TRAINED:
        training = validate(schema(section), data.get(section), section)
        assert isinstance(training, FitParams)
        parts = training.accumulate * processes
        if training.batch_size % parts:
            raise UserError(
                f"{PARAMS_FILE}: {section}.batch_size={training.batch_size}: expected a multiple of {parts}, "
                f"accumulate={training.accumulate} x {processes} processes; set it to "
                f"{-(-training.batch_size // parts) * parts}"
            )


def _check_machine(params: EngineParams) -> None:
    import torch

    gpus = torch.cuda.device_count()
    if params.precision == 16 and not gpus:
        raise _engine_error("precision=16: expected a GPU; set it to auto, which takes bf16 if it is fast")
    if gpus and isinstance(params.devices, int) and params.devices > gpus:
        raise _engine_error(
            f"devices={params.devices}: expected at most {gpus}, the GPUs of this machine; lower it"
        )
    if params.compile:
        check_compiler(os.environ, gpu=gpus > 0)


def check_compiler(environment: Mapping[str, str], gpu: bool) -> None:
    """Raise a UserError if torch.compile would find no compiler: C++ on CPUs, C on GPUs."""
    names = (environment.get("CC"), *GPU_COMPILERS) if gpu else (environment.get("CXX", "g++"),)
    if any(name is not None and shutil.which(name) for name in names):
        return
    kind, package = ("C", "gcc, or set CC") if gpu else ("C++", "g++, or set CXX")
    raise _engine_error(
        f"compile=true: expected a {kind} compiler; install {package}, or set compile to false"
    )


def _engine_error(text: str) -> UserError:
    return UserError(f"{PARAMS_FILE}: engine.{text}")


def check_encoder_fits(segmenter: SegmenterParams, train: TrainSegmenterParams, clip: ClipParams) -> None:
    """Raise a UserError if UNet++ cannot have the encoder, or not at the size of crops and frames.

    The network is built on torch's device 'meta', which computes shapes only.
    """
    import torch

    from vdp.data.crops import crop_side
    from vdp.models.segmenters.unetpp import UNetPlusPlus, check_encoder

    check_encoder(segmenter.encoder)
    sizes = {(clip.height, clip.width)}
    if train.crop_scale is not None:
        sizes.add((crop_side(train.crop_scale, clip.height),) * 2)
    what = f"segmenter.encoder={segmenter.encoder}, encoder_depth={segmenter.encoder_depth}"
    advice = "set another depth or encoder, such as conv32 or resnet18"
    for height, width in sorted(sizes):
        try:
            with torch.device("meta"):
                network = UNetPlusPlus(segmenter)
                shape = network(torch.zeros(2, 3, height, width)).shape[-2:]
        # the libraries of encoders raise any of them
        except (
            ValueError,
            RuntimeError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            AssertionError,
        ) as error:
            reason = one_line(ValueError(str(error).strip().partition("\n")[0]))
            raise UserError(
                f"{PARAMS_FILE}: {what}: UNet++ fails with it at {width}x{height} pixels ({reason}); {advice}"
            ) from None
        if tuple(shape) != (height, width):
            raise UserError(
                f"{PARAMS_FILE}: {what}: masks of {width}x{height} pixels are {shape[1]}x{shape[0]}; {advice}"
            )
