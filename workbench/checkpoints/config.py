"""A checkpoint's config.json as it is in force, and the model that it describes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.checkpoints.quantisation import QUANTISATION_FIELDS
from workbench.checkpoints.roles import Layout, UnknownStructure, layout_of
from workbench.errors import CheckpointError

if TYPE_CHECKING:
    from workbench.models.architecture import Architecture


def understood(config: Mapping[str, Any], what: str) -> "tuple[Architecture, Layout]":
    """The model of a config.json and the roles in it, or one sentence that says why not."""
    from workbench.models.architecture import ArchitectureError, architecture_of

    try:
        architecture = architecture_of(config)
    except ArchitectureError as error:
        if error.check == "broken-config":
            raise CheckpointError(
                f"{what}: config.json cannot be used: {error}; pull the checkpoint again or "
                "correct the suite's overrides."
            ) from error
        raise _unreadable(config, error, what) from error
    try:
        return architecture, layout_of(architecture)
    except UnknownStructure as error:
        raise _unreadable(config, error, what) from error


def _unreadable(config: Mapping[str, Any], why: Exception, what: str) -> CheckpointError:
    return CheckpointError(
        f"{what}: config.json is of the architecture {config.get('model_type')!r}, which cannot be "
        f"read ({why}); choose a checkpoint of YuLan-Mini, Llama, GPT-NeoX, OLMo 2, or one that is "
        "built like them."
    )


def overridden(stored: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The config that is in force: overrides applied, what could choose code or kernels dropped."""
    dropped = ("auto_map", "_attn_implementation", "attn_implementation", "transformers_weights")
    config = {key: value for key, value in stored.items() if key not in dropped}
    config |= overrides
    if "rope_theta" in overrides and isinstance(config.get("rope_parameters"), dict):
        # transformers 5 writes theta in here and would let it win over the field of old.
        theta = overrides["rope_theta"]
        config["rope_parameters"] = {**config["rope_parameters"], "rope_theta": theta}
    for field in QUANTISATION_FIELDS:
        if not config.get(field):  # transformers takes an empty one for a quantisation
            config.pop(field, None)
    return config
