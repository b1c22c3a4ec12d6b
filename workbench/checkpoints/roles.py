"""What every tensor of a model is: canonical module, layer, heads; found from how it is built.

The model is walked on the meta device. Embedding and head are those that transformers says they
are; the blocks are the list of as many modules as there are layers; of a block's parts, attention
and MLP are told apart by how many linear maps they have and of which shapes. One block is run (two
tokens, no numbers) to see where each norm stands: what it is given, and before or after what. Names
decide only between what is alike in structure: q, k and v, gate and up.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from workbench.models.architecture import Architecture

_ALPHA = "_alpha"
# The letter of q_proj, key, wv, v_layernorm and the like.
_LETTER = re.compile(r"(?:^|_|^w)(?:(q)(?:uery)?|(k)(?:ey)?|(v)(?:alue)?)(?:_|$)")
_INTERLEAVED = ("gpt_neox",)
"""Model types whose one matrix for q, k and v holds the rows head by head: q, k and v of each."""


class Role(NamedTuple):
    """What a tensor, or a part of it, is."""

    module: str
    layer: int | None
    """None outside the layers."""
    heads: int | None = None
    """How many attention heads share the matrix; None where they do not."""
    side: Literal["rows", "columns"] = "rows"
    """Along which side the heads lie."""
    is_matrix: bool = False
    """A linear map or an embedding; a norm's weight is none, of whatever shape."""


class UnknownStructure(ValueError):
    """The model is not built as a known transformer is; the message says where."""


class Layout(NamedTuple):
    """The roles in a model, by the names that transformers gives to parameters, in their order."""

    weights: dict[str, tuple[Role, ...]]
    """One role; three, q, k and v, for the one matrix or bias that holds them."""
    alphas: dict[str, list[Role]]
    """The modules that a learnable scale of YuLan-Mini multiplies; gate and up share one."""


@lru_cache(maxsize=64)
def layout_of(architecture: "Architecture") -> Layout:
    """The layout of a model. Raises UnknownStructure."""
    return _Walk(architecture).layout()


def parts(tensor: torch.Tensor, roles: tuple[Role, ...]) -> list[torch.Tensor]:
    """The tensor of each role: itself, or what q, k and v have of the rows that they share."""
    if len(roles) == 1:
        return [tensor]
    heads = roles[0].heads
    assert heads is not None
    shared = tensor.reshape(heads, len(roles), -1, *tensor.shape[1:])
    return [shared[:, i].reshape(-1, *tensor.shape[1:]) for i in range(len(roles))]


def is_alpha(name: str) -> bool:
    """Is the tensor one of YuLan-Mini's learnable scales?"""
    return name.endswith(_ALPHA)


class _Walk:
    """Goes through the modules of one model and names what it finds."""

    def __init__(self, architecture: "Architecture") -> None:
        self._model: Any = architecture.model
        self._shapes = architecture.shapes
        self._names = {id(module): name for name, module in self._model.named_modules()}
        config = self._model.config
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = getattr(config, "num_key_value_heads", None) or self._heads
        self._weights: dict[str, tuple[Role, ...]] = {}

    def layout(self) -> Layout:
        blocks = self._blocks()
        inside = self._names[id(blocks)] + "."
        calls = _calls(self._model, blocks[0])
        places = self._norms(blocks[0], calls)
        for layer, block in enumerate(blocks):
            self._block(block, layer, places)
        self._add(self._model.get_input_embeddings(), "embed", None, is_matrix=True)
        self._add(self._model.get_output_embeddings(), "lm_head", None, is_matrix=True)
        early = {id(call.module) for call in calls}
        for name, module in self._model.named_modules():
            if not name.startswith(inside) and _is_norm(module):
                self._add(module, "embed_norm" if id(module) in early else "final_norm", None)
        weights = {n: self._weights[n] for n in self._shapes if n in self._weights}
        alphas = {n: self._scaled_by(n) for n in self._shapes if is_alpha(n)}
        unknown = [n for n in self._shapes if n not in weights and not alphas.get(n)]
        if unknown:
            raise UnknownStructure(f"nothing is known of {unknown[0]}")
        roles = [role for held in weights.values() for role in held]
        if len(set(roles)) < len(roles):
            twice = next(role for role in roles if roles.count(role) > 1)
            raise UnknownStructure(f"two parameters look like {twice.module}")
        return Layout(weights, alphas)

    def _blocks(self) -> nn.ModuleList:
        layers = self._model.config.num_hidden_layers
        found = [
            module
            for module in self._model.modules()
            if isinstance(module, nn.ModuleList) and len(module) == layers
        ]
        if len(found) != 1:
            raise UnknownStructure(f"no list of {layers} blocks stands out")
        return found[0]

    def _block(self, block: nn.Module, layer: int, norms: dict[str, str]) -> None:
        for name, child in block.named_children():
            linears = _linears(child)
            if name in norms:
                self._add(child, norms[name], layer)
            elif linears:
                found = self._attention if self._is_attention(linears) else self._mlp
                found(child, linears, layer)

    def _is_attention(self, linears: dict[str, nn.Linear]) -> bool:
        *inner, last = linears.values()
        size, rest = divmod(last.in_features, self._heads)
        wanted = (self._heads + 2 * self._kv_heads) * size
        return len(inner) in (1, 3) and not rest and sum(x.out_features for x in inner) == wanted

    def _attention(self, attention: nn.Module, linears: dict[str, nn.Linear], layer: int) -> None:
        *inner, last = linears.values()
        heads = {"q": self._heads, "k": self._kv_heads, "v": self._kv_heads}
        if len(inner) == 1:
            if self._model.config.model_type not in _INTERLEAVED:
                raise UnknownStructure("how one matrix holds q, k and v is not known")
            self._add_fused(inner[0], layer)
        else:
            for name, linear in list(linears.items())[:-1]:
                letter = _letter(name)
                size = last.in_features // self._heads
                if linear.out_features != heads.get(letter, 0) * size:
                    raise UnknownStructure(f"{name} is neither q, k nor v")
                self._add(linear, f"{letter}_proj", layer, heads=heads[letter], is_matrix=True)
        self._add(last, "o_proj", layer, heads=self._heads, side="columns", is_matrix=True)
        for name, child in attention.named_children():
            if _is_norm(child):
                self._add(child, f"{_letter(name)}_norm", layer)

    def _mlp(self, mlp: nn.Module, linears: dict[str, nn.Linear], layer: int) -> None:
        *inner, last = linears.items()
        wide = {linear.out_features for _, linear in inner}
        gates = [name for name, _ in inner if "gate" in name]
        if wide != {last[1].in_features} or len(inner) != 1 + len(gates):
            raise UnknownStructure(f"{' and '.join(linears)} are no MLP with or without a gate")
        for name, linear in inner:
            module = "gate_proj" if name in gates else "up_proj"
            self._add(linear, module, layer, is_matrix=True)
        self._add(last[1], "down_proj", layer, is_matrix=True)

    def _norms(self, block: nn.Module, calls: "list[_Call]") -> dict[str, str]:
        """What each norm of a block is, by its name in the block."""
        order = {id(call.module): call for call in calls}
        branches = [c for c in block.children() if _linears(c)]
        if len(branches) != 2 or not all(id(branch) in order for branch in branches):
            raise UnknownStructure("a block is not an attention and an MLP")
        attention, mlp = sorted((order[id(b)] for b in branches), key=lambda call: call.at)
        if not self._is_attention(_linears(attention.module)):
            raise UnknownStructure("the MLP comes before the attention")
        places = {}
        for name, norm in block.named_children():
            if _is_norm(norm) and id(norm) in order:
                call = order[id(norm)]
                if call.given is attention.gave:
                    places[name] = "attention_output_norm"
                elif call.given is mlp.gave:
                    places[name] = "mlp_output_norm"
                else:
                    before = call.at < attention.at
                    places[name] = "input_norm" if before else "post_attention_norm"
        return places

    def _add(self, module: nn.Module, role: str, layer: int | None, **more: Any) -> None:
        name = self._names[id(module)]
        self._weights[f"{name}.weight"] = (Role(role, layer, **more),)
        if getattr(module, "bias", None) is not None:
            bias = f"{role.removesuffix('_proj')}_bias"
            self._weights[f"{name}.bias"] = (Role(bias, layer),)

    def _add_fused(self, linear: nn.Module, layer: int) -> None:
        name = self._names[id(linear)]
        for parameter, _ in linear.named_parameters():
            what, is_matrix = ("proj", True) if parameter == "weight" else ("bias", False)
            # A bias has as many heads: it falls into q, k and v by them.
            self._weights[f"{name}.{parameter}"] = tuple(
                Role(f"{letter}_{what}", layer, self._heads, is_matrix=is_matrix)
                for letter in "qkv"
            )

    def _scaled_by(self, alpha: str) -> list[Role]:
        """A scale multiplies what stands beside or below it and has no word that it lacks."""
        place, _, own = alpha.rpartition(".")
        words = set(own.removesuffix(_ALPHA).split("_"))
        found = []
        for name, (role, *_) in self._weights.items():
            module = name.removesuffix(".weight")
            is_below = module.startswith(f"{place}.") if place else True
            if module != name and is_below and set(module.split(".")[-1].split("_")) <= words:
                found.append(role)
        return found


def _letter(name: str) -> str:
    found = _LETTER.search(name)
    return next(filter(None, found.groups()), "") if found else ""


def _linears(module: nn.Module) -> dict[str, nn.Linear]:
    """The linear maps right below a module, in the order in which they were made."""
    return {n: child for n, child in module.named_children() if isinstance(child, nn.Linear)}


def _is_norm(module: nn.Module) -> bool:
    own = dict(module.named_parameters(recurse=False))
    is_leaf = next(module.children(), None) is None
    return is_leaf and "weight" in own and not isinstance(module, nn.Linear | nn.Embedding)


class _Call(NamedTuple):
    """One module at work."""

    at: int
    module: nn.Module
    given: torch.Tensor | None
    gave: torch.Tensor | None


class _Done(Exception):
    """The block has run."""


def _calls(model: Any, block: nn.Module) -> list[_Call]:
    """The modules that work until a block is done, in the order in which they end."""
    calls: list[_Call] = []

    def note(module: nn.Module, args: Any, kwargs: Any, gave: Any) -> None:
        given = next(_tensors((*args, *kwargs.values())), None)
        gave = next(_tensors(gave if isinstance(gave, tuple) else (gave,)), None)
        calls.append(_Call(len(calls), module, given, gave))
        if module is block:
            raise _Done

    hooks = [m.register_forward_hook(note, with_kwargs=True) for m in model.modules()]
    tokens = torch.zeros(1, 2, dtype=torch.long, device="meta")
    # To make a mask transformers would look into the tokens.
    mask = torch.zeros(1, 1, 2, 2, device="meta")
    try:
        model(input_ids=tokens, attention_mask=mask, use_cache=False)
    except _Done:
        return calls
    except Exception as error:  # whatever a model cannot do without numbers
        raise UnknownStructure(f"a block cannot be run ({error})") from error
    finally:
        for hook in hooks:
            hook.remove()
    raise AssertionError("the first block was not run")


def _tensors(values: tuple[Any, ...]) -> Iterator[torch.Tensor]:
    return (value for value in values if isinstance(value, torch.Tensor))
