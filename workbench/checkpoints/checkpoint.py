"""A checkpoint folder in the Hugging Face layout, read a tensor at a time.

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
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from workbench.checkpoints import files
from workbench.checkpoints.roles import alpha_roles, is_alpha, reading_order, required_tensors, role
from workbench.errors import CheckpointError

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
    """Made by :meth:`open`; holds open files but no weights."""

    def __init__(
        self,
        folder: Path,
        what: str,
        stored_config: dict[str, Any],
        config: dict[str, Any],
        shards: Mapping[str, Any],
    ) -> None:
        self.folder = folder
        self.stored_config = stored_config
        """config.json as it is."""
        self.config = config
        """config.json with the overrides applied."""
        self._what = what
        self._shards = shards

    @classmethod
    def open(
        cls, folder: Path, *, overrides: Mapping[str, Any] | None = None, label: str = ""
    ) -> "Checkpoint":
        """Open a folder with config.json and safetensors, one file or shards with an index.

        ``overrides`` replace fields of the config; ``label`` names the checkpoint in errors.
        Raises CheckpointError, one sentence that names the file: missing or broken config,
        unsupported architecture, missing, truncated or incomplete weight files.
        """
        what = f"{label} ({folder})" if label else str(folder)
        stored = files.read_json(folder / files.CONFIG, what)
        config = _overridden(stored, overrides or {})
        model_type = config.get("model_type")
        if model_type not in (*_REPARAMETERISED, "llama"):
            raise CheckpointError(
                f"{what}: config.json is of the architecture {model_type!r}, and only yulanmini, "
                "miniyulan and llama can be read; choose another checkpoint."
            )
        if not isinstance(config.get("num_hidden_layers"), int):
            raise CheckpointError(
                f"{what}: config.json does not say num_hidden_layers; pull the checkpoint again."
            )
        checkpoint = cls(folder, what, stored, config, files.open_shards(folder, what))
        checkpoint._check_names()
        return checkpoint

    def _check_names(self) -> None:
        names, layers = set(self._shards), self.config["num_hidden_layers"]
        expected = list(required_tensors(layers))
        if not self.config.get("tie_word_embeddings", False):
            expected.append(_HEAD)
        missing = [name for name in expected if name not in names]
        surplus = [name for name in sorted(names) if not _belongs(name, layers)]
        if missing or surplus:
            problem = f"lack the tensor {missing[0]}" if missing else f"hold {surplus[0]}"
            raise CheckpointError(
                f"{self._what}: the weights {problem}, which does not fit config.json "
                f"({len(missing)} missing, {len(surplus)} too many); pull the checkpoint again "
                "or choose another one."
            )

    @property
    def form(self) -> Form:
        """``merged`` is YuLan-Mini folded into Llama, known by the biases a plain Llama lacks."""
        if self.config["model_type"] in _REPARAMETERISED:
            return "reparameterised"
        return "merged" if self.config.get("attention_bias") else "plain"

    @cached_property
    def tied(self) -> bool:
        """Do embedding and head share one matrix? A differing second copy says no.

        That is also how transformers loads such a folder.
        """
        if not self.config.get("tie_word_embeddings", False):
            return False
        return _HEAD not in self._shards or torch.equal(self.tensor(_HEAD), self.tensor(_EMBED))

    def tensor_names(self) -> list[str]:
        """Every tensor in the files, scales included, sorted."""
        return sorted(self._shards)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as stored, read now."""
        try:
            return self._shards[name].get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(
                f"{self._what}: the tensor {name} cannot be read ({error}); "
                "pull the checkpoint again."
            ) from error

    def alphas(self) -> dict[str, float]:
        """The learnable scales by tensor name; empty for a Llama."""
        return {
            name: float(self.tensor(name).double().reshape(()))
            for name in self.tensor_names()
            if is_alpha(name)
        }

    def weights(self, view: View) -> Iterator[Weight]:
        """Every weight of the view, layer by layer, one tensor in memory at a time."""
        names = [name for name in self.tensor_names() if not is_alpha(name)]
        if self.tied and _HEAD in names:
            names.remove(_HEAD)
        if self.tied and view == "effective":
            names.append(_HEAD)
        scales = self._scales() if view == "effective" else None
        for name in sorted(names, key=reading_order):
            module, layer = role(name) or ("", None)
            held = _EMBED if name == _HEAD and self.tied else name
            scale = None if scales is None else scales[name]
            yield Weight(name, module, layer, self.tensor(held), scale)

    def _scales(self) -> dict[str, float] | None:
        if self.form != "reparameterised":
            return None
        from workbench.models.fold import effective_scales

        try:
            return effective_scales(self.config, self.alphas())
        except KeyError as error:
            raise CheckpointError(
                f"{self._what}: the weights lack the scale {error.args[0]}, which config.json asks "
                "for; pull the checkpoint again or choose another one."
            ) from error

    def load_model(self, *, device: str = "cpu", dtype: str = "float32") -> Any:
        """The transformers model in eval mode on ``device``, sdpa attention, no remote code."""
        import transformers

        import workbench.models  # noqa: F401  registers yulanmini and miniyulan

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
                self.folder,
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
            held = self._shards.get(name)
            shape = held.get_slice(name).get_shape() if held is not None else None
            # A scale is stored with shape () or (1,), and both are right.
            if held is None or (shape != list(tensor.shape) and not is_alpha(name)):
                is_held = "do not have" if shape is None else f"have in the shape {shape}"
                raise CheckpointError(
                    f"{self._what}: config.json asks for {name} in the shape "
                    f"{list(tensor.shape)}, which the weights {is_held}; pull the checkpoint "
                    "again or correct the suite's overrides."
                )

    def load_tokenizer(self) -> Any:
        """The checkpoint's own tokenizer."""
        from transformers import AutoTokenizer

        import workbench.models  # noqa: F401  AutoTokenizer wants to know the model type

        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"{self._what} has no tokenizer that can be read ({reason}); "
                "pull the checkpoint again."
            ) from error

    def file_hashes(self) -> dict[str, str]:
        """sha256 of every file that the checkpoint is read from, by file name."""
        kept = (".json", ".safetensors", ".model", ".txt")
        return {
            path.name: files.sha256(path)
            for path in sorted(self.folder.iterdir())
            if path.is_file() and path.suffix in kept
        }


def _belongs(name: str, layers: int) -> bool:
    """Is the tensor a weight or a scale of a model of so many layers?"""
    weight = role(name)
    roles = alpha_roles(name) if weight is None else [weight]
    return any(found.layer is None or found.layer < layers for found in roles)


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
