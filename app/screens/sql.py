"""SQL: a sandboxed, read-only console on the public views."""

import time

import streamlit as st

from analysis_db import queries
from analysis_db.errors import QueryError
from analysis_db.sandbox import run_sql
from app.components import heading, pick, table
from app.data import load, store
from app.frames import rows_of


def use_example() -> None:
    """Put the chosen example into the editor."""
    st.session_state["q"] = queries.EXAMPLES[st.session_state["example"]]


def page() -> None:
    heading(
        "SQL",
        "Ask the store anything: DuckDB's SQL, read-only, no access to other files. The address of "
        "this page holds the query, so a link shares it.",
    )
    titles = list(queries.EXAMPLES)
    left, middle, right = st.columns([4, 1, 1], vertical_alignment="bottom")
    left.selectbox("Examples", titles, key="example", on_change=use_example)
    with middle:
        rows = pick("Row limit", [100, 1_000, 10_000, 100_000], "rows", default=1_000,
                    names=lambda n: f"{n:,}")  # fmt: skip
    with right:
        seconds = pick("Time limit", [2, 10, 30], "seconds", default=10, names=lambda s: f"{s} s")
    sql = st.text_area(
        "Query",
        queries.EXAMPLES[titles[0]],
        height=190,
        key="q",
        bind="query-params",
        help="Ctrl+Enter runs the query.",
    )
    st.button("Run", type="primary")
    started = time.perf_counter()
    try:
        answer = run_sql(store(), sql or "", max_rows=rows, timeout_s=seconds)
    except QueryError as error:
        st.error(str(error))
    else:
        took = time.perf_counter() - started
        cut = " (the row limit; there are more)" if answer.truncated else ""
        st.caption(f"{answer.table.num_rows:,} rows{cut} in {took:.2f} s")
        table(answer.table.to_pandas(), "query-result")
    reference()


def reference() -> None:
    """Every public view with its columns, as the store itself describes them."""
    with st.expander("The views and their columns", expanded=True):
        for (view, about), columns in load("view_columns").groupby(["view", "about"]):
            listed = ", ".join(f"`{c.column}`" for c in rows_of(columns))
            st.markdown(f"**{view}**: {about}  \n:small[{listed}]")


page()
