"""Spikes of a training run: found, explained by what moved first, kept in the store, read again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

import pandas as pd
import pyarrow as pa

from analysis_db.detectors import DETECTORS, Detector
from analysis_db.errors import StoreError
from analysis_db.series import SeriesKey, list_series, read_series, resolve
from analysis_db.spike_events import NONFINITE, Event, Score, find_events
from analysis_db.spike_leads import Lead, LeadSearch, lead_summary
from analysis_db.store import Store, insert

LOSS_LIKE = ("loss", "grad_norm")
"""Metrics that are searched unless the caller names others."""

INCIDENT_COLUMNS = (
    "series", "kind", "start_step", "end_step", "peak_step", "peak_value", "score", "recovered_at",
    "severity", "severity_score", "found_by", "agreement", "judges", "led_by", "attempt",
    "superseded_from", "note",
)  # fmt: skip

_ROWS = pa.list_(pa.struct([("from_step", pa.int64()), ("to_step", pa.int64())]))
_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(), int: pa.int64(), float: pa.float64(), list[dict[str, int]]: _ROWS,
    str | None: pa.string(), int | None: pa.int64(), float | None: pa.float64(),
}  # fmt: skip
_TABLES = ("spike", "spike_lead", "spike_score")


@dataclass(frozen=True)
class Findings:
    """What was found in the series of one run."""

    run: str
    events: list[Event]
    leads: list[Lead]
    scores: list[Score]
    """One for every series and detector that was asked for, events or none."""

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Events, leads and scores as the views spikes, spike_leads and spike_scores show them."""
        events, leads, scores = (table.to_pandas() for table in self.tables())
        return events, leads, scores

    def tables(self) -> tuple[pa.Table, pa.Table, pa.Table]:
        """The same as Arrow tables, which keep whole numbers whole beside NULL."""
        return _table(Event, self.events), _table(Lead, self.leads), _table(Score, self.scores)

    def as_dict(self, top: int | None = None) -> dict[str, Any]:
        """Everything, in types that JSON has; events and incidents most severe first.

        ``top``: only so many of both.
        """
        events, leads, _ = self.frames()
        summary = lead_summary(leads).astype(object)
        joined = most_severe(incidents(events, leads), top).astype(object)
        by_severity = sorted(
            self.tables()[0].to_pylist(), key=lambda event: -(event["severity_score"] or -1.0)
        )
        return {
            "run": self.run,
            "incidents": joined.where(joined.notna(), None).to_dict("records"),
            "events": by_severity[:top],
            "leads": self.tables()[1].to_pylist(),
            "lead_summary": summary.where(summary.notna(), None).to_dict("records"),
            "scores": self.tables()[2].to_pylist(),
        }

    def scores_by_series(self) -> dict[str, list[Score]]:
        found: dict[str, list[Score]] = {}
        for score in self.scores:
            found.setdefault(score.series, []).append(score)
        return found

    def remarks(self) -> list[str]:
        """What keeps the search from saying more, a sentence each."""
        found = []
        for name in dict.fromkeys(score.detector for score in self.scores):
            blind = [s for s in self.scores if s.detector == name and not s.eligible]
            if blind:
                more = f" and {len(blind) - 1} more" if len(blind) > 1 else ""
                found.append(
                    f"{name} could judge nothing of {blind[0].series}{more}: it needs more than "
                    f"{blind[0].window_values:,} values without a gap; --window {name}=N makes it "
                    "compare with N."
                )
        if self.leads:
            blocks = min(lead.quiet_look_backs for lead in self.leads)
            least = 1 / (blocks + 1)
            if least > 0.05:
                found.append(
                    f"In a series there are as few quiet look-backs of {self.leads[0].look_back} "
                    f"steps as {blocks:.0f}: a lead there cannot have p below {least:.2f}."
                )
        return found


def find_spikes(
    store: Store,
    target: str,
    *,
    detector: str | None = None,
    metrics: Sequence[str] = (),
    every: bool = False,
    join_steps: int | None = None,
    look_back: int | None = None,
    detectors: Mapping[str, Detector] = DETECTORS,
) -> Findings:
    """Search a run, or one series ``RUN/METRIC[/MODULE][/LAYER]``, and what led each event.

    Of a run, the series of ``metrics`` are searched (default loss and grad_norm), or ``every`` one;
    leads are looked for in all its other series. ``detector`` None means all three; ``detectors``
    replaces their default settings (``detectors.configured``). Nothing is stored: ``write_spikes``
    does that. Raises StoreError when the store has no such run, series or metric.
    """
    run, one = resolve(store, target)
    known = list_series(store, run)
    targets = [one] if one else _chosen(run, known, metrics, every)
    wanted = list(detectors) if detector is None else [detector]
    events: list[Event] = []
    scores: list[Score] = []
    searches: list[LeadSearch] = []
    for key in targets:
        series = read_series(store, key)
        found, scored = find_events(series, tuple(detectors.values()), join_steps)
        searches.append(LeadSearch(series, found, look_back))
        events += [event for event in found if event.detector in (*wanted, NONFINITE)]
        scores += [score for score in scored if score.detector in wanted]
    for key in known:  # one series at a time: all of a run need not fit the memory
        asking = [search for search in searches if search.wants(key)]
        if asking:
            other = read_series(store, key)
            for search in asking:
                search.test(other)
    leads = [lead for search in searches for lead in search.leads()]
    return Findings(
        run, events, [lead for lead in leads if lead.detector in (*wanted, NONFINITE)], scores
    )


def _chosen(
    run: str, known: Sequence[SeriesKey], metrics: Sequence[str], every: bool
) -> list[SeriesKey]:
    names = sorted({key.metric for key in known})
    missing = [name for name in metrics if name not in names]
    if missing:
        raise StoreError(
            f"The run {run} has no metric {missing[0]}: it has {', '.join(names) or 'none'}."
        )
    chosen = [key for key in known if every or key.metric in (metrics or LOSS_LIKE)]
    if not chosen:
        raise StoreError(
            f"The run {run} has neither loss nor grad_norm: choose of its metrics "
            f"({', '.join(names) or 'none'}) with --metric, or take --all."
        )
    return chosen


def write_spikes(store: Store, findings: Findings) -> list[str]:
    """Replace what the store holds of the same series and detectors, in one transaction.

    Returns remarks: what was found with other settings and is gone.
    """
    keys = {(s.series, name) for s in findings.scores for name in (s.detector, NONFINITE)}
    searched = pa.table(
        {
            "run": [findings.run] * len(keys),
            "series": [series for series, _ in keys],
            "detector": [detector for _, detector in keys],
        },
        schema=pa.schema([(name, pa.string()) for name in ("run", "series", "detector")]),
    )
    with store.write() as connection:
        connection.register("searched", searched)
        former = connection.execute(
            "SELECT DISTINCT series, detector, window_values, threshold FROM data.spike_score "
            "WHERE (run, series, detector) IN (FROM searched) ORDER BY ALL"
        ).fetchall()
        for name, table in zip(_TABLES, findings.tables(), strict=True):
            connection.execute(
                f"DELETE FROM data.{name} WHERE (run, series, detector) IN (FROM searched)"
            )
            insert(connection, name, table)
        connection.unregister("searched")
    now = {(s.series, s.detector): (s.window_values, s.threshold) for s in findings.scores}
    others = dict.fromkeys(
        f"{detector} (window {window:,}, threshold {threshold:g})"
        for series, detector, window, threshold in former
        if (window, threshold) != now[series, detector]
    )
    if not others:
        return []
    return [f"Replaced what was found with other settings: {', '.join(others)}."]


def incidents(events: pd.DataFrame, leads: pd.DataFrame, level: float = 0.05) -> pd.DataFrame:
    """One row per incident: events of one series, attempt and kind that overlap before recovery.

    Takes the frames of ``spike_events`` and ``spike_leads``, or of ``Findings.frames``. Peak, score
    and recovery are those of the first detector, severity and its score are the highest.
    ``found_by`` names the detectors asked for, ``agreement`` says how many of the three agree,
    ``judges`` how many could judge the start. ``led_by`` names
    the series that led it with a p-value of at most ``level`` and over the events of the run with a
    q-value (``lead_summary``) of at most ``level``, best first, and their lead in steps.
    """
    rows: list[dict[str, Any]] = []
    summary = lead_summary(leads)
    leaders = summary.loc[summary["q_value"] <= level, ["series", "detector", "leader", "q_value"]]
    leads = leads.drop(columns="q_value")
    for _, same in events.groupby(["series", "attempt", "superseded_from", "kind"], dropna=False):
        same = same.sort_values(["start_step", "detector"])
        reach = same["recovered_at"].fillna(same["end_step"]).cummax().shift(fill_value=-1)
        for _, group in same.groupby((same["start_step"] > reach).cumsum()):
            rows.append(_incident(group, leads, leaders, level))
    frame = pd.DataFrame(rows, columns=list(INCIDENT_COLUMNS))
    return frame.sort_values(["series", "start_step"], ignore_index=True)


def most_severe(rows: pd.DataFrame, top: int | None = None) -> pd.DataFrame:
    """Events or incidents by severity, the highest first, falls last; only ``top`` of them."""
    ranked = rows.sort_values("severity_score", ascending=False, kind="stable", ignore_index=True)
    return ranked if top is None else ranked.head(top)


def _incident(
    group: pd.DataFrame, leads: pd.DataFrame, leaders: pd.DataFrame, level: float
) -> dict[str, Any]:
    first = group.iloc[0]
    led = leads[
        (leads["series"] == first["series"])
        & leads["start_step"].isin(group["start_step"])
        & (leads["attempt"] == first["attempt"])
        & leads["lead_steps"].notna()
        & (leads["p_value"] <= level)
    ].merge(leaders, on=["series", "detector", "leader"])
    led = led.sort_values(["q_value", "p_value", "lead_steps"], ascending=[True, True, False])
    led = led.drop_duplicates("leader")
    severities = [s for s in ("severe", "major", "minor") if s in set(group["severity"])]
    notes = dict.fromkeys(group["note"].dropna())
    return {
        **{name: first[name] for name in INCIDENT_COLUMNS if name in group},
        "end_step": group["end_step"].max(),
        "agreement": group["agreement"].max(),
        "severity": severities[0] if severities else None,
        "severity_score": group["severity_score"].max(),
        "found_by": ", ".join(sorted(set(group["detector"]))),
        "led_by": [
            {"leader": row.leader, "lead_steps": int(row.lead_steps), "q_value": row.q_value}
            for row in led.itertuples()
        ],
        "note": "; ".join(notes) or None,
    }


def spike_events(store: Store, run: str, series: str | None = None) -> pd.DataFrame:
    """Stored events of a run, or of one of its series, in order of their start."""
    return _read(store, "spikes", run, series, "series, start_step, attempt, detector")


def spike_leads(store: Store, run: str, series: str | None = None) -> pd.DataFrame:
    """Every series tested on each stored event, leads first; ``lead_steps`` NULL: did not lead."""
    order = "series, detector, start_step, attempt, lead_steps IS NULL, p_value, lead_steps DESC"
    return _read(store, "spike_leads", run, series, order)


def spike_scores(store: Store, run: str, series: str | None = None) -> pd.DataFrame:
    """Stored spike scores of a run, or of one of its series, and its restarts and gaps."""
    return _read(store, "spike_scores", run, series, "series, detector")


def _read(store: Store, view: str, run: str, series: str | None, order: str) -> pd.DataFrame:
    return store.frame(
        f"SELECT * FROM {view} WHERE run = $run AND coalesce(series = $series, true) "
        f"ORDER BY {order}",
        {"run": run, "series": series},
    )


def _table(kind: type, rows: Sequence[Any]) -> pa.Table:
    """Rows with the fields of their class as columns, in that order, typed even when empty."""
    shown = [field for field in fields(kind) if field.name != "history"]
    hints = get_type_hints(kind)
    schema = pa.schema([(field.name, _TYPES[hints[field.name]]) for field in shown])
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
