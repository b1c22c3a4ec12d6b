"""The safetensors files of one checkpoint folder: which tensor is where, and are they whole."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from workbench.errors import CheckpointError

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from ``path``; ``what`` names the checkpoint in the error."""
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{what} has no {path.name}; pull the checkpoint again or name another folder."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{what}: {path.name} is not valid JSON ({error}); pull the checkpoint again."
        ) from error
    if not isinstance(parsed, dict):
        raise CheckpointError(
            f"{what}: {path.name} holds no JSON object; pull the checkpoint again."
        )
    return parsed


def open_shards(folder: Path, what: str) -> Mapping[str, Any]:
    """Tensor name -> open safetensors file that holds it, one file or shards with an index.

    Opening reads the headers and checks that each file is as long as its header says, so a
    truncated file is found here; no weight is read.
    """
    if (folder / INDEX).exists():
        weight_map = read_json(folder / INDEX, what).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{what}: {INDEX} has no weight_map; pull the checkpoint again.")
    else:
        weight_map = None
    names = [SINGLE] if weight_map is None else sorted(set(weight_map.values()))
    opened = {name: _open(folder / name, what) for name in names}
    if weight_map is None:
        return dict.fromkeys(opened[SINGLE].keys(), opened[SINGLE])
    held = {name: set(file.keys()) for name, file in opened.items()}
    for tensor, name in weight_map.items():
        if tensor not in held[name]:
            raise CheckpointError(
                f"{what}: {name} lacks the tensor {tensor} that {INDEX} promises; "
                "pull the checkpoint again."
            )
    return {tensor: opened[name] for tensor, name in weight_map.items()}


def _open(path: Path, what: str) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise CheckpointError(
            f"{what} lacks the weight file {path.name}; pull the checkpoint again."
        ) from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{what}: {path.name} is broken or truncated ({error}); pull the checkpoint again."
        ) from error


def sha256(path: Path) -> str:
    """The file's sha256 in hex.

    The Hugging Face cache names the blob of a large file by its sha256, which was checked when
    it was pulled: such a link is answered from the name alone.
    """
    # One link only: behind the blob there may be a shared store that names by another hash.
    if path.is_symlink() and _SHA256.fullmatch(path.readlink().name):
        return path.readlink().name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
