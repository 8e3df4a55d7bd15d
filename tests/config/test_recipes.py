"""The recipes of the project match their head comments."""

from pathlib import Path

import pytest
import torch

from vdp.config.recipes import merged
from vdp.config.yaml_file import read_file
from vdp.models.denoisers.factory import build_denoiser
from vdp.models.denoisers.params import DenoiserParams

REPO = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((REPO / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_starts_with_its_purpose(path):
    assert path.read_text().startswith("# ")


def test_full_has_a_denoiser_of_40_million_parameters_and_frames_of_160x240():
    data = merged(read_file(REPO / "params.yaml"), read_file(REPO / "recipes" / "full.yaml"))
    with torch.device("meta"):
        network = build_denoiser(
            DenoiserParams.model_validate(data["denoiser"]), data["vae"]["latent_channels"], moved=True
        )
    assert 35e6 < sum(parameter.numel() for parameter in network.parameters()) < 45e6
    for section in ("clip", "simulate"):
        assert (data[section]["height"], data[section]["width"]) == (160, 240)
    assert (data["simulate"]["train"], data["simulate"]["unlabeled"]) == (1000, 13000)


def test_the_batch_of_full_splits_evenly_over_eight_gpus_and_over_one_with_accumulate_16():
    train = read_file(REPO / "recipes" / "full.yaml")["train_denoiser"]
    assert train["batch_size"] % (8 * train["accumulate"]) == 0
    assert train["batch_size"] // (8 * train["accumulate"]) == train["batch_size"] // 16
