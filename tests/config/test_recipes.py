"""The recipes of the project match their head comments and their pages in docs/systems."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import JsonValue

from vdp.config.recipes import merged
from vdp.config.yaml_file import read_file
from vdp.models.denoisers.factory import build_denoiser
from vdp.models.denoisers.params import DenoiserParams

REPO = Path(__file__).parents[2]
PAGES = sorted((REPO / "docs" / "systems").glob("*.md"))
ROW = re.compile(r"^(.*) \| `([\w.]+)` \| `(.*)`$", re.MULTILINE)  # setting, key, value


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


def test_each_page_of_a_system_is_of_a_recipe_that_names_it():
    for page in PAGES:
        recipe = (REPO / "recipes" / f"{page.stem}.yaml").read_text()
        assert f"docs/systems/{page.name}" in recipe
        assert f"python -m vdp recipe {page.stem}\n" in page.read_text()
    named = [path.stem for path in (REPO / "recipes").glob("*.yaml") if "docs/systems/" in path.read_text()]
    assert sorted(named) == [page.stem for page in PAGES] and len(PAGES) == 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_keys_of_a_page_have_the_values_of_its_recipe(page):
    data = merged(read_file(REPO / "params.yaml"), read_file(REPO / "recipes" / f"{page.stem}.yaml"))
    table = page.read_text().partition("---|---|---\n")[2].partition("\n\n")[0]
    rows = ROW.findall(table)
    assert len(rows) == len(table.splitlines()) > 10  # each line is a row
    for _, key, text in rows:
        value: JsonValue = data
        for part in key.split("."):
            assert isinstance(value, dict) and part in value, key
            value = value[part]
        stated = yaml.safe_load(text)
        assert (type(stated), stated) == (type(value), value), f"{key}: {text}, in the recipe {value}"
