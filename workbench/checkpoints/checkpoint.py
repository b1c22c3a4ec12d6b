"""A checkpoint in the Hugging Face layout, in a folder or on the Hub, read a tensor at a time.

Two views of every weight. ``stored`` is the tensor as the file holds it. ``effective`` is the
tensor that the equivalent plain Llama would hold: YuLan-Mini multiplies its matrices by learnable
and fixed scales, and its authors rebalanced those between phases, so that only the product of
matrix and scales can be compared over phases. For every other architecture both are the same.

What a tensor is follows from how the model of config.json is built (``roles``). A matrix that holds
q, k and v, as GPT-NeoX has it, comes as three weights.

A tied head is no matrix of its own: the stored view lists it only where it differs from the
embedding, whether or not the file keeps a second copy. In the effective view it always appears,
because embedding and head are multiplied by different scales.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from workbench.checkpoints.config import overridden, understood
from workbench.checkpoints.files import CONFIG, Folder, Storage, read_json
from workbench.checkpoints.loading import load_model, load_tokenizer
from workbench.checkpoints.quantisation import (
    refuse_quantised_config,
    refuse_quantised_tensors,
)
from workbench.checkpoints.roles import Layout, Role, is_alpha, parts
from workbench.checkpoints.tensors import Tensors, open_tensors
from workbench.errors import CheckpointError

if TYPE_CHECKING:
    from workbench.checkpoints.optimizer import OptimizerState
    from workbench.hub.remote import RemoteSnapshot
    from workbench.models.architecture import Architecture

View = Literal["stored", "effective"]
Form = Literal["reparameterised", "merged", "plain"]

_REPARAMETERISED = ("yulanmini", "miniyulan")
_EMBED, _HEAD = "embed", "lm_head"


@dataclass(frozen=True)
class Weight:
    """One weight of a view; ``tensor`` is ``stored`` (as in the file) times ``scale``."""

    name: str
    """Of the tensor in the file, which may hold q, k and v together."""
    role: Role
    stored: torch.Tensor
    scale: float | None
    """None where nothing is multiplied: in the stored view, and for all but YuLan-Mini in both."""

    @property
    def module(self) -> str:
        """The canonical module, as in the column of that name."""
        return self.role.module

    @property
    def layer(self) -> int | None:
        """None outside the layers."""
        return self.role.layer

    @property
    def heads(self) -> int | None:
        """How many attention heads share a q, k, v (rows) or o (columns) matrix, else None."""
        return self.role.heads if self.is_matrix else None

    @property
    def is_matrix(self) -> bool:
        """A linear map or an embedding; not a norm or a bias, of whatever shape."""
        return self.role.is_matrix

    @property
    def tensor(self) -> torch.Tensor:
        """The weight in its view: the file's dtype as stored, at least float32 once scaled."""
        return scaled(self.stored, self.scale)


def scaled(values: torch.Tensor, scale: float | None) -> torch.Tensor:
    """``values`` times the scale in float32, or in their own dtype if that is wider."""
    if scale is None:
        return values
    return values.to(torch.promote_types(values.dtype, torch.float32)) * scale


class Checkpoint:
    """Made by :meth:`open` or :meth:`open_remote`; holds open files but no weights."""

    def __init__(
        self,
        storage: Storage,
        what: str,
        stored_config: dict[str, Any],
        config: dict[str, Any],
        tensors: Tensors,
        architecture: "Architecture",
        layout: Layout,
    ) -> None:
        self.stored_config = stored_config
        """config.json as it is."""
        self.config = config
        """config.json with the overrides applied."""
        self.folder = storage.path if isinstance(storage, Folder) else None
        """None for a checkpoint on the Hub."""
        self._remedy = storage.remedy
        self._what = what
        self._tensors = tensors
        self._layout = layout
        self._parameters = {
            name: architecture.name_of(name)[0]
            for name in sorted(tensors.shapes)
            if not architecture.ignores(name)
        }
        """The model's names by those of the file."""
        wanted = [held for held, name in self._parameters.items() if name in architecture.shapes]
        dtypes = {name: tensors.dtypes[name] for name in self._parameters}
        refuse_quantised_tensors(dtypes, wanted, what)
        self._check_tensors(architecture)
        self._alphas: dict[str, float] = {}
        by_module = {roles[0].module: name for name, roles in self.roles().items()}
        self._embed, self._head = by_module[_EMBED], by_module.get(_HEAD)
        # A config.json may leave it to transformers' default; who tokenises text has to know it.
        self.config.setdefault("vocab_size", tensors.shapes[self._embed][0])
        self._config_ties = architecture.tied
        self._tied: bool | None = None
        """None until embedding and head, where a tied model stores both, have been compared."""
        if not architecture.tied:
            self._tied = False
        elif self._head is None:
            self._tied = True

    @classmethod
    def open(
        cls, folder: Path, *, overrides: Mapping[str, Any] | None = None, label: str = ""
    ) -> "Checkpoint":
        """Open a folder with config.json and weights, one file or shards with an index.

        The weights are safetensors or, where there are none, ``pytorch_model.bin``. ``overrides``
        replace fields of the config; ``label`` names the checkpoint in errors. Raises
        CheckpointError, one sentence that names the file: missing or broken config, unsupported
        architecture, missing, truncated or incomplete weight files, tensors that do not fit config.
        """
        what = f"{label} ({folder})" if label else str(folder)
        return cls._open(Folder(folder), what, overrides or {})

    @classmethod
    def open_remote(
        cls,
        snapshot: "RemoteSnapshot",
        *,
        overrides: Mapping[str, Any] | None = None,
        label: str = "",
    ) -> "Checkpoint":
        """Open a checkpoint on the Hub: fetches config, index and headers, weights when asked for.

        Nothing is written to disk; model and tokenizer cannot be loaded. Raises CheckpointError as
        :meth:`open` does, and HubError where the Hub does not give what it lists.
        """
        what = f"{label} ({snapshot})" if label else str(snapshot)
        return cls._open(snapshot, what, overrides or {})

    @classmethod
    def _open(cls, storage: Storage, what: str, overrides: Mapping[str, Any]) -> "Checkpoint":
        stored = read_json(storage, CONFIG, what)
        config = overridden(stored, overrides)
        layers = config.get("num_hidden_layers", 0)
        if not isinstance(layers, int):
            raise CheckpointError(
                f"{what}: config.json does not say num_hidden_layers; {storage.remedy}."
            )
        refuse_quantised_config(config, what)
        architecture, layout = understood(config, what)
        tensors = open_tensors(storage, what)
        return cls(storage, what, stored, config, tensors, architecture, layout)

    def _check_tensors(self, architecture: "Architecture") -> None:
        """Is every tensor there that the model wants, in its shape, and no other?"""
        stored = {name: held for held, name in self._parameters.items()}
        head = architecture.head if architecture.tied else None
        missing = [n for n in architecture.shapes if n not in stored and n != head]
        surplus = [
            held
            for held, name in self._parameters.items()
            if name not in architecture.shapes and not self._is_unused_alpha(name)
        ]
        if missing or surplus:
            problem = f"lack the tensor {missing[0]}" if missing else f"hold {surplus[0]}"
            raise CheckpointError(
                f"{self._what}: the weights {problem}, which does not fit config.json "
                f"({len(missing)} missing, {len(surplus)} too many); {self._remedy} "
                "or choose another one."
            )
        for name, wanted in architecture.shapes.items():
            shape = self._tensors.shapes[stored[name]] if name in stored else wanted
            # A scale is stored with shape () or (1,), and both are right.
            if shape != wanted and not is_alpha(name):
                raise CheckpointError(
                    f"{self._what}: config.json asks for {name} in the shape {list(wanted)}, which "
                    f"the weights have in the shape {list(shape)}; {self._remedy} or correct the "
                    "suite's overrides."
                )

    def _is_unused_alpha(self, name: str) -> bool:
        """The scale of a norm, which a config can switch off."""
        return name.endswith("norm_alpha") and not self.config.get("use_norm_alpha", True)

    @property
    def form(self) -> Form:
        """``merged`` is YuLan-Mini folded into Llama, known by the biases a plain Llama lacks."""
        if self.config["model_type"] in _REPARAMETERISED:
            return "reparameterised"
        is_llama = self.config["model_type"] == "llama"
        return "merged" if is_llama and self.config.get("attention_bias") else "plain"

    @property
    def tied(self) -> bool:
        """Do embedding and head share one matrix? A differing second copy says no.

        That is also how transformers loads such a folder.
        """
        if self._tied is None:
            assert self._head is not None
            self._tied = _same(self.tensor(self._head), self.tensor(self._embed))
        return self._tied

    def warning(self) -> str | None:
        """What is contradictory in the checkpoint, as a clause; None where nothing is.

        Reads embedding and head if the config ties them, both are stored and neither was compared.
        """
        if not self._config_ties or self.tied:
            return None
        return (
            "config.json ties the head to the embedding, but the weights hold a head that differs "
            "from it: the two are measured as separate matrices, as transformers loads them, and "
            "readers that tie them compute another model"
        )

    def tensor_names(self) -> list[str]:
        """Every tensor in the files, scales included, sorted; no tables that can be recomputed."""
        return list(self._parameters)

    def stored_name(self, name: str) -> str:
        """What the files call a parameter of the model in transformers."""
        return next((held for held, own in self._parameters.items() if own == name), name)

    def roles(self) -> dict[str, tuple[Role, ...]]:
        """What every tensor is, scales apart; three roles for one that holds q, k and v."""
        weights = self._layout.weights
        return {held: weights[n] for held, n in self._parameters.items() if n in weights}

    def alpha_roles(self) -> dict[str, list[Role]]:
        """The modules that each learnable scale multiplies: two for that of gate and up."""
        alphas = self._layout.alphas
        return {held: alphas[n] for held, n in self._parameters.items() if n in alphas}

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as stored, read now."""
        (tensor,) = self._tensors.read([[name]])
        return tensor

    def alphas(self) -> dict[str, float]:
        """The learnable scales by tensor name; empty for all but YuLan-Mini."""
        names = list(self.alpha_roles())
        unread = [name for name in names if name not in self._alphas]
        for name, tensor in zip(unread, self._tensors.read([unread]), strict=True):
            self._alphas[name] = _number(tensor)
        return {name: self._alphas[name] for name in names}

    def weights(self, view: View) -> Iterator[Weight]:
        """Every weight of the view, layer by layer, one tensor in memory at a time."""
        return (weight for _, weight in self._walk((view,)))

    def both_views(self) -> Iterator[tuple[View, Weight]]:
        """Every weight of both views in the order of :meth:`weights`, each tensor read once.

        Of a checkpoint on the Hub this moves every byte once, the scales along with their layer.
        """
        return self._walk(("stored", "effective"))

    def _walk(self, views: tuple[View, ...]) -> Iterator[tuple[View, Weight]]:
        roles, order = self.roles(), list(self._layout.weights)
        if self._tied and self._head in roles:
            del roles[self._head]

        def layer_of(name: str) -> int:
            layer = roles[name][0].layer
            return len(roles) if layer is None else layer  # what is outside of them at the end

        names = sorted(roles, key=lambda n: (layer_of(n), order.index(self._parameters[n])))
        layers = {layer: list(held) for layer, held in groupby(names, key=layer_of)}
        alphas: dict[int, list[str]] = {layer: [] for layer in layers}
        if "effective" in views:
            for name, scaled_by in self.alpha_roles().items():
                if name not in self._alphas:
                    layer = scaled_by[0].layer
                    alphas[len(roles) if layer is None else layer].append(name)
        tensors = self._tensors.read([alphas[layer] + layers[layer] for layer in layers])
        embed = None  # held until the head comes, which may be the same matrix
        for layer, held in layers.items():
            self._alphas |= {name: _number(next(tensors)) for name in alphas[layer]}
            scales = self._scales() if "effective" in views else None
            for name in held:
                tensor = next(tensors)
                if name == self._embed and self._tied is not False:
                    embed = tensor
                if name == self._head and self._tied is None:
                    assert embed is not None  # the embedding comes before the head
                    self._tied = _same(tensor, embed)
                if name == self._head and self._tied:
                    continue
                yield from self._in_views(views, name, roles[name], tensor, scales)
        if self._tied and "effective" in views:
            assert embed is not None
            head = next(n for n, (role, *_) in self._layout.weights.items() if role.module == _HEAD)
            role = self._layout.weights[head]
            yield from self._in_views(("effective",), self._head or head, role, embed, scales)

    def _in_views(
        self,
        views: tuple[View, ...],
        name: str,
        roles: tuple[Role, ...],
        tensor: torch.Tensor,
        scales: dict[str, float] | None,
    ) -> Iterator[tuple[View, Weight]]:
        parameter = self._parameters.get(name, name)  # a tied head need not be in the files
        for role, part in zip(roles, parts(tensor, roles), strict=True):
            for view in views:
                scale = None if view == "stored" or scales is None else scales[parameter]
                yield view, Weight(name, role, part, scale)

    def _scales(self) -> dict[str, float] | None:
        """The factors of the effective view; NaN where they hang on a scale not yet read."""
        if self.form != "reparameterised":
            return None
        from workbench.models.fold import effective_scales

        alphas = dict.fromkeys(self._layout.alphas, float("nan"))
        alphas |= {self._parameters[held]: value for held, value in self._alphas.items()}
        return effective_scales(self.config, alphas)

    def load_model(self, *, device: str = "cpu", dtype: str = "float32") -> Any:
        """The transformers model in eval mode on ``device``, sdpa attention, no remote code."""
        return load_model(self._local_folder("model"), self.config, device=device, dtype=dtype)

    @property
    def what(self) -> str:
        """The checkpoint as errors name it."""
        return self._what

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor in the files by name, sorted."""
        return {name: self._tensors.shapes[name] for name in self.tensor_names()}

    def optimizer(self) -> "OptimizerState":
        """The optimizer's state beside the weights; see ``open_optimizer`` for the errors."""
        from workbench.checkpoints.optimizer import open_optimizer

        return open_optimizer(self)

    def load_tokenizer(self) -> Any:
        """The checkpoint's own tokenizer."""
        return load_tokenizer(self._local_folder("tokenizer"), self._what)

    def _local_folder(self, wanted: str) -> Path:
        if self.folder is None:
            raise CheckpointError(
                f"{self._what} is read from the Hub in ranges, and its {wanted} can be loaded from "
                "disk only; pull it first."
            )
        return self.folder


def _same(head: torch.Tensor, embed: torch.Tensor) -> bool:
    """Equal values or equal bytes: NaN differs from itself."""
    if head.dtype != embed.dtype or head.shape != embed.shape:
        return False
    as_bytes = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (head, embed))
    return torch.equal(head, embed) or torch.equal(*as_bytes)


def _number(scale: torch.Tensor) -> float:
    return float(scale.double().reshape(()))
