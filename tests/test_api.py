"""Trained models from Python: shapes, seeds, sizes and errors, with small untrained networks."""

from pathlib import Path

import numpy as np
import pytest
import torch

import vdp
from tests.small_models import HEIGHT, WIDTH, save_small_models
from vdp.api import Model, load
from vdp.params import UserError

FAST = vdp.Sampling(steps=2)


def frames(count: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(save_small_models(tmp_path_factory.mktemp("models")), torch.device("cpu"))


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (17, 90), (64, 20)])
def test_what_is_made_has_the_size_of_what_is_given(model, size):
    clip = frames(6, *size)
    assert model.predict(clip, frames=3, samples=2, sampling=FAST).shape == (2, 3, *size, 3)
    assert model.interpolate(clip, frames(2), frames=5, sampling=FAST).shape == (1, 5, *size, 3)
    assert model.interpolate(clip, clip, 2, 2, latent=True, sampling=FAST).shape == (2, 2, *size, 3)
    assert model.restore(clip, FAST).shape == clip.shape
    masks = model.segment(clip)
    assert masks.shape == clip.shape[:3] and masks.dtype == np.uint8 and masks.max() < 49


def test_generated_clips_have_the_size_of_the_networks(model):
    assert model.generate(2, frames=5, sampling=FAST).shape == (2, 5, HEIGHT, WIDTH, 3)
    assert model.generate(1, frames=1, sampling=FAST).shape == (1, 1, HEIGHT, WIDTH, 3)


def test_the_same_seed_makes_the_same_frames_and_another_one_others(model):
    clip, other = frames(6), vdp.Sampling(steps=2, seed=1)
    for make in (
        lambda s: model.predict(clip, frames=2, sampling=s),
        lambda s: model.generate(1, frames=2, sampling=s),
        lambda s: model.interpolate(clip, clip, frames=2, sampling=s),
        lambda s: model.restore(clip, s),
    ):
        assert np.array_equal(make(FAST), make(FAST))
        assert not np.array_equal(make(FAST), make(other))


def test_a_sample_does_not_depend_on_how_many_others_there_are(model, monkeypatch):
    clip = frames(6)
    three = model.predict(clip, frames=2, samples=3, sampling=FAST)
    assert np.array_equal(model.predict(clip, frames=2, samples=1, sampling=FAST), three[:1])
    assert not np.array_equal(three[0], three[1])
    monkeypatch.setattr("vdp.api.ROWS", 2)
    assert np.array_equal(model.predict(clip, frames=2, samples=3, sampling=FAST), three)


def test_only_the_last_known_frames_count(model):
    clip = frames(9)
    assert np.array_equal(
        model.predict(clip, frames=2, sampling=FAST), model.predict(clip[-4:], frames=2, sampling=FAST)
    )
    changed = clip.copy()
    changed[-1] = 255 - changed[-1]
    assert not np.array_equal(
        model.predict(clip, frames=1, sampling=FAST), model.predict(changed, frames=1, sampling=FAST)
    )


def test_later_frames_do_not_change_earlier_ones(model):
    clip = frames(4)
    short, long = (
        model.predict(clip, frames=n, sampling=vdp.Sampling(steps=2, temperature=0.0)) for n in (2, 6)
    )
    assert np.array_equal(short, long[:, :2])


def test_one_frame_is_enough(model):
    clip = frames(1)
    assert model.predict(clip, frames=2, sampling=FAST).shape[1] == 2
    assert model.interpolate(clip, clip, frames=9, sampling=FAST).shape[1] == 9
    assert model.restore(clip, FAST).shape == clip.shape


def test_a_network_that_makes_frames_together_does_every_task(tmp_path):
    joint = load(save_small_models(tmp_path, targets=2, temporal=True), torch.device("cpu"))
    clip = frames(5)
    assert joint.predict(clip, frames=3, sampling=FAST).shape[1] == 3
    assert joint.generate(1, frames=5, sampling=FAST).shape[1] == 5
    for count in (1, 2, 3, 8):
        assert joint.interpolate(clip, clip, count, sampling=FAST).shape[1] == count
    assert joint.restore(clip, FAST).shape == clip.shape
    with pytest.raises(ValueError, match="makes 2 frames at once"):
        joint.restore(clip[:1], FAST)


def test_a_task_that_was_not_learnt_is_refused_with_what_to_do(tmp_path):
    plain = load(save_small_models(tmp_path, tasks=("predict",)), torch.device("cpu"))
    clip = frames(4)
    assert plain.tasks == ("predict",)
    for task, make in (
        ("generate", lambda: plain.generate()),
        ("interpolate", lambda: plain.interpolate(clip, clip)),
        ("generate", lambda: plain.interpolate(clip, clip, latent=True)),
        ("restore", lambda: plain.restore(clip)),
    ):
        with pytest.raises(UserError, match=rf"has learnt predict, not {task}: set .*tasks\.{task} above 0"):
            make()


BAD_CALLS = {
    r"frames=0: expected a whole number from 1": lambda m: m.predict(frames(4), frames=0),
    r"frames=2.5: expected a whole": lambda m: m.predict(frames(4), frames=2.5),
    r"samples=0: expected": lambda m: m.predict(frames(4), samples=0),
    r"samples=True: expected": lambda m: m.predict(frames(4), samples=True),
    r"count=-1: expected": lambda m: m.generate(-1),
    r"clip: expected frames .* got float64 \(4, 8, 8, 3\)": lambda m: m.predict(np.zeros((4, 8, 8, 3))),
    r"clip: expected frames .* got uint8 \(8, 8, 3\)": lambda m: m.restore(frames(1)[0][:8, :8]),
    r"clip: expected frames .* got list": lambda m: m.segment([1, 2]),
    r"clip: expected one frame or more": lambda m: m.predict(frames(4)[:0]),
    r"after: expected frames": lambda m: m.interpolate(frames(4), None),
    r"guidance=3 needs a network": lambda m: m.predict(frames(4), sampling=vdp.Sampling(guidance=3)),
    r"sampler='plms': expected one of ddpm, ddim": lambda m: vdp.Sampling(sampler="plms"),
    r"steps=0: expected": lambda m: vdp.Sampling(steps=0),
    r"temperature=nan: expected a number from 0 to 2": lambda m: vdp.Sampling(temperature=float("nan")),
    r"seed=-1": lambda m: vdp.Sampling(seed=-1),
    r"eta=0.5 is of sampler ddim alone": lambda m: vdp.Sampling(sampler="euler", eta=0.5),
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_a_bad_call_is_told_in_one_line(model, message):
    with pytest.raises(UserError, match=message) as error:
        BAD_CALLS[message](model)
    assert "\n" not in str(error.value)


def test_guidance_works_where_it_was_trained(tmp_path):
    guided = load(save_small_models(tmp_path, drop_context=0.1), torch.device("cpu"))
    strong = vdp.Sampling(steps=2, guidance=3.0)
    clip = frames(4)
    assert not np.array_equal(
        guided.predict(clip, frames=1, sampling=strong), guided.predict(clip, frames=1, sampling=FAST)
    )


def test_without_a_model_the_error_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="make it with `dvc repro`"):
        load(tmp_path)
    model = load(save_small_models(tmp_path / "m", segmenter=False), torch.device("cpu"))
    with pytest.raises(FileNotFoundError, match="segmenter: no model there"):
        model.segment(frames(1))


def test_info_has_plain_values(model):
    info = model.info()
    assert (info["frames"], info["denoiser"], info["codec"]) == (f"{HEIGHT}x{WIDTH}", "unet", "vae")
    assert all(isinstance(value, str | int | bool | list | dict) for value in info.values())


def test_the_package_itself_loads_no_network():
    import subprocess
    import sys

    program = "import sys, vdp; assert 'torch' not in sys.modules; vdp.nothing"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert done.stderr.strip().endswith("AttributeError: module 'vdp' has no attribute 'nothing'")
