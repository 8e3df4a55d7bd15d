"""`vdp.Model`: shapes, seeds, sizes and errors, with small random networks."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vdp
from tests.small_models import (
    CONTEXT_FRAMES,
    HEIGHT,
    KNOWN,
    LEVELS,
    WIDTH,
    RedSegmenter,
    predict_params,
    save_small_models,
)
from vdp.api import tracks
from vdp.api.model import Model, load
from vdp.api.motion import MOTION_SAMPLING, ClipObjects
from vdp.config.choices import MIN_START_TIME
from vdp.core.errors import UserError
from vdp.core.model_files import kept_name
from vdp.core.optical_flow import flow_extrapolation
from vdp.models.checkpoint import fingerprint, save_model
from vdp.models.codecs.params import CodecConfig
from vdp.models.layers import Unmoved

pytestmark = pytest.mark.slow

FAST = vdp.Sampling(steps=2)


def frames(count: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def inverted(clip: np.ndarray, index: int) -> np.ndarray:
    """The clip with one frame inverted."""
    changed = clip.copy()
    changed[index] = 255 - changed[index]
    return changed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(save_small_models(tmp_path_factory.mktemp("models")), "cpu")


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (17, 90), (64, 20)])
def test_results_have_the_size_of_the_input(model, size):
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


def test_one_frame_is_enough_context(model):
    clip = frames(1)
    assert model.predict(clip, frames=2, sampling=FAST).shape[1] == 2
    assert model.interpolate(clip, clip, frames=9, sampling=FAST).shape[1] == 9
    assert model.restore(clip, FAST).shape == clip.shape


def test_the_seed_alone_determines_the_sample(model):
    clip, other = frames(6), vdp.Sampling(steps=2, seed=1)
    for sample in (
        lambda s: model.predict(clip, frames=2, sampling=s),
        lambda s: model.generate(1, frames=2, sampling=s),
        lambda s: model.interpolate(clip, clip, frames=2, sampling=s),
        lambda s: model.restore(clip, s),
    ):
        assert np.array_equal(sample(FAST), sample(FAST))
        assert not np.array_equal(sample(FAST), sample(other))


def test_a_sample_does_not_depend_on_the_number_of_samples(model, monkeypatch):
    clip = frames(6)
    three = model.predict(clip, frames=2, samples=3, sampling=FAST)
    assert np.array_equal(model.predict(clip, frames=2, samples=1, sampling=FAST), three[:1])
    assert not np.array_equal(three[0], three[1])
    monkeypatch.setattr("vdp.api.model.BATCH_SIZE", 2)
    assert np.array_equal(model.predict(clip, frames=2, samples=3, sampling=FAST), three)


def test_the_context_is_the_last_frames_and_each_of_them_counts(model):
    clip = frames(9)
    predicted = model.predict(clip, frames=1, sampling=FAST)
    assert np.array_equal(predicted, model.predict(clip[-model.context_frames :], frames=1, sampling=FAST))
    for index in range(-model.context_frames, 0):
        assert not np.array_equal(predicted, model.predict(inverted(clip, index), frames=1, sampling=FAST))


def test_predicted_frames_do_not_depend_on_later_ones(model):
    clip, mode = frames(4), vdp.Sampling(steps=2, temperature=0.0)
    short, long = (model.predict(clip, frames=n, sampling=mode) for n in (2, 6))
    assert np.array_equal(short, long[:, :2])


def test_interpolation_joins_the_end_of_one_clip_to_the_start_of_the_other(model):
    clip = frames(40)
    plain = model.interpolate(clip, clip, frames=3, sampling=FAST)
    assert np.array_equal(plain, model.interpolate(clip[-2:], clip[:2], frames=3, sampling=FAST))
    for end, index, same in (
        ("before", 0, True),
        ("before", -1, False),
        ("after", 0, False),
        ("after", -1, True),
    ):
        clips = {"before": clip, "after": clip} | {end: inverted(clip, index)}
        assert np.array_equal(plain, model.interpolate(**clips, frames=3, sampling=FAST)) == same


def test_clips_are_interpolated_from_one_round_trip_to_the_other(model):
    """At strength 0 the codec alone changes them."""
    first, last = frames(7, 40, 60), frames(7, 17, 90, seed=1)
    blended = model.interpolate_clips(first, last, [0.0, 0.25, 0.75], 0.0, FAST)
    assert blended.shape == (3, 7, 40, 60, 3)
    same = frames(7, 40, 60, seed=1)
    ends = model.interpolate_clips(first, same, [0.0, 1.0], 0.0, FAST).astype(float)
    for end, clip in zip(ends, (first, same), strict=True):
        assert np.abs(end - model.round_trip(clip)).max() <= 2  # rounding
    far = [np.abs(clip.astype(float) - blended[0]).mean() for clip in blended]
    assert 0 == far[0] < far[1] < far[2]


def test_interpolated_clips_depend_on_strength_weight_and_seed_alone(model, monkeypatch):
    first, last, weights = frames(5), frames(5, seed=1), [0.2, 0.5, 0.9]
    blended = model.interpolate_clips(first, last, weights, 0.6, FAST)
    assert np.array_equal(blended[1:2], model.interpolate_clips(first, last, [0.5], 0.6, FAST))
    monkeypatch.setattr("vdp.api.model.BATCH_SIZE", 2)
    assert np.array_equal(blended, model.interpolate_clips(first, last, weights, 0.6, FAST))
    other = vdp.Sampling(steps=2, seed=1)
    for changed in (
        model.interpolate_clips(first, last, weights, 0.9, FAST),
        model.interpolate_clips(first, last, weights, 0.6, other),
    ):
        assert not np.array_equal(blended, changed)


def test_interpolated_detail_is_weighted_by_the_distance_to_the_ends(model, monkeypatch):
    weights = []
    monkeypatch.setattr(
        "vdp.api.model.transfer_detail",
        lambda frames, known, seen, weight: (weights.append(weight), frames)[1],
    )
    model.interpolate(frames(4), frames(4), frames=3, sampling=FAST)
    assert weights[0].tolist() == [[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]


def test_each_task_has_its_own_objective_and_data_scale(model):
    diffusion = model._model
    assert {task: objective.task for task, objective in diffusion.objectives.items()} == {
        task: task for task in model.tasks
    }
    for task, objective in diffusion.objectives.items():
        assert objective.scale.tolist() == pytest.approx(list(diffusion.config.data_scale[task]))
    assert len({float(objective.scale[0]) for objective in diffusion.objectives.values()}) == 4


@pytest.mark.parametrize(
    ("task", "run"),
    [
        ("predict", lambda m, clip: m.predict(clip, 1, sampling=FAST)),
        ("generate", lambda m, clip: m.generate(1, 1, FAST)),
        ("interpolate", lambda m, clip: m.interpolate(clip, clip, 2, sampling=FAST)),
        ("generate", lambda m, clip: m.interpolate(clip, clip, 2, latent=True, sampling=FAST)),
        ("restore", lambda m, clip: m.restore(clip, FAST)),
    ],
)
def test_a_method_uses_the_objective_of_its_task_alone(model, task, run):
    clip, objectives = frames(4), model._model.objectives
    # generate names the objective of later hops too
    needed = {name: objectives[name] for name in {task, "predict" if task == "generate" else task}}
    alone = Model(replace(model._model, objectives=needed), Path())
    assert np.array_equal(run(alone, clip), run(model, clip))
    others = {name: objective for name, objective in objectives.items() if name != task}
    with pytest.raises(KeyError, match=task):
        run(Model(replace(model._model, objectives=others), Path()), clip)


def test_restoring_is_without_noise_by_default(model):
    clip = frames(5)
    assert np.array_equal(model.restore(clip), model.restore(clip, vdp.Sampling(temperature=0.0, seed=5)))


def test_restored_frames_keep_the_detail_of_the_degraded_ones(model, monkeypatch):
    calls = []
    monkeypatch.setattr("vdp.api.model.keep_detail", lambda *given: (calls.append(given), given[1])[1])
    clip = frames(5)
    assert np.array_equal(model.restore(clip, FAST), clip)
    ((restored, degraded, seen),) = calls
    assert np.array_equal(degraded, clip) and np.array_equal(seen, model.round_trip(clip))
    assert not np.array_equal(restored, seen)


@pytest.mark.parametrize("size", [(2 * HEIGHT, 2 * WIDTH), (HEIGHT - 3, WIDTH + 2), (HEIGHT + 1, 9)])
def test_full_size_processes_every_pixel_of_a_larger_clip(model, size):
    clip, (below, right) = frames(5, *size), (-side % 4 for side in size)
    restored = model.restore(clip, FAST, full_size=True)
    assert restored.shape == clip.shape and not np.array_equal(restored, model.restore(clip, FAST))
    padded = np.pad(clip, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
    config = model._model.config.model_copy(update={"height": padded.shape[1], "width": padded.shape[2]})
    larger = Model(replace(model._model, config=config), Path())
    assert np.array_equal(restored, larger.restore(padded, FAST)[:, : size[0], : size[1]])


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (20, 30)])
def test_full_size_changes_nothing_for_smaller_clips(model, size):
    clip = frames(4, *size)
    assert np.array_equal(model.restore(clip, FAST, full_size=True), model.restore(clip, FAST))


def test_full_size_has_a_max_number_of_pixels(model, monkeypatch):
    monkeypatch.setattr("vdp.api.model.MAX_PIXELS", 40 * 60)
    assert model.restore(frames(1, 40, 60), FAST, full_size=True).shape == (1, 40, 60, 3)
    assert model.restore(frames(1, 41, 60), FAST).shape == (1, 41, 60, 3)
    with pytest.raises(UserError, match="clip: frames of 60x41: expected at most 2400"):
        model.restore(frames(1, 41, 60), FAST, full_size=True)


def test_the_batch_has_a_constant_number_of_pixels_and_does_not_change_the_result(model, monkeypatch):
    sizes = [model._model.batch_frames(HEIGHT * n, WIDTH * n) for n in (1, 2, 4, 100)]
    assert sizes == [48, 12, 3, 1]
    clip = frames(7, 2 * HEIGHT, WIDTH)
    together = model.restore(clip, full_size=True)
    monkeypatch.setattr("vdp.api.loading.BATCH_FRAMES", 4)
    assert model._model.batch_frames(2 * HEIGHT, WIDTH) == 2
    # sums in another order round differently
    assert np.abs(model.restore(clip, full_size=True).astype(int) - together).max() <= 1


def test_the_progress_bar_is_optional(model, monkeypatch, capsys):
    monkeypatch.setattr("vdp.api.model.BAR_DELAY", 0.0)
    model.restore(frames(2), FAST)
    assert capsys.readouterr().err == ""
    model.restore(frames(2), FAST, progress=True)
    assert "restoring" in capsys.readouterr().err


def test_a_round_trip_encodes_and_decodes(model):
    clip, diffusion = frames(3), model._model
    assert np.array_equal(model.round_trip(clip), diffusion.decode(diffusion.encode(clip)[None])[0])
    assert model.round_trip(frames(3, 17, 90)).shape == (3, 17, 90, 3)


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(save_small_models(tmp_path_factory.mktemp("guided"), context_dropout=0.1), "cpu")


@pytest.mark.parametrize(
    "change", [{"sampler": "ddpm"}, {"steps": 4}, {"temperature": 0.3}, {"guidance": 3.0}, {"eta": 0.5}]
)
def test_every_setting_of_the_sampler_changes_the_sample(guided, change):
    clip, base = frames(4), vdp.Sampling(steps=3)
    predicted = guided.predict(clip, frames=1, sampling=replace(base, **change))
    assert not np.array_equal(predicted, guided.predict(clip, frames=1, sampling=base))


def test_an_eps_prediction_starts_below_pure_noise(model):
    diffusion = model._model.config.diffusion.model_copy(update={"prediction": "eps"})
    config = model._model.config.model_copy(update={"diffusion": diffusion})
    eps = Model(replace(model._model, config=config), Path())
    assert MIN_START_TIME < eps._strategy(vdp.Sampling(steps=10), "predict").times[0] < 1
    with pytest.raises(UserError, match="steps=3: too few"):
        eps.predict(frames(1), 1, sampling=vdp.Sampling(steps=3))


def test_a_denoiser_of_another_codec_is_refused(tmp_path):
    save_small_models(tmp_path)
    save_model(tmp_path / "codec", None, CodecConfig(name="pixel", vae=None, has_masks=False))
    with pytest.raises(UserError, match="trained on the latents of another codec than .*codec"):
        load(tmp_path)


def test_damaged_weights_are_reported_in_one_line(tmp_path):
    path = save_small_models(tmp_path) / "denoiser/model.safetensors"
    whole = path.read_bytes()
    other = (tmp_path / "codec/model.safetensors").read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "is damaged"),
        (b"", "is damaged"),
        (other, "weights do not match its config.json"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            load(tmp_path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400
    path.unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        load(tmp_path)


def test_a_joint_network_supports_every_task(tmp_path):
    joint = load(save_small_models(tmp_path, targets=2, temporal=True), "cpu")
    clip = frames(5)
    assert joint.predict(clip, frames=3, sampling=FAST).shape[1] == 3
    assert joint.generate(1, frames=5, sampling=FAST).shape[1] == 5
    for count in (1, 2, 3, 8):
        assert joint.interpolate(clip, clip, count, sampling=FAST).shape[1] == count
    for count in (1, 4, 5):
        assert joint.interpolate_clips(clip[:count], clip[:count], sampling=FAST).shape[1] == count
    assert joint.restore(clip, FAST).shape == clip.shape
    assert joint.restore(clip[:1], FAST).shape == clip[:1].shape  # repeated to a whole hop, then cut


def test_an_untrained_task_is_refused_with_the_param_to_set(tmp_path):
    plain, clip = load(save_small_models(tmp_path, tasks=("predict",)), "cpu"), frames(4)
    assert plain.tasks == ("predict",)
    for task, run in (
        ("generate", lambda: plain.generate()),
        ("interpolate", lambda: plain.interpolate(clip, clip)),
        ("generate", lambda: plain.interpolate(clip, clip, latent=True)),
        ("generate", lambda: plain.interpolate_clips(clip, clip)),
        ("restore", lambda: plain.restore(clip)),
    ):
        with pytest.raises(UserError, match=rf"not {task}; train with train_denoiser\.tasks\.{task}"):
            run()


INVALID_CALLS = {
    r"frames=0: expected an integer 1": lambda m: m.predict(frames(4), frames=0),
    r"frames=2.5: expected an integer": lambda m: m.predict(frames(4), frames=2.5),
    r"last: 3 frames: expected 4, as of first": lambda m: m.interpolate_clips(frames(4), frames(3)),
    r"strength=1.5: expected a number 0..1": lambda m: m.interpolate_clips(
        frames(4), frames(4), strength=1.5
    ),
    r"weights=-0.1: expected": lambda m: m.interpolate_clips(frames(4), frames(4), [0.5, -0.1]),
    r"number of weights=0": lambda m: m.interpolate_clips(frames(4), frames(4), []),
    r"samples=0: expected": lambda m: m.predict(frames(4), samples=0),
    r"samples=True: expected": lambda m: m.predict(frames(4), samples=True),
    r"count=-1: expected": lambda m: m.generate(-1),
    r"clip: expected frames .* got float64 \(4, 8, 8, 3\)": lambda m: m.predict(np.zeros((4, 8, 8, 3))),
    r"clip: expected frames .* got uint8 \(8, 8, 3\)": lambda m: m.restore(frames(1)[0][:8, :8]),
    r"clip: expected frames .* got list": lambda m: m.segment([1, 2]),
    r"clip: expected at least one frame": lambda m: m.predict(frames(4)[:0]),
    r"after: expected frames": lambda m: m.interpolate(frames(4), None),
    r"guidance=3: .*context_dropout": lambda m: m.predict(frames(4), sampling=vdp.Sampling(guidance=3)),
    r"sampler=\"plms\": expected one of ddpm, ddim": lambda m: vdp.Sampling(sampler="plms"),
    r"steps=0: expected an integer 1..1000": lambda m: vdp.Sampling(steps=0),
    r"temperature=NaN: expected a number 0..2": lambda m: vdp.Sampling(temperature=float("nan")),
    r"seed=-1": lambda m: vdp.Sampling(seed=-1),
    r"eta=0.5: expected 0 with sampler=euler": lambda m: vdp.Sampling(sampler="euler", eta=0.5),
}


@pytest.mark.parametrize("message", INVALID_CALLS)
def test_an_invalid_argument_is_reported_in_one_line(model, message):
    with pytest.raises(UserError, match=message) as error:
        INVALID_CALLS[message](model)
    assert "\n" not in str(error.value)


def test_sampling_accepts_numpy_numbers():
    assert vdp.Sampling(steps=np.int64(3), temperature=np.float32(0.5)).steps == 3


def test_a_missing_model_is_reported_with_the_command_that_trains_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="codec: no model found.*`dvc repro`"):
        load(tmp_path)
    model = load(save_small_models(tmp_path / "m", segmenter=False), "cpu")
    with pytest.raises(FileNotFoundError, match="segmenter: no model found"):
        model.segment(frames(1))


def test_info_has_plain_values(model):
    info = model.info()
    assert (info["frames"], info["denoiser"], info["codec"]) == (f"{HEIGHT}x{WIDTH}", "unet", "vae")
    assert all(isinstance(value, str | int | bool | list | dict) for value in info.values())


def keep_other_weights(folder: Path, step: int) -> None:
    """Keep other weights of a step beside those of a model folder."""
    weights = {name: value + 0.1 for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / f"{kept_name(step)}.safetensors")


def test_kept_weights_are_listed_and_predict(tmp_path):
    models, clip = save_small_models(tmp_path / "models"), frames(6)
    keep_other_weights(models / "denoiser", 40)
    keep_other_weights(models / "segmenter", 8)
    usual, kept = load(models, "cpu"), load(models, "cpu", checkpoint=40)
    assert usual.info()["denoiser_checkpoints"] == [40] and usual.info()["segmenter_checkpoints"] == [8]
    predicted = kept.predict(clip, frames=2, sampling=FAST)
    assert not np.array_equal(usual.predict(clip, frames=2, sampling=FAST), predicted)
    assert np.array_equal(kept.segment(clip), usual.segment(clip))
    assert not np.array_equal(load(models, "cpu", segmenter_checkpoint=8).segment(clip), usual.segment(clip))
    for wrong in ({"checkpoint": 8}, {"segmenter_checkpoint": 40}):
        with pytest.raises(UserError, match="expected one of"):
            load(models, "cpu", **wrong)
    (models / "denoiser/step_00000040.safetensors").rename(models / "denoiser/model.safetensors")
    assert np.array_equal(load(models, "cpu").predict(clip, frames=2, sampling=FAST), predicted)


def test_gains_are_applied_to_the_weights_that_they_were_measured_for(tmp_path):
    def predicted(checkpoint: int | None = None) -> np.ndarray:
        return load(models, "cpu", checkpoint).predict(clip, frames=2, sampling=FAST)

    def set_config(**values: JsonValue) -> None:
        config.write_text(json.dumps(json.loads(config.read_text()) | values))

    models, clip = save_small_models(tmp_path / "models", segmenter=False, base="optical_flow"), frames(6)
    denoiser, config = models / "denoiser", models / "denoiser/config.json"
    keep_other_weights(denoiser, 40)
    shutil.copy(denoiser / "model.safetensors", denoiser / "step_00000080.safetensors")
    usual, kept = predicted(), predicted(40)
    own = fingerprint(load(models, "cpu")._model.network)
    set_config(gains=[0.0, 0.0], gains_of=own)
    assert not np.array_equal(predicted(), usual)
    assert np.array_equal(predicted(40), kept), "of other weights"
    assert np.array_equal(predicted(80), predicted()), "the same weights"
    set_config(gains_of=None)  # as in earlier versions
    assert not np.array_equal(predicted(), usual) and np.array_equal(predicted(40), kept)
    set_config(gains_of=own)
    (denoiser / "step_00000040.safetensors").rename(denoiser / "model.safetensors")
    assert np.array_equal(predicted(), kept)


# --- The base of the denoiser ----------------------------------------------------------------------------


class PredictsZero(Unmoved, nn.Module):
    """Its residual is zero: predicted frames are their base."""

    joint = False

    def __init__(self) -> None:
        super().__init__()
        self.indices: list[list[float]] = []

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> None:
        self.indices.append(index[0].tolist())

    def forward(self, xt: Tensor, t: Tensor, context: None) -> Tensor:
        return xt / t[:, None, :, None, None]


def objects(count: int) -> np.ndarray:
    """Frames of two squares that move, red by their class."""
    clip = frames(count)
    clip[..., 0] = 0
    for k in range(count):
        clip[k, 4:12, 3 + k : 11 + k, 0] = 5 * LEVELS
        clip[k, 18:26, 30 - k : 38 - k, 0] = 40 * LEVELS
    return clip


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(tracks, "load_segmenter", lambda folder: RedSegmenter())
        yield load(save_small_models(tmp_path_factory.mktemp("composed"), base="composed"), "cpu")


@pytest.fixture
def composed_copy(composed, monkeypatch) -> tuple[Model, PredictsZero]:
    """Predicts the composed frames."""
    network = PredictsZero()
    diffusion = replace(composed._model, network=network)
    monkeypatch.setattr(composed, "_model", diffusion)
    return composed, network


def test_with_a_composed_base_frames_are_those_of_the_motion_model(composed_copy):
    model, network = composed_copy
    clip = objects(8)
    predicted = model.predict(clip, frames=3, samples=2, sampling=FAST)
    context = clip[-KNOWN:]
    found = model._tracker(context)
    assert len(found.classes) == 2
    known = ClipObjects("", context, found.labels, found.classes)
    targets = range(KNOWN, KNOWN + 3)
    expected = model._motion.compose([known], targets, MOTION_SAMPLING, FAST.seed)[0]
    assert np.abs(model.round_trip(expected).astype(int) - expected).max() > 20  # the codec loses detail
    for sample in predicted:
        assert np.abs(sample.astype(int) - expected).max() <= 1  # of rounding: it is added again
    assert network.indices == [[1, 0, -1, -2, -3], [2, 1, 0, -1, -2], [3, 2, 1, 0, -1]]


def test_with_the_base_of_optical_flow_frames_are_those_that_it_moves_on(tmp_path):
    """Through the API and through the rollout of the stages alike."""
    model = load(save_small_models(tmp_path, base="optical_flow", segmenter=False), "cpu")
    model._model = replace(model._model, network=PredictsZero())
    clip = objects(8)
    expected = flow_extrapolation(clip, [1, 2, 3], decay=0.8)
    assert np.abs(expected[2].astype(int) - clip[-1]).max() > 20
    predicted = model.predict(clip, frames=3, samples=2, sampling=FAST)
    assert np.abs(predicted.astype(int) - expected).max() <= 1
    sampled, _ = model._model.sample_clips(["a"], [clip], predict_params([9, 11]), seed=0)
    assert np.abs(sampled[0].astype(int) - expected[[0, 2]]).max() <= 1


def test_composed_frames_of_a_large_clip_get_back_what_resizing_loses_of_the_background(composed_copy):
    model, _ = composed_copy
    large = objects(8).repeat(3, axis=1).repeat(3, axis=2)
    fine = np.random.default_rng(0).integers(0, 12, (3 * HEIGHT, 3 * WIDTH), dtype=np.uint8)
    large[..., 1], large[..., 2] = 100, 100 + fine  # the same in all frames
    predicted = model.predict(large, frames=1, sampling=FAST)[0, 0, ..., 2].astype(int)
    corner = np.s_[3 * 24 :, : 3 * 20]  # no object comes here
    assert np.abs(predicted[corner] - large[0][corner][..., 2]).mean() < 0.5 * fine.std()


def test_the_context_of_a_composed_base_is_all_frames_that_it_is_composed_of(composed):
    assert composed.context_frames == KNOWN > CONTEXT_FRAMES
    clip = objects(KNOWN + 2)
    predicted = composed.predict(clip, frames=2, sampling=FAST)
    assert np.array_equal(composed.predict(clip[2:], frames=2, sampling=FAST), predicted)
    assert not np.array_equal(composed.predict(clip[3:], frames=2, sampling=FAST), predicted)
    assert composed.info()["base"] == "composed"


def test_a_clip_without_objects_is_predicted_with_a_composed_base(composed):
    nothing = objects(4)
    nothing[..., 0] = 0
    assert composed.predict(nothing, frames=2, sampling=FAST).shape == (1, 2, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("base", ["composed", "moved", "optical_flow"])
def test_every_task_runs_with_every_base(base, tmp_path):
    model, clip = load(save_small_models(tmp_path, base=base, context_dropout=0.1), "cpu"), objects(5)
    guided = replace(FAST, guidance=2.0)
    assert model.predict(clip, frames=3, samples=2, sampling=guided).shape == (2, 3, HEIGHT, WIDTH, 3)
    assert model.generate(1, frames=3, sampling=FAST).shape[1] == 3
    assert model.interpolate(clip, clip, 4, sampling=FAST).shape[1] == 4
    assert model.interpolate(clip, clip, 2, latent=True, sampling=FAST).shape[1] == 2
    assert model.restore(clip, FAST).shape == clip.shape


@pytest.mark.parametrize("missing", ["motion", "classifier"])
def test_a_composed_base_without_its_models_is_reported_at_load(tmp_path, missing):
    shutil.rmtree(save_small_models(tmp_path, base="composed") / missing)
    with pytest.raises(FileNotFoundError, match=f"{missing}: no model found.*`dvc repro`"):
        load(tmp_path, "cpu")
    assert load(save_small_models(tmp_path / "moved", base="moved", segmenter=False), "cpu").tasks
