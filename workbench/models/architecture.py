"""The model that a config.json asks for, built by transformers without memory for its weights.

Nothing is downloaded and no code of a checkpoint runs: fields that could choose code or kernels are
dropped at every depth.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging

import workbench.models  # noqa: F401  registers yulanmini and miniyulan

_CODE_AND_KERNELS = ("auto_map", "_attn_implementation", "attn_implementation")


class ArchitectureError(ValueError):
    """A config.json that makes no model that can be worked with; the message says why."""

    def __init__(self, check: Literal["unknown-architecture", "broken-config"], said: str) -> None:
        super().__init__(said)
        self.check = check


class Architecture:
    """Made by :func:`architecture_of`; names are those of the model in transformers."""

    def __init__(self, model: Any) -> None:
        self.model = model
        """On the meta device: modules and shapes, no numbers."""
        self._state = model.state_dict()
        self.shapes: dict[str, tuple[int, ...]] = {
            n: tuple(t.shape) for n, t in self._state.items()
        }
        self.tied = bool(model.config.tie_word_embeddings)
        names = {id(module): name for name, module in model.named_modules()}
        self.embedding = f"{names.get(id(model.get_input_embeddings()))}.weight"
        self.head = f"{names.get(id(model.get_output_embeddings()))}.weight"
        transforms = get_model_conversion_mapping(model)
        self._renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
        self._converters = [t for t in transforms if isinstance(t, WeightConverter)]
        self._prefix = model.base_model_prefix
        # What transformers itself passes over; old files keep the rotary tables of every layer.
        passed_over = {*(model._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq"}
        self._ignored = re.compile("|".join(sorted(passed_over)))

    def name_of(self, stored: str) -> tuple[str, bool]:
        """What transformers makes of a stored tensor's name, and whether it reshapes the tensor."""
        name, converted = rename_source_key(
            stored, self._renamings, self._converters, self._prefix, self._state
        )
        # Scales are converted, but only from one form of a single number to the other.
        return name, converted is not None and not name.endswith("_alpha")

    def ignores(self, stored: str) -> bool:
        """Whether transformers takes no notice of such a tensor."""
        return self._ignored.search(stored) is not None


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The architecture of a config.json; equal configs share one. Raises ArchitectureError."""
    return _built(json.dumps(config, sort_keys=True))


def _safe(fields: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in fields.items() if field not in _CODE_AND_KERNELS}


@lru_cache(maxsize=64)
def _built(config_json: str) -> Architecture:
    config = json.loads(config_json, object_hook=_safe)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ArchitectureError(
            "unknown-architecture", f"transformers knows no architecture {model_type!r}"
        )
    config_class = AutoConfig.for_model(model_type).__class__
    if config_class not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ArchitectureError("unknown-architecture", f"{model_type} is no causal language model")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config_class.from_dict(config))
    except Exception as error:  # whatever the library says of a config that contradicts itself
        reason = (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
        raise ArchitectureError(
            "broken-config", f"config.json makes no model ({reason})"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    return Architecture(model.eval())
