"""SQL: a sandboxed, read-only console on the public views."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from analysis_db.errors import QueryError
from analysis_db.examples import EXAMPLES
from analysis_db.parameters import typed
from analysis_db.sandbox import MEMORY_GB, run_sql
from app import saved
from app.components import heading, pick, table
from app.data import load, store, store_path
from app.escape import joined, md, plain
from app.frames import rows_of

ANSWER_BYTES = 64_000_000
"""What a browser is sent at most."""
MINE = "saved: "
BY_TITLE = {example.title: example for example in EXAMPLES}
FOLDER = store_path().parent / "queries"


@dataclass(frozen=True)
class Limit:
    """A limit of a query: a whole number in the page's address and in a field."""

    key: str
    label: str
    largest: int
    default: int


LIMITS = (
    Limit("rows", "Row limit", 100_000, 1_000),
    Limit("seconds", "Time limit (s)", 120, 10),
    Limit("memory", "Memory limit (GB)", 64, MEMORY_GB),
)


def use_chosen(mine: dict[str, str]) -> None:
    """Put the chosen example, or query of the user's, into the editor."""
    chosen = st.session_state["example"]
    example = BY_TITLE.get(chosen)
    st.session_state["q"] = example.sql if example else mine[chosen.removeprefix(MINE)]


def page() -> None:
    heading(
        "SQL",
        "Ask the store anything: DuckDB's SQL, read-only, no access to other files. The address of "
        "this page contains the query, its parameters and its limits, so a link shares them.",
    )
    mine = saved.queries(FOLDER)
    places = st.columns([4, 1, 1, 1], vertical_alignment="bottom")
    chosen = places[0].selectbox(
        "Examples and saved queries",
        [*(MINE + name for name in mine), *BY_TITLE],
        format_func=plain,
        key="example",
        index=len(mine),
        on_change=use_chosen,
        args=(mine,),
    )
    refusals = [said for limit in LIMITS if (said := refusal(limit))]
    rows, seconds, memory = (
        limited(limit, place) for limit, place in zip(LIMITS, places[1:], strict=True)
    )
    sql = st.text_area(
        "Query",
        EXAMPLES[0].sql,
        height=240,
        key="q",
        bind="query-params",
        help="Ctrl+Enter runs the query.",
    )
    example = BY_TITLE.get(chosen or "")
    if example and example.sql == sql:
        st.caption(md("{}", example.question))
    values = parameters() if "$" in (sql or "") else {}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.button("Run", type="primary")
        keep(sql or "", mine)
    if refusals:
        st.error("The query was not run.")
        st.code("\n".join(refusals), language=None, wrap_lines=True)
    else:
        show_answer(sql or "", values, rows, seconds, memory)
    reference()


def refusal(limit: Limit) -> str:
    """Why the limit in the page's address cannot be used; empty when it can, or there is none.

    Streamlit drops such a value without a message.
    """
    asked = st.query_params.get(limit.key)
    if asked is None:
        return ""
    if re.fullmatch("[0-9]{1,9}", asked) and 1 <= int(asked) <= limit.largest:
        return ""
    return (
        f"The address has {limit.key}={asked[:40]}, which is not a whole number from 1 to "
        f"{limit.largest:,}: {limit.default:,} is set instead; press Run to use it."
    )


def limited(limit: Limit, place: DeltaGenerator) -> int:
    """The field of a limit, which the page's address sets and holds."""
    return place.number_input(
        md("{}", limit.label), 1, limit.largest, limit.default, key=limit.key, bind="query-params"
    )


def show_answer(
    sql: str, values: Mapping[str, object], rows: int, seconds: int, memory: int
) -> None:
    """Run the query and show its rows, or why it failed."""
    started = time.perf_counter()
    try:
        answer = run_sql(
            store(),
            sql,
            values,
            max_rows=rows,
            timeout_s=seconds,
            memory_gb=memory,
            max_bytes=ANSWER_BYTES,
        )
    except QueryError as error:
        st.error("The query failed.")
        st.code(str(error), language=None, wrap_lines=False)
    else:
        took = time.perf_counter() - started
        cut = " (the row limit; there are more)" if answer.truncated else ""
        st.caption(md("{:,} rows{} in {:.2f} s", answer.table.num_rows, cut, took))
        table(answer.table.to_pandas(), "query-result")


def parameters() -> dict[str, object]:
    """The values of $names: one ``name=value`` a line."""
    lines = st.text_area(
        "Parameters",
        key="params",
        height=80,
        bind="query-params",
        placeholder="domain=code",
        help="One name=value a line, for each $name of the query. Numbers and [lists] are what "
        'they look like, all else is text; "7" in quotes is text.',
    )
    pairs = [line.partition("=") for line in (lines or "").splitlines() if line.strip()]
    return {name.strip(): typed(value.strip()) for name, _, value in pairs}


def keep(sql: str, mine: dict[str, str]) -> None:
    """Save the query under a name, or delete a saved one."""
    with st.popover("Save", help="Saved queries are files beside the store."):
        with st.form("save", border=False):
            name = st.text_input("Name", key="save_name").strip()
            if st.form_submit_button("Save this query"):
                try:
                    saved.save(FOLDER, name, sql)
                except (saved.NameRefused, OSError) as error:
                    st.error(md("{}", error))
                else:
                    st.rerun()
        if mine:
            gone = st.selectbox("Saved", list(mine), format_func=plain, key="delete_name")
            if st.button("Delete", key="delete") and gone:
                saved.delete(FOLDER, gone)
                st.rerun()


def reference() -> None:
    """Every public view with its columns, as the store itself describes them."""
    columns = load("view_columns")
    st.subheader("The views and their columns", anchor=False)
    views = dict(zip(columns["view"], columns["about"], strict=True))
    view = pick("View", list(views), "schema_view", default="phase_metrics")
    st.markdown(md("{}", views[view]))
    shown = columns.loc[columns["view"] == view, ["column", "type", "what"]]
    st.dataframe(shown, width="stretch", hide_index=True, key="schema-columns")
    with st.expander("All views"):
        for (name, about), found in columns.groupby(["view", "about"]):
            listed = joined((md("{:code}", c.column) for c in rows_of(found)), ", ")
            st.markdown(md("**{}**: {}  \n:small[{}]", name, about, listed))


page()
