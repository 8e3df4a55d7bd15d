"""Stage pretrain_vae trains the codec's mask head where clips have masks."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from stages import pretrain_vae
from vdp.config.yaml_file import read_file
from vdp.core.rng import whole_batch
from vdp.data.stores.clips import Clip, write_clips
from vdp.models.codecs.factory import load_codec
from vdp.training.definition import TrainingResult
from vdp.training.seeds import step_rng

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]


class FakeFit:
    """Stands for `fit` and keeps its arguments."""

    def __call__(self, training, params, engine, seed, logger, fabric, checkpoints):
        self.training = training
        network = training.network.eval()
        return TrainingResult(network, {"best": network.state_dict()})


@pytest.fixture
def fit(tmp_path, monkeypatch) -> FakeFit:
    """The current folder has params; `fit` is a fake."""
    monkeypatch.chdir(tmp_path)
    data = read_file(REPO / "params.yaml")
    data["vae"] |= {"base_channels": 8, "latent_channels": 4, "num_res_blocks": 1}
    Path("params.yaml").write_text(yaml.safe_dump(data))
    Path("dvc.yaml").write_text((REPO / "dvc.yaml").read_text())
    fake = FakeFit()
    tracker = nullcontext(SimpleNamespace(is_main=True))
    monkeypatch.setattr(pretrain_vae, "track_stage", lambda name: tracker)
    monkeypatch.setattr(pretrain_vae, "fit", fake)
    return fake


def write_split(split: str, labelled: bool) -> None:
    masks = np.zeros((2, 16, 24), np.uint8)
    masks[:, 4:10, 4:10] = 7
    frames = np.repeat(30 * masks[..., None], 3, axis=3).astype(np.uint8)
    clips = [Clip(f"{split}{n}", frames, masks if labelled else None) for n in range(2)]
    write_clips(Path("data/clips") / split, clips, shard_mb=1)


@pytest.mark.parametrize("splits", [(), ("train",), ("unlabeled",), ("train", "val"), ("val",)])
def test_the_mask_head_is_trained_where_training_clips_have_masks(fit, splits):
    for split in ("train", "val", "unlabeled"):
        write_split(split, split in splits)
    pretrain_vae.main()
    trained = bool({"train", "unlabeled"} & set(splits))
    assert load_codec(pretrain_vae.CODEC).has_masks == trained
    training = fit.training
    assert set(training.val_batches.names(0)) == {"val0", "val1"}
    batch = training.batches(0, step_rng(0, 0), range(8))
    with torch.no_grad():
        losses = training.loss(training.network, batch, whole_batch(torch.Generator().manual_seed(0), 8))
    assert ("mask" in losses) == trained and torch.isfinite(losses["loss"])
