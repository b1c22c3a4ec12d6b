"""SQL: a sandboxed, read-only console on the public views."""

import time

import streamlit as st

from analysis_db.errors import QueryError
from analysis_db.examples import EXAMPLES
from analysis_db.parameters import typed
from analysis_db.sandbox import run_sql
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


def use_chosen(mine: dict[str, str]) -> None:
    """Put the chosen example, or query of the user's, into the editor."""
    chosen = st.session_state["example"]
    example = BY_TITLE.get(chosen)
    st.session_state["q"] = example.sql if example else mine[chosen.removeprefix(MINE)]


def page() -> None:
    heading(
        "SQL",
        "Ask the store anything: DuckDB's SQL, read-only, no access to other files. The address of "
        "this page holds the query, so a link shares it.",
    )
    mine = saved.queries(FOLDER)
    left, middle, right = st.columns([4, 1, 1], vertical_alignment="bottom")
    chosen = left.selectbox(
        "Examples and saved queries",
        [*(MINE + name for name in mine), *BY_TITLE],
        format_func=plain,
        key="example",
        index=len(mine),
        on_change=use_chosen,
        args=(mine,),
    )
    with middle:
        rows = pick("Row limit", [100, 1_000, 10_000, 100_000], "rows", default=1_000,
                    names=lambda n: f"{n:,}")  # fmt: skip
    with right:
        seconds = pick("Time limit", [2, 10, 30], "seconds", default=10, names=lambda s: f"{s} s")
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
    started = time.perf_counter()
    try:
        answer = run_sql(
            store(), sql or "", values, max_rows=rows, timeout_s=seconds, max_bytes=ANSWER_BYTES
        )
    except QueryError as error:
        st.error("The query failed.")
        st.code(str(error), language=None, wrap_lines=False)
    else:
        took = time.perf_counter() - started
        cut = " (the row limit; there are more)" if answer.truncated else ""
        st.caption(md("{:,} rows{} in {:.2f} s", answer.table.num_rows, cut, took))
        table(answer.table.to_pandas(), "query-result")
    reference()


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
