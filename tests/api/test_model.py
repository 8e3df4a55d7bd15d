"""Trained models from Python: shapes, seeds, sizes and errors, with small untrained networks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vdp
from tests.small_models import HEIGHT, WIDTH, save_small_models
from vdp.api.model import Model, load
from vdp.core.errors import UserError
from vdp.models.checkpoint import save_model
from vdp.models.codecs.params import CodecConfig

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
    monkeypatch.setattr("vdp.api.model.ROWS", 2)
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


def test_every_known_frame_counts_and_not_the_last_alone(model):
    clip = frames(4)
    for place in range(4):
        changed = clip.copy()
        changed[place] = 255 - changed[place]
        assert not np.array_equal(
            model.predict(clip, frames=1, sampling=FAST), model.predict(changed, frames=1, sampling=FAST)
        )


def test_the_end_of_one_clip_is_joined_to_the_start_of_the_other(model):
    """Of clips that are longer than any stride looks back, frames far from the gap count for nothing."""
    clip, found = frames(40), {}
    for end in ("before", "after"):
        for place in (0, -1):
            given = {"before": clip.copy(), "after": clip.copy()}
            given[end][place] = 255 - given[end][place]
            found[end, place] = model.interpolate(**given, frames=3, sampling=FAST)
    plain = model.interpolate(clip, clip, frames=3, sampling=FAST)
    assert np.array_equal(plain, model.interpolate(clip[-2:], clip[:2], frames=3, sampling=FAST))
    same = {key: np.array_equal(plain, value) for key, value in found.items()}
    assert same == {("before", 0): True, ("before", -1): False, ("after", 0): False, ("after", -1): True}


def test_detail_is_taken_from_the_nearer_end_of_a_gap(model, monkeypatch):
    weights = []
    monkeypatch.setattr(
        "vdp.api.model.transfer_detail", lambda made, known, seen, weight: (weights.append(weight), made)[1]
    )
    model.interpolate(frames(4), frames(4), frames=3, sampling=FAST)
    assert weights[0].tolist() == [[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]


def test_each_task_has_the_objective_and_the_scale_of_its_own(model, monkeypatch):
    trained = model._trained
    assert {task: objective.task for task, objective in trained.objectives.items()} == {
        t: t for t in model.tasks
    }
    for task, objective in trained.objectives.items():
        assert objective.scale.tolist() == pytest.approx(list(trained.config.data_scale[task]))
    assert len({float(objective.scale[0]) for objective in trained.objectives.values()}) == 4
    used = []
    for name, places in (
        ("generate", (1, 2)),
        ("between", (6,)),
        ("blended", (6,)),
        ("restore", (3,)),
        ("rollout", (3,)),
    ):
        real = getattr(vdp.api.model, name)

        def spy(*given, name=name, places=places, real=real):
            used.append((name, *(given[place].task for place in places)))
            return real(*given)

        monkeypatch.setattr(f"vdp.api.model.{name}", spy)
    clip = frames(4)
    model.generate(1, 2, FAST)
    model.interpolate(clip, clip, 2, sampling=FAST)
    model.interpolate(clip, clip, 2, latent=True, sampling=FAST)
    model.restore(clip, FAST)
    model.predict(clip, 1, sampling=FAST)
    assert used == [
        ("generate", "generate", "predict"), ("between", "interpolate"), ("blended", "generate"),
        ("restore", "restore"), ("rollout", "predict"),
    ]  # fmt: skip


def test_a_clip_is_restored_without_chance_if_not_said(model):
    clip = frames(5)
    assert np.array_equal(model.restore(clip), model.restore(clip, vdp.Sampling(temperature=0.0, seed=5)))


def test_restored_frames_are_given_the_detail_of_their_own_degraded_ones(model, monkeypatch):
    asked = []

    def spy(made, given, seen):
        asked.append((made, given, seen))
        return given

    monkeypatch.setattr("vdp.api.model.keep_detail", spy)
    clip = frames(5)
    assert np.array_equal(model.restore(clip, FAST), clip)
    ((made, given, seen),) = asked
    assert np.array_equal(given, clip) and np.array_equal(seen, model.round_trip(clip))
    assert not np.array_equal(made, seen)


@pytest.mark.parametrize("size", [(2 * HEIGHT, 2 * WIDTH), (HEIGHT - 3, WIDTH + 2), (HEIGHT + 1, 9)])
def test_at_full_size_every_pixel_of_a_larger_clip_is_worked_on(model, size):
    clip, (below, right) = frames(5, *size), (-side % 4 for side in size)
    restored = model.restore(clip, FAST, full_size=True)
    assert restored.shape == clip.shape and not np.array_equal(restored, model.restore(clip, FAST))
    whole = np.pad(clip, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
    config = model._trained.config.model_copy(update={"height": whole.shape[1], "width": whole.shape[2]})
    larger = Model(replace(model._trained, config=config), Path())
    assert np.array_equal(restored, larger.restore(whole, FAST)[:, : size[0], : size[1]])


def test_at_full_size_as_many_hops_go_together_as_pixels_allow(model, monkeypatch):
    real, rows = vdp.api.model.restore, []
    monkeypatch.setattr("vdp.api.model.restore", lambda *given: rows.append(given[-2]) or real(*given))
    model.restore(frames(3, 2 * HEIGHT, WIDTH), FAST, full_size=True)
    model.restore(frames(3, 2 * HEIGHT, WIDTH), FAST)
    assert rows == [24, 48]


def test_at_full_size_frames_have_a_bound(model, monkeypatch):
    monkeypatch.setattr("vdp.api.model.MAX_PIXELS", 40 * 60)
    assert model.restore(frames(1, 40, 60), FAST, full_size=True).shape == (1, 40, 60, 3)
    assert model.restore(frames(1, 41, 60), FAST).shape == (1, 41, 60, 3)
    with pytest.raises(
        UserError, match="clip: frames of 60x41 pixels are too large for full_size, at most 2400"
    ):
        model.restore(frames(1, 41, 60), FAST, full_size=True)


def test_at_full_size_a_clip_no_larger_than_the_networks_is_as_without(model):
    for size in ((HEIGHT, WIDTH), (20, 30)):
        clip = frames(4, *size)
        assert np.array_equal(model.restore(clip, FAST, full_size=True), model.restore(clip, FAST))


def test_how_many_frames_are_worked_on_together_changes_nothing_but_memory(model, monkeypatch):
    trained = model._trained
    assert [trained.at_once(HEIGHT * n, WIDTH * n) for n in (1, 2, 4, 100)] == [48, 12, 3, 1]
    clip = frames(7, 2 * HEIGHT, WIDTH)
    together = model.restore(clip, full_size=True)
    monkeypatch.setattr("vdp.api.loading.AT_ONCE", 4)
    assert trained.at_once(2 * HEIGHT, WIDTH) == 2
    # sums of another order round differently
    assert np.abs(model.restore(clip, full_size=True).astype(int) - together).max() <= 1


def test_a_bar_is_shown_where_it_is_asked_for(model, monkeypatch, capsys):
    monkeypatch.setattr("vdp.api.model.BAR_AFTER", 0.0)
    model.restore(frames(2), FAST)
    assert capsys.readouterr().err == ""
    model.restore(frames(2), FAST, progress=True)
    assert "restoring" in capsys.readouterr().err


def test_a_round_trip_is_what_the_codec_makes_of_a_clip(model):
    clip = frames(3)
    trained = model._trained
    assert np.array_equal(model.round_trip(clip), trained.decode(trained.encode(clip)[None])[0])
    assert model.round_trip(frames(3, 17, 90)).shape == (3, 17, 90, 3)


def test_what_is_asked_of_sampling_is_what_is_done(tmp_path):
    model = load(save_small_models(tmp_path, context_dropout=0.1), "cpu")
    asked = vdp.Sampling(sampler="ddim", steps=4, temperature=0.3, guidance=3.0, eta=0.2)
    strategy = model._strategy(asked, "predict")
    assert (strategy.temperature, strategy.guidance, strategy.context_frames) == (0.3, 3.0, 4)
    assert strategy.times.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_network_that_gives_eps_starts_below_pure_noise(model, monkeypatch):
    eps = model._trained.config.diffusion.model_copy(update={"prediction": "eps"})
    config = model._trained.config.model_copy(update={"diffusion": eps})
    blind = Model(replace(model._trained, config=config), Path())
    assert 0.8 < blind._strategy(vdp.Sampling(steps=10), "predict").times[0] < 1
    with pytest.raises(UserError, match="steps=3: too few"):
        blind._strategy(vdp.Sampling(steps=3), "predict")


def test_a_denoiser_of_another_codec_is_refused(tmp_path):
    save_small_models(tmp_path)
    save_model(tmp_path / "codec", None, CodecConfig(name="pixel", vae=None, has_masks=False))
    with pytest.raises(UserError, match="trained on the latents of another codec than .*codec"):
        load(tmp_path)


def test_damaged_weights_are_told_in_one_line(tmp_path):
    path = save_small_models(tmp_path) / "denoiser/model.safetensors"
    whole = path.read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "is damaged"),
        (b"", "is damaged"),
        (
            (tmp_path / "codec/model.safetensors").read_bytes(),
            "weights do not match its config.json",
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            load(tmp_path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no such file, beside its config.json"):
        load(tmp_path)


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
    with pytest.raises(ValueError, match="frames=.*train_denoiser.targets=2"):
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
    guided = load(save_small_models(tmp_path, context_dropout=0.1), torch.device("cpu"))
    strong = vdp.Sampling(steps=2, guidance=3.0)
    clip = frames(4)
    assert not np.array_equal(
        guided.predict(clip, frames=1, sampling=strong), guided.predict(clip, frames=1, sampling=FAST)
    )


def test_without_a_model_the_error_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="make it with `dvc repro`"):
        load(tmp_path)
    model = load(save_small_models(tmp_path / "m", segmenter=False), torch.device("cpu"))
    with pytest.raises(FileNotFoundError, match="segmenter: no model found"):
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
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.stderr.strip().endswith("AttributeError: module 'vdp' has no attribute 'nothing'")
