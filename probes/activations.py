"""Statistics of the hidden states at every site of every layer, read through nnsight."""

import json
import math
from collections import defaultdict

import torch
from pydantic import Field, PositiveFloat

from probes.activation_metrics import METRICS
from probes.activation_statistics import (
    LENS_METRICS,
    LensStatistics,
    LogitStatistics,
    NeuronMaxima,
    SiteStatistics,
    Values,
    gram_triangle,
    growth_exponent,
)
from probes.base import SCOPES, Measurements, Measuring, Probe, ProbedCheckpoint, Scope
from probes.batches import with_batch_size
from probes.finite import Place, site_reason, warning
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
    variance_median, rms_median, max_abs_median, kurtosis_median, massive_tokens, massive_position,
    top1_abs, top1_position, top1_feature, top1_token, top2_abs, top2_position, top2_feature,
    top2_token, top3_abs, top3_position, top3_feature, top3_token, median_abs, top1_ratio,
    massive_count, residual_growth, residual_growth_median, growth_exponent, growth_exponent_norms,
    dead_fraction, tokens, logit_lens_kl, logit_lens_top1, logz_mean, logit_mean, logit_max,
    logit_std, z_loss.

    Sites (column ``module``), each as the equivalent plain model computes it: ``embed`` what
    enters the first layer; in a layer ``input_norm``, ``attention`` (what the attention adds to
    the residual), ``residual_mid`` (the residual after that), ``post_attention_norm`` (the norm
    before the MLP), ``mlp`` (what the MLP adds) and ``residual`` (what leaves the layer);
    ``final_norm``. A site that the architecture does not have has no rows. Statistics of the
    logits stand under ``lm_head``, dead_fraction under ``mlp``, the lens of a layer under its
    ``residual``, the growth of the residual under ``residual`` without a layer. Layers count
    from 0.

    One massive element of the start token can make up nearly all of a mean over tokens. So such
    statistics are also computed over the scopes ``no_start`` and ``no_massive`` and stored with
    that ``scope``, and their medians over all tokens under ids of their own.

    A site with NaN or Inf has no values, and neither has what follows from it; the reason says what
    is not finite and where that began. The values of the sites before it exist.

    Sketches of kind ``activation_gram``, for ``embed`` and every ``residual``: the upper triangle
    of the Gram matrix of the sampled tokens, features centred over them, for CKA between phases;
    empty where an activation is not finite.
    """

    id = "activations"
    version = 3
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
            batches = [ids_BT.to(measuring.device) for ids_BT in ids_NT.split(batch_size)]
            for ids_BT in batches:
                chosen_BT = sampled_NT[done : done + len(ids_BT)].to(measuring.device)
                reading.read(ids_BT, chosen_BT)
                done += len(ids_BT)
                measuring.progress(done / len(ids_NT))
            reading.settle(batches)
            return reading

        reading = with_batch_size(
            read, settings.batch_size, device=measuring.device, windows=len(ids_NT)
        )
        found = reading.measurements(settings.dead_tau)
        if settings.logit_lens:
            for layer, lens in enumerate(logit_lens(parts, reading.rows("residual"))):
                _add(found, reading.lens_values(lens), ("residual", layer))
        reading.add_sketches(found)
        found.add("tokens", ids_NT[:, 1:].numel(), scope="no_start")
        found.add("tokens", ids_NT.numel())
        found.notes["token_set_sha256"] = token_hash(ids_NT)
        if settings.text_sha256 is not None:
            found.notes["text_sha256"] = settings.text_sha256
        found.notes["sampled_token_set_sha256"] = token_hash(ids_NT[sampled_NT][None])
        found.notes["token_text"] = _token_text(found, checkpoint)
        if reading.first_problem is not None:
            found.notes["warning"] = warning(model, "activations", reading.first_problem)
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
        self.sites: dict[Place, SiteStatistics] = {}
        self._neurons: dict[int | None, NeuronMaxima] = defaultdict(NeuronMaxima)
        self._logits = LogitStatistics()
        self._rows: dict[Place, list[torch.Tensor]] = defaultdict(list)

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

    def settle(self, batches: list[torch.Tensor]) -> None:
        """Decide which tokens are massive, after all ``batches`` were read.

        They are read once more for the sites where the first tokens' RMS gave no idea of it.
        """
        undecided = {place for place, site in self.sites.items() if not site.settle()}

        def see(site: str) -> Handler:
            def take(x_BTD: torch.Tensor, layer: int | None) -> None:
                if (site, layer) in undecided:
                    self.sites[site, layer].recount(x_BTD)

            return take

        if undecided:
            handlers = {site: see(site) for site, _ in undecided}
            for ids_BT in batches:
                self.parts.trace(ids_BT, handlers)

    def rows(self, site: str) -> list[torch.Tensor]:
        """Activations of the sampled tokens (n, D) at a site, of every layer that has it."""
        return [torch.cat(rows) for (module, _), rows in self._rows.items() if module == site]

    @property
    def problems(self) -> dict[Place, str]:
        """What is not finite at which sites, in the order of the computation."""
        of_neurons = {(NEURONS, layer): seen.problem() for layer, seen in self._neurons.items()}
        order = [(read.site, read.layer) for read in self.parts.reads] + [_LOGITS]
        seen = {place: site.problem() for place, site in self.sites.items()} | of_neurons
        seen[_LOGITS] = self._logits.problem()
        return {place: told for place in order if (told := seen.get(place)) is not None}

    @property
    def first_problem(self) -> Place | None:
        return next(iter(self.problems), None)

    def measurements(self, dead_tau: float) -> Measurements:
        """All values but the lens."""
        found = Measurements()
        problems = self.problems
        first = next(iter(problems), None)
        reasons = {here: site_reason(told, here, first) for here, told in problems.items() if first}

        def add(values: Values, of: Place, scope: Scope = "all", under: str | None = None) -> None:
            if of in reasons:
                values = dict.fromkeys(values, reasons[of])
            _add(found, values, (under or of[0], of[1]), scope)

        for place, site in self.sites.items():
            for scope in SCOPES[::-1]:
                add(site.values(scope), place, scope)
            if place not in reasons:
                module, layer = place
                edges, counts = site.massive_positions()
                found.add_histogram("massive_position", edges, counts, layer=layer, module=module)
        for layer, neurons in self._neurons.items():
            for scope in SCOPES[1::-1]:
                dead: Values = {"dead_fraction": neurons.dead_fraction(dead_tau, scope)}
                add(dead, (NEURONS, layer), scope, under="mlp")
        add(self._logits.values(), _LOGITS)
        for scope in SCOPES[::-1]:
            _add(found, self._growth(scope, reasons), ("residual", None), scope)
        return found

    def _growth(self, scope: Scope, reasons: dict[Place, str]) -> Values:
        """From the residual after the first block to that after the last."""
        layers = len(self.parts.layers)
        places: list[Place] = [("residual", 0), ("residual", layers - 1)]
        ratios = {"residual_growth": "variance_mean"}
        if scope == "all":
            ratios["residual_growth_median"] = "variance_median"
        wrong = next((reasons[place] for place in places if place in reasons), None)
        if wrong is not None:
            return dict.fromkeys([*ratios, "growth_exponent", "growth_exponent_norms"], wrong)
        first, last = (self.sites[place] for place in places)
        values = [site.values(scope) for site in (first, last)]
        means = (first.mean_vector(scope), last.mean_vector(scope))
        norms = (first.mean_norm(scope), last.mean_norm(scope))
        growth: Values = {}
        for metric, exponent in (
            ("growth_exponent", growth_exponent(*means, layers)),
            ("growth_exponent_norms", growth_exponent(*norms, layers)),
        ):
            zero = "the mean after the first or the last block is zero"
            growth[metric] = zero if math.isnan(exponent) else exponent
        for metric, of in ratios.items():
            before, after = (float(value[of]) for value in values)
            growth[metric] = after / before if before > 0 else "the first layer's variance is zero"
        return growth

    def lens_values(self, lens: LensStatistics) -> Values:
        """The values of one layer, or the reason that the layer or the model gives."""
        values = lens.values()
        problem, first = self._logits.problem(), self.first_problem
        if problem is not None and first is not None:
            return dict.fromkeys(LENS_METRICS, site_reason(problem, _LOGITS, first))
        return values

    def add_sketches(self, found: Measurements) -> None:
        """The Gram matrices of the sampled tokens."""
        for (module, layer), rows in self._rows.items():
            x_ND = torch.cat(rows)
            triangle, norm = gram_triangle(x_ND)
            found.add_sketch(
                "activation_gram", triangle.numpy(), layer=layer, module=module, n=len(x_ND),
                norm=norm,
            )  # fmt: skip


_LOGITS: Place = ("lm_head", None)


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
    ids = {
        int(row["value"])
        for row in found.rows
        if row["metric"].endswith("_token") and row["value"] is not None
    }
    tokenizer = checkpoint.load_tokenizer()
    return json.dumps({i: tokenizer.decode([i]) for i in sorted(ids)}, ensure_ascii=False)


def _add(found: Measurements, values: Values, place: Place, scope: Scope = "all") -> None:
    module, layer = place
    for metric, value in values.items():
        if isinstance(value, str):
            found.add(metric, None, reason=value, module=module, layer=layer, scope=scope)
        else:
            found.add(metric, value, module=module, layer=layer, scope=scope)
