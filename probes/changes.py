"""What is kept of a checkpoint's weights so that it can be compared with any other one."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field

from probes.base import Measurements, Measuring, Metric, Probe, ProbedCheckpoint, ProbeSettings
from probes.sketches import GRAIN, seed_of, sketch
from workbench.checkpoints.checkpoint import scaled
from workbench.errors import CheckpointError

KIND = "weight"
CHUNK = 2**20
"""Elements of a tensor that are in memory in float64 at a time."""


def _metrics() -> Iterable[Metric]:
    yield Metric(
        id="relative_change",
        formula="|W_b - W_a|_F / |W_a|_F; module 'total' over all weights, of a layer or the model",
        source="workbench; estimated by CountSketch: Charikar, Chen & Farach-Colton 2002",
    )
    yield Metric(
        id="cosine",
        formula="<W_a, W_b> / (|W_a|_F |W_b|_F)",
        source="workbench; estimated as 1 - |W_a/|W_a| - W_b/|W_b||^2 / 2",
    )
    yield Metric(
        id="change_per_btoken",
        formula="relative_change / (tokens_b of phase b - tokens_b of phase a)",
        unit="per billion tokens",
        source="workbench",
    )
    yield Metric(
        id="cka",
        formula="HSIC1(K, L) / sqrt(HSIC1(K, K) HSIC1(L, L)), K and L the linear Gram matrices of "
        "the activations of the same tokens in two phases; may be negative",
        source="Kornblith et al. 2019, arXiv 1905.00414; HSIC1: Song et al. 2012, JMLR 13",
    )
    shuffled = "the rows of one side shuffled (fixed seed, 100 shuffles)"
    yield Metric(id="cka_null", formula=f"mean of cka with {shuffled}", source="workbench")
    yield Metric(
        id="cka_null_95", formula=f"95th percentile of cka with {shuffled}", source="workbench"
    )


class ChangesSettings(ProbeSettings):
    width: Annotated[int, Field(ge=GRAIN, multiple_of=GRAIN)] = 2048
    """Numbers kept of a tensor, a multiple of 256; the error falls with its root. Only phases
    measured with the same width can be compared."""


class ChangesProbe(Probe):
    """A sketch of every weight, in the effective view, for the metrics between two phases:
    relative_change, cosine and change_per_btoken; cka, cka_null and cka_null_95 come in the same
    way from what other probes keep of activations.

    The metrics are computed by `workbench probe` as soon as two phases of a suite have been
    measured. A stored matrix is the effective one times a number, and the authors of YuLan-Mini
    changed that number between phases: a change of the stored weights means nothing by itself.
    A tensor with NaN or Inf has an empty sketch of norm 0, which is compared with none, and a row
    of relative_change without a value, whose reason is the count of these elements. Its digest is
    that of all its bytes.
    """

    id = "changes"
    version = 2
    title = "Sketches of every weight: the change and angle between any two phases"
    needs = "tensors"
    Settings = ChangesSettings
    metrics = tuple(_metrics())

    def measure(
        self, checkpoint: ProbedCheckpoint, settings: ChangesSettings, measuring: Measuring
    ) -> Measurements:
        found = Measurements()
        tensors = len(checkpoint.tensor_names()) + 1  # an upper bound: a tied head may come
        with ThreadPoolExecutor(torch.get_num_threads(), "sketch") as pool:
            for done, weight in enumerate(checkpoint.weights("effective")):
                kept = sketch(
                    weight.stored,
                    seed=seed_of(f"{weight.module} {weight.layer}"),
                    width=settings.width,
                    scale=weight.scale,
                    pool=pool,
                )
                where: dict[str, Any] = {
                    "view": "effective",
                    "layer": weight.layer,
                    "module": weight.module,
                }
                found.add_sketch(
                    KIND,
                    kept.values,
                    n=weight.stored.numel(),
                    norm=kept.norm,
                    digest=kept.digest,
                    **where,
                )
                if kept.reason is not None:
                    found.add("relative_change", None, reason=kept.reason, **where)
                measuring.progress(min(done / tensors, 0.99))
        measuring.progress(1.0)
        return found


class Change(NamedTuple):
    """One weight in two checkpoints."""

    module: str
    layer: int | None
    norm_a: float
    norm_b: float
    distance: float


def compared(first: Iterable[Any], second: Iterable[Any]) -> Iterator[Change]:
    """The weights that both hold, in one shape and of finite elements; float64 arithmetic.

    Both come in reading order; vectors that only one side has are held until the end, matrices are
    not. Raises CheckpointError where the matrices are not the same ones.
    """
    kept: dict[tuple[str, int | None], list[Any]] = {}
    left, right = iter(first), iter(second)
    while True:
        a, b = (_next_matrix(side, kept) for side in (left, right))
        for of_both in [key for key, held in kept.items() if len(held) == 2]:
            yield from _change(*kept.pop(of_both))
        if a is None and b is None:
            return
        if a is None or b is None or (a.module, a.layer) != (b.module, b.layer):
            other = a or b
            raise CheckpointError(
                f"Only one of the two checkpoints has the matrix {other.name} in its place: "
                "compare checkpoints of one architecture."
            )
        yield from _change(a, b)


def _next_matrix(weights: Iterator[Any], kept: dict[tuple[str, int | None], list[Any]]) -> Any:
    """The next matrix; vectors on the way to it are kept."""
    for weight in weights:
        if weight.stored.dim() >= 2:
            return weight
        kept.setdefault((weight.module, weight.layer), []).append(weight)
    return None


def _change(a: Any, b: Any) -> Iterator[Change]:
    if a.stored.shape != b.stored.shape:
        return
    squares = np.zeros(3)
    for one, other in zip(
        *(w.stored.detach().reshape(-1).split(CHUNK) for w in (a, b)), strict=True
    ):
        x, y = scaled(one, a.scale).double().numpy(), scaled(other, b.scale).double().numpy()
        gap = x - y
        squares += [x @ x, y @ y, gap @ gap]
    if np.isfinite(squares).all():
        yield Change(a.module, a.layer, *(float(v) for v in np.sqrt(squares)))
