"""Elementwise statistics of every weight, as stored and as effective."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Any
from weakref import ref

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
from probes.finite import scale_reason
from probes.statistics import HISTOGRAM_EDGES, Profile, Values, profile

IN_FLIGHT = 384 * 2**20
"""Bytes of tensors that are counted, or wait for it, before no further one is read."""
_VIEWS: tuple[View, ...] = ("stored", "effective")


def _metrics() -> Iterable[Metric]:
    heads = "; of a head: over its rows of q, k, v_proj, its columns of o_proj"
    yield Metric(
        id="frobenius",
        formula=f"sqrt(sum w^2); in module 'total' over all matrices of the view{heads}",
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
        "what lies beyond, zeros in the first; NaN and Inf are in no bin, and the reasons of the "
        "tensor's missing values count them",
        unit="elements per bin",
        source="workbench",
    )


class WeightsProbe(Probe):
    """frobenius, rms, mean, std, max_abs, min, max, zero_fraction, kurtosis_excess, gini, hoyer,
    alpha, and the histogram log10_abs.

    One row per tensor and view, and per attention head: its rows of q_proj, k_proj and v_proj
    (grouped queries share heads of k and v), its columns of o_proj. The effective view is the exact
    product of tensor and scale. Module ``total`` (layer NULL) is taken over all matrices of the
    view, heads and norms not among them: a tied head is no matrix of its own in the stored view and
    counts once there, and is one in the effective view. ``alpha`` has the view ``stored``; the one
    that gate_proj and up_proj share stands under both.

    A tensor or head with NaN or Inf has no values, and their reason is the count of these elements;
    its histogram counts the finite ones. Its view then has no ``total``.
    """

    id = "weights"
    version = 3
    title = "Norms, moments, sparsity and histograms of every weight and attention head"
    needs = "tensors"
    Settings = ProbeSettings
    metrics = tuple(_metrics())

    def measure(
        self, checkpoint: ProbedCheckpoint, settings: ProbeSettings, measuring: Measuring
    ) -> Measurements:
        views = {view: _View(view) for view in _VIEWS}
        tensors = 2 * len(checkpoint.tensor_names())  # an upper bound: scales are among them
        done = 0
        for weights, counted in _profiles(checkpoint):
            for view, weight in weights:
                views[view].add(weight, counted)
            done += len(weights)
            del weights, weight  # the tensor goes before the next ones are read
            measuring.progress(min(done / tensors, 0.99))
        found = Measurements()
        for part in views.values():
            part.add_total()
            found.rows += part.found.rows
            found.histograms += part.found.histograms
        scaled_by = checkpoint.alpha_roles()
        for name, alpha in checkpoint.alphas().items():
            for role in scaled_by[name]:
                where: dict[str, Any] = {"layer": role.layer, "module": role.module}
                found.add("alpha", alpha, view="stored", reason=scale_reason(alpha), **where)
        broken = [name for part in views.values() for name in part.broken]
        if broken:
            names = list(dict.fromkeys(broken))
            more = f" and {len(names) - 1:,} more of its tensors" if len(names) > 1 else ""
            found.notes["warning"] = f"NaN or Inf in {names[0]}{more}"
        measuring.progress(1.0)
        return found


_Weights = list[tuple[View, Any]]


def _profiles(checkpoint: ProbedCheckpoint) -> Iterator[tuple[_Weights, Profile]]:
    """Each tensor of both views with its statistics, in order; the next ones are read meanwhile.

    As many tensors are counted at once as torch may use threads.
    """
    threads = torch.get_num_threads()
    embed: tuple[ref[torch.Tensor], Future[Profile]] | None = None
    waiting: deque[tuple[_Weights, Future[Profile]]] = deque()
    pool = ThreadPoolExecutor(threads, "count")
    try:
        for _, same in groupby(checkpoint.both_views(), key=lambda pair: id(pair[1].stored)):
            weights = list(same)
            weight = weights[0][1]
            if embed is not None and embed[0]() is weight.stored:
                waiting.append((weights, embed[1]))  # a tied head, in the effective view
            else:
                counted = pool.submit(profile, weight.stored, weight.heads, weight.role.side)
                waiting.append((weights, counted))
                if weight.module == "embed":
                    embed = ref(weight.stored), counted
            del weight
            while len(waiting) > 2 * threads or _bytes(waiting) > IN_FLIGHT:
                weights, counted = waiting.popleft()
                yield weights, counted.result()
            del weights  # or its tensor would stay until the next has been read
        while waiting:
            weights, counted = waiting.popleft()
            yield weights, counted.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _bytes(waiting: Iterable[tuple[_Weights, Any]]) -> int:
    return sum(weights[0][1].stored.nbytes for weights, _ in waiting)


class _View:
    """What is found in one view while both are gone through together."""

    def __init__(self, view: View) -> None:
        self.found = Measurements()
        self._view = view
        self._sum_square, self._elements = 0.0, 0
        self.broken: list[str] = []
        """Names of the tensors that are not finite."""
        self._broken_matrices: list[str] = []

    def add(self, weight: Any, counted: Profile) -> None:
        where: dict[str, Any] = {
            "view": self._view,
            "layer": weight.layer,
            "module": weight.module,
        }
        whole, *heads = counted.metrics(weight.scale)
        self._add(whole, where)
        for head, metrics in enumerate(heads):
            self._add(metrics, where | {"head": head})
        histogram = counted.histogram(weight.scale)
        self.found.add_histogram("log10_abs", HISTOGRAM_EDGES, histogram, **where)
        frobenius = whole["frobenius"]
        if isinstance(frobenius, str):
            self.broken.append(weight.name)
        if weight.is_matrix:
            self._elements += counted.sizes[0]
            if isinstance(frobenius, str):
                self._broken_matrices.append(f"{weight.name}: {frobenius}")
            else:
                self._sum_square += frobenius**2

    def _add(self, metrics: Values, where: dict[str, Any]) -> None:
        for metric, value in metrics.items():
            if isinstance(value, str):
                self.found.add(metric, None, reason=value, **where)
            else:
                self.found.add(metric, value, **where)

    def add_total(self) -> None:
        broken, square = self._broken_matrices, self._sum_square
        more = f", and {len(broken) - 1:,} more matrices like it" if len(broken) > 1 else ""
        reason = broken[0] + more if broken else None
        total: dict[str, Any] = {"view": self._view, "module": "total", "reason": reason}
        self.found.add("frobenius", None if broken else square**0.5, **total)
        self.found.add("rms", None if broken else (square / self._elements) ** 0.5, **total)
