"""A checkpoint's model and tokenizer in transformers, from a folder and without remote code."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from workbench.checkpoints.files import SAFETENSORS
from workbench.errors import CheckpointError
from workbench.text import first_line


def load_model(folder: Path, config: Mapping[str, Any], *, device: str, dtype: str) -> Any:
    """The model of this config in eval mode on ``device``, sdpa attention."""
    import transformers

    import workbench.models  # noqa: F401  registers yulanmini and miniyulan

    index = f"{SAFETENSORS}.index.json"
    config_class = transformers.AutoConfig.for_model(config["model_type"]).__class__
    own = config_class.from_dict(dict(config))
    if (folder / index).is_file():
        # Beside an index, transformers would prefer a single file, which no other probe reads.
        own.transformers_weights = index
    with _silent_transformers():
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            config=own,
            dtype=getattr(torch, dtype),
            attn_implementation="sdpa",
            local_files_only=True,
        )
    return model.to(device).eval()


def load_tokenizer(folder: Path, what: str) -> Any:
    """The folder's tokenizer; CheckpointError names the checkpoint ``what`` if there is none."""
    from transformers import AutoTokenizer

    import workbench.models  # noqa: F401  AutoTokenizer wants to know the model type

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises no other for a file it cannot read
        raise CheckpointError(
            f"{what} has no tokenizer that can be read ({first_line(error)}); pull the checkpoint "
            "again."
        ) from error


@contextmanager
def _silent_transformers() -> Iterator[None]:
    """No progress bar and no load report on the terminal."""
    from transformers.utils import logging

    level, bar_was_on = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar_was_on:
            logging.enable_progress_bar()
