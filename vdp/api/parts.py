"""Build the parts of a video diffusion model, train them, and save them as a folder of models.

Shapes: B clips, T frames of H x W pixels, C x h x w latents.
"""

import sys
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from vdp.api.datasets import Clips, store_clips
from vdp.api.loading import CODEC, DENOISER, LatentDiffusion
from vdp.api.model import Model
from vdp.api.params import params
from vdp.api.trainer import Trainer
from vdp.config.choices import BaseName
from vdp.core.errors import UserError
from vdp.core.files import replacing
from vdp.core.latent_time import TRAINED_GROUPS, LatentTime
from vdp.core.model_files import CONFIG
from vdp.core.rng import BatchRng
from vdp.core.tasks import TASKS, Task
from vdp.data.batches.frames import FrameBatches, Frames
from vdp.data.batches.hops import AllTaskBatches, HopBatches, HopRule
from vdp.data.encode import encode_clips, encode_conditions
from vdp.data.stores.clips import ClipStore, Pixels
from vdp.data.stores.latents import (
    EncodedClip,
    Half,
    LatentClips,
    Moments,
    write_latents,
    write_statistics,
)
from vdp.diffusion.loss import TaskLevelLoss
from vdp.diffusion.objective import Objective
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.protocols import Denoiser
from vdp.diffusion.schedules import make_process
from vdp.models.checkpoint import fingerprint, save_model
from vdp.models.codecs.params import CodecConfig, EncodeParams, VAEParams
from vdp.models.codecs.pixel import PixelCodec
from vdp.models.codecs.protocols import Codec
from vdp.models.codecs.vae import VAE, vae_loss
from vdp.models.denoisers.dit import DiT
from vdp.models.denoisers.moved import MovedDenoiser, Mover
from vdp.models.denoisers.params import DenoiserConfig, DenoiserParams, DiTParams, MoverParams, UNetParams
from vdp.models.denoisers.unet import UNet
from vdp.training.dataloader import first_batches
from vdp.training.definition import Training
from vdp.training.hop_loss import hop_loss, measure_scales
from vdp.training.params import PretrainVAEParams, TrainDenoiserParams
from vdp.training.validation import VALIDATION_SEED, VALIDATION_SIZE

IN_MEMORY = Path("(in memory)")  # stands for the folder of a model that has none


# --- Build -----------------------------------------------------------------------------------------------


def build_codec(vae: VAEParams | None = None, has_masks: bool = False) -> VAE | PixelCodec:
    """Build a codec with random weights: frames (B, 3, T, H, W) in [-1, 1] to latents and back.

    Args:
        vae: params of a VAE; None for the pixel codec, whose latents are the pixels.
        has_masks: whether the VAE has a mask head, trained with the masks of clips.

    Source: Rombach et al. 2022 (arXiv:2112.10752).
    """
    return PixelCodec() if vae is None else VAE(vae, has_masks)


def build_denoiser(
    network: UNetParams | DiTParams, channels: int, mover: MoverParams | None = None
) -> UNet | DiT | MovedDenoiser:
    """Build a denoiser with random weights; any network that keeps the protocol `Denoiser` may replace it.

    Args:
        network: params of a U-Net or of a DiT (Peebles & Xie 2023, arXiv:2212.09748).
        channels: C of the latents, as `codec.channels`.
        mover: params of a network that moves context frames to the targets (`diffusion.base: moved`).
    """
    built = UNet(network, channels) if isinstance(network, UNetParams) else DiT(network, channels)
    return built if mover is None else MovedDenoiser(built, Mover(mover, channels))


# --- Train -----------------------------------------------------------------------------------------------


def pretrain_vae(
    codec: VAE,
    train: Clips,
    val: Clips,
    training: PretrainVAEParams | None = None,
    trainer: Trainer | None = None,
) -> VAE:
    """Train a VAE on the frames of clips, or on short clips if it compresses time.

    Args:
        codec: trained in place.
        train: a Dataset or an iterable of clips, read once: frames (T, H, W, 3), uint8 or float in [0, 1]; or
            a tuple of them and of class ids (T, H, W), for the mask head.
        val: the same, to validate on.
        training: steps, loss weights and the like; None for the values of params.yaml.
        trainer: optimizer, logger and the like.

    Returns:
        The codec with averaged weights, in evaluation mode.

    Raises:
        UserError: if clips have another shape or type than expected, or no masks for a mask head.
        ValueError: if clips are shorter than those that a codec is trained on that compresses time.
    """
    if not isinstance(codec, VAE):
        raise UserError(
            f"codec: expected a VAE of build_codec, got {type(codec).__name__}; a codec of pixels has no "
            "weights to train, pass it to train_denoiser"
        )
    chosen, trainer = training or params(PretrainVAEParams), trainer or Trainer()
    length = 1 if codec.temporal_factor == 1 else 1 + TRAINED_GROUPS * codec.temporal_factor

    def loss(network: VAE, batch: Frames, rng: BatchRng) -> dict[str, Tensor]:
        clips, masks = batch.clips()
        count = 1 + (clips.shape[2] - 1) // network.temporal_factor
        height, width = (side // network.factor for side in clips.shape[-2:])
        noise = rng.normal(len(clips), network.channels, count, height, width)
        mask_weight = chosen.mask_weight if network.has_masks else 0.0
        weights = (chosen.kl_weight, chosen.detail_weight, mask_weight)
        return vae_loss(network, clips, masks, batch.weight, noise, *weights)

    with TemporaryDirectory() as folder:
        store, val_store = _stores(Path(folder), train, val)
        for name, each in (("train", store), ("val", val_store)):
            _check_size(name, each, codec.factor)
        if codec.has_masks and not (store.num_labelled and val_store.num_labelled):
            raise UserError(
                "has_masks=True: expected clips with masks in train and val; build the codec without"
            )
        batches = FrameBatches([store], chosen.batch_size, False, _unchanged, trainer.seed, length)
        val_batches = FrameBatches(
            [val_store], VALIDATION_SIZE, codec.has_masks, _unchanged, VALIDATION_SEED, length
        )
        job = Training("pretrain_vae", codec, loss, batches, loss, val_batches)
        return trainer.run(job, chosen.in_steps(batches.epoch_clips))


def train_denoiser(
    codec: nn.Module,
    denoiser: nn.Module,
    train: Clips,
    val: Clips,
    diffusion: DiffusionParams | None = None,
    training: TrainDenoiserParams | None = None,
    trainer: Trainer | None = None,
    known: int = 1,
) -> Model:
    """Train a denoiser on the latents of clips.

    Args:
        codec: trained, of `build_codec`, or any module that keeps the protocol `Codec`.
        denoiser: of `build_denoiser`, or any module that keeps the protocol `Denoiser`; trained in place.
        train: a Dataset or an iterable of clips of one length and size, read and encoded once: frames
            (T, H, W, 3), uint8 or float in [0, 1]; for the task `restore` mappings with `frames` and
            `conditions`, the degraded frames of the same shape.
        val: the same, to validate on.
        diffusion: schedule, prediction and the like; None for the values of params.yaml.
        training: tasks, context frames, steps and the like; None for the values of params.yaml.
        trainer: optimizer, logger and the like.
        known: with a codec that compresses time, first frames of a clip that end a group.

    Returns:
        The model, with the averaged weights of the denoiser; `Model.diffusion` holds its parts.

    Raises:
        UserError: if a network does not keep its protocol, or clips have another shape or type than expected.
        ValueError: if the hops of `training` do not fit into the clips.
    """
    if not isinstance(codec, Codec) or not isinstance(denoiser, Denoiser):
        name, part = ("denoiser", denoiser) if isinstance(codec, Codec) else ("codec", codec)
        raise UserError(
            f"{name}: {type(part).__name__} does not keep the protocol vdp.parts.{name.title()}; define its "
            "methods and attributes"
        )
    process_params, chosen = diffusion or params(DiffusionParams), training or params(TrainDenoiserParams)
    trainer = trainer or Trainer()
    device = trainer.launch().device
    base = _base(denoiser.to(device), codec.channels, process_params.base, device)
    shares: dict[Task, float] = {task: getattr(chosen.tasks, task) for task in TASKS}
    rule = HopRule(
        chosen.context_frames, chosen.target_offsets, chosen.max_hops, chosen.targets, chosen.max_span,
        chosen.given_frames, grouped=codec.temporal_factor > 1,
    )  # fmt: skip
    with TemporaryDirectory() as name:
        folder = Path(name)
        store, val_store = _stores(folder, train, val)
        time = LatentTime(codec.temporal_factor, known)
        if time.factor > 1:
            alone = shares["generate"] > 0 and shares["predict"] == 0
            _check_known(time, min(store.lengths()), alone, chosen.targets if denoiser.joint else 1)
        codec.to(device).eval()
        _encode(codec, folder, store, val_store, time, device, shares["restore"] > 0)
        clips, val_clips = (LatentClips(folder, [split]) for split in ("train", "val"))
        batches = HopBatches(clips, chosen.batch_size, shares, rule, False, chosen.reverse, trainer.seed)
        val_batches = AllTaskBatches(
            HopBatches(val_clips, VALIDATION_SIZE, shares, rule, False, False, VALIDATION_SEED)
        )
        samples = {task: first_batches(batches.for_task(task), trainer.seed) for task in batches.tasks}
        scales = measure_scales(samples, process_params.residual, base == "moved")
        process = make_process(process_params)
        objectives = {
            task: Objective(process, scale.to(device), process_params.residual, task)
            for task, scale in scales.items()
        }
        config = DenoiserConfig[DiffusionParams](
            denoiser=_denoiser_params(denoiser),
            diffusion=process_params,
            base=base,
            codec=fingerprint(codec),
            channels=codec.channels,
            height=store.height,
            width=store.width,
            tasks={str(task): shares[task] for task in batches.tasks},
            context_frames=chosen.context_frames,
            given_frames=chosen.given_frames,
            known=known if time.factor > 1 else 0,
            target_offsets=chosen.target_offsets,
            targets=chosen.targets,
            max_span=chosen.max_span,
            context_dropout=chosen.context_dropout,
            data_scale={str(task): tuple(scale.tolist()) for task, scale in scales.items()},
            latent_mean=clips.normalisation.mean,
            latent_std=clips.normalisation.std,
        )
        job = Training(
            name="train_denoiser",
            network=denoiser,
            loss=hop_loss(objectives, process_params, chosen),
            batches=batches,
            val_loss=TaskLevelLoss(objectives, shares),
            val_batches=val_batches,
        )
        trained = trainer.run(job, chosen.in_steps(batches.epoch_clips)).to(device)
    return Model(LatentDiffusion(codec, trained, config, clips.normalisation, objectives, device), IN_MEMORY)


def save_models(model: Model, folder: str | Path, force: bool = False) -> None:
    """Write the codec and the denoiser of a model to a folder that `vdp.load` opens.

    Of several processes the main one writes; the others return at once.

    Args:
        folder: written under a temporary name, then renamed.
        force: whether an existing folder of models, or an empty one, is replaced.

    Raises:
        UserError: if the folder exists, or a network is not one of vdp, which a folder cannot rebuild.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_rank() > 0:
        return
    folder, parts = Path(folder).resolve(), model.diffusion
    codec, network = parts.codec, parts.network
    if folder.exists() and not force:
        raise UserError(f"{folder}: already exists; choose another folder, or replace it with force=True")
    if folder.exists() and not _is_models_folder(folder):
        raise UserError(f"{folder}: expected a folder of models, which is replaced; choose another folder")
    if parts.config.base == "composed":
        raise UserError(
            "diffusion.base=composed: expected a model of train_denoiser, as this one has a motion model and "
            "a segmenter too; copy the folder that it was loaded from"
        )
    if not isinstance(codec, VAE | PixelCodec) or parts.config.denoiser is None:
        own = codec if not isinstance(codec, VAE | PixelCodec) else network
        raise UserError(
            f"{type(own).__name__}: expected a network of build_codec and build_denoiser, which a folder can "
            "rebuild; save its state_dict instead"
        )
    assert isinstance(network, nn.Module)
    config = CodecConfig(name="pixel", vae=None, has_masks=False)
    if isinstance(codec, VAE):
        config = CodecConfig(name="vae", vae=codec.params, has_masks=codec.has_masks)
    with replacing(folder) as part:
        save_model(part / CODEC, codec if isinstance(codec, VAE) else None, config)
        save_model(part / DENOISER, network, parts.config)


# --- Shared ----------------------------------------------------------------------------------------------


def _stores(folder: Path, train: Clips, val: Clips) -> tuple[ClipStore, ClipStore]:
    return store_clips(train, folder / "train_clips", "train"), store_clips(val, folder / "val_clips", "val")


def _is_models_folder(folder: Path) -> bool:
    """Whether a path is a folder with a denoiser, or empty."""
    return folder.is_dir() and ((folder / DENOISER / CONFIG).is_file() or not any(folder.iterdir()))


def _unchanged(frames: Pixels, masks: Pixels, seed: int) -> tuple[Pixels, Pixels]:
    """No augmentation: a dataset has its own."""
    return frames, masks


def _encode(
    codec: Codec,
    folder: Path,
    train: ClipStore,
    val: ClipStore,
    time: LatentTime,
    device: torch.device,
    degraded: bool,
) -> None:
    """Write the latents of `train` and `val`, and their statistics, to a folder."""
    settings, moments = params(EncodeParams), Moments(codec.channels)
    for name, store in (("train", train), ("val", val)):
        _check_clips(name, store, codec.factor, degraded)
        rows = tqdm(range(len(store)), desc=f"encode {name}", unit="clip", file=sys.stderr, mininterval=2)
        latents = encode_clips(codec.encode, store, rows, _as_it_is, settings.batch_frames, device, time)
        conditions: Iterator[Half | None] = repeat(None)
        if degraded:
            conditions = encode_conditions(
                codec.encode, store, range(len(store)), _as_it_is, _no_degradation, 1,
                settings.batch_frames, device, time,
            )  # fmt: skip
        encoded = map(EncodedClip, latents, conditions)
        if name == "train":
            encoded = map(partial(_add_to, moments), encoded)
        write_latents(folder / name, encoded, settings.shard_mb, time.known, time.factor)
    write_statistics(folder, moments.normalisation())


def _add_to(moments: Moments, clip: EncodedClip) -> EncodedClip:
    moments.add(clip.views)
    return clip


def _as_it_is(frames: Pixels, clip: int) -> list[Pixels]:
    return [frames]


def _no_degradation(frames: Pixels, clip: int, form: int) -> Pixels:
    raise AssertionError("every clip has degraded frames")


def _check_clips(name: str, store: ClipStore, factor: int, degraded: bool) -> None:
    lengths = sorted(set(store.lengths()))
    if len(lengths) > 1:
        raise UserError(
            f"{name}: clips of {lengths[0]} to {lengths[-1]} frames: expected one length; cut them"
        )
    _check_size(name, store, factor)
    if degraded and len(store.paired) < len(store):
        raise UserError(
            f"{name}: expected degraded frames in every clip for the task restore; yield mappings with "
            "frames and conditions, or set tasks.restore to 0"
        )


def _check_size(name: str, store: ClipStore, factor: int) -> None:
    if store.height % factor or store.width % factor:
        raise UserError(
            f"{name}: frames of {store.height}x{store.width}: expected multiples of {factor}, the spatial "
            "factor of the codec; resize or crop them"
        )


def _check_known(time: LatentTime, frames: int, alone: bool, targets: int) -> None:
    """Check `known` of a codec that compresses time, for clips of `frames` frames.

    Args:
        alone: whether clips are generated that are not predicted on.
        targets: latent frames of a hop.
    """
    if not isinstance(time.known, int) or not 1 <= time.known <= frames:
        raise UserError(f"known={time.known}: expected an integer 1..{frames}, the frames of the clips")
    if alone and time.frames_of(targets) < 1:
        raise UserError(
            f"known={time.known}: expected 1 + a multiple of {time.factor} with tasks.generate and without "
            f"tasks.predict, as the padding before a clip, {time.padding}, takes all that is generated"
        )


def _base(denoiser: Denoiser[object], channels: int, named: BaseName, device: torch.device) -> BaseName:
    """Return the base of the diffused change: `moved` of a denoiser that moves frames, else `nearest`."""
    index = torch.zeros(1, 1, device=device)
    moved = denoiser.move(torch.zeros(1, channels, 1, 8, 8, device=device), index, index + 1)
    base: BaseName = "nearest" if moved is None else "moved"
    if named not in ("auto", base):
        raise UserError(
            f"diffusion.base={named}: expected auto or {base}, the base of this denoiser; with a mover it is "
            "moved, without one nearest"
        )
    return base


def _denoiser_params(denoiser: nn.Module) -> DenoiserParams | None:
    """Return the params that rebuild a denoiser; None of a network that is not one of vdp."""
    defaults = params(DenoiserParams)
    if isinstance(denoiser, MovedDenoiser):
        inner = _denoiser_params(denoiser.network)
        return None if inner is None else inner.model_copy(update={"mover": denoiser.mover.params})
    if isinstance(denoiser, UNet):
        return defaults.model_copy(update={"name": "unet", "unet": denoiser.params})
    if isinstance(denoiser, DiT):
        return defaults.model_copy(update={"name": "dit", "dit": denoiser.params})
    return None
