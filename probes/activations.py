"""Statistics of the hidden states at every site of every layer, read through nnsight."""

from collections import defaultdict
from typing import Any

import torch
from nnsight import NNsight
from pydantic import Field, PositiveFloat, PositiveInt

from probes.activation_statistics import (
    LogitStatistics,
    NeuronMaxima,
    SiteStatistics,
    Values,
    growth_exponent,
)
from probes.base import Measurements, Measuring, Metric, Probe, ProbedCheckpoint, ProbeSettings
from probes.sites import final_norm_factor, layer_factors, load_with_windows
from probes.text import PROBE_TEXT, token_hash

_YULAN = "YuLan-Mini, arXiv 2412.17743, section on training stability"
_MASSIVE = "Sun et al. 2024, arXiv 2402.17762 (massive activations)"
_OLMO2 = "OLMo 2, arXiv 2501.00656, section 3.2"

METRICS = (
    Metric(id="mean", formula="mean over tokens and features of x", source=_YULAN),
    Metric(
        id="variance_mean",
        formula="mean over tokens of the variance over features (Bessel-corrected)",
        source=_YULAN,
    ),
    Metric(
        id="rms_mean", formula="mean over tokens of sqrt(mean over features x^2)", source=_YULAN
    ),
    Metric(
        id="rms_pooled",
        formula="sqrt(mean over tokens and features x^2)",
        source="elementary statistics",
    ),
    Metric(id="max_abs", formula="max |x|", source=_MASSIVE),
    Metric(
        id="kurtosis_excess",
        formula="mean(((x - mean)/std)^4) - 3 over all tokens and features, population std",
        source="Joanes & Gill 1998 (g2)",
    ),
    Metric(
        id="neuron_kurtosis",
        formula="E_j[s_j^4] / (E_j[s_j^2])^2, s_j the RMS of feature j over tokens; in [1, d]",
        source="He et al. 2024, arXiv 2405.19279",
    ),
    Metric(id="top1_abs", formula="largest |x|", source=_MASSIVE),
    Metric(id="top2_abs", formula="second largest |x|", source=_MASSIVE),
    Metric(id="top3_abs", formula="third largest |x|", source=_MASSIVE),
    Metric(
        id="median_abs",
        formula="mean over windows of the (lower) median of |x| over the window's elements",
        source=_MASSIVE,
    ),
    Metric(id="top1_ratio", formula="top1_abs / median_abs", source=_MASSIVE),
    Metric(
        id="top1_position",
        formula="position in its window of the token that holds top1_abs, from 0",
        unit="position",
        source=_MASSIVE,
    ),
    Metric(
        id="top1_feature",
        formula="feature that holds top1_abs, from 0",
        unit="feature",
        source=_MASSIVE,
    ),
    Metric(
        id="residual_growth",
        formula="variance_mean(residual, last layer) / variance_mean(residual, first layer)",
        source=_YULAN,
    ),
    Metric(
        id="growth_exponent",
        formula="(1/L) ln(|v'|/|v|), v and v' the mean vectors over tokens after the first and "
        "the last block",
        source=_OLMO2,
    ),
    Metric(
        id="growth_exponent_norms",
        formula="(1/L) ln(n'/n), n and n' the mean norms over tokens after the first and the "
        "last block",
        source=_OLMO2 + " (variant with the mean of norms)",
    ),
    Metric(
        id="dead_fraction",
        formula="share of MLP neurons with max over tokens |h| < tau x the median neuron's max|h|",
        unit="fraction",
        source="workbench; tau is a setting",
    ),
    Metric(
        id="tokens",
        formula="number of tokens that were read, start tokens included",
        unit="tokens",
        source="workbench",
    ),
    Metric(
        id="logz_mean",
        formula="mean over tokens of ln sum exp(logits)",
        unit="nats",
        source="de Brébisson & Vincent 2016, arXiv 1604.08859",
    ),
    Metric(id="logit_mean", formula="mean of all logits", source="elementary statistics"),
    Metric(id="logit_max", formula="largest logit", source="elementary statistics"),
    Metric(
        id="logit_std",
        formula="sqrt(mean (logit - mean)^2) over all logits, population",
        source="elementary statistics",
    ),
    Metric(
        id="z_loss",
        formula="mean over tokens of (ln sum exp(logits))^2, without a coefficient",
        unit="nats^2",
        source="Chowdhery et al. 2022, arXiv 2204.02311 (PaLM), section 5",
    ),
)


class ActivationsSettings(ProbeSettings):
    window: int = Field(default=128, ge=4)
    """Tokens per window, its start token included; at most the checkpoint's context."""
    windows_per_domain: PositiveInt = 4
    """Full windows of the probe text that are read, of each domain."""
    batch_size: PositiveInt = 8
    """Windows per forward pass."""
    dead_tau: PositiveFloat = 1e-3
    """A neuron below this share of the median neuron's maximum counts as dead."""


class ActivationsProbe(Probe):
    """mean, variance_mean, rms_mean, rms_pooled, max_abs, kurtosis_excess, neuron_kurtosis,
    top1_abs, top2_abs, top3_abs, median_abs, top1_ratio, top1_position, top1_feature,
    residual_growth, growth_exponent, growth_exponent_norms, dead_fraction, tokens, logz_mean,
    logit_mean, logit_max, logit_std, z_loss.

    Sites (column ``module``), each as the equivalent plain Llama computes it: ``embed`` what
    enters the first layer; in a layer ``input_norm``, ``attention`` (what the attention adds to
    the residual), ``residual_mid`` (the residual after that), ``post_attention_norm``, ``mlp``
    (what the MLP adds) and ``residual`` (what leaves the layer); ``final_norm``. Statistics of
    the logits stand under ``lm_head``, dead_fraction under ``mlp``, the growth of the residual
    under ``residual`` without a layer. Layers count from 0.
    """

    id = "activations"
    version = 1
    title = "Hidden states at every site: moments, outliers, growth, dead neurons, logits"
    needs = "model"
    Settings = ActivationsSettings
    data = PROBE_TEXT
    metrics = METRICS

    @torch.no_grad()
    def measure(
        self, checkpoint: ProbedCheckpoint, settings: ActivationsSettings, measuring: Measuring
    ) -> Measurements:
        model, ids_NT = load_with_windows(
            checkpoint, measuring, settings.window, settings.windows_per_domain
        )
        reading = _Reading(model)
        batches = ids_NT.split(settings.batch_size)
        for done, ids_BT in enumerate(batches, start=1):
            reading.read(ids_BT.to(measuring.device))
            measuring.progress(done / len(batches))
        found = reading.measurements(settings.dead_tau)
        found.add("tokens", ids_NT.numel())
        found.notes["token_set_sha256"] = token_hash(ids_NT)
        return found


class _Reading:
    """The statistics of every site of one model, filled batch by batch inside the trace."""

    def __init__(self, model: Any) -> None:
        self._traced = NNsight(model)
        self._factors = [layer_factors(layer) for layer in model.model.layers]
        self._final = final_norm_factor(model)
        self._sites: dict[tuple[str, int | None], SiteStatistics] = defaultdict(SiteStatistics)
        self._neurons: dict[int, NeuronMaxima] = defaultdict(NeuronMaxima)
        self._logits = LogitStatistics()

    def _see(self, x_BTD: torch.Tensor, factor: float, module: str, layer: int | None) -> None:
        self._sites[module, layer].update(x_BTD if factor == 1.0 else x_BTD * factor)

    def read(self, ids_BT: torch.Tensor) -> None:
        """One forward pass; the reads stand in the order in which the modules run."""
        core = self._traced.model
        with self._traced.trace(input_ids=ids_BT, use_cache=False):
            self._see(core.layers[0].input, 1.0, "embed", None)
            for i, layer in enumerate(core.layers):
                f = self._factors[i]
                self._see(layer.input_layernorm.output, f.input_norm, "input_norm", i)
                self._see(layer.self_attn.output[0], f.attention, "attention", i)
                self._see(layer.post_attention_layernorm.input, 1.0, "residual_mid", i)
                self._see(
                    layer.post_attention_layernorm.output,
                    f.post_attention_norm,
                    "post_attention_norm",
                    i,
                )
                self._neurons[i].update(layer.mlp.down_proj.input)
                self._see(layer.mlp.output, f.mlp, "mlp", i)
                self._see(layer.output, 1.0, "residual", i)
            self._see(core.norm.output, self._final, "final_norm", None)
            self._logits.update(self._traced.lm_head.output)

    def measurements(self, dead_tau: float) -> Measurements:
        found = Measurements()
        for (module, layer), site in self._sites.items():
            _add(found, site.values(), module, layer)
        for layer, neurons in self._neurons.items():
            _add(found, {"dead_fraction": neurons.dead_fraction(dead_tau)}, "mlp", layer)
        _add(found, self._logits.values(), "lm_head", None)
        layers = len(self._factors)
        first, last = self._sites["residual", 0], self._sites["residual", layers - 1]
        before, after = first.values()["variance_mean"], last.values()["variance_mean"]
        growth: Values = {
            "residual_growth": "the first layer's variance does not exist or is zero",
            "growth_exponent": growth_exponent(first.mean_vector(), last.mean_vector(), layers),
            "growth_exponent_norms": growth_exponent(first.mean_norm(), last.mean_norm(), layers),
        }
        if isinstance(before, float) and isinstance(after, float) and before > 0:
            growth["residual_growth"] = after / before
        _add(found, growth, "residual", None)
        return found


def _add(found: Measurements, values: Values, module: str, layer: int | None) -> None:
    for metric, value in values.items():
        if isinstance(value, str):
            found.add(metric, None, reason=value, module=module, layer=layer)
        else:
            found.add(metric, value, module=module, layer=layer)
