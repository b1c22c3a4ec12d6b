"""Measuring a suite: the request of a `workbench probe` call, and what came of it."""

import shlex
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from analysis_db import queries
from analysis_db.store import Store
from probes.base import Metric, Probe, installed_probe_ids, installed_probes, unusable_probes
from probes.benchmark_groups import published_tasks
from probes.changes import ChangesProbe
from workbench.catalogue import record_suite
from workbench.errors import UsageError
from workbench.hub.endpoint import hub_of
from workbench.hub.hashes import Damage, FileHashes
from workbench.hub.ledger import ledger_of
from workbench.jobs.local import Outcome, run_jobs
from workbench.jobs.pairs import Neighbours, compare_phases
from workbench.jobs.plan import Job, Plan, plan_jobs
from workbench.jobs.supply import RemoteSupply, StreamSupply, Supply
from workbench.settings import Home
from workbench.suites import Phase, Suite, load_suite

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class ProbeRequest:
    """What the user asked for, as typed."""

    suite: str
    phases: str = "all"
    probes: str = "all"
    settings: tuple[str, ...] = ()
    """Entries such as ``loss.window=256``."""
    device: str = "auto"
    dtype: str = "float32"
    force: bool = False
    remote: bool = False
    """Read tensors from the Hub in ranges, with nothing on disk."""
    stream: bool = False
    """Fetch phase after phase and remove each when its jobs have succeeded."""
    max_disk: int | None = None
    """Bytes that a stream may have on disk at a time."""
    exact: bool = True
    """Compare neighbouring phases themselves where both are on disk, not their sketches alone."""


@dataclass(frozen=True)
class ProbeResult:
    request: ProbeRequest
    plan: Plan
    outcomes: list[Outcome]
    refused: list[tuple[Phase, str]]
    """Phases that the Hub did not list, or whose optimizer state has no room, with the reason in
    one sentence."""
    repaired: list[str] = field(default_factory=list)
    """A sentence for every damaged file that a stream fetched again."""
    alarms: list[str] = field(default_factory=list)
    """A sentence for every two phases of the suite whose weights are all equal."""

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.error]

    def rows(self) -> list[dict[str, Any]]:
        """One row per job that was run."""
        return [
            {
                "phase": outcome.job.phase.phase,
                "probe": outcome.job.probe.id,
                "part": outcome.job.part,
                "status": "failed" if outcome.error else "measured",
                "values": outcome.rows,
                "seconds": round(outcome.seconds, 2),
            }
            for outcome in self.outcomes
        ]

    def warnings(self) -> list[str]:
        """What probes say of their own values, and what is contradictory in checkpoints.

        One sentence for all phases that it is true of.
        """
        found: dict[tuple[str, str], list[Phase]] = {}
        contradictions: dict[str, list[Phase]] = {}
        for outcome in self.outcomes:
            if outcome.warning is not None:
                what = f"{outcome.job.probe.id} {outcome.job.part}".rstrip()
                found.setdefault((what, outcome.warning), []).append(outcome.job.phase)
            if outcome.checkpoint_warning is not None:
                phases = contradictions.setdefault(outcome.checkpoint_warning, [])
                if outcome.job.phase not in phases:
                    phases.append(outcome.job.phase)
        return [f"phase {_spans(phases)}: {said}." for said, phases in contradictions.items()] + [
            f"{what}, phase {_spans(phases)}: {said}." for (what, said), phases in found.items()
        ]

    def nothing_done(self) -> str:
        """Why there is no row, for a call that ran no job."""
        open_phases = self.refused or self.plan.missing or self.plan.unpulled
        if open_phases or not self.plan.done:
            return "Nothing could be measured."
        return "Nothing was left to measure."

    def summary(self) -> str:
        """What was done, skipped and not possible, in one or two sentences."""
        plan = self.plan
        parts = [f"{len(self.outcomes) - len(self.failed)} measured"]
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        parts.append(f"{len(plan.done)} measured before")
        if plan.absent:
            names = ", ".join(str(phase.phase) for phase in plan.absent)
            parts.append(f"no published checkpoint for phase {names}")
        if plan.stateless:
            parts.append(f"no optimizer state was published for phase {_spans(plan.stateless)}")
        text = "; ".join(parts) + "."
        told = [phase for phase, _ in self.refused]
        if unpulled := [phase for phase in plan.missing if phase not in told]:
            names = ",".join(str(phase.phase) for phase in unpulled)
            text += f" Not on disk: `workbench pull {self.request.suite} --phases {names}`."
        without = [phase for phase in plan.unpulled if phase not in told]
        if without and self.request.stream:
            text += (
                f" The Hub has no optimizer state of phase {_spans(without)}, which the "
                f"catalogue says it has: `workbench audit {self.request.suite}`."
            )
        elif without:
            text += (
                f" Not on disk: `workbench pull {self.request.suite} --phases "
                f"{_spans(without)} --with-optimizer`."
            )
        for name, reason in plan.not_run:
            text += f"\nNot run: {name}: {reason}."
        return text

    def retry_command(self) -> str:
        """The command that runs the failed jobs again."""
        phases = sorted({outcome.job.phase.phase for outcome in self.failed})
        probes = sorted({outcome.job.probe.id for outcome in self.failed})
        asked = self.request
        words = ["workbench", "probe", asked.suite]
        words += ["--phases", ",".join(map(str, phases)), "--probes", ",".join(probes)]
        for entry in asked.settings:
            if entry.partition(".")[0] in probes:  # a setting of a probe not named is refused
                words += ["--set", entry]
        for option, default in (("device", "auto"), ("dtype", "float32")):
            if getattr(asked, option) != default:
                words += [f"--{option}", getattr(asked, option)]
        words += [f"--{flag}" for flag in ("force", "remote", "stream") if getattr(asked, flag)]
        words += [] if asked.exact else ["--no-exact"]
        if asked.max_disk is not None:
            words += ["--max-disk", str(asked.max_disk)]
        return shlex.join(words)


def probe_suite(
    request: ProbeRequest,
    home: Home,
    *,
    on_plan: Callable[[int], None] = lambda total: None,
    on_start: Callable[[Job], None] = lambda job: None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
    on_bytes: Callable[[Phase, int, int], None] = lambda phase, done, total: None,
    on_compare: Callable[[int, int], None] = lambda a, b: None,
) -> ProbeResult:
    """Measure what the request names and has not been measured; stored run by run.

    Then the suite's phases are compared with each other, as far as that has not been done.
    ``on_bytes`` is told (phase, bytes done, bytes in all) while a stream fetches, ``on_compare``
    which two phases are compared exactly. Raises UsageError for an unknown suite, phase, probe,
    setting, device or dtype, and for ways that exclude each other.
    """
    suite = load_suite(request.suite, home)
    phases = suite.select(request.phases)
    probes = select_probes(request.probes)
    settings = _parse_settings(request.settings, probes, suite)
    device = resolve_device(request.device)
    if request.dtype not in DTYPES:
        raise UsageError(f"--dtype {request.dtype} is unknown: choose {' or '.join(DTYPES)}.")
    store = Store(home.store)
    _check_ways(request, probes, phases)
    record_suite(suite, store)
    register(store, list(installed_probes().values()))
    hashes = FileHashes(home.hashes)
    neighbours = None
    if request.exact and any(probe.id == ChangesProbe.id for probe in probes):
        neighbours = Neighbours(suite, store, on_compare)
    with ExitStack() as stack:
        supply = _supply(request, suite, phases, probes, home, hashes, stack, on_bytes, neighbours)
        plan = plan_jobs(
            suite, phases, probes, store, supply.sources,
            settings=settings, device=device, dtype=request.dtype, force=request.force,
        )  # fmt: skip
        on_plan(len(plan.jobs))
        of_state = [job for job in plan.jobs if job.probe.needs == "optimizer"]
        stack.enter_context(
            supply.begin(
                {job.phase.phase for job in plan.jobs}, {job.phase.phase for job in of_state}
            )
        )
        outcomes = run_jobs(plan.jobs, store, supply, on_start, on_end)
    if neighbours is not None:
        neighbours.write()
    exact = request.exact and not request.remote
    alarms = compare_phases(suite, store, hashes, exact=exact, on_compare=on_compare)
    return ProbeResult(request, plan, outcomes, supply.refused, supply.repaired, alarms)


def _check_ways(
    request: ProbeRequest, probes: Sequence[type[Probe]], phases: Sequence[Phase]
) -> None:
    if request.remote and request.stream:
        raise UsageError("--remote and --stream exclude each other: choose one.")
    if (request.remote or request.stream) and any(phase.folder for phase in phases):
        raise UsageError(
            f"The checkpoints of suite {request.suite} lie on this machine: leave --remote and "
            "--stream out."
        )
    if request.max_disk is not None and not request.stream:
        raise UsageError("--max-disk limits what --stream has on disk: give both.")
    local = [probe.id for probe in probes if probe.needs != "tensors"]
    if request.remote and local:
        raise UsageError(
            f"--remote reads tensors alone, and {', '.join(local)} needs the whole checkpoint: "
            "name other probes with --probes, or use --stream."
        )


def _supply(
    request: ProbeRequest,
    suite: Suite,
    phases: Sequence[Phase],
    probes: Sequence[type[Probe]],
    home: Home,
    hashes: FileHashes,
    stack: ExitStack,
    on_bytes: Callable[[Phase, int, int], None],
    neighbours: Neighbours | None,
) -> Supply:
    if request.remote:
        return RemoteSupply(suite, phases, stack.enter_context(hub_of(suite)))
    if request.stream:
        store = Store(home.store)

        def damaged(phase: Phase, name: str, damage: Damage) -> None:
            store.mark_damaged(phase.repo_id or "", name, damage.address, damage.since)

        return StreamSupply(
            suite,
            phases,
            stack.enter_context(hub_of(suite)),
            ledger_of(suite, home),
            hashes,
            request.max_disk,
            on_bytes,
            damaged,
            neighbours,
            with_optimizer=any(probe.needs == "optimizer" for probe in probes),
        )
    return Supply(suite, phases, hashes)


def select_probes(spec: str) -> list[type[Probe]]:
    """The probes of a list such as ``weights,loss``; the ids are checked before any is loaded."""
    known = installed_probe_ids()
    wanted = known if spec == "all" else [part.strip() for part in spec.split(",") if part.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise UsageError(
            f"There is no probe {', '.join(map(repr, unknown)) or 'named'}: "
            f"choose among {', '.join(known)}."
        )
    found = installed_probes()
    if spec == "all":
        return list(found.values())
    for name, reason in unusable_probes().items():
        if name in wanted and name not in found:
            raise UsageError(reason)
    return [found[name] for name in dict.fromkeys(wanted)]


def resolve_device(name: str) -> str:
    """auto becomes cuda when there is one; a device that is not there is a UsageError."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name} cannot be used here: {reason}") from None
    return name


def _parse_settings(
    entries: tuple[str, ...], probes: list[type[Probe]], suite: Suite
) -> dict[str, dict[str, Any]]:
    """The suite's settings of the probes, and what ``--set`` puts in their place."""
    settings: dict[str, dict[str, Any]] = {
        probe.id: dict(suite.settings.get(probe.id, {})) for probe in probes
    }
    unknown = sorted(suite.settings.keys() - set(installed_probe_ids()))
    if unknown:
        raise UsageError(
            f"[settings] of suite {suite.name}: there is no probe {unknown[0]!r}; choose among "
            f"{', '.join(installed_probe_ids())}, or install what brings it."
        )
    for probe_class in probes:
        _check_settings(probe_class, settings[probe_class.id], f"[settings] of suite {suite.name}:")
    for entry in entries:
        key, equals, value = entry.partition("=")
        probe, dot, field = key.partition(".")
        if not (equals and dot and probe in settings):
            raise UsageError(
                f"--set {entry} is not of the form probe.field=value for one of the chosen "
                f"probes ({', '.join(settings)})."
            )
        settings[probe][field] = value
    for probe_class in probes:
        _check_settings(probe_class, settings[probe_class.id], "--set")
    return settings


def _check_settings(probe: type[Probe], settings: dict[str, Any], where: str) -> None:
    try:
        probe.Settings.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{where} {probe.id}.{field}: {first['msg']}; its settings are "
            f"{', '.join(probe.Settings.model_fields) or 'none'}."
        ) from None


def register(store: Store, probes: Sequence[type[Probe]]) -> None:
    """Write the probes and the definitions of their metrics into the store."""
    store.register_probes(
        [{"probe": p.id, "version": p.version, "title": p.title, "needs": p.needs} for p in probes],
        [
            {
                "metric": m.id,
                "probe": p.id,
                "version": m.version,
                "formula": m.formula,
                "unit": m.unit,
                "source": m.source,
            }
            for p in probes
            for m in p.metrics
        ],
    )
    store.put_benchmark_tasks(published_tasks())


def coverage(name: str, home: Home) -> list[dict[str, Any]]:
    """The matrix of phases and probes, one row per phase."""
    suite = load_suite(name, home)
    found = queries.coverage(Store(home.store), suite.name)
    status = {(r["phase"], r["probe"]): _shown_status(r) for r in found.to_dict("records")}
    probes = installed_probe_ids()
    needs: dict[str, str] = {}
    if any((phase.phase, probe) not in status for phase in suite.phases for probe in probes):
        needs = {probe.id: probe.needs for probe in installed_probes().values()}
    return [
        {"phase": phase.phase, "stage": phase.stage}
        | {
            probe: status.get((phase.phase, probe)) or _unmeasured(phase, needs[probe])
            for probe in probes
        }
        for phase in suite.phases
    ]


def _shown_status(row: Mapping[Hashable, Any]) -> str:
    """The status of a phase and probe; of a measured one also what failed since or in part."""
    if row["status"] == "measured" and isinstance(row["reason"], str):
        return f"measured, {row['reason']}"
    return str(row["status"])


def _unmeasured(phase: Phase, need: str) -> str:
    """Missing or absent, for a suite or a probe that the store does not know yet."""
    there = phase.is_published and (need != "optimizer" or phase.has_optimizer)
    return "missing" if there else "absent"


def absences(name: str, home: Home) -> list[str]:
    """Why phases are absent, one sentence for each reason, as far as the store knows."""
    suite = load_suite(name, home)
    found = queries.coverage(Store(home.store), suite.name)
    said = []
    for reason, rows in found[found["status"] == "absent"].groupby("reason"):
        phases = [phase for phase in suite.phases if phase.phase in set(rows["phase"])]
        every = rows["probe"].nunique() == found["probe"].nunique()
        which = "Absent" if every else f"Absent for {', '.join(sorted(set(rows['probe'])))}"
        said.append(f"{which}: {reason} for phase {_spans(phases)}.")
    return said


def _spans(phases: Sequence[Phase]) -> str:
    """The numbers of phases as ``1-3,7``: the form that the command line takes."""
    spans: list[list[int]] = []
    for number in sorted(phase.phase for phase in phases):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def failed_runs(name: str, home: Home) -> list[dict[str, Any]]:
    """The newest failed run of every phase, probe and part that has not succeeded since."""
    suite = load_suite(name, home)
    failures = queries.failures(Store(home.store), suite.name).to_dict("records")
    return [{str(column): value for column, value in row.items()} for row in failures]


def find_metrics(name: str | None) -> list[tuple[str, Metric]]:
    """(probe, metric) of every registered metric, or of the metric or probe named.

    Raises UsageError when there is none of that name.
    """
    every = [
        (probe.id, metric) for probe in installed_probes().values() for metric in probe.metrics
    ]
    chosen = [entry for entry in every if name in (None, entry[0], entry[1].id)]
    if not chosen:
        near = get_close_matches(name or "", {metric.id for _, metric in every}, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`workbench metrics` lists them."
        raise UsageError(f"There is no metric or probe {name!r}: {hint}")
    return chosen
