"""Every registered probe on a real checkpoint: the contract, provenance notes, determinism."""

import math
from functools import cache

import pytest

from probes.base import (
    BENCHMARKS,
    HISTOGRAMS,
    MEASUREMENTS,
    SKETCHES,
    Measuring,
    installed_probes,
)
from workbench.errors import UsageError

SCHEMAS = {
    "measurements": MEASUREMENTS,
    "histograms": HISTOGRAMS,
    "benchmarks": BENCHMARKS,
    "sketches": SKETCHES,
}
QUICK = {
    "benchmarks": {"limit": 4, "max_length": 512},
    "loss": {"bytes_per_domain": 16000},
    "activations": {"windows_per_domain": 2, "window": 32},
    "attention": {"windows_per_domain": 2, "window": 32},
}


@pytest.fixture(scope="session")
def measured(yulan, llama):
    """Probe and form to what the probe found there, measured once for all tests."""
    forms = {"yulan": yulan, "llama": llama}
    return cache(lambda name, form: measure(name, forms[form]))


def measure(name, checkpoint, **settings):
    probe = installed_probes()[name]
    chosen = probe.Settings(**{**QUICK.get(name, {}), **settings})
    return probe().measure(checkpoint, chosen, Measuring())


def test_our_probes_are_registered():
    ours = {
        "activations", "attention", "benchmarks", "changes", "loss", "optimizer", "spectra",
        "weights",
    }  # fmt: skip
    assert ours <= set(installed_probes())


@pytest.mark.parametrize(
    "name", ["activations", "attention", "benchmarks", "loss", "spectra", "weights"]
)
@pytest.mark.parametrize("form", ["yulan", "llama"])
def test_a_probe_yields_what_it_declares_and_the_same_twice(name, form, measured, request):
    checkpoint = request.getfixturevalue(form)
    probe = installed_probes()[name]
    first, second = measured(name, form), measure(name, checkpoint)
    tables = first.tables()
    assert tables
    assert all(table.schema == SCHEMAS[kind] for kind, table in tables.items())
    yielded = {row["metric"] for row in [*first.rows, *first.histograms]}
    if form == "llama":
        yielded |= {"alpha"} if name == "weights" else set()
    assert yielded == {metric.id for metric in probe.metrics}
    assert tables == second.tables()
    assert first.notes == second.notes
    places = [tuple(v for k, v in r.items() if k not in ("value", "reason")) for r in first.rows]
    assert len(places) == len(set(places))
    if probe.needs == "model" and name != "benchmarks":
        assert len(first.notes["token_set_sha256"]) == 64


@pytest.mark.parametrize("probe", installed_probes().values(), ids=lambda probe: probe.id)
def test_every_metric_and_setting_is_documented(probe):
    for metric in probe.metrics:
        assert metric.formula
        assert metric.source
        assert metric.id in probe.__doc__
    for name, field in probe.Settings.model_fields.items():
        assert field.description, name


def test_progress_ends_at_one_and_never_falls(yulan):
    for name, probe in installed_probes().items():
        seen = []
        settings = probe.Settings(**QUICK.get(name, {}))
        probe().measure(yulan, settings, Measuring(progress=seen.append))
        assert seen == sorted(seen)
        assert seen[-1] == 1.0


def test_values_are_finite_or_missing_with_a_reason(measured):
    for name in installed_probes():
        for row in measured(name, "yulan").rows:
            assert (row["value"] is None) == (row["reason"] is not None), row
            assert row["value"] is None or math.isfinite(row["value"])


def test_a_window_beyond_the_context_is_refused_in_one_sentence(llama):
    for name, setting in (
        ("loss", "window"),
        ("attention", "window"),
        ("benchmarks", "max_length"),
    ):
        with pytest.raises(UsageError, match=r"context of 512"):
            measure(name, llama, **{setting: 513})
