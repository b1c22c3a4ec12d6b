"""A checkpoint in the Hugging Face layout, in a folder or on the Hub, read a tensor at a time.

Two views of every weight. ``stored`` is the tensor as the file holds it. ``effective`` is the
tensor that the equivalent plain Llama would hold: YuLan-Mini multiplies its matrices by learnable
and fixed scales, and its authors rebalanced those between phases, so that only the product of
matrix and scales can be compared over phases.

A tied head is no matrix of its own: the stored view lists it only where it differs from the
embedding, whether or not the file keeps a second copy. In the effective view it always appears,
because embedding and head are multiplied by different scales.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from workbench.checkpoints.files import CONFIG, Folder, Storage, read_json
from workbench.checkpoints.roles import (
    Role,
    alpha_roles,
    is_alpha,
    reading_order,
    required_tensors,
    role,
)
from workbench.checkpoints.tensors import Tensors, open_tensors
from workbench.errors import CheckpointError

if TYPE_CHECKING:
    from workbench.checkpoints.optimizer import OptimizerState
    from workbench.hub.remote import RemoteSnapshot

View = Literal["stored", "effective"]
Form = Literal["reparameterised", "merged", "plain"]

_REPARAMETERISED = ("yulanmini", "miniyulan")
_EMBED = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Weight:
    """One weight of a view; ``tensor`` is ``stored`` (as in the file) times ``scale``."""

    name: str
    module: str
    layer: int | None
    stored: torch.Tensor
    scale: float | None
    """None where nothing is multiplied: in the stored view, and for a Llama in both."""

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
        self._alphas: dict[str, float] = {}
        self._tied: bool | None = None
        """None until embedding and head, where a tied model stores both, have been compared."""
        if not config.get("tie_word_embeddings", False):
            self._tied = False
        elif _HEAD not in tensors.shapes:
            self._tied = True

    @classmethod
    def open(
        cls, folder: Path, *, overrides: Mapping[str, Any] | None = None, label: str = ""
    ) -> "Checkpoint":
        """Open a folder with config.json and weights, one file or shards with an index.

        The weights are safetensors or, where there are none, ``pytorch_model.bin``. ``overrides``
        replace fields of the config; ``label`` names the checkpoint in errors. Raises
        CheckpointError, one sentence that names the file: missing or broken config, unsupported
        architecture, missing, truncated or incomplete weight files.
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
        config = _overridden(stored, overrides)
        model_type = config.get("model_type")
        if model_type not in (*_REPARAMETERISED, "llama"):
            raise CheckpointError(
                f"{what}: config.json is of the architecture {model_type!r}, and only yulanmini, "
                "miniyulan and llama can be read; choose another checkpoint."
            )
        if not isinstance(config.get("num_hidden_layers"), int):
            raise CheckpointError(
                f"{what}: config.json does not say num_hidden_layers; {storage.remedy}."
            )
        checkpoint = cls(storage, what, stored, config, open_tensors(storage, what))
        checkpoint._check_names()
        return checkpoint

    def _check_names(self) -> None:
        names, layers = self._tensors.shapes, self.config["num_hidden_layers"]
        expected = list(required_tensors(layers))
        if not self.config.get("tie_word_embeddings", False):
            expected.append(_HEAD)
        missing = [name for name in expected if name not in names]
        surplus = [name for name in sorted(names) if not _belongs(name, layers)]
        if missing or surplus:
            problem = f"lack the tensor {missing[0]}" if missing else f"hold {surplus[0]}"
            raise CheckpointError(
                f"{self._what}: the weights {problem}, which does not fit config.json "
                f"({len(missing)} missing, {len(surplus)} too many); {self._remedy} "
                "or choose another one."
            )

    @property
    def form(self) -> Form:
        """``merged`` is YuLan-Mini folded into Llama, known by the biases a plain Llama lacks."""
        if self.config["model_type"] in _REPARAMETERISED:
            return "reparameterised"
        return "merged" if self.config.get("attention_bias") else "plain"

    @property
    def tied(self) -> bool:
        """Do embedding and head share one matrix? A differing second copy says no.

        That is also how transformers loads such a folder.
        """
        if self._tied is None:
            self._tied = torch.equal(self.tensor(_HEAD), self.tensor(_EMBED))
        return self._tied

    def tensor_names(self) -> list[str]:
        """Every tensor in the files, scales included, sorted."""
        return sorted(self._tensors.shapes)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as stored, read now."""
        (tensor,) = self._tensors.read([[name]])
        return tensor

    def alphas(self) -> dict[str, float]:
        """The learnable scales by tensor name; empty for a Llama."""
        names = [name for name in self.tensor_names() if is_alpha(name)]
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
        names = [name for name in self.tensor_names() if not is_alpha(name)]
        if self._tied and _HEAD in names:
            names.remove(_HEAD)
        names.sort(key=reading_order)
        layers = {layer: list(held) for layer, held in groupby(names, key=_layer)}
        alphas: dict[int | None, list[str]] = {layer: [] for layer in layers}
        if "effective" in views:
            for name in self.tensor_names():
                if is_alpha(name) and name not in self._alphas:
                    alphas[alpha_roles(name)[0].layer].append(name)
        tensors = self._tensors.read([alphas[layer] + layers[layer] for layer in layers])
        embed = None  # held until the head comes, which may be the same matrix
        for layer, held in layers.items():
            self._alphas |= {name: _number(next(tensors)) for name in alphas[layer]}
            scales = self._scales() if "effective" in views else None
            for name in held:
                tensor = next(tensors)
                if name == _EMBED and self._tied is not False:
                    embed = tensor
                if name == _HEAD and self._tied is None:
                    assert embed is not None  # the embedding comes before the head
                    self._tied = torch.equal(tensor, embed)
                if name == _HEAD and self._tied:
                    continue
                yield from self._in_views(views, name, tensor, scales)
        if self._tied and "effective" in views:
            assert embed is not None
            yield from self._in_views(("effective",), _HEAD, embed, scales)

    @staticmethod
    def _in_views(
        views: tuple[View, ...], name: str, tensor: torch.Tensor, scales: dict[str, float] | None
    ) -> Iterator[tuple[View, Weight]]:
        module, layer = role(name) or ("", None)
        for view in views:
            scale = None if view == "stored" or scales is None else scales[name]
            yield view, Weight(name, module, layer, tensor, scale)

    def _scales(self) -> dict[str, float] | None:
        """The factors of the effective view; NaN where they hang on a scale not yet read."""
        if self.form != "reparameterised":
            return None
        from workbench.models.fold import effective_scales

        unread = {name: float("nan") for name in self._tensors.shapes if is_alpha(name)}
        try:
            return effective_scales(self.config, unread | self._alphas)
        except KeyError as error:
            raise CheckpointError(
                f"{self._what}: the weights lack the scale {error.args[0]}, which config.json asks "
                f"for; {self._remedy} or choose another one."
            ) from error

    def load_model(self, *, device: str = "cpu", dtype: str = "float32") -> Any:
        """The transformers model in eval mode on ``device``, sdpa attention, no remote code."""
        import transformers

        import workbench.models  # noqa: F401  registers yulanmini and miniyulan

        folder = self._local_folder("model")
        config_class = transformers.AutoConfig.for_model(self.config["model_type"]).__class__
        try:
            config = config_class.from_dict(self.config)
        except ValueError as error:
            raise CheckpointError(f"{self._what}: config.json cannot be used: {error}") from error
        auto = transformers.AutoModelForCausalLM
        with torch.device("meta"):
            self._check_shapes(auto.from_config(config).state_dict())
        with _silent_transformers():
            model: Any = auto.from_pretrained(
                folder,
                config=config,
                dtype=getattr(torch, dtype),
                attn_implementation="sdpa",
                local_files_only=True,
            )
        return model.to(device).eval()

    def _check_shapes(self, wanted: Mapping[str, torch.Tensor]) -> None:
        """Does every tensor that the model wants exist in its shape? transformers only warns."""
        for name, tensor in wanted.items():
            if name == _HEAD and self.tied:
                continue
            shape = self._tensors.shapes.get(name)
            # A scale is stored with shape () or (1,), and both are right.
            if shape is None or (shape != tuple(tensor.shape) and not is_alpha(name)):
                is_held = "do not have" if shape is None else f"have in the shape {list(shape)}"
                raise CheckpointError(
                    f"{self._what}: config.json asks for {name} in the shape "
                    f"{list(tensor.shape)}, which the weights {is_held}; pull the checkpoint "
                    "again or correct the suite's overrides."
                )

    def load_tokenizer(self) -> Any:
        """The checkpoint's own tokenizer."""
        from transformers import AutoTokenizer

        import workbench.models  # noqa: F401  AutoTokenizer wants to know the model type

        folder = self._local_folder("tokenizer")
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"{self._what} has no tokenizer that can be read ({reason}); "
                "pull the checkpoint again."
            ) from error

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

    def _local_folder(self, wanted: str) -> Path:
        if self.folder is None:
            raise CheckpointError(
                f"{self._what} is read from the Hub in ranges, and its {wanted} can be loaded from "
                "disk only; pull it first."
            )
        return self.folder


def _belongs(name: str, layers: int) -> bool:
    """Is the tensor a weight or a scale of a model of so many layers?"""
    weight = role(name)
    roles = alpha_roles(name) if weight is None else [weight]
    return any(found.layer is None or found.layer < layers for found in roles)


def _layer(name: str) -> int | None:
    return (role(name) or Role("", None)).layer


def _number(scale: torch.Tensor) -> float:
    return float(scale.double().reshape(()))


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


def _overridden(stored: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The config that is in force: overrides applied, what could choose code or kernels dropped."""
    dropped = ("auto_map", "_attn_implementation", "attn_implementation")
    config = {key: value for key, value in stored.items() if key not in dropped}
    config |= overrides
    if "rope_theta" in overrides and isinstance(config.get("rope_parameters"), dict):
        # transformers 5 writes theta in here and would let it win over the field of old.
        theta = overrides["rope_theta"]
        config["rope_parameters"] = {**config["rope_parameters"], "rope_theta": theta}
    return config
