"""Loss of the fixed probe text, in nats a token and bits a byte, by domain and by position.

Legend: B windows of a batch, T tokens, D features, V vocabulary, N scored tokens, P buckets.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch.nn.functional import cross_entropy

from probes.base import Measurements, Measuring, Metric, Probe, ProbedCheckpoint
from probes.batches import with_batch_size
from probes.text import (
    LONG,
    PROBE_TEXT,
    TextSettings,
    Windows,
    context_of,
    cut,
    first_documents,
    token_hash,
    usual_window,
)

FIRST_BUCKET = 16
"""The first bucket ends before this position; each next one is twice as long as all before."""
LONG_CONTEXT = 4096
LOGITS_AT_A_TIME = 2**25
"""Numbers, 128 MiB in float32: a long window's logits would not fit as a whole."""


class LossSettings(TextSettings):
    window: int | None = Field(default=None, ge=2)
    """Tokens per window, its start token included; else the context, at most 2,048."""
    long_context: bool = True
    """Also read the long documents, in windows of the whole context, if it exceeds 4,096 tokens."""
    bytes_per_domain: PositiveInt | None = None
    """Only the first documents of each domain, as many as come to this size; else all."""
    batch_size: PositiveInt | None = None
    """Windows per forward pass to begin with; else found. Halved when the memory runs out."""


class LossProbe(Probe):
    """nll, nll_sum, tokens, bytes, bits_per_byte, each per domain; nll, nll_sum, tokens also per
    domain and bucket of positions.

    Every token of the text is scored once, in windows that begin with the start token, so the text
    is the same for all checkpoints, and the tokens are if they share a tokenizer and a window. The
    note ``token_set_sha256`` says which tokens and windows they were.

    A token's position is the number of tokens before it in its window, from 1. The buckets are
    1-15, 16-31, 32-63 and on by powers of two; they stand in the column ``module`` as
    ``position 16-31``, and are the same for every window, which may end within the last one.

    The domain ``long`` is the long documents in windows of the whole context. It exists for
    checkpoints with a context of more than 4,096 tokens.

    The batch size changes the values only as far as it changes the order of floating-point sums in
    the model: in float32 by less than 1e-5 of the value.

    A token has no loss where any of its logits is NaN or infinite. A domain or bucket with such a
    token has no nll, nll_sum and bits_per_byte, and their reason is the count of these tokens.
    """

    id = "loss"
    version = 3
    title = "Negative log likelihood and bits per byte of fixed text, by domain and position"
    needs = "model"
    Settings = LossSettings
    data = PROBE_TEXT
    metrics = (
        Metric(
            id="nll",
            formula="nll_sum / tokens, of a domain or of a bucket of positions",
            unit="nats/token",
            source="cross entropy; Shannon 1948",
        ),
        Metric(
            id="nll_sum",
            formula="-sum ln p(token | those before it in its window) over the scored tokens",
            unit="nats",
            source="cross entropy; Shannon 1948",
        ),
        Metric(
            id="tokens",
            formula="number of scored tokens, of a domain or of a bucket of positions",
            unit="tokens",
            source="workbench",
        ),
        Metric(
            id="bytes",
            formula="UTF-8 bytes of the scored tokens' text",
            unit="bytes",
            source="workbench",
        ),
        Metric(
            id="bits_per_byte",
            formula="nll_sum / (ln 2 * bytes)",
            unit="bits/byte",
            source="Gao et al. 2020, arXiv 2101.00027 (The Pile), 3.1",
        ),
    )

    @torch.inference_mode()
    def measure(
        self, checkpoint: ProbedCheckpoint, settings: LossSettings, measuring: Measuring
    ) -> Measurements:
        tokenizer, config = checkpoint.load_tokenizer(), checkpoint.config
        documents = {
            domain: first_documents(texts, settings.bytes_per_domain)
            for domain, texts in settings.documents().items()
        }
        domains = cut(documents, tokenizer, config, settings.window or usual_window(config))
        long: dict[str, Windows] = {}
        context = context_of(config)
        if settings.long_context and context is not None and context > LONG_CONTEXT:
            long_documents = settings.long_documents()
            if long_documents:
                long = cut({LONG: long_documents}, tokenizer, config, context)
        model = checkpoint.load_model(device=measuring.device, dtype=measuring.dtype)
        found = Measurements()
        sets = {**domains, **long}
        for done, (domain, windows) in enumerate(sets.items(), start=1):
            _add(found, domain, windows, _score(model, domain, windows, settings, measuring))
            measuring.progress(done / len(sets))
        found.notes["token_set_sha256"] = _token_set(domains)
        if long:
            found.notes["long_token_set_sha256"] = _token_set(long)
        if settings.text_sha256 is not None:
            found.notes["text_sha256"] = settings.text_sha256
        return found


def _score(
    model: Any, domain: str, windows: Windows, settings: LossSettings, measuring: Measuring
) -> "Sums":
    """:func:`summed` with as many windows at a time as fit; of the long ones, one."""
    is_long = domain == LONG
    remedy = "set long_context to false" if is_long else "set a smaller window"
    return with_batch_size(
        lambda size: summed(model, windows, size),
        1 if is_long else settings.batch_size,
        device=measuring.device,
        windows=len(windows.ids),
        remedy=f"{remedy} for the probe",
    )


def _add(found: Measurements, domain: str, windows: Windows, sums: "Sums") -> None:
    assert int(sums.tokens.sum()) == windows.scored
    nll_sum, reason = float(sums.nats.sum()), _reason(int(sums.broken.sum()), windows.scored)
    found.add("nll", nll_sum / windows.scored, domain=domain, reason=reason)
    found.add("nll_sum", nll_sum, domain=domain, reason=reason)
    found.add("tokens", windows.scored, domain=domain)
    found.add("bytes", windows.bytes, domain=domain)
    bits = nll_sum / (math.log(2) * windows.bytes)
    found.add("bits_per_byte", bits, domain=domain, reason=reason)
    buckets = zip(*(column.tolist() for column in sums), strict=True)
    for bucket, (nats, tokens, broken) in enumerate(buckets):
        if tokens:
            where: dict[str, Any] = {"domain": domain, "module": bucket_name(bucket)}
            reason = _reason(broken, tokens)
            found.add("nll", nats / tokens, reason=reason, **where)
            found.add("nll_sum", nats, reason=reason, **where)
            found.add("tokens", tokens, **where)


def _reason(broken: int, tokens: int) -> str | None:
    """Why tokens have no loss together; their sum is then NaN."""
    return f"NaN or Inf in the logits of {broken:,} of {tokens:,} tokens" if broken else None


def _token_set(domains: Mapping[str, Windows]) -> str:
    digest = hashlib.sha256()
    for windows in domains.values():
        digest.update(token_hash(windows.ids, windows.lengths).encode())
    return digest.hexdigest()


def bucket_of(positions: torch.Tensor) -> torch.Tensor:
    """The number of the bucket of each position (from 1): 0 below 16, 1 from 16 to 31, ..."""
    # frexp's exponent of a whole number is its number of binary digits, without rounding.
    digits = torch.frexp(positions.double()).exponent
    return (digits - FIRST_BUCKET.bit_length() + 1).clamp(min=0).long()


def bucket_name(bucket: int) -> str:
    """What stands in the column ``module`` for a bucket."""
    end = FIRST_BUCKET << bucket
    return f"position {1 if bucket == 0 else end // 2}-{end - 1}"


class Sums(NamedTuple):
    """Sums over the scored tokens, each of shape P: by the bucket of their position."""

    nats: torch.Tensor
    """float64; NaN where a token has no loss."""
    tokens: torch.Tensor
    broken: torch.Tensor
    """Tokens without a loss."""


def summed(model: Any, windows: Windows, batch_size: int) -> Sums:
    """The sums of all scored tokens."""
    buckets = 1 + int(bucket_of(torch.tensor(windows.ids.shape[1])))
    nats_P = torch.zeros(buckets, dtype=torch.float64)
    tokens_P, broken_P = (torch.zeros(buckets, dtype=torch.int64) for _ in range(2))
    for ids_BT, labels_BT in windows.batches(batch_size):
        bucket_N = bucket_of(labels_BT.ne(-100).nonzero()[:, 1])
        nats_N = scored_nll(model, ids_BT, labels_BT)
        nats_P += bucket_N.bincount(nats_N, buckets)
        tokens_P += bucket_N.bincount(minlength=buckets)
        broken_P += bucket_N[nats_N.isnan()].bincount(minlength=buckets)
    return Sums(nats_P, tokens_P, broken_P)


def scored_nll(model: Any, ids_BT: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """nats_N in float64 of the labelled tokens (label -100: not scored), row after row.

    NaN for a token of which any logit is not finite: with -Inf at another entry of the vocabulary
    its loss would be a plausible number.

    The model runs once, and is kept from computing logits for all positions: what enters its
    output matrix is caught, and multiplied for so many tokens at a time as fit.
    """
    device = next(model.parameters()).device
    head = model.get_output_embeddings()
    caught: list[torch.Tensor] = []

    def catch(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        caught.append(inputs[0])
        return (inputs[0][:, :1],)

    hook = head.register_forward_pre_hook(catch)
    try:
        model(input_ids=ids_BT.to(device), use_cache=False)
    finally:
        hook.remove()
    target_BT = labels_BT[:, 1:].to(device)
    scored_BT = target_BT != -100
    h_ND, target_N = caught[0][:, :-1][scored_BT], target_BT[scored_BT]
    size = max(1, LOGITS_AT_A_TIME // head.weight.shape[0])
    nats = [
        _nll(head(h_nD).float(), target_n)
        for h_nD, target_n in zip(h_ND.split(size), target_N.split(size), strict=True)
    ]
    return torch.cat(nats)


def _nll(logits_nV: torch.Tensor, target_n: torch.Tensor) -> torch.Tensor:
    """nats_n in float64 on the CPU, NaN where a logit, or the loss itself, is not finite."""
    nats_n = cross_entropy(logits_nV, target_n, reduction="none").double()
    low_n, high_n = logits_nV.aminmax(dim=-1)  # NaN in either becomes NaN
    sound_n = low_n.isfinite() & high_n.isfinite() & nats_n.isfinite()
    return nats_n.masked_fill(~sound_n, math.nan).cpu()
