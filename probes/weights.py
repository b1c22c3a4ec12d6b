"""Elementwise statistics of every weight, as stored and as effective."""

from collections.abc import Iterable
from typing import Any

import torch

from probes.base import (
    Measurements,
    Measuring,
    Metric,
    Probe,
    ProbedCheckpoint,
    ProbeSettings,
    View,
)
from probes.statistics import (
    HISTOGRAM_EDGES,
    Counted,
    counted,
    distinct,
    elementwise,
    log10_histogram,
)

_VIEWS: tuple[View, ...] = ("stored", "effective")


def _metrics() -> Iterable[Metric]:
    yield Metric(
        id="frobenius",
        formula="sqrt(sum w^2); in module 'total' over all matrices of the view",
        source="Golub & Van Loan, Matrix Computations, 2.3",
    )
    yield Metric(
        id="rms",
        formula="sqrt(mean w^2) = frobenius / sqrt(mn); in module 'total' over all matrices",
        source="Yang et al. 2023, arXiv 2310.17813 (RMS norm of a matrix)",
    )
    moments = "elementary statistics"
    yield Metric(id="mean", formula="mean w", source=moments)
    yield Metric(id="std", formula="sqrt(mean (w - mean)^2), population", source=moments)
    yield Metric(id="max_abs", formula="max |w|", source=moments)
    yield Metric(id="min", formula="min w", source=moments)
    yield Metric(id="max", formula="max w", source=moments)
    yield Metric(
        id="zero_fraction",
        formula="share of elements with |w| < 1e-10",
        unit="fraction",
        source="workbench",
    )
    yield Metric(
        id="kurtosis_excess",
        formula="mean(((w - mean)/std)^4) - 3, population std; NULL if std = 0",
        source="Joanes & Gill 1998 (g2)",
    )
    yield Metric(
        id="gini",
        formula="sum((2i - n - 1) |w|_(i)) / (n sum|w|), magnitudes ascending, i from 1",
        source="Hurley & Rickard 2009, arXiv 0811.4706",
    )
    yield Metric(
        id="hoyer",
        formula="(sqrt(n) - |w|_1/|w|_2) / (sqrt(n) - 1)",
        source="Hoyer 2004, JMLR 5",
    )
    yield Metric(
        id="alpha",
        formula="the learnable scale that multiplies the module's stored matrix",
        source="Nishida et al. 2024, arXiv 2410.23819 (WeSaR); YuLan-Mini, arXiv 2412.17743",
    )
    yield Metric(
        id="log10_abs",
        formula="histogram of log10|w| in bins of 0.1 from -12 to 3; the outermost bins take "
        "what lies beyond, zeros in the first",
        unit="elements per bin",
        source="workbench",
    )


class WeightsProbe(Probe):
    """frobenius, rms, mean, std, max_abs, min, max, zero_fraction, kurtosis_excess, gini, hoyer,
    alpha, and the histogram log10_abs.

    One row per tensor and view. Module ``total`` (layer NULL) is taken over all matrices of the
    view: a tied head is no matrix of its own in the stored view and counts once there, and is one
    in the effective view. ``alpha`` has the view ``stored``; the one that gate_proj and up_proj
    share stands under both.
    """

    id = "weights"
    version = 1
    title = "Norms, moments, sparsity and histograms of every weight"
    needs = "tensors"
    Settings = ProbeSettings
    metrics = tuple(_metrics())

    def measure(
        self, checkpoint: ProbedCheckpoint, settings: ProbeSettings, measuring: Measuring
    ) -> Measurements:
        views = {view: _View(view) for view in _VIEWS}
        tensors = 2 * len(checkpoint.tensor_names())  # an upper bound: scales are among them
        stored: torch.Tensor | None = None
        for done, (view, weight) in enumerate(checkpoint.both_views()):
            if weight.stored is not stored:  # both views count the same values
                stored, values_and_counts = weight.stored, distinct(weight.stored)
            views[view].add(weight, counted(*values_and_counts, weight.scale))
            measuring.progress(min(done / tensors, 0.99))
        found = Measurements()
        for part in views.values():
            part.add_total()
            found.rows += part.found.rows
            found.histograms += part.found.histograms
        scaled_by = checkpoint.alpha_roles()
        for name, alpha in checkpoint.alphas().items():
            for role in scaled_by[name]:
                found.add("alpha", alpha, view="stored", layer=role.layer, module=role.module)
        measuring.progress(1.0)
        return found


class _View:
    """What is found in one view while both are gone through together."""

    def __init__(self, view: View) -> None:
        self.found = Measurements()
        self._view = view
        self._sum_square, self._elements = 0.0, 0
        self._broken: str | None = None

    def add(self, weight: Any, values: Counted) -> None:
        where: dict[str, Any] = {
            "view": self._view,
            "layer": weight.layer,
            "module": weight.module,
        }
        metrics = elementwise(values)
        for metric, value in metrics.items():
            if isinstance(value, str):
                self.found.add(metric, None, reason=value, **where)
            else:
                self.found.add(metric, value, **where)
        self.found.add_histogram("log10_abs", HISTOGRAM_EDGES, log10_histogram(values), **where)
        if weight.is_matrix:
            self._elements += values.n
            frobenius = metrics["frobenius"]
            if isinstance(frobenius, str):
                self._broken = f"{weight.name}: {frobenius}"
            else:
                self._sum_square += frobenius**2

    def add_total(self) -> None:
        broken, square = self._broken, self._sum_square
        total: dict[str, Any] = {"view": self._view, "module": "total", "reason": broken}
        self.found.add("frobenius", None if broken else square**0.5, **total)
        self.found.add("rms", None if broken else (square / self._elements) ** 0.5, **total)
