"""`vdp.parts`: a model built and trained part by part, with parts of the user's own."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.optim import LBFGS
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

import vdp
from tests.small_models import DIT, MOVER, UNET, VAE_SECTION, save_small_models
from vdp import parts
from vdp.api.datasets import as_batches, store_clips
from vdp.api.model import Model
from vdp.api.params import SECTIONS
from vdp.config.schema import Params
from vdp.core.errors import UserError
from vdp.evaluation.frame import frame_score

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
FAST = vdp.Sampling(steps=2)
ENGINE = parts.params(parts.EngineParams, {"precision": 32})
SIZE = 16
HOPS = {"steps": 3, "batch_size": 4, "log_every": 1, "validate_every": 3, "context_frames": 2, "max_span": 3}


class Squares(Dataset[np.ndarray]):
    """Clips of a square that moves right."""

    def __init__(self, count: int = 8, frames: int = 7) -> None:
        self.count, self.frames = count, frames

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> np.ndarray:
        if number >= self.count:
            raise IndexError(number)  # so that a loop over the clips ends
        x, y = np.random.default_rng(number).integers(0, (SIZE - 4 - self.frames, SIZE - 4))
        clip = np.full((self.frames, SIZE, SIZE, 3), 30, np.uint8)
        for time, frame in enumerate(clip):
            frame[y : y + 4, x + time : x + time + 4] = (220, 90, 50)
        return clip


class OwnDenoiser(parts.Unmoved, nn.Module):
    """A network outside of vdp that keeps the protocol: a few convolutions on the nearest context frame."""

    joint = False

    def __init__(self, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2 * channels + 2, width, 5, padding=2),
            nn.SiLU(),
            nn.Conv2d(width, channels, 5, padding=2),
        )

    def context(
        self, frames: Tensor, index: Tensor, level: Tensor, dropped: Tensor, target_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        apart = target_index[:, :, None] - index[:, None, :]  # (B, N, K)
        nearest = apart.abs().argmin(dim=2)
        rows = torch.arange(len(frames))[:, None]
        return frames[rows, :, nearest].transpose(1, 2), apart.gather(2, nearest[:, :, None])[:, :, 0]

    def forward(self, xt: Tensor, t: Tensor, context: tuple[Tensor, Tensor]) -> Tensor:
        draws = xt.shape[2] // context[0].shape[2]
        nearest, offset = context[0].repeat_interleave(draws, 2), context[1].repeat_interleave(draws, 1)
        planes = torch.stack([t, offset], dim=1)[..., None, None].expand(-1, -1, -1, *xt.shape[3:])
        stacked = torch.cat([xt, nearest, planes], dim=1).transpose(1, 2)
        return self.layers(stacked.flatten(0, 1)).unflatten(0, stacked.shape[:2]).transpose(1, 2).float()


def train(
    denoiser: nn.Module,
    codec: nn.Module | None = None,
    clips: object = None,
    trainer: parts.Trainer | None = None,
    **training: object,
) -> Model:
    chosen = parts.params(parts.TrainDenoiserParams, HOPS | training)
    clips = Squares() if clips is None else clips
    return parts.train_denoiser(codec or parts.build_codec(), denoiser, clips, clips, None, chosen, trainer)


def small_unet(channels: int = 3, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    return parts.build_denoiser(parts.params(parts.UNetParams, UNET | changes), channels)


# --- The example -----------------------------------------------------------------------------------------


def test_the_example_learns_to_predict_and_its_models_are_loaded_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = REPO / "docs/examples/parts.py"
    lines = [line for line in example.read_text().splitlines() if line]
    assert len(lines) <= 30
    ran = runpy.run_path(str(example))
    losses = [loss for _, loss in ran["curve"]["loss"]]
    assert losses[-1] < 0.5 * losses[0]
    clip, future, model = ran["clips"][1], ran["future"], ran["model"]
    assert future.shape == (1, 3, 16, 16, 3)
    copy = np.repeat(clip[4:5], 3, axis=0)
    predicted, copied = (frame_score([(frames, clip[5:])]).psnr for frames in (future[0], copy))
    assert predicted > copied + 5
    again = vdp.load("squares", model.diffusion.device)
    assert np.array_equal(again.predict(clip[:5], 3, 1, FAST), model.predict(clip[:5], 3, 1, FAST))


# --- Own parts -------------------------------------------------------------------------------------------


def test_an_own_network_is_trained_and_predicts_but_is_not_saved(tmp_path):
    torch.manual_seed(0)
    denoiser = OwnDenoiser()
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=5e-3)
    curve = parts.Curve()
    trainer = parts.Trainer(optimizer, StepLR(optimizer, 20, 0.5), curve, ENGINE)
    model = train(denoiser, trainer=trainer, steps=40, batch_size=8, log_every=10, ema_decay=0.9)
    losses = [loss for _, loss in curve["loss"]]
    assert losses[-1] < 0.6 * losses[0]
    assert [rate for _, rate in curve["learning_rate"]] == [5e-3, 5e-3, 2.5e-3, 2.5e-3]
    assert model.predict(Squares()[0][:4], 2, 2, FAST).shape == (2, 2, SIZE, SIZE, 3)
    assert (model.info()["denoiser"], model.info()["base"]) == ("OwnDenoiser", "nearest")
    with pytest.raises(UserError, match="OwnDenoiser: expected a network of build_codec and build_denoiser"):
        parts.save_models(model, tmp_path / "own")
    assert not (tmp_path / "own").exists()


class HalfCodec(nn.Module):
    """A codec outside of vdp: every second pixel."""

    factor, temporal_factor, channels, has_masks = 2, 1, 3, False

    def encode(self, clip: Tensor) -> Tensor:
        return clip[..., ::2, ::2].float()

    def decode(self, latents: Tensor) -> Tensor:
        return latents.repeat_interleave(2, -1).repeat_interleave(2, -2).clamp(-1, 1)

    def mask_logits(self, latents: Tensor) -> Tensor:
        raise ValueError("no masks")

    def decode_with_masks(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("no masks")


def test_an_own_codec_is_used_as_it_is():
    model = train(small_unet(), HalfCodec())
    clip = np.repeat(np.repeat(Squares()[0][:, ::2, ::2], 2, 1), 2, 2)
    assert np.array_equal(model.round_trip(clip), clip)
    assert model.diffusion.encode(clip).shape == (3, 7, SIZE // 2, SIZE // 2)
    assert model.predict(clip[:4], 2, 1, FAST).shape == (1, 2, SIZE, SIZE, 3)


@pytest.mark.parametrize(
    ("which", "codec", "denoiser"),
    [
        (
            "denoiser: Linear does not keep the protocol vdp.parts.Denoiser",
            parts.build_codec(),
            nn.Linear(1, 1),
        ),
        ("codec: Linear does not keep the protocol vdp.parts.Codec", nn.Linear(1, 1), OwnDenoiser()),
    ],
)
def test_a_network_without_the_protocol_is_refused(which, codec, denoiser):
    with pytest.raises(UserError, match=which):
        train(denoiser, codec)


def test_a_dit_with_a_mover_on_the_latents_of_a_vae_is_saved_as_it_is(tmp_path):
    torch.manual_seed(0)
    vae = parts.build_codec(parts.params(parts.VAEParams, VAE_SECTION | {"spatial_factor": 2}))
    curve, steps = parts.Curve(), {"steps": 12, "batch_size": 4, "log_every": 4, "warmup_steps": 1}
    pretraining = parts.params(parts.PretrainVAEParams, steps)
    codec = parts.pretrain_vae(vae, Squares(), Squares(4), pretraining, parts.Trainer(logger=curve))
    losses = [loss for _, loss in curve["loss"]]
    assert losses[-1] < losses[0] and not codec.training
    dit, mover = parts.params(parts.DiTParams, DIT), parts.params(parts.MoverParams, MOVER)
    model = train(parts.build_denoiser(dit, codec.channels, mover), codec)
    assert (model.info()["denoiser"], model.info()["base"]) == ("dit", "moved")
    parts.save_models(model, tmp_path / "models")
    again, clip = vdp.load(tmp_path / "models", model.diffusion.device), Squares()[0]
    assert again.info() | {"folder": ""} == model.info() | {"folder": ""}
    assert np.array_equal(again.predict(clip[:4], 2, 1, FAST), model.predict(clip[:4], 2, 1, FAST))
    with pytest.raises(UserError, match="models: already exists"):
        parts.save_models(model, tmp_path / "models")


def test_a_codec_that_compresses_time_and_all_tasks():
    torch.manual_seed(0)
    section = VAE_SECTION | {"temporal_factor": 2, "spatial_factor": 2}
    codec = parts.build_codec(parts.params(parts.VAEParams, section), has_masks=True)
    clips = [
        {"frames": clip, "masks": clip[..., 0] // 100, "conditions": clip // 2} for clip in Squares(4, 9)
    ]
    steps = parts.params(parts.PretrainVAEParams, {"steps": 2, "batch_size": 2})
    codec = parts.pretrain_vae(codec, clips, clips, steps)
    shares = {"interpolate": 1.0, "generate": 1.0, "restore": 1.0}
    model = train(small_unet(codec.channels), codec, clips, tasks=shares, max_hops=1)
    clip = clips[0]["frames"]
    assert model.tasks == ("predict", "interpolate", "generate", "restore")
    assert model.predict(clip[:5], 4, 1, FAST).shape[1] == 4
    assert model.restore(clip, FAST).shape == clip.shape


# --- The trainer -----------------------------------------------------------------------------------------


def line_loss(network: nn.Module, batch: Tensor, rng: parts.BatchRng) -> dict[str, Tensor]:
    return {"loss": (network(batch[:, :3]) - batch[:, 3:]).square().mean()}


def line(count: int = 24) -> Tensor:
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return torch.cat([points, points @ torch.tensor([[2.0], [-1.0], [0.5]]) + 0.25], dim=1)


def fit_line(trainer: parts.Trainer, network: nn.Module, data: object, val: object = None, **changes: object):
    training = {"steps": 30, "batch_size": 8, "grad_clip": 1e6, "log_every": 1, "validate_every": 10}
    chosen = parts.params(parts.TrainDenoiserParams, training | changes)
    return trainer.fit(network, line_loss, data, data if val is None else val, chosen)


def test_own_optimizer_and_scheduler_train_as_in_a_plain_loop():
    torch.manual_seed(0)
    networks = [nn.Linear(3, 1) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.5) for network in networks]
    schedulers = [OneCycleLR(optimizer, 0.05, total_steps=30) for optimizer in optimizers]
    batches = DataLoader(line(), 8)
    rates = []
    for step in range(30):
        loss = line_loss(networks[0], line().split(8)[step % 3], None)["loss"]
        optimizers[0].zero_grad()
        loss.backward()
        rates.append(optimizers[0].param_groups[0]["lr"])
        optimizers[0].step()
        schedulers[0].step()
    curve = parts.Curve()
    trainer = parts.Trainer(optimizers[1], schedulers[1], curve, ENGINE)
    averaged = fit_line(trainer, networks[1], batches)
    torch.testing.assert_close(networks[1].state_dict(), networks[0].state_dict())
    assert [rate for _, rate in curve["learning_rate"]] == pytest.approx(rates)
    assert not torch.equal(averaged.weight, networks[1].weight)  # a moving average
    assert curve["val_loss"][-1][1] < 0.5 * curve["val_loss"][0][1]


def test_a_plateau_lowers_the_learning_rate_after_validations():
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)  # nothing is learnt
    curve = parts.Curve()
    plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.1)
    fit_line(parts.Trainer(optimizer, plateau, curve, ENGINE), network, DataLoader(line(), 8))
    rates = [rate for _, rate in curve["learning_rate"]]
    assert (rates[9], rates[19], rates[29]) == pytest.approx((1e-6, 1e-6, 0.5e-6))


class Points(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(line())


@pytest.mark.parametrize(
    "data", [line(), [*line().numpy()], DataLoader(line(), 8, shuffle=True), DataLoader(Points(), 8)]
)
def test_the_trainer_takes_data_sets_of_samples_and_iterables_of_batches(data):
    torch.manual_seed(0)
    network, curve = nn.Linear(3, 1), parts.Curve()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2)
    fit_line(parts.Trainer(optimizer, logger=curve, engine=ENGINE), network, data)
    losses = [loss for _, loss in curve["loss"]]
    assert len(losses) == 30 and losses[-1] < 0.01 * losses[0]


def test_an_epoch_of_a_data_set_has_every_sample_once():
    batches = as_batches(torch.arange(12)[:, None], 4, 0, "train")
    rng = np.random.default_rng(0)
    epochs = [
        torch.cat([batches(step, rng, range(4)) for step in range(first, first + 3)]) for first in (0, 3)
    ]
    assert [sorted(epoch[:, 0].tolist()) for epoch in epochs] == [list(range(12))] * 2
    assert not torch.equal(*epochs)
    assert torch.equal(batches(1, rng, range(2, 4)), batches(1, rng, range(4))[2:])
    assert batches.names(1) == [f"train[{item}]" for item in batches(1, rng, range(4))[:, 0]]


def test_a_step_of_an_iterable_is_one_batch_and_the_order_is_its_own():
    batches = as_batches(DataLoader(torch.arange(6)[:, None], 2), 99, 0, "train")
    rng = np.random.default_rng(0)
    assert batches.batch_size == 2  # not that of the params
    assert batches(100, rng, range(2))[:, 0].tolist() == [0, 1]  # the count of its arithmetic reads no batch
    read = [batches(step, rng, range(2))[:, 0].tolist() for step in (0, 1, 1, 2, 3)]
    assert read == [[0, 1], [2, 3], [2, 3], [4, 5], [0, 1]]
    assert batches(3, rng, range(1, 2)).tolist() == [[1]]


def test_the_order_of_a_loader_depends_on_the_seed_alone():
    def order(seed: int) -> list[float]:
        batches = as_batches(DataLoader(torch.arange(6.0)[:, None], 2, shuffle=True), 99, seed, "train")
        read = torch.cat([batches(step, np.random.default_rng(0), range(2)) for step in range(6)])
        assert sorted(read[:6, 0].tolist()) == sorted(read[6:, 0].tolist()) == list(range(6))
        return read[:, 0].tolist()

    torch.manual_seed(1)
    before, state = order(5), torch.get_rng_state()
    assert torch.equal(state, torch.Generator().manual_seed(1).get_state())
    torch.manual_seed(2)
    assert order(5) == before != order(6)
    assert before[:6] != before[6:]


def test_a_generator_of_a_batch_for_each_step_is_enough():
    """The arithmetic of a training of 200 steps is counted at two of them."""
    curve = parts.Curve()
    fit_line(
        parts.Trainer(logger=curve, engine=ENGINE), nn.Linear(3, 1), iter([line(8)] * 200), line(), steps=200
    )
    assert len(curve["loss"]) == 200


def test_weights_that_the_optimizer_lacks_are_frozen():
    """Their gradients would add up from step to step, and clip those of the others away."""
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 1)) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    optimizers = [torch.optim.SGD(network[1].parameters(), lr=0.05) for network in networks]
    for step in range(30):
        optimizers[0].zero_grad()
        line_loss(networks[0], line().split(8)[step % 3], None)["loss"].backward()
        nn.utils.clip_grad_norm_(networks[0][1].parameters(), 0.5)
        optimizers[0].step()
    trainer = parts.Trainer(optimizers[1], engine=ENGINE)
    averaged = fit_line(trainer, networks[1], DataLoader(line(), 8), grad_clip=0.5)
    torch.testing.assert_close(networks[1].state_dict(), networks[0].state_dict())
    assert all(weight.requires_grad for network in (averaged, networks[1]) for weight in network.parameters())


@pytest.mark.parametrize(
    ("epochs", "data", "steps"),
    [
        (2.0, line(), 6),
        (2.0, DataLoader(line(), 6), 8),
        (0.5, line(), 2),
    ],
)
def test_epochs_are_passes_over_the_data(epochs, data, steps):
    curve, network = parts.Curve(), nn.Linear(3, 1)
    fit_line(parts.Trainer(logger=curve, engine=ENGINE), network, data, steps=None, epochs=epochs)
    assert len(curve["loss"]) == steps


def run_with(data: object, **changes: object) -> object:
    return fit_line(parts.Trainer(engine=ENGINE), nn.Linear(3, 1), data, line(), **changes)


OTHER = nn.Linear(3, 1)
LISTS = DataLoader(TensorDataset(line()), 8)  # batches of one tensor each, in a list
SGD = torch.optim.SGD(OTHER.parameters(), lr=0.1)
REFUSED = {
    "scheduler: expected one of the optimizer": lambda: parts.Trainer(scheduler=StepLR(SGD, 1)),
    "optimizer=LBFGS: expected one without a closure": lambda: parts.Trainer(LBFGS(OTHER.parameters())),
    "optimizer: has weights that are not of this Linear": lambda: fit_line(
        parts.Trainer(SGD, engine=ENGINE), nn.Linear(3, 1), line()
    ),
    "train: a batch of 4 samples: expected 5.*drop_last=True": lambda: run_with(DataLoader(line(), 5)),
    "train: there are no more batches": lambda: run_with(iter([line(8)])),
    r"num_workers=1: expected 0 with an iterable": lambda: run_with(DataLoader(line(), 8), num_workers=1),
    r"epochs=1.0: expected data with a length": lambda: run_with(iter([line(8)]), steps=None, epochs=1.0),
    r"train\[\d+\]: expected a tensor or an array, got tuple": lambda: run_with(TensorDataset(line())),
    "train: expected tensors, one for each batch, got list": lambda: run_with(LISTS),
    "train: expected a Dataset with a length, or an iterable of batches, got int": lambda: run_with(7),
    "train: expected at least one item": lambda: run_with([]),
    "train: expected one Dataset, or an iterable, got a mapping of a": lambda: run_with({"a": line()}),
    "train: expected all samples in every process.*leave the sampler out": lambda: run_with(
        DataLoader(line(), 8, sampler=DistributedSampler(line(), 2, 0))
    ),
    r"epochs=2.0: expected data with a length": lambda: run_with(
        DataLoader(Points(), 8), steps=None, epochs=2.0
    ),
    "seed=-1: expected an integer 0..": lambda: parts.Trainer(seed=-1),
    "scheduler: 10 steps are left of OneCycleLR, expected 30": lambda: parts.Trainer(
        SGD, OneCycleLR(SGD, 0.1, total_steps=10), engine=ENGINE
    ).fit(OTHER, line_loss, line(), line(), parts.params(parts.TrainDenoiserParams, {"steps": 30})),
    "engine.strategy=fsdp: expected ddp with an optimizer of your own": lambda: parts.Trainer(
        SGD, engine=parts.params(parts.EngineParams, {"strategy": "fsdp", "devices": 2})
    ).fit(OTHER, line_loss, line(), line()),
    "init_from=models: expected null in vdp.parts; load the weights": lambda: run_with(
        line(), init_from="models"
    ),
    "keep_every=10: expected null in vdp.parts": lambda: run_with(line(), keep_every=10),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_together_is_refused(message):
    with pytest.raises(UserError, match=message):
        REFUSED[message]()


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda loss: loss, r"got Tensor \(\)"),
        (lambda loss: {"mse": loss}, r"got {'mse': 'Tensor \(\)'}"),
        (lambda loss: {"loss": loss[None]}, r"got {'loss': 'Tensor \(1,\)'}"),
        (lambda loss: {"loss": loss, "rate": 0.5}, r"got {'loss': 'Tensor \(\)', 'rate': 'float'}"),
    ],
)
def test_a_loss_that_is_no_named_scalars_is_refused(loss, got):
    with pytest.raises(UserError, match=f"loss: expected named scalar tensors, with one named 'loss', {got}"):
        parts.Trainer(engine=ENGINE).fit(
            nn.Linear(3, 1), lambda *of: loss(line_loss(*of)["loss"]), line(), line()
        )


TWO_PROCESSES = """
import sys
import numpy as np, torch
from torch import nn
from torch.utils.data import DataLoader
import vdp
from tests.api.test_parts import OwnDenoiser, line, line_loss, small_unet, train
from vdp import parts

folder, seen = sys.argv[1], []
engine = parts.params(parts.EngineParams, {"precision": 32, "devices": 2})


def loss(network, batch, rng):
    seen.extend(batch[:, 0].tolist() if network.training else [])
    return line_loss(network, batch, rng)


steps = parts.params(parts.TrainDenoiserParams, {"steps": 6, "batch_size": 8})
trainer = parts.Trainer(engine=engine)
trainer.fit(nn.Linear(3, 1), loss, DataLoader(line(), 8, shuffle=True), line(), steps)
rank = torch.distributed.get_rank()
np.save(f"{folder}/seen_{rank}.npy", seen[4:])  # the first ones count the arithmetic
model = train(small_unet(), trainer=trainer)
parts.save_models(model, f"{folder}/models")
torch.distributed.barrier()
clip = np.zeros((4, 16, 16, 3), np.uint8)
sampling = vdp.Sampling(steps=2)
again = vdp.load(f"{folder}/models", model.diffusion.device)
frames = [each.predict(clip, 2, 1, sampling) for each in (model, again)]
assert np.array_equal(*frames)
"""


def test_two_processes_divide_a_shuffled_loader_and_save_one_folder(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        stderr=subprocess.PIPE, text=True, timeout=300, env=os.environ | {"PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    halves = [np.load(tmp_path / f"seen_{rank}.npy") for rank in (0, 1)]
    for epoch in (slice(12), slice(12, 24)):
        both = np.concatenate([half[epoch] for half in halves])
        assert sorted(both) == sorted(line()[:, 0].tolist())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "models",
        "script.py",
        "seen_0.npy",
        "seen_1.npy",
    ]


def test_the_networks_are_moved_to_the_device_of_the_process(monkeypatch):
    """Launching selects the GPU of a process: what is moved before would be on the first one."""
    events = []
    launch = parts.Trainer.launch
    monkeypatch.setattr(parts.Trainer, "launch", lambda self: events.append("launch") or launch(self))
    denoiser = OwnDenoiser()
    monkeypatch.setattr(denoiser, "to", lambda *_: events.append("to") or denoiser)
    train(denoiser, trainer=parts.Trainer(engine=ENGINE))
    assert events[:2] == ["launch", "to"]


# --- Clips and params ------------------------------------------------------------------------------------


def test_clips_come_from_data_sets_loaders_and_generators(tmp_path):
    squares = Squares(4)
    stores = [
        store_clips(clips, tmp_path / str(number), "train")
        for number, clips in enumerate(
            [squares, (squares[number] for number in range(4)), DataLoader(squares, 3)]
        )
    ]
    for store in stores:
        assert len(store) == 4
        assert all(np.array_equal(store.frames(number), squares[number]) for number in range(4))


INTEGERS = np.zeros((7, SIZE, SIZE, 3), int)
WRONG_CLIPS = {
    r"train\[1\].frames: expected uint8, or float in \[0, 1\].*got int64": lambda: [Squares()[0], INTEGERS],
    "train: expected at least one clip": lambda: [],
    "train: clips of 5 to 7 frames: expected one length": lambda: [Squares(1)[0], Squares(1)[0][:5]],
    "expected degraded frames in every clip for the task restore": lambda: Squares(),
    "train: expected a Dataset with a length": lambda: 7,
    "train: expected one Dataset, or an iterable, got a mapping of train": lambda: {"train": Squares()},
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG_CLIPS)
def test_clips_of_another_kind_are_refused(message):
    shares = {"restore": 1.0} if "restore" in message else {}
    with pytest.raises(UserError, match=message):
        train(OwnDenoiser(), clips=WRONG_CLIPS[message](), tasks=shares)


def test_frames_that_the_codec_does_not_divide_are_refused():
    clips = [clip[:, :15] for clip in Squares(2)]
    with pytest.raises(
        UserError, match="train: frames of 15x16: expected multiples of 2, the spatial factor"
    ):
        train(OwnDenoiser(), HalfCodec(), clips)


def test_what_a_vae_is_not_trained_on_is_refused():
    vae = parts.build_codec(parts.params(parts.VAEParams, VAE_SECTION | {"spatial_factor": 2}))
    with pytest.raises(UserError, match="val: frames of 15x16: expected multiples of 2, the spatial factor"):
        parts.pretrain_vae(vae, Squares(2), [clip[:, :15] for clip in Squares(2)])
    with pytest.raises(UserError, match="codec: expected a VAE of build_codec, got PixelCodec"):
        parts.pretrain_vae(parts.build_codec(), Squares(2), Squares(2))


@pytest.mark.parametrize(
    ("known", "shares", "message"),
    [
        (0, {}, "known=0: expected an integer 1..9, the frames of the clips"),
        (10, {}, "known=10: expected an integer 1..9"),
        (1.5, {}, "known=1.5: expected an integer 1..9"),
        (2, {"predict": 0.0, "generate": 1.0}, "known=2: expected 1 [+] a multiple of 4 with tasks.generate"),
    ],
)
def test_a_wrong_number_of_known_frames_is_refused(known, shares, message):
    codec = parts.build_codec(parts.params(parts.VAEParams, VAE_SECTION | {"temporal_factor": 4}))
    chosen = parts.params(parts.TrainDenoiserParams, HOPS | {"tasks": shares})
    clips, unet = Squares(2, 9), small_unet(codec.channels)
    with pytest.raises(UserError, match=message):
        parts.train_denoiser(codec, unet, clips, clips, training=chosen, known=known)


def test_only_a_folder_of_models_is_replaced(tmp_path):
    model = vdp.load(save_small_models(tmp_path / "small", segmenter=False))
    (tmp_path / "mine").mkdir()
    parts.save_models(model, tmp_path / "mine", force=True)
    parts.save_models(model, tmp_path / "mine", force=True)
    assert vdp.load(tmp_path / "mine").tasks == model.tasks
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/thesis.txt").touch()
    for folder in (tmp_path / "notes", tmp_path / "notes/thesis.txt"):
        with pytest.raises(UserError, match="expected a folder of models, which is replaced"):
            parts.save_models(model, folder, force=True)
    assert (tmp_path / "notes/thesis.txt").is_file()


def test_a_model_that_composes_frames_is_not_saved_without_its_motion_model(tmp_path):
    model = vdp.load(save_small_models(tmp_path / "small", base="composed"))
    with pytest.raises(UserError, match="diffusion.base=composed: expected a model of train_denoiser"):
        parts.save_models(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_another_base_than_that_of_the_denoiser_is_refused():
    diffusion = parts.params(parts.DiffusionParams, {"base": "optical_flow"})
    with pytest.raises(UserError, match="diffusion.base=optical_flow: expected auto or nearest"):
        parts.train_denoiser(parts.build_codec(), OwnDenoiser(), Squares(), Squares(), diffusion)


def test_a_mask_head_without_masks_is_refused():
    codec = parts.build_codec(parts.params(parts.VAEParams, VAE_SECTION), has_masks=True)
    with pytest.raises(UserError, match="has_masks=True: expected clips with masks"):
        parts.pretrain_vae(codec, Squares(2), Squares(2))


@pytest.mark.parametrize("schema", SECTIONS)
def test_params_are_those_of_the_project_but_for_the_changes(schema):
    values = yaml.safe_load((REPO / "params.yaml").read_text())
    for key in SECTIONS[schema].split("."):
        values = values[key]
    assert parts.params(schema) == schema.model_validate_json(json.dumps(values))


def test_changed_params_are_validated_by_name():
    unet = parts.params(parts.UNetParams, {"base_channels": 48})
    assert (unet.base_channels, unet.num_res_blocks) == (48, parts.params(parts.UNetParams).num_res_blocks)
    training = parts.params(parts.TrainDenoiserParams, {"tasks": {"generate": 0.5}})
    assert (training.tasks.predict, training.tasks.generate) == (1.0, 0.5)
    with pytest.raises(UserError, match=r"^denoiser\.unet\.base_chanels is not a known key; did you mean"):
        parts.params(parts.UNetParams, {"base_chanels": 48})
    with pytest.raises(UserError, match=r"^vae\.latent_channels=0: expected an integer 1\.\.64"):
        parts.params(parts.VAEParams, {"latent_channels": 0})
    steps = parts.params(parts.TrainDenoiserParams, {"steps": np.int64(7), "target_offsets": np.arange(1, 3)})
    assert (steps.steps, steps.target_offsets) == (7, [1, 2])
    with pytest.raises(UserError, match=r"train_denoiser: expected numbers, texts, lists .* \(got Tensor\)"):
        parts.params(parts.TrainDenoiserParams, {"steps": torch.tensor(7)})
    with pytest.raises(UserError, match="schema=Params: expected one of VAEParams, "):
        parts.params(Params)


def test_parts_are_loaded_with_the_first_use():
    assert vdp.parts is parts
