"""What is kept of a checkpoint's weights so that it can be compared with any other one."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from probes.base import Measurements, Measuring, Metric, Probe, ProbedCheckpoint, ProbeSettings
from probes.sketches import GRAIN, seed_of, sketch

KIND = "weight"


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
    The sketch of a tensor with elements that are not finite is empty.
    """

    id = "changes"
    version = 1
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
                finite = np.isfinite(kept.norm) and np.isfinite(kept.values).all()
                found.add_sketch(
                    KIND, kept.values if finite else np.empty(0), view="effective",
                    layer=weight.layer, module=weight.module, n=weight.stored.numel(),
                    norm=kept.norm if finite else 0.0, digest=kept.digest,
                )  # fmt: skip
                measuring.progress(min(done / tensors, 0.99))
        measuring.progress(1.0)
        return found
