"""torch's distributed checkpoints: ``.metadata`` says which bytes of which file hold a tensor.

The metadata is a pickle; only the plain classes that describe a checkpoint are admitted. Names of
the state's items are those that ``torch.distributed.checkpoint.state_dict`` gives (also in its
flattened form), or the numbers of a plain optimizer's state dict.
"""

import io
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from workbench.checkpoints.optimizer.naming import Number, names_of
from workbench.checkpoints.optimizer.state import Hyperparameters, Parameters, ParameterState
from workbench.hub.shards import is_file_name
from workbench.text import printable

METADATA = ".metadata"
_AVERAGE = re.compile(r"(?P<root>(?:.+\.)?)state\.(?P<name>.+)\.exp_avg")
_DESCRIPTIONS = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
        "MetadataIndex", "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "collections": {"OrderedDict"},
}  # fmt: skip


def metadata_files(folder: Path) -> Iterator[Path]:
    """Of the folder and those in it, as FSDP and others write them; those with Adam's averages."""
    for path in (folder / METADATA, *sorted(folder.glob(f"*/{METADATA}"))):
        if path.is_file() and b".exp_avg" in path.read_bytes():
            yield path


class _Described(pickle.Unpickler):
    """Makes descriptions of a checkpoint and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("pathlib") and name.endswith("Path"):
            return PurePosixPath
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if name in _DESCRIPTIONS.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} describes no checkpoint")


class DistributedState:
    """See ``OptimizerState``."""

    layout = "distributed"

    def __init__(self, path: Path, parameters: Parameters) -> None:
        self._path = path
        self._parameters = parameters
        try:
            described = _Described(io.BytesIO(path.read_bytes())).load()
            self._items: dict[str, Any] = dict(described.state_dict_metadata)
            self._stored = dict(described.storage_data)
        except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError) as error:
            raise parameters.wrong(
                path, f"is no metadata of a distributed checkpoint ({error})"
            ) from None
        found = [match for key in self._items if (match := _AVERAGE.fullmatch(key))]
        groups = {root: self._groups(root) for root in {match["root"] for match in found}}
        names = self._names(found, groups)
        self._keys = {
            name: f"{match['root']}state.{match['name']}"
            for match, name in zip(found, names, strict=True)
        }
        self._said = {
            name: self._said_of(match, groups[match["root"]])
            for match, name in zip(found, names, strict=True)
        }
        self.names = parameters.check(self._keys, path)

    def _names(
        self, found: list[re.Match[str]], groups: Mapping[str, list[dict[str, Any]]]
    ) -> list[str]:
        if not all(match["name"].isdecimal() for match in found):
            return [self._parameters.clean(match["name"]) for match in found]
        roots = {match["root"] for match in found}
        if len(roots) > 1 or not groups[found[0]["root"]]:
            raise self._parameters.wrong(
                self._path,
                "numbers its parameters and does not say their groups",
                "save it with torch.distributed.checkpoint.state_dict, which names them",
            )
        shapes: dict[Number, tuple[int, ...]] = {
            int(match["name"]): tuple(self._items[match[0]].size) for match in found
        }
        names = names_of(groups[roots.pop()], shapes, self._parameters, self._path)
        return [names[int(match["name"])] for match in found]

    def _groups(self, root: str) -> list[dict[str, Any]]:
        """The numbered param_groups with the fields that matter here."""
        prefix = f"{root}param_groups"
        if prefix in self._items:
            return list(self._object(prefix))
        groups: dict[int, dict[str, Any]] = {}
        for key in self._items:
            place, _, field = key.removeprefix(f"{prefix}.").rpartition(".")
            wanted = field in ("params", "param_names", "lr", "betas", "eps")
            if key.startswith(f"{prefix}.") and place.isdecimal() and wanted:
                groups.setdefault(int(place), {})[field] = self._object(key)
        return [groups[number] for number in sorted(groups)]

    def _said_of(self, match: re.Match[str], groups: list[dict[str, Any]]) -> Hyperparameters:
        """From the parameter's group, or from its own fields in the flattened form."""
        name: Number = int(match["name"]) if match["name"].isdecimal() else match["name"]
        group = next((g for g in groups if name in g.get("params", ())), None)
        if group is None:
            prefix = f"{match['root']}param_groups.{match['name']}."
            fields = [f for f in ("lr", "betas", "eps") if prefix + f in self._items]
            group = {field: self._object(prefix + field) for field in fields}
        beta1, beta2 = group.get("betas") or (None, None)
        return Hyperparameters(*map(_number, (group.get("lr"), beta1, beta2, group.get("eps"))))

    def parameters(self) -> Iterator[ParameterState]:
        for name in self.names:
            key = self._keys[name]
            step = f"{key}.step"
            yield ParameterState(
                name,
                self._parameters.roles[name],
                exp_avg=self._shaped(name, f"{key}.exp_avg"),
                exp_avg_sq=self._shaped(name, f"{key}.exp_avg_sq"),
                step=_number(self._object(step)) if step in self._items else None,
                fp32=self._master(name),
                said=self._said[name],
            )

    def _master(self, name: str) -> torch.Tensor | None:
        """The model's weight in the same checkpoint, where it is kept in float32."""
        state_name = self._keys[name].rpartition("state.")[2]
        for key in (f"model.{state_name}", state_name, f"model.{name}", name):
            held: Any = self._items.get(key)
            if hasattr(held, "chunks") and held.properties.dtype == torch.float32:
                return self._shaped(name, key)
        return None

    def _shaped(self, name: str, key: str) -> torch.Tensor:
        if not hasattr(self._items.get(key), "chunks"):
            raise self._parameters.wrong(self._path, f"lacks the tensor {key}")
        return self._parameters.shaped(name, self._tensor(key), self._path)

    def _object(self, key: str) -> Any:
        """A tensor or a plain object, as saved."""
        if hasattr(self._items[key], "chunks"):
            return self._tensor(key)
        return self._load(key, None)

    def _tensor(self, key: str) -> torch.Tensor:
        """A tensor put together from the parts that the processes wrote."""
        item = self._items[key]
        whole = torch.empty(tuple(item.size), dtype=item.properties.dtype)
        covered = 0
        for chunk in item.chunks:
            part = self._load(key, chunk.offsets)
            where = tuple(
                slice(start, start + length)
                for start, length in zip(chunk.offsets, chunk.sizes, strict=True)
            )
            if not isinstance(part, torch.Tensor) or part.shape != chunk.sizes:
                raise self._parameters.wrong(self._path, f"describes {key} otherwise than it is")
            whole[where] = part
            covered += part.numel()
        if covered != whole.numel():
            raise self._parameters.wrong(self._path, f"describes {key} with a gap")
        return whole

    def _load(self, key: str, offset: torch.Size | None) -> Any:
        from torch.distributed.checkpoint.metadata import MetadataIndex

        stored = self._stored.get(MetadataIndex(key, offset))
        if stored is None:
            raise self._parameters.wrong(self._path, f"does not say where {key} is stored")
        part: Any = getattr(stored, "relative_path", None)
        if not is_file_name(part):
            raise self._parameters.wrong(
                self._path, f"names {printable(repr(part))}, which is no file of its own folder"
            )
        path = self._path.parent / part
        if getattr(stored, "transform_descriptors", None):
            raise self._parameters.wrong(
                path, "is compressed, which cannot be read here", "save it without transforms"
            )
        if not path.is_file():
            raise self._parameters.wrong(path, f"is missing, which holds {key}")
        with path.open("rb") as file:
            file.seek(stored.offset)
            content = file.read(stored.length)
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise self._parameters.wrong(
                path, f"is broken or truncated where {key} is stored ({reason})"
            ) from None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
