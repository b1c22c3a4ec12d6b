"""Loss of the fixed probe text, in nats a token and bits a byte, for each domain."""

import hashlib
import math

import torch
from pydantic import Field, PositiveInt
from torch.nn.functional import cross_entropy

from probes.base import Measurements, Measuring, Metric, Probe, ProbedCheckpoint, ProbeSettings
from probes.text import PROBE_TEXT, cut, probe_text, token_hash


class LossSettings(ProbeSettings):
    window: int = Field(default=128, ge=2)
    """Tokens per window, its start token included; at most the checkpoint's context."""
    batch_size: PositiveInt = 8
    """Windows per forward pass."""


class LossProbe(Probe):
    """nll, nll_sum, tokens, bytes, bits_per_byte, each per domain.

    Every token of the shipped text is scored once, in windows that begin with the start token, so
    the text is the same for all checkpoints, and the tokens are if they share a tokenizer. The
    note ``token_set_sha256`` says which tokens and windows they were.
    """

    id = "loss"
    version = 1
    title = "Negative log likelihood and bits per byte of held-out text, by domain"
    needs = "model"
    Settings = LossSettings
    data = PROBE_TEXT
    metrics = (
        Metric(
            id="nll",
            formula="nll_sum / tokens",
            unit="nats/token",
            source="cross entropy; Shannon 1948",
        ),
        Metric(
            id="nll_sum",
            formula="-sum ln p(token | those before it in its window) over all scored tokens",
            unit="nats",
            source="cross entropy; Shannon 1948",
        ),
        Metric(id="tokens", formula="number of scored tokens", unit="tokens", source="workbench"),
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
        found = Measurements()
        tokenizer = checkpoint.load_tokenizer()
        domains = cut(probe_text(), tokenizer, checkpoint.config, settings.window)
        model = checkpoint.load_model(device=measuring.device, dtype=measuring.dtype)
        token_set = hashlib.sha256()
        for done, (domain, windows) in enumerate(domains.items(), start=1):
            nll_sum = 0.0
            for ids_BT, labels_BT in windows.batches(settings.batch_size):
                nll_sum += summed_nll(model, ids_BT, labels_BT)
            token_set.update(token_hash(windows.ids, windows.lengths).encode())
            found.add("nll", nll_sum / windows.scored, domain=domain)
            found.add("nll_sum", nll_sum, domain=domain)
            found.add("tokens", windows.scored, domain=domain)
            found.add("bytes", windows.bytes, domain=domain)
            found.add("bits_per_byte", nll_sum / (math.log(2) * windows.bytes), domain=domain)
            measuring.progress(done / len(domains))
        found.notes["token_set_sha256"] = token_set.hexdigest()
        return found


def summed_nll(model: torch.nn.Module, ids_BT: torch.Tensor, labels_BT: torch.Tensor) -> float:
    """Nats of all labelled tokens (label -100: not scored), summed in float64."""
    device = next(model.parameters()).device
    logits_BTV = model(input_ids=ids_BT.to(device), use_cache=False).logits[:, :-1].float()
    nll = cross_entropy(
        logits_BTV.flatten(0, 1),
        labels_BT[:, 1:].flatten().to(device),
        ignore_index=-100,
        reduction="none",
    )
    return float(nll.double().sum())
