"""Phases x probes -> jobs: what has to be measured.

A job's fingerprint covers everything its numbers depend on: the checkpoint's files, the overrides,
the probe, its version and shipped data, the settings, dtype and kind of device. A job is skipped
when its fingerprint has succeeded for its phase: two phases of equal content are measured twice, so
that each has its own values and provenance.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from analysis_db.store import Store
from probes.base import Probe, ProbeSettings
from workbench.jobs.supply import Source
from workbench.suites import Phase, Suite


@dataclass(frozen=True)
class Job:
    """One probe on one phase's checkpoint."""

    suite: str
    phase: Phase
    source: Source
    probe: type[Probe]
    settings: ProbeSettings
    device: str
    dtype: str
    part: str = ""
    """The piece of the probe's work, where it has several."""

    @property
    def name(self) -> str:
        return f"{self.phase.label}, {self.probe.id} {self.part}".rstrip()

    @cached_property
    def settings_json(self) -> str:
        return json.dumps(self.settings.model_dump(mode="json"), sort_keys=True)

    @property
    def files(self) -> dict[str, str]:
        """Content address of each file that the numbers rest on, by name."""
        states = self.source.optimizer if self.probe.needs == "optimizer" else {}
        return {**self.source.files, **states}

    @cached_property
    def fingerprint(self) -> str:
        facts = [
            sorted(self.files.items()),
            self.phase.overrides_json,
            self.probe.id,
            self.probe.version,
            self.probe.data_digest(),
            self.settings_json,
            self.dtype,
            self.device.partition(":")[0],
        ]
        inputs = self.probe.inputs_digest(self.settings)
        if inputs:
            facts.append(inputs)
        return sha256(json.dumps(facts, sort_keys=True))


@dataclass(frozen=True)
class Plan:
    """What a `workbench probe` call comes to."""

    jobs: tuple[Job, ...]
    """To be run, a phase at a time."""
    done: tuple[Job, ...]
    """Succeeded before; skipped."""
    absent: tuple[Phase, ...]
    """Phases of which no checkpoint was published."""
    missing: tuple[Phase, ...]
    """Phases whose checkpoint is published, and is not there to be measured."""
    stateless: tuple[Phase, ...] = ()
    """Phases of which a probe needs an optimizer state, and none was published."""
    unpulled: tuple[Phase, ...] = ()
    """Phases whose optimizer state is published, and is not there to be measured."""
    not_run: tuple[tuple[str, str], ...] = ()
    """Parts of probes that are not run on any phase, as (probe and part, reason)."""


def plan_jobs(
    suite: Suite,
    phases: Sequence[Phase],
    probes: Sequence[type[Probe]],
    store: Store,
    sources: Mapping[int, Source],
    *,
    settings: dict[str, dict[str, Any]],
    device: str,
    dtype: str,
    force: bool = False,
) -> Plan:
    """Look up which jobs are missing.

    ``sources`` holds the checkpoints that can be measured, by phase number; ``settings`` the fields
    that differ, by probe id.
    """
    succeeded = store.complete_jobs(suite.name)
    chosen = {p: p.parts(p.Settings.model_validate(settings.get(p.id, {}))) for p in probes}
    not_run = [
        (f"{probe.id} {part.name}", part.reason)
        for probe, parts in chosen.items()
        for part in parts
        if part.settings is None
    ]
    jobs: list[Job] = []
    done: list[Job] = []
    absent: list[Phase] = []
    missing: list[Phase] = []
    stateless: list[Phase] = []
    unpulled: list[Phase] = []
    for phase in phases:
        source = sources.get(phase.phase)
        if source is None:
            (missing if phase.is_published else absent).append(phase)
            continue
        for probe, parts in chosen.items():
            if probe.needs == "optimizer" and not source.optimizer:
                without = unpulled if phase.has_optimizer else stateless
                if phase not in without:
                    without.append(phase)
                continue
            for part in parts:
                if part.settings is None:
                    continue
                job = Job(suite.name, phase, source, probe, part.settings, device, dtype, part.name)
                known = (phase.phase, part.name, job.fingerprint) in succeeded
                (done if known and not force else jobs).append(job)
    return Plan(
        tuple(jobs),
        tuple(done),
        tuple(absent),
        tuple(missing),
        tuple(stateless),
        tuple(unpulled),
        tuple(not_run),
    )


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
