"""Checks of params.yaml over several sections."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from vdp.config.messages import validate
from vdp.config.read import check_data, check_file
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.core.tasks import frame_groups, hop_offsets
from vdp.diffusion.params import DiffusionParams
from vdp.sampling.params import PredictParams

REPO = Path(__file__).parents[2]
PARAMS = read_file(REPO / "params.yaml")
NEAREST = {"diffusion.base": "nearest", "denoiser.unet.context_slots": 3}
EPS = {"diffusion.schedule": "cosine", "diffusion.prediction": "eps", "predict.spacing": "leading"}
PAIRS = [13, 15, 17, 19, 20, [21, 22]]


def changed(changes: dict[str, object]) -> dict[str, Any]:
    """The params.yaml of the project with other values at dotted names; `train.` is `train_denoiser.`."""
    data = copy.deepcopy(PARAMS)
    for name, value in changes.items():
        *sections, key = name.replace("train.", "train_denoiser.", 1).split(".")
        section = data
        for part in sections:
            section = section[part]
        assert key in section
        section[key] = value
    return data


def test_the_params_of_the_project_are_valid(monkeypatch):
    monkeypatch.chdir(REPO)
    check_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # one section
        ({"train.tasks.predict": 0.0}, "train_denoiser.tasks.predict=0: expected a task above 0"),
        ({"clip.known": 23}, "clip.known=23: expected <= clip.frames=22; lower it"),
        # whether frames are predicted
        (
            {"clip.known": 22},
            "clip.known=22: expected < clip.frames=22 with train_denoiser.tasks.predict=1.0",
        ),
        (
            {"train.tasks.predict": 0.0, "train.tasks.generate": 1.0},
            "clip.known=11: expected clip.frames=22 with train_denoiser.tasks.predict=0.0",
        ),
        ({"diffusion.zero_terminal_snr": True}, "diffusion.zero_terminal_snr=true: expected false"),
        ({"diffusion.prediction": "eps"}, "diffusion.prediction=eps: expected v, x0 or flow"),
        ({"diffusion.beta_end": 1e-5}, "diffusion.beta_start=0.0001: expected < diffusion.beta_end=1e-05"),
        ({"predict.eta": 0.5, "predict.sampler": "dpmpp"}, "predict.eta=0.5: expected 0 with sampler=dpmpp"),
        (
            {"denoiser.unet.channel_mults": [0, 1, 2]},
            "channel_mults[0]=0: expected an integer 1..",
        ),
        ({"denoiser.unet.attention_levels": [3]}, "denoiser.unet.attention_levels=[3]: expected 0..2"),
        ({"denoiser.unet.head_levels": 4}, "denoiser.unet.head_levels=4: expected <= 3"),
        (
            {"denoiser.unet.temporal_heads": 4},
            "denoiser.unet.temporal_heads=4: expected null with denoiser.unet.temporal=false",
        ),
        (
            {"denoiser.unet.temporal": True, "denoiser.unet.temporal_heads": 5},
            "denoiser.unet.temporal_heads=5: expected a divisor of the channels [32] of the denoising",
        ),
        (
            {"denoiser.dit.patch_size": [2, 17]},
            "denoiser.dit.patch_size=[2, 17]: expected an integer 1..16 or a list of 2",
        ),
        (
            {"denoiser.dit.time_embedding_dim": 4},
            "denoiser.dit.time_embedding_dim=4: expected an integer 8..8192",
        ),
        # latents
        (
            {"clip.height": 66},
            "clip.height=66: expected a multiple of vae.spatial_factor=4; set it to 64",
        ),
        (
            {"clip.width": 97},
            "clip.width=97: expected a multiple of vae.spatial_factor=4; set it to 96",
        ),
        ({"codec.name": "pixel"}, "segment.codec_vote=0.7: expected 0"),
        ({"pretrain_vae.mask_weight": 0.0}, "segment.codec_vote=0.7: expected 0"),
        # hops
        (
            {"predict.hops": [15, 13, 22]},
            "predict.hops=[15, 13, 22]: expected frame numbers in ascending",
        ),
        (
            {"predict.hops": [13, 13, 22]},
            "predict.hops=[13, 13, 22]: expected frame numbers in ascending",
        ),
        ({"predict.hops": [13, [15, 14], 22]}, "expected frame numbers in ascending order"),
        ({"predict.hops": [11, 22]}, "predict.hops=[11, 22]: expected frame numbers > clip.known=11"),
        ({"predict.hops": [13, 21]}, "expected the scored frame last; end the list with 22"),
        (
            {"predict.hops": [22]},
            "predict.hops=[22]: expected hops over train_denoiser.target_offsets=[1, 2]",
        ),
        (
            {"predict.hops": [13, [15, 18], 19, 21, 22]},
            "expected hops over train_denoiser.target_offsets=[1, 2]; add 5",
        ),
        ({"train.context_frames": 21}, "train_denoiser.context_frames=21: expected <= clip.frames=22"),
        # independent targets, each with a base
        (
            {"train.targets": 2},
            "train_denoiser.targets=2: expected 1 with diffusion.base=auto and a denoiser that is not joint",
        ),
        (
            {"predict.hops": [13, 15, 17, 19, 20, [21, 22]]},
            "expected one frame per hop with diffusion.base=auto and a denoiser that is not joint",
        ),
        # targets that are predicted jointly
        (
            {"denoiser.unet.temporal": True, "predict.hops": PAIRS},
            "predict.hops=[13, 15, 17, 19, 20, [21, 22]]: expected hops of train_denoiser.targets=1",
        ),
        (
            {"denoiser.name": "dit", "denoiser.dit.attention": "block", "predict.hops": PAIRS},
            "expected hops of train_denoiser.targets=1 frames with denoiser.dit",
        ),
        (
            {"denoiser.unet.temporal": True, "train.targets": 2},
            "expected hops of train_denoiser.targets=2 frames with denoiser.unet.temporal",
        ),
        (
            {
                "train.scheduled_sampling": 0.5,
                "train.targets": 2,
                "denoiser.unet.temporal": True,
                "predict.hops": [[12, 13], [14, 15], [16, 17], [18, 19], [20, 21], [22, 23]],
                "clip.frames": 23,
            },
            "train_denoiser.scheduled_sampling=0.5: expected 0 with denoiser.unet.temporal",
        ),
        # context frames and scheduled sampling
        (
            {"denoiser.unet.context_slots": 9},
            "denoiser.unet.context_slots=9: expected <= 4, train_denoiser.context_frames=3 and the base",
        ),
        (
            {"denoiser.unet.context_slots": 4, "diffusion.base": "nearest"},
            "denoiser.unet.context_slots=4: expected <= 3, train_denoiser.context_frames=3",
        ),
        (
            {"train.given_frames": 4},
            "train_denoiser.given_frames=4: expected <= train_denoiser.context_frames=3",
        ),
        *(
            (
                {"train.context_frames": 12, "diffusion.base": base},
                f"train_denoiser.context_frames=12: expected <= clip.known=11 with diffusion.base={base}",
            )
            for base in ("auto", "composed")
        ),
        (
            {"diffusion.base": "blended"},
            'diffusion.base="blended": expected one of auto, nearest, moved, optical_flow, composed',
        ),
        ({"denoiser.mover.kernel_size": 4}, "denoiser.mover.kernel_size=4: expected an odd number"),
        (
            {"train.scheduled_sampling": 0.5, "train.scheduled_sampling_frames": 3},
            "train_denoiser.scheduled_sampling_frames=3: expected < train_denoiser.context_frames=3",
        ),
        (
            {
                "train.scheduled_sampling": 0.5,
                "train.target_offsets": [2, 3],
                "predict.hops": [13, 15, 17, 19, 22],
            },
            "train_denoiser.target_offsets=[2, 3]: expected 1 among them",
        ),
        ({**EPS, "train.scheduled_sampling": 0.5}, "train_denoiser.scheduled_sampling=0.5: expected 0"),
        # tasks
        (
            {"train.tasks.restore": 0.1},
            "tasks.restore=0.1: expected encode_latents.degraded >= 1",
        ),
        (
            {"train.tasks.interpolate": 0.1, "train.max_span": 21},
            "train_denoiser.max_span=21: expected 2..20",
        ),
        (
            {**NEAREST, "train.tasks.interpolate": 0.1, "train.targets": 2, "train.max_span": 2},
            "train_denoiser.max_span=2: expected 3..20",
        ),
        (
            {
                "train.tasks.interpolate": 0.1,
                "train.context_frames": 1,
                "train.given_frames": 1,
                "denoiser.unet.context_slots": 1,
            },
            "train_denoiser.tasks.interpolate=0.1: expected context_frames >= 2",
        ),
        (
            {
                "train.tasks.generate": 0.1,
                "train.target_offsets": [2, 3],
                "predict.hops": [13, 15, 17, 19, 22],
            },
            "train_denoiser.tasks.generate=0.1: expected 1 in train_denoiser.target_offsets=[2, 3]",
        ),
        (
            {**NEAREST, "train.tasks.restore": 0.1, "encode_latents.degraded": 1, "train.targets": 30},
            "train_denoiser.targets=30: expected <= clip.frames=22",
        ),
        (
            {"evaluate_tasks.interpolate_frames": [1, 21], "train.tasks.interpolate": 0.1},
            "evaluate_tasks.interpolate_frames=[1, 21]: expected 1..20",
        ),
        # sampling
        (
            {"diffusion.num_timesteps": 9, "predict.steps": 10},
            "predict.steps=10: expected <= diffusion.num_timesteps=9",
        ),
        (
            {"evaluate_tasks.steps": 20, "diffusion.num_timesteps": 19},
            "evaluate_tasks.steps=20: expected <= diffusion.num_timesteps=19",
        ),
        ({**EPS, "predict.spacing": "trailing"}, "predict.spacing=trailing: expected leading"),
        (
            {"predict.spacing": "leading", "predict.steps": 2},
            "predict.steps=2: expected a start at time >= 0.8",
        ),
        (
            {**EPS, "evaluate_tasks.steps": 2},
            "evaluate_tasks.steps=2: expected a start at time >= 0.8",
        ),
        (
            {"diffusion.schedule": "linear", "diffusion.prediction": "v", "diffusion.num_timesteps": 100},
            "diffusion.num_timesteps=100: expected at most 10% of the signal",
        ),
        (
            {**EPS, "diffusion.schedule": "linear", "diffusion.beta_end": 0.5, "predict.steps": 10},
            "diffusion.prediction=eps: expected data left at level 901 of diffusion.num_timesteps=1000",
        ),
        ({"predict.guidance": 1.5}, "predict.guidance=1.5: expected 1 with train_denoiser.context_dropout=0"),
        ({"predict.guidance": 0.5}, "predict.guidance=0.5: expected 1 with train_denoiser.context_dropout=0"),
        (
            {"predict.context_noise": 0.2},
            "predict.context_noise=0.2: expected <= train_denoiser.context_noise",
        ),
        # motion
        ({"motion.prediction": "eps"}, 'motion.prediction="eps": expected one of flow, v, x0'),
        ({"motion.schedule": "linear"}, 'motion.schedule="linear": expected one of flow, cosine'),
        (
            {"motion.hidden_dim": 130},
            "motion.hidden_dim=130: expected a multiple of motion.num_heads=4; change",
        ),
        (
            {"train_motion.accumulate": 3},
            "train_motion.accumulate=3: expected a divisor of batch_size=128",
        ),
        (
            {"train_classifier.accumulate": 3},
            "train_classifier.accumulate=3: expected a divisor of batch_size=128",
        ),
        # length
        ({"train.steps": None}, "train_denoiser.steps=null: expected a number of steps, or of epochs"),
        ({"train.epochs": 2.0}, "train_denoiser.epochs=2.0: expected null with steps=800; set one to null"),
        ({"train_motion.epochs": 0}, "train_motion.epochs=0: expected a number > 0 or null"),
        # checkpoints
        ({"predict.checkpoint": 100}, "predict.checkpoint=100: expected null with train_denoiser.keep_every"),
        (
            {"predict.checkpoint": 150, "train.keep_every": 100},
            "predict.checkpoint=150: expected a multiple of train_denoiser.keep_every=100",
        ),
        (
            {"predict.checkpoint": 900, "train.keep_every": 100},
            "predict.checkpoint=900: expected <= train_denoiser.steps=800",
        ),
        ({"train.keep_every": 0}, "train_denoiser.keep_every=0: expected an integer >= 1 or null"),
        (
            {"train_segmenter.init_from": "old"},
            "train_segmenter.init_from=old: expected train_segmenter.pretrained=false",
        ),
        (
            {"codec.name": "pixel", "segment.codec_vote": 0.0, "pretrain_vae.init_from": "old"},
            "pretrain_vae.init_from=old: expected null with codec.name=pixel",
        ),
        # segmenter
        (
            {"segmenter.encoder": "conv16"},
            "train_segmenter.pretrained=true: expected the classifier's network, segmenter.encoder=conv32, "
            "got conv16; change the encoder",
        ),
        (
            {"segmenter.encoder_depth": 3},
            "segmenter.encoder_depth=3: expected 2 with the encoder conv32",
        ),
        (
            {"segmenter.size": [32, 48]},
            "segmenter.size=[32, 48]: expected null with train_segmenter.crop_scale=0.375",
        ),
        (
            {"segmenter.size": [32, 48], "segmenter.upsample": 2},
            "segmenter.upsample=2: expected 1 with segmenter.size=[32, 48]",
        ),
        (
            {"segmenter.weights": "imagenet"},
            "segmenter.weights=imagenet: expected null with the encoder conv32",
        ),
        (
            {"train_segmenter.round_trip": 0.5, "train_segmenter.crop_scale": 0.4},
            "train_segmenter.crop_scale=0.4: expected crops of a multiple of vae.spatial_factor=4 pixels "
            "with round_trip=0.5, got 26 of clip.height=64; change",
        ),
        # sources
        ({"extract_frames.train": None}, "extract_frames.train=null: expected a source"),
        (
            {"extract_frames.val": None, "extract_frames.val_share": 0.0},
            "extract_frames.val=null: expected",
        ),
        ({"simulate.unlabeled": 0}, "expected null with simulate.unlabeled=0"),
        (
            {"simulate.unlabeled": 0, "extract_frames.unlabeled": {"folder": "data/raw/simulated/unlabeled"}},
            "expected null with simulate.unlabeled=0",
        ),
    ],
)
def test_sections_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_data(changed(changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"clip.width": 97, "codec.name": "pixel", "segment.codec_vote": 0.0},
        {"predict.hops": [22], "train.target_offsets": [11], "train.scheduled_sampling": 0.0},
        {**NEAREST, "predict.hops": PAIRS},
        {"denoiser.unet.context_slots": 3, "diffusion.base": "nearest"},
        {"denoiser.unet.context_slots": 5, "denoiser.unet.temporal": True, "train.targets": 2}
        | {"predict.hops": [[12, 13], [14, 15], [16, 17], [18, 19], [20, 21], [22, 23]], "clip.frames": 23},
        {"denoiser.unet.context_slots": 9, "denoiser.name": "dit"},
        {"train.context_frames": 20, "diffusion.base": "moved"},
        {"train.context_frames": 20, "diffusion.base": "nearest"},
        {"train.context_frames": 11, "train.given_frames": 0, "diffusion.base": "composed"},
        {"denoiser.unet.temporal": True},
        {"diffusion.num_timesteps": 10},
        {"predict.guidance": 1.5, "train.context_dropout": 0.1},
        {"predict.context_noise": 0.1},
        {"train.scheduled_sampling_frames": 5, "train.scheduled_sampling": 0.0},
        {"train.scheduled_sampling_frames": 2, "train.scheduled_sampling": 0.5},
        {**EPS, "train.scheduled_sampling": 0.0},
        {"diffusion.schedule": "cosine", "diffusion.prediction": "v", "diffusion.num_timesteps": 10},
        {"extract_frames.val": None, "extract_frames.val_share": 0.1},
        {"train.tasks.interpolate": 0.1, "train.max_span": 20},
        {"train.max_span": 2000, "evaluate_tasks.interpolate_frames": [21]},
        {"train.tasks.restore": 0.1, "encode_latents.degraded": 1},
        {"train.tasks.generate": 5.0},
        *(
            {"motion.schedule": s, "motion.prediction": p}
            for s in ("flow", "cosine")
            for p in ("flow", "v", "x0")
        ),
        {"motion.name": "interaction", "motion.target_slots": 1},
        {"motion.target_slots": 12, "motion.context_slots": 2},
        {"motion.target_slots": 3, "motion.context_slots": 12},
        {"motion.context_slots": 2, "clip.known": 1, "motion.target_slots": 21}
        | {"diffusion.base": "moved", "predict.hops": [2, *range(4, 23, 2)]},
    ],
)
def test_sections_that_agree_are_accepted(changes):
    check_data(changed(changes))


def alone(task: str, frames: int, targets: int) -> dict[str, object]:
    """Params of a task trained alone: clips of so many frames, all known, jointly predicted targets."""
    return {
        "clip.frames": frames, "clip.known": frames, "train.tasks.predict": 0.0, f"train.tasks.{task}": 1.0,
        "train.targets": targets, "denoiser.unet.temporal": True, "encode_latents.degraded": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        alone("restore", 16, 16),
        alone("restore", 16, 16)
        | {"denoiser.unet.context_slots": 16, "denoiser.unet.conditioning": "concat"},
        alone("generate", 8, 8),
        alone("generate", 8, 1) | {"denoiser.unet.temporal": False},
        alone("generate", 8, 8) | {"train.target_offsets": [11]},
        alone("generate", 16, 5) | {"vae.temporal_factor": 4},
        alone("generate", 16, 2) | {"vae.temporal_factor": 4},
        alone("generate", 17, 1) | {"vae.temporal_factor": 4},
        alone("restore", 16, 1) | {"vae.temporal_factor": 4, "denoiser.unet.context_slots": 3},
        alone("restore", 16, 4)
        | {"train.tasks.generate": 0.5, "train.given_frames": 9, "predict.guidance": 2.0},
        alone("restore", 2, 2) | {"train.context_frames": 20, "diffusion.base": "composed"},
        alone("interpolate", 9, 1)
        | {"train.max_span": 7, "evaluate_tasks.interpolate_frames": [7], "denoiser.unet.context_slots": 3},
    ],
)
def test_a_task_alone_needs_no_longer_clips_than_its_targets(changes):
    check_data(changed(changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (alone("restore", 15, 16), "train_denoiser.targets=16: expected <= clip.frames=15"),
        (alone("generate", 7, 8), "train_denoiser.targets=8: expected <= clip.frames=7"),
        (alone("generate", 16, 6) | {"vae.temporal_factor": 4}, "train_denoiser.targets=6: expected <= 5 "),
        (
            alone("generate", 16, 1) | {"vae.temporal_factor": 4, "denoiser.unet.temporal": False},
            "the padding before a clip, 1, takes all that is generated at once; set clip.frames",
        ),
        (
            alone("generate", 14, 1) | {"vae.temporal_factor": 4},
            "clip.known to 13 or 17, or raise train_denoiser.t",
        ),
        (
            alone("generate", 12, 1) | {"vae.temporal_factor": 2},
            "clip.known to 11 or 13, or raise train_denoiser.t",
        ),
        (alone("restore", 16, 16) | {"encode_latents.degraded": 0}, "expected encode_latents.degraded >= 1"),
        (
            alone("interpolate", 9, 1) | {"train.max_span": 7},
            "denoiser.unet.context_slots=4: expected <= 3, train_denoiser.context_frames=3; lower it",
        ),
        (
            alone("restore", 16, 16) | {"denoiser.unet.context_slots": 17},
            "denoiser.unet.context_slots=17: expected <= 16, train_denoiser.targets=16, frames that restore",
        ),
        (
            alone("interpolate", 9, 1) | {"denoiser.unet.context_slots": 3},
            "train_denoiser.max_span=8: expected 2..7",
        ),
        (alone("restore", 8, 8) | {"evaluate_tasks.steps": 2000}, "evaluate_tasks.steps=2000: expected"),
    ],
)
def test_a_task_alone_is_checked(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_data(changed(changes))


GROUPED = {"vae.temporal_factor": 4}
TOGETHER = {"denoiser.name": "dit", "denoiser.dit.attention": "block", "train.targets": 3} | {
    "train.target_offsets": [1, 2, 3]
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predict.hops": [13, 22]}, "predict.hops=[13, 22]: expected a frame of each group of 4 after"),
        ({"predict.hops": [13, 22]}, "add one of 16..19"),
        ({"diffusion.base": "composed"}, "diffusion.base=composed: expected auto, moved or nearest with"),
        ({"train.reverse": True}, "train_denoiser.reverse=true: expected false with vae.temporal_factor=4"),
        (
            {"clip.frames": 8, "clip.known": 4, "predict.hops": [8]},
            "clip.frames=8: expected >= 9 with vae.temporal_factor=4",
        ),
        (
            NEAREST | {"train.tasks.generate": 0.1, "train.targets": 2},
            "train_denoiser.targets=2: expected 1 with vae.temporal_factor=4, tasks.generate above 0",
        ),
        (
            {"train.context_frames": 6},
            "train_denoiser.context_frames=6: expected <= 7 (latent frames of clip.frames=22)",
        ),
        ({"train.target_offsets": [2]}, "target_offsets=[2] (latent frames of 4); add 1 there"),
        ({"predict.hops": [[13, 22], 17]}, "expected frame numbers in ascending order"),
        ({"predict.hops": [[13, 17], 22]}, "expected one group of 4 frames per hop"),
        (TOGETHER | {"predict.hops": [13, [17, 22]]}, "hops of train_denoiser.targets=3 groups of 4 frames"),
        ({"train.tasks.generate": 1.0, "train.targets": 8}, "train_denoiser.targets=8: expected 1"),
        ({"train.tasks.interpolate": 1.0}, "train_denoiser.max_span=8: expected 2..5 with"),
    ],
)
def test_what_a_codec_that_compresses_time_cannot_do_is_refused(changes, message):
    with pytest.raises(UserError) as error:
        check_data(changed(GROUPED | changes))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        GROUPED,
        {"vae.temporal_factor": 2},
        GROUPED | {"clip.known": 1, "predict.hops": [2, 6, 10, 14, 18, 22]},
        GROUPED | {"predict.hops": [12, 13, 14, 15, 16, 22]},
        GROUPED | TOGETHER | {"predict.hops": [list(range(12, 23))]},
        GROUPED | TOGETHER | {"predict.hops": [[14, 18, 22]]},
        GROUPED | {"train.scheduled_sampling": 0.5, "train.target_offsets": [1]},
        GROUPED | {"train.tasks.interpolate": 1.0, "train.max_span": 5},
        {"vae.temporal_factor": 2, "codec.name": "pixel", "segment.codec_vote": 0.0, "predict.hops": [13, 22]}
        | {"train.target_offsets": [1, 2, 9], "diffusion.base": "composed"},
    ],
)
def test_a_codec_that_compresses_time_is_accepted(changes):
    check_data(changed(changes))


@pytest.mark.parametrize("schedule", ["flow", "linear", "cosine", "sigmoid"])
def test_the_signal_falls_from_one_at_the_clean_level(schedule):
    diffusion = changed({"diffusion.schedule": schedule})["diffusion"]
    signal = [validate(DiffusionParams, diffusion, "diffusion").signal(level) for level in range(0, 1001, 50)]
    assert signal[0] == 1 and signal == sorted(signal, reverse=True) and 0 <= signal[-1] < 0.01


def test_hops_are_groups_of_frames_at_offsets_from_the_frame_before_them():
    hops = [13, [14, 16], 22]
    predict = changed({"predict.hops": hops})["predict"]
    params = validate(PredictParams, predict, "predict")
    assert params.frame_groups == frame_groups(hops) == [[13], [14, 16], [22]]
    assert params.frames == [13, 14, 16, 22]
    assert hop_offsets(hops, 11) == {2, 1, 3, 6} and hop_offsets([12], 11) == {1}
