"""Singular values of every matrix and every attention head: ranks, tails, conditioning."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import ref

import torch

from probes.base import (
    Measurements,
    Measuring,
    Metric,
    Probe,
    ProbedCheckpoint,
    ProbeSettings,
)
from probes.singular_values import (
    TOLERANCE,
    finite_heads,
    head_spectra,
    head_triangles,
    product_norms,
    singular_values,
)
from probes.spectral import POWER_LAW_LIMIT, SPECTRAL, Values, rescaled, spectral_metrics
from workbench.errors import UsageError

METHOD = (
    "Singular values are the square roots of the Gram matrix's eigenvalues, products summed in "
    "float32 or float64, or come from a float64 SVD: the first of the three whose bound on the "
    f"relative error of the smallest one is at most {TOLERANCE:g}. Heads: QR and SVD in float64."
)


PRODUCTS = {"qk": ("q_proj", "k_proj"), "ov": ("o_proj", "v_proj")}
"""The products that act on the residual stream; the first has a slice for every query head."""
QK_NORMS = {"q_norm", "k_norm"}
QK_NORM_NOTE = (
    "The model normalises queries and keys: the spectral_norm of module 'qk' leaves q_norm and "
    "k_norm out and is not on the scale of the attention logits."
)


def _metrics() -> Iterable[Metric]:
    linear_algebra = "Golub & Van Loan, Matrix Computations, 2.4"
    yield Metric(
        id="spectral_norm",
        formula="s_1; module 'qk': |W_q' W_k|, 'ov': |W_o W_v| of each query head's slices, without"
        " biases, rotation and 1/sqrt(head size); 'qk' without q_norm and k_norm: in a model that "
        "has them (OLMo 2, Qwen3, Gemma 3) it is not on the scale of the attention logits, because "
        "the norms divide every query and key by its own RMS",
        source=f"{linear_algebra}; Elhage et al. 2021 (QK and OV circuits)",
    )
    yield Metric(id="nuclear_norm", formula="sum s", source=linear_algebra)
    yield Metric(
        id="condition_number",
        formula="s_1 / s_r; NULL if float64 cannot tell s_r from zero",
        source=linear_algebra,
    )
    yield Metric(
        id="stable_rank",
        formula="|W|_F^2 / |W|_2^2 = sum s^2 / s_1^2",
        source="Rudelson & Vershynin 2007, arXiv math/0503442",
    )
    yield Metric(
        id="effective_rank",
        formula="exp(-sum p ln p), p = s / sum s",
        source="Roy & Vetterli 2007, EUSIPCO",
    )
    yield Metric(
        id="per",
        formula="effective_rank / per_denominator",
        source="Diehl Martinez et al. 2024, arXiv 2410.11451 (proportional effective rank)",
    )
    yield Metric(id="per_denominator", formula="r = min(m, n)", source="the denominator of per")
    yield Metric(
        id="participation_ratio",
        formula="(sum s^2)^2 / sum s^4",
        source="Gao et al. 2017, bioRxiv 214262",
    )
    clauset = "Clauset, Shalizi & Newman 2009, arXiv 0706.1062, as in WeightWatcher"
    yield Metric(
        id="powerlaw_alpha",
        formula="1 + n / sum ln(x/xmin) over the n = powerlaw_tail_n values x = s^2 >= xmin; every "
        "x but the largest is tried as xmin, the least powerlaw_ks wins; values that float64 "
        "cannot tell from zero are left out",
        source=f"{clauset}; Martin & Mahoney 2021, arXiv 1810.01075",
    )
    yield Metric(
        id="powerlaw_ks",
        formula="max over the tail of |1 - (x/xmin)^(1 - alpha) - k/n|, k smaller values in it",
        source=clauset,
    )
    yield Metric(id="powerlaw_xmin", formula="the x = s^2 where the tail begins", source=clauset)
    yield Metric(
        id="powerlaw_tail_n",
        formula="number of x >= xmin",
        unit="singular values",
        source=clauset,
    )
    yield Metric(
        id="is_powerlaw",
        formula=f"1 if powerlaw_alpha <= {POWER_LAW_LIMIT:g}, else 0: the tail is no power law",
        source="Martin & Mahoney 2021, arXiv 1810.01075; WeightWatcher",
    )
    donoho = "Gavish & Donoho 2014, arXiv 1305.5870"
    yield Metric(
        id="mp_edge",
        formula="sigma (sqrt(m) + sqrt(n)), sigma = median(s) / sqrt(max(m, n) mu), mu the median "
        "of the Marchenko-Pastur law of ratio min(m, n)/max(m, n)",
        source=f"Marchenko & Pastur 1967; sigma: {donoho}",
    )
    yield Metric(
        id="mp_edge_outliers",
        formula="number of s > mp_edge",
        unit="singular values",
        source=f"Marchenko & Pastur 1967; sigma: {donoho}",
    )
    yield Metric(
        id="singular_value_error",
        formula="bound on the relative error of every singular value that is told from zero",
        source="workbench; the note spectral_method says how",
    )


class SpectraSettings(ProbeSettings):
    modules: str = ""
    """The matrices to measure, by module, such as q_proj,k_proj; empty for all of them."""
    heads: bool = True
    """Measure each attention head, and the heads' QK and OV products, as well."""


class SpectraProbe(Probe):
    """spectral_norm, nuclear_norm, condition_number, stable_rank, effective_rank, per,
    per_denominator, participation_ratio, powerlaw_alpha, powerlaw_ks, powerlaw_xmin,
    powerlaw_tail_n, is_powerlaw, mp_edge, mp_edge_outliers, singular_value_error.

    One row per matrix and view, and per head of the attention matrices: rows of q_proj, k_proj and
    v_proj (those of grouped queries have fewer heads), columns of o_proj. The modules ``qk`` and
    ``ov`` hold the ``spectral_norm`` of each query head's products. A matrix is decomposed once:
    its effective view is the stored one times a number.

    A matrix or head with NaN or Inf has no values, and their reason is the count of these elements;
    the other heads of the matrix keep their values.

    q_norm and k_norm are not part of ``qk``. Each query and key is divided by its own RMS, so no
    product of weights is on the scale of the logits; the weights of the norms, which set that
    scale, are measured by the probe weights. The note ``qk_norm`` marks the runs of such models.
    """

    id = "spectra"
    version = 3
    title = "Singular values of every matrix and attention head: ranks, power laws, outliers"
    needs = "tensors"
    Settings = SpectraSettings
    metrics = tuple(_metrics())

    def measure(
        self, checkpoint: ProbedCheckpoint, settings: SpectraSettings, measuring: Measuring
    ) -> Measurements:
        wanted = {name.strip() for name in settings.modules.split(",") if name.strip()}
        work = _Work(settings.heads, measuring.device)
        matrices: set[str] = set()
        tensors = 2 * len(checkpoint.tensor_names())  # an upper bound: scales are among them
        for done, (view, weight) in enumerate(checkpoint.both_views()):
            if weight.is_matrix:
                matrices.add(weight.module)
                if not wanted or weight.module in wanted:
                    work.add(view, weight)
            measuring.progress(min(done / tensors, 0.99))
        if wanted - matrices:
            raise UsageError(
                f"spectra.modules names {', '.join(sorted(wanted - matrices))}, which is no matrix "
                f"of the checkpoint: choose among {', '.join(sorted(matrices))}."
            )
        measuring.progress(1.0)
        work.found.notes |= {"spectral_method": METHOD, "spectral_methods": work.methods()}
        modules = {role.module for roles in checkpoint.roles().values() for role in roles}
        if QK_NORMS & modules and any(row["module"] == "qk" for row in work.found.rows):
            work.found.notes["qk_norm"] = QK_NORM_NOTE
        return work.found


@dataclass
class _Decomposed:
    """What both views of a matrix are made from."""

    metrics: Values
    method: str
    heads: list[Values] = field(default_factory=list)
    triangles: torch.Tensor | None = None
    """The heads' slices, up to a rotation; None where heads are not measured."""
    broken: dict[int, str] = field(default_factory=dict)
    """Why a head has no values, by head; its triangle is zero."""


class _Slices(NamedTuple):
    triangles: torch.Tensor
    broken: dict[int, str]
    scale: float
    width: int


class _Work:
    """Goes through the matrices of a checkpoint and collects their rows."""

    def __init__(self, by_head: bool, device: str) -> None:
        self.found = Measurements()
        self._by_head, self._device = by_head, device
        self._methods: Counter[str] = Counter()
        # An embedding comes again as the effective view's tied head, long after.
        self._done: list[tuple[ref[torch.Tensor], _Decomposed]] = []
        self._slices: dict[tuple[str, int | None, str], _Slices] = {}

    def add(self, view: str, weight: Any) -> None:
        done, scale = self._decomposed(weight), 1.0 if weight.scale is None else weight.scale
        place = {"view": view, "layer": weight.layer, "module": weight.module}
        self._add(rescaled(done.metrics, scale), place)
        for head, metrics in enumerate(done.heads):
            self._add(rescaled(metrics, scale), place | {"head": head})
        if done.triangles is not None:
            slices = _Slices(done.triangles, done.broken, scale, _width(weight))
            self._multiply(place, slices)

    def methods(self) -> str:
        """How many matrices each method decomposed."""
        return ", ".join(f"{method}: {n}" for method, n in sorted(self._methods.items()))

    def _add(self, metrics: Values, place: dict[str, Any]) -> None:
        for metric, value in metrics.items():
            if isinstance(value, str):
                self.found.add(metric, None, reason=value, **place)
            else:
                self.found.add(metric, value, **place)

    def _decomposed(self, weight: Any) -> _Decomposed:
        for tensor, decomposed in self._done:
            if tensor() is weight.stored:
                return decomposed
        decomposed = self._decompose(weight)
        self._done = [known for known in self._done if known[0]() is not None]
        self._done.append((ref(weight.stored), decomposed))
        self._methods[decomposed.method] += 1
        return decomposed

    def _decompose(self, weight: Any) -> _Decomposed:
        matrix, heads = weight.stored, (weight.heads or 0) if self._by_head else 0
        spectrum = singular_values(matrix, self._device)
        done = (
            _Decomposed(dict.fromkeys(SPECTRAL, spectrum), "none")
            if isinstance(spectrum, str)
            else _Decomposed(spectral_metrics(spectrum), spectrum.method)
        )
        if heads:
            side = weight.role.side
            if isinstance(spectrum, str):
                matrix, done.broken = finite_heads(matrix, heads, side)
            done.triangles = head_triangles(matrix, heads, side, self._device)
            of_heads = head_spectra(done.triangles, _width(weight))
            done.heads = [
                dict.fromkeys(SPECTRAL, done.broken[head])
                if head in done.broken
                else spectral_metrics(of_head)
                for head, of_head in enumerate(of_heads)
            ]
        return done

    def _multiply(self, place: dict[str, Any], slices: _Slices) -> None:
        """The heads' products, as soon as both factors of a view and layer have come."""
        key, added = (place["view"], place["layer"]), place["module"]
        self._slices[*key, added] = slices
        for module, factors in PRODUCTS.items():
            keys = [(*key, factor) for factor in factors]
            if added in factors and all(k in self._slices for k in keys):
                first, second = (self._slices.pop(k) for k in keys)
                for head, norm in enumerate(_norms(first, second, factors)):
                    scaled = rescaled({"spectral_norm": norm}, first.scale * second.scale)
                    self._add(scaled, place | {"module": module, "head": head})


def _norms(first: _Slices, second: _Slices, factors: tuple[str, str]) -> list[float | str]:
    """Of each query head's product; several query heads may share one slice of the second."""
    shared = len(first.triangles) // len(second.triangles)
    norms = product_norms(first.triangles, second.triangles, first.width)
    for head in range(len(norms)):
        for factor, reason in zip(
            factors, (first.broken.get(head), second.broken.get(head // shared)), strict=True
        ):
            if reason is not None:
                norms[head] = f"{factor}: {reason}"
                break
    return norms


def _width(weight: Any) -> int:
    """The side that is not cut into heads."""
    rows, columns = weight.stored.shape
    return int(columns if weight.role.side == "rows" else rows)
