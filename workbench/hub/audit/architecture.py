"""The tensors that a config.json asks for, or why it asks for none that are known."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.hub.audit.facts import BOOKKEEPING, Fault

if TYPE_CHECKING:
    from workbench.models.architecture import Architecture


def architecture_of(config: Mapping[str, Any]) -> "Architecture | Fault":
    """The architecture of a config.json; the same one for configs that differ in bookkeeping."""
    from workbench.models import architecture

    kept = {field: value for field, value in config.items() if field not in BOOKKEEPING}
    try:
        return architecture.architecture_of(kept)
    except architecture.ArchitectureError as error:
        return Fault(error.check, str(error))
