"""Tiny random checkpoints that the probe tests measure; written once, never changed."""

import pytest

from tests.fixtures.optimizer_states import write_state
from tests.fixtures.tiny_checkpoint import write_llama, write_yulan
from workbench.checkpoints import Checkpoint
from workbench.checkpoints.llama import fold_to_llama


@pytest.fixture(scope="session")
def yulan(tmp_path_factory):
    """With the state of an optimizer, so that every probe can measure it."""
    folder = write_yulan(tmp_path_factory.mktemp("yulan") / "checkpoint")
    write_state(folder)
    return Checkpoint.open(folder)


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return Checkpoint.open(write_llama(tmp_path_factory.mktemp("llama") / "checkpoint"))


@pytest.fixture(scope="session")
def folded(yulan, tmp_path_factory):
    """The YuLan checkpoint as the plain Llama that computes the same."""
    out = tmp_path_factory.mktemp("folded") / "checkpoint"
    fold_to_llama(yulan.folder, out)
    return Checkpoint.open(out)
