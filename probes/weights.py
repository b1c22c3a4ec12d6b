"""Elementwise statistics of every weight, as stored and as effective."""

from collections.abc import Iterable
from typing import Any, Literal

from probes.base import (
    Measurements,
    Measuring,
    Metric,
    Probe,
    ProbedCheckpoint,
    ProbeSettings,
)
from probes.statistics import HISTOGRAM_EDGES, count_values, elementwise, log10_histogram
from workbench.checkpoints.roles import alpha_roles

_VIEWS: tuple[Literal["stored", "effective"], ...] = ("stored", "effective")


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
        found = Measurements()
        tensors = 2 * len(checkpoint.tensor_names())  # an upper bound: scales are among them
        done = 0
        for view in _VIEWS:
            sum_square, elements, broken = 0.0, 0, None
            for weight in checkpoint.weights(view):
                where: dict[str, Any] = {
                    "view": view,
                    "layer": weight.layer,
                    "module": weight.module,
                }
                counted = count_values(weight.stored, weight.scale)
                values = elementwise(counted)
                for metric, value in values.items():
                    if isinstance(value, str):
                        found.add(metric, None, reason=value, **where)
                    else:
                        found.add(metric, value, **where)
                found.add_histogram("log10_abs", HISTOGRAM_EDGES, log10_histogram(counted), **where)
                if weight.stored.dim() == 2:
                    elements += counted.n
                    frobenius = values["frobenius"]
                    if isinstance(frobenius, str):
                        broken = f"{weight.name}: {frobenius}"
                    else:
                        sum_square += frobenius**2
                done += 1
                measuring.progress(min(done / tensors, 0.99))
            total: dict[str, Any] = {"view": view, "module": "total", "reason": broken}
            found.add("frobenius", None if broken else sum_square**0.5, **total)
            found.add("rms", None if broken else (sum_square / elements) ** 0.5, **total)
        for name, alpha in checkpoint.alphas().items():
            for module, layer in alpha_roles(name):
                found.add("alpha", alpha, view="stored", layer=layer, module=module)
        measuring.progress(1.0)
        return found
