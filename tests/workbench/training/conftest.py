"""Runs of the tiny recipe."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tests.workbench.training.tiny_run import DOCUMENTS, FIELDS, SHARES, VOCABULARY, Stopped
from workbench.training.corpus import train_tokenizer
from workbench.training.publish import Publisher
from workbench.training.recipe import Recipe
from workbench.training.trainer import train


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    texts = [text for found in DOCUMENTS.values() for text in found]
    return train_tokenizer(texts, VOCABULARY)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe.model_validate(FIELDS)


@pytest.fixture(scope="session")
def run_recipe(recipe, tokenizer):
    """Train and publish into a folder; ``stop_after_step`` breaks it off there."""
    torch.set_num_threads(1)

    def run(folder: Path, seed: int = 0, stop_after_step: int | None = None) -> Publisher:
        publisher = Publisher(recipe, tokenizer, folder / "hub", "tiny")

        def on_step(done: int, total: int) -> None:
            assert total == recipe.steps
            if done == stop_after_step:
                raise Stopped

        train(recipe, tokenizer, DOCUMENTS, SHARES, folder / "run", seed=seed, suite="tiny",
              on_phase_end=publisher.publish, on_step=on_step)  # fmt: skip
        return publisher

    return run


@pytest.fixture(scope="session")
def published(run_recipe, tmp_path_factory) -> Path:
    """A whole run: ``hub/`` with the repositories, ``run/`` with the log. Only read it."""
    folder = tmp_path_factory.mktemp("published")
    run_recipe(folder)
    return folder
