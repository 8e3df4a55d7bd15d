"""bench.rivals: networks, budgets and batches alone, and every rival on a small run of random models."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from bench.rivals import __main__ as rivals
from bench.rivals.clips import TargetBatches, Targets
from bench.rivals.denoisers import MCVD, Unet3D
from bench.rivals.diffusion import ChangeLoss, change_scale, clip_noise, sample
from bench.rivals.predictors import MaskSimVP, class_shares, decide, predict_frame
from bench.rivals.scoring import HEADS, append_rows
from bench.rivals.simvp import SimVP
from bench.rivals.training import Budget, count_step_flops, steps_of_budget, train
from bench.rivals.unet_blocks import TimeAttention
from tests.small_models import CHANNELS, HEIGHT, LEVELS, WIDTH, RedSegmenter, save_small_models
from vdp.api import tracks
from vdp.config.read import read_section
from vdp.config.schema import ClipParams
from vdp.config.yaml_file import read_file
from vdp.core.errors import UserError
from vdp.core.rng import BatchRng
from vdp.data.object_states import class_labels, object_states
from vdp.data.stores.clips import Clip, write_clips
from vdp.data.stores.latents import EncodedClip, Normalisation, write_latents, write_statistics
from vdp.data.stores.predictions import kept_arrays, write_predictions
from vdp.data.stores.tracks import FRAME_MASKS, Tracks, write_tracks
from vdp.diffusion.params import DiffusionParams
from vdp.diffusion.schedules import make_process
from vdp.sampling.samplers import time_grid

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
CPU = torch.device("cpu")
FRAMES, KNOWN = 6, 4
CLIP = ClipParams(frames=FRAMES, known=KNOWN, height=HEIGHT, width=WIDTH)


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(REPO)


def perturbed(network: nn.Module) -> nn.Module:
    """Random weights also where a new network has zeros, which would hide its inputs."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def changes_with_each_frame(predict, known: Tensor) -> bool:
    """Whether the output changes if any one of the known frames (B, C, K, h, w) does."""
    before = predict(known)
    outputs = []
    for frame in range(known.shape[2]):
        other = known.clone()
        other[:, :, frame] += 1
        outputs.append(predict(other))
    return all(not torch.allclose(output, before, atol=1e-6) for output in outputs)


# --- Networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 24), (18, 10)])
def test_simvp_predicts_a_frame_from_all_known_frames_at_their_size(size):
    torch.manual_seed(0)
    network = perturbed(SimVP(KNOWN, 3, 5, width=8, hidden=16, depth=2))
    known = torch.randn(2, 3, KNOWN, *size)
    assert network(known).shape == (2, 5, *size)
    assert changes_with_each_frame(network, known)


@pytest.mark.parametrize("kind", [MCVD, Unet3D])
@pytest.mark.parametrize("size", [(8, 12), (5, 7)])
def test_denoisers_read_all_known_frames_and_the_time_at_any_size(kind, size):
    torch.manual_seed(0)
    network = perturbed(kind(KNOWN, CHANNELS, 8, (1, 2)))
    x, scale = torch.randn(2, CHANNELS, *size), torch.ones(CHANNELS)
    known, t = torch.randn(2, CHANNELS, KNOWN, *size), torch.rand(2)
    output = network(x, t, known, scale)
    assert output.shape == x.shape
    assert changes_with_each_frame(lambda frames: network(x, t, frames, scale), known)
    assert not torch.allclose(network(x, t * 0.5, known, scale), output, atol=1e-6)
    assert not torch.allclose(network(x + 1, t, known, scale), output, atol=1e-6)


def test_attention_over_time_is_blind_to_order_without_its_bias_of_distances():
    torch.manual_seed(0)
    attention = TimeAttention(8, 5)
    clip, order = torch.randn(1, 8, 5, 3, 4), [2, 0, 4, 3, 1]
    shuffled = attention(clip)[:, :, order]
    torch.testing.assert_close(attention(clip[:, :, order]), shuffled)
    nn.init.normal_(attention.bias)
    assert not torch.allclose(attention(clip[:, :, order]), attention(clip)[:, :, order], atol=1e-3)


def test_new_networks_copy_the_last_known_frame_and_mask():
    torch.manual_seed(0)
    masks = np.arange(KNOWN * HEIGHT * WIDTH).reshape(KNOWN, HEIGHT, WIDTH).astype(np.uint8) % 49
    shares = class_shares(MaskSimVP(CLIP, 8).eval(), [masks, masks[::-1]], CPU)
    for decided, last in zip(decide(shares, 0.5), (masks[-1], masks[0]), strict=True):
        np.testing.assert_array_equal(decided, last)
    known = torch.rand(1, 3, KNOWN, HEIGHT, WIDTH)
    torch.testing.assert_close(predict_frame(SimVP(KNOWN, 3, 3, 8, 16, 1), known), known[:, :, -1])


def test_only_classes_of_the_known_masks_have_a_share():
    torch.manual_seed(0)
    masks = np.zeros((KNOWN, HEIGHT, WIDTH), np.uint8)
    masks[0, :8], masks[1, 9:] = 7, 40
    shares = class_shares(perturbed(MaskSimVP(CLIP, 8)), [masks], CPU)[0]
    assert {label for label in range(49) if shares[label].any()} == {0, 7, 40}


# --- Budgets and batches ---------------------------------------------------------------------------------


def test_a_budget_is_filled_with_whole_steps():
    assert steps_of_budget(1.0, 0.3e12) == 3
    with pytest.raises(UserError, match=r"--tflop=0.1: expected at least 0.3, one step"):
        steps_of_budget(0.1, 0.3e12)


class Noise:
    """Batches of random clips of which the target is the last known frame, moved by a pixel."""

    batch_size = 4

    def __call__(self, step: int, rng: np.random.Generator, rows: range) -> Targets:
        known = torch.from_numpy(rng.standard_normal((self.batch_size, CHANNELS, KNOWN, 8, 12))).float()
        return Targets(known[rows.start : rows.stop], known[rows.start : rows.stop, :, -1].roll(1, -1))

    def names(self, step: int) -> list[str]:
        return [f"clip {n}" for n in range(self.batch_size)]


def test_a_step_of_a_grouped_convolution_counts_thrice_its_forward_pass():
    conv = nn.Conv2d(CHANNELS, 8, 3, padding=1, groups=2)

    def loss(network: nn.Module, batch: Targets, batch_rng: BatchRng) -> dict[str, Tensor]:
        return {"loss": network(batch.target).square().mean()}

    forward = 2 * Noise.batch_size * 8 * 12 * 8 * (CHANNELS // 2) * 9
    assert count_step_flops(conv, loss, Noise(), 0, CPU) == 3 * forward


@pytest.mark.parametrize("kind", [MCVD, Unet3D])
def test_a_few_steps_within_the_budget_lower_the_loss(kind):
    torch.manual_seed(0)
    process = make_process(read_section(DiffusionParams, "diffusion"))
    loss, network = ChangeLoss(process, torch.ones(CHANNELS)), kind(KNOWN, CHANNELS, 8, (1, 2))
    step = count_step_flops(network, loss, Noise(), 0, CPU)
    budget = Budget(tflop=40.5 * step / 1e12, seed=0, batch_size=4, learning_rate=3e-2)
    trained, cost = train(network, loss, Noise(), Noise(), budget, CPU)
    assert cost.steps == 40 and cost.tflop == pytest.approx(40 * step / 1e12)
    assert cost.parameters == sum(p.numel() for p in trained.parameters())
    assert np.mean(cost.losses[-4:]) < 0.8 * np.mean(cost.losses[:4])


def test_batches_split_the_target_off_and_rows_do_not_depend_on_each_other():
    def read(clip: int, mirrored: bool) -> Tensor:
        return (
            torch.full((2, 5, 1, 1), 10.0 * clip) + torch.arange(5.0)[None, :, None, None] * (-1) ** mirrored
        )

    batches = TargetBatches(read, [f"clip {n}" for n in range(6)], 1, 4, seed=0)
    whole = batches(1, np.random.default_rng(0), range(4))
    assert whole.known.shape == (4, 2, 4, 1, 1) and whole.target.shape == (4, 2, 1, 1)
    names = batches.names(1)
    for row, name in enumerate(names):
        change = whole.target[row, 0, 0, 0] - 10 * int(name.split()[1])
        assert abs(change) == 4 and whole.known[row, 0, :, 0, 0].diff().abs().eq(1).all()
    part = batches(1, np.random.default_rng(0), range(2, 4))
    torch.testing.assert_close(part.known, whole.known[2:])
    assert sorted(batches.names(0) + names[:2]) == [f"clip {n}" for n in range(6)], (
        "an epoch has every clip once"
    )


# --- Sampling and the table ------------------------------------------------------------------------------


def test_sampling_from_a_perfect_denoiser_gives_the_true_frame():
    process = make_process(DiffusionParams(**yaml.safe_load((REPO / "params.yaml").read_text())["diffusion"]))
    torch.manual_seed(0)
    known, true = torch.randn(2, CHANNELS, KNOWN, 4, 6), torch.randn(2, CHANNELS, 4, 6)
    loss = ChangeLoss(process, change_scale([Targets(known, true)]))
    x0 = loss.to_data(true, known)
    torch.testing.assert_close(x0.square().mean(dim=(0, 2, 3)), torch.ones(CHANNELS))

    class Perfect(MCVD):
        def forward(self, x: Tensor, t: Tensor, known: Tensor, scale: Tensor) -> Tensor:
            return (x - x0) / t[:, None, None, None]  # eps - x0 of the straight path

    noise = torch.stack([clip_noise(name, (CHANNELS, 4, 6), 0) for name in ("a", "b")])
    assert not torch.allclose(noise[0], noise[1])
    sampled = sample(Perfect(KNOWN, CHANNELS, 8, (1,)), loss, known, noise, time_grid(3, "trailing", 1000))
    torch.testing.assert_close(sampled, true, atol=1e-5, rtol=0)


def test_rows_are_appended_under_one_head(tmp_path):
    path = tmp_path / "new" / "table.md"
    for name in ("one", "two"):
        append_rows(path, [[name] * len(HEADS)])
    lines = path.read_text().splitlines()
    assert len(lines) == 4 and lines[0].startswith("| rival") and lines[3].startswith("| two")


def test_the_ledger_of_a_run_counts_only_where_it_is_whole(tmp_path):
    path = tmp_path / "stages.json"
    assert rivals.ledger_tflop(path) == "-"
    path.write_text('{"simulate": {"workers": 2}, "predict": {"tflop": 2.5}, "segment": {"tflop": 4}}')
    assert rivals.ledger_tflop(path) == "6.5"
    path.write_text('{"predict": {"tflop": 2.5}, "train_denoiser": {"seconds": 9}}')
    assert rivals.ledger_tflop(path) == "-"


# --- A finished run --------------------------------------------------------------------------------------


def square_masks(number: int) -> np.ndarray:
    """Two squares of which the first moves, to the right or to the left, (FRAMES, H, W)."""
    masks = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for k in range(FRAMES):
        start = 3 + k if number % 2 else 12 - k
        masks[k, 4:12, start : start + 8] = 5
        masks[k, 18:26, 30:38] = 40
    return masks


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with params.yaml and data of a small finished run, of which all masks are right."""
    folder = tmp_path_factory.mktemp("run")
    data = read_file(REPO / "params.yaml")
    data["clip"] = {"frames": FRAMES, "known": KNOWN, "height": HEIGHT, "width": WIDTH}
    data["predict"] |= {"hops": [6], "steps": 2, "samples": 2}
    data["segment"]["codec_vote"] = 0.0
    data["train_denoiser"] |= {"context_frames": 3, "max_hops": 2, "max_span": 4}
    data["denoiser"]["unet"]["context_slots"] = 3
    data["motion"] |= {"context_slots": KNOWN, "target_slots": FRAMES - KNOWN}
    data["evaluate_tasks"]["interpolate_frames"] = [1]
    (folder / "params.yaml").write_text(yaml.safe_dump(data))
    save_small_models(folder / "data/models")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 3), ("test/small", 3)):
        masks = [square_masks(n) for n in range(count)]
        clips = [Clip(f"c{n}", np.repeat(LEVELS * m[..., None], 3, axis=3), m) for n, m in enumerate(masks)]
        write_clips(folder / "data/clips" / split, clips, shard_mb=1)
        if not split.startswith("test"):
            latents = rng.standard_normal((count, 2, FRAMES, CHANNELS, HEIGHT // 4, WIDTH // 4))
            encoded = map(EncodedClip, latents.astype(np.float16))
            write_latents(folder / "data/latents" / split, encoded, shard_mb=1, known=KNOWN)
    write_statistics(folder / "data/latents", Normalisation((0.0,) * CHANNELS, (1.0,) * CHANNELS))
    tracked = []
    for n, true in enumerate(masks):
        labels, classes = class_labels(true[:KNOWN])
        tracked.append(Tracks(f"c{n}", object_states(labels, len(classes)), classes, labels))
    write_tracks(folder / "data/tracks/test/small", tracked, KNOWN)
    known = np.stack([true[:KNOWN] for true in masks])
    np.save(folder / "data/tracks/test/small" / FRAME_MASKS, known)
    pictures = np.stack([clip.frames[-1] for clip in clips])[:, None, None]
    part = kept_arrays(pictures, np.zeros((3, 1, CHANNELS, HEIGHT // 4, WIDTH // 4)), "all")
    write_predictions(folder / "data/predictions/small", [f"c{n}" for n in range(3)], [FRAMES], 1, [part])
    (folder / "data/masks/small").mkdir(parents=True)
    np.save(folder / "data/masks/small/prediction.npy", np.stack([true[-1] for true in masks]))
    np.save(folder / "data/masks/small/known.npy", known)
    return folder


def rows_of(table: Path) -> list[dict[str, str]]:
    """Rows of a table by its heads."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.read_text().splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_every_rival_is_trained_and_scored_beside_the_copy(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((project / "params.yaml").read_text())
    monkeypatch.setattr(tracks, "load_segmenter", lambda folder: RedSegmenter())
    kinds = ["vdp", "simvp_masks", "simvp_frames", "unet3d", "mcvd"]
    rivals.main(
        ["--rival", *kinds, "--tflop", "0.0006", "--clips", "2", "--width", "8", "--batch-size", "2"]
        + ["--data", str(project / "data"), "--table", "table.md"]
    )
    rows = rows_of(tmp_path / "table.md")
    assert [row["rival"] for row in rows] == ["vdp", "simvp_masks", *kinds[1:]]
    assert [row["known masks"] for row in rows[:3]] == ["segmented", "tracked", "true"]
    assert (rows[0]["Jaccard"], rows[0]["PSNR, dB"], rows[0]["TFLOP"]) == ("1.0000", "100.00", "-")
    assert len({row["copy, Jaccard"] for row in rows}) == 1, "all known masks are right"
    assert {row["clips"] for row in rows} == {"2"}
    for row in rows[1:]:
        assert 0 < float(row["TFLOP"]) <= 0.0006 and int(row["steps"]) >= 1
        assert 0 < float(row["Jaccard"]) <= 1
    assert [row["PSNR, dB"] == "-" for row in rows] == [False, True, True, False, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rival", "mcvd"], "--tflop: expected the TFLOP of each training"),
        (["--rival", "vdp", "--clips", "0"], "--clips=0: expected >= 1"),
        (["--rival", "mcvd", "--tflop", "1", "--width", "12"], "--width=12: expected a multiple of 8"),
        (["--rival", "vdp", "--test-set", "none"], "no test set 'none'; expected one of small"),
    ],
)
def test_wrong_options_are_one_line(project, options, message, monkeypatch, capsys):
    monkeypatch.chdir(project)
    with pytest.raises(SystemExit):
        rivals.main(options)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
