"""The estimate of the arithmetic of a run at the end of `vdp check`."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import JsonValue
from torch import nn

from vdp.cli import cost
from vdp.cli.cost import CodecCost, DenoiserCost, MotionCost, RunParams, SegmenterCost, estimate
from vdp.cli.data_size import DataSize, SplitSize, data_size
from vdp.config.recipes import merged
from vdp.config.yaml_file import read_file
from vdp.core.flops import TERA
from vdp.data.stores.clips import Clip, write_clips

REPO = Path(__file__).parents[2]
SIZE = DataSize({"train": SplitSize(5, 110, 4, 44, 4), "unlabeled": SplitSize(3, 66)}, 7, 6)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the recipe smoke."""
    write_params(tmp_path, {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_params(folder: Path, changes: dict[str, JsonValue], recipe: str = "smoke") -> None:
    data = merged(read_file(REPO / "params.yaml"), read_file(REPO / "recipes" / f"{recipe}.yaml"))
    # JSON is YAML
    (folder / "params.yaml").write_text(json.dumps(merged(data, changes)))


def run_params(**changes: JsonValue) -> RunParams:
    write_params(Path(), changes)
    return RunParams.read()


def test_flops_of_a_convolution_are_those_of_its_products():
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=False, device="meta")
    forward = 2 * (3 * 9) * 5 * (8 * 12)
    x = torch.empty(2, 3, 8, 12, device="meta")
    assert cost.count(lambda: conv(x)) == 2 * forward
    step = cost.count_step(lambda: {"loss": conv(x).sum()})
    assert step == 2 * 2 * forward  # forward, and the gradient of the weights
    params = run_params(train_classifier={"steps": 7, "batch_size": 12, "optimizer": "adamw"})
    flops = cost.training_flops(conv, step, params.train_classifier, params.engine)
    assert flops == 7 * 12 * 2 * forward


def test_muon_adds_its_update_once_per_step():
    conv = nn.Conv2d(3, 5, 3, device="meta")
    params = run_params(train_classifier={"steps": 7, "batch_size": 2, "optimizer": "muon"})
    alone = cost.training_flops(conv, 0.0, params.train_classifier, params.engine)
    assert alone > 0
    assert cost.training_flops(conv, 10.0, params.train_classifier, params.engine) == alone + 7 * 10.0


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_arithmetic_is_linear_in_the_rows(monkeypatch, name):
    params = run_params(denoiser={"name": name})
    flops = {}
    for rows in (2, 3):
        monkeypatch.setattr(cost, "ROWS", rows)
        codec = CodecCost(params)
        trainings = [codec.training(), DenoiserCost(params, True).training(), MotionCost(params).training()]
        flops[rows] = [*trainings, SegmenterCost(params).training(codec), SegmenterCost(params).frame()]
    assert flops[2] == pytest.approx(flops[3], rel=1e-9) and min(flops[2]) > 0


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"pretrain_vae": {"steps": 12}}, {"pretrain_vae"}),
        ({"train_denoiser": {"batch_size": 8, "optimizer": "adamw"}}, {"train_denoiser"}),
        ({"train_motion": {"steps": 12}}, {"train_motion"}),
        (
            {"train_segmenter": {"steps": 8}, "train_classifier": {"steps": 8}},
            {"train_segmenter", "train_classifier"},
        ),
        ({"predict": {"samples": 4}}, set()),
    ],
)
def test_twice_the_steps_or_the_batch_is_twice_the_arithmetic(changes, stages):
    # Muon's update does not grow with the batch
    before = estimate(run_params(train_denoiser={"optimizer": "adamw"}), SIZE)
    after = estimate(run_params(**{"train_denoiser": {"optimizer": "adamw"}, **changes}), SIZE)
    doubled = {stage for stage in before if after[stage] == pytest.approx(2 * before[stage], rel=1e-9)}
    assert doubled == stages
    unchanged = {stage for stage in before if after[stage] == before[stage]}
    assert unchanged == set(before) - stages - ({"predict", "segment"} if "predict" in changes else set())


def test_twice_the_clips_are_twice_the_arithmetic_of_inference():
    params = run_params()
    half = estimate(params, SIZE)
    splits = {
        n: SplitSize(2 * s.clips, 2 * s.frames, 2 * s.composed, 2 * s.composed_frames, 2 * s.labelled)
        for n, s in SIZE.splits.items()
    }
    twice = estimate(params, DataSize(splits, 2 * SIZE.test_clips, 2 * SIZE.scored_clips))
    for stage in ("encode_latents", "predict_motion", "predict", "segment"):
        assert twice[stage] == pytest.approx(2 * half[stage])
    assert {s for s in half if twice[s] == half[s]} == {s for s in half if re.match("pretrain|train", s)}


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp", "heun"])
def test_sampling_is_extrapolated_from_two_steps(sampler):
    sampling = {"sampler": sampler, "steps": 4}
    model = MotionCost(run_params(sample_motion=sampling))
    states, classes = model._objects(1, model.params.clip.known)
    arguments = (["clip"], states, classes, [21], model.params.sample_motion, 1, 0.0, 0)
    assert model.sample(21) == cost.count(lambda: model.motion.sample(*arguments)) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"denoiser": {"name": "dit", "dit": {"attention": "joint"}}, "train_denoiser": {"targets": 2}},
        {"codec": {"name": "pixel"}, "segment": {"codec_vote": 0.0}},
        {
            "diffusion": {"base": "nearest"},
            "segmenter": {"encoder": "resnet18", "encoder_depth": 4, "decoder_channels": [16, 8, 8, 8]},
        },
        {"diffusion": {"base": "moved"}, "train_segmenter": {"round_trip": 0.5, "crop_scale": None}},
        {"diffusion": {"base": "composed"}, "train_denoiser": {"scheduled_sampling": 0.5}},
        {"motion": {"name": "interaction"}, "train_motion": {"unroll": 3}, "engine": {"checkpointing": True}},
        {
            "train_denoiser": {"tasks": {"interpolate": 1.0, "generate": 1.0, "restore": 1.0}},
            "encode_latents": {"degraded": 1},
        },
        {
            "diffusion": {"schedule": "linear", "prediction": "v"},
            "predict": {"sampler": "heun", "guidance": 2.0},
        },
    ],
)
def test_every_kind_of_network_is_counted(changes):
    flops = estimate(run_params(**changes), SIZE)
    expected = set(cost.STAGES) - ({"pretrain_vae"} if "codec" in changes else set())
    assert set(flops) == expected and all(value > 0 for value in flops.values())


def test_a_step_with_predicted_context_frames_costs_more():
    plain, sampled = (
        DenoiserCost(run_params(train_denoiser={"scheduled_sampling": share}), True).training()
        for share in (0.0, 0.5)
    )
    assert 1.1 * plain < sampled < 3 * plain


def test_a_codec_that_compresses_time_is_trained_on_clips():
    frame, clip = (CodecCost(run_params(vae={"temporal_factor": f})).training() for f in (1, 2))
    assert clip > 3 * frame


def test_latent_frames_of_several_frames_are_counted():
    """22 frames are 7 latent frames, of which the last 3 are predicted, and nothing is composed."""
    changes: dict[str, JsonValue] = {"vae": {"temporal_factor": 4}, "diffusion": {"base": "auto"}}
    params = run_params(**changes)
    flops = estimate(params, SIZE)
    assert set(flops) == set(cost.STAGES)
    codec, denoiser = CodecCost(params), DenoiserCost(params, labelled=True)
    assert (denoiser.base, denoiser.composes) == ("moved", False)
    coded = 2 * 5 + 2 * 3  # each clip and its mirror image
    clip = torch.empty(1, 3, 25, params.clip.height, params.clip.width, device="meta")
    encoding = cost.count(lambda: codec.network.encode(clip))
    assert flops["encode_latents"] == coded * encoding
    latents = codec.network.encode(clip)
    assert latents.shape[2] == 7 and codec.decode_after(4, 3) == cost.count(
        lambda: codec.network.decode(latents)
    )
    hops = [{"hops": hops} for hops in ([13, 15, 17, 19, 21, 22], [12, 16, 20, 22])]
    one, other = (DenoiserCost(run_params(**changes, predict=p), True).clip(codec) for p in hops)
    assert one == other > codec.decode_after(4, 3)


def test_the_stages_are_in_the_order_of_the_pipeline():
    order = list(read_file(REPO / "dvc.yaml")["stages"])
    assert list(estimate(run_params(), SIZE)) == [stage for stage in order if stage in cost.STAGES]


def test_the_total_is_the_sum_and_minutes_follow_from_the_matmul_rate(monkeypatch):
    monkeypatch.setattr(cost, "matmul_rate", lambda device, dtype: 1e9)
    params = run_params()
    flops = estimate(params, data_size(params.clip, params.extract_frames, params.simulate))
    *rows, last = cost.cost_table().splitlines()[1:]
    shown = {row.split()[0]: float(row.split()[1]) for row in rows}
    assert shown.pop("all") == pytest.approx(sum(flops.values()) / TERA, rel=0.05)
    assert list(shown) == list(flops)
    minutes = float(re.match(r"about ([\d.]+) minutes? at 50% of", last)[1])
    assert minutes == pytest.approx(sum(flops.values()) / 0.5e9 / 60, rel=0.1)
    assert last.endswith("without simulate, extract_frames, score and evaluate_tasks")


def test_without_the_number_of_clips_the_trainings_are_estimated_and_a_line_names_the_rest():
    mine = {"train": "data/mine", "val": None, "unlabeled": None, "test_sets": {"mine": "data/test"}}
    write_params(Path(), {"extract_frames": mine})
    lines = cost.cost_table().splitlines()
    assert [line.split()[0] for line in lines[1:-3]] == [
        "pretrain_vae",
        "train_classifier",
        "train_segmenter",
        "train_motion",
        "train_denoiser",
    ]
    assert lines[-2] == cost.NO_CLIPS


def test_clips_without_masks_need_no_objects():
    size = replace(SIZE, splits={"train": SplitSize(5, 110)})
    assert list(estimate(run_params(), size)) == [
        "pretrain_vae",
        "encode_latents",
        "train_denoiser",
        "predict",
    ]
    assert DenoiserCost(run_params(), labelled=False).base == "optical_flow"


def test_without_the_task_predict_nothing_of_motion_or_prediction_is_counted():
    size = replace(SIZE, splits={"train": SplitSize(5, 110, labelled=4)})
    tasks: dict[str, JsonValue] = {"predict": 0.0, "restore": 1.0}
    params = run_params(clip={"known": 22}, train_denoiser={"tasks": tasks})
    assert list(estimate(params, size)) == [
        "pretrain_vae",
        "train_classifier",
        "train_segmenter",
        "encode_latents",
        "train_denoiser",
    ]
    assert DenoiserCost(params, labelled=True).base == "nearest"


def test_clips_are_counted_in_the_store_before_the_params(project):
    params = run_params()
    expected = data_size(params.clip, params.extract_frames, params.simulate)
    assert expected.splits["train"] == SplitSize(6, 6 * 22, 6, 6 * 11, 6, 6 * 11) and expected.test_clips == 2
    assert expected.splits["unlabeled"] == SplitSize(2, 44, later_frames=22)
    frames, masks = np.zeros((22, 8, 8, 3), np.uint8), np.zeros((22, 8, 8), np.uint8)
    clips = [Clip("a", frames, masks), Clip("b", frames), Clip("c", frames[:11])]
    write_clips(project / "data/clips/train", clips, 1)
    write_clips(project / "data/clips/test/mine", clips, 1)
    found = data_size(params.clip, params.extract_frames, params.simulate)
    assert found == DataSize({"train": SplitSize(3, 55, 1, 11, 1, 22)}, 3, 2)


def test_epochs_are_steps_where_the_clips_are_known_and_their_trainings_are_left_out_elsewhere():
    """Of 5 training clips, 4 have masks; 3 more have none. The batches are of 4."""
    names = ("pretrain_vae", "train_denoiser", "train_segmenter", "train_classifier", "train_motion")
    length: dict[str, JsonValue] = {"batch_size": 4, "steps": None, "epochs": 2.5}
    params = run_params(**dict.fromkeys(names, length))
    size = DataSize({"train": SplitSize(5, 110, 4, 44, 4), "unlabeled": SplitSize(3, 66)}, 7, 6)
    known = cost.in_steps(params, size, labelled=True)
    tracked = params.simulate.tracks + 4 + min(params.track_objects.unlabeled, 3)
    clips = dict(zip(names, (8, 4, 4, 4, tracked), strict=True))  # composed frames are of clips with masks
    steps = {name: getattr(known, name).steps for name in names}
    assert steps == {name: -(-count * 5 // 8) for name, count in clips.items()}
    assert (
        cost.in_steps(params, replace(size, splits={"train": SplitSize(5, 110)}), False).train_denoiser.steps
        == 4
    )
    assert cost.unknown_lengths(known) == [] and set(cost.unknown_lengths(params)) == set(names)
    assert estimate(params, None) == {}
    table = cost.training_table(params)
    assert "pretrain_vae, train_denoiser: left out: the steps of their epochs are known once" in table
