"""`workbench probe`, `status` and `failures`: measure, and what has been measured."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli import app
from workbench.cli.output import Json, console, note, print_rows, progress_bar
from workbench.cli.pull import MaxDisk, size_of
from workbench.cli.suites import Phases, SuiteName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.jobs.local import Outcome
    from workbench.suites import Phase


def _say_unusable() -> None:
    """A sentence for each probe of another package that does not work; the others do."""
    from probes.base import unusable_probes

    for reason in unusable_probes().values():
        note.print(reason, style="yellow")


@app.command(epilog="Example: workbench probe demo --phases 5,10-15 --probes weights,loss")
def probe(
    suite: SuiteName = "demo",
    phases: Phases = "all",
    probes: Annotated[
        str, typer.Option("--probes", help="Probe ids, comma-separated, or 'all'.")
    ] = "all",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A probe's setting, as probe.field=value; may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="What the model computes in: float32 or bfloat16.")
    ] = "float32",
    force: Annotated[
        bool, typer.Option("--force", help="Measure again what has been measured.")
    ] = False,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Fetch phase after phase; remove each when measured."),
    ] = False,
    max_disk: MaxDisk = None,
    remote: Annotated[
        bool,
        typer.Option("--remote", help="Read tensors from the Hub in ranges, nothing on disk."),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact/--no-exact",
            help="Compare neighbouring phases on disk themselves, not by their sketches alone.",
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Measure checkpoints; what has been measured already is skipped.

    They are those on disk, or with --stream or --remote those of the Hub, of which a stream has
    no more than --max-disk on disk at a time and never removes what was there before.
    """
    if stream:
        # Before torch is loaded: threads that wait by spinning take the processor from the one
        # that fetches, and the whole then lasts three times as long.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from workbench import jobs
    from workbench.hub.failures import by_reason
    from workbench.settings import Home

    request = jobs.ProbeRequest(
        suite, phases, probes, tuple(settings or ()), device, dtype,
        force=force, remote=remote, stream=stream, max_disk=size_of(max_disk), exact=exact,
    )  # fmt: skip
    with progress_bar() as bar:
        task = bar.add_task("Probing", total=None, visible=False)
        doing, fetching = "", ""

        def say(now: str | None = None, coming: str | None = None) -> None:
            nonlocal doing, fetching
            doing = doing if now is None else now
            fetching = fetching if coming is None else coming
            bar.update(task, description=doing + fetching)

        def fetched(phase: "Phase", done: int, total: int) -> None:
            share = f"; fetching {phase.label}: {100 * done / max(total, 1):.0f} %"
            say(coming=share if done < total else "")

        result = jobs.probe_suite(
            request,
            Home.from_env(),
            on_plan=lambda total: bar.update(task, total=total, visible=total > 0),
            on_start=lambda job: say(job.name),
            on_end=lambda outcome: bar.advance(task),
            on_bytes=fetched,
            on_compare=lambda a, b: say(f"Comparing phases {a} and {b}"),
        )
    _say_unusable()
    failed = result.failed
    print_rows(result.rows(), as_json=as_json, empty=result.nothing_done())
    if not as_json:
        console.print(result.summary(), highlight=False)
    for sentence in _failures(suite, failed):
        note.print(sentence, style="red")
    if failed:
        note.print(f"Retry with: {result.retry_command()}")
    for sentence in result.repaired:
        note.print(sentence, style="yellow")
    refused = [(phase.phase, phase.label, reason) for phase, reason in result.refused]
    for sentence in by_reason(suite, refused):
        note.print(sentence, style="red")
    for alarm in (*result.warnings(), *result.alarms):
        note.print(f"Warning: {alarm}", style="bold red")
    if failed or result.plan.missing or result.plan.unpulled:
        raise typer.Exit(1)


def _failures(suite: str, failed: "Sequence[Outcome]") -> list[str]:
    """A sentence for all jobs that failed for the same reason."""
    from workbench.text import spans

    grouped: dict[str, list[Outcome]] = {}
    for outcome in failed:
        label, error = outcome.job.phase.label, outcome.error or ""
        reason = error.removeprefix(f"{label[:1].upper()}{label[1:]} of suite {suite}: ")
        grouped.setdefault(reason, []).append(outcome)
    sentences = []
    for reason, outcomes in grouped.items():
        jobs = [outcome.job for outcome in outcomes]
        name = jobs[0].name
        if len(jobs) > 1:
            probes = ", ".join(dict.fromkeys(f"{job.probe.id} {job.part}".rstrip() for job in jobs))
            numbers = {job.phase.phase for job in jobs}
            label = f"phases {spans(numbers)}" if len(numbers) > 1 else jobs[0].phase.label
            name = f"{label}, {probes}"
        sentences.append(f"{name}: {reason if len(jobs) > 1 else outcomes[0].error}")
    return sentences


_MARKS = {
    "measured": "✓",
    "measured, newer attempt failed": "✓✗",
    "measured, failed in part": "✓!",
    "failed": "✗",
    "missing": "·",
    "absent": "–",
}
"""Eight probes and more have to fit in a terminal."""
_FAILED = {"failed", *(word for word in _MARKS if word.startswith("measured, "))}


@app.command(epilog="Example: workbench status demo")
def status(suite: SuiteName = "demo", as_json: Json = False) -> None:
    """Show the matrix of phases and probes: measured, failed, missing or absent.

    Where values are shown and a newer attempt or a part of the probe failed, the status says so.
    """
    from workbench.downloads import unusable_phases
    from workbench.jobs import absences, coverage
    from workbench.settings import Home

    home = Home.from_env()
    rows = coverage(suite, home)
    for sentence in unusable_phases(suite, home):
        note.print(sentence, style="red")
    if as_json:
        print_rows(rows, as_json=True)
    else:
        marked = [
            {key: _MARKS.get(value, value) for key, value in row.items() if key != "stage"}
            for row in rows
        ]
        print_rows(marked, as_json=False, title=f"Suite {suite}")
        statuses = {value for row in rows for value in row.values()}
        marks = [f"{mark} {word}" for word, mark in _MARKS.items() if word in statuses]
        note.print("  ".join(marks))
        if statuses & _FAILED:
            note.print(f"The errors: `workbench failures {suite}`.")
        for sentence in absences(suite, home):
            note.print(sentence)
    _say_unusable()


@app.command(epilog="Example: workbench failures demo")
def failures(suite: SuiteName = "demo", as_json: Json = False) -> None:
    """Show the tracebacks of jobs that failed and have not succeeded since."""
    from workbench.jobs import failed_runs
    from workbench.settings import Home

    rows = failed_runs(suite, Home.from_env())
    if as_json:
        print_rows(rows, as_json=True)
        return
    for row in rows:
        what = f"{row['probe']} {row['part']}".rstrip()
        console.rule(f"phase {row['phase']}, {what}, {row['started_at']}")
        if row["measured"]:
            console.print("The values of an older run are shown.")
        console.print(row["error"], highlight=False)
    console.print(f"{len(rows)} failed." if rows else "No job has failed.")


@app.command(epilog="Example: workbench metrics stable_rank")
def metrics(
    name: Annotated[
        str | None, typer.Argument(help="A metric or a probe; without it, all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what the metrics are: formula, unit, source and the probe that yields each."""
    from workbench.jobs import find_metrics

    rows = [
        {"metric": m.id, "probe": probe, "formula": m.formula, "unit": m.unit, "source": m.source}
        for probe, m in find_metrics(name)
    ]
    print_rows(rows, as_json=as_json)
    _say_unusable()
