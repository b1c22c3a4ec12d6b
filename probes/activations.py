"""Statistics of the hidden states at every site of every layer, read through nnsight."""

import json
from collections import defaultdict

import torch
from pydantic import Field, PositiveFloat

from probes.activation_statistics import (
    LensStatistics,
    LogitStatistics,
    NeuronMaxima,
    SiteStatistics,
    Values,
    gram_triangle,
    growth_exponent,
)
from probes.base import Measurements, Measuring, Metric, Probe, ProbedCheckpoint
from probes.batches import with_batch_size
from probes.sites import (
    EMBED,
    FINAL_NORM,
    LAYER_SITES,
    NEURONS,
    Anatomy,
    Handler,
    WindowSettings,
    anatomy,
    load_with_windows,
)
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
    *(
        metric
        for rank, which in ((1, "largest"), (2, "second largest"), (3, "third largest"))
        for metric in (
            Metric(
                id=f"top{rank}_abs",
                formula=f"{which} max over windows of |x|, one for each (position, feature)",
                source=_MASSIVE,
            ),
            Metric(
                id=f"top{rank}_position",
                formula=f"position in its window of the token that holds top{rank}_abs, from 0",
                unit="position",
                source=_MASSIVE,
            ),
            Metric(
                id=f"top{rank}_feature",
                formula=f"feature that holds top{rank}_abs, from 0",
                unit="feature",
                source=_MASSIVE,
            ),
            Metric(
                id=f"top{rank}_token",
                formula=f"token id at the place of top{rank}_abs; its text is in the run's notes",
                unit="token id",
                source=_MASSIVE,
            ),
        )
    ),
    Metric(
        id="median_abs",
        formula="mean over windows of the (lower) median of |x| over the elements at 16 evenly "
        "spaced positions",
        source=_MASSIVE,
        version=2,
    ),
    Metric(id="top1_ratio", formula="top1_abs / median_abs", source=_MASSIVE, version=2),
    Metric(
        id="massive_count",
        formula="number of elements with |x| > 100 and |x| > 1000 x their window's median of |x| "
        "(a flag that small models do not raise)",
        unit="elements",
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
        id="logit_lens_kl",
        formula="mean over sampled tokens of KL(p || q) = sum p (ln p - ln q), p the model's "
        "distribution and q that of final norm and head on the layer's residual",
        unit="nats",
        source="nostalgebraist 2020 (logit lens); Belrose et al. 2023, arXiv 2303.08112",
    ),
    Metric(
        id="logit_lens_top1",
        formula="share of sampled tokens at which the layer's likeliest token is the model's",
        unit="fraction",
        source="nostalgebraist 2020 (logit lens)",
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


LOGITS_AT_A_TIME = 2**25
"""Logits that one product with the head gives: 128 MiB of float32; fewer tokens make it slower."""


class ActivationsSettings(WindowSettings):
    dead_tau: PositiveFloat = 1e-3
    """A neuron below this share of the median neuron's maximum counts as dead."""
    sampled_tokens: int = Field(default=256, ge=4)
    """Tokens, evenly over the windows, at which the logit lens is taken and whose activations are
    kept as a Gram matrix; all but the start tokens if there are fewer."""
    logit_lens: bool = True
    """Apply final norm and head to every layer: a large vocabulary makes this the longest part."""


class ActivationsProbe(Probe):
    """mean, variance_mean, rms_mean, rms_pooled, max_abs, kurtosis_excess, neuron_kurtosis,
    top1_abs, top1_position, top1_feature, top1_token, top2_abs, top2_position, top2_feature,
    top2_token, top3_abs, top3_position, top3_feature, top3_token, median_abs, top1_ratio,
    massive_count, residual_growth, growth_exponent, growth_exponent_norms, dead_fraction, tokens,
    logit_lens_kl, logit_lens_top1, logz_mean, logit_mean, logit_max, logit_std, z_loss.

    Sites (column ``module``), each as the equivalent plain model computes it: ``embed`` what
    enters the first layer; in a layer ``input_norm``, ``attention`` (what the attention adds to
    the residual), ``residual_mid`` (the residual after that), ``post_attention_norm`` (the norm
    before the MLP), ``mlp`` (what the MLP adds) and ``residual`` (what leaves the layer);
    ``final_norm``. A site that the architecture does not have has no rows. Statistics of the
    logits stand under ``lm_head``, dead_fraction under ``mlp``, the lens of a layer under its
    ``residual``, the growth of the residual under ``residual`` without a layer. Layers count
    from 0.

    Sketches of kind ``activation_gram``, for ``embed`` and every ``residual``: the upper triangle
    of the Gram matrix of the sampled tokens, features centred over them, for CKA between phases.
    """

    id = "activations"
    version = 2
    title = "Hidden states at every site: moments, outliers, growth, logit lens, dead neurons"
    needs = "model"
    Settings = ActivationsSettings
    data = PROBE_TEXT
    metrics = METRICS

    @torch.no_grad()
    def measure(
        self, checkpoint: ProbedCheckpoint, settings: ActivationsSettings, measuring: Measuring
    ) -> Measurements:
        model, ids_NT = load_with_windows(checkpoint, settings, measuring)
        parts = anatomy(model)
        sampled_NT = sampled(ids_NT, settings.sampled_tokens)

        def read(batch_size: int) -> ActivationReading:
            reading = ActivationReading(parts)
            done = 0
            for ids_BT in ids_NT.split(batch_size):
                chosen_BT = sampled_NT[done : done + len(ids_BT)].to(measuring.device)
                reading.read(ids_BT.to(measuring.device), chosen_BT)
                done += len(ids_BT)
                measuring.progress(done / len(ids_NT))
            return reading

        reading = with_batch_size(
            read, settings.batch_size, device=measuring.device, windows=len(ids_NT)
        )
        found = reading.measurements(settings.dead_tau)
        if settings.logit_lens:
            for layer, lens in enumerate(logit_lens(parts, reading.rows("residual"))):
                _add(found, lens.values(), "residual", layer)
        reading.add_sketches(found)
        found.add("tokens", ids_NT.numel())
        found.notes["token_set_sha256"] = token_hash(ids_NT)
        if settings.text_sha256 is not None:
            found.notes["text_sha256"] = settings.text_sha256
        found.notes["sampled_token_set_sha256"] = token_hash(ids_NT[sampled_NT][None])
        found.notes["token_text"] = _token_text(found, checkpoint)
        return found


def sampled(ids_NT: torch.Tensor, count: int) -> torch.Tensor:
    """Where the sampled tokens stand (N, T, bool): at even distances over all windows.

    Start tokens are left out: they are alike in all windows and of a size of their own.
    """
    chosen_NT = torch.zeros(ids_NT.shape, dtype=torch.bool)
    windows, length = chosen_NT[:, 1:].shape
    at = torch.linspace(0, windows * length - 1, min(count, windows * length)).round().long()
    chosen_NT[at // length, 1 + at % length] = True
    return chosen_NT


class ActivationReading:
    """The statistics of every site of one model, filled batch by batch inside the trace."""

    def __init__(self, parts: Anatomy) -> None:
        self.parts = parts
        self.sites: dict[tuple[str, int | None], SiteStatistics] = {}
        self._neurons: dict[int | None, NeuronMaxima] = defaultdict(NeuronMaxima)
        self._logits = LogitStatistics()
        self._rows: dict[tuple[str, int | None], list[torch.Tensor]] = defaultdict(list)

    def handlers(self, ids_BT: torch.Tensor, chosen_BT: torch.Tensor) -> dict[str, Handler]:
        """What takes in each site of one batch."""

        def see(site: str) -> Handler:
            def take(x_BTD: torch.Tensor, layer: int | None) -> None:
                if (site, layer) not in self.sites:
                    factor = self.parts.factor(site, layer)
                    ends = site == "residual" and layer in (0, len(self.parts.layers) - 1)
                    self.sites[site, layer] = SiteStatistics(factor, mean_vector=ends)
                self.sites[site, layer].update(x_BTD, ids_BT)
                if site in (EMBED, "residual"):
                    self._rows[site, layer].append(x_BTD[chosen_BT])
                if site == FINAL_NORM:
                    for normed_ND in x_BTD.flatten(0, 1).split(_rows_held(self.parts)):
                        self._logits.update(self.parts.logits(normed_ND))

            return take

        def see_neurons(h_BTF: torch.Tensor, layer: int | None) -> None:
            self._neurons[layer].update(h_BTF)

        sites = (EMBED, *LAYER_SITES, FINAL_NORM)
        return {site: see(site) for site in sites} | {NEURONS: see_neurons}

    def read(self, ids_BT: torch.Tensor, chosen_BT: torch.Tensor) -> None:
        """One forward pass; ``chosen_BT`` says which tokens' activations are kept."""
        self.parts.trace(ids_BT, self.handlers(ids_BT, chosen_BT))

    def rows(self, site: str) -> list[torch.Tensor]:
        """Activations of the sampled tokens (n, D) at a site, of every layer that has it."""
        return [torch.cat(rows) for (module, _), rows in self._rows.items() if module == site]

    def measurements(self, dead_tau: float) -> Measurements:
        """All values but the lens."""
        found = Measurements()
        for (module, layer), site in self.sites.items():
            _add(found, site.values(), module, layer)
        for layer, neurons in self._neurons.items():
            _add(found, {"dead_fraction": neurons.dead_fraction(dead_tau)}, "mlp", layer)
        _add(found, self._logits.values(), "lm_head", None)
        layers = len(self.parts.layers)
        first, last = self.sites["residual", 0], self.sites["residual", layers - 1]
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

    def add_sketches(self, found: Measurements) -> None:
        """The Gram matrices of the sampled tokens."""
        for (module, layer), rows in self._rows.items():
            x_ND = torch.cat(rows)
            triangle, norm = gram_triangle(x_ND)
            found.add_sketch(
                "activation_gram", triangle.numpy(), layer=layer, module=module, n=len(x_ND),
                norm=norm,
            )  # fmt: skip


def _rows_held(parts: Anatomy) -> int:
    return max(1, LOGITS_AT_A_TIME // parts.vocabulary)


def logit_lens(parts: Anatomy, residuals: list[torch.Tensor]) -> list[LensStatistics]:
    """The prediction from every layer's residual (n, D) against that from the last one's.

    The last layer's is the model's own, so its divergence is 0. Logits are held for some tokens
    of two layers at a time.
    """
    found = [LensStatistics() for _ in residuals]
    chunks = zip(*(x_ND.split(_rows_held(parts)) for x_ND in residuals), strict=True)
    for chunk in chunks:
        final_NV = _log_probabilities(parts, chunk[-1])
        for lens, x_ND in zip(found, chunk, strict=True):
            lens.update(final_NV, _log_probabilities(parts, x_ND))
    return found


def _log_probabilities(parts: Anatomy, x_ND: torch.Tensor) -> torch.Tensor:
    return parts.logits(parts.norm(x_ND)).float().log_softmax(-1)


def _token_text(found: Measurements, checkpoint: ProbedCheckpoint) -> str:
    """JSON object: what the tokens with extreme activations spell, by id."""
    ids = {int(row["value"]) for row in found.rows if row["metric"].endswith("_token")}
    tokenizer = checkpoint.load_tokenizer()
    return json.dumps({i: tokenizer.decode([i]) for i in sorted(ids)}, ensure_ascii=False)


def _add(found: Measurements, values: Values, module: str, layer: int | None) -> None:
    for metric, value in values.items():
        if isinstance(value, str):
            found.add(metric, None, reason=value, module=module, layer=layer)
        else:
            found.add(metric, value, module=module, layer=layer)
