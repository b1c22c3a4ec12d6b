"""Overview: what the suite is, what is measured of it, how the training went, what to do next."""

import pandas as pd
import streamlit as st

from app.components import chart, download_csv, explain_gaps, heading, phases, pick_axis, table
from app.data import load, suite, totals
from app.escape import md, shell
from app.figures.axis import phase_axis, token_unit
from app.figures.timeline import coverage_matrix, time_line
from app.figures.training import training_curves
from app.frames import rows_of

SEVERITIES = ("error", "warning", "note")
SENTENCES = 12
"""Different findings that the page shows; the CSV holds all."""


def facts(name: str, table_of_phases: pd.DataFrame, coverage: pd.DataFrame) -> None:
    """The numbers at the top."""
    published = int(table_of_phases["repo_id"].notna().sum())
    on_disk = int(table_of_phases["on_disk"].fillna(False).astype(bool).sum())
    possible = int((coverage["status"] != "absent").sum())
    measured = int((coverage["status"] == "measured").sum())
    tokens = table_of_phases["tokens_b"].max()
    numbers = totals(name)
    cells = st.columns(6)
    cells[0].metric("Phases", md("{}", len(table_of_phases)), border=True)
    cells[1].metric("Published", md("{} / {}", published, len(table_of_phases)), border=True)
    cells[2].metric("On disk", md("{} / {}", on_disk, published), border=True)
    cells[3].metric(
        "Measured",
        md("{} / {}", measured, possible),
        border=True,
        help="Pairs of a published checkpoint and a probe.",
    )
    factor, unit = token_unit(table_of_phases["tokens_b"])
    seen = "unknown" if pd.isna(tokens) else f"{tokens * factor:,.4g} {unit}"
    cells[5].metric("Training tokens", md("{}", seen), border=True)
    cells[4].metric(
        "Values stored",
        md("{:,}", numbers["values"]),
        border=True,
        help=md("From {:,} runs that took {:,.0f} s in all.", numbers["runs"], numbers["seconds"]),
    )


def audited(name: str, findings: pd.DataFrame) -> None:
    """What the newest audits found, worst first; or how to have the checkpoints audited."""
    audits = load("audits", name)
    if audits.empty:
        st.caption(
            md(
                "The published checkpoints were never audited (missing or truncated files, phases "
                "that serve the same weights, configs that are wrong): {:code} does it without "
                "downloading weights.",
                f"workbench audit {shell(name)}",
            )
        )
        return
    counts = findings["severity"].value_counts()
    told = [f"{counts[s]} {s}{'s' if counts[s] > 1 else ''}" for s in SEVERITIES if s in counts]
    st.markdown(
        md(
            "**Audit of phases {}** ({:%Y-%m-%d %H:%M} UTC): {}.",
            phases(audits["phase"].tolist()),
            audits["audited_at"].max(),
            ", ".join(told) or "nothing found",
        )
    )
    if findings.empty:
        return
    same = findings.groupby(["severity", "check_id", "message"], sort=False)["phase"]
    rows = same.agg(lambda of: phases(of.tolist())).reset_index()
    rows.columns = ["severity", "check", "finding", "phase"]
    shown = rows[["phase", "severity", "check", "finding"]].head(SENTENCES)
    st.table(shown.map(lambda cell: md("{}", cell)).set_index("phase"))
    if len(rows) > SENTENCES:
        st.caption(md("And {} more sentences, all in the CSV.", len(rows) - SENTENCES))
    with st.container(horizontal=True, horizontal_alignment="right"):
        download_csv(findings, f"{name}-findings")


def next_steps(name: str, table_of_phases: pd.DataFrame, coverage: pd.DataFrame) -> None:
    """What is missing or failed, each with the command that changes it."""
    st.subheader("What to do next", anchor=False)
    here = table_of_phases["on_disk"].fillna(False).astype(bool)
    away = table_of_phases.loc[table_of_phases["repo_id"].notna() & ~here, "phase"].tolist()
    if away:
        which = phases(away)
        st.markdown(md("**{} not on disk** ({}): fetch from the Hub.", _count(away), which))
        st.code(f"workbench pull {shell(name)} --phases {which}", language="bash")
    open_work = coverage[coverage["status"].isin(["missing", "failed"])]
    commands: dict[tuple[str, str], list[str]] = {}
    for (probe, status), rows in open_work.groupby(["probe", "status"]):
        which = phases(rows["phase"].tolist())
        commands.setdefault((str(status), which), []).append(str(probe))
    for (status, which), probes in commands.items():
        verb = "failed" if status == "failed" else "not measured yet"
        st.markdown(md("**{}: phase {} {}.**", ", ".join(probes), which, verb))
        chosen = shell(",".join(probes))
        st.code(
            f"workbench probe {shell(name)} --phases {which} --probes {chosen}", language="bash"
        )
    if coverage.empty:
        st.markdown("**No probe has been run yet.**")
        st.code(f"workbench probe {shell(name)}", language="bash")
    stale = coverage[(coverage["status"] == "measured") & coverage["reason"].notna()]
    for (probe, reason), rows in stale.groupby(["probe", "reason"]):
        which = phases(rows["phase"].tolist())
        st.markdown(md("**{}: phase {}: measured, {}.**", probe, which, reason))
    if not coverage.empty and not away and open_work.empty and stale.empty:
        st.success("Every published checkpoint has been measured by every probe: nothing is open.")
    failed = load("failures", name)
    if not failed.empty:
        with st.expander(md("{} failed: the errors", len(failed)), expanded=False):
            for row in rows_of(failed):
                st.markdown(
                    md("**Phase {}, {}** ({:%Y-%m-%d %H:%M})", row.phase, row.probe, row.started_at)
                )
                st.code(str(row.error), language="text")


def _count(found: list[int]) -> str:
    return f"{len(found)} checkpoint{'s' if len(found) > 1 else ''}"


def training(name: str, table_of_phases: pd.DataFrame) -> None:
    """The loss curve of the newest training run."""
    runs = load("training_runs", name)
    if runs.empty:
        st.caption("The store holds no training log of this suite, so there is no loss curve.")
        return
    run = runs.iloc[0]
    loss = load("training_series", name_of(run), "loss", None)
    if loss.empty:
        st.caption(md("The training log of {} has no loss.", name_of(run)))
        return
    fig = training_curves(
        {"loss [nats/token]": loss},
        table_of_phases,
        title="Training loss",
        subtitle=f"run {name_of(run)}, every step; dotted lines: ends of phases",
        panel_height=280,
    )
    chart(fig, loss, f"{name}-training-loss", "Training loss over steps with phase boundaries.")


def name_of(run: pd.Series) -> str:
    return str(run["run"])


def page() -> None:
    name = suite()
    about = load("suites").set_index("suite").loc[name]
    table_of_phases = load("phases", name)
    coverage = load("coverage", name)
    licence = f" Licence: {about['licence']}." if about["licence"] else ""
    heading(str(about["title"] or name), f"{about['about'] or ''}{licence}")
    facts(name, table_of_phases, coverage)
    kind = pick_axis(table_of_phases, "overview_x")
    findings = load("findings", name)
    signs = "; below: ✗ the audit found an error, ! a warning"
    marked = findings["severity"].isin(["error", "warning"]).any()
    fig = time_line(
        table_of_phases,
        kind,
        title="Time line of the training",
        subtitle="one block per phase; hatched: its checkpoint is not published"
        + (signs if marked else ""),
        findings=findings,
    )
    chart(fig, table_of_phases, f"{name}-phases", "Time line of the phases with their stages.")
    audited(name, findings)
    status = {
        int(p): "absent" for p in table_of_phases.loc[table_of_phases["repo_id"].isna(), "phase"]
    }
    if not coverage.empty:
        fig = coverage_matrix(
            coverage,
            phase_axis(table_of_phases, "phase", status),
            title="What is measured",
            subtitle="probes × phases",
        )
        chart(fig, coverage, f"{name}-coverage", "Matrix of probes and phases with their status.")
    explain_gaps(phase_axis(table_of_phases, kind, status))
    next_steps(name, table_of_phases, coverage)
    training(name, table_of_phases)
    with st.expander("All phases as a table"):
        table(table_of_phases.drop(columns=["suite"]), f"{name}-phase-table")


page()
