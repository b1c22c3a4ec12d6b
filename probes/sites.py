"""Where a decoder is read, found from its structure and from one short forward pass.

Every site is defined as what the equivalent plain model computes there. YuLan-Mini multiplies norm
outputs and branches outside of the modules that compute them; those factors, 1 for other models,
stand beside each read. What an architecture does not have (OLMo 2 has no norm before its
attention, a GPT-NeoX layer with parallel branches no residual between them) is not read.

Legend: B windows of T tokens, D features, V vocabulary entries; H query heads in groups that
share one of G key heads, E features a head.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from nnsight import NNsight
from pydantic import Field, PositiveInt

from probes.base import Measuring, ProbedCheckpoint
from probes.text import TextSettings, Windows, cut
from workbench.errors import UsageError

EMBED, FINAL_NORM = "embed", "final_norm"
LAYER_SITES = (
    "input_norm", "attention", "residual_mid", "post_attention_norm", "mlp", "residual",
)  # fmt: skip
"""Sites of a layer, in the order of the computation; what a layer lacks has no read."""
NEURONS, ROTATION, QUERIES, KEYS, FUSED = "neurons", "rotation", "queries", "keys", "fused"
"""What else is read of a layer: the input of the MLP's last matrix, cosine and sine of the rotary
embedding, queries and keys before it, or the output of one matrix for queries, keys and values."""

Handler = Callable[[Any, int | None], None]
"""Takes in what a read gives, and its layer."""


@dataclass(frozen=True)
class Read:
    """One place where a value is taken, as a path from the decoder."""

    site: str
    layer: int | None
    path: str
    side: Literal["input", "output", "arguments"] = "output"


@dataclass
class _Call:
    """One call of a module, as a forward hook saw it."""

    name: str
    module: torch.nn.Module
    input: torch.Tensor
    output: torch.Tensor


@dataclass
class Anatomy:
    """The parts of a decoder-only transformers model. Make it with :func:`anatomy`."""

    model: Any
    decoder: Any
    """The model without its head."""
    layers: list[torch.nn.Module]
    norm: torch.nn.Module
    reads: list[Read]
    """In the order of the computation, which is the order in which nnsight can give them."""
    attentions: list[Any]
    _traced: Any = field(repr=False)

    def trace(self, ids_BT: torch.Tensor, handlers: Mapping[str, Handler]) -> None:
        """One forward pass of the decoder; every site that has a handler is handed to it.

        The head is not computed: the logits of a long window would be its largest tensor.
        """
        wanted = [read for read in self.reads if read.site in handlers]
        with self._traced.trace(input_ids=ids_BT, use_cache=False):
            for read in wanted:
                handlers[read.site](_value(self._traced.get(read.path), read.side), read.layer)

    def factor(self, site: str, layer: int | None) -> float:
        """What multiplies the value read at a site on its way to what comes next."""
        if site == FINAL_NORM:
            return getattr(self.model.config, "ln_scale", 1.0) * alpha(self.decoder, "norm_alpha")
        if layer is None:
            return 1.0
        module = self.layers[layer]
        shrink, ln_scale = getattr(module, "shrink", 1.0), getattr(module, "ln_scale", 1.0)
        factors = {
            "input_norm": ln_scale * alpha(module, "input_layernorm_alpha"),
            "attention": shrink,  # o_proj's alpha is applied inside of the attention module
            "post_attention_norm": ln_scale * alpha(module, "post_attention_layernorm_alpha"),
            "mlp": shrink * alpha(module, "down_proj_alpha"),
        }
        return factors.get(site, 1.0)

    def logits(self, normed_ND: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) from outputs of the final norm."""
        scale = (
            self.factor(FINAL_NORM, None)
            * alpha(self.model, "lm_head_alpha")
            * getattr(self.model.config, "logit_scaling", 1.0)
        )
        head = self.model.get_output_embeddings()
        return head(normed_ND if scale == 1.0 else normed_ND * scale)

    @property
    def vocabulary(self) -> int:
        return len(self.model.get_output_embeddings().weight)


def alpha(module: torch.nn.Module, name: str) -> float:
    """A learnable scale of the module, 1 where it has none."""
    found = getattr(module, name, None)
    return 1.0 if found is None else float(found.detach())


@torch.no_grad()
def anatomy(model: Any) -> Anatomy:
    """Find the parts of a model by running two tokens and looking who calls whom with what.

    A norm is told apart by what goes into it: the layer's input (before the attention), the output
    of a branch (after it), or a new sum (before the MLP). All layers are built like the first one.
    """
    decoder = model.base_model
    lists = {n: m for n, m in decoder.named_children() if isinstance(m, torch.nn.ModuleList)}
    path, layers = max(lists.items(), key=lambda entry: len(entry[1]))
    calls = _calls(
        decoder,
        [
            *decoder.named_children(),
            *layers[0].named_children(),
            ("first", layers[0]),
            ("last", layers[-1]),
        ],
    )
    layer, end = calls[layers[0]], calls[layers[-1]]
    own, outer = set(layers[0].children()), set(decoder.children())
    inside = [call for module, call in calls.items() if module in own]
    outside = [call for module, call in calls.items() if module in outer]
    norm = next(call for call in outside if _same(call.input, end.output))
    found = _sites(layer, inside)
    reads = [Read(EMBED, None, f"{path}.0", "input")]
    for i in range(len(layers)):
        for site, name, side in found:
            reads.append(Read(site, i, f"{path}.{i}.{name}" if name else f"{path}.{i}", side))
    reads.append(Read(FINAL_NORM, None, norm.name))
    name = next(call.name for call in inside if _is_attention(call.module))
    attentions = [layer.get_submodule(name) for layer in layers]
    return Anatomy(model, decoder, list(layers), norm.module, reads, attentions, NNsight(decoder))


_Site = tuple[str, str, Literal["input", "output", "arguments"]]


def _sites(layer: _Call, inside: list[_Call]) -> list[_Site]:
    """(site, path from the layer, side) of one layer, in the order of the computation.

    ``inside`` are the calls of the layer's own modules in the order of the calls.
    """
    attention = next(call for call in inside if _is_attention(call.module))
    mlp = next(
        call for call in inside if call is not attention and _linears(call.module, deep=True)
    )
    norms = [call for call in inside if call not in (attention, mlp) and _is_norm(call.module)]
    before = [n for n in norms if inside.index(n) < inside.index(attention)]
    after = {
        id(branch): n for branch in (attention, mlp) for n in norms if _same(n.input, branch.output)
    }
    between = [n for n in norms if n not in before and n not in after.values()]
    found: list[_Site] = [("input_norm", n.name, "output") for n in before]
    found += _inside_attention(attention)
    found.append(("attention", after.get(id(attention), attention).name, "output"))
    start = between[0] if between else mlp
    parallel = _same(start.input, layer.input) or any(_same(mlp.input, n.output) for n in before)
    if not parallel:
        found.append(("residual_mid", start.name, "input"))
    found += [("post_attention_norm", n.name, "output") for n in between]
    last = list(_linears(mlp.module, deep=True))[-1]
    found.append((NEURONS, f"{mlp.name}.{last}", "input"))
    found.append(("mlp", after.get(id(mlp), mlp).name, "output"))
    return [*found, ("residual", "", "output")]


def _inside_attention(attention: _Call) -> list[_Site]:
    """Where queries and keys are complete but for the rotation: a norm's output if there is one."""
    module, name = attention.module, attention.name
    linears = list(_linears(module))
    found: list[_Site] = [(ROTATION, name, "arguments")]
    if len(linears) < 4:
        return [*found, (FUSED, f"{name}.{linears[0]}", "output")]
    norms = [n for n, child in module.named_children() if _is_norm(child)]
    queries, keys = norms[:2] if norms else linears[:2]
    return [*found, (QUERIES, f"{name}.{queries}", "output"), (KEYS, f"{name}.{keys}", "output")]


def _is_attention(module: torch.nn.Module) -> bool:
    return hasattr(module, "is_causal")  # transformers tells it to the attention kernel


def _is_norm(module: torch.nn.Module) -> bool:
    return hasattr(module, "weight") and "Norm" in type(module).__name__


def _linears(module: torch.nn.Module, deep: bool = False) -> dict[str, torch.nn.Module]:
    named = module.named_modules() if deep else module.named_children()
    return {name: child for name, child in named if isinstance(child, torch.nn.Linear)}


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape


def _calls(
    decoder: Any, watched: list[tuple[str, torch.nn.Module]]
) -> dict[torch.nn.Module, _Call]:
    """The call of each watched module in a forward pass of two tokens, in the order of returns."""
    calls: dict[torch.nn.Module, _Call] = {}

    def see(name: str, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = args[0] if args else kwargs.get("hidden_states")
        if isinstance(given, torch.Tensor) and isinstance(_first(output), torch.Tensor):
            calls[module] = _Call(name, module, given, _first(output))

    hooks = [
        module.register_forward_hook(
            lambda module, args, kwargs, output, name=name: see(name, module, args, kwargs, output),
            with_kwargs=True,
        )
        for name, module in watched
    ]
    try:
        ids = torch.zeros(1, 2, dtype=torch.long, device=decoder.device)
        decoder(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def _value(envoy: Any, side: str) -> Any:
    if side == "arguments":
        return envoy.inputs[1]["position_embeddings"]
    return envoy.input if side == "input" else _first(envoy.output)


class WindowSettings(TextSettings):
    """Base of the settings of probes that read a fixed number of windows."""

    window: int = Field(default=128, ge=4)
    """Tokens per window, its start token included; at most the checkpoint's context."""
    windows_per_domain: PositiveInt = 4
    """Windows of the probe text that are read, of each domain."""
    batch_size: PositiveInt | None = None
    """Windows per forward pass to begin with; else found. Halved when the memory runs out."""


def load_with_windows(
    checkpoint: ProbedCheckpoint, settings: WindowSettings, measuring: Measuring
) -> tuple[Any, torch.Tensor]:
    """The model, and the windows of the text that the settings ask for (ids_NT)."""
    domains = cut(
        settings.documents(), checkpoint.load_tokenizer(), checkpoint.config, settings.window
    )
    ids_NT = packed(domains, settings.windows_per_domain)
    return checkpoint.load_model(device=measuring.device, dtype=measuring.dtype), ids_NT


def packed(domains: Mapping[str, Windows], per_domain: int) -> torch.Tensor:
    """Windows without padding (ids_NT): a start token each, then the domain's text end to end.

    A domain shorter than ``per_domain`` windows gives fewer. Where even one window is longer than
    the domain's text, the text of the following domains goes on behind it, so that windows as long
    as a context of 28K can be read. UsageError if the whole text is shorter than one window.
    """
    texts = [
        torch.cat([ids_T[1:n] for ids_T, n in zip(d.ids, d.lengths.tolist(), strict=True)])
        for d in domains.values()
    ]
    first = next(iter(domains.values()))
    start, length = first.ids[0, :1], first.ids.shape[1]
    total = sum(len(text) for text in texts)
    if total < length - 1:
        raise UsageError(
            f"A window of {length} tokens is longer than the whole probe text, which has {total}; "
            f"set window to {total + 1} or less, or give a longer text."
        )
    windows = []
    for i, text in enumerate(texts):
        going_on = torch.cat(texts[i:] + texts[:i])
        for w in range(min(per_domain, max(1, len(text) // (length - 1)))):
            piece = going_on[w * (length - 1) : (w + 1) * (length - 1)]
            windows.append(torch.cat([start, piece]))
    return torch.stack(windows)
